//! New connections a second from one source: token buckets in a table of fixed size.
//!
//! A bucket holds one second's connections. It is one number: the time at which it will be full
//! again (the "generic cell rate algorithm", ITU-T I.371). A source is an IPv4 address or an IPv6
//! /64, whose holder has all of its addresses.
//!
//! When the table is full, the bucket among eight that will be full first is forgotten: its source
//! has at most one second's connections more than it should.

use std::net::IpAddr;
use std::time::Duration;

/// Buckets that a source may be in.
const WAYS: usize = 8;
/// Sets of them: 65,536 sources, 2 MiB.
const SETS: usize = 8_192;
const SECOND: u64 = 1_000_000_000;

/// Whom a bucket is for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Source(u128);

impl Source {
    fn of(client: IpAddr) -> Self {
        match client.to_canonical() {
            // In the place of IPv4-mapped addresses, where no /64 has bits.
            IpAddr::V4(v4) => Self(0xffff << 32 | u128::from(v4.to_bits())),
            IpAddr::V6(v6) => Self(v6.to_bits() >> 64 << 64),
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    source: Source,
    /// Full again, in nanoseconds since the start of the process; 0: nobody's.
    full_at: u64,
}

/// The buckets of one service.
#[derive(Debug)]
pub struct Rates {
    /// Nanoseconds for one connection.
    cost: u64,
    seed: u64,
    buckets: Box<[[Bucket; WAYS]]>,
}

impl Rates {
    /// So many connections a second for each source, at least 1. The seed should be nobody's
    /// guess: who knows it can choose addresses that share buckets.
    pub fn new(rate: u32, seed: u64) -> Self {
        Self::with_sets(rate, seed, SETS)
    }

    fn with_sets(rate: u32, seed: u64, sets: usize) -> Self {
        Self {
            cost: (SECOND / u64::from(rate.max(1))).max(1),
            seed,
            buckets: vec![[Bucket::default(); WAYS]; sets].into_boxed_slice(),
        }
    }

    /// Whether this client may open one more connection now; if so, it counts.
    pub fn take(&mut self, client: IpAddr, now: Duration) -> bool {
        let now = now.as_nanos() as u64;
        let source = Source::of(client);
        let set = mix(source, self.seed) as usize % self.buckets.len();
        let set = &mut self.buckets[set];
        let known = |bucket: &Bucket| bucket.source == source && bucket.full_at > 0;
        let bucket = match set.iter().position(known) {
            Some(place) => &mut set[place],
            None => {
                let full_at = |place: &usize| set[*place].full_at;
                let place = (0..WAYS).min_by_key(full_at).unwrap_or(0);
                set[place] = Bucket { source, full_at: 0 };
                &mut set[place]
            }
        };
        let full_at = bucket.full_at.max(now) + self.cost;
        let allowed = full_at - now <= SECOND;
        if allowed {
            bucket.full_at = full_at;
        }
        allowed
    }
}

/// Scatters: the finalizer of SplitMix64 (Steele, Lea and Flood 2014) over both halves.
fn mix(source: Source, seed: u64) -> u64 {
    let step = |word: u64| {
        let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    };
    step(step(source.0 as u64 ^ seed) ^ (source.0 >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn taken(rates: &mut Rates, client: &str, now: Duration) -> usize {
        let client = client.parse().unwrap();
        (0..10_000).take_while(|_| rates.take(client, now)).count()
    }

    #[test]
    fn a_bucket_holds_a_second_and_fills_with_time() {
        let mut rates = Rates::new(100, 1);
        assert_eq!(taken(&mut rates, "192.0.2.1", ms(0)), 100);
        assert_eq!(taken(&mut rates, "192.0.2.1", ms(9)), 0);
        assert_eq!(taken(&mut rates, "192.0.2.1", ms(250)), 25);
        assert_eq!(taken(&mut rates, "192.0.2.2", ms(250)), 100);
        assert_eq!(taken(&mut rates, "192.0.2.1", ms(5_000)), 100);
        for rate in [1, 3, 7, 1_000] {
            let mut rates = Rates::new(rate, 1);
            let first = taken(&mut rates, "192.0.2.1", ms(17));
            assert_eq!(first, rate as usize);
        }
    }

    #[test]
    fn a_slash_64_is_one_source() {
        let mut rates = Rates::new(5, 1);
        assert_eq!(taken(&mut rates, "2001:db8::1", ms(0)), 5);
        assert_eq!(taken(&mut rates, "2001:db8::ffff:2", ms(0)), 0);
        assert_eq!(taken(&mut rates, "2001:db8:0:1::1", ms(0)), 5);
        assert_eq!(taken(&mut rates, "192.0.2.1", ms(0)), 5);
        assert_eq!(taken(&mut rates, "::ffff:192.0.2.1", ms(0)), 0);
    }

    #[test]
    fn a_full_table_forgets_who_took_least() {
        let mut rates = Rates::with_sets(10, 1, 1);
        for n in 1..=8 {
            let client = format!("192.0.2.{n}");
            let wanted = if n == 4 { 1 } else { 10 };
            for _ in 0..wanted {
                assert!(rates.take(client.parse().unwrap(), ms(0)));
            }
        }
        assert_eq!(taken(&mut rates, "192.0.2.9", ms(0)), 10);
        assert_eq!(taken(&mut rates, "192.0.2.1", ms(0)), 0, "still known");
    }
}
