//! `tandem lab --bench relay` in its shortest form: what it reports is there, and can be true. How
//! fast anything is says nothing here.

use std::time::Duration;

use serde_json::Value;
use tandem::lab::LabError;
use tokio::time::timeout;

use super::tools::{command, tandem};
use super::{Test, test};

/// Far more than it takes.
const PATIENCE: Duration = Duration::from_secs(180);

const ROWS: [(&str, &str); 10] = [
    ("bulk down, 4 streams", "Gbit/s"),
    ("bulk down, CPU", "s/GB"),
    ("bulk up, 4 streams", "Gbit/s"),
    ("bulk up, CPU", "s/GB"),
    ("new connections, 64 at once", "1/s"),
    ("new connections, CPU", "us each"),
    ("new connections, p50", "us"),
    ("new connections, p99", "us"),
    ("requests, 32 connections", "1/s"),
    ("requests, CPU", "us each"),
];

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("bench_relay_of_proxies_reports_both_sides", || {
            relay("proxy", "proxy")
        }),
        test("bench_relay_of_the_kernel_mode_reports_both_sides", || {
            relay("kernel", "sync")
        }),
    ]
}

async fn relay(mode: &str, shown: &str) -> Result<(), LabError> {
    let arguments = [
        "lab", "--bench", "relay", "--mode", mode, "--runs", "1", "--json",
    ];
    let run = timeout(PATIENCE, command(tandem(), &arguments).output()).await;
    let ended = run.expect("it ends in time").expect("it starts");
    let complaint = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{complaint}");
    let report: Value = serde_json::from_slice(&ended.stdout).expect("one document alone");
    assert_eq!(report["bench"], "relay");

    let conditions = &report["conditions"];
    assert_eq!(conditions["rounds"], 1, "{conditions}");
    let pair = &conditions["pair"];
    assert_eq!(pair["mode"], shown);
    let hooks = |side: &str| pair[side].as_array().map_or(0, Vec::len);
    assert!(hooks("hooks_relay") > 0, "{pair}");
    let without = hooks("hooks_without");
    assert_eq!(without == 0, mode == "proxy", "{pair}");

    let rows = report["rows"].as_array().expect("rows");
    let word = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
    let names = rows
        .iter()
        .map(|row| (word(row, "what"), word(row, "unit")));
    let wanted = ROWS.map(|(what, unit)| (what.to_owned(), unit.to_owned()));
    assert_eq!(names.collect::<Vec<_>>(), wanted);
    let number = |row: &Value, name: &str| {
        let number = row[name].as_f64().filter(|n| n.is_finite() && *n > 0.0);
        number.unwrap_or_else(|| panic!("{name} of {row}"))
    };
    for row in rows {
        let ratio = number(row, "relay") / number(row, "without");
        // Of one round, the median is the ratio itself.
        let told = number(row, "relay_to_without");
        assert!((told / ratio - 1.0).abs() < 1e-9, "{row}");
        assert_eq!(row["by_round"]["relay_to_without"][0], told, "{row}");
    }
    for side in ["relay", "without"] {
        assert!(number(&rows[6], side) <= number(&rows[7], side), "{rows:?}");
    }
    Ok(())
}
