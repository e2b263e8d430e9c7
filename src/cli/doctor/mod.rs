//! `tandem doctor`: what on this host keeps a node from its job, and what to do about it.
//!
//! [`gather`] looks, [`findings`] judges; neither does the other's work.

mod facts;
mod findings;
mod gather;
mod peer;
mod vips;

use std::io::{self, Write};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::setup_args::Doctor;
use super::{Failure, check};
use crate::config::Config;
use crate::daemon;
use crate::model::NodeId;
use crate::net::key::{self, KeyFault};
use findings::{Finding, Severity};

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    /// The worst of them.
    severity: Severity,
    findings: &'a [Finding],
}

/// Looks, judges, prints. The exit code is the worst severity: 0, 1 for a warning, 2 for an error.
pub(super) fn doctor(args: &Doctor) -> Result<ExitCode, Failure> {
    let mut found = Vec::new();
    let config = configuration(args, &mut found);
    let of = config.as_ref().map(|(config, me)| (config, *me));
    let facts = gather::gather(args, of);
    found.extend(findings::findings(of, &facts));
    let out = &mut anstream::stdout().lock();
    let worst = found.iter().map(|finding| finding.severity).max();
    let worst = worst.unwrap_or(Severity::Fine);
    if args.json {
        let report = Report {
            severity: worst,
            findings: &found,
        };
        let text = serde_json::to_string_pretty(&report).map_err(io::Error::from)?;
        writeln!(out, "{text}")?;
    } else {
        print(out, &found)?;
    }
    Ok(ExitCode::from(match worst {
        Severity::Fine | Severity::Note => 0,
        Severity::Warning => 1,
        Severity::Error => 2,
    }))
}

/// The configuration, and which of its nodes this host is, if they can be had.
fn configuration(args: &Doctor, found: &mut Vec<Finding>) -> Option<(Config, NodeId)> {
    let file = args.config.display();
    let config = match check::read(&args.config) {
        Ok(config) => config,
        Err(failure) => {
            let remedy = "`tandem init` writes one, `tandem check` says what is wrong with one";
            found.push(Finding::error("configuration", failure.message, remedy));
            return None;
        }
    };
    match key::load(&config.cluster.key_file) {
        Ok(_) => found.push(Finding::fine(
            "configuration",
            format!("{file} and its key are good"),
        )),
        Err(error) => {
            let what = format!("{} {}", error.path.display(), error.fault);
            let closed = |why: &io::Error| why.kind() == io::ErrorKind::PermissionDenied;
            found.push(match &error.fault {
                // It is to be closed to others; who looks is not who runs the node.
                KeyFault::Read(why) if closed(why) => {
                    Finding::warning("configuration", what, "run the doctor as root")
                }
                _ => Finding::error("configuration", what, error.remedy()),
            });
        }
    }
    match daemon::find_node(&config, args.node.as_deref()) {
        Ok(me) => Some((config, me)),
        Err(error) => {
            let remedy = "give --node here and to `tandem run`, or name the node as the host";
            found.push(Finding::error("configuration", error.to_string(), remedy));
            None
        }
    }
}

fn print(to: &mut impl Write, found: &[Finding]) -> io::Result<()> {
    for finding in found {
        let (word, style) = match finding.severity {
            Severity::Fine => ("ok", AnsiColor::Green.on_default()),
            Severity::Note => ("note", Style::new()),
            Severity::Warning => ("warning", AnsiColor::Yellow.on_default()),
            Severity::Error => ("ERROR", AnsiColor::Red.on_default().bold()),
        };
        writeln!(
            to,
            "{style}{word:<8}{style:#} {}: {}",
            finding.check, finding.what
        )?;
        if let Some(remedy) = &finding.remedy {
            writeln!(to, "         -> {remedy}")?;
        }
    }
    let count = |severity| found.iter().filter(|f| f.severity == severity).count();
    writeln!(
        to,
        "\nerrors: {}, warnings: {}",
        count(Severity::Error),
        count(Severity::Warning)
    )
}
