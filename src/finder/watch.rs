//! A file that is watched: looked at again and again, and read once it has settled.
//!
//! Looked at, not listened to: inotify sees nothing of what another host writes (NFS), must follow a
//! path link by link and set its marks anew after each swap (a Kubernetes ConfigMap is a link to a link
//! to a directory that is replaced), and drops events under load. One `stat(2)` each half second costs
//! nothing and misses none of this.

use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::discover::list::MAX_BYTES;

/// Time between two looks.
pub(super) const EVERY: Duration = Duration::from_millis(500);

/// What changes when a file does, whether it is written, replaced or linked anew.
type Mark = (u64, u64, u64, (i64, i64), (i64, i64));

/// What a look showed.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Look {
    /// Nothing new.
    Same,
    /// It cannot be read, and why; said once.
    Lost(String),
    /// What is in it now.
    Text(String),
}

/// A file, and what was seen of it last.
#[derive(Debug)]
pub(super) struct Watched {
    path: PathBuf,
    /// None: nothing, or it was not there.
    seen: Option<Mark>,
    /// That was read.
    read: Option<Mark>,
    lost: Option<String>,
}

impl Watched {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            seen: None,
            read: None,
            lost: None,
        }
    }

    /// Looks once. May wait for the file system: not for a runtime's own thread.
    pub(super) fn look(&mut self, first: bool) -> Look {
        match self.try_look(first) {
            Ok(look) => {
                if look != Look::Same {
                    self.lost = None;
                }
                look
            }
            Err(error) => {
                (self.seen, self.read) = (None, None);
                let why = error.to_string();
                if self.lost.as_ref() == Some(&why) {
                    return Look::Same;
                }
                self.lost = Some(why.clone());
                Look::Lost(why)
            }
        }
    }

    /// A file that is being written is read when it was the same in two looks; at the start at once.
    fn try_look(&mut self, first: bool) -> io::Result<Look> {
        let now = mark(&std::fs::metadata(&self.path)?);
        let settled = first || self.seen == Some(now);
        self.seen = Some(now);
        if self.read == Some(now) || !settled {
            return Ok(Look::Same);
        }
        let (text, read) = text(&self.path)?;
        if read != now {
            return Ok(Look::Same);
        }
        self.read = Some(now);
        Ok(Look::Text(text))
    }
}

fn mark(meta: &std::fs::Metadata) -> Mark {
    (
        meta.dev(),
        meta.ino(),
        meta.size(),
        (meta.mtime(), meta.mtime_nsec()),
        (meta.ctime(), meta.ctime_nsec()),
    )
}

fn text(path: &Path) -> io::Result<(String, Mark)> {
    let file = std::fs::File::open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("not a file"));
    }
    if meta.size() > MAX_BYTES {
        return Err(io::Error::other(format!("more than {MAX_BYTES} bytes")));
    }
    let mut text = String::new();
    (&file).take(MAX_BYTES).read_to_string(&mut text)?;
    // Of the end: it may have grown meanwhile.
    Ok((text, mark(&file.metadata()?)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_way_to_change_a_file_is_seen_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.json");
        let mut watched = Watched::new(path.clone());
        let lost = watched.look(true);
        assert!(
            matches!(&lost, Look::Lost(why) if why.contains("No such file")),
            "{lost:?}"
        );
        assert_eq!(watched.look(false), Look::Same, "said once");
        let mut settled = |text: &str| {
            assert_eq!(watched.look(false), Look::Same, "it may still be written");
            assert_eq!(watched.look(false), Look::Text(text.into()));
            assert_eq!(watched.look(false), Look::Same);
        };
        fs::write(&path, "1").unwrap();
        settled("1");
        fs::write(dir.path().join("new"), "2").unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        settled("2");
        // As a ConfigMap: web.json -> ..data/web.json, ..data -> a directory.
        fs::remove_file(&path).unwrap();
        for (n, text) in [("a", "3"), ("b", "4")] {
            fs::create_dir(dir.path().join(n)).unwrap();
            fs::write(dir.path().join(n).join("web.json"), text).unwrap();
        }
        let link = |to: &str, at: &Path| std::os::unix::fs::symlink(to, at).unwrap();
        link("a", &dir.path().join("..data"));
        link("..data/web.json", &path);
        settled("3");
        link("b", &dir.path().join("..tmp"));
        fs::rename(dir.path().join("..tmp"), dir.path().join("..data")).unwrap();
        settled("4");
        fs::remove_file(dir.path().join("b/web.json")).unwrap();
        assert!(matches!(watched.look(false), Look::Lost(_)));
        fs::create_dir(dir.path().join("b/web.json")).unwrap();
        assert_eq!(watched.look(false), Look::Same);
        assert_eq!(watched.look(false), Look::Lost("not a file".into()));
    }

    #[test]
    fn a_file_that_is_being_written_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.toml");
        let mut watched = Watched::new(path.clone());
        for n in 1..10 {
            fs::write(&path, "#".repeat(n)).unwrap();
            let look = watched.look(n == 1);
            assert_eq!(
                look,
                if n == 1 {
                    Look::Text("#".into())
                } else {
                    Look::Same
                }
            );
        }
        assert_eq!(watched.look(false), Look::Text("#".repeat(9)));
    }
}
