//! Names of what the program counts, tells and keeps; `bpf/layout.h` has the same in C.

/// An enum that C has as well: its values begin at `$first`, its names follow `$prefix` there.
macro_rules! shared_enum {
    ($(#[$doc:meta])* $name:ident: $repr:ident from $first:literal {
        $($(#[$vdoc:meta])* $variant:ident = $c:literal,)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[repr($repr)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)*
        }

        impl $name {
            /// All, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// Their names in `layout.h`, same order.
            pub const NAMES: &'static [&'static str] = &[$($c,)*];

            /// As the maps have it.
            pub const fn number(self) -> $repr {
                self as $repr + $first
            }

            /// The one with this number.
            pub fn from_number(number: $repr) -> Option<Self> {
                let at = number.checked_sub($first)?;
                Self::ALL.get(at as usize).copied()
            }
        }
    };
}

shared_enum! {
    /// How far a flow is.
    State: u8 from 1 {
        /// The client's SYN went to the backend.
        Opening = "STATE_OPENING",
        /// The backend's SYN-ACK came; it went to the client, or waits for the standby.
        Answered = "STATE_ANSWERED",
        /// The client's ACK went to the backend.
        Established = "STATE_ESTABLISHED",
        /// One side sent FIN.
        Closing = "STATE_CLOSING",
        /// Both sent FIN, or one a RST that the other believes.
        Closed = "STATE_CLOSED",
    }
}

impl State {
    /// Lower-case name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Answered => "answered",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Closed => "closed",
        }
    }
}

shared_enum! {
    /// How a slot is chosen.
    Scheduler: u32 from 0 {
        /// One after the other.
        RoundRobin = "SCHEDULER_ROUND_ROBIN",
        /// Any.
        Random = "SCHEDULER_RANDOM",
        /// By the client's address.
        Source = "SCHEDULER_SOURCE",
        /// By the client's address and port.
        Tuple = "SCHEDULER_TUPLE",
    }
}

shared_enum! {
    /// What happened to a flow.
    EventKind: u32 from 1 {
        /// It began; the record is a [`Carried`](super::layout::Carried).
        Opened = "EVENT_OPENED",
        /// The backend answered: both initial sequence numbers are known. With
        /// [`FLOW_SYNC`](super::layout::FLOW_SYNC) the record is a
        /// [`Carried`](super::layout::Carried), and a further SYN-ACK is told again. Without: or the
        /// client has a SYN-ACK that came by way of another node.
        Established = "EVENT_ESTABLISHED",
        /// It ended.
        Closed = "EVENT_CLOSED",
        /// It did not end: the RST was not its sender's.
        Revived = "EVENT_REVIVED",
        /// The backend refused; the client has not been told.
        Refused = "EVENT_REFUSED",
    }
}

shared_enum! {
    /// Why.
    Cause: u32 from 0 {
        /// Nothing to say.
        None = "CAUSE_NONE",
        /// Both ends closed.
        Fin = "CAUSE_FIN",
        /// A RST from the client.
        ClientRst = "CAUSE_CLIENT_RST",
        /// A RST from the backend.
        BackendRst = "CAUSE_BACKEND_RST",
        /// A new SYN with the same ports.
        Replaced = "CAUSE_REPLACED",
        /// The backend remembers an older connection.
        StaleAck = "CAUSE_STALE_ACK",
    }
}

shared_enum! {
    /// Everything that the program counts. The index in `counters`.
    Counter: u32 from 0 {
        /// Packets translated and sent to backends.
        ToBackend = "COUNT_TO_BACKEND",
        /// Packets translated and sent to clients.
        ToClient = "COUNT_TO_CLIENT",
        /// ICMP errors translated.
        Icmp = "COUNT_ICMP",
        /// Flows begun.
        Opened = "COUNT_OPENED",
        /// Flows that a new SYN ended.
        Replaced = "COUNT_REPLACED",
        /// Packets handed to the peer: this node is not master.
        Relayed = "COUNT_RELAYED",
        /// Packets served as standby, since the master handed them over.
        Accepted = "COUNT_ACCEPTED",
        /// Packets handed to the peer: nobody here knows their connection.
        Handed = "COUNT_HANDED",
        /// Packets translated for a process that is dead.
        Frozen = "COUNT_FROZEN",
        /// SYNs repeated for a process that is dead.
        Kicked = "COUNT_KICKED",
        /// Questions for a VIP, kept from the kernel: user space answers, or nobody.
        Arp = "COUNT_ARP",
        /// Dropped: this node may not forward now, and knows no peer that might.
        Lease = "DROP_LEASE",
        /// Dropped: handed over by the peer, and not ours either.
        Loop = "DROP_LOOP",
        /// Dropped: to a service, no flow, and no SYN.
        Unknown = "DROP_UNKNOWN",
        /// Dropped: to a source address, no flow.
        Stray = "DROP_STRAY",
        /// Dropped: no backend for a SYN.
        NoBackend = "DROP_NO_BACKEND",
        /// Dropped: every port tried was taken.
        NoPort = "DROP_NO_PORT",
        /// Dropped: no room for a flow.
        TableFull = "DROP_TABLE_FULL",
        /// Dropped: the second of two SYNs of one flow at once.
        Race = "DROP_RACE",
        /// Dropped: a fragment of TCP to an address of ours.
        Fragment = "DROP_FRAGMENT",
        /// Dropped: no whole TCP header, or impossible lengths.
        Malformed = "DROP_MALFORMED",
        /// Dropped: IPv6 extension headers that are refused.
        Extension = "DROP_EXTENSION",
        /// Dropped: TTL or hop limit used up.
        Hops = "DROP_HOPS",
        /// Dropped: a backend would have to answer itself.
        Hairpin = "DROP_HAIRPIN",
        /// Dropped: a SYN from an address that no client has.
        BadSource = "DROP_BAD_SOURCE",
        /// Dropped: a SYN of a source that opened enough flows this second.
        SourceRate = "DROP_SOURCE_RATE",
        /// A backend's refusal, held for a retry; its answer to a SYN on old ports.
        Held = "DROP_HELD",
        /// A SYN-ACK, held until the standby knows the flow.
        Waiting = "DROP_WAITING",
        /// Dropped: the packet could not be changed.
        Write = "DROP_WRITE",
        /// An event was lost: the flow map must be read again.
        LostEvent = "LOST_EVENT",
        /// A refusal was lost.
        LostRefusal = "LOST_REFUSAL",
        /// A record of a stale neighbour was lost.
        LostStale = "LOST_STALE",
        /// Bytes of the packets sent to backends, IP headers included.
        BytesToBackend = "BYTES_TO_BACKEND",
        /// Bytes of the packets sent to clients.
        BytesToClient = "BYTES_TO_CLIENT",
    }
}
