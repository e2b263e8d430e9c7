//! The fingerprint of a configuration: of what it means, not of how it is written.
//!
//! Every structure is taken apart by name, so that a new field does not compile before somebody
//! has decided whether both nodes must agree on it.

use std::fmt::Write as _;

use super::{
    Affinity, Agent, Backend, Balance, Checks, Cluster, Config, Discover, Dns, Election, Health,
    Kernel, KernelMode, Limits, Node, Observe, Pool, Proxied, Proxy, Rule, Service, Sockets, Start,
};
use crate::model::{ConfigHash, Scheduler};

/// The hash of the canonical text. The order of VIPs, services, backends and listen addresses
/// means nothing; that of nodes and of their addresses does, and that of backends with `first`.
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
        dns,
        election,
        health,
        kernel,
        proxy,
        vips,
        services,
        hash: _,
        marks: _,
        // Who is told of a node is each host's own affair.
        metrics: _,
        notify: _,
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
    let Dns {
        servers,
        timeout,
        attempts,
    } = dns;
    if *dns != Dns::default() {
        line!(text, "dns {servers:?} {timeout:?} {attempts}");
    }
    let Checks { concurrency } = health;
    if *concurrency != Checks::CONCURRENCY {
        line!(text, "checks {concurrency}");
    }
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
        proxied,
        agent,
        health,
        backends,
        discover,
    } = service;
    let listen = sorted(listen, |address| **address);
    let Balance {
        scheduler,
        table_size,
        bounded_load,
        hash_key,
        decay,
        floor,
    } = balance;
    line!(
        text,
        "service {name} {listen:?} {scheduler:?} {connect_timeout:?} {idle_timeout:?} {max_connections}"
    );
    // Only if it says more than the word, so that a file without it means what it always meant.
    if *balance != Balance::from(*scheduler) {
        line!(
            text,
            "balance {table_size} {bounded_load:?} {hash_key:?} {decay:?} {floor}"
        );
    }
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
    // What says nothing keeps the fingerprint that earlier versions of the program gave it.
    if *proxied != Proxied::default() {
        write_proxied(text, proxied);
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
    if let Some(health) = health {
        write_health(text, health);
    }
    let mut backends = sorted(backends, |backend| backend.name.clone());
    if *scheduler == Scheduler::First {
        // They are filled in this order.
        backends = service.backends.iter().collect();
    }
    for backend in backends {
        let Backend {
            id: _,
            name,
            address,
            weight,
            max_connections,
            backup,
            pool,
            check_address,
            check_port,
            agent_address,
            agent_port,
        } = backend;
        let elsewhere = (check_address, check_port, agent_address, agent_port);
        if elsewhere != (&None, &None, &None, &None) {
            line!(text, "elsewhere {elsewhere:?}");
        }
        line!(text, "backend {name} {address} {}", weight.0);
        if let Some(most) = max_connections {
            line!(text, "max_connections {most}");
        }
        if *backup {
            line!(text, "backup");
        }
        if let Some(pool) = pool {
            line!(text, "pool {}", proxied.pools[usize::from(*pool)].name);
        }
    }
    write_sources(text, service, discover);
}

fn write_sources(text: &mut String, service: &Service, sources: &[Discover]) {
    let pool = |source: &Discover| service.pool_name(source.pool).to_owned();
    for source in sorted(sources, |source| (pool(source), source.origin.clone())) {
        let Discover {
            pool: _,
            origin,
            family,
            min_ttl,
            max_ttl,
            hold,
            linger,
            max_backends,
            weight,
        } = source;
        line!(
            text,
            "discover {} {origin:?} {family:?} {min_ttl:?} {max_ttl:?} {hold:?} {linger:?} {max_backends} {}",
            pool(source),
            weight.0
        );
    }
}

fn write_health(text: &mut String, health: &Health) {
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
        "health {kind:?} {interval:?} {timeout:?} {rise} {fall}"
    );
    if (fast_interval, down_interval) != (interval, interval) {
        line!(text, "intervals {fast_interval:?} {down_interval:?}");
    }
    let rest = (start, observe, address, port, flap);
    if rest != (&Start::Check, &Observe::Connects, &None, &None, &None) {
        line!(text, "rest {rest:?}");
    }
}

fn write_proxied(text: &mut String, proxied: &Proxied) {
    let Proxied {
        accept_proxy,
        accept_proxy_timeout,
        send_proxy,
        inspect_timeout,
        inspect_bytes,
        ech,
        limits,
        sockets,
        affinity,
        pools,
        rules,
    } = proxied;
    let accept_proxy = sorted(accept_proxy, |net| **net);
    line!(
        text,
        "proxied {accept_proxy:?} {accept_proxy_timeout:?} {send_proxy:?} {inspect_timeout:?} {inspect_bytes} {ech:?}"
    );
    write_limits(text, limits);
    write_sockets(text, sockets);
    // Only if there is any, as above.
    if let Some(Affinity { by, how }) = affinity {
        line!(text, "affinity {by:?} {how:?}");
    }
    for pool in sorted(pools, |pool| pool.name.clone()) {
        let Pool {
            name,
            balance,
            health,
        } = pool;
        line!(text, "pool {name} {balance:?}");
        if let Some(health) = health {
            write_health(text, health);
        }
    }
    // The order of rules is what they mean.
    for rule in rules {
        let Rule {
            sni,
            alpn,
            host,
            source,
            pool,
        } = rule;
        let (sni, alpn) = (
            sorted(sni, |it| (*it).clone()),
            sorted(alpn, |it| (*it).clone()),
        );
        let (host, source) = (sorted(host, |it| (*it).clone()), sorted(source, |it| **it));
        let pool = pool.map(|pool| &pools[usize::from(pool)].name);
        line!(text, "rule {sni:?} {alpn:?} {host:?} {source:?} {pool:?}");
    }
}

fn write_limits(text: &mut String, limits: &Limits) {
    if *limits == Limits::default() {
        return;
    }
    let Limits {
        allow,
        deny,
        source_rate,
        retries,
        connect_deadline,
        retry_budget,
        queue_size,
        queue_timeout,
        on_down,
        panic_threshold,
        slow_start,
        log,
        log_sample,
    } = limits;
    let (allow, deny) = (sorted(allow, |it| **it), sorted(deny, |it| **it));
    line!(text, "access {allow:?} {deny:?} {source_rate}");
    line!(
        text,
        "retry {retries:?} {connect_deadline:?} {retry_budget:?}"
    );
    line!(text, "queue {queue_size} {queue_timeout:?}");
    line!(text, "down {on_down:?} {panic_threshold} {slow_start:?}");
    line!(text, "log {log:?} {log_sample}");
}

fn write_sockets(text: &mut String, sockets: &Sockets) {
    if *sockets == Sockets::default() {
        return;
    }
    let Sockets {
        sources,
        transparent,
        mark,
        keepalive,
        user_timeout,
        mptcp,
        fast_open,
        fast_open_backends,
    } = sockets;
    let sources = sorted(sources, |address| **address);
    line!(
        text,
        "sockets {sources:?} {transparent} {mark:?} {keepalive:?} {user_timeout:?} {mptcp:?} {fast_open} {fast_open_backends}"
    );
}

fn sorted<T, K: Ord>(list: &[T], key: impl FnMut(&&T) -> K) -> Vec<&T> {
    let mut list: Vec<_> = list.iter().collect();
    list.sort_by_key(key);
    list
}
