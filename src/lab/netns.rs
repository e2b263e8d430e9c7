//! The right to make network namespaces: as root, or through a user namespace.

use std::fs::{self, File};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{getegid, geteuid};

use super::error::LabError;

const TUN: &str = "/dev/net/tun";

/// How the lab came by its rights.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rights {
    /// The process had them.
    Root,
    /// The process is root in a user namespace of its own.
    UserNamespace,
}

/// Leaves the host's network for an empty one and makes sure that more can be made.
///
/// Root also leaves the host's mounts: what the lab mounts is seen by nobody else, and goes with
/// its last process.
///
/// Call this first thing in `main`: `unshare(2)` refuses a user namespace to a process that has
/// threads, and nothing that follows shall be able to touch the host's network.
///
/// # Errors
///
/// [`LabError::NotAllowed`] if the host allows neither way, or no TUN device.
pub fn enter() -> Result<Rights, LabError> {
    let rights = match unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS) {
        Ok(()) => {
            own_mounts().map_err(|errno| refused("mounts of the lab's own", errno))?;
            Rights::Root
        }
        Err(Errno::EPERM) => {
            user_namespace()?;
            Rights::UserNamespace
        }
        Err(errno) => return Err(refused("a network namespace", errno)),
    };
    match File::options().read(true).write(true).open(TUN) {
        Ok(_) => Ok(rights),
        Err(error) => Err(LabError::NotAllowed {
            why: format!("cannot open {TUN}, which carries the floating address: {error}"),
        }),
    }
}

/// From now on nothing that is mounted here shows elsewhere (mount_namespaces(7)).
fn own_mounts() -> Result<(), Errno> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
}

/// The lab holds both ends of its connections, and a node that it starts inherits the limit. What
/// is not allowed shows when they are opened.
pub(super) fn allow_descriptors(wanted: u64) {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < wanted
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard);
    }
}

fn user_namespace() -> Result<(), LabError> {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)
        .map_err(|errno| refused("a user namespace", errno))?;
    // A group map may be written only after `setgroups` was given up (user_namespaces(7)).
    let maps = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {uid} 1")),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
    ];
    for (file, text) in maps {
        fs::write(file, text).map_err(|error| LabError::NotAllowed {
            why: format!("cannot write {file}: {error}"),
        })?;
    }
    Ok(())
}

fn refused(what: &str, errno: Errno) -> LabError {
    LabError::NotAllowed {
        why: format!("this host does not allow {what}: {}", errno.desc()),
    }
}
