//! `[service.health]` of every kind, and what is said of wrong ones.

use std::collections::BTreeSet;

use super::tests::sample_with;
use super::{Config, Expected, HealthKind, Start, Step};

fn text(health: &str) -> String {
    sample_with("kind = \"tcp\"\n", &format!("{health}\n"))
}

fn parse(health: &str) -> Config {
    Config::parse(&text(health)).unwrap_or_else(|errors| panic!("{health}: {errors}"))
}

fn kind(health: &str) -> HealthKind {
    let config = parse(health);
    config.services[0].health.as_ref().unwrap().kind.clone()
}

/// Each differs from all others in what it means.
const GOOD: &[&str] = &[
    r#"kind = "tcp""#,
    "kind = \"tcp\"\nfast_interval = \"100ms\"",
    "kind = \"tcp\"\ndown_interval = \"5s\"",
    "kind = \"tcp\"\nstart = \"down\"",
    "kind = \"tcp\"\nobserve = \"first_byte\"",
    "kind = \"tcp\"\naddress = \"198.51.100.9\"",
    "kind = \"tcp\"\nport = 9",
    "kind = \"tcp\"\nflap_limit = 3",
    "kind = \"tcp\"\nflap_limit = 3\nflap_window = \"2m\"",
    "kind = \"tcp\"\nflap_limit = 3\nflap_hold = \"20s\"",
    "kind = \"tcp\"\nflap_limit = 3\nflap_hold_max = \"1h\"",
    r#"kind = "tls""#,
    "kind = \"tls\"\nsni = \"web.example\"\nca_file = \"/etc/ca.pem\"",
    "kind = \"tls\"\nverify = false\nalpn = [\"h2\", \"http/1.1\"]\nmin_days = 0",
    r#"kind = "http""#,
    "kind = \"http\"\nversion = \"2\"\ntls = true\nsni = \"a.example\"",
    "kind = \"http\"\nmethod = \"HEAD\"\npath = \"/x?y=1\"\nhost = \"[2001:db8::1]:80\"",
    "kind = \"http\"\nstatus = \"200, 204, 300-399\"\nheader = \"X-Ready: yes\"",
    "kind = \"http\"\nbody = \"ok\"\nbody_limit = 10\nrequest_headers = [\"Accept: a/b\"]",
    "kind = \"http\"\nbody_regex = '\"ready\":\\s*true'",
    r#"kind = "grpc""#,
    "kind = \"grpc\"\nservice = \"shop.Cart\"\ntls = true\nhost = \"a\"",
    "kind = \"script\"\npreset = \"redis\"",
    "kind = \"script\"\npreset = \"postgres\"\nuser = \"checker\"",
    "kind = \"script\"\npreset = \"mysql\"\nread_limit = 100",
    "kind = \"script\"\nstep = [{ send = \"a\" }, { expect = \"b\" }]",
    "kind = \"script\"\nstep = [{ send_hex = \"00 fF\" }, { expect_regex = \"b\" }]",
    "kind = \"command\"\nargv = [\"/bin/true\", \"\"]",
    "kind = \"command\"\nargv = [\"/bin/true\"]\noutput_limit = 1",
    "kind = \"tcp\"\n[service.agent]\nport = 1",
    "kind = \"tcp\"\n[service.agent]\nport = 2\nsend = \"x\"\naddress = \"2001:db8::1\"",
];

#[test]
fn every_kind_is_read_and_every_key_is_in_the_fingerprint() {
    let mut hashes = BTreeSet::new();
    for health in GOOD {
        // The sample's own keys belong to the section; a section of ours comes before it.
        let (own, other) = health.split_once("\n[").unwrap_or((health, ""));
        let mut text = text(own);
        if !other.is_empty() {
            text = text.replace("[service.health]", &format!("[{other}\n[service.health]"));
        }
        let config = Config::parse(&text).unwrap_or_else(|errors| panic!("{health}: {errors}"));
        assert!(hashes.insert(config.hash), "{health}");
    }
    for key in ["check_port = 9", "check_address = \"198.51.100.9\""] {
        let text = sample_with("weight = 2", &format!("weight = 2\n{key}"));
        assert!(hashes.insert(Config::parse(&text).unwrap().hash), "{key}");
    }
    let text = sample_with("weight = 2", "weight = 2\n[health]\nconcurrency = 9");
    assert!(hashes.insert(Config::parse(&text).unwrap().hash));
}

#[test]
fn what_is_written_is_what_is_meant() {
    let HealthKind::Http(http) = kind("kind = \"http\"\nstatus = \"404, 200-299\"\nbody = \"ok\"")
    else {
        panic!("http");
    };
    assert_eq!(http.status, [(200, 299), (404, 404)]);
    assert_eq!(http.body, Some(Expected::Bytes(b"ok".to_vec())));
    assert_eq!(
        (http.head, http.http2, http.path.as_str()),
        (false, false, "/")
    );
    let HealthKind::Script(script) = kind("kind = \"script\"\nstep = [{ send_hex = \"0d 0A\" }]")
    else {
        panic!("script");
    };
    assert_eq!(script.steps, [Step::Send(b"\r\n".to_vec())]);
    let config = parse("kind = \"tcp\"\nport = 9\nstart = \"up\"");
    let service = &config.services[0];
    let health = service.health.as_ref().unwrap();
    assert_eq!(health.start, Start::Up);
    assert_eq!(health.fast_interval, health.interval);
    assert_eq!(
        health.target(&service.backends[0]),
        "198.51.100.21:9".parse().unwrap()
    );
    let text = sample_with(
        "weight = 2",
        "check_port = 7\ncheck_address = \"2001:db8::7\"",
    );
    let config = Config::parse(&text).unwrap();
    let service = &config.services[0];
    let target = service
        .health
        .as_ref()
        .unwrap()
        .target(&service.backends[1]);
    assert_eq!(target, "[2001:db8::7]:7".parse().unwrap());
}

