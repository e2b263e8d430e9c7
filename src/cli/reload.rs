//! `tandem reload`: the node reads its file again.

use std::fmt::Write as _;

use super::args::Reload;
use super::ask::{ask, say, to_json, unexpected};
use super::{Exit, Failure};
use crate::config::Change;
use crate::wire::admin::{Reloaded, Request, Response};

pub(super) fn reload(args: &Reload) -> Result<(), Failure> {
    let dry_run = args.dry_run;
    let reloaded = match ask(&args.control.path, &Request::Reload { dry_run })? {
        Response::Reloaded { reloaded } => reloaded,
        other => return Err(unexpected(&other)),
    };
    match args.json {
        true => say(&to_json(&reloaded)?)?,
        false => say(text(&reloaded).trim_end())?,
    }
    let message = |text: String| if args.json { String::new() } else { text };
    match &reloaded.mistakes {
        Some(mistakes) => Err(Failure::new(Exit::Usage, message(mistakes.clone()))),
        None if reloaded.refused => {
            let text = "nothing was changed: some of it needs a restart (systemctl restart tandem, \
                        the backup first)";
            Err(Failure::new(Exit::Refused, message(text.into())))
        }
        None => Ok(()),
    }
}

/// The changes by section, and what became of them.
pub(super) fn text(reloaded: &Reloaded) -> String {
    let mut text = String::new();
    let mut section = "";
    for change in &reloaded.changes {
        if change.section != section {
            section = &change.section;
            let _ = writeln!(text, "{section}");
        }
        let _ = writeln!(text, "  {}", line(change));
    }
    if reloaded.more > 0 {
        let _ = writeln!(text, "and {} more", reloaded.more);
    }
    let end = match reloaded {
        Reloaded {
            mistakes: Some(_), ..
        } => "nothing was changed",
        Reloaded { changes, .. } if changes.is_empty() => "nothing is different",
        Reloaded { refused: true, .. } => "",
        Reloaded { dry_run: true, .. } => "nothing was changed: this was a dry run",
        _ => "reloaded",
    };
    text + end
}

fn line(change: &Change) -> String {
    let Change {
        section: _,
        key,
        old,
        new,
        restart,
    } = change;
    let what = match (old, new) {
        (Some(old), Some(new)) => format!("{key}: {old} -> {new}"),
        (None, Some(new)) => format!("{key}: (not set) -> {new}"),
        (Some(old), None) => format!("{key}: {old} -> (not set)"),
        (None, None) => key.clone(),
    };
    match restart {
        Some(why) => format!("{what}   NEEDS A RESTART: {why}"),
        None => what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(section: &str, key: &str, (old, new): (&str, &str), restart: Option<&str>) -> Change {
        let set = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Change {
            section: section.into(),
            key: key.into(),
            old: set(old),
            new: set(new),
            restart: restart.map(str::to_owned),
        }
    }

    #[test]
    fn changes_are_shown_by_section() {
        let told = Reloaded {
            applied: true,
            changes: vec![
                change("proxy", "drain_timeout", ("5m", "1m"), None),
                change("service web", "allow", ("", "[203.0.113.0/24]"), None),
                change("service web", "backend b1.weight", ("1", ""), None),
            ],
            ..Reloaded::default()
        };
        assert_eq!(
            text(&told),
            "proxy\n  drain_timeout: 5m -> 1m\nservice web\n  allow: (not set) -> [203.0.113.0/24]\n  \
             backend b1.weight: 1 -> (not set)\nreloaded"
        );
        let told = Reloaded {
            refused: true,
            changes: vec![change("cluster", "port", ("7373", "7374"), Some("why"))],
            ..Reloaded::default()
        };
        assert_eq!(
            text(&told),
            "cluster\n  port: 7373 -> 7374   NEEDS A RESTART: why\n"
        );
        assert_eq!(text(&Reloaded::default()), "nothing is different");
    }
}
