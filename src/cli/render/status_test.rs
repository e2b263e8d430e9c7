//! The pages, word for word.

use std::net::SocketAddr;

use super::samples_test::{backend, backup, head, master, page};
use crate::model::{AdminState, Role};
use crate::status::{DrainStatus, Event, Measure, PathStatus, PeerStatus, Status, VipStatus, What};

#[test]
fn a_healthy_master() {
    let expected = "\
lb1 of web-pair: MASTER, epoch 7, since 2026-11-26T03:12:44.120Z (3 h 12 min)
OK: redundant (peer lb2 is backup, in sync)

why    process died: the master's host says that nobody listens on its
       heartbeat port (detection 0.41 ms, takeover 0.28 ms)
node   tandem 0.1.0, up 5 d 4 h, priority 150, life 1a2b3c4d, configuration
       00d1e2f3a4b5c6d7
peer   lb2: heard 40 ms ago, backup, epoch 7, priority 100, life 5e6f7a8b,
       hears us, same configuration
sync   sends to the peer, in sync, position 7:10234, 12 connections, 1 snapshot
relay  works on eth0

   vip          interface  where  notes
   192.0.2.100  eth0       here   announced 17 times

   path from     to            state   loss  round trip
   192.0.2.11    192.0.2.12    up     0.0 %     0.21 ms
   203.0.113.11  203.0.113.12  up     0.0 %     1.19 ms

service web on 192.0.2.100:80, proxy, round_robin: 12 connections, 10,234 in
total
   backend  address             state  weight  now  total  why
   b1       198.51.100.21:8080  up          1    6  5,117  check ok in 0.2 ms
   b2       198.51.100.22:8080  up          1    6  5,117  check ok in 0.2 ms
";
    assert_eq!(page(&master()), expected);
}

#[test]
fn a_healthy_backup() {
    let expected = "\
lb2 of web-pair: BACKUP, epoch 7, since 2026-11-26T03:12:44.120Z (3 h 12 min)
OK: redundant (peer lb1 is master, in sync)

why    master heard: the peer is master of epoch 7
node   tandem 0.1.0, up 5 d 4 h, priority 150, life 1a2b3c4d, configuration
       00d1e2f3a4b5c6d7
peer   lb1: heard 40 ms ago, master, epoch 7, priority 100, life 5e6f7a8b,
       hears us, same configuration
sync   receives from the peer, in sync, position 7:10234, 12 connections, 1
       snapshot
relay  works on eth0

   vip          interface  where   notes
   192.0.2.100  eth0       on lb1

   path from     to            state   loss  round trip
   192.0.2.11    192.0.2.12    up     0.0 %     0.21 ms
   203.0.113.11  203.0.113.12  up     0.0 %     1.19 ms
";
    assert_eq!(page(&backup()), expected);
}

#[test]
fn a_master_alone_with_a_backend_down() {
    let mut status = master();
    status.peer.alive = false;
    status.peer.hears_us = false;
    status.peer.last_heard_ms = Some(12_345);
    status.replication.connected = false;
    for path in &mut status.paths {
        path.alive = false;
        path.loss_percent = 100.0;
    }
    status.vips[0].rivals = 1;
    status.services[0].failed = 2;
    let backends = &mut status.services[0].backends;
    backends[0].admin = AdminState::Drain;
    backends[1].up = false;
    backends[1].reason = "connect refused".into();
    backends[1].connect_failures = 3;
    backends.push(backend("b3", 23));
    status.counters.sessions = 4;
    status.counters.pauses = 1;
    let expected = "\
lb1 of web-pair: MASTER, epoch 7, since 2026-11-26T03:12:44.120Z (3 h 12 min)
WARNING: no redundancy: peer lb2 is not heard for 12 s
WARNING: backend web/b2 is down: connect refused

why    process died: the master's host says that nobody listens on its
       heartbeat port (detection 0.41 ms, takeover 0.28 ms)
node   tandem 0.1.0, up 5 d 4 h, priority 150, life 1a2b3c4d, configuration
       00d1e2f3a4b5c6d7
peer   lb2: SILENT for 12 s, was backup, epoch 7, priority 100, life 5e6f7a8b,
       same configuration
sync   no session, position 7:10234, 12 connections, 1 snapshot
relay  works on eth0

   vip          interface  where  notes
   192.0.2.100  eth0       here   announced 17 times, claimed by others 1 time

   path from     to            state      loss  round trip
!  192.0.2.11    192.0.2.12    SILENT  100.0 %     0.21 ms
!  203.0.113.11  203.0.113.12  SILENT  100.0 %     1.19 ms

service web on 192.0.2.100:80, proxy, round_robin: 12 connections, 10,234 in
total, 2 found no backend
   backend  address             state  weight  now  total  why
   b1       198.51.100.21:8080  drain       1    6  5,117  check ok in 0.2 ms
!  b2       198.51.100.22:8080  DOWN        1    6  5,117  connect refused; 3
                                                           failed connects
   b3       198.51.100.23:8080  up          1    6  5,117  check ok in 0.2 ms

rare things since the start
3  times that the session had to be made again
1  pauses so long that this node gave up what it knew
";
    assert_eq!(page(&status), expected);
}

