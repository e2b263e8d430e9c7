//! How connections ended that nobody wanted to end, one by one: what a fault did to each.

use std::io::{self, ErrorKind};

use crate::lab::Failure;
use crate::time::Mono;

/// Ends, and lost attempts, that are kept of one window; the tallies count all.
pub(super) const KEPT: usize = 16 * 1024;

/// What its client saw of a connection's end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::lab) enum How {
    /// A reset.
    Reset,
    /// The other half was closed in order: what was cut looks complete.
    Fin,
    /// Nothing for too long, or bytes that nobody sent.
    Other,
}

impl How {
    pub(super) fn of(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionReset => Self::Reset,
            // Linux says "broken pipe" where a FIN came before the reset (tcp_reset).
            ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe => Self::Fin,
            _ => Self::Other,
        }
    }
}

/// The end of a connection that should have stayed.
#[derive(Clone, Copy, Debug)]
pub(in crate::lab) struct End {
    pub(in crate::lab) how: How,
    pub(in crate::lab) at: Mono,
}

/// A new connection that failed, before its handshake or after it, or whose handshake was late.
#[derive(Clone, Copy, Debug)]
pub(in crate::lab) struct Trouble {
    pub(in crate::lab) began: Mono,
    pub(in crate::lab) ended: Mono,
    /// None: it was only late.
    pub(in crate::lab) failure: Option<Failure>,
    /// The client's; none: it never stood.
    pub(in crate::lab) port: Option<u16>,
}

/// What one window has of them.
#[derive(Clone, Debug, Default)]
pub(in crate::lab) struct Ends {
    pub(in crate::lab) of_staying: Vec<End>,
    pub(in crate::lab) of_new: Vec<Trouble>,
}

impl Ends {
    pub(super) fn stayed(&mut self, end: End) {
        if self.of_staying.len() < KEPT {
            self.of_staying.push(end);
        }
    }

    pub(super) fn new_one(&mut self, trouble: Trouble) {
        if self.of_new.len() < KEPT {
            self.of_new.push(trouble);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fin_is_told_from_a_reset() {
        let how = |kind: ErrorKind| How::of(&kind.into());
        assert_eq!(how(ErrorKind::ConnectionReset), How::Reset);
        assert_eq!(how(ErrorKind::UnexpectedEof), How::Fin);
        assert_eq!(how(ErrorKind::BrokenPipe), How::Fin);
        assert_eq!(how(ErrorKind::TimedOut), How::Other);
        assert_eq!(how(ErrorKind::InvalidData), How::Other);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut ends = Ends::default();
        let (began, ended) = (Mono::ZERO, Mono::ZERO);
        for _ in 0..=KEPT {
            ends.new_one(Trouble {
                began,
                ended,
                failure: None,
                port: None,
            });
        }
        assert_eq!(ends.of_new.len(), KEPT);
    }
}
