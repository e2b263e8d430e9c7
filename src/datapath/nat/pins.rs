//! The BPF file system: what lets the program and its tables outlive a process.
//!
//! In the pins' directory, where `V` is the fingerprint of the layout and of the sizes, and `N` an
//! interface's index:
//!
//! | name | what |
//! |---|---|
//! | `vV-flows`, `vV-lease`, ... | the maps |
//! | `link-N` | the program's place at an interface (tcx) |
//! | `filter-N` | an empty directory: there is a filter of ours at that interface (clsact) |
//!
//! The directory itself is locked by `flock(2)`: the lock goes with the process, however that
//! ends, nobody without access to the directory can take it, and it holds in every network
//! namespace.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use aya::programs::TcAttachType;
use aya::programs::links::PinnedLink;
use aya::programs::tc::{TcError, qdisc_detach_program};
use nix::mount::{MsFlags, mount};
use nix::net::if_::if_indextoname;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use xxhash_rust::xxh3::Xxh3;

use super::error::NatError;
use super::program::{PROGRAM, Sizes};

/// Where the BPF file system belongs; the only place where it is mounted if it is missing.
const MOUNT: &str = "/sys/fs/bpf";
/// Only its owner may look into the directory.
const MODE: u32 = 0o700;
/// Raise this when the tables mean something else although their layout stays.
const EDITION: u8 = 1;

/// What was found of a former life.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Adopted {
    /// Its tables, with all that is in them.
    pub tables: bool,
    /// Places at interfaces where its program was, and now the new one is.
    pub links: usize,
    /// Tables of another layout or size, which were removed: names of their pins.
    pub discarded: Vec<String>,
}

/// A pins' directory that belongs to this process.
#[derive(Debug)]
pub(super) struct Pins {
    dir: PathBuf,
    layout: String,
    /// Locked as long as it is open.
    _lock: File,
}

/// What a name in the directory means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Map,
    Link(u32),
    Filter(u32),
}

fn kind(name: &str) -> Option<Kind> {
    if let Some(index) = name.strip_prefix("link-") {
        return index.parse().ok().map(Kind::Link);
    }
    if let Some(index) = name.strip_prefix("filter-") {
        return index.parse().ok().map(Kind::Filter);
    }
    let (version, map) = name.strip_prefix('v')?.split_once('-')?;
    let hex = version.bytes().all(|byte| byte.is_ascii_hexdigit());
    (version.len() == 8 && hex && !map.is_empty()).then_some(Kind::Map)
}

/// C without its comments, its white space reduced.
fn words(source: &str) -> String {
    let mut bare = String::new();
    let mut rest = source;
    while let Some((code, comment)) = rest.split_once("/*") {
        bare.push_str(code);
        rest = comment.split_once("*/").map_or("", |(_, after)| after);
    }
    bare.push_str(rest);
    bare.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Tables with this fingerprint fit; it stands in their names.
fn fingerprint(sources: &[&str], sizes: &Sizes) -> String {
    let mut hash = Xxh3::new();
    hash.update(&[EDITION]);
    for source in sources {
        hash.update(words(source).as_bytes());
    }
    let Sizes {
        flows,
        slots,
        backends,
        services,
        turns,
        events,
    } = *sizes;
    for size in [flows, slots, backends, services, turns, events] {
        hash.update(&size.to_le_bytes());
    }
    format!("v{:08x}", hash.digest() as u32)
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NatError {
    let path = path.to_owned();
    move |source| NatError::Pins {
        what,
        path,
        remedy: match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                "run this as root, or give the directory to the daemon's user (docs/operations.md)"
            }
            Some(libc::EROFS) => "list it in ReadWritePaths= of the unit",
            Some(libc::ENOTEMPTY) => "something else is in it; remove that",
            _ => "see that a BPF file system is mounted there (mount -t bpf bpf /sys/fs/bpf)",
        },
        source,
    }
}

/// The nearest part of a path that exists.
fn existing(path: &Path) -> &Path {
    let mut parts = path.ancestors();
    parts.find(|part| part.exists()).unwrap_or(path)
}

