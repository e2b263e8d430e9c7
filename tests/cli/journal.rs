//! What a node says as journald reads it.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use super::{folder, text};

/// What a node without a file says, with this after the device and inode of its standard error.
fn said(more: &str) -> String {
    let folder = folder();
    let path = folder.path().join("stderr");
    let file = File::create(&path).unwrap();
    let it = file.metadata().unwrap();
    let ended = Command::new(env!("CARGO_BIN_EXE_tandem"))
        .args(["run", "--config", text(&folder.path().join("none.toml"))])
        .env("JOURNAL_STREAM", format!("{}:{}{more}", it.dev(), it.ino()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file)
        .status()
        .unwrap();
    assert_eq!(ended.code(), Some(64));
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn the_journal_is_told_that_an_end_is_an_error() {
    let lines = said("");
    assert!(lines.starts_with("<3>"), "{lines}");
    assert!(lines.contains("none.toml"), "{lines}");
    assert!(lines.lines().all(|line| line.starts_with("<3>")), "{lines}");
    let elsewhere = said("0");
    assert!(elsewhere.starts_with("tandem: "), "{elsewhere}");
}
