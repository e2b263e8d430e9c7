//! `tandem check` and `tandem keygen`: what can be done without a node.

use std::io::{self, Write};
use std::path::Path;

use super::{Exit, Failure};
use crate::config::{Config, ConfigErrors};
use crate::net::key::{self, KeyError, KeyFault};

/// Says everything that is wrong with a configuration and its key, or that it is good.
pub(super) fn check(file: &Path) -> Result<(), Failure> {
    let (config, text) = parse(file)?;
    let cluster = &config.cluster;
    if let Err(error) = key::load(&cluster.key_file) {
        let error = error.at(cluster.key_file_place);
        return Err(mistakes(&ConfigErrors(vec![error]), file, &text));
    }

    let mut out = anstream::stdout().lock();
    writeln!(out, "{} is good: {}", file.display(), summary(&config))?;
    let host = nix::unistd::gethostname().unwrap_or_default();
    let host = host.to_string_lossy();
    let [first, second] = &config.nodes;
    match config.node_named(&host) {
        Some(id) => writeln!(out, "This host is node {}.", config.node(id).name)?,
        None => writeln!(
            out,
            "This host, {host}, is neither {} nor {}: run it with --node.",
            first.name, second.name
        )?,
    }
    Ok(())
}

/// A valid configuration; its key is not looked at.
pub(super) fn read(file: &Path) -> Result<Config, Failure> {
    parse(file).map(|(config, _)| config)
}

fn parse(file: &Path) -> Result<(Config, String), Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| unreadable(file, &error))?;
    match Config::parse(&text) {
        Ok(config) => Ok((config, text)),
        Err(errors) => Err(mistakes(&errors, file, &text)),
    }
}

fn summary(config: &Config) -> String {
    let [first, second] = &config.nodes;
    let backends: usize = config
        .services
        .iter()
        .map(|service| service.backends.len())
        .sum();
    format!(
        "pair {} of {} and {}; vips: {}, services: {}, backends: {backends}, heartbeat paths: {}; \
         configuration {}",
        config.cluster.name,
        first.name,
        second.name,
        config.vips.len(),
        config.services.len(),
        config.paths().count(),
        config.hash,
    )
}

/// Every mistake with its line.
pub(super) fn mistakes(errors: &ConfigErrors, file: &Path, text: &str) -> Failure {
    let name = file.display().to_string();
    // Colours are dropped where they are not wanted when this is printed.
    let report = errors.render(&name, text, true);
    let count = errors.0.len();
    let mistakes = if count == 1 { "mistake" } else { "mistakes" };
    let message = format!("{name} has {count} {mistakes}\n{}", report.trim_end());
    Failure::new(Exit::Usage, message)
}

fn unreadable(file: &Path, error: &io::Error) -> Failure {
    let name = file.display();
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            let message = format!("{name}: permission denied; run this as root or as user tandem");
            Failure::new(Exit::NoPermission, message)
        }
        io::ErrorKind::InvalidData => {
            let message = format!("{name} is not UTF-8 text; is it the right file?");
            Failure::new(Exit::Usage, message)
        }
        _ => Failure::new(Exit::Usage, format!("{name}: {error}; check the path")),
    }
}

/// Makes a key.
pub(super) fn keygen(file: &Path) -> Result<(), Failure> {
    key::generate(file).map_err(|error| bad_key(&error))?;
    writeln!(
        anstream::stdout(),
        "wrote a new key to {}; copy it to the other node, over a channel that you trust",
        file.display()
    )?;
    Ok(())
}

/// A key that cannot be used or made.
pub(super) fn bad_key(error: &KeyError) -> Failure {
    let exit = match &error.fault {
        KeyFault::Read(why) | KeyFault::Write(why)
            if why.kind() == io::ErrorKind::PermissionDenied =>
        {
            Exit::NoPermission
        }
        _ => Exit::Usage,
    };
    Failure::new(exit, error.to_string())
}
