//! Pages of connections: every one once, filters, names, a bounded amount of work.

use super::*;
use crate::config::fixture::pair;
use crate::model::FlowId;
use crate::wire::replication::Item;

const NOW: u64 = 1_000_000;

fn config() -> Config {
    pair(
        r#"
        [[vip]]
        address = "2001:db8::100/64"
        interface = "eth0"
        [[service]]
        name = "mail"
        listen = ["192.0.2.100:25", "[2001:db8::100]:25", "[2001:db8::100]:587"]
        [[service.backend]]
        name = "b1"
        address = "198.51.100.31:25"
        [[service]]
        name = "web"
        mode = "kernel"
        listen = ["192.0.2.100:80", "[2001:db8::100]:80"]
        [[service.backend]]
        name = "b1"
        address = "198.51.100.21:8080"
        [[service.backend]]
        name = "b2"
        address = "[2001:db8:1::22]:8080"
        "#,
    )
}

fn proxied(flow: u64, client: &str) -> Item {
    Item::FlowOpen {
        flow: FlowId(flow),
        record: FlowRecord {
            client: client.parse().unwrap(),
            service: ServiceId::of("mail"),
            backend: BackendId::of("mail", "b1"),
            since_unix_ms: NOW - 5_000,
            up: 10,
            down: 20,
        },
    }
}

fn kernel(client: &str, backend: &str, answered: bool) -> Item {
    let client: SocketAddr = client.parse().unwrap();
    let (service, source, target) = match client {
        SocketAddr::V4(_) => ("192.0.2.100:80", "192.0.2.100:20000", "198.51.100.21:8080"),
        SocketAddr::V6(_) => (
            "[2001:db8::100]:80",
            "[2001:db8::100]:20000",
            "[2001:db8:1::22]:8080",
        ),
    };
    Item::NatOpen {
        key: NatKey {
            client,
            service: service.parse().unwrap(),
        },
        record: NatRecord {
            service: ServiceId::of("web"),
            backend: BackendId::of("web", backend),
            source: source.parse().unwrap(),
            target: target.parse().unwrap(),
            client_mark: 1,
            backend_mark: answered.then_some(2),
            since_unix_ms: NOW - 250,
        },
    }
}

fn replica(items: &[Item]) -> Replica {
    let mut replica = Replica::default();
    for item in items {
        assert!(replica.apply(item), "{item:?}");
    }
    replica
}

fn sample() -> Replica {
    replica(&[
        proxied(2, "203.0.113.7:1000"),
        proxied(1 << 48, "203.0.113.8:1000"),
        kernel("203.0.113.9:2000", "b1", true),
        kernel("203.0.113.9:2001", "b1", false),
        kernel("203.0.114.9:2000", "b1", true),
        kernel("[2001:db8:2::9]:3000", "b2", true),
    ])
}

const fn both(replica: &Replica) -> Tables<'_> {
    let (proxied, kernel) = (replica, replica);
    Tables { proxied, kernel }
}

struct Page {
    matching: u64,
    flows: Vec<FlowStatus>,
    next: Option<FlowCursor>,
}

fn ask(replica: &Replica, query: &FlowQuery) -> Page {
    match page(both(replica), &config(), query, NOW) {
        Ok(Response::Flows {
            matching,
            flows,
            next,
        }) => Page {
            matching,
            flows,
            next,
        },
        other => panic!("{other:?}"),
    }
}

/// All pages: the clients, and how many pages it took.
fn all(replica: &Replica, query: &FlowQuery) -> (Vec<String>, usize) {
    let (mut query, mut clients, mut pages) = (query.clone(), Vec::new(), 0);
    loop {
        let page = ask(replica, &query);
        pages += 1;
        assert_eq!(page.matching, page.flows.len() as u64);
        clients.extend(page.flows.iter().map(|flow| flow.client.to_string()));
        match page.next {
            Some(next) => query.after = Some(next),
            None => return (clients, pages),
        }
    }
}

/// The number that pages without flows add up to.
fn counted(replica: &Replica, query: &FlowQuery) -> u64 {
    let mut query = FlowQuery {
        limit: Some(0),
        ..query.clone()
    };
    let mut sum = 0;
    loop {
        let page = ask(replica, &query);
        assert!(page.flows.is_empty());
        sum += page.matching;
        match page.next {
            Some(next) => query.after = Some(next),
            None => return sum,
        }
    }
}

#[test]
fn a_connection_is_told_with_its_names() {
    let page = ask(&sample(), &FlowQuery::default());
    let smtp = FlowStatus {
        mode: Mode::Proxy,
        client: "203.0.113.7:1000".parse().unwrap(),
        listen: Some("192.0.2.100:25".parse().unwrap()),
        service: "mail".into(),
        backend: "b1".into(),
        target: Some("198.51.100.31:25".parse().unwrap()),
        source: None,
        state: FlowState::Established,
        since_unix_ms: NOW - 5_000,
        age_ms: 5_000,
        up: Some(10),
        down: Some(20),
    };
    assert_eq!(page.flows[0], smtp);
    let http = FlowStatus {
        mode: Mode::Kernel,
        client: "203.0.113.9:2001".parse().unwrap(),
        listen: Some("192.0.2.100:80".parse().unwrap()),
        service: "web".into(),
        backend: "b1".into(),
        target: Some("198.51.100.21:8080".parse().unwrap()),
        source: Some("192.0.2.100:20000".parse().unwrap()),
        state: FlowState::Opening,
        since_unix_ms: NOW - 250,
        age_ms: 250,
        up: None,
        down: None,
    };
    assert_eq!(page.flows[3], http);
    assert_eq!((page.matching, page.next), (6, None));
}

