//! Reports on their way to the turn loop.
//!
//! The kernel thread never waits for the turn loop: what does not fit into its channel waits here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::vip::kernel::KernelReport;

/// Reports that wait; more are dropped and counted. A turn loop that is this far behind has worse
/// troubles, and the dead-man timer to solve them.
const WAITING: usize = 256;

/// Where reports wait.
#[derive(Debug)]
pub(super) struct Outbox {
    sender: mpsc::Sender<KernelReport>,
    waiting: VecDeque<KernelReport>,
    dropped: Arc<AtomicU64>,
}

impl Outbox {
    pub(super) fn new(sender: mpsc::Sender<KernelReport>, dropped: Arc<AtomicU64>) -> Self {
        Self {
            sender,
            waiting: VecDeque::new(),
            dropped,
        }
    }

    /// Hands a report over, now or as soon as there is room.
    pub(super) fn tell(&mut self, report: KernelReport) {
        if self.waiting.len() < WAITING {
            self.waiting.push_back(report);
        } else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.flush();
    }

    /// Tries again. True: nothing waits any more.
    pub(super) fn flush(&mut self) -> bool {
        while let Some(report) = self.waiting.pop_front() {
            match self.sender.try_send(report) {
                Ok(()) => {}
                Err(TrySendError::Full(report)) => {
                    self.waiting.push_front(report);
                    return false;
                }
                // Nobody listens any more: the node is stopping.
                Err(TrySendError::Closed(_)) => self.waiting.clear(),
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Epoch;

    fn held(epoch: usize) -> KernelReport {
        KernelReport::Held {
            epoch: Epoch(epoch as u64),
        }
    }

    #[test]
    fn what_does_not_fit_waits_in_order_and_the_rest_is_counted() {
        let (sender, mut receiver) = mpsc::channel(1);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut outbox = Outbox::new(sender, Arc::clone(&dropped));
        for n in 0..WAITING + 3 {
            outbox.tell(held(n));
        }
        assert_eq!(dropped.load(Ordering::Relaxed), 2);
        for n in 0..=WAITING {
            assert_eq!(receiver.try_recv().unwrap(), held(n));
            outbox.flush();
        }
        assert!(receiver.try_recv().is_err());
        assert!(outbox.flush());
    }

    #[test]
    fn a_closed_channel_is_no_queue() {
        let (sender, receiver) = mpsc::channel(1);
        drop(receiver);
        let mut outbox = Outbox::new(sender, Arc::default());
        outbox.tell(held(1));
        assert!(outbox.flush());
    }
}
