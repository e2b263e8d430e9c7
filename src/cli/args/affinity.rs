//! The arguments of `tandem affinity`.

use clap::{ArgGroup, Args, Subcommand};

use super::Control;

/// What is to be done with remembered clients.
#[derive(Debug, Subcommand)]
pub enum Affinity {
    /// List them. Works on either node.
    List(List),
    /// Forget them on both nodes. On the master.
    Clear(Clear),
}

/// Which.
#[derive(Args, Clone, Debug)]
pub struct Filter {
    /// Only those of this service.
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,

    /// Only those of the backends with this name.
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,

    /// Only the one with this key, as `list` shows it.
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
}

/// Arguments of `affinity list`.
#[derive(Args, Debug)]
pub struct List {
    /// Which.
    #[command(flatten)]
    pub filter: Filter,

    /// At most so many. Default: all.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,

    /// One JSON document instead of text.
    #[arg(long)]
    pub json: bool,

    /// Which node.
    #[command(flatten)]
    pub control: Control,
}

/// Arguments of `affinity clear`.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("which").required(true).multiple(true).args(["service", "backend", "key", "all"]))]
pub struct Clear {
    /// Which.
    #[command(flatten)]
    pub filter: Filter,

    /// All of them, of every service.
    #[arg(long, conflicts_with_all = ["service", "backend", "key"])]
    pub all: bool,

    /// One JSON document instead of text.
    #[arg(long)]
    pub json: bool,

    /// Which node.
    #[command(flatten)]
    pub control: Control,
}
