//! `tandem backend`: what each command asks, and what it makes of the answer.

use tandem::model::AdminState;
use tandem::status::{BackendStatus, ServiceStatus, Status};
use tandem::wire::admin::{Change, Request, Response};

use super::{Node, done};

fn state(state: AdminState, cut_after_ms: Option<u64>) -> Change {
    Change::State {
        state,
        cut_after_ms,
    }
}

#[test]
fn each_command_asks_for_its_change() {
    let add = Change::Add {
        address: "[2001:db8::14]:8080".parse().unwrap(),
        weight: Some(2),
        pool: Some("static".into()),
        max_connections: Some(10),
        backup: true,
    };
    let cut = Some(90_000);
    let words =
        "add web/b1 [2001:db8::14]:8080 --weight 2 --pool static --max-connections 10 --backup";
    for (words, change) in [
        (words, add),
        ("remove web/b1", Change::Remove { cut_after_ms: None }),
        (
            "remove web/b1 --deadline 90s",
            Change::Remove { cut_after_ms: cut },
        ),
        ("weight web/b1 256", Change::Weight { weight: 256 }),
        (
            "drain web/b1 --deadline 1m30s",
            state(AdminState::Drain, cut),
        ),
        ("maintenance web/b1", state(AdminState::Maintenance, None)),
        ("enable web/b1", state(AdminState::Enabled, None)),
        ("reset web/b1", Change::Reset),
    ] {
        let arguments: Vec<&str> = ["backend"].into_iter().chain(words.split(' ')).collect();
        let (ended, asked) = Node::with(vec![done("web/b1 is as you wish")]).ask(&arguments);
        assert_eq!(
            (ended.code, ended.out.as_str()),
            (0, "web/b1 is as you wish\n"),
            "{words}"
        );
        let request = Request::Roster {
            service: "web".into(),
            backend: "b1".into(),
            change,
        };
        assert_eq!(asked, [request], "{words}");
    }
}

#[test]
fn wrong_usage_asks_nothing() {
    for words in [
        "add web/b1",
        "add web 192.0.2.14:80",
        "add web/b1 192.0.2.14",
        "weight web/b1 0",
        "weight web/b1 257",
        "remove web/b1 --deadline soon",
        "list web/b1",
    ] {
        let arguments: Vec<&str> = ["backend"].into_iter().chain(words.split(' ')).collect();
        let (ended, asked) = Node::with(Vec::new()).ask(&arguments);
        assert_eq!((ended.code, asked.len()), (64, 0), "{words}: {}", ended.err);
    }
}

fn pair(connections: &[u64]) -> Response {
    let backend = |(n, connections): (usize, &u64)| BackendStatus {
        name: format!("b{n}"),
        address: format!("192.0.2.{n}:80"),
        weight: 1,
        up: true,
        connections: *connections,
        origin: if n == 1 { "runtime" } else { "file" }.into(),
        differs: (n == 2).then(|| "the file has weight 3".into()),
        ..BackendStatus::default()
    };
    let service = ServiceStatus {
        name: "web".into(),
        backends: connections.iter().enumerate().map(backend).collect(),
        removed: vec!["old".into()],
        ..ServiceStatus::default()
    };
    Response::Status {
        status: Box::new(Status {
            services: vec![service],
            ..Status::default()
        }),
    }
}

#[test]
fn the_list_shows_where_each_comes_from() {
    let (ended, _) = Node::with(vec![pair(&[5, 0, 7])]).ask(&["backend", "list"]);
    let lines: Vec<&str> = ended.out.lines().map(str::trim_end).collect();
    assert_eq!(
        lines,
        [
            "service web",
            "   backend  address       state  weight  now  origin",
            "   b0       192.0.2.0:80  up          1    5  file",
            "   b1       192.0.2.1:80  up          1    0  runtime",
            "   b2       192.0.2.2:80  up          1    7  file; the file has weight 3",
            "removed at run time, and in the file: old",
        ]
    );
    let (ended, _) = Node::with(vec![pair(&[5, 0])]).ask(&["backend", "list", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(json[1]["origin"], "runtime");
    assert_eq!(
        (&json[0]["service"], &json[0]["connections"]),
        (&"web".into(), &5.into())
    );
    let (ended, _) = Node::with(vec![pair(&[])]).ask(&["backend", "list", "--service", "api"]);
    assert_eq!(ended.code, 1);
    assert!(
        ended
            .err
            .contains("there is no service \"api\"; there are: web"),
        "{}",
        ended.err
    );
}

#[test]
fn waiting_ends_with_the_last_connection() {
    let answers = vec![done("web/b0 is removed"), pair(&[2]), pair(&[1]), pair(&[])];
    let (ended, asked) = Node::with(answers).ask(&["backend", "remove", "web/b0", "--wait"]);
    assert_eq!((ended.code, asked.len()), (0, 4));
    assert_eq!(ended.out, "web/b0 is removed\nit has no connections\n");
}
