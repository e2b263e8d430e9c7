//! The page of `tandem status`.
//!
//! In the order of the questions asked at night: who am I, is the pair healthy, why is it so, where
//! are the addresses, does the peer hear us, what do clients get.

use super::backends::mark;
use super::events::why;
use super::verdict::findings;
use super::words::{count, millis, plural, span, utc};
use super::{Page, Tone, backends, nat, relay, sources};
use crate::config::DEFAULT_POOL;
use crate::model::Role;
use crate::status::{
    BackendStatus, Counters, Mode, PathStatus, PeerStatus, ReplicationRole, ReplicationStatus,
    ServiceStatus, Status, VipStatus,
};

/// The page; `now_unix_ms` is the time of day here and now.
pub fn status(status: &Status, now_unix_ms: u64) -> Page {
    let mut page = Page::default();
    page.text(Tone::Heading, &title(status, now_unix_ms));
    for finding in findings(status) {
        let text = format!("{}: {}", finding.level.word(), finding.text);
        page.text(finding.level.tone(), &text);
    }

    page.gap();
    page.facts(&facts(status));

    page.gap();
    let vips = status.vips.iter().map(|vip| vip_row(vip, status)).collect();
    page.table(&["", "vip", "interface", "where", "notes"], &[], vips);

    page.gap();
    let paths = status.paths.iter().map(path_row).collect();
    let heading = ["", "path from", "to", "state", "loss", "round trip"];
    page.table(&heading, &[4, 5], paths);

    let relayed = relay::facts(status);
    if !relayed.is_empty() {
        page.gap();
        page.text(Tone::Heading, "relay");
        page.facts(&relayed);
    }

    // Where all is proxied the program only relays.
    let proxied = |service: &ServiceStatus| service.mode == Mode::Proxy && !service.fallback;
    let relays_only = !status.services.is_empty() && status.services.iter().all(proxied);
    if let Some(known) = status.nat.as_ref().filter(|_| !relays_only) {
        page.gap();
        page.text(Tone::Heading, &nat::title(known));
        page.facts(&nat::facts(known));
    }

    for service in &status.services {
        page.gap();
        page.text(Tone::Heading, &service_title(service));
        let pools = service.backends.iter().any(|it| it.pool.is_some());
        let row = |backend| backend_row(backend, pools);
        let rows = service.backends.iter().map(row).collect();
        let mut heading = vec![
            "", "backend", "address", "state", "weight", "now", "total", "why",
        ];
        if pools {
            heading.insert(POOL, "pool");
        }
        let numbers = [4, 5, 6].map(|column| column + usize::from(pools));
        page.table(&heading, &numbers, rows);
        if !service.sources.is_empty() {
            page.gap();
            let rows = service.sources.iter().map(sources::row).collect();
            page.table(&sources::HEADING, &sources::NUMBERS, rows);
        }
        if let Some(text) = backends::removed(service) {
            page.text(Tone::Plain, &text);
        }
    }

    let rare = rare(&status.counters);
    if !rare.is_empty() {
        page.gap();
        page.text(Tone::Heading, "rare things since the start");
        page.facts(&rare);
    }
    page
}

fn title(status: &Status, now_unix_ms: u64) -> String {
    let role = status.role.as_str().to_uppercase();
    let since = match &status.last_transition {
        Some(event) => format!(
            "since {} ({})",
            utc(event.unix_ms),
            span(now_unix_ms.saturating_sub(event.unix_ms))
        ),
        None => format!("since its start ({})", span(status.uptime_ms)),
    };
    let (node, cluster, epoch) = (&status.node, &status.cluster, status.epoch);
    format!("{node} of {cluster}: {role}, epoch {epoch}, {since}")
}

fn facts(status: &Status) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    let transition = status.last_transition.as_ref();
    if let Some(why) = transition.and_then(|event| why(&event.what)) {
        facts.push(("why", why));
    }
    let (version, priority, life) = (&status.version, status.priority, &status.incarnation);
    let config = &status.config_hash;
    facts.push((
        "node",
        format!(
            "tandem {version}, up {}, priority {priority}, life {life}, configuration {config}",
            span(status.uptime_ms)
        ),
    ));
    facts.push(("peer", peer(&status.peer)));
    facts.push(("sync", sync(&status.replication)));
    facts.extend(relay::fact(status).map(|text| ("relay", text)));
    let drains = [own_drain(status), peers_drain(&status.peer)];
    facts.extend(drains.into_iter().flatten().map(|text| ("draining", text)));
    facts
}

