//! From the checked file to the configuration.

use std::sync::Arc;

use std::time::Duration;

use super::difference::{fingerprint, marks};
use super::file;
use super::report::{Field, List, Located, Reported};
use super::{
    Acknowledge, Affinity, Agent, Backend, Balance, Checks, Cluster, Config, Discover, Dns,
    Election, Fallback, Family, Forward, Health, Keepalive, Kernel, KernelMode, Limits, Metrics,
    Mptcp, Node, Notify, OnDown, Pool, Proxied, Proxy, Rule, SendProxy, Service, Sockets, StickBy,
    StickFallback, StickHow, Stray,
};
use crate::model::{BackendId, ConfigHash, Priority, ServiceId, Vip, Weight};

/// The configuration, if every value is there.
pub(super) fn build(file: file::File) -> Result<Config, Reported> {
    let [first, second] = all(file.nodes, node)?
        .try_into()
        .expect("the file's reader counts the nodes");
    let mut config = Config {
        cluster: cluster(file.cluster?)?,
        nodes: [first, second],
        dns: dns(file.dns?)?,
        election: election(file.election?)?,
        health: Checks {
            concurrency: file.health?.concurrency?.value,
        },
        kernel: kernel(file.kernel?)?,
        metrics: Metrics {
            listen: all(file.metrics?.listen.unwrap_or_default(), value)?,
        },
        notify: file.notify.map(|section| notify(section?)).transpose()?,
        proxy: proxy(file.proxy?)?,
        vips: all(file.vips, vip)?,
        services: all(file.services, service)?,
        hash: ConfigHash(0),
        marks: Arc::default(),
    };
    config.marks = marks(&config).into();
    config.hash = fingerprint(&config.marks);
    Ok(config)
}

fn cluster(cluster: file::Cluster) -> Result<Cluster, Reported> {
    let key_file = cluster.key_file?;
    Ok(Cluster {
        name: cluster.name?.value,
        key_file: key_file.value,
        key_file_place: key_file.at.place,
        port: cluster.port?.value,
        device: cluster.device?.value,
        relay: cluster.relay?.value,
    })
}

fn node(node: file::Node) -> Result<Node, Reported> {
    Ok(Node {
        name: node.name?.value,
        priority: Priority(node.priority?.value),
        addresses: all(node.addresses, value)?,
    })
}

fn dns(dns: file::Dns) -> Result<Dns, Reported> {
    Ok(Dns {
        servers: all(dns.servers.unwrap_or_default(), value)?,
        timeout: dns.timeout?.value,
        attempts: dns.attempts?.value,
    })
}

fn election(election: file::Election) -> Result<Election, Reported> {
    let heartbeat = election.heartbeat?.value;
    let misses = election.misses?.value;
    Ok(Election {
        heartbeat,
        misses,
        preempt: election.preempt?.value,
        preempt_delay: election.preempt_delay?.value,
        dead_man: match election.dead_man {
            Some(dead_man) => dead_man?.value,
            None => heartbeat * u32::from(misses) * 4 / 5,
        },
    })
}

fn kernel(kernel: file::Kernel) -> Result<Kernel, Reported> {
    let (first_port, last_port) = kernel.ports?.value.into_inner();
    Ok(Kernel {
        max_flows: kernel.max_flows?.value,
        first_port,
        last_port,
        sync_timeout: kernel.sync_timeout?.value,
        opening_timeout: kernel.opening_timeout?.value,
        closing_timeout: kernel.closing_timeout?.value,
        closed_timeout: kernel.closed_timeout?.value,
    })
}

fn notify(notify: file::Notify) -> Result<Notify, Reported> {
    Ok(Notify {
        command: notify.command?,
        timeout: notify.timeout?.value,
    })
}

fn proxy(proxy: file::Proxy) -> Result<Proxy, Reported> {
    let workers = proxy.workers?.value;
    Ok(Proxy {
        workers: (workers > 0).then_some(workers),
        max_connections: proxy.max_connections?.value,
        drain_timeout: proxy.drain_timeout?.value,
    })
}

fn vip(vip: file::Vip) -> Result<Vip, Reported> {
    Ok(Vip {
        address: vip.address?.value,
        interface: vip.interface?.value,
    })
}

