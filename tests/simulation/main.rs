//! The deterministic simulation: two nodes, a network, a LAN with memory, two kernels that survive
//! their process, faults, and checkers. A run is a pure function of (code, seed, faults, seconds).
//!
//! ```text
//! TANDEM_SIM_SEED=17 cargo test --test simulation one_seed -- --nocapture   # replay with its trace
//! TANDEM_SIM_SEEDS=100000 cargo test --release --test simulation sweep      # a long sweep
//! TANDEM_SIM_FIRST=256                                                      # from this seed on
//! TANDEM_SIM_PORTS=2012,17983                                               # one_seed: traces their packets
//! TANDEM_SIM_SECONDS=600                                                    # longer runs
//! ```

#![expect(unreachable_pub, reason = "a test program has no public face")]

mod checkers;
mod drains;
mod ends;
mod faults;
mod host;
mod kernel_mode;
mod lan;
mod machine;
mod nature;
mod neighbours;
mod network;
mod process;
mod proxied;
mod relays;
mod rng;
mod roster;
mod scenarios;
mod segment;
mod stream;
mod traffic;
mod world;

use faults::Faults;
use world::World;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |text| text.parse().expect(name))
}

fn seconds() -> u64 {
    number("TANDEM_SIM_SECONDS", 40)
}

/// Runs one seed; on failure finds the fewest fault kinds that still fail.
fn check(seed: u64, seconds: u64) -> Result<(), String> {
    let run = |faults: Faults| {
        let mut world = Box::new(World::new(seed, faults));
        world.run(seconds).map_err(|broken| (broken, world))
    };
    let mut faults = Faults::of_seed(seed);
    let Err((mut broken, mut world)) = run(faults) else {
        return Ok(());
    };
    for kind in Faults::KINDS {
        if let Err((again, smaller)) = run(faults.without(kind)) {
            faults = faults.without(kind);
            (broken, world) = (again, smaller);
        }
    }
    let trace = world.trace_tail(60);
    Err(format!(
        "seed {seed} with {faults:?}: {broken}\n{trace}\nreplay: TANDEM_SIM_SEED={seed} TANDEM_SIM_SECONDS={seconds} cargo test --test simulation one_seed -- --nocapture"
    ))
}

/// Seeds are independent of each other, so two threads share them.
#[test]
fn sweep_of_seeds() {
    const THREADS: u64 = 2;
    let end = number("TANDEM_SIM_SEEDS", 256);
    let first = number("TANDEM_SIM_FIRST", 0);
    let broken = |lane: u64| {
        (first..first + end)
            .filter(move |seed| seed % THREADS == lane)
            .filter_map(|seed| check(seed, seconds()).err())
            .take(3)
            .collect::<Vec<String>>()
    };
    let failures: Vec<String> = std::thread::scope(|scope| {
        let lanes = [0, 1].map(|lane| scope.spawn(move || broken(lane)));
        lanes
            .into_iter()
            .flat_map(|lane| lane.join().expect("the other seeds run on"))
            .collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn one_seed() {
    let seed = number("TANDEM_SIM_SEED", 1);
    let mut world = World::new(seed, Faults::of_seed(seed));
    let ports = std::env::var("TANDEM_SIM_PORTS").unwrap_or_default();
    let ports = ports.split(',').filter_map(|port| port.parse().ok());
    world.watched = ports.collect();
    let result = world.run(seconds());
    if std::env::var("TANDEM_SIM_SEED").is_ok() {
        println!("{}", world.trace_tail(usize::MAX));
    }
    result.unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..24 {
        let traces = [0, 1].map(|_| {
            let mut world = World::new(seed, Faults::of_seed(seed));
            let _outcome = world.run(20);
            world.trace_tail(usize::MAX)
        });
        assert!(!traces[0].is_empty());
        assert_eq!(traces[0], traces[1], "seed {seed}");
    }
}

#[test]
fn seeds_that_failed_once_stay_good() {
    let list = include_str!("regressions.txt");
    for line in list.lines().filter(|line| !line.starts_with('#')) {
        let mut fields = line.split_whitespace();
        let mut next = || fields.next().and_then(|text| text.parse().ok());
        let (Some(seed), Some(seconds)) = (next(), next()) else {
            panic!("regressions.txt: {line:?} is not `SEED SECONDS why`");
        };
        check(seed, seconds).unwrap_or_else(|broken| panic!("{broken}"));
    }
}