fn is_bpf(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

/// Makes the directory, and the file system if it is missing where it belongs.
fn make(dir: &Path) -> Result<(), NatError> {
    let what = "keep the program's pins in";
    if !is_bpf(existing(dir)) {
        if !dir.starts_with(MOUNT) {
            let wrong = io::Error::other("it is in no BPF file system");
            return Err(failed(what, dir)(wrong));
        }
        let flags = MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID;
        let mounted = mount(Some("bpf"), MOUNT, Some("bpf"), flags, Some("mode=0700"));
        mounted.map_err(|errno| {
            failed("mount a BPF file system at", Path::new(MOUNT))(errno.into())
        })?;
    }
    let made = DirBuilder::new().recursive(true).mode(MODE).create(dir);
    made.map_err(failed(what, dir))
}

/// Opens and locks the directory; nothing if it vanished meanwhile.
fn lock(dir: &Path) -> Result<Option<File>, NatError> {
    let what = "lock";
    let file = match File::open(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed(what, dir))?,
    };
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => return Err(NatError::InUse { dir: dir.into() }),
        Err(TryLockError::Error(error)) => return Err(failed(what, dir)(error)),
        Ok(()) => {}
    }
    // Its former holder may have removed it while we waited for nothing.
    let locked = file.metadata().map_err(failed(what, dir))?;
    let there = fs::metadata(dir)
        .is_ok_and(|found| (found.dev(), found.ino()) == (locked.dev(), locked.ino()));
    Ok(there.then_some(file))
}

/// Its name; none if there is no such interface, for which nix gives an empty one.
fn interface(index: u32) -> Option<String> {
    let name = if_indextoname(index).ok()?.into_string().ok()?;
    (!name.is_empty()).then_some(name)
}

impl Pins {
    /// Takes the directory, which is made if it is missing.
    pub(super) fn claim(dir: &Path, sizes: &Sizes) -> Result<Self, NatError> {
        let sources = [include_str!("bpf/layout.h"), include_str!("bpf/maps.h")];
        loop {
            make(dir)?;
            // Not there: somebody cleans up at this moment.
            if let Some(lock) = lock(dir)? {
                return Ok(Self {
                    dir: dir.to_owned(),
                    layout: fingerprint(&sources, sizes),
                    _lock: lock,
                });
            }
        }
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{}-{name}", self.layout))
    }

    pub(super) fn link(&self, index: u32) -> PathBuf {
        self.dir.join(format!("link-{index}"))
    }

    /// Says in the directory that there is a filter of ours.
    pub(super) fn note_filter(&self, index: u32) -> Result<(), NatError> {
        let path = self.dir.join(format!("filter-{index}"));
        match DirBuilder::new().mode(MODE).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made.map_err(failed("note a filter in", &path)),
        }
    }

    fn entries(&self) -> Result<Vec<(String, Kind)>, NatError> {
        let read = || -> io::Result<Vec<_>> {
            let mut found = Vec::new();
            for entry in fs::read_dir(&self.dir)? {
                if let Ok(name) = entry?.file_name().into_string()
                    && let Some(kind) = kind(&name)
                {
                    found.push((name, kind));
                }
            }
            found.sort_by(|(a, _), (b, _)| a.cmp(b));
            Ok(found)
        };
        read().map_err(failed("read", &self.dir))
    }

    /// Removes the pins of maps unless these are all there and fit. The names of the removed.
    pub(super) fn keep_fitting(&self, maps: &[&str]) -> Result<Vec<String>, NatError> {
        let whole = maps.iter().all(|name| self.map(name).exists());
        let mut removed = Vec::new();
        for (name, kind) in self.entries()? {
            let fits = whole && name.starts_with(&self.layout);
            if kind == Kind::Map && !fits {
                remove(&self.dir.join(&name))?;
                removed.push(name);
            }
        }
        Ok(removed)
    }

    pub(super) fn remove_maps(&self) -> Result<(), NatError> {
        self.keep_fitting(&["", "none"]).map(drop)
    }

    /// Indices of the interfaces where links are pinned.
    pub(super) fn links(&self) -> Result<Vec<u32>, NatError> {
        let links = self
            .entries()?
            .into_iter()
            .filter_map(|(_, kind)| match kind {
                Kind::Link(index) => Some(index),
                _ => None,
            });
        Ok(links.collect())
    }

    /// Takes our program off the interfaces that are not among these. What was removed.
    pub(super) fn detach_others(&self, keep: &[u32]) -> Result<Vec<String>, NatError> {
        let mut removed = Vec::new();
        for (name, kind) in self.entries()? {
            let path = self.dir.join(&name);
            match kind {
                Kind::Link(index) if !keep.contains(&index) => {
                    // Its last descriptor is closed after its pin is gone, so it ends here and now.
                    let link = PinnedLink::from_pin(&path);
                    remove(&path)?;
                    drop(link);
                    removed.push(at(index, "tcx"));
                }
                Kind::Filter(index) if !keep.contains(&index) => {
                    remove_filter(index)?;
                    let gone = fs::remove_dir(&path);
                    gone.map_err(failed("remove", &path))?;
                    removed.push(at(index, "clsact"));
                }
                _ => {}
            }
        }
        Ok(removed)
    }

    /// Removes everything of ours, and the directory. What was removed.
    pub(super) fn remove_all(self) -> Result<Vec<String>, NatError> {
        let mut removed = self.detach_others(&[])?;
        let maps = self.entries()?.len();
        self.remove_maps()?;
        if maps > 0 {
            removed.push(format!("{maps} tables"));
        }
        match fs::remove_dir(&self.dir) {
            Ok(()) => removed.push(format!("directory {}", self.dir.display())),
            // It is mounted, or its parent belongs to somebody else: whoever made it keeps it.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EBUSY | libc::EACCES | libc::EPERM | libc::EROFS)
                ) => {}
            Err(error) => return Err(failed("remove", &self.dir)(error)),
        }
        Ok(removed)
    }
}

