//! The configuration is read again while the node runs.
//!
//! A thread of its own reads and checks the file, and compares it with what holds, so that the turn
//! loop only takes over what is good: all of it, or nothing. What cannot change while the node runs is
//! refused before anything is changed.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use tokio::sync::{mpsc, oneshot};

use super::{kernel_mode, read_config, supervisor};
use crate::config::{Change, Config};
use crate::probe::Plans;
use crate::wire::admin::{Reloaded, Response};

/// Requests that wait at most.
const WAITING: usize = 16;
/// Changes that are told at most.
const MAX_CHANGES: usize = 1_000;

/// A wish to reload.
struct Job {
    dry_run: bool,
    /// None: a signal asked, and the log is told.
    reply: Option<oneshot::Sender<Response>>,
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
}

struct Thread {
    path: PathBuf,
    /// As the file was.
    current: Config,
    /// There is no kernel mode here: its services are proxied.
    fell_back: bool,
    fresh: mpsc::Sender<Fresh>,
}

impl Reloader {
    /// Starts the thread, with the configuration that holds.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub(super) fn start(
        path: PathBuf,
        current: Config,
        fell_back: bool,
        fresh: mpsc::Sender<Fresh>,
    ) -> io::Result<Self> {
        let (jobs, received) = sync_channel(WAITING);
        let mut thread = Thread {
            path,
            current,
            fell_back,
            fresh,
        };
        thread::Builder::new()
            .name("tandem-reload".into())
            .spawn(move || thread.run(&received))?;
        Ok(Self { jobs })
    }

    /// Never waits.
    pub(super) fn ask(&self, dry_run: bool, reply: Option<oneshot::Sender<Response>>) {
        if let Err(error) = self.jobs.try_send(Job { dry_run, reply }) {
            let (std::sync::mpsc::TrySendError::Full(job)
            | std::sync::mpsc::TrySendError::Disconnected(job)) = error;
            if let Some(reply) = job.reply {
                let message = "too many reloads wait already; try again in a moment".into();
                // Whoever asked may have gone.
                let _ = reply.send(Response::Error { message });
            }
        }
    }
}

impl Thread {
    fn run(&mut self, jobs: &Receiver<Job>) {
        while let Ok(Job { dry_run, reply }) = jobs.recv() {
            if !dry_run {
                supervisor::reloading();
            }
            let reloaded = self.reload(dry_run);
            if !dry_run {
                supervisor::reloaded();
            }
            match reply {
                Some(reply) => {
                    // Whoever asked may have gone.
                    let _ = reply.send(Response::Reloaded { reloaded });
                }
                None => log(&reloaded),
            }
        }
    }

    fn reload(&mut self, dry_run: bool) -> Reloaded {
        let mut told = Reloaded {
            dry_run,
            hash: self.current.hash.to_string(),
            ..Reloaded::default()
        };
        // Files of checks are read now, too.
        let read = read_config(&self.path).and_then(|config| Ok((Plans::load(&config)?, config)));
        let (plans, config) = match read {
            Ok(read) => read,
            Err(fatal) => {
                told.mistakes = Some(fatal.to_string());
                return told;
            }
        };
        let mut changes = self.current.difference(&config);
        told.refused = changes.iter().any(|change| change.restart.is_some());
        // What keeps it from being done comes first.
        changes.sort_by_key(|change| change.restart.is_none());
        told.more = changes.len().saturating_sub(MAX_CHANGES) as u64;
        changes.truncate(MAX_CHANGES);
        told.changes = changes;
        if dry_run || told.refused {
            return told;
        }
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
        if self.fresh.blocking_send(fresh).is_ok() && holds.blocking_recv().is_ok() {
            told.hash = config.hash.to_string();
            told.applied = true;
            self.current = config;
        } else {
            told.mistakes = Some("the node stops".into());
        }
        told
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
