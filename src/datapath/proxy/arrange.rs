//! Places that hold while the configuration changes.
//!
//! Connections that are on their way know their service and their pool by its place. So a service and a
//! pool keep theirs for good, in whatever order the next configuration has them; of one that is gone an
//! empty one stays.

use crate::config::{Config, Service};

/// Places of pools in one service, beyond which those of pools that are gone are given to others. A
/// connection's pool is chosen within seconds, and then it is looked up; no reload brings so many.
const MANY: usize = 1_024;

/// The next configuration, with its services and pools in the places that they have in `former`.
pub(super) fn arrange(former: &Config, next: &Config) -> Config {
    let mut wanted: Vec<Option<Service>> = next.services.iter().cloned().map(Some).collect();
    let mut services = Vec::with_capacity(wanted.len());
    for old in &former.services {
        let here = wanted
            .iter_mut()
            .find(|it| it.as_ref().is_some_and(|it| it.id == old.id));
        services.push(match here.and_then(Option::take) {
            Some(new) => arranged(old, new),
            None => Service {
                backends: Vec::new(),
                ..old.clone()
            },
        });
    }
    services.extend(wanted.into_iter().flatten());
    Config {
        services,
        ..next.clone()
    }
}

fn arranged(old: &Service, mut new: Service) -> Service {
    let mut wanted: Vec<_> = new.proxied.pools.drain(..).map(Some).collect();
    // Where each of the next configuration's pools is now.
    let mut places = vec![0_u16; wanted.len()];
    let mut pools = Vec::with_capacity(wanted.len());
    let mut vacant = Vec::new();
    for (place, pool) in (0..).zip(&old.proxied.pools) {
        let found = wanted
            .iter()
            .position(|it| it.as_ref().is_some_and(|it| it.name == pool.name));
        let taken = found.and_then(|at| Some((at, wanted[at].take()?)));
        pools.push(match taken {
            Some((at, pool)) => {
                places[at] = place;
                pool
            }
            None => {
                vacant.push(place);
                pool.clone()
            }
        });
    }
    let mut vacant = vacant.into_iter();
    for (at, pool) in wanted.into_iter().enumerate() {
        let Some(pool) = pool else { continue };
        let reused = (pools.len() >= MANY).then(|| vacant.next()).flatten();
        places[at] = reused.unwrap_or(pools.len() as u16);
        match reused {
            Some(place) => pools[usize::from(place)] = pool,
            None => pools.push(pool),
        }
    }
    let moved = |pool: &mut Option<u16>| {
        *pool = pool.and_then(|pool| places.get(usize::from(pool)).copied());
    };
    new.proxied.pools = pools;
    new.backends.iter_mut().for_each(|it| moved(&mut it.pool));
    new.proxied
        .rules
        .iter_mut()
        .for_each(|it| moved(&mut it.pool));
    new.discover.iter_mut().for_each(|it| moved(&mut it.pool));
    new
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Pool;
    use crate::datapath::proxy::rig;
    use crate::model::Scheduler;

    fn with(pools: &[&str]) -> Config {
        let nobody = "127.0.0.1:1".parse().unwrap();
        let mut config = rig::config(&vec![nobody; pools.len() + 1]);
        let service = &mut config.services[0];
        let pool = |name: &&str| Pool {
            name: (*name).to_owned(),
            balance: Scheduler::RoundRobin.into(),
            health: None,
        };
        service.proxied.pools = pools.iter().map(pool).collect();
        for (n, backend) in service.backends.iter_mut().enumerate().skip(1) {
            backend.pool = Some(n as u16 - 1);
            backend.name = pools[n - 1].to_owned();
        }
        config
    }

    fn seen(config: &Config) -> Vec<String> {
        let service = &config.services[0];
        let backends = service.backends.iter().skip(1);
        for backend in backends {
            assert_eq!(
                service.pool_name(backend.pool),
                backend.name,
                "it is in its pool"
            );
        }
        service
            .proxied
            .pools
            .iter()
            .map(|it| it.name.clone())
            .collect()
    }

    #[test]
    fn a_pool_keeps_its_place() {
        let first = arrange(&with(&["a", "b"]), &with(&["b", "c", "a"]));
        assert_eq!(seen(&first), ["a", "b", "c"]);
        let second = arrange(&first, &with(&["c"]));
        assert_eq!(
            seen(&second),
            ["a", "b", "c"],
            "of those that are gone an empty one stays"
        );
        assert_eq!(second.services[0].backends[1].pool, Some(2));
        assert_eq!(
            seen(&arrange(&second, &with(&["d", "a"]))),
            ["a", "b", "c", "d"]
        );
        let mut config = with(&["a"]);
        for n in 0..2 * MANY {
            config = arrange(&config, &with(&[&format!("p{n}")]));
        }
        assert_eq!(config.services[0].proxied.pools.len(), MANY);
    }

    #[test]
    fn a_service_keeps_its_place() {
        let (one, mut other) = (with(&[]), with(&[]));
        let mut second = other.services[0].clone();
        (second.id, second.name) = (crate::model::ServiceId::of("api"), "api".into());
        other.services.insert(0, second);
        let names = |config: &Config| -> Vec<(String, usize)> {
            let services = config.services.iter();
            services
                .map(|it| (it.name.clone(), it.backends.len()))
                .collect()
        };
        let both = arrange(&one, &other);
        assert_eq!(names(&both), [("web".into(), 1), ("api".into(), 1)]);
        assert_eq!(
            names(&arrange(&both, &one)),
            [("web".into(), 1), ("api".into(), 0)]
        );
    }
}
