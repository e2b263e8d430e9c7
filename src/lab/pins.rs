//! The file system on which the nodes of the kernel mode pin their programs and maps.
//!
//! A `bpf` file system of the lab's own: what is pinned on it goes when it is unmounted, and its
//! mount goes with the lab's last process, also when the lab is killed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Directory of the mount, in the lab's directory.
const NAME: &str = "pins";

/// A mounted file system. Unmounted when dropped.
#[derive(Debug)]
pub(super) struct Pins(PathBuf);

impl Pins {
    /// Mounts it in the lab's directory.
    pub(super) fn mount(dir: &Path) -> io::Result<Self> {
        let at = dir.join(NAME);
        fs::create_dir(&at)?;
        mount(
            Some("bpf"),
            &at,
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )?;
        Ok(Self(at))
    }

    /// A node's directory.
    pub(super) fn of(&self, node: &str) -> PathBuf {
        self.0.join(node)
    }

    /// Forgets what a node has pinned, as its machine would when its power goes.
    pub(super) fn forget(&self, node: &str) -> io::Result<()> {
        match fs::remove_dir_all(self.of(node)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}
