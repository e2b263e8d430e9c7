//! Times and counts as a person reads them.

use std::fmt::Write as _;

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// UTC in ISO 8601 with milliseconds: `2026-11-26T03:12:44.120Z`.
pub(super) fn utc(unix_ms: u64) -> String {
    let (year, month, day) = civil(unix_ms / DAY);
    let of_day = unix_ms % DAY;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        of_day / HOUR,
        of_day % HOUR / MINUTE,
        of_day % MINUTE / SECOND,
        of_day % SECOND
    )
}

/// The date, so many days after 1 January 1970 (Gregorian).
///
/// Years are counted from March, so that the leap day is the last of its year, and in eras of 400
/// years, which all have 146,097 days.
const fn civil(days: u64) -> (u64, u64, u64) {
    // From 1 March of the year 0 to 1 January 1970.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    // Leap days so far: one in 4 years (1,460 days end without it), none in 100, one in 400.
    let of_cycle = of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096;
    let year = of_cycle / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    // From March on, 5 months have 153 days.
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (era * 400 + year + next, month, day)
}

/// A span in its two largest units: `40 ms`, `12 s`, `3 min 5 s`, `3 h 12 min`, `5 d 3 h`.
pub(in crate::cli) fn span(ms: u64) -> String {
    let two = |large: u64, large_name, small: u64, small_name| match ms % large / small {
        0 => format!("{} {large_name}", ms / large),
        rest => format!("{} {large_name} {rest} {small_name}", ms / large),
    };
    match ms {
        0..SECOND => format!("{ms} ms"),
        SECOND..MINUTE => format!("{} s", ms / SECOND),
        MINUTE..HOUR => two(MINUTE, "min", SECOND, "s"),
        HOUR..DAY => two(HOUR, "h", MINUTE, "min"),
        _ => two(DAY, "d", HOUR, "h"),
    }
}

/// A short measured time with three digits that count: `0.35 ms`, `12.3 ms`, `312 ms`, `1.20 s`.
pub(super) fn millis(ms: f64) -> String {
    match ms {
        ms if ms >= 999.5 => format!("{:.2} s", ms / 1e3),
        ms if ms >= 99.95 => format!("{ms:.0} ms"),
        ms if ms >= 9.995 => format!("{ms:.1} ms"),
        ms => format!("{ms:.2} ms"),
    }
}

/// Thousands apart: `10,234`.
pub(in crate::cli) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 connection`, `2 connections`.
pub(in crate::cli) fn plural(n: u64, one: &str) -> String {
    let mut text = count(n);
    let _ = write!(text, " {one}{}", if n == 1 { "" } else { "s" });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utc_is_the_calendar() {
        // From `date -u -d ... +%s`.
        for (unix_ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_999, "2000-02-29T23:59:59.999Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_709_164_800_000, "2024-02-29T00:00:00.000Z"),
            (1_735_689_599_999, "2024-12-31T23:59:59.999Z"),
            (1_735_689_600_000, "2025-01-01T00:00:00.000Z"),
            (1_795_662_764_120, "2026-11-26T03:12:44.120Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(utc(unix_ms), text);
        }
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let length = |year: u64, month: u64| match month {
            2 if year.is_multiple_of(400) => 29,
            2 if year.is_multiple_of(100) => 28,
            2 if year.is_multiple_of(4) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let mut expected = (1970, 1, 1);
        for days in 0..200_000 {
            assert_eq!(civil(days), expected);
            let (year, month, day) = expected;
            expected = match (month, day) {
                (12, 31) => (year + 1, 1, 1),
                (month, day) if day == length(year, month) => (year, month + 1, 1),
                _ => (year, month, day + 1),
            };
        }
    }

    #[test]
    fn spans_have_two_units() {
        assert_eq!(span(999), "999 ms");
        assert_eq!(span(12_900), "12 s");
        assert_eq!(span(185_000), "3 min 5 s");
        assert_eq!(span(11_520_000), "3 h 12 min");
        assert_eq!(span(2 * DAY), "2 d");
        assert_eq!(span(5 * DAY + 3 * HOUR), "5 d 3 h");
    }

    #[test]
    fn measured_times_have_three_digits() {
        assert_eq!(millis(0.351), "0.35 ms");
        assert_eq!(millis(9.999), "10.0 ms");
        assert_eq!(millis(312.4), "312 ms");
        assert_eq!(millis(999.9), "1.00 s");
    }

    #[test]
    fn thousands_stand_apart() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(12_345_678), "12,345,678");
        assert_eq!(plural(1, "item"), "1 item");
        assert_eq!(plural(0, "item"), "0 items");
    }
}