/// The proxy does not tell at which of its addresses a client came.
#[test]
fn the_address_of_a_proxied_client_is_told_if_it_can_be_no_other() {
    let replica = replica(&[proxied(1, "203.0.113.7:1"), proxied(2, "[2001:db8:2::7]:1")]);
    let flows = ask(&replica, &FlowQuery::default()).flows;
    assert_eq!(flows[0].listen, Some("192.0.2.100:25".parse().unwrap()));
    assert_eq!(flows[1].listen, None);
}

#[test]
fn filters_select() {
    let named = |name: &str| Some(name.to_owned());
    let net = |text: &str| Some(text.parse().unwrap());
    let none = FlowQuery::default;
    let p = ["203.0.113.7:1000", "203.0.113.8:1000"];
    let k = ["203.0.113.9:2000", "203.0.113.9:2001", "203.0.114.9:2000"];
    let six = "[2001:db8:2::9]:3000";
    #[rustfmt::skip]
    let cases: Vec<(FlowQuery, Vec<&str>)> = vec![
        (none(), vec![p[0], p[1], k[0], k[1], k[2], six]),
        (FlowQuery { mode: Some(Mode::Proxy), ..none() }, vec![p[0], p[1]]),
        (FlowQuery { mode: Some(Mode::Kernel), ..none() }, vec![k[0], k[1], k[2], six]),
        (FlowQuery { service: named("web"), ..none() }, vec![k[0], k[1], k[2], six]),
        (FlowQuery { backend: named("b1"), ..none() }, vec![p[0], p[1], k[0], k[1], k[2]]),
        (FlowQuery { backend: named("b2"), ..none() }, vec![six]),
        (FlowQuery { service: named("web"), backend: named("b1"), ..none() }, k.to_vec()),
        (FlowQuery { client: net("203.0.113.0/24"), ..none() }, vec![p[0], p[1], k[0], k[1]]),
        (FlowQuery { client: net("203.0.113.9/32"), ..none() }, vec![k[0], k[1]]),
        (FlowQuery { client: net("203.0.113.77/30"), ..none() }, vec![]),
        (FlowQuery { client: net("0.0.0.0/0"), ..none() }, vec![p[0], p[1], k[0], k[1], k[2]]),
        (FlowQuery { client: net("2001:db8::/32"), ..none() }, vec![six]),
        (FlowQuery { client: net("2001:db8:3::/48"), ..none() }, vec![]),
        (FlowQuery { client: net("203.0.112.0/22"), mode: Some(Mode::Kernel), ..none() }, k.to_vec()),
    ];
    let replica = sample();
    for (query, expected) in cases {
        assert_eq!(all(&replica, &query).0, expected, "{query:?}");
        assert_eq!(
            counted(&replica, &query),
            expected.len() as u64,
            "{query:?}"
        );
        // One by one: the same, and a question behind the end is no mistake.
        let single = FlowQuery {
            limit: Some(1),
            ..query
        };
        assert_eq!(all(&replica, &single).0, expected, "{single:?}");
    }
}

#[test]
fn names_that_do_not_exist_are_refused() {
    let named = |service: Option<&str>, backend: Option<&str>| {
        let query = FlowQuery {
            service: service.map(Into::into),
            backend: backend.map(Into::into),
            ..FlowQuery::default()
        };
        page(both(&sample()), &config(), &query, NOW).unwrap_err()
    };
    assert_eq!(
        named(Some("wbe"), None),
        "there is no service \"wbe\"; there are: mail, web"
    );
    assert_eq!(
        named(Some("web"), Some("b3")),
        "service web has no backend \"b3\"; it has: b1, b2"
    );
    assert_eq!(
        named(None, Some("b3")),
        "no service has a backend \"b3\"; name its service (there are: mail, web) to see what that \
         one has"
    );
}

#[test]
fn what_the_configuration_does_not_know_is_told_by_number() {
    let mut item = proxied(1, "203.0.113.7:1");
    if let Item::FlowOpen { record, .. } = &mut item {
        record.service = ServiceId(0xab);
        record.backend = BackendId(0xcd);
        record.since_unix_ms = NOW + 10;
    }
    let page = ask(&replica(&[item]), &FlowQuery::default());
    let flow = &page.flows[0];
    assert_eq!(
        (flow.service.as_str(), flow.backend.as_str()),
        ("#000000ab", "#000000cd")
    );
    assert_eq!((flow.listen, flow.target), (None, None));
    assert_eq!(flow.age_ms, 0, "the master's clock is ahead");
}

