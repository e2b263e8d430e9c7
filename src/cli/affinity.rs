//! `tandem affinity`: remembered clients, listed or forgotten a page at a time.

use std::io::Write;

use super::args::affinity::{Affinity, Clear, Filter, List};
use super::ask::{ask, say, to_json, unexpected};
use super::render::{plural, stick_rows};
use super::{Exit, Failure};
use crate::wire::admin::{Remembered, Request, Response, StickQuery};

pub(super) fn affinity(what: &Affinity) -> Result<(), Failure> {
    match what {
        Affinity::List(args) => list(args),
        Affinity::Clear(args) => clear(args),
    }
}

fn query(filter: &Filter) -> StickQuery {
    StickQuery {
        service: filter.service.clone(),
        backend: filter.backend.clone(),
        key: filter.key.clone(),
        ..StickQuery::default()
    }
}

fn list(args: &List) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    let mut before = '[';
    let mut told = false;
    let each = |_, clients: &[Remembered]| {
        if args.json {
            for client in clients {
                write!(out, "{before}{}", to_json(client)?)?;
                before = ',';
            }
        } else if !clients.is_empty() {
            stick_rows(clients, !told).write(&mut out)?;
            told = true;
        }
        Ok(())
    };
    pages(
        Request::Sticks,
        &args.control.path,
        query(&args.filter),
        args.limit,
        each,
    )?;
    match args.json {
        true => writeln!(out, "{}]", if before == '[' { "[" } else { "" })?,
        false if !told => writeln!(out, "no client is remembered")?,
        false => {}
    }
    Ok(())
}

fn clear(args: &Clear) -> Result<(), Failure> {
    let mut sum = 0_u64;
    let control = &args.control.path;
    pages(
        Request::ForgetSticks,
        control,
        query(&args.filter),
        None,
        |matching, _| {
            sum += matching;
            Ok(())
        },
    )?;
    match args.json {
        true => say(&format!("{{\"forgotten\":{sum}}}")),
        false => say(&format!("{} forgotten", plural(sum, "client"))),
    }
}

/// Asks until all, or as many as wanted, are told.
fn pages(
    request: fn(StickQuery) -> Request,
    control: &std::path::Path,
    mut query: StickQuery,
    mut limit: Option<u32>,
    mut each: impl FnMut(u64, &[Remembered]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    loop {
        query.limit = limit;
        let (matching, clients, next) = match ask(control, &request(query.clone()))? {
            Response::Sticks {
                matching,
                clients,
                next,
            } => (matching, clients, next),
            other => return Err(unexpected(&other)),
        };
        each(matching, &clients)?;
        limit = limit.map(|limit| limit.saturating_sub(clients.len() as u32));
        if next.is_none() || limit == Some(0) {
            return Ok(());
        }
        if next == query.after {
            let message = "the node does not go on with its list of clients";
            return Err(Failure::new(Exit::Internal, message));
        }
        query.after = next;
    }
}
