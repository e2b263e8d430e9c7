//! The leases, row by row: what happens, when, and what the program may do then.

use super::*;

const LENGTH: u64 = 240;
const WAITS: u64 = 150;

/// One thing that happens to them.
#[derive(Clone, Copy)]
enum Step {
    Lead,
    Yield,
    /// accept, second chance, yields.
    Relay([bool; 3]),
    Turn(Role),
}

use Step::{Lead, Relay as Says, Turn, Yield};

const NOTHING: [bool; 3] = [false; 3];
const ACCEPT: [bool; 3] = [true, false, false];
const SECOND: [bool; 3] = [false, true, false];
const YIELDS: [bool; 3] = [false, false, true];

/// Until when it may forward, whether frozen, until when it accepts and hands over; milliseconds.
type May = (u64, bool, u64, u64);

const NONE: May = (0, false, 0, 0);

/// When, what happens, and what it may do then.
type Row = (u64, Step, May);

fn check(what: &str, led: bool, begins: May, rows: &[Row]) {
    let ms = Duration::from_millis;
    let may = |leases: &Leases| {
        let Rights {
            until,
            waits,
            frozen,
            offered,
            accept,
            second,
        } = leases.rights();
        assert_eq!(
            offered,
            frozen && !leases.inherits,
            "{what}: what is not decided is the peer's"
        );
        let ms = |nanos: u64| nanos / 1_000_000;
        assert_eq!(
            ms(waits),
            ms(until).saturating_sub(LENGTH - WAITS),
            "{what}"
        );
        (ms(until), frozen, ms(accept), ms(second))
    };
    let mut leases = Leases::start(ms(LENGTH), ms(WAITS), led, ms(1_000));
    assert_eq!(may(&leases), begins, "{what}: at the start");
    for (row, (at, step, expected)) in rows.iter().enumerate() {
        let now = ms(*at);
        match *step {
            Lead => leases.command(&NatCommand::Lead, now),
            Yield => leases.command(&NatCommand::Yield, now),
            Says([accept, second_chance, yields]) => {
                let relay = Relay {
                    accept,
                    asks: false,
                    second_chance,
                    yields,
                };
                leases.command(&NatCommand::Relay(relay), now);
            }
            Turn(role) => leases.turned(role, now),
        }
        assert_eq!(may(&leases), *expected, "{what}: row {row}, at {at} ms");
        let led = expected.0 > 0 && !leases.inherits;
        assert_eq!(leases.leads(), led, "{what}: row {row}");
    }
}

#[test]
fn who_leads_may_decide_for_one_length_after_each_turn() {
    let rows = [
        (1_000, Turn(Role::Backup), NONE),
        (1_300, Lead, (1_540, false, 0, 0)),
        // An eighth of the lease has not passed.
        (1_330, Turn(Role::Master), (1_540, false, 0, 0)),
        (1_331, Turn(Role::Master), (1_571, false, 0, 0)),
        // A turn that came late: it was not master for a while.
        (1_900, Turn(Role::Master), (2_140, false, 0, 0)),
        (1_901, Yield, NONE),
        (2_000, Turn(Role::Backup), NONE),
    ];
    check("a mastership", false, NONE, &rows);
}

#[test]
fn what_is_inherited_is_frozen_until_the_role_is_known() {
    let frozen = |until| (until, true, 0, 0);
    for role in [Role::Backup, Role::Fault] {
        let rows = [
            (1_030, Turn(Role::Initialize), frozen(1_240)),
            (1_031, Turn(Role::Initialize), frozen(1_271)),
            (1_062, Turn(role), NONE),
            (1_300, Turn(role), NONE),
        ];
        check("somebody else leads", true, frozen(1_240), &rows);
    }
    let rows = [
        (1_031, Turn(Role::Initialize), frozen(1_271)),
        // Its addresses are not there yet.
        (1_200, Turn(Role::Master), frozen(1_440)),
        (1_201, Lead, (1_441, false, 0, 0)),
        (1_202, Turn(Role::Master), (1_441, false, 0, 0)),
    ];
    check("it leads itself", true, frozen(1_240), &rows);
    let rows = [(1_100, Yield, NONE), (1_300, Turn(Role::Initialize), NONE)];
    check("it stops", true, frozen(1_240), &rows);
}

#[test]
fn a_master_that_hands_over_decides_nothing_and_goes_on_if_that_came_to_nothing() {
    let rows = [
        (1_000, Lead, (1_240, false, 0, 0)),
        (1_010, Says(YIELDS), (1_240, true, 0, 0)),
        (1_100, Turn(Role::Master), (1_340, true, 0, 0)),
        (1_110, Says(NOTHING), (1_340, false, 0, 0)),
        (1_120, Says(YIELDS), (1_340, true, 0, 0)),
        (1_130, Yield, NONE),
        (1_130, Says(ACCEPT), (0, false, 1_370, 0)),
        // Its next mastership is a whole one.
        (1_140, Lead, (1_380, false, 1_370, 0)),
        (1_140, Says(NOTHING), (1_380, false, 0, 0)),
    ];
    check("a switchover", false, NONE, &rows);
}

#[test]
fn accept_and_second_chance_hold_while_the_node_turns_and_says_so() {
    let rows = [
        (1_000, Says(ACCEPT), (0, false, 1_240, 0)),
        (1_030, Turn(Role::Backup), (0, false, 1_240, 0)),
        (1_031, Turn(Role::Backup), (0, false, 1_271, 0)),
        // It stood still: what holds at its next turn, holds from then on.
        (2_000, Turn(Role::Backup), (0, false, 2_240, 0)),
        (2_100, Lead, (2_340, false, 2_240, 0)),
        (2_100, Says(SECOND), (2_340, false, 0, 2_340)),
        (2_161, Turn(Role::Master), (2_401, false, 0, 2_401)),
        (2_200, Says(NOTHING), (2_401, false, 0, 0)),
        (2_300, Turn(Role::Master), (2_540, false, 0, 0)),
    ];
    check("a standby that takes over", false, NONE, &rows);
    // What the process before had of these is not inherited.
    let rows = [(1_010, Says(ACCEPT), (1_240, true, 1_250, 0))];
    check("one that starts again", true, (1_240, true, 0, 0), &rows);
}
