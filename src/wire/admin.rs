//! Requests and responses of the control socket: one JSON object a line, each way.

use std::fmt;
use std::net::SocketAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config;
use crate::model::FlowId;
use crate::status::{Event, Mode, Status};
use crate::wire::replication::{AdminState, NatKey};

/// Longest line accepted, in bytes.
pub const MAX_LINE: usize = 64 * 1024;
/// Connections in one answer at most. With the longest names they take 700 KiB.
pub const MAX_PAGE: usize = 1_000;

/// What an operator asks.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Everything there is to know. Answer: `Status`.
    Status,
    /// The timeline, newest last. Answer: `Events`.
    Events,
    /// Planned switchover; accepted on either node. Answer: `Done` once the switchover began.
    Failover,
    /// Live connections, a page at a time; on the backup those that it knows by replication, and of
    /// proxied ones those that it drains, while it does.
    /// Answer: `Flows`.
    Flows(FlowQuery),
    /// Remembered clients, a page at a time; on either node. Answer: `Sticks`.
    Sticks(StickQuery),
    /// Forgets those of a page; on the master, which tells its peer. Answer: `Sticks`, without a list.
    ForgetSticks(StickQuery),
    /// What the node writes to its log from now on, until it ends. Answer: `Done`.
    Log {
        /// `error`, `warn`, `info`, `debug`, `trace`, or a list of directives of `tracing-subscriber`.
        level: String,
    },
    /// Drain or enable a backend; on the master. Answer: `Done`.
    Backend {
        /// Name of the service.
        service: String,
        /// Name of the backend.
        backend: String,
        /// What shall hold.
        state: AdminState,
    },
    /// Give the configuration's file to the peer, and go by it on both nodes. Answer: `Pushed`.
    Push {
        /// Change nothing; tell only whether both could.
        dry_run: bool,
    },
    /// Read the configuration's file again. Answer: `Reloaded`.
    Reload {
        /// Change nothing; tell only what would be different.
        dry_run: bool,
    },
    /// Another cluster key, on both nodes. Answer: `Done`.
    Rotate,
    /// Change who is behind a service, at run time; on the master. Answer: `Done`.
    Roster {
        /// Name of the service.
        service: String,
        /// Name of the backend.
        backend: String,
        /// How.
        change: Change,
    },
}

/// A change of a backend at run time. It is kept over restarts and known to both nodes.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// It comes, with its pool's settings.
    Add {
        /// Where it listens.
        address: SocketAddr,
        /// Its share; none: 1.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        weight: Option<u16>,
        /// Name of its pool; none: the service's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pool: Option<String>,
        /// Connections at once, in proxy mode.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_connections: Option<u32>,
        /// It gets connections only while no other backend of its pool serves.
        #[serde(default)]
        backup: bool,
    },
    /// It goes: no new connections, and once it has none it is forgotten.
    Remove {
        /// Connections that are left after so long are reset.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cut_after_ms: Option<u64>,
    },
    /// What operators said of it is taken back: it is as the file and the sources say.
    Reset,
    /// Whether it gets new connections.
    State {
        /// What shall hold.
        state: AdminState,
        /// With another state than `enabled`: connections that are left after so long are reset.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cut_after_ms: Option<u64>,
    },
    /// Its share.
    Weight {
        /// 1 to 256.
        weight: u16,
    },
}

/// What the node answers.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "response", rename_all = "snake_case")]
pub enum Response {
    /// It is done, or has begun.
    Done {
        /// One sentence for the operator.
        message: String,
    },
    /// It was refused; nothing changed.
    Error {
        /// What is wrong and what to do instead.
        message: String,
    },
    /// The timeline.
    Events {
        /// Oldest first.
        events: Vec<Event>,
    },
    /// A page of live connections.
    Flows {
        /// How many matched since the cursor of the question, also if they were only counted.
        matching: u64,
        /// Proxied ones first. Each group has a fixed order.
        flows: Vec<FlowStatus>,
        /// Where to go on; none: that was all.
        next: Option<FlowCursor>,
    },
    /// What became of a push.
    Pushed {
        /// All of it.
        pushed: Pushed,
    },
    /// What became of a reload.
    Reloaded {
        /// All of it.
        reloaded: Reloaded,
    },
    /// A page of remembered clients.
    Sticks {
        /// How many matched since the cursor of the question.
        matching: u64,
        /// In a fixed order.
        clients: Vec<Remembered>,
        /// Where to go on; none: that was all.
        next: Option<String>,
    },
    /// The read model.
    Status {
        /// All of it.
        status: Box<Status>,
    },
}

/// What became of a push: both nodes go by the file, or none.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Pushed {
    /// On this node.
    pub here: Reloaded,
    /// The peer has it.
    pub taken: bool,
    /// Why the peer could not take it.
    pub fault: Option<String>,
}

/// What became of a reload: all of it is done, or nothing.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Reloaded {
    /// The file holds now.
    pub applied: bool,
    /// It was only asked for.
    pub dry_run: bool,
    /// Some change needs a restart, so nothing was changed.
    pub refused: bool,
    /// Why the file cannot be used, with places in it; none: it can.
    pub mistakes: Option<String>,
    /// What is different in the file, or was; those that need a restart first.
    pub changes: Vec<config::Change>,
    /// Changes that are not in the list, since it is long.
    pub more: u64,
    /// Fingerprint of the configuration that holds.
    pub hash: String,
}