/// What this node has left since it is not master any more.
fn own_drain(status: &Status) -> Option<String> {
    let drain = status.drain.as_ref()?;
    let cut = span(drain.cut_in_ms? / 1_000 * 1_000);
    let (left, of) = (plural(drain.left, "connection"), count(drain.of));
    let then = if status.stopping {
        "; then this node ends"
    } else {
        ""
    };
    Some(format!("{left} left of {of}, cut in {cut}{then}"))
}

/// What the old master has left.
fn peers_drain(peer: &PeerStatus) -> Option<String> {
    let drain = peer.drain.as_ref().filter(|drain| drain.left > 0)?;
    drain.cut_in_ms?;
    let left = plural(drain.left, "connection");
    Some(format!("{} drains {left}", peer.name))
}

fn peer(peer: &PeerStatus) -> String {
    let mut words = Vec::new();
    match (peer.last_heard_ms, peer.alive) {
        (None, _) => words.push("never heard".to_owned()),
        (Some(ms), true) => words.push(format!("heard {} ago", span(ms))),
        (Some(ms), false) => words.push(format!("SILENT for {}", span(ms))),
    }
    let was = if peer.alive { "" } else { "was " };
    words.extend(peer.role.map(|role| format!("{was}{role}")));
    words.extend(peer.epoch.map(|epoch| format!("epoch {epoch}")));
    words.extend(peer.priority.map(|priority| format!("priority {priority}")));
    words.extend(peer.incarnation.as_ref().map(|life| format!("life {life}")));
    if peer.alive {
        let hears = if peer.hears_us {
            "hears us"
        } else {
            "DOES NOT HEAR US"
        };
        words.push(hears.into());
    }
    words.extend(peer.same_config.map(|same| {
        let text = if same {
            "same configuration"
        } else {
            "OTHER CONFIGURATION"
        };
        text.to_owned()
    }));
    format!("{}: {}", peer.name, words.join(", "))
}

fn sync(sync: &ReplicationStatus) -> String {
    let mut words = Vec::new();
    words.push(match (sync.connected, sync.role) {
        (false, _) => "no session".to_owned(),
        (true, ReplicationRole::Idle) => "session up, idle".into(),
        (true, ReplicationRole::Sink) => "receives from the peer".into(),
        (true, ReplicationRole::Source) => "sends to the peer".into(),
    });
    if sync.connected && sync.role != ReplicationRole::Idle {
        words.push(if sync.in_sync {
            "in sync".into()
        } else if sync.role == ReplicationRole::Source {
            let items = plural(sync.lag_items, "item");
            format!("{items} ({}) behind", span(sync.lag_ms))
        } else {
            "NOT IN SYNC".into()
        });
    }
    words.push(format!("position {}:{}", sync.epoch, sync.position));
    words.push(plural(sync.flows, "connection"));
    if sync.snapshots > 0 {
        words.push(plural(sync.snapshots, "snapshot"));
    }
    if sync.resyncs > 0 {
        words.push(plural(sync.resyncs, "resync"));
    }
    words.join(", ")
}

fn vip_row(vip: &VipStatus, status: &Status) -> Vec<String> {
    let peer = &status.peer;
    let (bad, place) = match (vip.wanted, vip.held) {
        (true, true) => (false, "here".to_owned()),
        (true, false) => (true, "NOWHERE: wanted, not held".into()),
        (false, true) => (true, "HERE, NOT WANTED".into()),
        (false, false) if peer.alive && peer.role == Some(Role::Master) => {
            (false, format!("on {}", peer.name))
        }
        (false, false) => (true, "not here".into()),
    };
    let notes: Vec<String> = [
        ("announced", vip.announcements),
        ("put back", vip.restored),
        ("claimed by others", vip.rivals),
    ]
    .into_iter()
    .filter(|(_, n)| *n > 0)
    .map(|(what, n)| format!("{what} {}", plural(n, "time")))
    .collect();
    vec![
        mark(bad),
        vip.address.clone(),
        vip.interface.clone(),
        place,
        notes.join(", "),
    ]
}

fn path_row(path: &PathStatus) -> Vec<String> {
    let state = if path.alive { "up" } else { "SILENT" };
    let trip = path.rtt_us.map(|us| millis(us as f64 / 1_000.0));
    vec![
        mark(!path.alive),
        path.local.clone(),
        path.remote.clone(),
        state.into(),
        format!("{:.1} %", path.loss_percent),
        trip.unwrap_or_else(|| "-".into()),
    ]
}

