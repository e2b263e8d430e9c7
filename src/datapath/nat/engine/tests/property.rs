//! Whatever happens on the master: its standby would translate the same.

use proptest::prelude::*;

use super::*;

/// More are a matter of patience: 12,000 of each found nothing else.
const CASES: u32 = 24;

/// Something that a client, a backend, the network or the node does.
#[derive(Clone, Debug)]
enum Step {
    Syn(u32, u32),
    FromClient(u32, u8),
    FromBackend(u32, u8),
    /// A packet of an older translation.
    FromOldBackend(usize, u8),
    Wait(u64),
    Publish(u8),
    Teach,
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop_oneof![
        Just(ACK),
        Just(FIN | ACK),
        Just(RST),
        Just(SYN | ACK),
        Just(RST | ACK)
    ];
    prop_oneof![
        4 => (0..6_u32, 0..3_u32).prop_map(|(client, isn)| Step::Syn(client, isn * 1_000)),
        4 => (0..6_u32, flags.clone()).prop_map(|(client, flags)| Step::FromClient(client, flags)),
        6 => (0..6_u32, flags.clone()).prop_map(|(client, flags)| Step::FromBackend(client, flags)),
        1 => (any::<usize>(), flags).prop_map(|(at, flags)| Step::FromOldBackend(at, flags)),
        2 => prop_oneof![1..400_u64, 1_000..40_000_u64].prop_map(Step::Wait),
        1 => (1..8_u8).prop_map(Step::Publish),
        2 => Just(Step::Teach),
    ]
}

fn teach(master: &mut Host, standby: &mut Host) {
    let items = items(&master.events(), 1_000 + master.now / MS);
    standby.now = standby.now.max(master.now);
    standby.command(NatCommand::Learn(items));
    master.acknowledge(true);
    master.packets();
}

/// What becomes of packets with this key.
fn translation(flow: &Flow) -> impl PartialEq + std::fmt::Debug {
    let to = (flow.to_src, flow.to_dst, flow.to_sport, flow.to_dport);
    (
        to,
        flow.service,
        flow.backend,
        flow.ifindex,
        flow.mss,
        flow.flags,
    )
}

fn check(master: &Host, standby: &Host) {
    for (key, flow) in &master.maps.flows {
        if super::super::learn::is_closed(flow) {
            continue;
        }
        let learned = standby.maps.flows.get(key);
        let learned = learned.unwrap_or_else(|| panic!("{key:?} is not there: {flow:?}"));
        assert_eq!(translation(flow), translation(learned));
        let answered = |flow| super::super::learn::is_answered(flow);
        assert_eq!(answered(flow), answered(learned));
        if flow.flags & FLOW_CLIENT != 0 && answered(flow) {
            let marks = master.engine.marks_of(key, flow);
            assert_eq!(marks, (learned.client_isn, learned.backend_isn));
        }
        assert!(!super::super::learn::is_closed(learned));
    }
    for (key, flow) in &standby.maps.flows {
        let other = standby.maps.flows.get(&flow.opposite(key.family));
        if flow.flags & FLOW_CLIENT == 0 {
            let front = other.unwrap_or_else(|| panic!("nobody's: {key:?}"));
            assert_eq!(front.opposite(key.family), *key, "of an old translation");
        } else if !super::super::learn::is_closed(flow) {
            assert!(master.maps.flows.contains_key(key), "stale: {key:?}");
            assert_eq!(other.map(|back| back.opposite(key.family)), Some(*key));
        }
    }
}

fn play(steps: &[Step], how: impl Fn(&mut Config)) {
    let config = config("weighted_round_robin", &[2, 1, 1], |config| {
        // Few ports, so that they come again.
        (config.kernel.first_port, config.kernel.last_port) = (30_000, 30_011);
        config.kernel.opening_timeout = Duration::from_secs(5);
        how(config);
    });
    let mut master = Host::master(&config);
    let mut standby = Host::new(&config, NodeId::Second);
    let mut backs: Vec<FlowKey> = Vec::new();
    for step in steps {
        match *step {
            Step::Syn(n, isn) => {
                master.open(client(n), isn);
            }
            Step::FromClient(n, flags) => {
                master.send(client(n), at(VIP), flags, (101, 901));
            }
            Step::FromBackend(n, flags) => {
                if let Some(flow) = master.flow(client(n)) {
                    let back = flow.opposite(4);
                    backs.push(back);
                    let ack = flow.client_isn.wrapping_add(1);
                    master.send(back.from(), back.to(), flags, (900, ack));
                }
            }
            Step::FromOldBackend(at, flags) => {
                if !backs.is_empty() {
                    let back = backs[at % backs.len()];
                    master.send(back.from(), back.to(), flags, (900, 101));
                }
            }
            Step::Wait(ms) => {
                master.run(ms);
                standby.run(ms);
            }
            Step::Publish(bits) => {
                let eligible: Vec<usize> = (0..3).filter(|n| bits & 1 << n != 0).collect();
                master.publish(&eligible);
                standby.publish(&eligible);
            }
            Step::Teach => teach(&mut master, &mut standby),
        }
    }
    master.run(0);
    teach(&mut master, &mut standby);
    check(&master, &standby);
    let open = master.maps.flows.values();
    let open =
        open.filter(|flow| flow.flags & FLOW_CLIENT != 0 && !super::super::learn::is_closed(flow));
    let live: u32 = (0..3).map(|place| master.engine.known.live(place)).sum();
    assert_eq!(
        open.count() as u32,
        live,
        "the counts are those of the table"
    );
    let fronts = master
        .maps
        .flows
        .values()
        .filter(|flow| flow.flags & FLOW_CLIENT != 0);
    assert_eq!(fronts.count() as u64, master.status().flows);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_standby_translates_as_its_master(steps in proptest::collection::vec(step(), 1..120)) {
        play(&steps, |_| {});
    }

    #[test]
    fn with_handshakes_that_wait(steps in proptest::collection::vec(step(), 1..120)) {
        play(&steps, |config| mode(config).replication = Acknowledge::Sync);
    }

    #[test]
    fn with_the_clients_addresses_kept(steps in proptest::collection::vec(step(), 1..120)) {
        play(&steps, |config| mode(config).forward = Forward::Dnat);
    }
}

/// A SYN-ACK to a flow that its client has reset begins nothing: the node has told that it ended.
#[test]
fn an_answer_after_the_end_begins_nothing() {
    let steps = [
        Step::Syn(2, 1_000),
        Step::FromBackend(2, RST),
        Step::FromClient(2, ACK),
        Step::FromClient(2, RST | ACK),
        Step::FromOldBackend(0, SYN | ACK),
    ];
    play(&steps, |config| {
        mode(config).replication = Acknowledge::Sync;
    });
}