/// Which connections; what is left out does not matter.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlowQuery {
    /// Name of their service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Name of their backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Network of their clients: `192.0.2.0/24`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<IpNet>,
    /// What carries them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Go on behind this one: `next` of the answer before. It may have ended meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<FlowCursor>,
    /// Most connections in the answer, up to [`MAX_PAGE`] (and the default); 0: count them only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Which remembered clients; what is left out does not matter.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct StickQuery {
    /// Name of their service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Name of their backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Only this one: 16 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Go on behind this one: `next` of the answer before, a word without meaning for others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Most clients in the answer, up to [`MAX_PAGE`] (and the default).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// A client that is remembered.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Remembered {
    /// A keyed hash of what it is recognised by: 16 hexadecimal digits.
    pub key: String,
    /// Name of the service.
    pub service: String,
    /// Name of the backend.
    pub backend: String,
    /// Time since it was used, as far as the node was told: an eighth of `ttl` more or less.
    pub age_ms: u64,
}

/// A place in the order of all connections. For others than the node it is a word without meaning.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(into = "String", try_from = "String")]
pub enum FlowCursor {
    /// Behind this connection of the kernel mode.
    Kernel(NatKey),
    /// Behind this proxied connection.
    Proxy(FlowId),
}

impl fmt::Display for FlowCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(key) => write!(f, "kernel {} {}", key.client, key.service),
            // As text, since JSON's numbers are often read as 53 bits.
            Self::Proxy(flow) => write!(f, "proxy {:016x}", flow.0),
        }
    }
}

impl From<FlowCursor> for String {
    fn from(cursor: FlowCursor) -> Self {
        cursor.to_string()
    }
}

impl TryFrom<String> for FlowCursor {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let words: Vec<&str> = text.splitn(4, ' ').collect();
        let cursor = match *words.as_slice() {
            ["proxy", flow] => u64::from_str_radix(flow, 16)
                .ok()
                .map(|flow| Self::Proxy(FlowId(flow))),
            ["kernel", client, service] => client
                .parse()
                .and_then(|client| Ok((client, service.parse()?)))
                .ok()
                .map(|(client, service)| Self::Kernel(NatKey { client, service })),
            _ => None,
        };
        cursor.ok_or("no cursor; take `next` of the answer before as it is")
    }
}

/// A live connection.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct FlowStatus {
    /// What carries it.
    pub mode: Mode,
    /// The client.
    pub client: SocketAddr,
    /// Where it connected to; none: a proxied service with several addresses of its IP version.
    pub listen: Option<SocketAddr>,
    /// Name of the service.
    pub service: String,
    /// Name of the backend.
    pub backend: String,
    /// Where the backend is; none: the configuration does not know it any more.
    pub target: Option<SocketAddr>,
    /// The sender that the backend sees; none: proxied.
    pub source: Option<SocketAddr>,
    /// How far it is.
    pub state: FlowState,
    /// When it began, by the master's clock.
    pub since_unix_ms: u64,
    /// How long ago that was, by this node's clock.
    pub age_ms: u64,
    /// Bytes from client to backend; on the backup a little behind. In kernel mode: those that
    /// this node has forwarded, IP headers included; none: it does not know.
    pub up: Option<u64>,
    /// Bytes from backend to client.
    pub down: Option<u64>,
}

/// How far a connection is, as far as its node knows.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowState {
    /// The backend has answered.
    Established,
    /// The backend has not answered yet.
    Opening,
}

impl FlowState {
    /// Lower-case name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::Opening => "opening",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_a_word_that_is_read_back() {
        let key = |client: &str, service: &str| NatKey {
            client: client.parse().unwrap(),
            service: service.parse().unwrap(),
        };
        for (cursor, text) in [
            (
                FlowCursor::Proxy(FlowId(0xffff_0000_0000_0001)),
                "\"proxy ffff000000000001\"",
            ),
            (
                FlowCursor::Kernel(key("203.0.113.9:40000", "192.0.2.100:80")),
                "\"kernel 203.0.113.9:40000 192.0.2.100:80\"",
            ),
            (
                FlowCursor::Kernel(key("[2001:db8::9]:1", "[2001:db8::100]:80")),
                "\"kernel [2001:db8::9]:1 [2001:db8::100]:80\"",
            ),
        ] {
            assert_eq!(serde_json::to_string(&cursor).unwrap(), text);
            assert_eq!(serde_json::from_str::<FlowCursor>(text).unwrap(), cursor);
        }
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        for bad in [
            "",
            "proxy",
            "proxy x",
            "proxy 1 2",
            "proxy 10000000000000000",
            "kernel 192.0.2.1:1",
            "kernel 192.0.2.1 192.0.2.100:80",
            "kernel 192.0.2.1:1 192.0.2.100:80 x",
            "kernel  192.0.2.100:80",
        ] {
            assert!(FlowCursor::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_question_says_only_what_matters() {
        let all = Request::Flows(FlowQuery::default());
        let text = "{\"request\":\"flows\"}";
        assert_eq!(serde_json::to_string(&all).unwrap(), text);
        assert_eq!(serde_json::from_str::<Request>(text).unwrap(), all);
        for bad in [
            "{\"request\":\"flows\",\"colour\":1}",
            "{\"request\":\"flows\",\"client\":\"192.0.2\"}",
            "{\"request\":\"flows\",\"limit\":-1}",
            "{\"request\":\"flows\",\"mode\":\"fast\"}",
            "{\"request\":\"flows\",\"after\":7}",
        ] {
            assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
        }
    }
}
