//! Who gets new connections.

use super::*;

/// Which backends so many clients reach.
fn reached(host: &mut Host, clients: std::ops::Range<u32>) -> Vec<SocketAddr> {
    clients
        .map(|n| host.open(client(n), 100).unwrap().1)
        .collect()
}

fn shares(host: &mut Host, clients: std::ops::Range<u32>, backends: usize) -> Vec<usize> {
    let tally = tally(reached(host, clients));
    (0..backends)
        .map(|n| tally.get(&backend(n)).copied().unwrap_or(0))
        .collect()
}

#[test]
fn rotations_are_exact_over_any_period() {
    let mut even = Host::master(&config("round_robin", &[1, 5, 9], |_| {}));
    assert_eq!(shares(&mut even, 0..30, 3), [10, 10, 10]);
    let mut weighted = Host::master(&config("weighted_round_robin", &[5, 1, 2], |_| {}));
    for turn in 0..4 {
        let from = turn * 8;
        assert_eq!(shares(&mut weighted, from..from + 8, 3), [5, 1, 2]);
    }
    // Smooth: the heaviest never three times in a row.
    let order = reached(&mut weighted, 32..64);
    assert!(
        order
            .windows(4)
            .all(|four| four.iter().any(|it| *it != backend(0)))
    );
}

#[test]
fn a_rotation_that_is_too_long_is_rounded() {
    let weights: Vec<u16> = (0..40).map(|n| 256 - n).collect();
    let mut host = Host::master(&config("weighted_round_robin", &weights, |_| {}));
    let slots = host.maps.services.values().next().unwrap().slots;
    assert!((3_000..=4_096).contains(&slots), "{slots}");
    let got = shares(&mut host, 0..slots, 40);
    assert!(got.iter().all(|share| *share > 0));
    let sum: usize = weights.iter().map(|weight| usize::from(*weight)).sum();
    for (share, weight) in got.iter().zip(&weights) {
        let ideal = usize::from(*weight) * slots as usize / sum;
        assert!(share.abs_diff(ideal) <= 1, "{share} for {ideal}");
    }
}

#[test]
fn a_drained_backend_gets_nothing_after_one_publication() {
    let mut host = Host::master(&config("weighted_round_robin", &[3, 2, 1], |_| {}));
    reached(&mut host, 0..7);
    host.publish(&[0, 2]);
    assert_eq!(shares(&mut host, 100..140, 3), [30, 0, 10]);
    host.run(2);
    host.publish(&[]);
    assert_eq!(host.open(client(200), 100), None);
    host.run(2);
    host.publish(&[1]);
    assert_eq!(shares(&mut host, 300..305, 3), [0, 5, 0]);
}

#[test]
fn the_half_that_is_read_is_never_written() {
    let mut host = Host::master(&config("weighted_round_robin", &[3, 2, 1], |_| {}));
    let read = |host: &Host| {
        let service = host.maps.services.values().next().unwrap();
        let slots = service.first as usize..(service.first + service.slots) as usize;
        (service.first, host.maps.slots[slots].to_vec())
    };
    for n in 0..20 {
        let (first, before) = read(&host);
        host.publish(&[n % 3, (n + 1) % 3]);
        let kept = first as usize..first as usize + before.len();
        assert_eq!(host.maps.slots[kept], before, "a reader may still be there");
        assert_ne!(read(&host).0, first);
        host.run(2);
    }
}

#[test]
fn publications_keep_their_distance() {
    let mut host = Host::master(&config("round_robin", &[1, 1, 1], |_| {}));
    let first = |host: &Host| host.maps.services.values().next().unwrap().first;
    host.publish(&[0, 1]);
    let published = first(&host);
    host.publish(&[0]);
    host.publish(&[2]);
    assert_eq!(
        first(&host),
        published,
        "the other half was left a moment ago"
    );
    host.run(1);
    assert_ne!(first(&host), published);
    assert_eq!(shares(&mut host, 0..4, 3), [0, 0, 4]);
}

#[test]
fn the_least_loaded_gets_the_next_ones() {
    let mut host = Host::master(&config("least_connections", &[1, 1, 2], |_| {}));
    assert_eq!(shares(&mut host, 0..40, 3), [10, 10, 20]);
    // All of one backend's connections end.
    for n in 0..40 {
        let flow = host.flow(client(n)).unwrap();
        if flow.to_dst == backend(0).ip().into() {
            host.send(client(n), at(VIP), RST, (101, 0));
        }
    }
    host.run(100);
    assert_eq!(shares(&mut host, 100..110, 3), [10, 0, 0]);
    host.run(100);
    assert_eq!(shares(&mut host, 200..208, 3), [2, 2, 4]);
}

