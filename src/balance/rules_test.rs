//! Which rule decides, and when.

use super::*;
use crate::wire::first::look;

/// What `openssl s_client -servername api.example.com -alpn h2` says, as far as it matters: built.
fn hello(name: &str, protocols: &[&str], more: &[u8]) -> Vec<u8> {
    let with_length = |bytes: Vec<u8>| [&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat();
    let short = |bytes: &[u8]| [&[bytes.len() as u8][..], bytes].concat();
    let name = [vec![0], with_length(name.as_bytes().to_vec())].concat();
    let list: Vec<u8> = protocols
        .iter()
        .flat_map(|it| short(it.as_bytes()))
        .collect();
    let extensions = [
        &[0, 0][..],
        &with_length(with_length(name)),
        &[0, 16],
        &with_length(with_length(list)),
        more,
    ]
    .concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0, 0, 2, 0x13, 1, 1, 0],
        &with_length(extensions),
    ]
    .concat();
    let length = (body.len() as u32).to_be_bytes();
    let message = [&[1][..], &length[1..], &body].concat();
    [&[22, 3, 1][..], &with_length(message)].concat()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.into()).collect()
}

fn rules(rules: Vec<Rule>) -> Rules {
    Rules {
        rules: rules.into(),
        ech: Ech::Unknown,
    }
}

fn sample() -> Rules {
    rules(vec![
        Rule {
            source: vec!["203.0.113.0/24".parse().unwrap()],
            pool: Some(9),
            ..Rule::default()
        },
        Rule {
            sni: words(&["www.api.example.com"]),
            ..Rule::default()
        },
        Rule {
            sni: words(&["api.example.com", "*.api.example.com"]),
            pool: Some(1),
            ..Rule::default()
        },
        Rule {
            alpn: words(&["imap", "h2"]),
            source: vec!["2001:db8::/32".parse().unwrap()],
            pool: Some(2),
            ..Rule::default()
        },
        Rule {
            host: words(&["*.example.com"]),
            pool: Some(3),
            ..Rule::default()
        },
    ])
}

fn choose(rules: &Rules, client: &str, bytes: &[u8]) -> Chosen {
    rules.choose(client.parse().unwrap(), &look(bytes))
}

#[test]
fn the_first_rule_that_matches_decides() {
    let rules = sample();
    let at = |client: &str, bytes: &[u8]| choose(&rules, client, bytes);
    let to = |name: &str| at("192.0.2.1", &hello(name, &["h2"], &[]));
    assert_eq!(to("API.example.com"), Chosen::Pool(Some(1)));
    assert_eq!(to("a.b.api.example.com"), Chosen::Pool(Some(1)));
    assert_eq!(to("www.api.example.com"), Chosen::Pool(None));
    assert_eq!(to("www.example.com"), Chosen::Pool(None));
    let six = at(
        "2001:db8::7",
        &hello("www.example.com", &["http/1.1", "h2"], &[]),
    );
    assert_eq!(six, Chosen::Pool(Some(2)));
    let request = b"GET / HTTP/1.1\r\nHost: www.example.com:80\r\n\r\n";
    assert_eq!(at("192.0.2.1", request), Chosen::Pool(Some(3)));
    assert_eq!(at("2001:db8::7", request), Chosen::Pool(Some(3)));
    assert_eq!(at("192.0.2.1", b"SSH-2.0-x\r\n"), Chosen::Pool(None));
}

#[test]
fn a_connection_waits_only_for_what_decides() {
    let rules = sample();
    // Its source decides, whatever it may say.
    assert_eq!(choose(&rules, "203.0.113.9", b""), Chosen::Pool(Some(9)));
    let mapped = choose(&rules, "::ffff:203.0.113.9", b"");
    assert_eq!(mapped, Chosen::Pool(Some(9)));
    let bytes = hello("api.example.com", &["h2"], &[]);
    for end in 0..bytes.len() {
        let chosen = choose(&rules, "192.0.2.1", &bytes[..end]);
        assert_eq!(chosen, Chosen::Undecided, "{end}");
    }
    assert_eq!(choose(&rules, "192.0.2.1", &bytes), Chosen::Pool(Some(1)));
}

#[test]
fn a_hidden_name_is_unknown_or_the_outer_one() {
    let mut rules = sample();
    let bytes = hello("api.example.com", &["h2"], &[0xfe, 0x0d, 0, 1, 0]);
    assert_eq!(choose(&rules, "192.0.2.1", &bytes), Chosen::Pool(None));
    rules.ech = Ech::Outer;
    assert_eq!(choose(&rules, "192.0.2.1", &bytes), Chosen::Pool(Some(1)));
}
