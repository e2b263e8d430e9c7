//! Which backends of a pool get new connections: those that serve; if too few do, all (panic); if
//! none does, the backups.

use crate::config::{Backend, Service};
use crate::model::BackendId;

/// Those of a service, of all its pools. `serves`: up and not drained. `may`: not drained.
pub fn eligible(
    service: &Service,
    serves: impl Fn(BackendId) -> bool,
    may: impl Fn(BackendId) -> bool,
) -> Vec<BackendId> {
    let pools = 0..service.proxied.pools.len() as u16;
    let mut found = Vec::new();
    for pool in std::iter::once(None).chain(pools.map(Some)) {
        let of = |backup: bool| {
            let here = move |it: &&Backend| it.pool == pool && it.backup == backup;
            service.backends.iter().filter(here).map(|it| it.id)
        };
        let up: Vec<_> = of(false).filter(|id| serves(*id)).collect();
        let backups = || of(true).filter(|id| serves(*id));
        let all = || of(false).filter(|id| may(*id));
        let percent = usize::from(service.proxied.limits.panic_threshold);
        if up.is_empty() && backups().next().is_some() {
            found.extend(backups());
        } else if up.len() * 100 < percent * all().count() {
            found.extend(all());
        } else {
            found.extend(up);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::scheduler::fixture::{ids, service};
    use crate::model::Scheduler;

    /// Backends as letters: `u` is up, `d` down, `x` drained; capitals are backups. The answer: their
    /// places.
    fn places(backends: &str, panic: u8) -> Vec<usize> {
        let mut service = service(Scheduler::RoundRobin.into(), &vec![1; backends.len()]);
        service.proxied.limits.panic_threshold = panic;
        let ids = ids(backends.len());
        let letters: Vec<char> = backends.chars().collect();
        for (backend, letter) in service.backends.iter_mut().zip(&letters) {
            backend.backup = letter.is_uppercase();
        }
        let place = |id| ids.iter().position(|it| *it == id).unwrap();
        let is = |id, what| letters[place(id)].eq_ignore_ascii_case(&what);
        let found = eligible(&service, |id| is(id, 'u'), |id| !is(id, 'x'));
        found.into_iter().map(place).collect()
    }

    #[test]
    fn the_rule() {
        for (backends, panic, expected) in [
            ("uduU", 0, &[0, 2][..]),
            ("ddUD", 0, &[2]),
            ("dxUU", 50, &[2, 3]),
            ("dd", 0, &[]),
            ("dd", 1, &[0, 1]),
            ("xd", 100, &[1]),
            ("uddd", 25, &[0]),
            ("uddd", 26, &[0, 1, 2, 3]),
            ("udddX", 50, &[0, 1, 2, 3]),
            ("uxxx", 100, &[0]),
            ("uuud", 75, &[0, 1, 2]),
        ] {
            assert_eq!(places(backends, panic), expected, "{backends} {panic}");
        }
    }
}
