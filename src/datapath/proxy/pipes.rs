//! A pool of pipes, through which bytes go from socket to socket without being copied.
//!
//! Owns: this worker's pipes. Invariants: at most [`OPEN`] exist, at most [`KEPT`] of them idle; a
//! pipe in the pool is empty.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;

/// Bytes a pipe holds. Measured: 64 KiB costs twice the CPU, 1 MiB gains nothing.
pub(super) const PIPE_SIZE: usize = 256 << 10;
/// Pipes of one worker: 64 MiB of data that blocked receivers may tie up.
const OPEN: usize = 256;
/// Idle pipes that are kept.
const KEPT: usize = 64;
/// After the kernel refused a pipe, so many requests are declined without asking it.
const DECLINED: u32 = 256;

const FLAGS: SpliceFFlags = SpliceFFlags::SPLICE_F_MOVE.union(SpliceFFlags::SPLICE_F_NONBLOCK);

/// A pipe and how much is in it.
#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    filled: usize,
}

impl Pipe {
    /// `None` where the kernel gives no large pipe: no descriptor left (`EMFILE`), or more than
    /// `fs.pipe-user-pages-soft` for a user without `CAP_SYS_RESOURCE` (`EPERM`), pipe(7).
    fn open() -> Option<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).ok()?;
        fcntl(&write, FcntlArg::F_SETPIPE_SZ(PIPE_SIZE as i32)).ok()?;
        Some(Self {
            read,
            write,
            filled: 0,
        })
    }

    /// Takes what the socket has, as far as it fits; 0 is the end of the stream. The pipe must be
    /// empty: then "would block" can only mean the socket.
    pub(super) fn fill(&mut self, source: impl AsFd) -> io::Result<usize> {
        let got = splice(source, None, &self.write, None, PIPE_SIZE, FLAGS)?;
        self.filled += got;
        Ok(got)
    }

    /// Gives what the socket takes.
    pub(super) fn drain(&mut self, target: impl AsFd) -> io::Result<usize> {
        let gave = splice(&self.read, None, target, None, self.filled, FLAGS)?;
        self.filled -= gave;
        Ok(gave)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.filled == 0
    }
}

/// The pool.
#[derive(Debug)]
pub(super) struct Pipes {
    /// Most that may be open.
    limit: usize,
    idle: Vec<Pipe>,
    /// Idle or lent.
    open: usize,
    declining: u32,
    /// Times that a pipe was lent.
    lent: u64,
}

impl Pipes {
    pub(super) const fn new() -> Self {
        Self::limited_to(OPEN)
    }

    const fn limited_to(limit: usize) -> Self {
        Self {
            limit,
            idle: Vec::new(),
            open: 0,
            declining: 0,
            lent: 0,
        }
    }

    /// An empty pipe, if there is one to be had; else the caller copies.
    pub(super) fn lend(&mut self) -> Option<Pipe> {
        let pipe = self.idle.pop().or_else(|| self.another())?;
        self.lent += 1;
        Some(pipe)
    }

    fn another(&mut self) -> Option<Pipe> {
        if self.open >= self.limit {
            return None;
        }
        if self.declining > 0 {
            self.declining -= 1;
            return None;
        }
        let pipe = Pipe::open();
        match pipe {
            Some(_) => self.open += 1,
            None => self.declining = DECLINED,
        }
        pipe
    }

    /// Takes a pipe back. One with bytes in it is closed: its connection ended in disorder.
    pub(super) fn give_back(&mut self, pipe: Pipe) {
        if pipe.is_empty() && self.idle.len() < KEPT {
            self.idle.push(pipe);
        } else {
            self.open -= 1;
        }
    }

    /// Times that a pipe was lent.
    pub(super) const fn lent(&self) -> u64 {
        self.lent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_is_bounded_and_reuses() {
        let mut pipes = Pipes::limited_to(3);
        let lent: Vec<_> = std::iter::from_fn(|| pipes.lend()).collect();
        assert_eq!(lent.len(), 3);
        for pipe in lent {
            pipes.give_back(pipe);
        }
        assert_eq!((pipes.idle.len(), pipes.open), (3, 3));
        assert!(pipes.lend().is_some());
        assert_eq!((pipes.idle.len(), pipes.open), (2, 3));
    }

    #[test]
    fn a_pipe_with_bytes_in_it_is_not_lent_again() {
        let mut pipes = Pipes::new();
        let mut pipe = pipes.lend().unwrap();
        pipe.filled = 1;
        pipes.give_back(pipe);
        assert!(pipes.idle.is_empty());
        assert_eq!(pipes.open, 0);
    }

    #[test]
    fn a_pipe_has_its_size() {
        let pipe = Pipes::new().lend().unwrap();
        let size = fcntl(&pipe.read, FcntlArg::F_GETPIPE_SZ).unwrap();
        assert_eq!(size as usize, PIPE_SIZE);
    }
}