#[test]
fn pools_have_a_column_and_a_verdict_each() {
    let mut status = master();
    status.services[0].bad_headers = 1_234;
    status.services[0].backends[1].pool = Some("api".into());
    status.services[0].backends[1].admin = AdminState::Drain;
    let page = page(&status);
    let expected = "\
service web on 192.0.2.100:80, proxy, round_robin: 12 connections, 10,234 in
total, 1,234 refused without a good PROXY header
   backend  pool     address             state  weight  now  total  why
   b1       default  198.51.100.21:8080  up          1    6  5,117  check ok in
                                                                    0.2 ms
   b2       api      198.51.100.22:8080  drain       1    6  5,117  check ok in
                                                                    0.2 ms
";
    assert!(page.contains(expected), "{page}");
    let verdict = "service web, pool api: no backend takes new connections";
    assert!(page.contains(verdict), "{page}");
}

#[test]
fn a_fault_says_who_serves_and_what_to_do() {
    let mut status = backup();
    status.role = Role::Fault;
    status.fault = Some("interface eth0 is down".into());
    assert_eq!(
        head(&status),
        "\
lb2 of web-pair: FAULT, epoch 7, since 2026-11-26T03:12:44.120Z (3 h 12 min)
WARNING: no redundancy: this node is in fault (interface eth0 is down) and
cannot take over from lb1; repair it, this node then recovers by itself"
    );
    status.peer.alive = false;
    status.peer.last_heard_ms = Some(900);
    assert_eq!(
        head(&status),
        "\
lb2 of web-pair: FAULT, epoch 7, since 2026-11-26T03:12:44.120Z (3 h 12 min)
CRITICAL: nobody serves: this node is in fault (interface eth0 is down) and lb1
is not heard for 900 ms; repair it, this node then recovers by itself"
    );
}

#[test]
fn a_node_that_has_just_started() {
    let status = Status {
        cluster: "web-pair".into(),
        node: "lb1".into(),
        version: "0.1.0".into(),
        incarnation: "1a2b3c4d".into(),
        uptime_ms: 120,
        priority: 150,
        config_hash: "00d1e2f3a4b5c6d7".into(),
        vips: vec![VipStatus {
            address: "2001:db8::100".into(),
            interface: "eth0".into(),
            ..VipStatus::default()
        }],
        peer: PeerStatus {
            name: "lb2".into(),
            ..PeerStatus::default()
        },
        paths: vec![PathStatus {
            local: "2001:db8::11".into(),
            remote: "2001:db8::12".into(),
            ..PathStatus::default()
        }],
        ..Status::default()
    };
    let expected = "\
lb1 of web-pair: INITIALIZE, epoch 0, since its start (120 ms)
WAIT: starting; takes over if no master is heard

node  tandem 0.1.0, up 120 ms, priority 150, life 1a2b3c4d, configuration
      00d1e2f3a4b5c6d7
peer  lb2: never heard
sync  no session, position 0:0, 0 connections

   vip            interface  where     notes
!  2001:db8::100  eth0       not here

   path from     to            state    loss  round trip
!  2001:db8::11  2001:db8::12  SILENT  0.0 %           -
";
    assert_eq!(page(&status), expected);
}

