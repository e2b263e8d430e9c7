//! `random`, `power_of_two`, `adaptive`'s choice, and who comes next in `weighted_round_robin`.

use super::Among;
use super::least::Share;

/// 2^64 divided by the golden section: multiples of it, modulo 2^64, lie as evenly as can be.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// One at random: P = W / sum W.
pub(super) fn by_weight(among: Among<'_>, rng: &mut fastrand::Rng) -> Option<usize> {
    drawn(among, None, rng)
}

/// Two different ones at random, each by weight; of these the one with fewer connections per
/// weight, or the first of equals.
pub(super) fn better_of_two(among: Among<'_>, rng: &mut fastrand::Rng) -> Option<usize> {
    let one = drawn(among, None, rng)?;
    let Some(other) = drawn(among, Some(one), rng) else {
        return Some(one);
    };
    let share = |place: usize| Share::of(&among.pool[place]);
    match share(other).compare(&share(one)).is_lt() {
        true => Some(other),
        false => Some(one),
    }
}

fn drawn(among: Among<'_>, but: Option<usize>, rng: &mut fastrand::Rng) -> Option<usize> {
    let weight = |place: usize| u32::from(among.pool[place].weight());
    let places = || among.places().filter(|place| Some(*place) != but);
    let sum: u32 = places().map(weight).sum();
    if sum == 0 {
        return None;
    }
    at_point(places(), rng.u32(0..sum).into(), |at| weight(at).into())
}

/// The connections' numbers are spread over a circle on which each backend has an arc as long as
/// its effective weight: P = W f / sum W f, and, unlike with random numbers, nearly exact over
/// every few connections.
pub(super) fn by_effective_weight(among: Among<'_>, ticket: u64) -> Option<usize> {
    let weight = |place: usize| u64::from(among.pool[place].effective_weight());
    let sum: u64 = among.places().map(weight).sum();
    let point = (u128::from(ticket.wrapping_mul(GOLDEN)) * u128::from(sum)) >> 64;
    at_point(among.places(), point as u64, weight)
}

/// Whose arc this point is on. Where others have just taken the last room, the last one's.
fn at_point(
    places: impl Iterator<Item = usize>,
    mut point: u64,
    weight: impl Fn(usize) -> u64,
) -> Option<usize> {
    let mut last = None;
    for place in places {
        let arc = weight(place);
        if point < arc {
            return Some(place);
        }
        point -= arc;
        last = Some(place);
    }
    last
}

/// The highest weight; equals take turns.
pub(super) fn heaviest(among: Among<'_>, ticket: u64) -> Option<usize> {
    let weight = |place: usize| among.pool[place].weight();
    let most = among.places().map(weight).max()?;
    let equals = among.places().filter(|place| weight(*place) == most);
    // Scattered, because the tickets whose first choice is one backend may all be alike.
    choose(equals, ticket.wrapping_mul(GOLDEN) >> 32)
}

/// The n-th of these, counting round.
pub(super) fn choose(equals: impl Iterator<Item = usize> + Clone, n: u64) -> Option<usize> {
    let count = equals.clone().count().max(1) as u64;
    let mut rest = equals.clone();
    // Fewer than counted if others have just taken the last room.
    rest.nth((n % count) as usize).or_else(|| equals.last())
}
