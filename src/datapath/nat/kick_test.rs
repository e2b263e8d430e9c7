//! When a dead process's handshakes are asked for.

use super::*;

const MS: u64 = 1_000_000;

/// Lets the time run, and gives when each whole round was over.
fn rounds(rounds: &mut Rounds, from: u64, until: u64) -> Vec<u64> {
    let mut over = Vec::new();
    for ms in from..until {
        loop {
            let numbers = rounds.due(ms * MS);
            if numbers.is_empty() {
                break;
            }
            assert!(numbers.len() <= AT_ONCE as usize);
            if numbers.end == rounds.count {
                over.push(ms);
            }
        }
    }
    over
}

#[test]
fn a_new_master_asks_three_times() {
    let mut book = Rounds::default();
    book.begin(5 * MS);
    assert_eq!(rounds(&mut book, 0, 1_000), [5, 25, 205]);
}

#[test]
fn a_standby_asks_again_and_again_until_its_master_speaks() {
    let mut book = Rounds::default();
    book.ask(true, 5 * MS);
    assert_eq!(rounds(&mut book, 0, 25), [5, 10, 15, 20]);
    // Said once more: nothing begins anew.
    book.ask(true, 25 * MS);
    assert_eq!(rounds(&mut book, 25, 35), [25, 30]);
    book.ask(false, 70 * MS);
    assert!(rounds(&mut book, 70, 1_000).is_empty());
}

#[test]
fn a_standby_asks_for_some_at_a_time() {
    let mut book = Rounds {
        hangs: 250 * MS,
        ..Rounds::default()
    };
    book.rate.count(1_000_000, 0);
    book.ask(true, 0);
    let mut asked = Vec::new();
    for ms in 0..40 {
        loop {
            let numbers = book.due(ms * MS);
            if numbers.is_empty() {
                break;
            }
            asked.push((ms, numbers.end));
        }
    }
    assert_eq!(asked.len(), RECENT / AT_ONCE as usize);
    assert_eq!(asked[1..3], [(0, EACH), (5, EACH + AT_ONCE)]);
    assert_eq!(asked.last(), Some(&(35, RECENT as u32)));
    // It begins anew.
    assert_eq!(book.due(40 * MS), 0..AT_ONCE);
}

#[test]
fn a_takeover_ends_the_asking_and_not_the_other_way_round() {
    let mut book = Rounds::default();
    book.ask(true, 0);
    book.begin(10 * MS);
    book.ask(false, 11 * MS);
    assert_eq!(rounds(&mut book, 12, 1_000), [12, 30, 210]);
}

#[test]
fn as_many_are_asked_for_as_may_wait() {
    let mut book = Rounds::default();
    book.begin(0);
    assert_eq!(book.count, LEAST);
    book.rate.count(1_000, 10 * MS);
    book.begin(20 * MS);
    assert_eq!(book.count, LEAST + 500);
    book.rate.count(100_000, 20 * MS);
    book.begin(30 * MS);
    assert_eq!(book.count, RECENT as u32);
}
