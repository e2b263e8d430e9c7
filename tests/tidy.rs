//! The floors and the purity of the house, which the compiler cannot keep within one crate.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// From the ground up. A module imports only from lines above its own (or from itself).
/// `wire` stands on `status`, since the control socket's responses carry it; so does `metrics`.
const FLOORS: &[&[&str]] = &[
    &["time", "model"],
    &["config", "status"],
    &["wire", "metrics"],
    &["election", "vip", "replication", "health", "balance"],
    &["discover", "node"],
    &["dial", "program"],
    &[
        "net", "probe", "finder", "datapath", "control", "exporter", "notify",
    ],
    &["daemon", "watch"],
    &["cli", "lab"],
];

/// The first so many lines of `FLOORS` are pure.
const PURE: usize = 5;

/// What pure code never names: IO, threads, clocks, entropy, unordered iteration.
const IMPURE: &[&str] = &[
    "tokio",
    "socket2",
    "nix::",
    "libc::",
    "rtnetlink",
    "std::fs",
    "std::io",
    "std::thread",
    "std::env",
    "std::process",
    "TcpStream",
    "UdpSocket",
    "Instant",
    "SystemTime",
    "SystemRandom",
    "HashMap",
    "HashSet",
    "thread_local!",
    "static mut",
    "OnceLock",
    "LazyLock",
    "Mutex",
    "println!",
    "eprintln!",
    "tracing::",
];

/// Longest file, in lines, and those that may be longer, with the reason.
const LONGEST: usize = 500;
const LONG: &[&str] = &[];

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// The top-level modules that a source text names by `crate::`.
fn imports(text: &str) -> Vec<&str> {
    code(text)
        .flat_map(|line| {
            line.match_indices("crate::")
                .map(move |(at, _)| &line[at + 7..])
        })
        .map(|rest| {
            rest.split(|c: char| !(c.is_alphanumeric() || c == '_'))
                .next()
                .unwrap_or("")
        })
        .filter(|name| !name.is_empty())
        .collect()
}

/// Lines without comments and without the tests at the end.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"))
        .filter(|line| !line.trim_start().starts_with("//"))
}

fn complaints(module: &str, file: &str, text: &str) -> Vec<String> {
    let Some(own) = floor(module) else {
        return vec![format!(
            "{file}: module {module} stands on no floor; add it to FLOORS"
        )];
    };
    let mut found = Vec::new();
    for import in imports(text) {
        match floor(import) {
            _ if import == module => {}
            Some(other) if other < own => {}
            Some(_) => found.push(format!("{file}: {module} may not import {import}")),
            None => found.push(format!("{file}: crate::{import} is no module")),
        }
    }
    if own < PURE {
        for line in code(text) {
            let impure = IMPURE.iter().filter(|word| line.contains(**word));
            found.extend(
                impure.map(|word| format!("{file}: pure code names {word}: {}", line.trim())),
            );
        }
    }
    found
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
}

fn all() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    let name = |path: &PathBuf| path.strip_prefix(&root).unwrap().display().to_string();
    found
        .iter()
        .map(|path| (name(path), std::fs::read_to_string(path).unwrap()))
        .collect()
}

fn is_test(file: &str) -> bool {
    file.ends_with("tests.rs") || file.ends_with("_test.rs") || file.contains("/tests/")
}

#[test]
fn imports_only_go_down_and_the_lower_floors_are_pure() {
    let complaints: Vec<String> = all()
        .iter()
        .filter(|(file, _)| *file != "lib.rs" && *file != "main.rs" && !is_test(file))
        .flat_map(|(file, text)| {
            let module = file.split('/').next().unwrap().trim_end_matches(".rs");
            complaints(module, file, text)
        })
        .collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn files_fit_a_head() {
    let long: Vec<String> = all()
        .iter()
        .filter(|(file, text)| text.lines().count() > LONGEST && !LONG.contains(&file.as_str()))
        .map(|(file, text)| format!("{file}: {} lines", text.lines().count()))
        .collect();
    assert!(long.is_empty(), "longer than {LONGEST} lines: {long:?}");
}

#[test]
fn every_module_says_what_it_is() {
    let silent: Vec<String> = all()
        .into_iter()
        .filter(|(file, text)| !is_test(file) && !text.starts_with("//!"))
        .map(|(file, _)| file)
        .collect();
    assert!(silent.is_empty(), "no doc comment at the top: {silent:?}");
}

#[test]
fn the_gate_sees_what_it_is_there_for() {
    let bad = |module, text| !complaints(module, "x.rs", text).is_empty();
    assert!(bad("vip", "use crate::node::Node;"), "upwards");
    assert!(bad("vip", "use crate::election::Election;"), "sideways");
    assert!(
        bad("election", "fn f() { crate::daemon::run() }"),
        "inline paths"
    );
    assert!(bad("election", "use std::time::Instant;"), "a clock");
    assert!(bad("health", "use std::collections::HashMap;"), "unordered");
    assert!(bad("attic", ""), "an unknown module");
    assert!(!bad(
        "election",
        "use crate::model::Role;\nuse crate::election::peer;"
    ));
    assert!(!bad("net", "use tokio::net::UdpSocket;"));
    assert!(!bad("election", "// use crate::node::Node;"));
}
