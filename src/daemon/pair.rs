//! What the thread that reloads does together with the peer's: push a file, put another key in the
//! place of the one that holds.
//!
//! First the peer, then this node, so that a death between two steps leaves two whole files that go
//! with each other. Whatever is not answered in time, or with the session that it began with, has
//! failed here, and nothing more is changed.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use super::files::Beside;
use super::reload::{Examined, Job, Rekey, Thread, Wish};
use crate::net::clock;
use crate::net::key::{self, Keyring, Turn};
use crate::wire::admin::{Pushed, Response};
use crate::wire::parcel::{Hidden, MAX_PUSH, PIECE, Parcel};
use crate::wire::seal::{Knock, stick_key};

/// For one answer of the peer.
const ANSWER: Duration = Duration::from_secs(3);
/// How often it is looked whether the session is still the same.
const LOOK: Duration = Duration::from_millis(20);
/// Heartbeats that were sealed before a step have come, or never will.
const UNDER_WAY: Duration = Duration::from_secs(1);
/// Bytes of a fault that cross.
const MAX_FAULT: usize = 16 << 10;
/// What a push of its own says to the peer's.
const BUSY: &str = "it does the same at this moment; try again";

/// A file that the peer pushes.
#[derive(Debug, Default)]
pub(super) struct Coming {
    job: u64,
    session: u64,
    bytes: Vec<u8>,
    /// It is whole and good, and lies beside the one that holds.
    ready: Option<(String, Beside)>,
}

impl Thread {
    /// A number for a job of this node.
    fn begin(&mut self) -> Result<(u64, u64), String> {
        let session = self.session.load(Ordering::Acquire);
        // Odd while there is one.
        if session.is_multiple_of(2) {
            return Err("there is no session with the peer; nothing was changed".into());
        }
        Ok((u64::from_le_bytes(clock::entropy()), session))
    }

    fn send(&self, parcel: Parcel) -> Result<(), String> {
        let sent = self.wishes.blocking_send(Wish::Parcel(parcel));
        sent.map_err(|_| "the node stops".into())
    }

