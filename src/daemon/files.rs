//! Files of the node that the node itself replaces: whole, or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

/// A file that lies beside the one whose place it is to take.
#[derive(Debug)]
pub(super) struct Beside {
    path: PathBuf,
    /// Where it lies now; none: it has taken its place.
    here: Option<PathBuf>,
}

impl Beside {
    /// Writes it, so that it is still there after a loss of power. Owner and mode are those of the file
    /// that is there.
    ///
    /// # Errors
    ///
    /// There is no such file, or its directory cannot be written to.
    pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<Self> {
        // Behind links, so that those stay.
        let path = fs::canonicalize(path)?;
        let old = fs::metadata(&path)?;
        let here = with(&path, ".new");
        // One that a dead process left.
        let _ = fs::remove_file(&here);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&here)?;
        let beside = Self {
            path,
            here: Some(here.clone()),
        };
        file.write_all(bytes)?;
        let (mine, his) = (file.metadata()?, (old.uid(), old.gid()));
        if (mine.uid(), mine.gid()) != his {
            // Who may not do that keeps it: the rights are the same.
            let _ = chown(&here, Some(his.0), Some(his.1));
        }
        file.set_permissions(old.permissions())?;
        file.sync_all()?;
        Ok(beside)
    }

    /// It takes its place. `keep`: what was there lies beside it then, with `.before` at its name's end.
    ///
    /// # Errors
    ///
    /// The directory cannot be written to; nothing has changed then.
    pub(super) fn take_place(mut self, keep: bool) -> io::Result<()> {
        let Some(here) = self.here.clone() else {
            return Ok(());
        };
        if keep {
            let before = with(&self.path, ".before");
            let _ = fs::remove_file(&before);
            // A link to a file of somebody else may be refused (proc(5), protected_hardlinks).
            fs::copy(&self.path, &before)?;
            File::open(before)?.sync_all()?;
        }
        fs::rename(&here, &self.path)?;
        self.here = None;
        let directory = self.path.parent().unwrap_or_else(|| Path::new("/"));
        File::open(directory)?.sync_all()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(here) = &self.here {
            // It is nobody's.
            let _ = fs::remove_file(here);
        }
    }
}

fn with(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("file");
        assert!(Beside::write(&path, b"b").is_err(), "there must be one");
        fs::write(&path, "a").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let names = || {
            let mut names: Vec<_> = fs::read_dir(scratch.path())
                .unwrap()
                .map(|it| it.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        drop(Beside::write(&path, b"b").unwrap());
        assert_eq!(
            (fs::read(&path).unwrap(), names()),
            (b"a".into(), vec!["file".into()])
        );
        for (keep, byte) in [(true, b"b"), (false, b"c"), (true, b"d")] {
            let beside = Beside::write(&path, byte).unwrap();
            beside.take_place(keep).unwrap();
            assert_eq!(fs::read(&path).unwrap(), byte);
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o640);
        }
        assert_eq!(names(), ["file", "file.before"]);
        assert_eq!(fs::read(with(&path, ".before")).unwrap(), b"c");
    }
}
