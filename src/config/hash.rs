//! The fingerprint of a configuration: of what it means, not of how it is written.
//!
//! Every structure is taken apart by name, so that a new field does not compile before somebody
//! has decided whether both nodes must agree on it.

use std::fmt::Write as _;

use super::{
    Agent, Backend, Checks, Cluster, Config, Election, Health, Kernel, KernelMode, Node, Proxy,
    Service,
};
use crate::model::ConfigHash;

/// The hash of the canonical text. The order of VIPs, services, backends and listen addresses
/// means nothing; that of nodes and of their addresses does.
pub(super) fn fingerprint(config: &Config) -> ConfigHash {
    let mut text = String::new();
    write_config(&mut text, config);
    ConfigHash::of(text.as_bytes())
}

/// Writes a line; a `String` takes everything.
macro_rules! line {
    ($text:expr, $($what:tt)*) => {
        writeln!($text, $($what)*).expect("a String takes everything")
    };
}

fn write_config(text: &mut String, config: &Config) {
    let Config {
        cluster,
        nodes,
        election,
        health,
        kernel,
        proxy,
        vips,
        services,
        hash: _,
    } = config;
    // Where the key lies is each host's own affair; that the key is the same shows by itself.
    let Cluster {
        name,
        key_file: _,
        key_file_place: _,
        port,
        device,
        relay,
    } = cluster;
    line!(text, "cluster {name} {port} {device} {relay}");
    for node in nodes {
        let Node {
            name,
            priority,
            addresses,
        } = node;
        line!(text, "node {name} {} {addresses:?}", priority.0);
    }
    let Election {
        heartbeat,
        misses,
        preempt,
        preempt_delay,
        dead_man,
    } = election;
    line!(
        text,
        "election {heartbeat:?} {misses} {preempt} {preempt_delay:?} {dead_man:?}"
    );
    let Checks { concurrency } = health;
    line!(text, "checks {concurrency}");
    let Kernel {
        max_flows,
        first_port,
        last_port,
        sync_timeout,
        opening_timeout,
        closing_timeout,
        closed_timeout,
    } = kernel;
    line!(
        text,
        "kernel {max_flows} {first_port} {last_port} {sync_timeout:?} {opening_timeout:?} {closing_timeout:?} {closed_timeout:?}"
    );
    let Proxy {
        workers,
        max_connections,
        drain_timeout,
    } = proxy;
    line!(
        text,
        "proxy {workers:?} {max_connections} {drain_timeout:?}"
    );
    for vip in sorted(vips, |vip| vip.ip()) {
        line!(text, "vip {} {}", vip.address, vip.interface);
    }
    for service in sorted(services, |service| service.name.clone()) {
        write_service(text, service);
    }
}

fn write_service(text: &mut String, service: &Service) {
    let Service {
        id: _,
        name,
        listen,
        balance,
        connect_timeout,
        idle_timeout,
        max_connections,
        kernel,
        agent,
        health,
        backends,
    } = service;
    let listen = sorted(listen, |address| **address);
    line!(
        text,
        "service {name} {listen:?} {balance:?} {connect_timeout:?} {idle_timeout:?} {max_connections}"
    );
    if let Some(kernel) = kernel {
        let KernelMode {
            sources,
            forward,
            replication,
            fallback,
            on_down,
            stray,
            source_rate,
        } = kernel;
        let sources = sorted(sources, |address| **address);
        line!(
            text,
            "kernel {sources:?} {forward:?} {replication:?} {fallback:?} {on_down:?} {stray:?} {source_rate}"
        );
    }
    if let Some(health) = health {
        let Health {
            kind,
            interval,
            fast_interval,
            down_interval,
            timeout,
            rise,
            fall,
            start,
            observe,
            address,
            port,
            flap,
        } = health;
        // The kind has names and values of all its fields in its debugging form.
        line!(
            text,
            "health {kind:?} {interval:?} {fast_interval:?} {down_interval:?} {timeout:?} {rise} {fall}"
        );
        line!(
            text,
            "health {start:?} {observe:?} {address:?} {port:?} {flap:?}"
        );
    }
    if let Some(agent) = agent {
        let Agent {
            address,
            port,
            interval,
            timeout,
            send,
        } = agent;
        line!(
            text,
            "agent {address:?} {port} {interval:?} {timeout:?} {send:?}"
        );
    }
    for backend in sorted(backends, |backend| backend.name.clone()) {
        let Backend {
            id: _,
            name,
            address,
            weight,
            check_address,
            check_port,
            agent_address,
            agent_port,
        } = backend;
        line!(
            text,
            "backend {name} {address} {} {check_address:?} {check_port:?} {agent_address:?} {agent_port:?}",
            weight.0
        );
    }
}

fn sorted<T, K: Ord>(list: &[T], key: impl FnMut(&&T) -> K) -> Vec<&T> {
    let mut list: Vec<_> = list.iter().collect();
    list.sort_by_key(key);
    list
}
