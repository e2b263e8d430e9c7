//! The key file: a line of 64 hexadecimal digits that both nodes share; more lines while it is being
//! replaced, and after (`keyring`).
//!
//! Owns: who may own the file, who may read it, what it looks like. Never: leaves a copy of the
//! key in memory that is not wiped.

mod keyring;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;
use zeroize::Zeroizing;

use crate::config::{ConfigError, Place};

pub use keyring::{Keyring, Turn, fresh};

/// Longest key file, in bytes.
pub const MAX_FILE: usize = 4 * 1024;
/// Hexadecimal digits of a key.
const DIGITS: usize = 64;
/// The user of the unit file.
pub const USER: &str = "tandem";
/// Permission bits of a new key file.
const MODE: u32 = 0o600;

/// Why a key file cannot be used or made.
#[derive(Debug, Error)]
#[error("{}: {fault}; {}", path.display(), self.remedy())]
pub struct KeyError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: KeyFault,
}

/// What can be wrong with a key file.
#[derive(Debug, Error)]
pub enum KeyFault {
    /// It cannot be opened or read.
    #[error("cannot be read ({0})")]
    Read(io::Error),
    /// It is a directory, a device, a pipe.
    #[error("is not a regular file")]
    NotAFile,
    /// Others than its owner have access.
    #[error("can be accessed by others than its owner (mode {0:04o})")]
    Exposed(u32),
    /// It belongs to someone else, who could change it.
    #[error("belongs to user {0}, not to root or to the user that runs this program")]
    Foreign(u32),
    /// It is longer than [`MAX_FILE`].
    #[error("is longer than {MAX_FILE} bytes")]
    TooLong,
    /// It does not hold a key, or something else besides.
    #[error("does not hold a line of {DIGITS} hexadecimal digits, and what may follow it")]
    Content,
    /// A new key would replace one that may be in use.
    #[error("exists already")]
    Exists,
    /// It cannot be made or written.
    #[error("cannot be written ({0})")]
    Write(io::Error),
}

impl KeyError {
    /// What the operator can do.
    pub fn remedy(&self) -> String {
        let path = self.path.display();
        match &self.fault {
            KeyFault::Read(error) if error.kind() == io::ErrorKind::NotFound => {
                format!("make it with `tandem keygen {path}` on one node and copy it to the other")
            }
            KeyFault::Read(_) => "make it readable for the user that runs this program".into(),
            KeyFault::NotAFile => "name a file that `tandem keygen` made".into(),
            KeyFault::Exposed(_) => format!("run `chmod 600 {path}`"),
            KeyFault::Foreign(_) => format!("run `chown root {path}`"),
            KeyFault::TooLong | KeyFault::Content => {
                "copy it again from the other node, or make a new one with `tandem keygen` \
                 for both"
                    .into()
            }
            KeyFault::Exists => "move it away first if both nodes are to get a new key".into(),
            KeyFault::Write(_) => "name a file in a directory that can be written to".into(),
        }
    }

    /// The same as a mistake at the place of the configuration that names the file.
    pub fn at(&self, place: Place) -> ConfigError {
        ConfigError {
            place,
            key: "cluster.key_file".into(),
            what: format!("{} {}", self.path.display(), self.fault),
            remedy: self.remedy(),
        }
    }
}

/// Reads the cluster's keys.
///
/// # Errors
///
/// The file is not there, is no regular file, does not belong to root or to the effective user,
/// gives others any access, or does not hold a key.
pub fn load(path: &Path) -> Result<Keyring, KeyError> {
    read(path).map_err(|fault| error(path, fault))
}

/// Makes a file with a new key, readable for its owner only.
///
/// # Errors
///
/// The file exists already, or it cannot be written.
pub fn generate(path: &Path) -> Result<(), KeyError> {
    write(path).map_err(|fault| error(path, fault))
}

fn error(path: &Path, fault: KeyFault) -> KeyError {
    KeyError {
        path: path.to_owned(),
        fault,
    }
}

fn read(path: &Path) -> Result<Keyring, KeyFault> {
    // Without O_NONBLOCK, opening a pipe waits for somebody to write to it (open(2)).
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(KeyFault::Read)?;
    let metadata = file.metadata().map_err(KeyFault::Read)?;
    if !metadata.is_file() {
        return Err(KeyFault::NotAFile);
    }
    if !trusted(metadata.uid()) {
        return Err(KeyFault::Foreign(metadata.uid()));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyFault::Exposed(mode));
    }
    let mut buffer = Zeroizing::new([0; MAX_FILE + 1]);
    let mut length = 0;
    loop {
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(KeyFault::Read(error)),
        }
    }
    match buffer.get(..length) {
        Some(content) if length <= MAX_FILE => Keyring::parse(content).ok_or(KeyFault::Content),
        _ => Err(KeyFault::TooLong),
    }
}

/// Who may own it. To root also the user that the packages run the program as: so that root can check
/// what that user is going to read.
fn trusted(owner: u32) -> bool {
    let me = nix::unistd::geteuid();
    let daemon = || nix::unistd::User::from_name(USER).ok().flatten();
    owner == 0
        || owner == me.as_raw()
        || (me.is_root() && daemon().is_some_and(|user| user.uid.as_raw() == owner))
}

