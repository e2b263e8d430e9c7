use super::*;

#[test]
fn the_hash_is_the_same_for_ever() {
    // Vectors: another value here moves every client of every installation.
    let client = |key: &str, address: &str| Hasher::new(key).client(address.parse().unwrap());
    assert_eq!(client("", "192.0.2.7"), CLIENT);
    assert_eq!(client("", "::ffff:192.0.2.7"), CLIENT);
    assert_ne!(client("k", "192.0.2.7"), CLIENT);
    assert_ne!(client("", "2001:db8::7"), CLIENT);
    assert_eq!(score(CLIENT, BackendId(7), 3).to_bits(), SCORE);
}

const CLIENT: u64 = 18_126_292_165_069_857_887;
const SCORE: u64 = 4_604_848_647_040_712_517;

#[test]
fn the_logarithm_is_one() {
    for n in 1..10_000 {
        let x = f64::from(n) / 10_001.0;
        assert!((ln(x) / x.ln() - 1.0).abs() < 1e-12, "{x}");
    }
    let least = 0.5 / (1_u64 << 53) as f64;
    assert!((ln(least) / least.ln() - 1.0).abs() < 1e-12);
}