    /// The peer's answer: a fault, or that it is done.
    fn answer(
        &mut self,
        jobs: &Receiver<Job>,
        (mine, session): (u64, u64),
    ) -> Result<Option<String>, String> {
        let mut patience = ANSWER;
        loop {
            match jobs.recv_timeout(LOOK) {
                Ok(Job::Parcel(Parcel::Answer { job, fault })) if job == mine => return Ok(fault),
                Ok(Job::Parcel(
                    Parcel::Piece {
                        job, last: true, ..
                    }
                    | Parcel::Keys { job, .. },
                )) => {
                    let fault = Some(BUSY.to_owned());
                    self.send(Parcel::Answer { job, fault })?;
                }
                // Of a job that is over, or will be refused.
                Ok(Job::Parcel(_)) => {}
                Ok(job) => self.wait_for_later(job),
                Err(RecvTimeoutError::Timeout) => {
                    if self.session.load(Ordering::Acquire) != session {
                        return Err("the session with the peer has ended".into());
                    }
                    patience = patience.saturating_sub(LOOK);
                    if patience.is_zero() {
                        return Err("the peer does not answer".into());
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Err("the node stops".into()),
            }
        }
    }

    /// This node's file, to both.
    pub(super) fn push(&mut self, dry_run: bool, jobs: &Receiver<Job>) -> Response {
        let text = match self.text() {
            Ok(text) if text.len() <= MAX_PUSH => text,
            Ok(_) => {
                return error(format!(
                    "a file of more than {MAX_PUSH} bytes is not pushed"
                ));
            }
            Err(mistakes) => return error(mistakes),
        };
        let ours = self.examine(&text, dry_run);
        let mut pushed = Pushed::default();
        if !ours.is_good() {
            pushed.here = ours.told;
            return Response::Pushed { pushed };
        }
        match self.try_push(&text, dry_run, jobs) {
            Ok(None) => pushed.taken = !dry_run,
            Ok(fault) => pushed.fault = fault,
            Err(trouble) => return error(trouble),
        }
        pushed.here = match pushed.taken {
            true => self.apply(ours),
            false => ours.told,
        };
        Response::Pushed { pushed }
    }

    fn try_push(
        &mut self,
        text: &str,
        dry_run: bool,
        jobs: &Receiver<Job>,
    ) -> Result<Option<String>, String> {
        let (job, session) = self.begin()?;
        let mut rest = text.as_bytes();
        loop {
            let (bytes, after) = rest.split_at(rest.len().min(PIECE));
            let (bytes, last) = (bytes.to_vec(), after.is_empty());
            self.send(Parcel::Piece { job, bytes, last })?;
            if last {
                break;
            }
            rest = after;
        }
        let unchanged = |trouble: String| format!("{trouble}; nothing was changed");
        let fault = self.answer(jobs, (job, session)).map_err(unchanged)?;
        if fault.is_some() || dry_run {
            self.send(Parcel::Forget { job })?;
            return Ok(fault);
        }
        self.send(Parcel::Take { job })?;
        self.answer(jobs, (job, session)).map_err(|trouble| {
            format!(
                "{trouble}: it may have taken the file or not; nothing was changed here, and the \
                 file lies here: push again, or `tandem reload`"
            )
        })
    }

    /// A new key in the place of the one that holds, on both nodes.
    pub(super) fn rotate(&mut self, jobs: &Receiver<Job>) -> Response {
        match self.try_rotate(jobs) {
            Ok(()) => Response::Done {
                message: "both nodes have the new key and no other".into(),
            },
            Err(message) => error(message),
        }
    }

    fn try_rotate(&mut self, jobs: &Receiver<Job>) -> Result<(), String> {
        let (_, session) = self.begin()?;
        let path = self.current.cluster.key_file.clone();
        let ring = key::load(&path).map_err(|error| error.to_string())?;
        let derived = || stick_key(&ring.first, &self.current.cluster.name);
        // Clients that are remembered stay known.
        let affinity = Some(ring.affinity.unwrap_or_else(derived));
        let ring = match ring.second.is_some() {
            true => ring,
            false => Keyring {
                second: Some((Turn::Next, key::fresh())),
                affinity,
                ..ring
            },
        };
        let mut steps = vec![ring.clone()];
        if matches!(ring.second, Some((Turn::Next, _))) {
            steps.push(ring.swapped());
        }
        steps.push(steps[steps.len() - 1].alone());
        for (n, step) in (1..).zip(&steps) {
            let all = steps.len();
            let trouble = |trouble: String| {
                format!(
                    "step {n} of {all}: {trouble}; the pair serves on, each node takes heartbeats \
                     of the other: do it again"
                )
            };
            if n > 1 {
                thread::sleep(UNDER_WAY);
            }
            let job = u64::from_le_bytes(clock::entropy());
            let file = Hidden(step.text().as_str().to_owned());
            self.send(Parcel::Keys { job, file })?;
            if let Some(fault) = self.answer(jobs, (job, session)).map_err(trouble)? {
                return Err(trouble(format!("the peer: {fault}")));
            }
            self.take_keys(&path, step).map_err(trouble)?;
        }
        self.note("the cluster key is another one, on both nodes");
        Ok(())
    }

    /// Writes the keys and goes by them.
    fn take_keys(&mut self, path: &Path, ring: &Keyring) -> Result<(), String> {
        let write = || Beside::write(path, ring.text().as_bytes())?.take_place(false);
        write().map_err(|error| cannot_write(path, &error))?;
        let cluster = &self.current.cluster.name;
        let second = ring.second.as_ref().map(|(_, secret)| secret.clone());
        let secrets: Vec<_> = [ring.first.clone()].into_iter().chain(second).collect();
        let knock = |secret| Knock::new(secret, cluster, self.me.peer());
        let knocks = [knock(&secrets[0]), knock(&secrets[secrets.len() - 1])];
        let (done, holds) = oneshot::channel();
        let rekey = Rekey {
            secrets,
            knocks,
            done,
        };
        let sent = self.wishes.blocking_send(Wish::Rekey(rekey)).is_ok();
        match sent && holds.blocking_recv().is_ok() {
            true => Ok(()),
            false => Err("the node stops".into()),
        }
    }

    /// The peer's thread says something, and does not wait for an answer of ours.
    pub(super) fn hear(&mut self, parcel: Parcel) {
        let session = self.session.load(Ordering::Acquire);
        if self.coming.session != session {
            self.coming = Coming::default();
        }
        let (job, fault) = match parcel {
            Parcel::Piece { job, bytes, last } => {
                if self.coming.job != job || self.coming.session != session {
                    self.coming = Coming {
                        job,
                        session,
                        ..Coming::default()
                    };
                }
                // One that is too long is found so at its end.
                if self.coming.bytes.len() <= MAX_PUSH {
                    self.coming.bytes.extend(bytes);
                }
                if !last {
                    return;
                }
                (job, self.prepare().err())
            }
            Parcel::Take { job } => (job, self.take(job).err()),
            Parcel::Forget { job } => {
                if self.coming.job == job {
                    self.coming = Coming::default();
                }
                return;
            }
            Parcel::Keys { job, file } => {
                let path = self.current.cluster.key_file.clone();
                let ring = Keyring::parse(file.0.as_bytes())
                    .ok_or_else(|| "that is no key file".to_owned());
                let taken = ring.and_then(|ring| self.take_keys(&path, &ring));
                (job, taken.err())
            }
            // Too late.
            Parcel::Answer { .. } => return,
        };
        let fault = fault.map(|fault| fault.chars().take(MAX_FAULT / 4).collect());
        // It fails only when the node stops.
        let _ = self.send(Parcel::Answer { job, fault });
    }

    /// Whether the file that has come could be taken.
    fn prepare(&mut self) -> Result<(), String> {
        let bytes = std::mem::take(&mut self.coming.bytes);
        if bytes.len() > MAX_PUSH {
            return Err(format!("the file has more than {MAX_PUSH} bytes"));
        }
        let text = String::from_utf8(bytes).map_err(|error| error.to_string())?;
        fits(&self.examine(&text, true))?;
        let beside = Beside::write(&self.path, text.as_bytes())
            .map_err(|error| cannot_write(&self.path, &error))?;
        self.coming.ready = Some((text, beside));
        Ok(())
    }

    fn take(&mut self, job: u64) -> Result<(), String> {
        let ready = self.coming.ready.take_if(|_| self.coming.job == job);
        let (text, beside) = ready.ok_or("it has no such file any more")?;
        // What holds may be another one meanwhile.
        let examined = self.examine(&text, false);
        fits(&examined)?;
        beside
            .take_place(true)
            .map_err(|error| cannot_write(&self.path, &error))?;
        match self.apply(examined).mistakes {
            None => Ok(()),
            Some(trouble) => Err(trouble),
        }
    }
}

/// The file can be taken here.
fn fits(examined: &Examined) -> Result<(), String> {
    if let Some(mistakes) = &examined.told.mistakes {
        return Err(mistakes.clone());
    }
    let restarts = examined.told.changes.iter().filter_map(|change| {
        let why = change.restart.as_ref()?;
        Some(format!(
            "[{}] {} needs a restart: {why}",
            change.section, change.key
        ))
    });
    let restarts: Vec<String> = restarts.collect();
    match restarts.is_empty() {
        true => Ok(()),
        false => Err(restarts.join("\n")),
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> String {
    format!(
        "cannot replace {} ({error}); the daemon's user must be allowed to write its directory \
         (docs/operations.md)",
        path.display()
    )
}

fn error(message: String) -> Response {
    Response::Error { message }
}
