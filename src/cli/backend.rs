//! `tandem backend`: who is behind a service, at run time.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::args::{Add, BackendArgs, BackendCommand, BackendName, Ending, List, Weigh};
use super::ask::{ask_done, ask_status, print, say, to_json};
use super::{Exit, Failure, render};
use crate::model::AdminState;
use crate::net::clock::Clock;
use crate::status::{BackendStatus, Status};
use crate::wire::admin::{Change, Request};

/// Between two looks at what is left.
const LOOK: Duration = Duration::from_millis(200);
/// So long after its deadline a backend should have nothing left.
const SLACK: Duration = Duration::from_secs(10);

pub(super) fn backend(command: &BackendCommand) -> Result<(), Failure> {
    match command {
        BackendCommand::List(args) => list(args),
        BackendCommand::Add(args) => add(args),
        BackendCommand::Remove(args) => {
            ending(args, |cut_after_ms| Change::Remove { cut_after_ms })
        }
        BackendCommand::Weight(args) => weigh(args),
        BackendCommand::Drain(args) => state(args, AdminState::Drain),
        BackendCommand::Maintenance(args) => state(args, AdminState::Maintenance),
        BackendCommand::Enable(args) => plain(
            args,
            Change::State {
                state: AdminState::Enabled,
                cut_after_ms: None,
            },
        ),
        BackendCommand::Reset(args) => plain(args, Change::Reset),
    }
}

/// What `--json` prints of each backend.
#[derive(Debug, Serialize)]
struct Listed<'s> {
    service: &'s str,
    #[serde(flatten)]
    backend: &'s BackendStatus,
}

fn list(args: &List) -> Result<(), Failure> {
    let status = ask_status(&args.control.path)?;
    let wanted = |name: &str| args.service.as_deref().is_none_or(|it| it == name);
    let services: Vec<_> = status
        .services
        .iter()
        .filter(|it| wanted(&it.name))
        .collect();
    if let (Some(name), true) = (&args.service, services.is_empty()) {
        let names: Vec<_> = status.services.iter().map(|it| it.name.as_str()).collect();
        let text = format!(
            "there is no service {name:?}; there are: {}",
            names.join(", ")
        );
        return Err(Failure::new(Exit::Refused, text));
    }
    if args.json {
        let all = services.iter().flat_map(|service| {
            let service_name = service.name.as_str();
            service.backends.iter().map(move |backend| Listed {
                service: service_name,
                backend,
            })
        });
        return say(&to_json(&all.collect::<Vec<_>>())?);
    }
    print(&render::backends(&services))
}

fn add(args: &Add) -> Result<(), Failure> {
    let change = Change::Add {
        address: args.address,
        weight: args.weight,
        pool: args.pool.clone(),
        max_connections: args.max_connections,
        backup: args.backup,
    };
    change_it(&args.control.path, &args.backend, change)
}

fn weigh(args: &Weigh) -> Result<(), Failure> {
    let weight = args.weight;
    change_it(&args.control.path, &args.backend, Change::Weight { weight })
}

fn plain(args: &BackendArgs, change: Change) -> Result<(), Failure> {
    change_it(&args.control.path, &args.backend, change)
}

fn state(args: &Ending, state: AdminState) -> Result<(), Failure> {
    ending(args, |cut_after_ms| Change::State {
        state,
        cut_after_ms,
    })
}

fn change_it(control: &Path, name: &BackendName, change: Change) -> Result<(), Failure> {
    let request = Request::Roster {
        service: name.service.clone(),
        backend: name.backend.clone(),
        change,
    };
    say(&ask_done(control, &request)?)
}

/// A change after which connections end, and with `--wait` their end.
fn ending(args: &Ending, change: impl FnOnce(Option<u64>) -> Change) -> Result<(), Failure> {
    let control = &args.control.path;
    let cut_after_ms = args.deadline.map(|after| after.as_millis() as u64);
    change_it(control, &args.backend, change(cut_after_ms))?;
    if !args.wait {
        return Ok(());
    }
    let clock = Clock::start();
    loop {
        let status = ask_status(control)?;
        let Some(left) = left_on(&status, &args.backend).filter(|left| *left > 0) else {
            return say("it has no connections");
        };
        let waited = Duration::from_millis(clock.now().as_millis());
        if args.deadline.is_some_and(|most| waited > most + SLACK) {
            let text =
                format!("{left} connections are left after the deadline; see `tandem events`");
            return Err(Failure::new(Exit::Refused, text));
        }
        std::thread::sleep(LOOK);
    }
}

/// Connections on a backend; none: it is gone.
fn left_on(status: &Status, name: &BackendName) -> Option<u64> {
    let mut services = status.services.iter();
    let service = services.find(|it| it.name == name.service)?;
    let mut backends = service.backends.iter();
    let backend = backends.find(|it| it.name == name.backend)?;
    Some(backend.connections)
}