fn write(path: &Path) -> Result<(), KeyFault> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(path)
        .map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => KeyFault::Exists,
            _ => KeyFault::Write(error),
        })?;
    fill(&mut file, path).map_err(|error| {
        // Half a key is worth nothing; that it cannot be removed is worth no second complaint.
        let _ = fs::remove_file(path);
        KeyFault::Write(error)
    })
}

/// Writes a new key, so that it is still there after a loss of power.
fn fill(file: &mut File, path: &Path) -> io::Result<()> {
    let ring = Keyring {
        first: fresh(),
        second: None,
        affinity: None,
    };
    // The umask may have taken bits away.
    file.set_permissions(fs::Permissions::from_mode(MODE))?;
    file.write_all(ring.text().as_bytes())?;
    file.sync_all()?;
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn file(directory: &tempfile::TempDir, content: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = directory.path().join("key");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_new_key_is_private_random_and_loads() {
        let directory = directory();
        let (one, other) = (directory.path().join("a"), directory.path().join("b"));
        generate(&one).unwrap();
        generate(&other).unwrap();
        assert_eq!(fs::metadata(&one).unwrap().mode() & 0o7777, 0o600);
        let (one, other) = (load(&one).unwrap(), load(&other).unwrap());
        assert_ne!(one.first.0, other.first.0);
        assert_ne!(one.first.0, [0; 32]);
    }

    #[test]
    fn an_existing_file_is_never_overwritten() {
        let directory = directory();
        let path = file(&directory, "precious", 0o600);
        let error = generate(&path).unwrap_err();
        assert!(matches!(error.fault, KeyFault::Exists), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path().join("nowhere"), &link).unwrap();
        let error = generate(&link).unwrap_err();
        assert!(matches!(error.fault, KeyFault::Exists), "{error}");
    }

    #[test]
    fn a_key_is_one_line_of_64_digits() {
        let key = "0123456789abcdefABCDEF0000000000000000000000000000000000000000ff";
        let good = [
            key.to_owned(),
            format!("{key}\n"),
            format!("# ours\n\n  {key}\r\n# end\n"),
        ];
        for content in good {
            let directory = directory();
            let ring = load(&file(&directory, &content, 0o400)).expect(&content);
            let secret = ring.first.clone();
            assert_eq!(secret.0[..3], [0x01, 0x23, 0x45]);
            assert_eq!(secret.0[8..11], [0xab, 0xcd, 0xef]);
            assert_eq!(secret.0[31], 0xff);
        }
        let bad = [
            String::new(),
            "# only words\n".to_owned(),
            key[1..].to_owned(),
            format!("{key}0"),
            format!("{key}\n{key}\n"),
            key.replace('a', "g"),
            key.replace('a', "é"),
        ];
        for content in bad {
            let directory = directory();
            let error = load(&file(&directory, &content, 0o600)).expect_err(&content);
            assert!(
                matches!(error.fault, KeyFault::Content),
                "{content}: {error}"
            );
        }
        let directory = directory();
        let endless = format!("{key}\n{}", "\n".repeat(MAX_FILE));
        let error = load(&file(&directory, endless, 0o600)).unwrap_err();
        assert!(matches!(error.fault, KeyFault::TooLong), "{error}");
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_cure() {
        let directory = directory();
        for mode in [0o640, 0o604, 0o620, 0o601] {
            let path = file(&directory, "", mode);
            let error = load(&path).unwrap_err();
            assert!(matches!(error.fault, KeyFault::Exposed(_)), "{error}");
            let cure = format!("mode {mode:04o}); run `chmod 600 {}`", path.display());
            assert!(error.to_string().ends_with(&cure), "{error}");
        }
    }

    #[test]
    fn a_strangers_key_is_refused() {
        let directory = directory();
        let path = file(&directory, "", 0o600);
        // Only root can give files away.
        if std::os::unix::fs::chown(&path, Some(12_345), None).is_ok() {
            let error = load(&path).unwrap_err();
            assert!(matches!(error.fault, KeyFault::Foreign(12_345)), "{error}");
        }
    }

    #[test]
    fn only_a_file_is_a_key_file() {
        let directory = directory();
        let error = load(directory.path()).unwrap_err();
        assert!(matches!(error.fault, KeyFault::NotAFile), "{error}");
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = load(&pipe).unwrap_err();
        assert!(matches!(error.fault, KeyFault::NotAFile), "{error}");
    }

    #[test]
    fn a_missing_key_is_a_mistake_at_its_place_in_the_configuration() {
        let place = Place {
            line: 3,
            column: 12,
        };
        let error = load(Path::new("/nowhere/key")).unwrap_err().at(place);
        let said = error.to_string();
        assert!(
            said.starts_with("3:12: cluster.key_file: /nowhere/key cannot be read (No such file"),
            "{said}"
        );
        assert!(said.contains("`tandem keygen /nowhere/key`"), "{said}");
    }
}
