//! Bounded load (Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA
//! 2018): with a factor `c`, no backend has more than `ceil(c x W / sum W x connections)`.

use std::sync::Arc;

use super::Among;
use crate::balance::Target;

/// What each backend may have.
#[derive(Clone, Copy)]
pub(super) struct Bound {
    /// Hundredths times connections, the one that is being placed counted in.
    scaled: u64,
    /// A hundred times the sum of weights.
    sum: u64,
}

impl Bound {
    fn new(pool: &[Arc<Target>], hundredths: u16) -> Self {
        let live: u64 = pool.iter().map(|it| u64::from(it.live())).sum();
        let sum: u64 = pool.iter().map(|it| u64::from(it.weight())).sum();
        Self {
            scaled: u64::from(hundredths) * (live + 1),
            sum: 100 * sum,
        }
    }

    /// One more is within it.
    pub(super) fn has_room(self, target: &Target) -> bool {
        let most = (self.scaled * u64::from(target.weight())).div_ceil(self.sum.max(1));
        u64::from(target.live()) < most
    }
}

/// What `choose` chooses among those that are below their bound; among all, if these have failed or
/// are full.
pub(super) fn within(
    among: Among<'_>,
    hundredths: Option<u16>,
    choose: impl Fn(Among<'_>) -> Option<usize>,
) -> Option<usize> {
    let bounded = hundredths.and_then(|hundredths| {
        choose(Among {
            bound: Some(Bound::new(among.pool, hundredths)),
            ..among
        })
    });
    bounded.or_else(|| choose(among))
}
