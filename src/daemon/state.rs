//! What a node keeps over restarts: what operators said of backends at run time.
//!
//! One file in the state's directory, replaced as a whole: written beside it, synced, renamed. A thread
//! of its own does that, since a disk may take its time; of what waits there the latest counts. A file
//! that is not whole is put aside and said; a directory that cannot be written is said, and the node
//! goes on: its peer knows the same.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::wire::replication::Item;

/// The file's name.
const NAME: &str = "backends.json";
/// Version of its form; raised on any change of it.
const FORM: u32 = 1;

#[derive(Deserialize, Serialize)]
struct Kept {
    form: u32,
    /// Of the text of `said`.
    sum: String,
    said: String,
}

/// The thread, and what waits for it.
pub(super) struct Keeper {
    waiting: Option<Sender<Vec<Item>>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub(super) fn start(dir: &Path) -> io::Result<Self> {
        let (waiting, received) = channel();
        let dir = dir.to_owned();
        let thread = thread::Builder::new()
            .name("tandem-state".into())
            .spawn(move || keep(&dir, &received))?;
        Ok(Self {
            waiting: Some(waiting),
            thread: Some(thread),
        })
    }

    /// To the disk. Never waits.
    pub(super) fn keep(&self, items: Vec<Item>) {
        if let Some(waiting) = &self.waiting {
            // The thread ends at our word only.
            let _ = waiting.send(items);
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.waiting = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the state's thread had ended");
        }
    }
}

fn keep(dir: &Path, received: &Receiver<Vec<Item>>) {
    let mut in_trouble = false;
    while let Ok(mut items) = received.recv() {
        while let Ok(later) = received.try_recv() {
            items = later;
        }
        match write(dir, &items) {
            Ok(()) => in_trouble = false,
            Err(error) => {
                if !std::mem::replace(&mut in_trouble, true) {
                    tracing::warn!(
                        "cannot keep what was said of backends in {}: {error}; after a restart of both \
                         nodes it is lost (tandem run --state)",
                        dir.display()
                    );
                }
            }
        }
    }
}

fn write(dir: &Path, items: &[Item]) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
    let said = serde_json::to_string(items)?;
    let kept = Kept {
        form: FORM,
        sum: sum(&said),
        said,
    };
    let (path, beside) = (dir.join(NAME), dir.join(format!("{NAME}.new")));
    let mut file = File::create(&beside)?;
    file.write_all(&serde_json::to_vec(&kept)?)?;
    file.sync_all()?;
    fs::rename(&beside, &path)?;
    File::open(dir)?.sync_all()
}

fn sum(text: &str) -> String {
    format!("{:016x}", xxh3_64(text.as_bytes()))
}

/// What an earlier life kept, and what to tell of it.
pub(super) fn recall(dir: &Path) -> (Vec<Item>, Option<String>) {
    let path = dir.join(NAME);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (Vec::new(), None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return (Vec::new(), Some(put_aside(&path, "it is no text")));
        }
        Err(error) => {
            let text = format!("cannot read {}: {error}", path.display());
            return (Vec::new(), Some(text));
        }
    };
    match parse(&text) {
        Ok(items) => (items, None),
        Err(what) => (Vec::new(), Some(put_aside(&path, &what))),
    }
}

fn parse(text: &str) -> Result<Vec<Item>, String> {
    let kept: Kept = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if kept.form != FORM {
        return Err(format!(
            "it has form {}, and this program {FORM}",
            kept.form
        ));
    }
    if kept.sum != sum(&kept.said) {
        return Err("its sum is wrong".into());
    }
    serde_json::from_str(&kept.said).map_err(|error| error.to_string())
}

/// Out of the way, so that nothing overwrites it.
fn put_aside(path: &Path, what: &str) -> String {
    let aside = free_name(path);
    let moved = match fs::rename(path, &aside) {
        Ok(()) => format!("it is {} now", aside.display()),
        Err(error) => format!("it cannot be moved: {error}"),
    };
    format!(
        "what was said of backends at run time cannot be read from {}: {what}; {moved}, and the peer \
         is asked",
        path.display()
    )
}

fn free_name(path: &Path) -> PathBuf {
    let name = |n: u32| path.with_extension(format!("damaged-{n}"));
    (1..)
        .map(name)
        .find(|name| !name.exists())
        .unwrap_or_else(|| name(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AdminState, BackendId, ServiceId};
    use crate::wire::statement::{Said, Stamp, Statement};

    fn items() -> Vec<Item> {
        vec![Item::Said {
            backend: BackendId::of("web", "b1"),
            statement: Statement {
                service: ServiceId::of("web"),
                name: "b1".into(),
                at: Stamp(7),
                said: Said::State {
                    state: AdminState::Drain,
                    cut_ms: Some(5),
                },
            },
        }]
    }

    #[test]
    fn what_is_kept_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        assert_eq!(recall(&state), (Vec::new(), None));
        let keeper = Keeper::start(&state).unwrap();
        keeper.keep(Vec::new());
        keeper.keep(items());
        drop(keeper);
        assert_eq!(recall(&state), (items(), None));
        let files = fs::read_dir(&state).unwrap().count();
        assert_eq!(files, 1, "nothing is left beside it");
    }

    #[test]
    fn a_damaged_file_is_said_and_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &items()).unwrap();
        let path = dir.path().join(NAME);
        let good = fs::read_to_string(&path).unwrap();
        let bad = [
            good[..good.len() / 2].to_owned(),
            good.replace("Drain", "Enabled"),
            good.replacen("drain", "enabled", 1),
            good.replace("\"form\":1", "\"form\":2"),
            String::new(),
        ];
        for (n, text) in (1..).zip(&bad) {
            if *text == good {
                continue;
            }
            fs::write(&path, text).unwrap();
            let (items, said) = recall(dir.path());
            assert!(items.is_empty(), "{text}");
            assert!(said.is_some_and(|said| said.contains("damaged-")), "{n}");
            assert!(!path.exists());
        }
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(recall(dir.path()).1.is_some());
    }
}
