use super::*;

fn backends(count: usize) -> Vec<(BackendId, u16)> {
    let id = |n| BackendId::of("web", &format!("b{n}"));
    (0..count).map(|n| (id(n), 1)).collect()
}

fn counts(table: &Maglev, backends: usize) -> Vec<u32> {
    let mut counts = vec![0; backends];
    for entry in &table.entries {
        counts[usize::from(*entry)] += 1;
    }
    counts
}

/// Section 5.3 of the paper: balance in tables of different sizes, with 1,000 backends. Here:
/// the shares of equal weights differ by one place.
#[test]
fn the_load_is_balanced_as_in_the_paper() {
    for (count, size) in [(3, 251), (10, 1_009), (1_000, 65_537), (1_000, 262_139)] {
        let counts = counts(&Maglev::new(&backends(count), size), count);
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(most - least <= 1, "{count} in {size}: {least} to {most}");
    }
}

/// The same section: a hundred places for each backend keep every share within 1 %.
#[test]
fn weights_have_their_shares() {
    let weights = [1_u16, 2, 3, 50, 256];
    let mut pool = backends(weights.len());
    for (backend, weight) in pool.iter_mut().zip(weights) {
        backend.1 = weight;
    }
    let counts = counts(&Maglev::new(&pool, 65_537), pool.len());
    let sum: u32 = weights.iter().map(|weight| u32::from(*weight)).sum();
    for (count, weight) in counts.iter().zip(weights) {
        let expected = 65_537.0 * f64::from(weight) / f64::from(sum);
        assert!((f64::from(*count) - expected).abs() <= 2.0, "{counts:?}");
    }
}

/// Places of others that change when `gone` of the backends go, as a share of the table.
fn disrupted(count: usize, gone: usize, size: u32) -> f64 {
    let all = backends(count);
    let before = Maglev::new(&all, size);
    let rest: Vec<_> = all[gone..].to_vec();
    let after = Maglev::new(&rest, size);
    let moved = before.entries.iter().zip(&after.entries);
    let moved = moved.filter(|(old, new)| {
        usize::from(**old) >= gone && usize::from(**old) != usize::from(**new) + gone
    });
    moved.count() as f64 / f64::from(size)
}

/// Figure 12 of the paper: few places change beyond those of the backends that went, and fewer in
/// a larger table.
#[test]
fn few_others_move_as_in_the_paper() {
    for (count, gone) in [(10, 1), (100, 1), (1_000, 1), (1_000, 10), (1_000, 50)] {
        let small = disrupted(count, gone, 65_537);
        let large = disrupted(count, gone, 262_139);
        assert!(
            small < 0.01 + 1.5 * gone as f64 / count as f64,
            "{count} - {gone}: {small}"
        );
        assert!(large <= small + 0.002, "{count} - {gone}: {small} {large}");
    }
}

#[test]
fn the_order_of_the_file_means_nothing() {
    let all = backends(20);
    let turned: Vec<_> = all.iter().rev().copied().collect();
    let (one, other) = (Maglev::new(&all, 1_009), Maglev::new(&turned, 1_009));
    let same = one
        .entries
        .iter()
        .zip(&other.entries)
        .all(|(a, b)| a + b == 19);
    assert!(same);
}

#[test]
fn the_table_is_the_same_for_ever() {
    // Another value here moves every client of every installation.
    let table = Maglev::new(&backends(7), 251);
    let bytes: Vec<u8> = table.entries.iter().map(|entry| *entry as u8).collect();
    assert_eq!(xxhash_rust::xxh3::xxh3_64(&bytes), TABLE);
}

const TABLE: u64 = 12_848_889_632_757_277_971;
