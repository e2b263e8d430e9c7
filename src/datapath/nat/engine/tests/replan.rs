//! Backends that come, go and change while the program runs.

use std::sync::Arc;

use super::*;

/// The configuration with these backends: number and weight; `moved` has another address.
fn with(balance: &str, backends: &[(usize, u16)], moved: Option<usize>) -> NatCommand {
    let most = backends.iter().map(|(n, _)| n + 1).max().unwrap_or(1);
    let config = config(balance, &vec![1; most], |config| {
        let all = &mut config.services[0].backends;
        all.retain(|it| backends.iter().any(|(n, _)| it.id == id(*n)));
        for backend in all {
            let (n, weight) = backends.iter().find(|(n, _)| backend.id == id(*n)).unwrap();
            backend.weight = crate::model::Weight(*weight);
            if moved == Some(*n) {
                backend.address = at("198.51.100.99:9000").into();
            }
        }
    });
    NatCommand::Configure(Arc::new(config))
}

fn reached(host: &mut Host, clients: std::ops::Range<u32>) -> BTreeMap<SocketAddr, usize> {
    tally(clients.map(|n| host.open(client(n), 100).unwrap().1))
}

#[test]
fn one_that_comes_serves_once_it_is_published() {
    let mut host = Host::master(&config("round_robin", &[1, 1], |_| {}));
    host.command(with("round_robin", &[(0, 1), (1, 1), (2, 1)], None));
    host.run(2);
    assert_eq!(
        reached(&mut host, 0..10).len(),
        2,
        "nobody said that it serves"
    );
    host.publish(&[0, 1, 2]);
    host.run(2);
    let shares = reached(&mut host, 10..40);
    assert_eq!(shares.into_values().collect::<Vec<_>>(), [10, 10, 10]);
}

#[test]
fn one_that_goes_keeps_its_connections_and_gets_no_more() {
    let mut host = Host::master(&config("round_robin", &[1, 1], |_| {}));
    let there = host.establish(client(0));
    let (ours, theirs) = there;
    let stays = (0..2).find(|n| backend(*n) != theirs).unwrap();
    host.command(with("round_robin", &[(stays, 1)], None));
    host.publish(&[stays]);
    host.run(2_000);
    let got: Vec<_> = reached(&mut host, 10..20).into_keys().collect();
    assert_eq!(got, [backend(stays)]);
    let data = host.send(client(0), at(VIP), ACK, (101, 901)).unwrap();
    assert_eq!((data.from, data.to), there);
    let back = host.send(theirs, ours, ACK, (901, 101)).unwrap();
    assert_eq!(back.to, client(0));
    // Told to end them: both ends hear it.
    let gone = id(1 - stays);
    host.packets();
    host.command(NatCommand::Reset([gone].into()));
    host.run(100);
    let ends: Vec<_> = host.packets().into_iter().map(|it| it.to).collect();
    assert_eq!(ends, [client(0), theirs]);
    assert!(host.flow(client(0)).is_none());
    assert!(host.flow(client(10)).is_some(), "others go on");
}

#[test]
fn weights_and_addresses_change_for_new_connections_only() {
    let mut host = Host::master(&config("weighted_round_robin", &[1, 1], |_| {}));
    let (_, theirs) = host.establish(client(0));
    let n = usize::from(theirs != backend(0));
    let weights = [(0, 3), (1, 1)];
    host.command(with("weighted_round_robin", &weights, None));
    host.run(2);
    let shares = reached(&mut host, 10..50);
    assert_eq!((shares[&backend(0)], shares[&backend(1)]), (30, 10));
    host.command(with("weighted_round_robin", &weights, Some(n)));
    host.run(2);
    let shares = reached(&mut host, 50..90);
    assert!(shares.contains_key(&at("198.51.100.99:9000")) && !shares.contains_key(&theirs));
    let data = host.send(client(0), at(VIP), ACK, (101, 901)).unwrap();
    assert_eq!(data.to, theirs);
}

#[test]
fn least_connections_counts_go_to_the_right_backend() {
    let mut host = Host::master(&config("least_connections", &[1, 1], |_| {}));
    for n in 0..20 {
        host.establish(client(n));
    }
    // The place of one without connections may be taken; that of one with connections may not.
    host.command(with("least_connections", &[(1, 1), (2, 1)], None));
    host.publish(&[1, 2]);
    host.run(200);
    for n in 20..30 {
        assert_eq!(host.establish(client(n)).1, backend(2), "{n}");
    }
    host.run(200);
    let shares = reached(&mut host, 30..40);
    assert_eq!((shares[&backend(1)], shares[&backend(2)]), (5, 5));
}

#[test]
fn any_number_of_changes_needs_no_more_room_than_there_is() {
    let first = config("round_robin", &[1, 1], |_| {});
    let mut host = Host::master(&first);
    let sizes = host.engine.sizes();
    for n in 0..2_000 {
        host.command(with("round_robin", &[(0, 1), (1, 1), (2 + n % 7, 1)], None));
        host.publish(&[0, 1, 2 + n % 7]);
        host.run(700);
    }
    assert_eq!(host.engine.sizes(), sizes);
    assert!(host.maps.backends.len() <= sizes.backends as usize);
    assert!(host.maps.slots.len() <= sizes.slots as usize);
    assert_eq!(host.status().counters["backends_no_room"], 0);
    assert_eq!(reached(&mut host, 0..30).len(), 3);
}
