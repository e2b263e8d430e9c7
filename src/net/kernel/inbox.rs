//! Commands on their way from the turn loop to the kernel thread.
//!
//! Bounded by construction: of each kind at most one waits. A later one takes the place of an
//! earlier one, and `Release` clears the rest, since after it nothing earlier matters. Reminders are
//! the exception: each is for another neighbour, so several wait.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::model::Epoch;
use crate::vip::kernel::KernelCommand;

/// One of each kind.
const KINDS: usize = 3;
/// Reminders that wait; more are dropped and counted. A neighbour that was not told sends again.
const REMINDERS: usize = 64;

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// The addresses are to stay on the device from now on. Before the commands.
    pub(super) stand: bool,
    /// In this order.
    pub(super) commands: Vec<KernelCommand>,
}

/// Where commands wait.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    newest: Epoch,
    stand: bool,
    waiting: Vec<KernelCommand>,
    reminders: VecDeque<KernelCommand>,
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
        let first = state.is_empty();
        if matches!(command, KernelCommand::Remind { .. }) {
            // It commands no address, so it makes no other command old.
            if state.reminders.len() < REMINDERS {
                state.reminders.push_back(command);
            } else {
                state.superseded += 1;
            }
            return first;
        }
        state.newest = epoch;
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

    /// From now on the addresses are to stay on the device. True: somebody must be woken.
    pub(super) fn stand(&self) -> bool {
        let mut state = self.lock();
        let first = state.is_empty();
        state.stand = true;
        first
    }

    /// Takes all that waits.
    pub(super) fn take(&self) -> Work {
        let mut state = self.lock();
        let mut commands = std::mem::take(&mut state.waiting);
        let reminders = std::mem::take(&mut state.reminders);
        let waited = reminders.len();
        let newest = state.newest;
        let before = commands.len();
        commands.extend(reminders.into_iter().filter(|old| epoch(old) >= newest));
        state.superseded += (waited - (commands.len() - before)) as u64;
        Work {
            stand: std::mem::take(&mut state.stand),
            commands,
        }
    }

    /// Commands that were not carried out: a later one took their place, or there was no room.
    pub(super) fn superseded(&self) -> u64 {
        self.lock().superseded
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing panics under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.reminders.is_empty() && !self.stand
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
    use crate::model::{Mac, Stale};

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
        assert_eq!(inbox.take().commands, [hold(2), announce(1)]);
        assert!(inbox.push(hold(2)), "empty again");
        assert_eq!(inbox.superseded(), 1);
    }

    #[test]
    fn release_clears_what_came_before_and_not_what_comes_after() {
        let inbox = Inbox::default();
        for command in [hold(1), announce(1), release(1), hold(2), announce(2)] {
            inbox.push(command);
        }
        assert_eq!(inbox.take().commands, [release(1), hold(2), announce(2)]);
    }

    #[test]
    fn an_older_epoch_is_dropped_even_after_the_newer_was_taken() {
        let inbox = Inbox::default();
        inbox.push(hold(5));
        inbox.take();
        assert!(!inbox.push(release(4)));
        assert!(!inbox.push(hold(4)));
        assert_eq!(inbox.take().commands, []);
        assert_eq!(inbox.superseded(), 2);
    }

    fn remind(epoch: u64, host: u8) -> KernelCommand {
        KernelCommand::Remind {
            epoch: Epoch(epoch),
            stale: Stale {
                index: 1,
                vip: [192, 0, 2, 100].into(),
                sender: [192, 0, 2, host].into(),
                mac: Mac([2, 0, 0, 0, 0, host]),
            },
            at: Mac([2, 0, 0, 0, 0, 100]),
        }
    }

    #[test]
    fn standing_is_said_once_and_wakes() {
        let inbox = Inbox::default();
        assert!(inbox.stand());
        assert!(!inbox.stand() && !inbox.push(release(1)));
        let work = inbox.take();
        assert!(work.stand);
        assert_eq!(work.commands, [release(1)]);
        assert!(!inbox.take().stand);
    }

    #[test]
    fn each_reminder_waits_up_to_a_limit() {
        let inbox = Inbox::default();
        assert!(inbox.push(remind(3, 0)));
        for host in 1..REMINDERS as u8 + 2 {
            assert!(!inbox.push(remind(3, host)));
        }
        assert!(!inbox.push(release(3)));
        let all = inbox.take().commands;
        assert_eq!(all.len(), 1 + REMINDERS);
        assert_eq!(all[..2], [release(3), remind(3, 0)]);
        assert_eq!(all.last(), Some(&remind(3, REMINDERS as u8 - 1)));
        assert_eq!(inbox.superseded(), 2);
    }

    #[test]
    fn a_reminder_grows_old_and_makes_nothing_old() {
        let inbox = Inbox::default();
        inbox.push(remind(9, 1));
        inbox.push(release(4));
        inbox.push(remind(4, 2));
        inbox.push(hold(5));
        let expected = [release(4), hold(5), remind(9, 1)];
        assert_eq!(inbox.take().commands, expected);
        assert!(!inbox.push(remind(4, 2)));
        assert_eq!(inbox.superseded(), 2);
    }
}
