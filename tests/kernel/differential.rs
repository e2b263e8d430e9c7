//! The program in the kernel against the reference: generated frames, one by one.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use tandem::datapath::nat::layout::{Flow, FlowKey};
use tandem::datapath::nat::reference::{Arrival, Reference, Verdict};
use tandem::datapath::nat::tables::Told;
use tandem::datapath::nat::{Counter, Nat, NatError, Sizes};
use tokio::time::Instant;

use crate::checks;
use crate::pair::Pair;
use crate::world;

/// How many worlds, and how many frames each sees.
const WORLDS: u64 = 850;
const FRAMES: usize = 250;

/// A world that takes longer may be repeated without what depends on the kernel's clock.
const QUICK: Duration = Duration::from_millis(950);

const PASS: i32 = -1;
const DROP: i32 = 2;
const REDIRECT: i32 = 7;

/// The kernel's clock is not ours.
fn timeless(mut flow: Flow) -> Flow {
    flow.opened = 0;
    flow.seen = 0;
    flow
}

fn told(mut told: Told) -> Told {
    match &mut told {
        Told::Carried(carried) => carried.event.flow = timeless(carried.event.flow),
        Told::Event(event) => event.flow = timeless(event.flow),
    }
    told
}

fn counters(nat: &Nat) -> Result<Vec<u64>, NatError> {
    let all = Counter::ALL.iter();
    all.map(|counter| nat.tables.counter(*counter)).collect()
}

fn flows(nat: &Nat) -> Result<BTreeMap<FlowKey, Flow>, NatError> {
    let entries = nat.tables.flows();
    entries
        .map(|entry| entry.map(|(key, flow)| (key, timeless(flow))))
        .collect()
}

/// What was seen, so that a generator that lost its way is noticed.
#[derive(Debug, Default)]
struct Seen {
    passed: u32,
    checked: u32,
    /// Worlds that took too long.
    slow: u32,
    counted: BTreeMap<Counter, u64>,
}

/// One world: all its frames, then the tables. `timed`: with what a second ends.
fn world(
    nat: &mut Nat,
    seed: u64,
    series: u32,
    timed: bool,
    seen: &mut Seen,
) -> Result<(), String> {
    let say = |error: NatError| error.to_string();
    clear(nat).map_err(say)?;
    let mut rng = Rng::with_seed(seed);
    let lease = if rng.u8(..12) == 0 { 0 } else { u64::MAX };
    let mut reference = world::fill(nat, lease, series, timed).map_err(say)?;
    // Some frames meet a node that may decide nothing.
    let frozen = rng.u8(..4) == 0;
    let before = counters(nat).map_err(say)?;
    let mut pair = Pair::new(&mut rng, series);
    nat.enliven().map_err(say)?;
    pair.meet(nat, &mut reference).map_err(say)?;
    for step in 0..FRAMES {
        if rng.u8(..20) == 0 {
            pair.change(&mut rng, nat, &mut reference).map_err(say)?;
        }
        if frozen && step == FRAMES / 2 {
            reference.frozen = true;
            reference.offered = rng.bool();
            world::give(nat, &reference).map_err(say)?;
        }
        let mut frame = match rng.u8(..12) {
            0 => pair.frame(&mut rng),
            _ => world::frame(&mut rng, &reference),
        };
        pair.send(&mut rng, &mut frame);
        one(nat, &mut reference, &frame, timed, seen)
            .map_err(|error| format!("seed {seed}, frame {step}: {error}\n{frame:02x?}"))?;
    }
    let after = counters(nat).map_err(say)?;
    for (counter, (before, after)) in Counter::ALL.iter().zip(before.iter().zip(after)) {
        let expected = reference.counters.get(counter).copied().unwrap_or(0);
        if after - before != expected {
            let kernel = after - before;
            return Err(format!(
                "seed {seed}: {counter:?}: kernel {kernel}, reference {expected}"
            ));
        }
        *seen.counted.entry(*counter).or_default() += expected;
    }
    let expected: BTreeMap<_, _> = reference
        .flows
        .iter()
        .map(|(k, f)| (*k, timeless(*f)))
        .collect();
    let found = flows(nat).map_err(say)?;
    if found != expected {
        return Err(format!(
            "seed {seed}: flows differ\nkernel {found:#?}\nreference {expected:#?}"
        ));
    }
    Ok(())
}

