//! The log of connections: one line for each that ended, whoever ended it.
//!
//! Workers hand records to a thread through a bounded channel. When that is full, records are
//! dropped and counted; a worker never waits.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::balance::flow::{FlowEnd, Unserved};
use crate::config::{Config, Logged};
use crate::model::{BackendId, ServiceId};

/// Records that wait to be written: 150 kB.
const WAITING: usize = 1_024;

/// How far a connection was.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    /// Accepted; its header or first bytes are waited for.
    Accept,
    /// Waits for a backend with room.
    Queue,
    /// Backends are tried.
    Connect,
    /// A backend took it.
    Data,
}

/// Who ended it, and why.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Why {
    /// A backend had it.
    Ended(FlowEnd),
    /// No backend took it.
    Unserved(Unserved),
    /// The client left before a backend had it.
    Left,
}

/// One line.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) service: ServiceId,
    pub(super) client: SocketAddr,
    pub(super) backend: Option<BackendId>,
    pub(super) phase: Phase,
    pub(super) why: Why,
    pub(super) up: u64,
    pub(super) down: u64,
    /// From the acceptance to the backend's, or to the end if there was none.
    pub(super) wait: Duration,
    /// Of the backend that took it.
    pub(super) connect: Duration,
    /// From the acceptance to the end.
    pub(super) total: Duration,
}

impl Why {
    pub(super) const fn is_good(self) -> bool {
        matches!(self, Self::Ended(FlowEnd::Complete))
    }

    /// `C`: the client. `S`: the backend. `T`: Tandem. `-`: both ends, in order.
    const fn who(self) -> char {
        match self {
            Self::Left | Self::Ended(FlowEnd::ClientError) => 'C',
            Self::Ended(FlowEnd::BackendError) | Self::Unserved(Unserved::AllFailed) => 'S',
            Self::Ended(FlowEnd::Complete) => '-',
            Self::Ended(_) | Self::Unserved(_) => 'T',
        }
    }

    const fn reason(self) -> &'static str {
        match self {
            Self::Left => "client left",
            Self::Ended(end) => match end {
                FlowEnd::Complete => "complete",
                FlowEnd::ClientError => "reset by client",
                FlowEnd::BackendError => "reset by backend",
                FlowEnd::BackendDown => "backend down",
                FlowEnd::Idle => "idle",
                FlowEnd::Dropped => "dropped",
            },
            Self::Unserved(why) => match why {
                Unserved::AllFailed => "no backend took it",
                Unserved::Denied => "denied",
                Unserved::Header => "bad PROXY header",
                Unserved::Limit => "limit",
                Unserved::NoBackend => "no backend",
                Unserved::QueueTimeout => "queue timeout",
                Unserved::SourceRate => "source rate",
            },
        }
    }
}

impl Record {
    /// Two letters, as HAProxy has them: who ended it, and in which phase.
    pub(super) fn letters(&self) -> String {
        let phase = match self.phase {
            _ if self.why.is_good() => '-',
            Phase::Accept => 'A',
            Phase::Queue => 'Q',
            Phase::Connect => 'C',
            Phase::Data => 'D',
        };
        [self.why.who(), phase].iter().collect()
    }
}

/// Where records go.
#[derive(Debug)]
pub(super) struct Log {
    sender: SyncSender<Record>,
    dropped: Arc<AtomicU64>,
    names: Arc<ArcSwap<Names>>,
}

/// What a service has written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) what: Logged,
    /// One of so many.
    pub(super) sample: u32,
}

impl Log {
    /// Starts the thread, if a service has a log. It ends with the last sender.
    pub(super) fn start(config: &Config) -> io::Result<Option<Self>> {
        let mut services = config.services.iter();
        if services.all(|service| service.proxied.limits.log == Logged::Off) {
            return Ok(None);
        }
        let (log, receiver) = Self::channel(WAITING);
        log.rename(config);
        let names = Arc::clone(&log.names);
        let dropped = Arc::clone(&log.dropped);
        thread::Builder::new()
            .name("proxy-log".into())
            .spawn(move || write(&receiver, &names, &dropped))?;
        Ok(Some(log))
    }

    pub(super) fn channel(waiting: usize) -> (Self, Receiver<Record>) {
        let (sender, receiver) = sync_channel(waiting);
        let log = Self {
            sender,
            dropped: Arc::default(),
            names: Arc::default(),
        };
        (log, receiver)
    }

    /// From now on the names are these. Lines of connections to backends that are gone may lack
    /// theirs.
    pub(super) fn rename(&self, config: &Config) {
        self.names.store(Arc::new(Names::of(config)));
    }

    /// Never waits.
    pub(super) fn put(&self, record: Record) {
        if let Err(TrySendError::Full(_)) = self.sender.try_send(record) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that were dropped, since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
struct Names {
    services: BTreeMap<ServiceId, String>,
    backends: BTreeMap<BackendId, String>,
}

impl Names {
    fn of(config: &Config) -> Self {
        let services = || config.services.iter();
        let backends = services().flat_map(|service| &service.backends);
        Self {
            services: services().map(|it| (it.id, it.name.clone())).collect(),
            backends: backends.map(|it| (it.id, it.name.clone())).collect(),
        }
    }
}

fn write(receiver: &Receiver<Record>, names: &ArcSwap<Names>, dropped: &AtomicU64) {
    let mut told = 0;
    while let Ok(record) = receiver.recv() {
        let names = names.load();
        let service = names
            .services
            .get(&record.service)
            .map_or("?", String::as_str);
        let backend = record.backend.and_then(|id| names.backends.get(&id));
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        tracing::info!(
            target: "tandem::connection",
            %service,
            client = %record.client,
            backend = backend.map_or("-", String::as_str),
            end = %record.letters(),
            why = record.why.reason(),
            up = record.up,
            down = record.down,
            wait_ms = format_args!("{:.1}", ms(record.wait)),
            connect_ms = format_args!("{:.1}", ms(record.connect)),
            total_ms = format_args!("{:.1}", ms(record.total)),
            "connection"
        );
        let all = dropped.load(Ordering::Relaxed);
        let lost = all - std::mem::replace(&mut told, all);
        if lost > 0 {
            tracing::warn!(target: "tandem::connection", lost, "lines of connections were dropped");
        }
    }
}