/// So many of each mode.
fn many(count: u32) -> Replica {
    let mut replica = Replica::default();
    for n in 0..count {
        let client = SocketAddr::new(IpAddr::V4(Ipv4Addr::from(0xcb00_7100 + n / 50_000)), 0);
        let client = SocketAddr::new(client.ip(), (n % 50_000) as u16 + 1);
        replica.apply(&proxied(u64::from(n) + 1, &client.to_string()));
        replica.apply(&kernel(&client.to_string(), "b1", true));
    }
    replica
}

#[test]
fn pages_are_bounded_and_say_each_connection_once() {
    let replica = many(10_000);
    let (clients, pages) = all(&replica, &FlowQuery::default());
    assert_eq!((clients.len(), pages), (20_000, 20));
    // Each client has one of each kind.
    assert_eq!(clients.iter().collect::<BTreeSet<_>>().len(), 10_000);
    let greedy = FlowQuery {
        limit: Some(u32::MAX),
        ..FlowQuery::default()
    };
    assert_eq!(ask(&replica, &greedy).flows.len(), MAX_PAGE);
    // Nothing matches, but each question looks at so many only.
    let mut query = FlowQuery {
        backend: Some("b2".into()),
        ..FlowQuery::default()
    };
    let mut questions = 0;
    loop {
        let page = ask(&replica, &query);
        questions += 1;
        assert!(page.flows.is_empty());
        let Some(next) = page.next else { break };
        query.after = Some(next);
    }
    assert_eq!(questions, 20_000_usize.div_ceil(LOOKED_AT));
    assert_eq!(counted(&replica, &FlowQuery::default()), 20_000);
    let web = FlowQuery {
        service: Some("web".into()),
        ..FlowQuery::default()
    };
    assert_eq!(counted(&replica, &web), 10_000);
}

#[test]
fn a_cursor_survives_what_comes_and_goes() {
    let mut replica = sample();
    let mut query = FlowQuery {
        limit: Some(2),
        ..FlowQuery::default()
    };
    let first = ask(&replica, &query);
    query.after = first.next;
    // The last one listed ends, one begins before it, one behind it.
    assert!(replica.apply(&Item::FlowClose {
        flow: FlowId(1 << 48)
    }));
    assert!(replica.apply(&proxied(1, "203.0.113.1:1")));
    assert!(replica.apply(&proxied(2 << 48, "203.0.113.2:1")));
    let second = ask(&replica, &query);
    let clients: Vec<_> = second.flows.iter().map(|flow| flow.client).collect();
    assert_eq!(
        clients,
        [
            "203.0.113.2:1".parse().unwrap(),
            "203.0.113.9:2000".parse().unwrap()
        ]
    );
    // The same in the other table; and everything ends.
    query.after = second.next;
    let Some(FlowCursor::Kernel(key)) = second.next else {
        panic!("{:?}", second.next)
    };
    assert!(replica.apply(&Item::NatClose { key }));
    let third = ask(&replica, &query);
    assert_eq!(third.flows[0].client, "203.0.113.9:2001".parse().unwrap());
    query.after = third.next;
    assert_eq!(ask(&Replica::default(), &query).next, None);
}

/// A cursor is what an operator sends: any is answered.
#[test]
fn foreign_cursors_are_harmless() {
    let replica = sample();
    for after in [
        "proxy 0",
        "proxy ffffffffffffffff",
        "kernel 0.0.0.0:0 0.0.0.0:0",
        "kernel [ffff::1]:65535 [::]:0",
    ] {
        for mode in [None, Some(Mode::Kernel), Some(Mode::Proxy)] {
            for client in [
                None,
                Some("203.0.113.0/24"),
                Some("2001:db8::/32"),
                Some("::/0"),
            ] {
                let query = FlowQuery {
                    after: Some(after.to_owned().try_into().unwrap()),
                    client: client.map(|net| net.parse().unwrap()),
                    mode,
                    ..FlowQuery::default()
                };
                let flows = ask(&replica, &query).flows;
                let expected = all(
                    &replica,
                    &FlowQuery {
                        after: None,
                        ..query.clone()
                    },
                )
                .0;
                assert!(flows.len() <= expected.len(), "{query:?}");
            }
        }
    }
}

/// A node that drains lists what it has, not what the master told of its own.
#[test]
fn proxied_connections_may_stand_elsewhere() {
    let (own, told) = (replica(&[proxied(9, "203.0.113.20:1000")]), sample());
    let tables = Tables {
        proxied: &own,
        kernel: &told,
    };
    for (limit, listed) in [(None, 5), (Some(0), 0)] {
        let query = FlowQuery {
            limit,
            ..FlowQuery::default()
        };
        let Ok(Response::Flows {
            matching, flows, ..
        }) = page(tables, &config(), &query, NOW)
        else {
            panic!("a page")
        };
        assert_eq!((matching, flows.len()), (5, listed));
        let clients = flows.iter().map(|flow| flow.client.to_string());
        assert_eq!(
            clients.take(1).collect::<Vec<_>>(),
            ["203.0.113.20:1000"; 1][..listed.min(1)]
        );
    }
}
