//! Who owns the address: the nodes, their kernels and the LAN, after every step.

use tandem::model::Epoch;

use super::super::faults::Kind;
use super::super::machine::{LEASE, VANISH};
use super::super::network::PATHS;
use super::super::world::{MS, World};
use super::{DEFENCE, FORGIVENESS, SETTLE, is_master, mark};

impl World {
    /// Epoch: never falls in a life; a takeover, and a mastership that goes on under another epoch,
    /// has one that is higher than any that this node knew or was told.
    pub(super) fn check_epochs(&mut self) -> Result<(), String> {
        for machine in &mut self.machines {
            let Some(process) = &mut machine.process else {
                continue;
            };
            let (role, epoch) = (process.node.role(), process.node.election().epoch());
            let seen = &mut process.seen;
            if epoch < seen.epoch {
                return Err(format!("the epoch fell from {} to {epoch}", seen.epoch));
            }
            let new = is_master(role) && (!is_master(seen.role) || epoch != seen.epoch);
            if new && epoch <= seen.epoch.max(seen.heard) {
                let (known, heard) = (seen.epoch, seen.heard);
                return Err(format!(
                    "a takeover with epoch {epoch}, but {known} was known and {heard} heard"
                ));
            }
            (seen.role, seen.epoch) = (role, epoch);
        }
        Ok(())
    }

    /// A kernel has the address only while its node is master, within the bounds of release and
    /// death; never under an epoch that its node does not know; and two kernels have it no longer
    /// than the lease of the one whose node stands still.
    pub(super) fn check_kernels(&mut self) -> Result<(), String> {
        let now = self.now;
        for machine in 0..2 {
            let host = &self.machines[machine];
            // One that stands still between handing over and releasing has its lease instead.
            let runs = host.process.is_none() || host.awake().is_some();
            let zombie = host.kernel.holds(now) && !host.is_master() && runs && host.powered();
            mark(&mut self.checkers.zombie_since[machine], zombie, now);
            let since = self.checkers.zombie_since[machine].unwrap_or(now);
            if now - since > 50 * MS {
                let kernel = &host.kernel;
                return Err(format!(
                    "machine {machine} holds the address without being master: {kernel:?}"
                ));
            }
            let Some(process) = &host.process else {
                continue;
            };
            let known = process.node.election().epoch().max(Epoch(0));
            if let Some((held, _)) = host.kernel.held
                && held > known
            {
                return Err(format!("held under {held}, the node knows {known}"));
            }
        }
        let on = |machine: usize| {
            let host = &self.machines[machine];
            host.kernel.holds(now) && host.powered()
        };
        let both = on(0) && on(1);
        let passes = self.passes();
        let checkers = &mut self.checkers;
        mark(&mut checkers.two_holders_since, both && passes, now);
        if both {
            checkers.duel = now;
        }
        let bound = LEASE.as_nanos() as u64 + VANISH.as_nanos() as u64 + SETTLE;
        if checkers
            .two_holders_since
            .is_some_and(|at| now - at > bound)
        {
            return Err("lease: two kernels hold the address".into());
        }
        Ok(())
    }

    /// Some path passes both ways.
    fn passes(&self) -> bool {
        let cut = |path: usize| self.network.links.iter().any(|links| links[path].cut);
        (0..PATHS).any(|path| !self.path_down(path) && !cut(path))
    }

    /// Owner: with both nodes awake and a path between them, there is one master.
    pub(super) fn check_owner(&mut self) -> Result<(), String> {
        let awake = self.machines.iter().all(|host| host.awake().is_some());
        let mut hosts = self.machines.iter();
        let unfit = hosts.any(|host| host.kernel.refuses || host.kernel.link_down);
        let masters = self.machines.iter().filter(|host| host.is_master()).count();
        let good = awake && self.passes();
        let now = self.now;
        let checkers = &mut self.checkers;
        if unfit {
            checkers.unfit_until = now + FORGIVENESS;
        }
        mark(&mut checkers.good_since, good, now);
        mark(&mut checkers.two_masters_since, masters == 2, now);
        if masters == 2 {
            checkers.parted = Some(now);
        }
        mark(&mut checkers.no_master_since, masters == 0, now);
        let Some(good) = checkers.good_since else {
            return Ok(());
        };
        let lasted = |since: Option<u64>| since.is_some_and(|at| now - at.max(good) > SETTLE);
        if lasted(checkers.two_masters_since) {
            return Err("two masters that hear each other".into());
        }
        if lasted(checkers.no_master_since) && now > checkers.unfit_until {
            return Err("no master although both nodes are well".into());
        }
        Ok(())
    }

    /// LAN: while announcements pass, the clients reach the only machine that has the address; after
    /// two claimed it, no later than with the survivor's next answer.
    pub(super) fn check_lan(&mut self) -> Result<(), String> {
        let now = self.now;
        let holds = |machine: usize| {
            let host = &self.machines[machine];
            host.kernel.holds(now) && host.is_master() && host.awake().is_some()
        };
        let owner = match [holds(0), holds(1)] {
            [true, false] => Some(0),
            [false, true] => Some(1),
            _ => None,
        };
        let pass = !self.faults.has(Kind::LostAnnouncements);
        let wrong = pass && owner.is_some() && self.lan.map(|(to, _)| to) != owner;
        mark(&mut self.checkers.lan_wrong_since, wrong, now);
        let since = self.checkers.lan_wrong_since.unwrap_or(now);
        if now - since > SETTLE && now > self.checkers.duel + DEFENCE {
            return Err(format!("LAN: {owner:?} owns, clients go to {:?}", self.lan));
        }
        Ok(())
    }
}