#[test]
fn the_longest_names_and_addresses_fit() {
    let address = "2001:db8:1111:2222:3333:4444:5555:6666";
    let mut status = master();
    status.node = "n".repeat(64);
    status.peer.name = "p".repeat(64);
    status.cluster = "c".repeat(64);
    status.fault = Some("f ".repeat(200));
    status.vips[0].address = address.into();
    status.vips[0].interface = "i".repeat(15);
    status.paths[0].local = address.into();
    status.paths[0].remote = address.into();
    let service = &mut status.services[0];
    service.name = "s".repeat(64);
    let listen: SocketAddr = format!("[{address}]:65535").parse().unwrap();
    service.listen = vec![listen; 64];
    service.connections = u64::MAX;
    service.total = u64::MAX;
    let backend = &mut service.backends[0];
    backend.name = "b".repeat(64);
    backend.address = listen.to_string();
    backend.weight = 256;
    backend.total = u64::MAX;
    backend.reason = "connect refused ".repeat(10);
    for role in [Role::Initialize, Role::Backup, Role::Master, Role::Fault] {
        status.role = role;
        page(&status);
    }
}

#[test]
fn the_timeline_has_one_line_an_event() {
    let events = [
        master().last_transition.unwrap(),
        Event {
            number: 4,
            unix_ms: 1_795_662_765_000,
            what: What::Backend {
                backend: "web/b2".into(),
                up: false,
                reason: "connect refused".into(),
            },
        },
        Event {
            number: 5,
            unix_ms: 1_795_662_766_001,
            what: What::Note {
                text: "operator: web/b1 takes no new connections".into(),
            },
        },
    ];
    let page = super::events(&events);
    let text: Vec<&str> = page.lines.iter().map(|(_, line)| line.as_str()).collect();
    assert_eq!(
        text,
        [
            "2026-11-26T03:12:44.120Z  role    backup -> master, epoch 7: process died: the \
             master's host says that nobody listens on its heartbeat port (detection 0.41 ms, \
             takeover 0.28 ms)",
            "2026-11-26T03:12:45.000Z  backend web/b2 DOWN: connect refused",
            "2026-11-26T03:12:46.001Z  note    operator: web/b1 takes no new connections",
        ]
    );
}

/// Both nodes tell of it; neither is any worse for it.
#[test]
fn a_drain_is_a_fact() {
    let drain = DrainStatus {
        left: 37,
        of: 1_112,
        cut_in_ms: Some(272_900),
        ..DrainStatus::default()
    };
    let fact = |status: &Status| {
        let page = page(status);
        let line = page.lines().find(|line| line.starts_with("draining"));
        line.map(str::to_owned)
    };
    let (mut old, mut new) = (backup(), master());
    assert_eq!((fact(&old), fact(&new)), (None, None));
    old.drain = Some(drain.clone());
    new.peer.drain = Some(drain);
    let own = "draining  37 connections left of 1,112, cut in 4 min 32 s";
    assert_eq!(fact(&old).as_deref(), Some(own));
    assert_eq!(
        fact(&new).as_deref(),
        Some("draining  lb2 drains 37 connections")
    );
    for status in [&old, &new] {
        assert!(page(status).lines().nth(1).unwrap().starts_with("OK: "));
    }
    (old.stopping, old.role) = (true, Role::Initialize);
    let stops = format!("{own}; then this node ends");
    assert_eq!(fact(&old), Some(stops));
    let verdict = "WAIT: stopping; ends with its last connection";
    assert!(page(&old).lines().any(|line| line == verdict));
    for drain in [&mut old.drain, &mut new.peer.drain] {
        drain.as_mut().unwrap().cut_in_ms = None;
    }
    assert_eq!((fact(&old), fact(&new)), (None, None), "it is over");
}

#[test]
fn what_a_scheduler_measures_is_said() {
    let mut status = master();
    let web = &mut status.services[0];
    web.balance = "adaptive".into();
    web.backends[0].measure = Some(Measure {
        response_us: Some(1_234),
        effective_weight: Some(0.5),
    });
    web.backends[1].measure = Some(Measure::default());
    let page = page(&status);
    let expected = "check ok in 0.2 ms; responds in 1.23 ms; effective weight 0.50";
    let said = page.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("proxy, adaptive"), "{page}");
    for word in expected.split("; ") {
        assert!(said.contains(word), "{page}");
    }
}
