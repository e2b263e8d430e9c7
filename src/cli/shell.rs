//! `tandem completions` and `tandem man`: made from the same tree of commands that reads the
//! arguments, so neither can name an option that is not there.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::{Command as Tree, CommandFactory};

use super::args::Cli;
use super::setup_args::{Completions, Man};
use super::{Exit, Failure};

/// Prints a script that completes commands and options in a shell.
pub(super) fn completions(args: &Completions) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tandem", &mut script);
    io::stdout().write_all(&script)?;
    Ok(())
}

/// Writes a manual page for the program and for each command.
pub(super) fn man(args: &Man) -> Result<(), Failure> {
    for (name, page) in pages()? {
        let path = args.dir.join(name);
        fs::write(&path, page).map_err(|error| unwritable(&path, &error))?;
    }
    Ok(())
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    let exit = match error.kind() {
        io::ErrorKind::PermissionDenied => Exit::NoPermission,
        _ => Exit::Usage,
    };
    let text = format!(
        "cannot write {}: {error}; name a directory that is there",
        path.display()
    );
    Failure::new(exit, text)
}

/// Section 8: the program is for who administers a system.
const SECTION: &str = "8";

/// Names of files, and what is in them.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut tree = Cli::command().disable_help_subcommand(true);
    tree.build();
    let mut pages = vec![page(&tree, "tandem")?];
    for command in tree
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
    {
        pages.push(page(command, &format!("tandem-{}", command.get_name()))?);
    }
    Ok(pages)
}

fn page(command: &Tree, name: &str) -> io::Result<(String, Vec<u8>)> {
    let file = format!("{name}.{SECTION}");
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone())
        .section(SECTION)
        .manual("Tandem")
        .render(&mut text)?;
    Ok((file, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let pages = pages().unwrap();
        assert_eq!(pages[0].0, "tandem.8");
        for command in Cli::command().get_subcommands() {
            let name = format!("tandem-{}.8", command.get_name());
            let page = pages.iter().find(|(file, _)| *file == name);
            let text = String::from_utf8(page.expect(&name).1.clone()).unwrap();
            assert!(text.contains(".SH SYNOPSIS"), "{name}");
            // The example is what one reads a page for.
            assert!(text.contains("Example:"), "{name}: {text}");
        }
    }
}
