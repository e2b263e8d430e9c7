//! `tandem config push`, `tandem key rotate`: files of both nodes.

use super::args::{ConfigCommand, KeyCommand};
use super::ask::{ask, json, say, to_json, unexpected};
use super::{Exit, Failure, reload};
use crate::wire::admin::{Pushed, Request, Response};

pub(super) fn config(command: &ConfigCommand) -> Result<(), Failure> {
    let ConfigCommand::Push(args) = command;
    let dry_run = args.dry_run;
    let pushed = match ask(&args.control.path, &Request::Push { dry_run })? {
        Response::Pushed { pushed } => pushed,
        other => return Err(unexpected(&other)),
    };
    match args.json {
        true => say(&to_json(&pushed)?)?,
        false => say(text(&pushed, dry_run).trim_end())?,
    }
    let message = |text: &str| if args.json { "" } else { text }.to_owned();
    match (&pushed.here.mistakes, &pushed.fault) {
        (Some(mistakes), _) => Err(Failure::new(Exit::Usage, message(mistakes))),
        (None, Some(fault)) => {
            let text = format!("the peer cannot take it; nothing was changed:\n{fault}");
            Err(Failure::new(Exit::Refused, message(&text)))
        }
        _ if pushed.here.refused => {
            let text = "nothing was changed on either node: some of it needs a restart";
            Err(Failure::new(Exit::Refused, message(text)))
        }
        _ => Ok(()),
    }
}

/// A line for each node, after what changes on this one.
fn text(pushed: &Pushed, dry_run: bool) -> String {
    let here = reload::text(&pushed.here);
    let good = pushed.here.mistakes.is_none() && !pushed.here.refused && pushed.fault.is_none();
    let peer = match (pushed.taken, good && dry_run) {
        (true, _) => "\nthe peer has taken it",
        (false, true) => "\nthe peer could take it",
        (false, false) => "",
    };
    here + peer
}

pub(super) fn key(command: &KeyCommand) -> Result<(), Failure> {
    let KeyCommand::Rotate(query) = command;
    let message = match ask(&query.control.path, &Request::Rotate)? {
        Response::Done { message } => message,
        other => return Err(unexpected(&other)),
    };
    match query.json {
        true => json(&message),
        false => say(&message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::admin::Reloaded;

    #[test]
    fn what_became_of_it_is_a_line_for_each_node() {
        let mut pushed = Pushed {
            here: Reloaded {
                applied: true,
                ..Reloaded::default()
            },
            taken: true,
            fault: None,
        };
        assert_eq!(
            text(&pushed, false),
            "nothing is different\nthe peer has taken it"
        );
        pushed.taken = false;
        assert_eq!(
            text(&pushed, true),
            "nothing is different\nthe peer could take it"
        );
        pushed.fault = Some("no".into());
        assert_eq!(text(&pushed, true), "nothing is different");
    }
}
