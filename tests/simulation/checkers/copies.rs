//! Copies: what the backup has is what the master had at that position, item by item.
//!
//! The reference is the master's own state after each of its turns, kept for the whole run. That
//! the master's state is what really happened is for the books.

use std::collections::BTreeMap;

use tandem::model::{Incarnation, Role};
use tandem::node::io::Output;
use tandem::replication::Replica;
use tandem::status::What;
use tandem::wire::replication::{Frame, Position};
use tandem::wire::statement::Statement;

use super::super::machine::Process;
use super::{Checkers, is_master};

/// Every state of every log: whose, where, what.
#[derive(Debug, Default)]
pub(super) struct Logs(BTreeMap<(Incarnation, Position), Replica>);

impl Checkers {
    pub(super) fn copies(&mut self, process: &mut Process, outputs: &[Output]) {
        let node = &process.node;
        let moved = node.position() != process.seen.position || node.role() != process.seen.role;
        // Looking at what should not have changed costs most of a run.
        self.turns = self.turns.wrapping_add(1);
        let adopts = std::mem::take(&mut process.seen.adopts) && !is_master(process.node.role());
        if adopts && !process.follows() {
            process.seen.replica = process.node.replica().clone();
        }
        if !moved && !self.turns.is_multiple_of(16) {
            return;
        }
        let master = |output: &Output| {
            matches!(
                output,
                Output::Event(event)
                    if matches!(event.what, What::Transition { to: Role::Master, .. })
            )
        };
        let result = if is_master(process.node.role()) {
            self.master(process)
        } else {
            let was_master = is_master(process.seen.role) || outputs.iter().any(master);
            self.backup(process, was_master)
        };
        if let Err(broken) = result.and_then(|()| acknowledged(process, outputs)) {
            self.breaks(format!("copies: {broken}"));
        }
    }

    /// A position names one state, and a takeover loses nothing that the copy had.
    fn master(&mut self, process: &mut Process) -> Result<(), String> {
        let node = &process.node;
        let (position, replica) = (node.position(), node.replica());
        if !is_master(process.seen.role) {
            let (before, after) = (&process.seen.replica, replica);
            // It may have heard later words than the master that it followed, and none is lost.
            let later = |(key, said): (_, &Statement)| {
                let now = after.said().get(key);
                now.is_some_and(|now| now == said || now.at > said.at)
            };
            if !before.said().iter().all(later) {
                return Err("a takeover changed what operators said".into());
            }
            // Those that it drained are its own; the books compare them with the living ones.
            if !after.flows().is_empty() && !process.relays {
                return Err("a takeover in proxy mode kept connections".into());
            }
            if before
                .health()
                .keys()
                .any(|id| !after.health().contains_key(id))
            {
                return Err("a takeover lost a verdict".into());
            }
        }
        let key = (process.incarnation, position);
        let known = self.logs.0.entry(key).or_insert_with(|| replica.clone());
        if known != replica {
            return Err(format!("two states at {position:?}"));
        }
        process.seen.position = position;
        Ok(())
    }

    fn backup(&mut self, process: &mut Process, fresh: bool) -> Result<(), String> {
        let node = &process.node;
        let seen = &mut process.seen;
        let (position, replica) = (node.position(), node.replica());
        if !fresh && position == seen.position {
            let of_session = self.has(process.session_life, position, replica);
            if of_session {
                (seen.replica, seen.source) = (replica.clone(), process.session_life);
            }
            return if of_session || *replica == seen.replica {
                Ok(())
            } else {
                Err(format!(
                    "the copy changed, but not its position {position:?}"
                ))
            };
        }
        let same = process.session_life == seen.source;
        if !fresh && same && position < seen.position {
            let before = seen.position;
            return Err(format!("went back from {before:?} to {position:?}"));
        }
        (seen.position, seen.replica) = (position, replica.clone());
        seen.source = process.session_life;
        if position == Position::default() || self.has(process.session_life, position, replica) {
            return Ok(());
        }
        Err(format!(
            "the copy at {position:?} is no state of the master"
        ))
    }

    fn has(&self, life: Option<Incarnation>, position: Position, replica: &Replica) -> bool {
        life.and_then(|life| self.logs.0.get(&(life, position))) == Some(replica)
    }
}

/// Only what is there is acknowledged.
fn acknowledged(process: &Process, outputs: &[Output]) -> Result<(), String> {
    let position = process.node.position();
    for output in outputs {
        if let Output::SendFrame(Frame::Ack(acked)) = output
            && *acked != position
        {
            return Err(format!("acknowledged {acked:?} at {position:?}"));
        }
    }
    Ok(())
}
