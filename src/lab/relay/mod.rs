//! `tandem lab --scenario kill9 --mode kernel` and the like: what clients notice when a node's
//! process dies, hangs, hands over or is replaced, under thousands of new connections a second, also
//! where nobody hears of the takeover.
//!
//! Owns: the order of a run, its figures and the goals. The connections and what they count are
//! those of `survive`. Never: judges what it did not measure; a figure that is over its goal says so.

mod faults;
mod figures;
mod goals;
mod plan;
mod report;
mod run;
mod switches;
mod wrk;

pub use self::figures::{OldEnds, Run};
pub use self::goals::Met;
pub use self::plan::{Fault, Plan, RATE};
pub use self::report::{Report, Series};
pub use self::switches::Switch;
pub use self::wrk::Wrk;

pub(super) use self::report::table;
