//! The list of connections: asked for in pages, printed as one.

use tandem::model::FlowId;
use tandem::status::Mode;
use tandem::wire::admin::{FlowCursor, FlowQuery, FlowState, FlowStatus, Request, Response};

use super::Node;

fn flow(port: u16) -> FlowStatus {
    FlowStatus {
        mode: Mode::Proxy,
        client: ([203, 0, 113, 9], port).into(),
        listen: Some(([192, 0, 2, 100], 80).into()),
        service: "web".into(),
        backend: "b1".into(),
        target: Some(([198, 51, 100, 21], 8080).into()),
        source: None,
        state: FlowState::Established,
        since_unix_ms: 1_795_662_764_120,
        age_ms: 12_000,
        up: Some(517),
        down: Some(120_344),
    }
}

fn page(matching: u64, flows: Vec<FlowStatus>, next: Option<u64>) -> Response {
    Response::Flows {
        matching,
        flows,
        next: next.map(|flow| FlowCursor::Proxy(FlowId(flow))),
    }
}

/// Two pages with connections, and an empty one between them.
fn pages() -> Node {
    Node::with(vec![
        page(2, vec![flow(1), flow(2)], Some(2)),
        page(0, vec![], Some(9)),
        page(1, vec![flow(30_000)], None),
    ])
}

fn query(after: Option<u64>) -> FlowQuery {
    FlowQuery {
        after: after.map(|flow| FlowCursor::Proxy(FlowId(flow))),
        ..FlowQuery::default()
    }
}

#[test]
fn connections_are_asked_for_page_by_page() {
    let (ended, asked) = pages().ask(&["flows"]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    let expected = [None, Some(2), Some(9)].map(|after| Request::Flows(query(after)));
    assert_eq!(asked, expected);
    let expected = "\
client         to              service  backend  seen as  state         age   up     down
203.0.113.9:1  192.0.2.100:80  web      b1       -        established  12 s  517  120,344
203.0.113.9:2  192.0.2.100:80  web      b1       -        established  12 s  517  120,344
203.0.113.9:30000  192.0.2.100:80  web      b1       -        established  12 s  517  120,344
";
    assert_eq!(ended.out, expected);

    let (ended, _) = pages().ask(&["flows", "--json"]);
    let read: Vec<FlowStatus> = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(read, [flow(1), flow(2), flow(30_000)]);
    assert_eq!(ended.out.lines().count(), 1);

    let (ended, _) = Node::with(vec![page(0, vec![], None)]).ask(&["flows"]);
    assert_eq!((ended.code, ended.out.as_str()), (0, "no connections\n"));
    let (ended, _) = Node::with(vec![page(0, vec![], None)]).ask(&["flows", "--json"]);
    assert_eq!((ended.code, ended.out.as_str()), (0, "[]\n"));
}

#[test]
fn connections_are_filtered_by_the_node() {
    let args = [
        "flows",
        "--service",
        "web",
        "--backend",
        "b1",
        "--client",
        "203.0.113.9",
        "--mode",
        "kernel",
    ];
    let (ended, asked) = Node::with(vec![page(0, vec![], None)]).ask(&args);
    assert_eq!(ended.code, 0, "{}", ended.err);
    let expected = FlowQuery {
        service: Some("web".into()),
        backend: Some("b1".into()),
        client: Some("203.0.113.9/32".parse().unwrap()),
        mode: Some(Mode::Kernel),
        ..FlowQuery::default()
    };
    assert_eq!(asked, [Request::Flows(expected)]);
}

#[test]
fn so_many_connections_are_enough() {
    let node = Node::with(vec![
        page(2, vec![flow(1), flow(2)], Some(2)),
        page(1, vec![flow(3)], Some(3)),
    ]);
    let (ended, asked) = node.ask(&["flows", "--limit", "3", "--json"]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    let limits: Vec<_> = asked
        .iter()
        .map(|request| match request {
            Request::Flows(query) => query.limit,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(limits, [Some(3), Some(1)]);
    let read: Vec<FlowStatus> = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(read.len(), 3);
}

#[test]
fn connections_are_counted_over_all_pages() {
    let node = Node::with(vec![page(4_000, vec![], Some(2)), page(77, vec![], None)]);
    let (ended, asked) = node.ask(&["flows", "--count"]);
    assert_eq!((ended.code, ended.out.as_str()), (0, "4077\n"));
    let first = FlowQuery {
        limit: Some(0),
        ..query(None)
    };
    assert_eq!(asked[0], Request::Flows(first));
}

#[test]
fn a_list_that_does_not_go_on_ends_with_70() {
    let stuck = || page(0, vec![], Some(2));
    let (ended, asked) = Node::with(vec![stuck(), stuck()]).ask(&["flows"]);
    assert_eq!((ended.code, asked.len()), (70, 2), "{}", ended.err);
}
