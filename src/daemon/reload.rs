//! The configuration is read again while the node runs.
//!
//! A thread of its own reads and checks the file, and compares it with what holds, so that the turn
//! loop only takes over what is good: all of it, or nothing. What cannot change while the node runs is
//! refused before anything is changed. What it does together with the peer's is in `pair`.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;

use tokio::sync::{mpsc, oneshot};

use super::fatal::Fatal;
use super::pair::Coming;
use super::{check_config, kernel_mode, read_text, supervisor};
use crate::config::{Change, Config};
use crate::model::{NodeId, Secret};
use crate::probe::Plans;
use crate::wire::admin::{Reloaded, Request, Response};
use crate::wire::parcel::Parcel;
use crate::wire::seal::Knock;

/// Requests and parcels that wait at most; a file of the greatest length comes in 16.
const WAITING: usize = 64;
/// Changes that are told at most.
const MAX_CHANGES: usize = 1_000;

/// What the thread is to do.
pub(super) enum Job {
    Parcel(Parcel),
    /// No reply: a signal asked, and the log is told.
    Push {
        dry_run: bool,
        reply: Option<oneshot::Sender<Response>>,
    },
    Reload {
        dry_run: bool,
        reply: Option<oneshot::Sender<Response>>,
    },
    Rotate {
        reply: Option<oneshot::Sender<Response>>,
    },
}

/// What the turn loop is to do for it.
pub(super) enum Wish {
    Fresh(Fresh),
    Note(String),
    Parcel(Parcel),
    Rekey(Rekey),
}

/// The cluster's keys from now on.
pub(super) struct Rekey {
    /// The first one seals.
    pub secrets: Vec<Secret>,
    /// The peer's.
    pub knocks: [Knock; 2],
    /// They hold.
    pub done: oneshot::Sender<()>,
}

/// A configuration that is to hold from now on.
pub(super) struct Fresh {
    pub config: Arc<Config>,
    pub plans: Plans,
    /// For the timeline.
    pub note: String,
    /// It holds.
    pub done: oneshot::Sender<()>,
}

/// The thread's handle.
pub(super) struct Reloader {
    jobs: SyncSender<Job>,
    session: Arc<AtomicU64>,
}

pub(super) struct Thread {
    pub(super) path: PathBuf,
    pub(super) me: NodeId,
    /// As the file was.
    pub(super) current: Config,
    /// There is no kernel mode here: its services are proxied.
    fell_back: bool,
    pub(super) wishes: mpsc::Sender<Wish>,
    /// Odd while there is a session; another number for each.
    pub(super) session: Arc<AtomicU64>,
    pub(super) coming: Coming,
    /// Came while the peer was asked.
    later: VecDeque<Job>,
}

/// A file that was read, and what it would change.
pub(super) struct Examined {
    pub(super) told: Reloaded,
    /// None: it cannot be taken.
    good: Option<(Plans, Config)>,
}

impl Examined {
    pub(super) const fn is_good(&self) -> bool {
        self.good.is_some()
    }
}

impl Reloader {
    /// Starts the thread, with the configuration that holds.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub(super) fn start(
        path: PathBuf,
        me: NodeId,
        current: Config,
        fell_back: bool,
        wishes: mpsc::Sender<Wish>,
    ) -> io::Result<Self> {
        let (jobs, received) = sync_channel(WAITING);
        let session = Arc::<AtomicU64>::default();
        let mut thread = Thread {
            path,
            me,
            current,
            fell_back,
            wishes,
            session: Arc::clone(&session),
            coming: Coming::default(),
            later: VecDeque::new(),
        };
        thread::Builder::new()
            .name("tandem-reload".into())
            .spawn(move || thread.run(&received))?;
        Ok(Self { jobs, session })
    }

    /// SIGHUP came. Never waits.
    pub(super) fn signal(&self) {
        self.put(Job::Reload {
            dry_run: false,
            reply: None,
        });
    }

    /// Takes a request if it is for the thread. Never waits.
    pub(super) fn ask(
        &self,
        request: &Request,
        reply: oneshot::Sender<Response>,
    ) -> Result<(), oneshot::Sender<Response>> {
        let (dry_run, reply) = match request {
            Request::Push { dry_run } | Request::Reload { dry_run } => (*dry_run, Some(reply)),
            Request::Rotate => (false, Some(reply)),
            _ => return Err(reply),
        };
        self.put(match request {
            Request::Push { .. } => Job::Push { dry_run, reply },
            Request::Rotate => Job::Rotate { reply },
            _ => Job::Reload { dry_run, reply },
        });
        Ok(())
    }

    /// The peer says something. Never waits; what does not fit is lost, and the peer told so by silence.
    pub(super) fn hear(&self, parcel: Parcel) {
        self.put(Job::Parcel(parcel));
    }

    /// A session stands, or has ended.
    pub(super) fn session(&self, stands: bool) {
        let now = self.session.load(Ordering::Acquire);
        let next = now + 1 + u64::from(now.is_multiple_of(2) != stands);
        self.session.store(next, Ordering::Release);
    }

    fn put(&self, job: Job) {
        if let Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) =
            self.jobs.try_send(job)
        {
            refuse(job);
        }
    }
}

