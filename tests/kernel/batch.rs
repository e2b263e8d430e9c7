//! Many entries by one call.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use tandem::datapath::nat::layout::{Flow, FlowKey};
use tandem::datapath::nat::{Nat, NatError, Sizes};

/// Entries; two make a flow.
const COUNT: u32 = 100_000;
const STEP: usize = 4_096;

fn key(n: u32) -> FlowKey {
    let [_, a, b, c] = n.to_be_bytes();
    let from = SocketAddr::from(([203, 0, a, b], 1_024 + u16::from(c)));
    FlowKey::new(from, SocketAddr::from(([192, 0, 2, 100], 80)))
}

fn flow(n: u32) -> Flow {
    Flow {
        client_isn: n,
        ..Flow::default()
    }
}

fn load(flows: u32) -> Result<Nat, NatError> {
    Nat::load(&Sizes {
        flows,
        ..Sizes::default()
    })
}

fn per_second(what: &str, since: Instant) {
    let rate = f64::from(COUNT) / since.elapsed().as_secs_f64();
    println!("{what}: {rate:.0} entries a second");
}

/// All come back once, also when what was met is removed on the way.
pub(crate) fn many_entries() -> Result<(), String> {
    run_many_entries().map_err(|error| error.to_string())?
}

#[expect(clippy::disallowed_methods, reason = "it measures the kernel")]
fn run_many_entries() -> Result<Result<(), String>, NatError> {
    let mut nat = load(COUNT / 2)?;
    let entries: Vec<_> = (0..COUNT).map(|n| (key(n), flow(n))).collect();
    let start = Instant::now();
    for part in entries.chunks(STEP) {
        nat.tables.put_flows(part)?;
    }
    per_second("put_flows", start);
    let start = Instant::now();
    for (key, flow) in &entries {
        nat.tables.set_flow(key, flow)?;
    }
    per_second("set_flow", start);
    let start = Instant::now();
    let (mut place, mut seen) = (None, BTreeSet::new());
    let mut met = 0;
    loop {
        let (found, next) = nat.tables.walk_flows(place, STEP)?;
        met += found.len();
        place = next;
        if next.is_none() {
            break;
        }
    }
    per_second("walk_flows", start);
    if met != entries.len() {
        return Ok(Err(format!("met {met}")));
    }
    let start = Instant::now();
    let mut step = 0;
    loop {
        let (found, next) = nat.tables.walk_flows(place, STEP)?;
        for (found, flow) in &found {
            let right = *found == key(flow.client_isn);
            if !right || !seen.insert(flow.client_isn) {
                return Ok(Err(format!("wrong or twice: {found:?}")));
            }
        }
        // Some of each step go, with some that are not there.
        step += 1;
        let gone = found.iter().filter(|(_, flow)| flow.client_isn % 3 != 0);
        let mut gone: Vec<_> = gone.map(|(key, _)| *key).collect();
        for n in (0..gone.len()).step_by(100) {
            gone.insert(n, key(COUNT + step));
        }
        gone.push(key(COUNT + step));
        nat.tables.remove_flows(&gone)?;
        place = next;
        if next.is_none() {
            break;
        }
    }
    per_second("walk_flows and remove_flows", start);
    let left: BTreeSet<_> = nat
        .tables
        .flows()
        .map(|entry| entry.map(|(_, flow)| flow.client_isn))
        .collect::<Result<_, _>>()?;
    let expected: BTreeSet<_> = (0..COUNT).filter(|n| n % 3 == 0).collect();
    let all = seen.len() == entries.len();
    Ok((all && left == expected)
        .then_some(())
        .ok_or_else(|| format!("{} seen, {} left", seen.len(), left.len())))
}

/// Nothing to do, no room, and a step that is smaller than a bucket.
pub(crate) fn ends() -> Result<(), String> {
    run_ends().map_err(|error| error.to_string())?
}

fn run_ends() -> Result<Result<(), String>, NatError> {
    let mut nat = load(2_048)?;
    nat.tables.put_flows(&[])?;
    nat.tables.remove_flows(&[])?;
    nat.tables.remove_flows(&[key(1)])?;
    if nat.tables.walk_flows(None, STEP)? != (Vec::new(), None) {
        return Ok(Err("an empty table has entries".into()));
    }
    let entries: Vec<_> = (0..5_000).map(|n| (key(n), flow(n))).collect();
    let full = matches!(nat.tables.put_flows(&entries), Err(NatError::Full { .. }));
    let (mut place, mut met) = (None, 0);
    loop {
        let (found, next) = nat.tables.walk_flows(place, 1)?;
        met += found.len();
        place = next;
        if next.is_none() {
            break;
        }
    }
    Ok((full && met == 4_096)
        .then_some(())
        .ok_or_else(|| format!("full: {full}, met {met}")))
}
