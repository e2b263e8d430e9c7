//! Commands on their way from the turn loop to the kernel thread.
//!
//! Bounded by construction: of each kind at most one waits. A later one takes the place of an
//! earlier one, and `Release` clears the rest, since after it nothing earlier matters.

use std::sync::{Mutex, PoisonError};

use crate::model::Epoch;
use crate::vip::kernel::KernelCommand;

/// One of each kind.
const KINDS: usize = 4;

/// Where commands wait.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    newest: Epoch,
    waiting: Vec<KernelCommand>,
    superseded: u64,
}

impl Inbox {
    /// Adds a command. True: it is the first that waits, so somebody must be woken.
    pub(super) fn push(&self, command: KernelCommand) -> bool {
        let mut state = self.lock();
        let epoch = epoch(&command);
        if epoch < state.newest {
            state.superseded += 1;
            return false;
        }
        state.newest = epoch;
        let first = state.waiting.is_empty();
        if matches!(command, KernelCommand::Release { .. }) {
            state.superseded += state.waiting.len() as u64;
            state.waiting.clear();
        }
        let kind = std::mem::discriminant(&command);
        let same = |waiting: &&mut KernelCommand| std::mem::discriminant(*waiting) == kind;
        if let Some(earlier) = state.waiting.iter_mut().find(same) {
            *earlier = command;
            state.superseded += 1;
        } else {
            state.waiting.push(command);
        }
        debug_assert!(state.waiting.len() <= KINDS);
        first
    }

    /// Takes all that waits, in order.
    pub(super) fn take(&self) -> Vec<KernelCommand> {
        std::mem::take(&mut self.lock().waiting)
    }

    /// Commands that were not carried out because a later one took their place.
    pub(super) fn superseded(&self) -> u64 {
        self.lock().superseded
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing panics under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn epoch(command: &KernelCommand) -> Epoch {
    match command {
        KernelCommand::Announce { epoch, .. }
        | KernelCommand::Hold { epoch, .. }
        | KernelCommand::Release { epoch }
        | KernelCommand::Remind { epoch, .. } => *epoch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(epoch: u64) -> KernelCommand {
        KernelCommand::Hold {
            epoch: Epoch(epoch),
            vips: [].into(),
        }
    }

    fn announce(epoch: u64) -> KernelCommand {
        KernelCommand::Announce {
            epoch: Epoch(epoch),
            vips: [].into(),
        }
    }

    fn release(epoch: u64) -> KernelCommand {
        KernelCommand::Release {
            epoch: Epoch(epoch),
        }
    }

    #[test]
    fn a_later_command_takes_the_place_of_an_earlier_one() {
        let inbox = Inbox::default();
        assert!(inbox.push(hold(1)));
        assert!(!inbox.push(announce(1)));
        assert!(!inbox.push(hold(2)));
        assert_eq!(inbox.take(), [hold(2), announce(1)]);
        assert!(inbox.push(hold(2)), "empty again");
        assert_eq!(inbox.superseded(), 1);
    }

    #[test]
    fn release_clears_what_came_before_and_not_what_comes_after() {
        let inbox = Inbox::default();
        for command in [hold(1), announce(1), release(1), hold(2), announce(2)] {
            inbox.push(command);
        }
        assert_eq!(inbox.take(), [release(1), hold(2), announce(2)]);
    }

    #[test]
    fn an_older_epoch_is_dropped_even_after_the_newer_was_taken() {
        let inbox = Inbox::default();
        inbox.push(hold(5));
        inbox.take();
        assert!(!inbox.push(release(4)));
        assert!(!inbox.push(hold(4)));
        assert_eq!(inbox.take(), []);
        assert_eq!(inbox.superseded(), 2);
    }
}
