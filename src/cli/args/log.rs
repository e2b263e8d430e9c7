//! Arguments about the node's log.

use clap::{Args, ValueEnum};

use super::Control;

/// The form of the log's lines.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// For people, and for journald.
    Text,
    /// One JSON object a line.
    Json,
}

/// Arguments of `log`.
#[derive(Args, Debug)]
pub struct Log {
    /// error, warn, info (default), debug or trace; or a list like
    /// `info,tandem::connection=off`.
    #[arg(value_name = "LEVEL")]
    pub level: String,

    /// Which node.
    #[command(flatten)]
    pub control: Control,
}
