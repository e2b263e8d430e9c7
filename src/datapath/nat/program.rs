//! The program in the kernel, and its life.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::maps::Map;
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader, TestRun, TestRunOptions};

use super::attach::Attached;
use super::error::{load_error, program_error};
use super::lease::Lease;
use super::life::{self, Pulse};
use super::pins::{Adopted, Pins};
use super::tables::Tables;

pub use super::error::NatError;

/// The compiled program; `.ci/bpf` makes it from its sources and compares.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!("bpf/nat.bpf.o");

/// Its name, as the kernel shows it.
pub(super) const PROGRAM: &str = "tandem_nat";

/// The names of its maps.
const MAPS: [&str; 22] = [
    "addresses",
    "backends",
    "begun",
    "counters",
    "events",
    "flows",
    "lease",
    "life",
    "neighbours",
    "opened",
    "ports",
    "pulse",
    "recent",
    "refusals",
    "reminded",
    "services",
    "settings",
    "slots",
    "sources",
    "stales",
    "turns",
    "woken",
];

/// How large the maps are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sizes {
    /// Connections; each takes two entries of 208 bytes, allocated at once.
    pub flows: u32,
    /// Slots of all services; two parts a service, so that one can be filled while the other is
    /// read.
    pub slots: u32,
    /// Backends of all services.
    pub backends: u32,
    /// Addresses where services listen, twice: those that a former life left stay until the new
    /// ones are written.
    pub services: u32,
    /// Rotations of all services.
    pub turns: u32,
    /// Bytes of the ring of events: a power of two and of pages. A connection takes about
    /// 660, with a SYN-ACK that waits about 800.
    pub events: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            flows: 65_536,
            slots: 65_344,
            backends: 4_096,
            services: 1_024,
            turns: 1_024,
            events: 4 << 20,
        }
    }
}

/// The loaded program and its maps.
///
/// One that was [loaded](Self::load) ends with this value. One that was [opened](Self::open) goes
/// on, as long as its lease holds, until it is [closed](Self::close), by this process or by a later
/// one.
pub struct Nat {
    ebpf: Ebpf,
    /// Its maps.
    pub tables: Tables,
    pub(super) attached: Vec<Attached>,
    pub(super) pins: Option<Pins>,
    /// Closed with this value, if not before.
    pulse: Option<Pulse>,
    /// Why the program will notice this process's death late, if so.
    pub(super) unwatched: Option<String>,
}

impl fmt::Debug for Nat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.places()).finish()
    }
}

impl Nat {
    /// Makes the maps and loads the program. The lease is at 0: nothing is forwarded yet.
    ///
    /// # Errors
    ///
    /// What is missing, and what to do.
    pub fn load(sizes: &Sizes) -> Result<Self, NatError> {
        let mut nat = Self::build(sizes, |_| None)?;
        nat.enliven()?;
        Ok(nat)
    }

    /// The same with maps that are pinned in this directory, which is made if it is missing. Maps
    /// that are pinned there already are adopted with all that is in them, if they have the same
    /// layout and the same sizes, else removed; the program takes the place of the one that is at
    /// interfaces. The lease stays as it was.
    ///
    /// # Errors
    ///
    /// What is missing, and what to do; [`NatError::InUse`] if another process has this directory.
    pub fn open(dir: &Path, sizes: &Sizes) -> Result<(Self, Adopted), NatError> {
        let (mut nat, adopted) = Self::adopt(dir, sizes)?;
        nat.enliven()?;
        Ok((nat, adopted))
    }

    /// The same, but the program still takes its process for dead, and goes on with the flows that
    /// are there, until it is told otherwise by [`enliven`](Self::enliven): to load it and to fill
    /// its tables takes a while.
    ///
    /// # Errors
    ///
    /// See [`open`](Self::open).
    pub fn adopt(dir: &Path, sizes: &Sizes) -> Result<(Self, Adopted), NatError> {
        let pins = Pins::claim(dir, sizes)?;
        let discarded = pins.keep_fitting(&MAPS)?;
        let tables = pins.map("flows").exists();
        let mut nat = match Self::build(sizes, |name| Some(pins.map(name))) {
            Ok(nat) => nat,
            Err(error) => {
                // Where the program cannot run, nothing of it is to be in the way.
                if !tables && let Err(error) = pins.remove_all() {
                    tracing::warn!("{error}");
                }
                return Err(error);
            }
        };
        nat.pins = Some(pins);
        let links = nat.adopt_links()?;
        let adopted = Adopted {
            tables,
            links,
            discarded,
        };
        Ok((nat, adopted))
    }