fn service_title(service: &ServiceStatus) -> String {
    let listen: Vec<String> = service.listen.iter().map(ToString::to_string).collect();
    let mut text = format!(
        "service {} on {}, {}, {}: {}, {} in total",
        service.name,
        listen.join(" "),
        service.mode.as_str(),
        service.balance,
        plural(service.connections, "connection"),
        count(service.total)
    );
    if service.failed > 0 {
        text += &format!(", {} found no backend", count(service.failed));
    }
    if service.refused > 0 {
        text += &format!(", {} refused by a limit", count(service.refused));
    }
    if service.bad_headers > 0 {
        let bad = count(service.bad_headers);
        text += &format!(", {bad} refused without a good PROXY header");
    }
    let others = [
        (service.denied, "denied"),
        (service.too_fast, "refused by source_rate"),
        (service.queued, "wait for a backend"),
        (service.queue_timeouts, "waited in vain"),
    ];
    for (number, what) in others {
        if number > 0 {
            text += &format!(", {} {what}", count(number));
        }
    }
    if let Some(sticks) = &service.sticks {
        text += &format!(
            ", {} remembered ({} hits, {} misses)",
            plural(sticks.entries, "client"),
            count(sticks.hits),
            count(sticks.misses)
        );
    }
    text
}

/// The column of the pool, where there are any.
const POOL: usize = 2;

fn backend_row(backend: &BackendStatus, pools: bool) -> Vec<String> {
    let mut why = backend.reason.clone();
    if let Some(origin) = backends::other_origin(backend) {
        why = format!("{why}; {origin}");
    }
    for text in backends::remarks(backend) {
        why = format!("{why}; {text}");
    }
    if backend.connect_failures > 0 {
        let failures = plural(backend.connect_failures, "failed connect");
        why = format!("{why}; {failures}");
    }
    if let Some(measure) = &backend.measure {
        if let Some(response) = measure.response_us {
            why = format!("{why}; responds in {}", millis(response as f64 / 1_000.0));
        }
        if let Some(weight) = measure.effective_weight {
            why = format!("{why}; effective weight {weight:.2}");
        }
    }
    let mut row = vec![
        mark(backends::is_bad(backend)),
        backend.name.clone(),
        backend.address.clone(),
        backends::state(backend).into(),
        backend.weight.to_string(),
        count(backend.connections),
        count(backend.total),
        why,
    ];
    if pools {
        let name = backend.pool.as_deref().unwrap_or(DEFAULT_POOL);
        row.insert(POOL, name.to_owned());
    }
    row
}

/// Each life of the peer is met with a few heartbeats before it has proved to be present.
const USUAL_UNCONFIRMED: u64 = 16;

/// What is not zero, of what should be.
fn rare(counters: &Counters) -> Vec<(String, String)> {
    // Named one by one, so that a new counter cannot be forgotten here.
    let Counters {
        heartbeats_rejected,
        heartbeats_replayed,
        heartbeats_unconfirmed,
        session_faults,
        sessions,
        false_alarms,
        pauses,
        longest_turn_gap_us: _,
        outputs_dropped,
        control_rejected,
        log_dropped,
        flow_events_lost,
    } = *counters;
    let usual = USUAL_UNCONFIRMED.saturating_mul(sessions.max(1));
    let unconfirmed = match heartbeats_unconfirmed > usual {
        true => heartbeats_unconfirmed,
        false => 0,
    };
    [
        (
            heartbeats_rejected,
            "datagrams on the heartbeat port that were not the peer's (another key?)",
        ),
        (
            heartbeats_replayed,
            "heartbeats that came twice or too late",
        ),
        (
            unconfirmed,
            "heartbeats of a life that has not proved to be present",
        ),
        (session_faults, "sessions ended by a fault of the peer"),
        (
            sessions.saturating_sub(1),
            "times that the session had to be made again",
        ),
        (
            false_alarms,
            "ended sessions whose peer turned out to be alive",
        ),
        (pauses, "pauses so long that this node gave up what it knew"),
        (outputs_dropped, "outputs dropped because a queue was full"),
        (control_rejected, "bad requests on the control socket"),
        (log_dropped, "lines of the log of connections dropped"),
        (flow_events_lost, "connection events lost on the way"),
    ]
    .into_iter()
    .filter(|(n, _)| *n > 0)
    .map(|(n, what)| (count(n), what.to_owned()))
    .collect()
}
