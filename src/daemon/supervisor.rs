//! The service manager (sd_notify(3)); does nothing where there is none.
//!
//! Owns: the watchdog's rhythm, the status line, the time that a stop may take. A stop that drains
//! asks for more time again and again, so that the manager's own limit holds for a node that is
//! stuck, and not for one that waits for its clients.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::node::Node;
use crate::time::Mono;

/// How often a count is told, and more time asked for.
const EVERY: Duration = Duration::from_secs(1);
/// How much time is asked for: what is not told again within it is stuck.
const MORE: Duration = Duration::from_secs(10);

pub(super) struct Supervisor {
    /// Half of what the manager waits for.
    every: Option<Duration>,
    last: Mono,
    told: String,
    stopping: bool,
    /// When the drain was told of last.
    drain_told: Option<Mono>,
}

impl Supervisor {
    pub(super) fn new(now: Mono) -> Self {
        Self {
            every: sd_notify::watchdog_enabled().map(|limit| limit / 2),
            last: now,
            told: String::new(),
            stopping: false,
            drain_told: None,
        }
    }

    pub(super) fn ready(&self) {
        notify(&[NotifyState::Ready]);
    }

    pub(super) fn stopping(&mut self) {
        if !std::mem::replace(&mut self.stopping, true) {
            notify(&[NotifyState::Stopping]);
        }
    }

    pub(super) fn deadline(&self) -> Option<Mono> {
        let watchdog = self.every.map(|every| self.last + every);
        let drain = self.drain_told.map(|at| at + EVERY);
        watchdog.into_iter().chain(drain).min()
    }

    pub(super) fn turned(&mut self, now: Mono, node: &Node) {
        if self.every.is_some_and(|every| self.last + every <= now) {
            self.last = now;
            notify(&[NotifyState::Watchdog]);
        }
        if node.is_stopping() {
            self.stopping();
        }
        match node.draining() {
            None => {
                self.drain_told = None;
                self.tell(node.role().as_str());
            }
            Some(left) if self.drain_told.is_none_or(|at| at + EVERY <= now) => {
                self.drain_told = Some(now);
                self.tell(&format!("draining, {left} left"));
                if self.stopping {
                    notify(&[NotifyState::ExtendTimeoutUsec(MORE.as_micros() as u32)]);
                }
            }
            Some(_) => {}
        }
    }

    fn tell(&mut self, status: &str) {
        if self.told != status {
            status.clone_into(&mut self.told);
            notify(&[NotifyState::Status(status)]);
        }
    }
}

/// The configuration is read again (sd_notify(3)).
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "no clock for the service manager"),
    }
}

/// That is over, however it went.
pub(super) fn reloaded() {
    notify(&[NotifyState::Ready]);
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager does not listen");
    }
}
