//! The settings of a service, its pools, checks and backends.

use std::time::Duration;

use super::Reach::{self, Live};
use super::{PROGRAM, SOURCES, START, Sheet, Shown, sorted};
use crate::config::{
    Affinity, Agent, Backend, Balance, DEFAULT_POOL, Discover, Flap, Health, HealthKind, Keepalive,
    KernelMode, Limits, Pool, Proxied, Rule, SendProxy, Service, Sockets, StickHow, Tls,
};
use crate::model::Scheduler;

impl Sheet {
    pub(super) fn service(&mut self, service: &Service) {
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
        self.section(format!("service {name}"));
        let listen = &sorted(listen);
        put!(self, START, listen);
        let reach = if kernel.is_some() { PROGRAM } else { Live };
        let mode = &String::from(if kernel.is_some() { "kernel" } else { "proxy" });
        put!(self, START, mode);
        self.balance(balance, reach);
        put!(self, reach, connect_timeout, idle_timeout, max_connections);
        if let Some(KernelMode {
            sources,
            forward,
            replication,
            fallback,
            on_down,
            stray,
            source_rate,
        }) = kernel
        {
            let sources = &sorted(sources);
            put!(self, PROGRAM, sources, forward, replication, fallback);
            put!(self, PROGRAM, on_down, stray, source_rate);
        } else {
            self.proxied(proxied);
        }
        if let Some(Agent {
            address,
            port,
            interval,
            timeout,
            send,
        }) = agent
        {
            self.prefix = "agent.".into();
            put!(self, Live, address, port, interval, timeout);
            self.text("send", send.escape_ascii().to_string(), Live);
        }
        self.prefix = "health.".into();
        health.iter().for_each(|health| self.health(health));
        for backend in backends {
            self.backend(service, backend);
        }
        self.prefix.clear();
        let first = |balance: &Balance| balance.scheduler == Scheduler::First;
        if first(balance) || proxied.pools.iter().any(|pool| first(&pool.balance)) {
            let order: Vec<String> = backends.iter().map(|it| it.name.clone()).collect();
            self.put("backend order", &order, reach);
        }
        for source in discover {
            let Discover {
                pool,
                origin,
                family,
                min_ttl,
                max_ttl,
                hold,
                linger,
                max_backends,
                weight,
            } = source;
            self.prefix = format!("discover {}/{origin}.", service.pool_name(*pool));
            put!(
                self,
                SOURCES,
                family,
                min_ttl,
                max_ttl,
                hold,
                linger,
                max_backends
            );
            self.put("weight", &weight.0, SOURCES);
        }
    }

    fn backend(&mut self, service: &Service, backend: &Backend) {
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
        self.prefix = format!("backend {name}.");
        put!(self, Live, address, max_connections);
        self.put("weight", &weight.0, Live);
        if *backup {
            put!(self, Live, backup);
        }
        if pool.is_some() {
            self.put("pool", &service.pool_name(*pool).to_owned(), Live);
        }
        put!(
            self,
            Live,
            check_address,
            check_port,
            agent_address,
            agent_port
        );
    }

    fn balance(&mut self, balance: &Balance, reach: Reach) {
        let Balance {
            scheduler,
            table_size,
            bounded_load,
            hash_key,
            decay,
            floor,
        } = balance;
        self.put("balance", scheduler, reach);
        let prefix = format!("{}balance.", self.prefix);
        let before = std::mem::replace(&mut self.prefix, prefix);
        put!(self, reach, table_size, bounded_load, decay, floor);
        if !hash_key.is_empty() {
            put!(self, reach, hash_key);
        }
        self.prefix = before;
    }

    fn health(&mut self, health: &Health) {
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
        put!(
            self,
            Live,
            interval,
            fast_interval,
            down_interval,
            timeout,
            rise,
            fall
        );
        put!(self, Live, start, observe, address, port);
        if let Some(Flap {
            limit,
            window,
            hold,
            hold_max,
        }) = flap
        {
            let shown = |time: &Duration| humantime::format_duration(*time).to_string();
            let (window, hold, most) = (shown(window), shown(hold), shown(hold_max));
            let text = format!("{limit} in {window}, held {hold} to {most}");
            self.text("flap", text, Live);
        }
        self.kind(kind);
    }

