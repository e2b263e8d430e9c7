//! What a node is told and what it wants. Both are plain data, so that a run can be written down.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::balance::flow::FlowEvent;
use crate::balance::nat::{NatCommand, NatReport};
use crate::balance::{Found, Stick};
use crate::config::Config;
use crate::health::probe::{ProbeRequest, ProbeResult};
use crate::model::{BackendId, Epoch, PathId};
use crate::status::Event;
use crate::vip::kernel::{KernelCommand, KernelReport};
use crate::wire::admin::{Request, Response};
use crate::wire::parcel::Parcel;
use crate::wire::replication::{Frame, Hello, Item};

/// Something happened.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub enum Input {
    /// An operator asks; answered by a `Reply` with the same ticket.
    Admin {
        /// To be returned.
        ticket: u64,
        /// What.
        request: Request,
    },
    /// The file's configuration is another one, in nothing that needs a restart (`Config::difference`).
    #[serde(skip)]
    Configure(Arc<Config>),
    /// A datagram came on the heartbeat port, from the peer's address. Still sealed.
    Datagram {
        /// The path.
        path: PathId,
        /// Everything in it.
        bytes: Vec<u8>,
    },
    /// Connections began, moved and ended.
    Flows(Vec<FlowEvent>),
    /// A source found backends.
    #[serde(skip)]
    Found(Found),
    /// The kernel adapter reports.
    Kernel(KernelReport),
    /// Connections of the kernel mode began, moved and ended.
    Nat(NatReport),
    /// Something that operators are to find in the timeline.
    Note {
        /// One sentence.
        text: String,
    },
    /// For the peer's daemon, by the session; where there is none, or no room, it is dropped.
    Parcel(Parcel),
    /// The peer's kernel says that nobody listens on its heartbeat port (ICMP port unreachable,
    /// `ECONNREFUSED` on the connected socket). Not authenticated.
    PortClosed {
        /// The path.
        path: PathId,
    },
    /// A check was answered.
    Probe(ProbeResult),
    /// At the start: what the disk has of what operators said (`Item::Said`).
    Recall(Vec<Item>),
    /// Whether the relay works here: this node hands to its peer what belongs there. It does not
    /// until this is said.
    Relaying(bool),
    /// The session ended.
    SessionClosed {
        /// The peer sent something that it must not (a fault, counted), else an ordinary end.
        fault: bool,
        /// Why, for the log.
        reason: String,
    },
    /// A frame came on the session.
    SessionFrame(Frame),
    /// So many of the frames that were to be sent have been written to the stream. Not told before
    /// they are `SESSION_CREDIT`.
    SessionSent {
        /// How many.
        frames: u32,
    },
    /// The session stands; this is what the peer said first.
    SessionUp(Hello),
    /// Stop in order: hand over, release, let the proxied connections end if that is possible, then
    /// say `Stopped`. A second one ends those connections at once.
    Stop,
}

/// Something is wanted. Drained to the end after each input.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub enum Output {
    /// Close the session; a new one is dialled.
    CloseSession {
        /// Why, for the log.
        reason: String,
    },
    /// This configuration holds. Routes for its backends are published in the same turn.
    #[serde(skip)]
    Configure(Arc<Config>),
    /// Send a datagram. When the socket is full it is dropped and counted.
    Datagram {
        /// The path.
        path: PathId,
        /// Everything in it, sealed.
        bytes: Vec<u8>,
    },
    /// Reset every proxied connection: before the addresses go, or when it has had its time.
    DropFlows {
        /// The mastership that ends.
        epoch: Epoch,
    },
    /// For the log. Also in `Node::events`.
    Event(Event),
    /// To the disk: all that operators said (`Item::Said`), to be recalled at the next start. Latest wins.
    Keep(Vec<Item>),
    /// To the kernel adapter.
    Kernel(KernelCommand),
    /// To the kernel mode's data path. `Lead` and `Yield` are also what grants and takes its lease.
    Nat(NatCommand),
    /// From the peer's daemon.
    Parcel(Parcel),
    /// Probe a backend.
    Probe(ProbeRequest),
    /// Let new connections go to these backends only. Latest wins.
    PublishRoutes {
        /// Those that are up and not drained.
        eligible: BTreeSet<BackendId>,
        /// Weights that are not as configured.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        weights: BTreeMap<BackendId, u16>,
    },
    /// Reset the proxied connections of this backend: it was judged down.
    ResetBackend {
        /// Which.
        backend: BackendId,
    },
    /// Answer an operator.
    Reply {
        /// From the request.
        ticket: u64,
        /// What.
        response: Response,
    },
    /// Send a frame on the session.
    SendFrame(Frame),
    /// The data path is to remember these clients, or to forget them.
    Sticks(Vec<Stick>),
    /// Everything is given back; the process may end.
    Stopped,
}
