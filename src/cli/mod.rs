//! The command line: an entrance that talks to a node as any client would.

pub mod render;