#[test]
fn counts_are_published_ten_times_a_second_at_most() {
    let mut host = Host::master(&config("least_connections", &[1, 1], |_| {}));
    host.run(1_000);
    let first = |host: &Host| host.maps.services.values().next().unwrap().first;
    let (mut before, mut times) = (first(&host), 0);
    for n in 0..500 {
        host.open(client(n), 100);
        host.run(1);
        times += i32::from(std::mem::replace(&mut before, first(&host)) != first(&host));
    }
    assert!((4..=6).contains(&times), "{times}");
    host.run(1_000);
    let quiet = first(&host);
    host.run(1_000);
    assert_eq!(first(&host), quiet, "nothing changed");
}

#[test]
fn a_full_service_takes_nobody_until_it_has_room() {
    let mut host = Host::master(&config("round_robin", &[1, 1], |config| {
        config.services[0].max_connections = 40;
    }));
    assert_eq!(shares(&mut host, 0..40, 2), [20, 20]);
    assert_eq!(host.open(client(50), 100), None);
    let close = |host: &mut Host, n| host.send(client(n), at(VIP), RST, (101, 0));
    close(&mut host, 0);
    close(&mut host, 1);
    assert_eq!(host.open(client(50), 100), None, "95 % are there");
    close(&mut host, 2);
    assert!(host.open(client(50), 100).is_some());
    assert!(names(&host.events()).contains(&"unserved"));
}

#[test]
fn each_family_has_its_backends_and_each_listener_its_way_out() {
    let both = config("round_robin", &[1, 1], |config| {
        config.services[0].listen.push(at("[2001:db8::100]:80"));
        config.services[0].listen.push(at("192.0.2.100:81"));
        config.services[0].backends[1].address = at("[2001:db8::21]:8080").into();
    });
    let mut host = Host::master(&both);
    let sizes = host.engine.sizes();
    assert_eq!(
        (sizes.slots, sizes.backends),
        (4 * 1_024, 1_024),
        "two halves, twice, each with room for all backends that may come"
    );
    let six = at("[2001:db8:1::1]:40000");
    let seen = host
        .send(six, at("[2001:db8::100]:80"), SYN, (100, 0))
        .unwrap();
    assert_eq!(seen.to, at("[2001:db8::21]:8080"));
    // No source of that family is named: the address that the client connected to.
    assert_eq!(seen.from.ip(), at("[2001:db8::100]:80").ip());
    assert_eq!(seen.mss, Some(1_440));
    for service in [VIP, "192.0.2.100:81"] {
        let seen = host.send(at(CLIENT), at(service), SYN, (100, 0)).unwrap();
        assert_eq!(
            (seen.to, seen.from.ip()),
            (backend(0), at("198.51.100.100:0").ip())
        );
        assert_eq!(seen.mss, Some(1_460));
    }
}

#[test]
fn the_nodes_take_their_ports_from_two_halves() {
    let config = config("round_robin", &[1], |_| {});
    let of = |node| Host::new(&config, node).maps.settings;
    let (first, second) = (of(NodeId::First), of(NodeId::Second));
    assert_eq!(
        (first.range_first, first.range_last),
        (second.range_first, second.range_last)
    );
    assert_eq!(first.own_first, first.range_first);
    assert_eq!(first.own_last + 1, second.own_first);
    assert_eq!(second.own_last, second.range_last);
    assert_eq!(
        first.own_last - first.own_first,
        second.own_last - second.own_first
    );
}

/// With dnat there is no source whose device would lead to a backend.
#[test]
fn dnat_finds_the_device_of_a_backend() {
    let device = |how: &dyn Fn(&mut Config)| {
        let config = config("round_robin", &[1], |config| {
            mode(config).forward = Forward::Dnat;
            how(config);
        });
        let mut host = Host::master(&config);
        host.open(at(CLIENT), 100).unwrap();
        host.flow(at(CLIENT)).unwrap().ifindex
    };
    assert_eq!(device(&|_| {}), BACK, "that of its network");
    // The narrower of two networks.
    let wide = |config: &mut Config| config.vips[0].address = "198.51.0.100/16".parse().unwrap();
    assert_eq!(device(&wide), BACK);
    // It is behind a router on the only interface that there is for its family.
    let far = |config: &mut Config| {
        config.services[0].backends[0].address = at("203.0.113.21:8080").into();
        config.vips[1].interface = "front".into();
        config.vips[2].interface = "back".into();
    };
    assert_eq!(device(&far), FRONT);
}
