//! The list of connections, word for word.

use super::{FlowTable, Page};
use crate::status::Mode;
use crate::wire::admin::{FlowState, FlowStatus};

fn kernel(client: &str) -> FlowStatus {
    FlowStatus {
        mode: Mode::Kernel,
        client: client.parse().unwrap(),
        listen: Some("192.0.2.100:80".parse().unwrap()),
        service: "web".into(),
        backend: "b1".into(),
        target: Some("198.51.100.21:8080".parse().unwrap()),
        source: Some("198.51.100.100:20001".parse().unwrap()),
        state: FlowState::Established,
        since_unix_ms: 1_795_674_099_120,
        age_ms: 185_000,
        up: None,
        down: None,
    }
}

fn proxied() -> FlowStatus {
    FlowStatus {
        mode: Mode::Proxy,
        listen: None,
        service: "mail".into(),
        backend: "m1".into(),
        source: None,
        age_ms: 80,
        up: Some(1_204),
        down: Some(88_120_344),
        ..kernel("203.0.113.9:40112")
    }
}

fn text(page: &Page) -> Vec<&str> {
    page.lines.iter().map(|(_, line)| line.as_str()).collect()
}

#[test]
fn one_line_a_connection_in_columns_over_all_pages() {
    let mut opening = kernel("[2001:db8:ffff:ffff:ffff:ffff:ffff:9]:65535");
    opening.state = FlowState::Opening;
    let mut table = FlowTable::default();
    let pages = [
        table.page(&[proxied(), kernel("203.0.113.9:40113")]),
        table.page(&[]),
        table.page(&[opening, kernel("203.0.113.10:1")]),
        table.end(),
    ];
    let lines: Vec<&str> = pages.iter().flat_map(text).collect();
    let expected = [
        "client             to              service  backend  seen as               state              age     up        down",
        "203.0.113.9:40112  -               mail     m1       -                     established      80 ms  1,204  88,120,344",
        "203.0.113.9:40113  192.0.2.100:80  web      b1       198.51.100.100:20001  established  3 min 5 s      -           -",
        "[2001:db8:ffff:ffff:ffff:ffff:ffff:9]:65535  192.0.2.100:80  web      b1       198.51.100.100:20001  opening      3 min 5 s      -           -",
        "203.0.113.10:1                               192.0.2.100:80  web      b1       198.51.100.100:20001  established  3 min 5 s      -           -",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn no_connections_are_said_so() {
    let mut table = FlowTable::default();
    assert_eq!(text(&table.page(&[])), [""; 0]);
    assert_eq!(text(&table.end()), ["no connections"]);
}