/// There is no room for it.
fn refuse(job: Job) {
    let (Job::Push { reply, .. } | Job::Reload { reply, .. } | Job::Rotate { reply }) = job else {
        return;
    };
    if let Some(reply) = reply {
        let message = "too many reloads wait already; try again in a moment".into();
        // Whoever asked may have gone.
        let _ = reply.send(Response::Error { message });
    }
}

impl Thread {
    fn run(&mut self, jobs: &Receiver<Job>) {
        loop {
            let next = self.later.pop_front();
            let Some(job) = next.or_else(|| jobs.recv().ok()) else {
                return;
            };
            let (response, reply) = match job {
                Job::Parcel(parcel) => {
                    self.hear(parcel);
                    continue;
                }
                Job::Push { dry_run, reply } => (self.push(dry_run, jobs), reply),
                Job::Reload { dry_run, reply } => {
                    let reloaded = self.reload(dry_run);
                    (Response::Reloaded { reloaded }, reply)
                }
                Job::Rotate { reply } => (self.rotate(jobs), reply),
            };
            match (reply, response) {
                // Whoever asked may have gone.
                (Some(reply), response) => drop(reply.send(response)),
                (None, Response::Reloaded { reloaded }) => log(&reloaded),
                (None, _) => {}
            }
        }
    }

    /// The peer is asked something.
    pub(super) fn wait_for_later(&mut self, job: Job) {
        match self.later.len() < WAITING {
            true => self.later.push_back(job),
            false => refuse(job),
        }
    }

    fn reload(&mut self, dry_run: bool) -> Reloaded {
        let examined = match self.text() {
            Ok(text) => self.examine(&text, dry_run),
            Err(mistakes) => self.mistaken(dry_run, mistakes),
        };
        match dry_run {
            true => examined.told,
            false => self.apply(examined),
        }
    }

    /// The file.
    pub(super) fn text(&self) -> Result<String, String> {
        read_text(&self.path).map_err(|fatal| fatal.to_string())
    }

    fn mistaken(&self, dry_run: bool, mistakes: String) -> Examined {
        let told = Reloaded {
            dry_run,
            hash: self.current.hash.to_string(),
            mistakes: Some(mistakes),
            ..Reloaded::default()
        };
        Examined { told, good: None }
    }

    /// What this text would change.
    pub(super) fn examine(&self, text: &str, dry_run: bool) -> Examined {
        // Files of checks are read now, too.
        let read = || -> Result<_, Fatal> {
            let config = check_config(&self.path, text)?;
            Ok((Plans::load(&config)?, config))
        };
        let good = match read() {
            Ok(good) => good,
            Err(fatal) => return self.mistaken(dry_run, fatal.to_string()),
        };
        let mut changes = self.current.difference(&good.1);
        let refused = changes.iter().any(|change| change.restart.is_some());
        // What keeps it from being done comes first.
        changes.sort_by_key(|change| change.restart.is_none());
        let more = changes.len().saturating_sub(MAX_CHANGES) as u64;
        changes.truncate(MAX_CHANGES);
        Examined {
            told: Reloaded {
                dry_run,
                refused,
                changes,
                more,
                hash: self.current.hash.to_string(),
                ..Reloaded::default()
            },
            good: (!refused).then_some(good),
        }
    }

    /// Goes by it, if it can be taken.
    pub(super) fn apply(&mut self, examined: Examined) -> Reloaded {
        supervisor::reloading();
        let told = self.try_apply(examined);
        supervisor::reloaded();
        told
    }

    fn try_apply(&mut self, examined: Examined) -> Reloaded {
        let mut told = examined.told;
        let Some((plans, config)) = examined.good else {
            return told;
        };
        let effective = match self.fell_back {
            true => kernel_mode::all_proxied(&config),
            false => config.clone(),
        };
        let (done, holds) = oneshot::channel();
        let fresh = Fresh {
            config: Arc::new(effective),
            plans,
            note: note(&told.changes),
            done,
        };
        // Both fail only when the node stops.
        let sent = self.wishes.blocking_send(Wish::Fresh(fresh)).is_ok();
        if sent && holds.blocking_recv().is_ok() {
            told.hash = config.hash.to_string();
            told.applied = true;
            self.current = config;
        } else {
            told.mistakes = Some("the node stops".into());
        }
        told
    }

    /// Into the timeline.
    pub(super) fn note(&self, text: &str) {
        // It fails only when the node stops.
        let _ = self.wishes.blocking_send(Wish::Note(text.to_owned()));
    }
}

/// Sections, without values: some of them are secrets of a health check.
fn note(changes: &[Change]) -> String {
    let mut sections: Vec<&str> = changes.iter().map(|it| it.section.as_str()).collect();
    sections.dedup();
    match sections.len() {
        0 => "configuration reloaded: nothing is different".into(),
        1..=8 => format!("configuration reloaded: {}", sections.join(", ")),
        many => format!(
            "configuration reloaded: {} and {} more",
            sections[..8].join(", "),
            many - 8
        ),
    }
}

fn log(reloaded: &Reloaded) {
    if let Some(mistakes) = &reloaded.mistakes {
        tracing::error!("not reloaded: {mistakes}");
    }
    for change in &reloaded.changes {
        if let Some(why) = &change.restart {
            let Change { section, key, .. } = change;
            tracing::error!("not reloaded: [{section}] {key} needs a restart: {why}");
        }
    }
}