/// One world, again if it took so long that in the kernel the second of a source's rate, or of a
/// neighbour's reminder, was over: in the reference it never is.
fn in_time(nat: &mut Nat, seed: u64, series: &mut u32, seen: &mut Seen) -> Result<(), String> {
    let begin = Instant::now();
    *series += 1;
    let done = world(nat, seed, *series, true, seen);
    if done.is_ok() || begin.elapsed() < QUICK {
        return done;
    }
    seen.slow += 1;
    *series += 1;
    world(nat, seed, *series, false, seen)
}

/// What the world before left, also one that was given up.
fn clear(nat: &mut Nat) -> Result<(), NatError> {
    for key in flows(nat)?.keys() {
        nat.tables.remove_flow(key)?;
    }
    while nat.tables.next_event().is_some() || nat.tables.next_refusal().is_some() {}
    while nat.tables.next_stale().is_some() {}
    Ok(())
}

fn one(
    nat: &mut Nat,
    reference: &mut Reference,
    frame: &[u8],
    timed: bool,
    seen: &mut Seen,
) -> Result<(), String> {
    let arrival = Arrival {
        // The test run happens on the loopback device.
        ifindex: 1,
        foreign: frame[..6] != [0; 6],
        now: 1,
        ..Arrival::default()
    };
    let verdict = reference.process(frame, &arrival);
    let (returned, out) = nat.try_frame(frame).map_err(|error| error.to_string())?;
    let expected = match &verdict {
        Verdict::Pass => (PASS, frame),
        Verdict::Drop(_) => (DROP, &out[..]),
        Verdict::Redirect { frame, .. } | Verdict::Relay(frame) => (REDIRECT, &frame[..]),
    };
    if (returned, &out[..]) != expected {
        return Err(format!(
            "kernel {returned} {out:02x?}\nreference {verdict:02x?}"
        ));
    }
    // What was right before must be right afterwards.
    if returned == REDIRECT && checks::wrong(frame).is_none() {
        seen.checked += 1;
        if let Some(what) = checks::wrong(&out) {
            return Err(format!("wrong checksum: {what}: {out:02x?}"));
        }
    }
    seen.passed += u32::from(returned == PASS);
    let kernel: Vec<_> = std::iter::from_fn(|| nat.tables.next_event())
        .map(told)
        .collect();
    let expected: Vec<_> = reference.events.drain(..).map(told).collect();
    if kernel != expected {
        return Err(format!("events: kernel {kernel:?}\nreference {expected:?}"));
    }
    let kernel: Vec<_> = std::iter::from_fn(|| nat.tables.next_refusal()).collect();
    if kernel != reference.refusals {
        let expected = &reference.refusals;
        return Err(format!(
            "refusals: kernel {kernel:?}\nreference {expected:?}"
        ));
    }
    reference.refusals.clear();
    let kernel: Vec<_> = std::iter::from_fn(|| nat.tables.next_stale()).collect();
    if timed && kernel != reference.stales {
        let expected = &reference.stales;
        return Err(format!("stale: kernel {kernel:?}\nreference {expected:?}"));
    }
    reference.stales.clear();
    Ok(())
}

pub(crate) fn load() -> Result<Nat, NatError> {
    Nat::load(&Sizes {
        flows: 2_048,
        slots: 64,
        backends: 16,
        events: 1 << 18,
        ..Sizes::default()
    })
}

/// The same verdict, the same bytes, the same tables, the same events.
pub(crate) fn kernel_and_reference_agree() -> Result<(), String> {
    let mut nat = load().map_err(|error| error.to_string())?;
    let mut seen = Seen::default();
    let mut series = 0;
    for seed in 0..WORLDS {
        in_time(&mut nat, seed, &mut series, &mut seen)?;
    }
    println!("{} frames: {seen:?}", WORLDS * FRAMES as u64);
    // Two happen only between CPUs, one only if the kernel runs out of memory.
    let unseen: Vec<_> = seen
        .counted
        .iter()
        .filter(|(counter, n)| **n < 20 && !RARE.contains(counter))
        .filter(|(counter, _)| seen.slow == 0 || **counter != Counter::SourceRate)
        .collect();
    if !unseen.is_empty() || seen.passed < 1_000 || seen.checked < 50_000 {
        return Err(format!(
            "the frames no longer reach all of the program: {unseen:?}"
        ));
    }
    Ok(())
}

/// What one CPU with room for all does not come to.
const RARE: &[Counter] = &[
    Counter::Race,
    Counter::TableFull,
    Counter::Write,
    Counter::LostEvent,
    Counter::LostRefusal,
    Counter::LostStale,
];
