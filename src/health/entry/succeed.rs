//! A backend that is checked otherwise from now on.

use super::Entry;

impl Entry {
    /// What was known of the same backend holds until the new check has evidence of its own: a service
    /// must not lose its backends since somebody changes how often they are asked. `same_agent`: so does
    /// what its agent said.
    pub(in crate::health) fn succeed(&mut self, old: &Self, same_agent: bool) {
        if same_agent {
            self.agent.clone_from(&old.agent);
        }
        // Of one without checks, or not met yet by any, nothing is known that would hold.
        let both = self.checks.is_some() && old.checks.is_some();
        let met = old.own_evidence || !old.verdict.up();
        if !both || !met {
            return;
        }
        self.verdict.adopt(old.verdict.up(), 0);
        (self.good, self.bad) = (old.good, old.bad);
        self.own_evidence = old.own_evidence;
        self.evidence.clone_from(&old.evidence);
        self.warning.clone_from(&old.warning);
        self.reason.clone_from(&old.reason);
        (self.told, self.told_at) = (old.told, old.told_at);
    }
}