    /// Takes the program off every interface and removes it and its maps, also the pinned ones.
    ///
    /// # Errors
    ///
    /// What could not be removed; [`cleanup`](super::cleanup) tries again.
    pub fn close(mut self) -> Result<(), NatError> {
        let detached = self.detach();
        let removed = match self.pins.take() {
            Some(pins) => pins.remove_all().map(drop),
            None => Ok(()),
        };
        detached.and(removed)
    }

    /// `pin`: where a map is pinned.
    fn build(sizes: &Sizes, pin: impl Fn(&str) -> Option<PathBuf>) -> Result<Self, NatError> {
        let mut loader = EbpfLoader::new();
        loader
            .map_max_entries("flows", sizes.flows.saturating_mul(2))
            .map_max_entries("slots", sizes.slots)
            .map_max_entries("backends", sizes.backends)
            .map_max_entries("ports", sizes.backends)
            .map_max_entries("services", sizes.services)
            .map_max_entries("turns", sizes.turns)
            .map_max_entries("events", sizes.events);
        for name in MAPS {
            if let Some(path) = pin(name) {
                loader.map_pin_path(name, path);
            }
        }
        let mut ebpf = loader.load(OBJECT).map_err(load_error)?;
        let tables = Tables::take(&mut ebpf)?;
        let mut nat = Self {
            ebpf,
            tables,
            attached: Vec::new(),
            pins: None,
            pulse: None,
            unwatched: None,
        };
        nat.program()?
            .load()
            .map_err(|error| program_error("load the program", error))?;
        Ok(nat)
    }

    /// From now on the program takes this process for the one that leads it, and knows when it has
    /// died. Done by [`load`](Self::load) and [`open`](Self::open).
    ///
    /// # Errors
    ///
    /// The kernel refused even the lesser sign.
    pub fn enliven(&mut self) -> Result<(), NatError> {
        self.pulse = Some(Pulse::start(&mut self.ebpf)?);
        self.unwatched = life::watch(&mut self.ebpf).err();
        Ok(())
    }

    /// What a process leaves behind that was killed: no sign of life. For tests.
    pub fn die(&mut self) {
        self.pulse = None;
    }

    /// A handle of the lease, for whoever decides about mastership.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub fn lease(&self) -> Result<Lease, NatError> {
        match self.ebpf.map("lease") {
            Some(Map::Array(lease)) => Lease::of(lease),
            _ => Err(NatError::Other {
                what: "open the lease",
                reason: "the object has no array lease".into(),
            }),
        }
    }

    pub(super) fn program(&mut self) -> Result<&mut SchedClassifier, NatError> {
        let missing = || NatError::Other {
            what: "load the program",
            reason: format!("the object has no classifier {PROGRAM}"),
        };
        let program = self.ebpf.program_mut(PROGRAM).ok_or_else(missing)?;
        program.try_into().map_err(|_| missing())
    }

    /// Runs the program on a frame, and sends nothing (`BPF_PROG_TEST_RUN`). What the program
    /// returned, and the frame as it left it.
    ///
    /// # Errors
    ///
    /// The kernel wants at least an IP header, and at most a page.
    pub fn try_frame(&mut self, frame: &[u8]) -> Result<(i32, Vec<u8>), NatError> {
        let mut out = vec![0; frame.len()];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        };
        let ran = self.program()?.test_run(options);
        let ran = ran.map_err(|error| program_error("try a frame", error))?;
        Ok((ran.return_value.cast_signed(), out))
    }

    /// Runs the program so many times, on one frame as the run before left it. What the last run
    /// returned, and how long one took on average.
    ///
    /// # Errors
    ///
    /// As [`try_frame`](Self::try_frame).
    pub fn time_frame(&mut self, frame: &[u8], runs: u32) -> Result<(i32, Duration), NatError> {
        let options = TestRunOptions {
            data_in: Some(frame),
            repeat: runs,
            ..TestRunOptions::default()
        };
        let ran = self.program()?.test_run(options);
        let ran = ran.map_err(|error| program_error("time a frame", error))?;
        Ok((ran.return_value.cast_signed(), ran.duration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_has_a_pin() {
        let lines = include_str!("bpf/maps.h").lines();
        let names = lines.filter_map(|line| {
            let name = line.strip_prefix("} ")?;
            name.strip_suffix(" SEC(\".maps\");")
        });
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        assert_eq!(names, MAPS);
    }
}
