//! The timeline: what happened, and why.

use serde::{Deserialize, Serialize};

use crate::model::Role;

/// One line of the timeline.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Event {
    /// Number, from 1.
    pub number: u64,
    /// When.
    pub unix_ms: u64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// A backend went up or down.
    Backend {
        /// `service/backend`.
        backend: String,
        /// The new verdict.
        up: bool,
        /// Why.
        reason: String,
    },
    /// Something that an operator should know.
    Note {
        /// One sentence.
        text: String,
    },
    /// The role changed.
    Transition {
        /// Before.
        from: Role,
        /// After.
        to: Role,
        /// The epoch after it.
        epoch: u64,
        /// Machine-readable cause.
        cause: Cause,
        /// One sentence.
        text: String,
        /// From the last sign of the peer's life to the decision, in milliseconds.
        detection_ms: Option<f64>,
        /// From the decision to the address held and announced, in milliseconds; filled in when
        /// that is done.
        takeover_ms: Option<f64>,
    },
}

/// Why a role changed.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// No master was heard since the start.
    Alone,
    /// The peer's heartbeats ran out.
    HeartbeatsLost,
    /// The session closed and the peer's kernel said that nobody listens.
    ProcessDied,
    /// The master resigned.
    Resigned,
    /// A planned switchover.
    Handover,
    /// A master goes on under a later epoch, since its peer has seen a later one than its own.
    EpochRaised,
    /// Higher priority, in sync again.
    Preempt,
    /// A master was heard.
    MasterHeard,
    /// Another master with a better claim was heard.
    Rival,
    /// The peer is master and cannot hear us.
    Unheard,
    /// This node did not run for too long.
    Paused,
    /// An interface or the kernel failed.
    Fault,
    /// The fault is over.
    Recovered,
    /// This node stops.
    Stop,
}

impl Cause {
    /// Every one.
    pub const ALL: [Self; 14] = [
        Self::Alone,
        Self::HeartbeatsLost,
        Self::ProcessDied,
        Self::Resigned,
        Self::Handover,
        Self::EpochRaised,
        Self::Preempt,
        Self::MasterHeard,
        Self::Rival,
        Self::Unheard,
        Self::Paused,
        Self::Fault,
        Self::Recovered,
        Self::Stop,
    ];

    /// As JSON, metrics and notifications name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::HeartbeatsLost => "heartbeats_lost",
            Self::ProcessDied => "process_died",
            Self::Resigned => "resigned",
            Self::Handover => "handover",
            Self::EpochRaised => "epoch_raised",
            Self::Preempt => "preempt",
            Self::MasterHeard => "master_heard",
            Self::Rival => "rival",
            Self::Unheard => "unheard",
            Self::Paused => "paused",
            Self::Fault => "fault",
            Self::Recovered => "recovered",
            Self::Stop => "stop",
        }
    }
}
