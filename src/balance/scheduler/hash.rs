//! What clients are hashed with, and `source_hash`: the highest score wins.
//!
//! The client's address goes through SipHash-2-4 (Aumasson and Bernstein, 2012) with a key that the
//! configuration may have: clients choose their addresses, above all within an IPv6 /64, and must
//! not be able to compute which of them meet on one backend. Its output is fixed by its paper, so
//! that it is the same on both nodes, on every machine and in every release. Names of backends are
//! the operator's; their ids come from XXH3, which is fixed as well.
//!
//! Scores are weighted rendezvous hashing (Thaler and Ravishankar, 1998; the weights after Schindelhauer
//! and Schomaker, 2005): every backend has `W / -ln(u)` with `u` uniform from client and backend.

use std::hash::Hasher as _;
use std::net::IpAddr;

use siphasher::sip::SipHasher24;
use xxhash_rust::xxh3::xxh3_128;

use super::Among;
use crate::model::BackendId;

/// Hashes clients.
#[derive(Debug)]
pub(in crate::balance) struct Hasher {
    key: [u8; 16],
}

impl Hasher {
    pub(super) fn new(key: &str) -> Self {
        Self {
            key: xxh3_128(key.as_bytes()).to_le_bytes(),
        }
    }

    /// The client's number. An IPv4 address in the disguise of an IPv6 one is the IPv4 address.
    pub(super) fn client(&self, client: IpAddr) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        match client.to_canonical() {
            IpAddr::V4(v4) => hasher.write(&v4.octets()),
            IpAddr::V6(v6) => hasher.write(&v6.octets()),
        }
        hasher.finish()
    }
}

/// The backend with the highest score. If one goes, only its own clients move, each to its next
/// score.
pub(super) fn highest(among: Among<'_>, client: u64) -> Option<usize> {
    let score = |place: usize| {
        let target = &among.pool[place];
        (score(client, target.id, target.weight()), target.id)
    };
    let better = |a: &usize, b: &usize| {
        let ((a, x), (b, y)) = (score(*a), score(*b));
        a.total_cmp(&b).then(x.cmp(&y))
    };
    among.places().max_by(better)
}

fn score(client: u64, backend: BackendId, weight: u16) -> f64 {
    let mixed = mix(client ^ mix(u64::from(backend.0)));
    // Within (0, 1): 53 bits, and a half that keeps it off both ends.
    let uniform = ((mixed >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    f64::from(weight) / -ln(uniform)
}

/// Steele, Lea and Flood's finalizer (SplitMix64, 2014): every bit of the input moves every bit of
/// the output.
const fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The natural logarithm of a normal positive number, by additions, multiplications and one
/// division only: IEEE 754 fixes those to the last bit, but not the logarithm of a C library, and two
/// nodes may have different ones.
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i32 - 1_023;
    let mut mantissa = f64::from_bits(bits & ((1 << 52) - 1) | 1_023 << 52);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    // ln m = 2 artanh s; s is at most 0.172, so the first term left out is below 1e-15.
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let mut sum = 0.0;
    for n in (0..9).rev() {
        sum = sum * square + 1.0 / f64::from(2 * n + 1);
    }
    f64::from(exponent) * std::f64::consts::LN_2 + 2.0 * s * sum
}

#[cfg(test)]
#[path = "hash_test.rs"]
mod tests;
