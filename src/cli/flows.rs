//! `tandem flows`: one question after the other, each answered with a page, until all are told.
//!
//! Pages are printed as they come: there may be millions of connections.

use std::io::Write;
use std::path::Path;

use super::args::Flows;
use super::ask::{ask, say, to_json, unexpected};
use super::render::FlowTable;
use super::{Exit, Failure};
use crate::status::Mode;
use crate::wire::admin::{FlowQuery, FlowStatus, Request, Response};

pub(super) fn flows(args: &Flows) -> Result<(), Failure> {
    let query = FlowQuery {
        service: args.service.clone(),
        backend: args.backend.clone(),
        client: args.client,
        mode: args.mode.as_deref().map(|word| match word {
            "kernel" => Mode::Kernel,
            _ => Mode::Proxy,
        }),
        ..FlowQuery::default()
    };
    let control = &args.control.path;
    match (args.count, args.json) {
        (true, _) => count(control, query),
        (false, true) => json(control, query, args.limit),
        (false, false) => table(control, query, args.limit),
    }
}

/// A number is a JSON document, too.
fn count(control: &Path, query: FlowQuery) -> Result<(), Failure> {
    let query = FlowQuery {
        limit: Some(0),
        ..query
    };
    let mut sum = 0_u64;
    pages(control, query, None, |matching, _| {
        sum += matching;
        Ok(())
    })?;
    say(&sum.to_string())
}

fn table(control: &Path, query: FlowQuery, limit: Option<u32>) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    let mut table = FlowTable::default();
    pages(control, query, limit, |_, flows| {
        Ok(table.page(flows).write(&mut out)?)
    })?;
    Ok(table.end().write(&mut out)?)
}

/// One list, whose parts are printed as they come.
fn json(control: &Path, query: FlowQuery, limit: Option<u32>) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    let mut before = '[';
    pages(control, query, limit, |_, flows| {
        for flow in flows {
            write!(out, "{before}{}", to_json(flow)?)?;
            before = ',';
        }
        Ok(())
    })?;
    let begin = if before == '[' { "[" } else { "" };
    Ok(writeln!(out, "{begin}]")?)
}

/// Asks until all, or as many as wanted, are told.
fn pages(
    control: &Path,
    mut query: FlowQuery,
    mut limit: Option<u32>,
    mut each: impl FnMut(u64, &[FlowStatus]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    loop {
        if limit.is_some() {
            query.limit = limit;
        }
        let (matching, flows, next) = match ask(control, &Request::Flows(query.clone()))? {
            Response::Flows {
                matching,
                flows,
                next,
            } => (matching, flows, next),
            other => return Err(unexpected(&other)),
        };
        each(matching, &flows)?;
        limit = limit.map(|limit| limit.saturating_sub(flows.len() as u32));
        if next.is_none() || limit == Some(0) {
            return Ok(());
        }
        if next == query.after {
            let message = "the node does not go on with its list of connections";
            return Err(Failure::new(Exit::Internal, message));
        }
        query.after = next;
    }
}
