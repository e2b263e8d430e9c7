//! Services and backends.

use super::Kind::{Counter, Gauge, Histogram, Info};
use super::Unit::{Bytes, Seconds};
use super::{Metric, Samples, metric};
use crate::model::AdminState;
use crate::status::{BackendStatus, ServiceStatus, Status};

const STATES: [AdminState; 3] = [
    AdminState::Enabled,
    AdminState::Drain,
    AdminState::Maintenance,
];

/// Both labels of a backend.
const BACKEND: &[&str] = &["service", "backend"];

fn services(s: &Status, out: &mut Samples, value: fn(&ServiceStatus) -> u64) {
    for service in &s.services {
        out.at([&service.name], value(service) as f64);
    }
}

fn backends(s: &Status) -> impl Iterator<Item = (&str, &BackendStatus)> {
    s.services.iter().flat_map(|service| {
        let name = service.name.as_str();
        service.backends.iter().map(move |backend| (name, backend))
    })
}

fn each(s: &Status, out: &mut Samples, value: fn(&BackendStatus) -> u64) {
    for (service, backend) in backends(s) {
        out.at([service, &backend.name], value(backend) as f64);
    }
}

#[rustfmt::skip]
pub(super) const METRICS: &[Metric] = &[
    metric(Info, "service", None, &["service", "mode", "balance"],
        "What carries the service's connections (kernel or proxy), and its scheduler.",
        |s, out| for it in &s.services {
            out.at([&it.name, it.mode.as_str(), &it.balance], 1.0);
        }),
    metric(Gauge, "service_fallback", None, &["service"],
        "1: the service is proxied, since this host cannot have the kernel mode.",
        |s, out| services(s, out, |it| it.fallback.into())),
    metric(Gauge, "service_active_connections", None, &["service"], "Connections now.",
        |s, out| services(s, out, |it| it.connections)),
    metric(Counter, "service_connections", None, &["service"], "Connections that a backend took.",
        |s, out| services(s, out, |it| it.total)),
    metric(Counter, "service_refused", None, &["service", "reason"],
        "Clients that got no backend: no_backend (none took it), limit, header (PROXY protocol), denied, source_rate, queue_timeout.",
        |s, out| for it in &s.services {
            for (reason, count) in [
                ("no_backend", it.failed),
                ("limit", it.refused),
                ("header", it.bad_headers),
                ("denied", it.denied),
                ("source_rate", it.too_fast),
                ("queue_timeout", it.queue_timeouts),
            ] {
                out.at([&it.name, reason], count as f64);
            }
        }),
    metric(Gauge, "service_queued", None, &["service"],
        "Clients that wait for a backend with room.",
        |s, out| services(s, out, |it| it.queued)),
    metric(Counter, "service_retries", None, &["service"],
        "Times that another backend was tried, in proxy mode.",
        |s, out| services(s, out, |it| it.retries)),
    metric(Gauge, "service_backends", None, &["service"], "Backends.",
        |s, out| services(s, out, |it| it.backends.len() as u64)),
    metric(Gauge, "service_backends_available", None, &["service"],
        "Backends that are up, enabled and not leaving.",
        |s, out| services(s, out, |it| {
            let serves = |it: &&BackendStatus| {
                it.up && it.admin == AdminState::Enabled && !it.leaving
            };
            it.backends.iter().filter(serves).count() as u64
        })),
    metric(Gauge, "service_remembered_clients", None, &["service"],
        "Clients that are remembered, where the service has affinity.",
        |s, out| for it in &s.services {
            if let Some(sticks) = &it.sticks {
                out.at([&it.name], sticks.entries as f64);
            }
        }),
    metric(Counter, "service_affinity", None, &["service", "result"],
        "Connections that went where their client was (hit), and others (miss).",
        |s, out| for it in &s.services {
            if let Some(sticks) = &it.sticks {
                out.at([&it.name, "hit"], sticks.hits as f64);
                out.at([&it.name, "miss"], sticks.misses as f64);
            }
        }),
    metric(Gauge, "source_backends", None, &["service", "source", "pool"],
        "Backends that a source gives.",
        |s, out| for it in &s.services {
            for source in &it.sources {
                out.at([&it.name, &source.source, &source.pool], source.backends as f64);
            }
        }),
    metric(Gauge, "source_failing", None, &["service", "source", "pool"],
        "1: the source's last answer was not taken, or not as a whole.",
        |s, out| for it in &s.services {
            for source in &it.sources {
                out.flag([&it.name, &source.source, &source.pool], source.error.is_some());
            }
        }),
    metric(Gauge, "source_answered", Some(Seconds), &["service", "source", "pool"],
        "Time since the source's last good answer; absent until there was one.",
        |s, out| for it in &s.services {
            for source in &it.sources {
                if let Some(ms) = source.answered_ms_ago {
                    out.at([&it.name, &source.source, &source.pool], ms as f64 / 1e3);
                }
            }
        }),
    // Backends.
    metric(Gauge, "backend_up", None, BACKEND, "1: the health verdict is good.",
        |s, out| each(s, out, |it| it.up.into())),
    metric(Gauge, "backend_state", None, &["service", "backend", "state"],
        "1 for what operators want of it: enabled, drain or maintenance.",
        |s, out| for (service, it) in backends(s) {
            for state in STATES {
                out.flag([service, &it.name, state.as_str()], state == it.admin);
            }
        }),
    metric(Gauge, "backend_leaving", None, BACKEND, "1: it was removed, and has connections that go on.",
        |s, out| each(s, out, |it| it.leaving.into())),
    metric(Gauge, "backend_weight", None, BACKEND, "Its share.",
        |s, out| each(s, out, |it| it.weight.into())),
    metric(Gauge, "backend_active_connections", None, BACKEND, "Connections now.",
        |s, out| each(s, out, |it| it.connections)),
    metric(Counter, "backend_connections", None, BACKEND, "Connections that it took.",
        |s, out| each(s, out, |it| it.total)),
    metric(Counter, "backend_connect_failures", None, &["service", "backend", "reason"],
        "Connects that failed: refused, timeout, unreachable, other.",
        |s, out| for (service, it) in backends(s) {
            for (reason, count) in [
                ("refused", it.failures.refused),
                ("timeout", it.failures.timeout),
                ("unreachable", it.failures.unreachable),
                ("other", it.failures.other),
            ] {
                out.at([service, &it.name, reason], count as f64);
            }
        }),
    metric(Histogram, "backend_connect", Some(Seconds), BACKEND,
        "What connects took, of proxied services.",
        |s, out| for (service, it) in backends(s) {
            out.histogram([service, &it.name], &it.connect);
        }),
    metric(Counter, "backend", Some(Bytes), &["service", "backend", "direction"],
        "Bytes of proxied connections, from clients (up) and to them (down).",
        |s, out| for (service, it) in backends(s) {
            out.at([service, &it.name, "up"], it.bytes_up as f64);
            out.at([service, &it.name, "down"], it.bytes_down as f64);
        }),
    metric(Counter, "backend_ends", None, &["service", "backend", "end"],
        "Proxied connections that have ended: complete, client_error, backend_error, backend_down, idle, dropped (by this node).",
        |s, out| for (service, it) in backends(s) {
            for (end, count) in [
                ("complete", it.ends.complete),
                ("client_error", it.ends.client_error),
                ("backend_error", it.ends.backend_error),
                ("backend_down", it.ends.backend_down),
                ("idle", it.ends.idle),
                ("dropped", it.ends.dropped),
            ] {
                out.at([service, &it.name, end], count as f64);
            }
        }),
    metric(Counter, "backend_checks", None, &["service", "backend", "result"],
        "Health checks: good or bad.",
        |s, out| for (service, it) in backends(s) {
            out.at([service, &it.name, "good"], it.checks_good as f64);
            out.at([service, &it.name, "bad"], it.checks_bad as f64);
        }),
    metric(Gauge, "backend_response", Some(Seconds), BACKEND,
        "Response time as the scheduler sees it, where it measures (peak-EWMA).",
        |s, out| for (service, it) in backends(s) {
            if let Some(us) = it.measure.as_ref().and_then(|it| it.response_us) {
                out.at([service, &it.name], us as f64 / 1e6);
            }
        }),
    metric(Gauge, "backend_effective_weight", None, BACKEND,
        "Share that is left, with the scheduler adaptive.",
        |s, out| for (service, it) in backends(s) {
            if let Some(weight) = it.measure.as_ref().and_then(|it| it.effective_weight) {
                out.at([service, &it.name], weight);
            }
        }),
];
