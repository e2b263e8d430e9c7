//! The commands that the pages show are commands of this program.

use std::path::Path;

use clap::Parser;
use clap::error::ErrorKind;
use tandem::cli::Cli;

/// A command of a page.
struct Shown {
    /// File and line.
    place: String,
    words: Vec<String>,
    /// It stands in a block: somebody copies it as it is. Else in a sentence, where it may be a part.
    whole: bool,
}

/// All pages, with their names.
fn pages() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["", "docs", "docs/decisions"].map(|folder| root.join(folder));
    let files = folders
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == "md"));
    let mut pages: Vec<_> = files
        .map(|path| {
            let name = path.strip_prefix(root).unwrap().display().to_string();
            (name, std::fs::read_to_string(&path).unwrap())
        })
        .collect();
    pages.sort();
    pages
}

/// The words of a line if it is one of `tandem`: up to a pipe, a redirection or a comment.
fn words(line: &str) -> Option<Vec<String>> {
    let line = line.trim_start();
    let line = line
        .strip_prefix("$ ")
        .or_else(|| line.strip_prefix("# "))
        .unwrap_or(line);
    let line = line.strip_prefix("sudo ").unwrap_or(line);
    let end = ["|", ";", "&&", " >", " #"]
        .iter()
        .filter_map(|stop| line.find(stop))
        .min();
    let words = line[..end.unwrap_or(line.len())].split_whitespace();
    let words: Vec<_> = words
        .map(|word| word.trim_matches(['"', '\'']).to_owned())
        .collect();
    let program = words.first()?;
    (words.len() > 1 && program.rsplit('/').next() == Some("tandem")).then_some(words)
}

fn commands(name: &str, page: &str) -> Vec<Shown> {
    let mut shown = Vec::new();
    let mut block: Option<&str> = None;
    let mut lines = page.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let place = format!("{name}:{}", at + 1);
        if let Some(language) = line.trim_start().strip_prefix("```") {
            block = block.is_none().then_some(language);
            continue;
        }
        match block {
            // What is printed may begin with the program's name.
            Some("console" | "text") if !line.starts_with(['$', '#']) => {}
            Some("toml" | "json") => {}
            Some(_) => {
                let mut whole = line.to_owned();
                while whole.ends_with('\\')
                    && let Some((_, next)) = lines.next()
                {
                    whole.truncate(whole.len() - 1);
                    whole.push_str(next);
                }
                shown.extend(words(&whole).map(|words| Shown {
                    place,
                    words,
                    whole: true,
                }));
            }
            // Labels of keys begin with the program's name, too.
            None if name == "docs/protocol.md" => {}
            None => {
                let inline = line.split('`').skip(1).step_by(2).filter_map(words);
                shown.extend(inline.map(|words| Shown {
                    place: place.clone(),
                    words,
                    whole: false,
                }));
            }
        }
    }
    shown
}

#[test]
fn every_command_that_the_pages_show_is_one() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for (name, page) in pages() {
        for shown in commands(&name, &page) {
            count += 1;
            let Err(error) = Cli::try_parse_from(&shown.words) else {
                continue;
            };
            let is_one = match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => true,
                ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand => false,
                _ => !shown.whole,
            };
            if !is_one {
                wrong.push(format!(
                    "{}: {}\n{error}",
                    shown.place,
                    shown.words.join(" ")
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 100, "only {count} were found");
}
