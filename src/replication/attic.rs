//! States that nobody needs any more, given back in pieces: to free a million connections takes
//! longer than a node may be without a turn.

use super::Replica;

/// Entries of each table that are given back at once: 0.2 ms.
const SHED: usize = 2_048;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Attic {
    kept: Vec<Replica>,
}

impl Attic {
    /// This one is not needed any more.
    pub fn put(&mut self, replica: Replica) {
        if !replica.is_empty() {
            self.kept.push(replica);
        }
    }

    /// Gives back some of what is here. To be called each turn.
    pub fn shed(&mut self) {
        if let Some(last) = self.kept.last_mut() {
            last.shed(SHED);
            if last.has_no_connections() {
                self.kept.pop();
            }
        }
    }

    /// Nothing is left.
    pub const fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::tests::{admin, nat_open, open};
    use crate::wire::replication::AdminState;

    #[test]
    fn a_large_state_goes_in_pieces_and_wholly() {
        let mut attic = Attic::default();
        attic.put(Replica::default());
        assert!(attic.is_empty(), "an empty one is not kept");
        let mut large = Replica::default();
        for n in 0..3 * SHED as u16 {
            large.apply(&nat_open(n, 1));
        }
        let mut small = Replica::default();
        small.apply(&admin(1, AdminState::Drain));
        small.apply(&open(1, 1));
        attic.put(large);
        attic.put(small);
        let pieces = (0..).take_while(|_| {
            attic.shed();
            !attic.is_empty()
        });
        assert_eq!(pieces.count(), 3);
        attic.shed();
    }
}