#[test]
fn mistakes_are_explained_at_their_place() {
    for (health, said) in [
        (
            "kind = \"tcp\"\npath = \"/\"",
            "29:8: service[0].health.path: kind = \"tcp\" has no `path`; remove it, or write kind = \"http\"",
        ),
        (
            "kind = \"http\"\nstep = []",
            "29:8: service[0].health.step: kind = \"http\" has no `step`; remove it, or write kind = \"script\"",
        ),
        (
            "kind = \"http\"\nsni = \"a\"",
            "29:7: service[0].health.sni: `sni` means nothing without TLS; add tls = true",
        ),
        (
            "kind = \"tls\"\nsni = \"192.0.2.1\"",
            "29:7: service[0].health.sni: `192.0.2.1` is no host name",
        ),
        (
            "kind = \"tls\"\nverify = false\nca_file = \"/a\"",
            "30:11: service[0].health.ca_file: verify = false looks at no authority",
        ),
        (
            "kind = \"http\"\nstatus = \"2xx\"",
            "29:10: service[0].health.status: `2xx` is no set of statuses",
        ),
        (
            "kind = \"http\"\nbody = \"a\"\nbody_regex = \"b\"",
            "30:14: service[0].health.body_regex: both `body` and `body_regex`",
        ),
        (
            "kind = \"http\"\nmethod = \"HEAD\"\nbody = \"a\"",
            "30:8: service[0].health.body: the answer to HEAD has no body",
        ),
        (
            "kind = \"http\"\nbody_regex = \"a(\"",
            "29:14: service[0].health.body_regex: no regular expression: unclosed group",
        ),
        (
            "kind = \"http\"\nbody_regex = \"(a{1000}){1000}\"",
            "29:14: service[0].health.body_regex: no regular expression: ",
        ),
        (
            "kind = \"http\"\npath = \"x\"",
            "29:8: service[0].health.path: `x` is no path",
        ),
        (
            "kind = \"http\"\nrequest_headers = [\"Host: a\"]",
            "29:20: service[0].health.request_headers[0]: `host` is not yours to write here",
        ),
        (
            "kind = \"http\"\nrequest_headers = [\"a: b\\r\\nc: d\"]",
            "29:20: service[0].health.request_headers[0]: `a: b\\r\\nc: d` is no header field",
        ),
        (
            "kind = \"command\"",
            "27:1: service[0].health.argv: missing",
        ),
        (
            "kind = \"command\"\nargv = [\"true\"]",
            "29:9: service[0].health.argv[0]: the program's path does not begin at the root",
        ),
        (
            "kind = \"script\"",
            "27:1: service[0].health.step: missing; add [[service.health.step]]",
        ),
        (
            "kind = \"script\"\nstep = [{ send = \"a\", expect = \"b\" }]",
            "29:9: service[0].health.step[0]: a step does one thing",
        ),
        (
            "kind = \"script\"\nstep = [{}]",
            "29:9: service[0].health.step[0]: a step that does nothing",
        ),
        (
            "kind = \"script\"\nstep = [{ send_hex = \"0\" }]",
            "29:22: service[0].health.step[0].send_hex: `0` is no row of hexadecimal bytes",
        ),
        (
            "kind = \"script\"\npreset = \"redis\"\nuser = \"a\"",
            "30:8: service[0].health.user: this preset has no `user`",
        ),
        (
            "kind = \"script\"\npreset = \"redis\"\nstep = []",
            "30:8: service[0].health.step: both `preset` and `step`",
        ),
        (
            "kind = \"tcp\"\nflap_hold = \"1s\"",
            "29:13: service[0].health.flap_hold: `flap_hold` means nothing without `flap_limit`",
        ),
        (
            "kind = \"tcp\"\nflap_limit = 1\nflap_hold = \"2s\"\nflap_hold_max = \"1s\"",
            "31:17: service[0].health.flap_hold_max: shorter than `flap_hold`",
        ),
        (
            "kind = \"tcp\"\nstart = \"maybe\"",
            "29:9: service[0].health.start: unknown word `maybe`",
        ),
    ] {
        let errors = Config::parse(&text(health)).expect_err(health);
        let shown = errors.to_string();
        assert_eq!(errors.0.len(), 1, "{health}: {shown}");
        assert!(shown.starts_with(said), "{health}:\n{shown}\n{said}");
    }
    let lost = sample_with("weight = 2", "agent_port = 7");
    let shown = Config::parse(&lost).unwrap_err().to_string();
    assert!(
        shown.contains("agent_port: `agent_port` in a service without [service.agent]"),
        "{shown}"
    );
}
