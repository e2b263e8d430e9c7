//! Remembered clients: listed in pages, forgotten in pages.

use tandem::wire::admin::{Remembered, Request, Response, StickQuery};

use super::{Node, tandem};

fn client(key: u64, backend: &str) -> Remembered {
    Remembered {
        key: format!("{key:016x}"),
        service: "shop".into(),
        backend: backend.into(),
        age_ms: 12_000,
    }
}

fn page(matching: u64, clients: Vec<Remembered>, next: Option<&str>) -> Response {
    Response::Sticks {
        matching,
        clients,
        next: next.map(str::to_owned),
    }
}

fn pages() -> Node {
    Node::with(vec![
        page(1, vec![client(1, "b1")], Some("x 1")),
        page(0, vec![], Some("x 2")),
        page(1, vec![client(0xffff, "b2")], None),
    ])
}

fn query(after: Option<&str>) -> StickQuery {
    StickQuery {
        service: Some("shop".into()),
        after: after.map(str::to_owned),
        ..StickQuery::default()
    }
}

#[test]
fn remembered_clients_are_listed_page_by_page() {
    let (ended, asked) = pages().ask(&["affinity", "list", "--service", "shop"]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    let expected = [None, Some("x 1"), Some("x 2")].map(|it| Request::Sticks(query(it)));
    assert_eq!(asked, expected);
    let expected = "\
key               service  backend  last used
0000000000000001  shop     b1       12 s ago
000000000000ffff  shop     b2       12 s ago
";
    assert_eq!(ended.out, expected);
}

#[test]
fn remembered_clients_are_one_json_document() {
    let (ended, _) = pages().ask(&["affinity", "list", "--service", "shop", "--json"]);
    let all: Vec<Remembered> = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(all, [client(1, "b1"), client(0xffff, "b2")]);
    let none = Node::with(vec![page(0, vec![], None)]);
    assert_eq!(none.ask(&["affinity", "list", "--json"]).0.out, "[]\n");
    let none = Node::with(vec![page(0, vec![], None)]);
    let (ended, _) = none.ask(&["affinity", "list"]);
    assert_eq!(ended.out, "no client is remembered\n");
}

#[test]
fn clients_are_forgotten_until_none_is_left() {
    let answers = || {
        Node::with(vec![
            page(4_000, vec![], Some("x 1")),
            page(1, vec![], None),
        ])
    };
    let (ended, asked) = answers().ask(&["affinity", "clear", "--service", "shop"]);
    assert_eq!(
        (ended.code, ended.out.as_str()),
        (0, "4,001 clients forgotten\n")
    );
    let expected = [None, Some("x 1")].map(|it| Request::ForgetSticks(query(it)));
    assert_eq!(asked, expected);
    let (ended, _) = answers().ask(&["affinity", "clear", "--service", "shop", "--json"]);
    assert_eq!(ended.out, "{\"forgotten\":4001}\n");
}

#[test]
fn nothing_is_forgotten_by_mistake() {
    for args in [
        &["affinity", "clear"][..],
        &["affinity", "clear", "--all", "--service", "shop"],
    ] {
        assert_eq!(tandem(args).code, 64, "{args:?}");
    }
}
