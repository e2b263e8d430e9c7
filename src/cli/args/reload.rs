//! The command line of `tandem reload`. No logic.

use clap::Args;

use super::Control;

/// Arguments of `reload`.
#[derive(Args, Debug)]
pub struct Reload {
    /// Change nothing; show what would be different, and what needs a restart.
    #[arg(long)]
    pub dry_run: bool,

    /// One JSON document instead of text.
    #[arg(long)]
    pub json: bool,

    /// Which node.
    #[command(flatten)]
    pub control: Control,
}
