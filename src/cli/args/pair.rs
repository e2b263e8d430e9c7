//! The command line of what concerns the files of both nodes. No logic.

use clap::Subcommand;

use super::{Query, Reload};

/// Commands about the configuration of both nodes.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Give this node's file to the peer, which checks it, and then go by it on both.
    #[command(after_help = "\
The file is checked on both nodes before anything is changed. The peer keeps what
it had beside it, as tandem.toml.before. Where one cannot take it, nothing is
changed on either. The daemon's user must be allowed to write the directory.

Exit codes: 1 a node cannot take it, 64 the file has mistakes.

Example:
  tandem config push --dry-run
  tandem config push")]
    Push(Reload),
}

/// Commands about the cluster key.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Put a new key in the place of the cluster key, on both nodes, while they run.
    #[command(after_help = "\
In three steps, each of which leaves a pair that understands itself: both nodes
take heartbeats of either key, then seal with the new one, then forget the old
one. Should it end in between, do it again. Takes about 2 seconds. The daemon's
user must be allowed to write the key's directory.

Example:
  tandem key rotate")]
    Rotate(Query),
}
