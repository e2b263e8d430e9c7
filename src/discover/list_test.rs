//! Files of backends, good and bad.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use proptest::prelude::*;

use super::Entry;
use super::list::{Format, parse};

type Parsed = Result<BTreeMap<SocketAddr, Entry>, String>;

fn json(text: &str) -> Parsed {
    parse(text, Format::Json, 7, 3).map_err(|mistake| mistake.to_string())
}

fn toml(text: &str) -> Parsed {
    parse(text, Format::Toml, 7, 3).map_err(|mistake| mistake.to_string())
}

#[test]
fn both_forms_say_the_same() {
    let a = json(
        r#"{"backend": [{"address": "192.0.2.1:80"},
            {"name": "b2", "address": "[2001:db8::2]:80", "weight": 256}]}"#,
    );
    let b = toml(
        "[[backend]]\naddress = \"192.0.2.1:80\"\n\
         [[backend]]\nname = \"b2\"\naddress = \"[2001:db8::2]:80\"\nweight = 256\n",
    );
    let entry = |name: Option<&str>, weight| Entry {
        name: name.map(str::to_owned),
        weight,
    };
    let expected = BTreeMap::from([
        ("192.0.2.1:80".parse().unwrap(), entry(None, 7)),
        ("[2001:db8::2]:80".parse().unwrap(), entry(Some("b2"), 256)),
    ]);
    assert_eq!(a, Ok(expected.clone()));
    assert_eq!(b, Ok(expected));
    assert_eq!(json("{\"backend\": []}"), Ok(BTreeMap::new()));
    assert_eq!(toml("backend = []"), Ok(BTreeMap::new()));
}

#[test]
fn a_mistake_is_said_with_its_place() {
    let one = |rest: &str| format!("{{\"backend\": [\n {{\"address\": \"192.0.2.1:80\"{rest}}}]}}");
    let cases = [
        (String::new(), "1:1: EOF while parsing a value"),
        ("{}".into(), "1:2: missing field `backend`"),
        ("{\"backend\": [".into(), "1:13: EOF while parsing a list"),
        (
            "{\"backend\": {}}".into(),
            "1:12: invalid type: map, expected a sequence",
        ),
        (
            "{\"backend\": [], \"x\": 1}".into(),
            "1:19: unknown field `x`, expected `backend`",
        ),
        ("{\"backend\": []} x".into(), "1:17: trailing characters"),
        (
            "{\"backend\": [{}]}".into(),
            "1:15: missing field `address`",
        ),
        (
            one(", \"wieght\": 1"),
            "2:37: unknown field `wieght`, expected one of",
        ),
        (
            one(", \"weight\": 0"),
            "2:41: a weight is a whole number from 1 to 256",
        ),
        (
            one(", \"weight\": 1.5"),
            "2:42: invalid type: floating point `1.5`",
        ),
        (one(", \"weight\": 257"), "2:43: a weight is a whole number"),
        (one(", \"name\": \"a:b\""), "2:43: a name has 1 to 64 of"),
        (
            one("}, {\"address\": \"web:80\""),
            "2:51: an address is an IP address and a port, like",
        ),
        (
            one("}, {\"address\": \"192.0.2.2:0\""),
            "2:56: an address is an IP address and a port",
        ),
        (
            one("}, {\"address\": \"0.0.0.0:80\""),
            "2:55: 0.0.0.0 is no host's address",
        ),
        (
            one("}, {\"address\": \"192.0.2.1:80\""),
            "backend[1]: 192.0.2.1:80 is already backend[0]",
        ),
        (
            one(", \"name\": \"a\"}, {\"name\": \"a\", \"address\": \"192.0.2.2:80\""),
            "backend[1]: a is already backend[0]",
        ),
        (
            format!(
                "{{\"backend\": [{}]}}",
                ["{\"address\": \"192.0.2.1:80\"}"; 4].join(",")
            ),
            "4 backends; `max_backends` allows 3",
        ),
    ];
    let mut wrong = Vec::new();
    for (text, expected) in cases {
        match json(&text) {
            Err(said) if said.starts_with(expected) => {}
            other => wrong.push(format!("{text}\n  {other:?}\n  {expected}")),
        }
    }
    let cases = [
        ("", "missing field `backend`"),
        ("[[backend]\n", "1:11: unclosed array table"),
        (
            "[[backend]]\naddress = \"web:80\"\n",
            "2:11: an address is an IP address and a port",
        ),
        (
            "[[backend]]\naddress = \"192.0.2.1:80\"\nweigth = 2\n",
            "3:1: unknown field `weigth`",
        ),
        (
            "[[backend]]\naddress = \"192.0.2.1:80\"\nweight = 300\n",
            "3:10: a weight is",
        ),
    ];
    for (text, expected) in cases {
        match toml(text) {
            Err(said) if said.contains(expected) => {}
            other => wrong.push(format!("{text}\n  {other:?}\n  {expected}")),
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_file_that_is_cut_off_anywhere_is_refused(cut in 1..92_usize, garbage in "\\PC{0,40}") {
        let whole = r#"{"backend": [{"address": "192.0.2.1:80"}, {"address": "192.0.2.2:80", "weight": 2}]}      "#;
        let end = whole.trim_end().len();
        let cut = cut % end;
        prop_assert!(json(&whole[..cut]).is_err());
        let _ = json(&format!("{}{garbage}", &whole[..cut]));
        let _ = toml(&garbage);
    }
}
