//! Handshakes that are half done: at a takeover, and when the table is walked.

use std::net::SocketAddr;

use super::super::super::layout::{Event, FLOW_CLIENT, Flow, FlowKey};
use super::super::super::maps::Maps;
use super::super::super::names::{Cause, EventKind, State};
use super::super::super::reference::Reference;
use super::super::super::tables::Told;
use super::super::{Engine, Links};
use crate::balance::nat::{NatCommand, NatEvent};
use crate::config::fixture::pair;
use crate::model::NodeId;
use crate::wire::replication::{Item, NatKey, NatRecord};

const CONFIG: &str = r#"
[[service]]
name = "db"
mode = "kernel"
listen = ["192.0.2.100:5432"]
[[service.backend]]
name = "d1"
address = "203.0.113.31:5432"
"#;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A node that took over while a connection was opening, as the old master told it; the event says
/// what the program saw of its backend then.
fn taken_over(cause: Cause) -> (Engine, Reference, FlowKey) {
    let config = pair(CONFIG);
    let mut maps = Reference {
        capacity: 100,
        ..Reference::default()
    };
    let mut engine = Engine::new(&config, NodeId::Second, &Links::default(), 1);
    engine.begin(&mut maps, 0).unwrap();
    let key = NatKey {
        client: at("198.51.100.1:1000"),
        service: at("192.0.2.100:5432"),
    };
    let record = NatRecord {
        service: config.services[0].id,
        backend: config.services[0].backends[0].id,
        source: at("192.0.2.100:20000"),
        target: at("203.0.113.31:5432"),
        client_mark: 7,
        backend_mark: None,
        since_unix_ms: 0,
    };
    let learn = NatCommand::Learn(vec![Item::NatOpen { key, record }]);
    engine.command(learn, &mut maps, 1).unwrap();
    engine.command(NatCommand::Lead, &mut maps, 2).unwrap();
    let key = FlowKey::new(key.client, key.service);
    let event = Event {
        kind: EventKind::Refused.number(),
        cause: cause.number(),
        key,
        flow: maps.flow(&key).unwrap().unwrap(),
        ..Event::default()
    };
    engine.told(Told::Event(event), &mut maps, 3).unwrap();
    (engine, maps, key)
}

/// Until its client speaks, a connection has no marks but its first numbers.
#[test]
fn marks_are_not_refreshed_before_the_client_acknowledges() {
    let (mut engine, mut maps, key) = taken_over(Cause::StaleAck);
    events(&mut engine);
    let front = maps.flow(&key).unwrap().unwrap();
    let back_key = front.opposite(key.family);
    let answered = Flow {
        state: State::Answered.number(),
        backend_isn: 0x7777_7777,
        ack: 0,
        ..front
    };
    let back = Flow {
        backend_isn: answered.backend_isn,
        ack: answered.client_isn.wrapping_add(1),
        ..maps.flow(&back_key).unwrap().unwrap()
    };
    maps.put_flows(&[(back_key, back), (key, answered)])
        .unwrap();
    for second in 1..10 {
        engine.tick(&mut maps, second * 1_000_000_000).unwrap();
    }
    let told = events(&mut engine);
    assert!(told.is_empty(), "{told:?}");
}

fn events(engine: &mut Engine) -> Vec<NatEvent> {
    let reports = std::iter::from_fn(|| engine.poll_report());
    reports.flat_map(|report| report.events).collect()
}

/// The old master let the SYN-ACK go, since this node knew the connection, and died before it told
/// that the backend had answered.
#[test]
fn a_connection_that_the_old_master_saw_answered_goes_on() {
    let (mut engine, maps, key) = taken_over(Cause::StaleAck);
    let front = maps.flow(&key).unwrap().expect("the client has it");
    let back = maps.flow(&front.opposite(key.family)).unwrap().unwrap();
    let established = State::Established.number();
    assert_eq!((front.state, back.state), (established, established));
    assert_eq!(front.flags & FLOW_CLIENT, FLOW_CLIENT);
    let same = |flow: &Flow| (flow.client_isn, flow.backend_isn);
    assert_eq!(same(&front), same(&back));
    let told = events(&mut engine);
    let answered = |it: &NatEvent| matches!(it, NatEvent::Marks { answered: true, .. });
    assert!(told.iter().any(answered), "{told:?}");
}

#[test]
fn a_backend_that_refuses_leaves_nothing_so_that_the_next_syn_begins_anew() {
    let (mut engine, maps, key) = taken_over(Cause::BackendRst);
    assert!(maps.flows.is_empty(), "{:?}", maps.flow(&key));
    let told = events(&mut engine);
    let failed = |it: &NatEvent| matches!(it, NatEvent::ConnectFailed { .. });
    assert!(told.iter().any(failed), "{told:?}");
}
