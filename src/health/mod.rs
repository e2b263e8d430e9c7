//! Health of the backends: rise and fall, when to probe next, jitter, passive marking.
//!
//! Owns: the verdict on each backend, its counters, and the time of its next check. Never: opens a
//! socket (`probe` does), picks a backend (`balance` does), talks to the peer (`replication` does).
//!
//! Beside the verdict an agent may speak of a backend (`agent`); what it says holds until it says
//! something else. A backend that changes too often is held down (`flap`).
//!
//! # Evidence
//!
//! A check that is answered is one piece of evidence; a check that is never answered is none. A
//! client's connect that fails is one bad piece, each for itself, so that a burst of them takes a
//! backend down before its next check; it also hastens that check. A failure of kind `Other` is
//! none: it may be this node that lacks sockets or memory, and then every backend would seem dead.
//! Nor do clients take down the last backend of a pool that is up: where all fail at once, it is most
//! likely this node that is slow, and there is nobody who could serve instead. Its check, which is
//! hastened, has the last word.
//! With `observe = "first_byte"` a reset by the backend before its first byte is a bad piece, too, and
//! not the connect but the first byte is a good one; with `"nothing"` clients are no evidence.
//! A client's connect that succeeds ends a row of bad pieces, but only checks bring a backend up.
//!
//! A backend *without checks* falls after [`PASSIVE_FALL`] failed connects in a row. After
//! [`RETRY_AFTER`] it counts as up again on trial: one more failure takes it down again, one success
//! clears it.
//!
//! Before any evidence a backend counts as up, so that a node can serve as soon as it has started.
//!
//! Invariants: at most one check of a backend is in flight; an answer counts only if it carries the
//! token of that check; between two changes of a verdict lie `rise` good or `fall` bad pieces of
//! evidence in a row, except for the first verdict, for which one check is enough, and for a trial.

mod agent;
mod book;
mod entry;
mod flap;
pub mod probe;
mod rhythm;
mod verdict;

pub use book::HealthBook;
pub use entry::{HealthChange, PASSIVE_FALL, RETRY_AFTER, TELL_GAP};
