//! From the checked file to the configuration.

use super::file;
use super::hash::fingerprint;
use super::report::{Field, List, Located, Reported};
use super::{
    Acknowledge, Agent, Backend, Checks, Cluster, Config, Election, Fallback, Forward, Health,
    Kernel, KernelMode, Node, OnDown, Proxy, Service, Stray,
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
        election: election(file.election?)?,
        health: Checks {
            concurrency: file.health?.concurrency?.value,
        },
        kernel: kernel(file.kernel?)?,
        proxy: proxy(file.proxy?)?,
        vips: all(file.vips, vip)?,
        services: all(file.services, service)?,
        hash: ConfigHash(0),
    };
    config.hash = fingerprint(&config);
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

fn service(service: file::Service) -> Result<Service, Reported> {
    let name = service.name?.value;
    Ok(Service {
        id: ServiceId::of(&name),
        listen: all(service.listen, value)?,
        balance: service.balance?.value,
        connect_timeout: service.connect_timeout?.value,
        idle_timeout: service.idle_timeout?.value,
        max_connections: service.max_connections?.value,
        kernel: match service.mode?.value {
            file::Mode::Kernel => Some(kernel_mode(service.kernel)?),
            file::Mode::Proxy => None,
        },
        agent: match service.agent {
            Some(section) => Some(agent(section?)?),
            None => None,
        },
        health: match service.health {
            Some(section) => Some(health(section?)?),
            None => None,
        },
        backends: all(service.backends, |written| backend(&name, written))?,
        name,
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

fn backend(service: &str, backend: file::Backend) -> Result<Backend, Reported> {
    let name = backend.name?.value;
    Ok(Backend {
        id: BackendId::of(service, &name),
        address: backend.address?.value,
        weight: Weight(backend.weight?.value),
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

/// What is written, if anything is.
fn optional<T>(written: Option<Field<T>>) -> Result<Option<T>, Reported> {
    written.map(|field| value(field?)).transpose()
}

fn value<T>(located: Located<T>) -> Result<T, Reported> {
    Ok(located.value)
}