    fn kind(&mut self, kind: &HealthKind) {
        let mut tls = None;
        let word = match kind {
            HealthKind::Command(command) => {
                self.shape("argv", &command.argv, Live);
                self.put("output_limit", &command.output_limit, Live);
                "command"
            }
            HealthKind::Grpc(grpc) => {
                tls = grpc.tls.as_ref();
                self.put("host", &grpc.host, Live);
                self.put("service", &grpc.service, Live);
                "grpc"
            }
            HealthKind::Http(http) => {
                tls = http.tls.as_ref();
                self.put("http2", &http.http2, Live);
                self.put("head", &http.head, Live);
                self.put("path", &http.path, Live);
                self.put("host", &http.host, Live);
                self.shape("request_headers", &http.request_headers, Live);
                self.shape("status", &http.status, Live);
                self.shape("header", &http.header, Live);
                self.shape("body", &http.body, Live);
                self.put("body_limit", &http.body_limit, Live);
                "http"
            }
            HealthKind::Script(script) => {
                self.shape("steps", &script.steps, Live);
                self.put("read_limit", &script.read_limit, Live);
                "script"
            }
            HealthKind::Tcp => "tcp",
            HealthKind::Tls(written) => {
                tls = Some(written);
                "tls"
            }
        };
        self.text("kind", word.into(), Live);
        if let Some(Tls {
            sni,
            alpn,
            verify,
            ca_file,
            min_days,
        }) = tls
        {
            put!(self, Live, sni, alpn, verify, ca_file, min_days);
        }
    }

    fn proxied(&mut self, proxied: &Proxied) {
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
        let accept_proxy = &sorted(accept_proxy);
        put!(self, Live, accept_proxy, accept_proxy_timeout);
        put!(self, Live, inspect_timeout, inspect_bytes, ech);
        if let Some(SendProxy {
            version,
            authority,
            unique_id,
            crc32c,
        }) = send_proxy
        {
            self.put("send_proxy", version, Live);
            let extras = [
                ("authority", authority),
                ("unique_id", unique_id),
                ("crc32c", crc32c),
            ];
            let extras = extras.into_iter().filter(|(_, wanted)| **wanted);
            let extras: Vec<String> = extras.map(|(name, _)| name.to_owned()).collect();
            self.put("send_proxy.tlv", &extras, Live);
        }
        self.limits(limits);
        self.sockets(sockets);
        if let Some(Affinity { by, how }) = affinity {
            self.shape("affinity.by", by, Live);
            match how {
                StickHow::Hash => self.text("affinity.how", "hash".into(), Live),
                StickHow::Table {
                    size,
                    ttl,
                    fallback,
                } => {
                    self.text("affinity.how", "table".into(), Live);
                    self.put("affinity.size", size, Live);
                    self.put("affinity.ttl", ttl, Live);
                    self.put("affinity.fallback", fallback, Live);
                }
            }
        }
        for Pool {
            name,
            balance,
            health,
        } in pools
        {
            self.prefix = format!("pool {name}.");
            self.balance(balance, Live);
            self.prefix = format!("pool {name}.health.");
            health.iter().for_each(|health| self.health(health));
        }
        self.prefix.clear();
        for (number, rule) in (1..).zip(rules) {
            let Rule {
                sni,
                alpn,
                host,
                source,
                pool,
            } = rule;
            let parts = [
                ("sni", sorted(sni).shown()),
                ("alpn", sorted(alpn).shown()),
                ("host", sorted(host).shown()),
                ("source", sorted(source).shown()),
            ];
            let parts = parts
                .into_iter()
                .filter_map(|(name, it)| Some(format!("{name} {}", it?)));
            let pool = pool.map_or(DEFAULT_POOL, |at| &pools[usize::from(at)].name);
            let text = parts
                .chain([format!("to {pool}")])
                .collect::<Vec<_>>()
                .join(" ");
            self.text(&format!("rule {number}"), text, Live);
        }
    }

    fn limits(&mut self, limits: &Limits) {
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
        let (allow, deny) = (&sorted(allow), &sorted(deny));
        put!(
            self,
            Live,
            allow,
            deny,
            source_rate,
            retries,
            connect_deadline,
            retry_budget
        );
        put!(
            self,
            Live,
            queue_size,
            queue_timeout,
            on_down,
            panic_threshold,
            slow_start
        );
        put!(self, Live, log, log_sample);
    }
    fn sockets(&mut self, sockets: &Sockets) {
        // What nobody has set is not said.
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
        let source = &sorted(sources);
        put!(self, START, source, transparent, mark, user_timeout, mptcp);
        if let Some(Keepalive {
            idle,
            interval,
            count,
        }) = keepalive
        {
            let shown = |time: &Duration| humantime::format_duration(*time).to_string();
            let text = format!("{count} after {}, every {}", shown(idle), shown(interval));
            self.text("keepalive", text, START);
        }
        put!(self, START, fast_open, fast_open_backends);
    }
}
