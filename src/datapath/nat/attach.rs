//! The program's places at interfaces.

use std::collections::BTreeSet;
use std::mem;

use aya::programs::links::{FdLink, Link, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::{LinkOrder, ProgramError, TcAttachType};
use nix::net::if_::if_nametoindex;

use super::error::{NatError, attach_error, program_error, taken};
use super::program::Nat;

/// The filter's place where tcx is missing: ahead of others', and easy to recognise.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0x7a, 0x7a);

/// Where the kernel calls the program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hook {
    /// Linux 6.6 and later. Ends with its link.
    Tcx,
    /// The classic way. Outlives a process that is killed.
    Clsact,
}

impl Hook {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// One place.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) interface: String,
    pub(super) index: u32,
    pub(super) hook: Hook,
    /// Taken when it is let go.
    link: Option<SchedClassifierLink>,
    /// Stays when this is dropped.
    pinned: bool,
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Some(link) = self.link.take()
            && self.pinned
            && self.hook == Hook::Clsact
        {
            // Dropping it would remove the filter, which has no pin to stay by.
            mem::forget(link);
        }
    }
}

fn index(interface: &str) -> Result<u32, NatError> {
    let index = if_nametoindex(interface);
    index.map_err(|errno| attach_error(interface, TcError::IoError(errno.into()).into()))
}

impl Nat {
    /// Has the kernel call the program for what comes in by this interface: by tcx, or where the
    /// kernel has none, by a filter of a clsact queueing discipline. No more if it does already.
    ///
    /// # Errors
    ///
    /// [`NatError::Attach`].
    pub fn attach(&mut self, interface: &str) -> Result<Hook, NatError> {
        match self.attach_by(interface, Hook::Tcx) {
            Err(NatError::Attach { source, .. })
                if matches!(source.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) =>
            {
                self.attach_by(interface, Hook::Clsact)
            }
            attached => attached,
        }
    }

    /// [`attach`](Self::attach) in this way and no other.
    ///
    /// # Errors
    ///
    /// [`NatError::Attach`].
    pub fn attach_by(&mut self, interface: &str, hook: Hook) -> Result<Hook, NatError> {
        let index = index(interface)?;
        let here = |at: &&mut Attached| at.index == index && at.hook == hook;
        if let Some(at) = self.attached.iter_mut().find(here) {
            interface.clone_into(&mut at.interface);
            return Ok(hook);
        }
        let options = match hook {
            Hook::Tcx => TcAttachOptions::TcxOrder(LinkOrder::first()),
            Hook::Clsact => {
                if let Err(error) = qdisc_add_clsact(interface)
                    && !taken(&error)
                {
                    return Err(attach_error(interface, error.into()));
                }
                if let Some(pins) = &self.pins {
                    pins.note_filter(index)?;
                }
                TcAttachOptions::Netlink(NlOptions {
                    priority: PRIORITY,
                    handle: HANDLE,
                    classid: None,
                })
            }
        };
        let program = self.program()?;
        let attached = program.attach_with_options(interface, TcAttachType::Ingress, options);
        let attached = match attached {
            // A life before this one was killed: its filter is replaced in one step.
            Err(ProgramError::TcError(error)) if taken(&error) => {
                let ingress = TcAttachType::Ingress;
                SchedClassifierLink::attached(interface, ingress, PRIORITY, HANDLE, None)
                    .map_err(|error| ProgramError::TcError(TcError::IoError(error)))
                    .and_then(|stale| program.attach_to_link(stale))
            }
            attached => attached,
        };
        let link = attached
            .and_then(|id| program.take_link(id))
            .map_err(|error| attach_error(interface, error))?;
        let link = match (&self.pins, hook) {
            (Some(pins), Hook::Tcx) => {
                let pinned = FdLink::try_from(link)
                    .map_err(|error| error.to_string())
                    .and_then(|link| {
                        link.pin(pins.link(index))
                            .map_err(|error| error.to_string())
                    })
                    .and_then(|link| {
                        let link = SchedClassifierLink::try_from(FdLink::from(link));
                        link.map_err(|error| error.to_string())
                    });
                pinned.map_err(|reason| NatError::Other {
                    what: "pin the program's place",
                    reason: format!("{interface}: {reason}"),
                })?
            }
            _ => link,
        };
        self.attached.push(Attached {
            interface: interface.to_owned(),
            index,
            hook,
            link: Some(link),
            pinned: self.pins.is_some(),
        });
        Ok(hook)
    }

    /// Puts the program in the place of the one that a former life left, at every interface,
    /// without a moment in which there is none. How many.
    pub(super) fn adopt_links(&mut self) -> Result<usize, NatError> {
        let Some(pins) = &self.pins else { return Ok(0) };
        let found: Vec<_> = pins
            .links()?
            .into_iter()
            .map(|n| (n, pins.link(n)))
            .collect();
        for (index, path) in found {
            let link = PinnedLink::from_pin(&path)
                .and_then(|link| SchedClassifierLink::try_from(FdLink::from(link)))
                .map_err(|error| error.to_string());
            let adopted = link.and_then(|link| {
                let program = self.program().map_err(|error| error.to_string())?;
                let id = program.attach_to_link(link);
                id.and_then(|id| program.take_link(id))
                    .map_err(|error| program_error("replace the program", error).to_string())
            });
            match adopted {
                Ok(link) => self.attached.push(Attached {
                    interface: String::new(),
                    index,
                    hook: Hook::Tcx,
                    link: Some(link),
                    pinned: true,
                }),
                // Its interface is gone.
                Err(reason) => {
                    tracing::info!("the program's place {} is void: {reason}", path.display());
                    if let Err(error) = std::fs::remove_file(&path) {
                        tracing::warn!("cannot remove {}: {error}", path.display());
                    }
                }
            }
        }
        Ok(self.attached.len())
    }

    /// Has the program at exactly these interfaces.
    ///
    /// # Errors
    ///
    /// The first interface where it cannot be, or from which it cannot be taken.
    pub fn attach_only(&mut self, interfaces: &BTreeSet<&str>) -> Result<(), NatError> {
        for interface in interfaces {
            self.attach(interface)?;
        }
        let mut wanted = Vec::new();
        for interface in interfaces {
            wanted.push(index(interface)?);
        }
        for at in mem::take(&mut self.attached) {
            if wanted.contains(&at.index) {
                self.attached.push(at);
            } else if self.pins.is_none() {
                let_go(at)?;
            }
        }
        if let Some(pins) = &self.pins {
            for removed in pins.detach_others(&wanted)? {
                tracing::info!("removed the {removed}, which is not configured any more");
            }
        }
        Ok(())
    }

    /// Where the program is: interface and hook.
    pub fn places(&self) -> impl Iterator<Item = (&str, Hook)> {
        self.attached
            .iter()
            .map(|at| (at.interface.as_str(), at.hook))
    }

    /// Takes the program off every interface.
    ///
    /// # Errors
    ///
    /// The first interface that did not let it go; the others are done nevertheless.
    pub fn detach(&mut self) -> Result<(), NatError> {
        let mut first = Ok(());
        let attached = mem::take(&mut self.attached);
        if let Some(pins) = &self.pins {
            drop(attached);
            return pins.detach_others(&[]).map(drop);
        }
        for at in attached {
            let gone = let_go(at);
            first = first.and(gone);
        }
        first
    }
}

fn let_go(mut at: Attached) -> Result<(), NatError> {
    let Some(link) = at.link.take() else {
        return Ok(());
    };
    let detached = link.detach();
    detached.map_err(|error| attach_error(&at.interface, error))
}
