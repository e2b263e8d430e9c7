//! How much the node has told the kernel mode's thread that it has not done yet. The queue between
//! them loses nothing and never makes the turn loop wait, so whoever fills it has to stop in time:
//! the turn loop takes nothing from the session meanwhile, and so its stream holds up the peer.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use crate::balance::nat::NatCommand;

/// Commands, and facts to learn, that wait at most before the session is held up: 1.5 MB.
const MOST: usize = 8_192;
/// It goes on when no more than these are left.
const FEW: usize = MOST / 2;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    waiting: AtomicUsize,
    room: Notify,
}

/// What a command counts for. Two that are put together count as both.
pub(super) const fn weight(command: &NatCommand) -> usize {
    match command {
        NatCommand::Learn(items) => items.len(),
        _ => 1,
    }
}

impl Backlog {
    /// A command of this weight waits.
    pub(super) fn add(&self, weight: usize) {
        self.waiting.fetch_add(weight, Ordering::Relaxed);
    }

    /// A command of this weight was carried out.
    pub(super) fn done(&self, weight: usize) {
        let before = self.waiting.fetch_sub(weight, Ordering::Relaxed);
        if before > FEW && before - weight <= FEW {
            self.room.notify_one();
        }
    }

    /// Nothing that leads to more commands is to be taken.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > MOST
    }

    /// Until there is room again.
    pub(super) async fn room(&self) {
        while self.is_full() {
            self.room.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::wire::replication::{Item, NatKey};

    #[test]
    fn what_fills_it_waits_until_half_is_done() {
        let backlog = Backlog::default();
        let at = "192.0.2.1:80".parse().unwrap();
        let key = NatKey {
            client: at,
            service: at,
        };
        let command = NatCommand::Learn(vec![Item::NatClose { key }; 512]);
        let weight = weight(&command);
        assert_eq!(weight, 512);
        let mut told = 0;
        while !backlog.is_full() {
            backlog.add(weight);
            told += 1;
        }
        assert_eq!(told, MOST / weight + 1);
        let mut context = Context::from_waker(Waker::noop());
        let mut room = pin!(backlog.room());
        for _ in 0..told - FEW / weight {
            assert_eq!(room.as_mut().poll(&mut context), Poll::Pending);
            backlog.done(weight);
        }
        assert_eq!(room.as_mut().poll(&mut context), Poll::Ready(()));
        assert!(!backlog.is_full());
    }
}
