//! What clients' connections say of a backend.

use super::{Blame, Entry, RETRY_AFTER};
use crate::config::Observe;
use crate::model::ConnectFailure;
use crate::time::Mono;

impl Entry {
    /// One more client that fails would take it down.
    pub(in crate::health) const fn is_about_to_fall(&self) -> bool {
        self.checks.is_some()
            && self.verdict.up()
            && self.verdict.streak() + 1 >= self.verdict.needed()
    }

    /// It could serve clients of one that falls.
    pub(in crate::health) fn helps(&self) -> bool {
        self.serves() && !self.rests
    }

    /// A client's connection failed. `last`: no other backend could serve its like; then it takes a
    /// check to bring this one down.
    pub(in crate::health) fn client_failed(&mut self, blame: Blame, last: bool, now: Mono) {
        let how = match blame {
            Blame::Connect(_) if self.observe == Observe::Nothing => None,
            Blame::Connect(ConnectFailure::Refused) => Some("connect refused"),
            Blame::Connect(ConnectFailure::Timeout) => Some("connect timed out"),
            Blame::Connect(ConnectFailure::Unreachable) => Some("connect found no way to the host"),
            Blame::Connect(ConnectFailure::Other) => None,
            Blame::Reset if self.observe == Observe::FirstByte => Some("reset before a first byte"),
            Blame::Reset => None,
        };
        let (before, was_up) = (self.verdict.streak(), self.verdict.up());
        if let Some(how) = how {
            self.own_evidence = true;
            self.client_failures = self.client_failures.saturating_add(1);
            if !last {
                self.change(now, |verdict| verdict.weigh(false));
            }
            if (self.verdict.streak(), self.verdict.up()) != (before, was_up) {
                let text = match (self.client_failures, how.strip_prefix("connect ")) {
                    (1, _) => format!("client {how}"),
                    (many, Some(how)) => format!("{many} client connects {how}"),
                    (many, None) => format!("{many} clients {how}"),
                };
                self.explain(text, now);
            }
        }
        let fell = was_up && !self.verdict.up();
        let held = self.held(now).is_some();
        match &mut self.checks {
            Some(checks) if was_up && self.observe != Observe::Nothing => {
                checks.rhythm.hasten(now);
                let next = checks.rhythm.due(self.verdict, held);
                self.due = next.or_else(|| self.due.map(|due| due.min(now)));
            }
            None if fell => self.due = Some(now + RETRY_AFTER),
            _ => {}
        }
    }

    /// A client was served: it connected, or the backend `spoke`. True when that changed anything.
    pub(in crate::health) fn client_served(&mut self, spoke: bool, now: Mono) -> bool {
        let counts = match self.observe {
            Observe::Nothing => false,
            Observe::Connects => !spoke,
            Observe::FirstByte => spoke,
        };
        if !counts {
            return false;
        }
        self.own_evidence = true;
        let counts = if self.verdict.up() {
            self.verdict.streak() > 0
        } else {
            self.checks.is_none()
        };
        if counts {
            self.change(now, |verdict| verdict.weigh(true));
            self.client_failures = 0;
            let text = if spoke {
                "a client was served"
            } else {
                "a client connected"
            };
            self.explain(text.into(), now);
            self.due = self.due.filter(|_| self.checks.is_some());
        }
        counts
    }
}