fn at(index: u32, hook: &str) -> String {
    match interface(index) {
        Some(name) => format!("program at {name} ({hook})"),
        None => format!("program at interface {index}, which is gone ({hook})"),
    }
}

fn remove(path: &Path) -> Result<(), NatError> {
    fs::remove_file(path).map_err(failed("remove", path))
}

/// Removes our filter from an interface; no error if there is none.
fn remove_filter(index: u32) -> Result<(), NatError> {
    let Some(interface) = interface(index) else {
        return Ok(());
    };
    match qdisc_detach_program(&interface, TcAttachType::Ingress, PROGRAM) {
        // No such filter, or no queueing discipline that could have one.
        Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(TcError::NetlinkError(error))
            if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) =>
        {
            Ok(())
        }
        gone => gone.map_err(|error| super::error::attach_error(&interface, error.into())),
    }
}

/// Removes what a dead process left: the program from every interface, the tables, the directory.
/// What was removed; nothing if nothing was there.
///
/// # Errors
///
/// [`NatError::InUse`] while a process has the pins; what the kernel refused.
pub fn cleanup(dir: &Path) -> Result<Vec<String>, NatError> {
    match fs::symlink_metadata(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        found => found.map_err(failed("look at", dir))?,
    };
    if !is_bpf(dir) {
        let wrong = io::Error::other("it is in no BPF file system");
        return Err(failed("clean up", dir)(wrong));
    }
    let Some(lock) = lock(dir)? else {
        return Ok(Vec::new());
    };
    let pins = Pins {
        dir: dir.to_owned(),
        layout: String::new(),
        _lock: lock,
    };
    pins.remove_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_gone_has_no_name() {
        assert_eq!(interface(1).as_deref(), Some("lo"));
        assert_eq!(interface(u32::MAX), None);
    }

    #[test]
    fn names_are_ours_or_not() {
        let sizes = Sizes::default();
        let map = format!("{}-flows", fingerprint(&["int a;"], &sizes));
        assert_eq!(kind(&map), Some(Kind::Map));
        assert_eq!(kind("link-3"), Some(Kind::Link(3)));
        assert_eq!(kind("filter-12"), Some(Kind::Filter(12)));
        for other in [
            "link-",
            "link-eth0",
            "v1-flows",
            "v0123456g-flows",
            "v01234567",
            "v01234567-",
            "flows",
        ] {
            assert_eq!(kind(other), None, "{other}");
        }
    }

    #[test]
    fn the_fingerprint_follows_layout_and_sizes_but_no_comment() {
        let sizes = Sizes::default();
        let layout = fingerprint(&["struct a { int b; };"], &sizes);
        let commented = ["struct a { /* c */\n    int b; /* d\n * e */\n};\n/* f */"];
        assert_eq!(layout, fingerprint(&commented, &sizes));
        assert_ne!(layout, fingerprint(&["struct a { long b; };"], &sizes));
        let larger = Sizes {
            flows: sizes.flows + 1,
            ..sizes
        };
        assert_ne!(layout, fingerprint(&["struct a { int b; };"], &larger));
    }

    #[test]
    fn an_ordinary_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("pins");
        let text = Pins::claim(&inside, &Sizes::default())
            .unwrap_err()
            .to_string();
        assert!(text.contains("no BPF file system"), "{text}");
        assert!(!inside.exists());
        assert!(cleanup(dir.path()).is_err());
        assert_eq!(cleanup(&inside).unwrap(), Vec::<String>::new());
    }
}
