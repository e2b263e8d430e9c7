//! One question that is asked again and again: when next, and what its answers mean.
//!
//! | what comes | what it does |
//! |---|---|
//! | addresses | they are the set; one that is not named any more goes after `linger` |
//! | no address, for the first time since there were some | nothing |
//! | no address, three times in a row and for 30 s | the set is empty |
//! | no answer | nothing, until `hold` has passed since the last answer; asked again after 1 s, then twice as long each time, up to 30 s |

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::time::Mono;

/// So many answers without an address, one after the other, are believed.
pub const EMPTY_ANSWERS: u32 = 3;
/// For so long they must have come. Registries answer so for a moment when they are late or are
/// being restarted, and a zone may be published empty by mistake.
pub const EMPTY_FOR: Duration = Duration::from_secs(30);
/// Time before a question that failed is asked again; it doubles.
const BACK_OFF: Duration = Duration::from_secs(1);
/// Longest of these times.
const LONGEST: Duration = Duration::from_secs(30);
/// A question is asked up to a tenth later than its answer's TTL says, so that not all are asked at
/// the same moment.
const SPREAD: f64 = 0.1;

/// What is said of a name without an address.
pub const NONE: &str = "no such record";

/// The times of a source.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timing {
    /// Least time between two questions.
    pub min_ttl: Duration,
    /// Most.
    pub max_ttl: Duration,
    /// How long the last answer is used while none comes. None: for ever.
    pub hold: Option<Duration>,
    /// How long an address stays that is not named any more.
    pub linger: Duration,
}

/// What was answered.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Answer {
    /// Addresses with their weights. None at all: the name has none, or does not exist.
    pub members: BTreeMap<SocketAddr, u16>,
    /// How long it holds.
    pub ttl: Duration,
}

/// How a question stands.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Standing {
    /// When the last answer came.
    pub answered: Option<Mono>,
    /// When it is asked again.
    pub next: Mono,
    /// Why the last question was not answered, or is not believed.
    pub error: Option<String>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    weight: u16,
    /// Since when answers do not name it; none: the last one did.
    missed: Option<Mono>,
}

/// A question and what is known by it.
#[derive(Debug)]
pub struct Resolution {
    timing: Timing,
    random: fastrand::Rng,
    known: BTreeMap<SocketAddr, Known>,
    asking: bool,
    next: Mono,
    answered: Option<Mono>,
    failures: u32,
    /// Answers without an address in a row, and when the first came.
    empty: Option<(u32, Mono)>,
    error: Option<String>,
}

impl Resolution {
    /// A question that is due now.
    pub fn new(timing: Timing, seed: u64, now: Mono) -> Self {
        Self {
            timing,
            random: fastrand::Rng::with_seed(seed),
            known: BTreeMap::new(),
            asking: false,
            next: now,
            answered: None,
            failures: 0,
            empty: None,
            error: None,
        }
    }

    /// When [`Self::ask`] or [`Self::handle_timeout`] has something to do; none: when the answer
    /// has come.
    pub fn poll_timeout(&self) -> Option<Mono> {
        let ask = (!self.asking).then_some(self.next);
        let missed = self.known.values().filter_map(|it| it.missed);
        let gone = missed.min().map(|since| since + self.timing.linger);
        [ask, gone, self.held_until()].into_iter().flatten().min()
    }

    /// Whether it is to be asked now. If so, the answer is awaited.
    pub fn ask(&mut self, now: Mono) -> bool {
        let due = !self.asking && self.next <= now;
        self.asking |= due;
        due
    }

    /// Takes what was answered, or why nothing was. True if the set is another one.
    pub fn handle(&mut self, answer: Result<Answer, String>, now: Mono) -> bool {
        self.asking = false;
        match answer {
            Err(why) => {
                self.error = Some(why);
                self.empty = None;
                self.failures = self.failures.saturating_add(1);
                let doubled = BACK_OFF * 2_u32.pow(self.failures.min(6) - 1);
                let wait = doubled.min(LONGEST).mul_f64(1.0 - self.random.f64() / 4.0);
                self.next = now + wait;
                self.handle_timeout(now)
            }
            Ok(answer) => {
                self.failures = 0;
                self.answered = Some(now);
                let ttl = answer.ttl.clamp(self.timing.min_ttl, self.timing.max_ttl);
                self.next = now + ttl.mul_f64(1.0 + self.random.f64() * SPREAD);
                match answer.members.is_empty() {
                    true => self.nothing(now),
                    false => self.update(&answer.members, now),
                }
            }
        }
    }

    /// Lets go of what has stayed long enough. True if the set is another one.
    pub fn handle_timeout(&mut self, now: Mono) -> bool {
        let before = self.known.len();
        if self.held_until().is_some_and(|end| end <= now) {
            self.known.clear();
        }
        let linger = self.timing.linger;
        self.known
            .retain(|_, it| it.missed.is_none_or(|since| since + linger > now));
        self.known.len() != before
    }

    /// The set.
    pub fn members(&self) -> impl Iterator<Item = (SocketAddr, u16)> {
        self.known.iter().map(|(address, it)| (*address, it.weight))
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        Standing {
            answered: self.answered,
            next: self.next,
            error: self.error.clone(),
        }
    }

    /// When the last answer is not good any more; none: it is.
    fn held_until(&self) -> Option<Mono> {
        let failing = self.failures > 0 && !self.known.is_empty();
        let hold = self.timing.hold.filter(|_| failing)?;
        Some(self.answered? + hold)
    }

    fn update(&mut self, members: &BTreeMap<SocketAddr, u16>, now: Mono) -> bool {
        self.error = None;
        self.empty = None;
        let mut changed = false;
        for (address, it) in &mut self.known {
            if !members.contains_key(address) && it.missed.is_none() {
                it.missed = Some(now);
            }
        }
        for (address, weight) in members {
            let known = Known {
                weight: *weight,
                missed: None,
            };
            let before = self.known.insert(*address, known);
            changed |= before.is_none_or(|before| before.weight != *weight);
        }
        self.handle_timeout(now) | changed
    }

    /// The name has no address, or does not exist, or somebody says so.
    fn nothing(&mut self, now: Mono) -> bool {
        if self.known.is_empty() {
            self.error = Some(NONE.into());
            return false;
        }
        let (count, since) = self.empty.map_or((0, now), |empty| empty);
        let count = count.saturating_add(1);
        self.empty = Some((count, since));
        if count >= EMPTY_ANSWERS && now.since(since) >= EMPTY_FOR {
            self.known.clear();
            self.error = Some(NONE.into());
            return true;
        }
        self.error = Some(format!("{NONE}, said {count} times: not believed yet"));
        // Whatever the TTL: it is to be known for certain soon.
        let soon = (EMPTY_FOR / (EMPTY_ANSWERS - 1)).max(self.timing.min_ttl);
        self.next = self.next.min(now + soon);
        self.handle_timeout(now)
    }
}
