//! `round_robin` and `weighted_round_robin`: a place for every number of a connection.

/// Most steps (backends times length) that computing one smooth sequence may take: about a
/// millisecond. A longer sequence is replaced by a stride, which needs no table.
pub const SEQUENCE_WORK: usize = 1 << 20;

/// A rotation: the number of a connection gives its place in the pool.
#[derive(Debug)]
pub enum Rotation {
    /// One after another.
    Even(u64),
    /// The smooth sequence, written out. At most 32 KiB: with 64 backends of up to 256 it reaches
    /// `SEQUENCE_WORK` at 16,384 places.
    Table(Box<[u16]>),
    /// Weights laid end to end on a circle, which is walked in steps of the golden section.
    Stride(Stride),
}

impl Rotation {
    pub(super) fn even(backends: usize) -> Self {
        Self::Even(backends as u64)
    }

    /// Exact over every `sum(weights) / gcd(weights)` numbers in a row, in both forms.
    pub fn weighted(weights: &[u16]) -> Self {
        let divisor = weights.iter().fold(0, |a, b| gcd(a, u32::from(*b))).max(1);
        let reduced: Vec<u32> = weights.iter().map(|w| u32::from(*w) / divisor).collect();
        let length = reduced.iter().sum::<u32>() as usize;
        if length == reduced.len() {
            Self::even(length)
        } else if length * reduced.len() <= SEQUENCE_WORK {
            Self::Table(smooth(&reduced, length))
        } else {
            Self::Stride(Stride::new(&reduced))
        }
    }

    /// After how many numbers it begins anew.
    pub fn period(&self) -> u64 {
        match self {
            Self::Even(backends) => *backends,
            Self::Table(sequence) => sequence.len() as u64,
            Self::Stride(stride) => stride.ends.last().copied().map_or(0, u64::from),
        }
    }

    /// The place in the pool for this number. The pool must not be empty.
    pub fn at(&self, ticket: u64) -> usize {
        match self {
            Self::Even(backends) => (ticket % backends) as usize,
            Self::Table(sequence) => {
                usize::from(sequence[(ticket % sequence.len() as u64) as usize])
            }
            Self::Stride(stride) => stride.at(ticket),
        }
    }
}

/// Every turn each backend earns its weight; the richest is chosen and pays the sum. That spreads
/// a backend's turns over the sequence: 5:1:1 becomes `a a b a c a a`, and a backend of at most half
/// the weight never gets more than two in a row.
pub(super) fn smooth(weights: &[u32], length: usize) -> Box<[u16]> {
    let sum = length as i64;
    let mut earned = vec![0_i64; weights.len()];
    let turn = |_| {
        let mut richest = 0;
        for (place, weight) in weights.iter().enumerate() {
            earned[place] += i64::from(*weight);
            if earned[place] > earned[richest] {
                richest = place;
            }
        }
        earned[richest] -= sum;
        richest as u16
    };
    (0..length).map(turn).collect()
}

/// For sequences that would be too long to write out.
///
/// Number `n` stands at `n * step mod sum`, and `step` shares no divisor with `sum`, so any `sum`
/// numbers in a row meet every point of the circle once: exact, without a table or a lock. The
/// step is the golden section of the circle: neighbours in time lie 0.38 of the circle apart, so a
/// backend with less than that share never gets two connections in a row. (More than 0.25 cannot
/// occur here: the sum exceeds `SEQUENCE_WORK / 1024`, four times the highest weight.)
#[derive(Debug)]
pub struct Stride {
    /// Where each backend's arc ends.
    pub(super) ends: Box<[u32]>,
    step: u64,
}

impl Stride {
    pub(super) fn new(weights: &[u32]) -> Self {
        let ends: Box<[u32]> = weights
            .iter()
            .scan(0, |end, weight| {
                *end += weight;
                Some(*end)
            })
            .collect();
        let sum = ends.last().copied().unwrap_or(1);
        // 0.618 of the sum, in integers.
        let mut step = (u64::from(sum) * 618_034 / 1_000_000).max(1) as u32;
        while gcd(step, sum) != 1 {
            step += 1;
        }
        Self {
            ends,
            step: u64::from(step),
        }
    }

    pub(super) fn at(&self, ticket: u64) -> usize {
        let sum = self.ends.last().copied().map_or(1, u64::from);
        let point = ticket % sum * self.step % sum;
        self.ends.partition_point(|end| u64::from(*end) <= point)
    }
}

const fn gcd(a: u32, b: u32) -> u32 {
    let (mut a, mut b) = (a, b);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