fn service(mut service: file::Service) -> Result<Service, Reported> {
    let name = service.name?.value;
    let pools = service.proxied.pools.take().unwrap_or_default();
    let rules = service.proxied.rules.take().unwrap_or_default();
    let mut proxied = proxied(service.proxied)?;
    if matches!(&service.mode, Ok(mode) if mode.value == file::Mode::Proxy) {
        proxied.limits.source_rate = or(service.kernel.source_rate.take(), 0)?;
        proxied.sockets.sources = all(service.kernel.source.take().unwrap_or_default(), value)?;
        proxied.limits.on_down = or(service.kernel.on_down.take(), OnDown::Keep)?;
    }
    let balance = balance(service.balance?)?;
    let health = service.health.map(|section| health(section?)).transpose()?;
    let mut discover = sources(None, service.discover.take())?;
    let mut backends = all(service.backends, |written| backend(&name, None, written))?;
    for (written, place) in pools.into_iter().zip(0..) {
        let mut written = written?;
        discover.extend(sources(Some(place), written.discover.take())?);
        let (pool, own) = pool(&name, place, written, &balance, health.as_ref())?;
        proxied.pools.push(pool);
        backends.extend(own);
    }
    proxied.rules = all(rules, |written| rule(written, &proxied.pools))?;
    Ok(Service {
        id: ServiceId::of(&name),
        listen: all(service.listen, value)?,
        balance,
        connect_timeout: service.connect_timeout?.value,
        idle_timeout: service.idle_timeout?.value,
        max_connections: service.max_connections?.value,
        kernel: match service.mode?.value {
            file::Mode::Kernel => Some(kernel_mode(service.kernel)?),
            file::Mode::Proxy => None,
        },
        proxied,
        agent: service.agent.map(|section| agent(section?)).transpose()?,
        health,
        backends,
        discover,
        name,
    })
}

fn balance(written: file::Balance) -> Result<Balance, Reported> {
    Ok(Balance {
        scheduler: written.scheduler?.value,
        table_size: or(written.table_size, Balance::TABLE_SIZE)?,
        bounded_load: optional(written.bounded_load)?,
        hash_key: or(written.hash_key, String::new())?,
        decay: or(written.decay, Balance::DECAY)?,
        floor: or(written.floor, Balance::FLOOR)?,
    })
}

fn kernel_mode(written: file::KernelMode) -> Result<KernelMode, Reported> {
    Ok(KernelMode {
        sources: all(written.source.unwrap_or_default(), value)?,
        forward: or(written.forward, Forward::Nat)?,
        replication: or(written.replication, Acknowledge::Sync)?,
        fallback: or(written.fallback, Fallback::Refuse)?,
        on_down: or(written.on_down, OnDown::Keep)?,
        stray: or(written.stray, Stray::Reset)?,
        source_rate: or(written.source_rate, 0)?,
    })
}

fn proxied(written: file::Proxied) -> Result<Proxied, Reported> {
    let default = Proxied::default();
    let limits = limits(written.limits)?;
    let sockets = sockets(written.sockets)?;
    let tlvs = all(written.send_proxy_tlvs.unwrap_or_default(), value)?;
    let send_proxy = match written.send_proxy {
        Some(version) => Some(SendProxy {
            version: version?.value,
            authority: tlvs.contains(&file::Tlv::Authority),
            unique_id: tlvs.contains(&file::Tlv::UniqueId),
            crc32c: tlvs.contains(&file::Tlv::Crc32c),
        }),
        None => None,
    };
    Ok(Proxied {
        accept_proxy: all(written.accept_proxy.unwrap_or_default(), value)?,
        accept_proxy_timeout: or(written.accept_proxy_timeout, default.accept_proxy_timeout)?,
        send_proxy,
        inspect_timeout: or(written.inspect_timeout, default.inspect_timeout)?,
        inspect_bytes: or(written.inspect_bytes, default.inspect_bytes)?,
        ech: or(written.ech, default.ech)?,
        limits,
        sockets,
        affinity: match written.affinity {
            Some(section) => Some(affinity(section?)?),
            None => None,
        },
        pools: Vec::new(),
        rules: Vec::new(),
    })
}

fn limits(written: file::Limits) -> Result<Limits, Reported> {
    let default = Limits::default();
    Ok(Limits {
        allow: all(written.allow.unwrap_or_default(), value)?,
        deny: all(written.deny.unwrap_or_default(), value)?,
        source_rate: 0,
        retries: optional(written.retries)?,
        connect_deadline: optional(written.connect_deadline)?,
        retry_budget: optional(written.retry_budget)?,
        queue_size: or(written.queue_size, 0)?,
        queue_timeout: or(written.queue_timeout, default.queue_timeout)?,
        panic_threshold: or(written.panic_threshold, 0)?,
        slow_start: or(written.slow_start, default.slow_start)?,
        log: or(written.log, default.log)?,
        log_sample: or(written.log_sample, 1)?,
        on_down: OnDown::Keep,
    })
}

fn sockets(written: file::Sockets) -> Result<Sockets, Reported> {
    Ok(Sockets {
        sources: Vec::new(),
        transparent: or(written.transparent, false)?,
        mark: optional(written.mark)?,
        keepalive: match written.keepalive {
            Some(section) => {
                let section = section?;
                Some(Keepalive {
                    idle: section.idle?.value,
                    interval: section.interval?.value,
                    count: section.count?.value,
                })
            }
            None => None,
        },
        user_timeout: optional(written.user_timeout)?,
        mptcp: or(written.mptcp, Mptcp::Off)?,
        fast_open: or(written.fast_open, 0)?,
        fast_open_backends: or(written.fast_open_backends, false)?,
    })
}

