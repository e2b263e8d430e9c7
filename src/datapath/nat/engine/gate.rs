//! Handshakes that wait for the standby: a client is answered once the standby knows its
//! connection, so that no connection that a client believes in is lost with the master.
//!
//! A SYN-ACK waits until the report of its connection is acknowledged. One that has waited for
//! too long goes on, and from then on all do (*degraded*), until acknowledgements come in time
//! again: a slow standby costs its protection, not the service.

use std::collections::{BTreeMap, VecDeque};

use super::super::layout::Carried;
use super::known::ByHash;

/// SYN-ACKs that wait at once, at most.
const MOST: usize = 65_536;
/// Reports whose acknowledgement is awaited, whose age is known.
const REPORTS: usize = 4_096;

/// A SYN-ACK that waits.
#[derive(Debug)]
pub(super) struct Held {
    ticket: u64,
    number: u64,
    pub(super) carried: Box<Carried>,
}

/// How handshakes went on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Released {
    pub(super) acknowledged: u64,
    pub(super) alone: u64,
    pub(super) late: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Gate {
    timeout: u64,
    /// Of the last report that was acknowledged.
    acked: u64,
    by_standby: bool,
    degraded: bool,
    /// Nothing goes on but by the standby's word.
    paused: bool,
    held: ByHash<Held>,
    by_ticket: BTreeMap<(u64, u64), u64>,
    /// When each is to go on at the latest, its number, and its key's hash. Those that are gone
    /// stay until they come to the front.
    order: VecDeque<(u64, u64, u64)>,
    /// Reports that are not acknowledged, and when they were given.
    unacked: VecDeque<(u64, u64)>,
    /// When the last SYN-ACK came that had to wait.
    held_at: u64,
    next: u64,
    pub(super) released: Released,
}

impl Gate {
    pub(super) fn new(timeout: u64) -> Self {
        Self {
            timeout,
            acked: 0,
            by_standby: false,
            degraded: false,
            paused: false,
            held: ByHash::default(),
            by_ticket: BTreeMap::new(),
            order: VecDeque::new(),
            unacked: VecDeque::new(),
            held_at: 0,
            next: 0,
            released: Released::default(),
        }
    }

    /// A SYN-ACK of a connection whose report has this ticket; `again`: it is not the first. It
    /// comes back if it is to go on at once.
    pub(super) fn admit(
        &mut self,
        hash: u64,
        ticket: u64,
        again: bool,
        carried: Box<Carried>,
        now: u64,
    ) -> Option<Box<Carried>> {
        if let Some(held) = self.held.get_mut(&hash) {
            held.carried = carried;
            return None;
        }
        if again && !self.paused {
            return Some(carried);
        }
        if ticket <= self.acked {
            if !again {
                self.count_acknowledged();
            }
            return Some(carried);
        }
        let full = self.held.len() >= MOST;
        if self.paused && full {
            // The backend will send it again.
            return None;
        }
        if !self.paused && (self.degraded || full) {
            self.degraded = true;
            self.released.late += 1;
            return Some(carried);
        }
        self.held_at = now;
        let number = self.next;
        self.next += 1;
        self.by_ticket.insert((ticket, number), hash);
        self.order.push_back((now + self.timeout, number, hash));
        let held = Held {
            ticket,
            number,
            carried,
        };
        self.held.insert(hash, held);
        None
    }

    const fn count_acknowledged(&mut self) {
        if self.by_standby {
            self.released.acknowledged += 1;
        } else {
            self.released.alone += 1;
        }
    }

    /// A report was given away.
    pub(super) fn given(&mut self, ticket: u64, now: u64) {
        if self.unacked.len() < REPORTS {
            self.unacked.push_back((ticket, now));
        }
    }

    /// Every report up to this one is acknowledged. What may go on now.
    pub(super) fn acknowledged(&mut self, ticket: u64, by_standby: bool, now: u64) -> Vec<Held> {
        if self.paused && !by_standby {
            return Vec::new();
        }
        self.acked = ticket;
        self.by_standby = by_standby;
        while self.unacked.front().is_some_and(|(it, _)| *it <= ticket) {
            self.unacked.pop_front();
        }
        let oldest = self.unacked.front();
        let caught_up = oldest.is_none_or(|(_, at)| now.saturating_sub(*at) < self.timeout / 2);
        self.degraded &= !caught_up;
        let mut free = Vec::new();
        while let Some(first) = self.by_ticket.first_entry() {
            if first.key().0 > ticket {
                break;
            }
            let hash = first.remove();
            if let Some(held) = self.held.remove(&hash) {
                self.count_acknowledged();
                free.push(held);
            }
        }
        free
    }

    /// Its connection is gone, or begins anew.
    pub(super) fn forget(&mut self, hash: u64) {
        if let Some(held) = self.held.remove(&hash) {
            self.by_ticket.remove(&(held.ticket, held.number));
        }
    }

    /// A switchover is under way, or came to nothing: then all that waited has waited for too long.
    pub(super) const fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Everything that waits is void.
    pub(super) fn clear(&mut self) {
        self.paused = false;
        self.held.clear();
        self.by_ticket.clear();
        self.order.clear();
        self.unacked.clear();
        self.degraded = false;
    }

    /// What has waited for too long. If anything has, all go on, in the order in which they came.
    pub(super) fn expired(&mut self, now: u64) -> Vec<Held> {
        let mut free = Vec::new();
        if self.paused {
            return free;
        }
        while let Some((until, number, hash)) = self.order.front().copied() {
            let waits = self.held.get(&hash).is_some_and(|it| it.number == number);
            self.degraded |= waits && until <= now;
            if waits && !self.degraded {
                break;
            }
            self.order.pop_front();
            if waits && let Some(held) = self.held.remove(&hash) {
                self.by_ticket.remove(&(held.ticket, held.number));
                self.released.late += 1;
                free.push(held);
            }
        }
        free
    }

    pub(super) fn timeout(&self) -> Option<u64> {
        let first = self.order.front().filter(|_| !self.paused);
        first.map(|(until, ..)| *until)
    }

    pub(super) fn waiting(&self) -> usize {
        self.held.len()
    }

    pub(super) const fn degraded(&self) -> bool {
        self.degraded
    }

    /// Whether handshakes wait, or would have within this time.
    pub(super) const fn is_needed(&self, now: u64, lately: u64) -> bool {
        self.held_at + lately > now
    }

    /// The ticket that counts as acknowledged for what is learned.
    pub(super) const fn acked(&self) -> u64 {
        self.acked
    }
}
