//! `tandem cleanup`: what the kernel mode of a dead process left behind.

use std::io::{self, Write};

use serde::Serialize;

use super::args::Cleanup;
use super::{Exit, Failure};
use crate::datapath::nat::{self, NatError};

/// What `--json` prints.
#[derive(Serialize)]
struct Removed {
    removed: Vec<String>,
}

/// Removes the program and its tables, unless a node has them.
pub(super) fn cleanup(args: &Cleanup) -> Result<(), Failure> {
    let removed = nat::cleanup(&args.pins).map_err(|error| failed(&error))?;
    print(&mut anstream::stdout(), args, removed)?;
    Ok(())
}

fn print(to: &mut impl Write, args: &Cleanup, removed: Vec<String>) -> io::Result<()> {
    if args.json {
        let text = serde_json::to_string_pretty(&Removed { removed })?;
        return writeln!(to, "{text}");
    }
    if removed.is_empty() {
        let dir = args.pins.display();
        return writeln!(to, "nothing to clean up: there is no {dir}, or it is empty");
    }
    removed
        .iter()
        .try_for_each(|what| writeln!(to, "removed {what}"))
}

fn failed(error: &NatError) -> Failure {
    let exit = match error {
        NatError::InUse { .. } => Exit::Refused,
        NatError::Pins { source, .. } | NatError::Attach { source, .. }
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            Exit::NoPermission
        }
        NatError::Pins { .. } => Exit::Usage,
        _ => Exit::Internal,
    };
    Failure::new(exit, error.to_string())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn args(pins: &Path, json: bool) -> Cleanup {
        let pins = pins.to_owned();
        Cleanup { pins, json }
    }

    #[test]
    fn an_ordinary_directory_is_wrong_usage_and_none_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        let failure = cleanup(&args(dir.path(), false)).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage, "{}", failure.message);
        assert!(dir.path().exists());
        assert!(cleanup(&args(&dir.path().join("none"), true)).is_ok());
    }

    #[test]
    fn a_node_that_runs_is_left_alone() {
        let failure = failed(&NatError::InUse {
            dir: "/sys/fs/bpf/tandem".into(),
        });
        assert_eq!(failure.exit, Exit::Refused);
        assert!(failure.message.contains("stop it"), "{}", failure.message);
    }

    #[test]
    fn what_was_removed_is_printed() {
        let printed = |json, removed: &[&str]| {
            let mut text = Vec::new();
            let removed = removed.iter().map(ToString::to_string).collect();
            print(&mut text, &args(Path::new("/x"), json), removed).unwrap();
            String::from_utf8(text).unwrap()
        };
        let removed = ["program at eth0 (tcx)", "13 tables"];
        assert_eq!(
            printed(false, &removed),
            "removed program at eth0 (tcx)\nremoved 13 tables\n"
        );
        let json: serde_json::Value = serde_json::from_str(&printed(true, &removed)).unwrap();
        assert_eq!(json["removed"][1], "13 tables");
        assert!(printed(false, &[]).starts_with("nothing to clean up"));
        let json: serde_json::Value = serde_json::from_str(&printed(true, &[])).unwrap();
        assert_eq!(json["removed"], serde_json::json!([]));
    }
}