fn affinity(written: file::Affinity) -> Result<Affinity, Reported> {
    let how = match written.table?.value {
        false => StickHow::Hash,
        true => StickHow::Table {
            size: or(written.size, 100_000)?,
            ttl: or(written.ttl, file::TTL)?,
            fallback: or(written.fallback, StickFallback::Reassign)?,
        },
    };
    let by = match written.by?.value {
        file::By::Source => StickBy::Source {
            prefix4: or(written.prefix4, 32)?,
            prefix6: or(written.prefix6, 64)?,
        },
        file::By::SessionId => StickBy::SessionId,
        file::By::Sni => StickBy::Sni,
        file::By::RdpCookie => StickBy::RdpCookie,
        // That it is there was checked.
        file::By::Cookie => StickBy::Cookie(or(written.cookie, String::new())?),
    };
    Ok(Affinity { by, how })
}

/// The sources of a pool.
fn sources(
    pool: Option<u16>,
    written: Option<List<file::Discover>>,
) -> Result<Vec<Discover>, Reported> {
    all(written.unwrap_or_default(), |source| {
        let (min_ttl, max_ttl) = super::sources::bounds(&source)?;
        let asked = source.asked;
        Ok(Discover {
            pool,
            origin: source.origin?.value,
            family: or(asked.family, Family::Both)?,
            min_ttl,
            max_ttl,
            hold: optional(asked.hold)?,
            linger: or(asked.linger, Duration::ZERO)?,
            max_backends: source.max_backends?.value,
            weight: Weight(source.weight?.value),
        })
    })
}

/// A pool with its backends.
fn pool(
    service: &str,
    place: u16,
    written: file::Pool,
    own_balance: &Balance,
    own: Option<&Health>,
) -> Result<(Pool, Vec<Backend>), Reported> {
    let pool = Pool {
        name: written.name?.value,
        balance: match written.balance {
            Some(section) => balance(section?)?,
            None => own_balance.clone(),
        },
        health: match written.health {
            Some(section) => Some(health(section?)?),
            None => own.cloned(),
        },
    };
    let backends = all(written.backends, |backends| {
        backend(service, Some(place), backends)
    })?;
    Ok((pool, backends))
}

fn rule(written: file::Rule, pools: &[Pool]) -> Result<Rule, Reported> {
    let name = written.pool?.value;
    // That there is one, or that it is the service's own, was checked.
    let place = pools.iter().position(|pool| pool.name == name);
    Ok(Rule {
        sni: all(written.sni.unwrap_or_default(), value)?,
        alpn: all(written.alpn.unwrap_or_default(), value)?,
        host: all(written.host.unwrap_or_default(), value)?,
        source: all(written.source.unwrap_or_default(), value)?,
        pool: place.map(|place| place as u16),
    })
}

fn health(health: file::Health) -> Result<Health, Reported> {
    let interval = health.interval?.value;
    Ok(Health {
        kind: health.kind?,
        interval,
        fast_interval: or(health.fast_interval, interval)?,
        down_interval: or(health.down_interval, interval)?,
        timeout: health.timeout?.value,
        rise: health.rise?.value,
        fall: health.fall?.value,
        start: health.start?.value,
        observe: health.observe?.value,
        address: optional(health.address)?,
        port: optional(health.port)?,
        flap: health.flap?,
    })
}

fn agent(agent: file::Agent) -> Result<Agent, Reported> {
    Ok(Agent {
        address: optional(agent.address)?,
        port: agent.port?.value,
        interval: agent.interval?.value,
        timeout: agent.timeout?.value,
        send: agent.send?,
    })
}

fn backend(service: &str, pool: Option<u16>, backend: file::Backend) -> Result<Backend, Reported> {
    let name = backend.name?.value;
    Ok(Backend {
        id: BackendId::of(service, &name),
        address: backend.address?.value,
        weight: Weight(backend.weight?.value),
        pool,
        max_connections: optional(backend.max_connections)?,
        backup: or(backend.backup, false)?,
        check_address: optional(backend.elsewhere.check_address)?,
        check_port: optional(backend.elsewhere.check_port)?,
        agent_address: optional(backend.elsewhere.agent_address)?,
        agent_port: optional(backend.elsewhere.agent_port)?,
        name,
    })
}

/// All elements, or the proof that one is wrong.
fn all<T, U>(
    list: List<T>,
    mut each: impl FnMut(T) -> Result<U, Reported>,
) -> Result<Vec<U>, Reported> {
    list.into_iter().map(|element| each(element?)).collect()
}

/// What is written, or the default.
fn or<T>(written: Option<Field<T>>, default: T) -> Result<T, Reported> {
    match written {
        Some(field) => field.map(|located| located.value),
        None => Ok(default),
    }
}

/// What is written, if anything.
fn optional<T>(written: Option<Field<T>>) -> Result<Option<T>, Reported> {
    written.map(|field| Ok(field?.value)).transpose()
}

fn value<T>(located: Located<T>) -> Result<T, Reported> {
    Ok(located.value)
}
