/* What the program and user space share: the maps' keys and values, and the names of things.
 * layout.rs says the same in Rust; its tests compare the two. */
#ifndef TANDEM_LAYOUT_H
#define TANDEM_LAYOUT_H

#include <linux/types.h>

/* IPv4 uses the first word of an address and leaves the rest zero. */
struct address {
    __be32 word[4];
};

/* A packet's sender and receiver, as seen on the wire before translation. */
struct flow_key {
    struct address src;
    struct address dst;
    __be16 sport;
    __be16 dport;
    __u32 family; /* 4 or 6 */
};

/* One direction of a flow: what becomes of a packet with this key. The other direction's key is
 * (to_dst, to_src) with their ports. */
struct flow {
    struct address to_src;
    struct address to_dst;
    __be16 to_sport;
    __be16 to_dport;
    __u32 service;     /* service.id */
    __u32 backend;     /* backend.id */
    __u32 ifindex;     /* where translated packets leave; 0: where they came in */
    __u32 client_isn;  /* both in host byte order */
    __u32 backend_isn; /* valid from FLOW_ANSWERED on */
    __u8 state;        /* enum state */
    __u8 flags;        /* FLOW_* */
    __u8 marks;        /* MARK_* */
    __u8 zero;
    __u32 mss;    /* as its service's */
    __u64 opened; /* coarse CLOCK_MONOTONIC, ns */
    __u64 seen;   /* the same clock: last packet of this direction */
    __u64 packets;
    __u64 bytes; /* from the IP header on */
    __u32 seq;   /* what its sender will send next, by its last packet; host byte order */
    __u32 ack;   /* what its sender acknowledged last */
};

enum state {
    STATE_OPENING = 1, /* the client's SYN went to the backend */
    STATE_ANSWERED,    /* the backend's SYN-ACK came */
    STATE_ESTABLISHED, /* the client's ACK went to the backend */
    STATE_CLOSING,     /* one side sent FIN */
    STATE_CLOSED,      /* both sent FIN, or one a RST that the other believes */
};

#define FLOW_CLIENT 1 /* the key is the client's; else the backend's */
#define FLOW_SYNC 2   /* user space sends the SYN-ACK, once the standby knows the flow */
#define FLOW_RETRY 4  /* a refusing backend is hidden from the client: user space tries another */
#define FLOW_DNAT 8   /* the client's address and port are kept */

#define MARK_CLIENT_FIN 1
#define MARK_BACKEND_FIN 2
#define MARK_CLIENT_RST 4
#define MARK_BACKEND_RST 8

/* Where a service listens; with port 0, one of our addresses. */
struct endpoint {
    struct address address;
    __be16 port;
    __u16 zero;
    __u32 family;
};

struct service {
    __u32 id;
    __u32 flags;     /* SERVICE_* */
    __u32 scheduler; /* enum scheduler */
    __u32 first;     /* its first slot */
    __u32 slots;     /* how many; 0: nobody serves */
    __u32 turn;      /* its counter in `turns` */
    __u32 seed;      /* of the hash */
    __u32 mss;       /* largest segment that fits all our links; larger ones announced are lowered
                        to it, as no ICMP error tells of links of ours; 0: as announced */
    __u32 source_rate; /* most flows that one source opens in a second; 0: no limit */
};

/* Whom a rate is for: an IPv4 address, or a /64 of IPv6, whose holder has all of its addresses. */
struct source {
    __be32 net[2]; /* IPv4 leaves the second zero */
    __u32 service; /* service.id */
    __u32 family;
};

/* SYNs of a source that would open a flow, within a second of the first. */
struct window {
    __u64 start; /* coarse CLOCK_MONOTONIC, ns */
    __u64 syns;
};

#define SERVICE_REJECT 1 /* tell user space of packets that deserve a RST */
#define SERVICE_SYNC 2
#define SERVICE_RETRY 4
#define SERVICE_DNAT 8

enum scheduler {
    SCHEDULER_ROUND_ROBIN = 0,
    SCHEDULER_RANDOM,
    SCHEDULER_SOURCE, /* hash of the client's address */
    SCHEDULER_TUPLE,  /* hash of the client's address and port */
};

#define NO_BACKEND 0xffffffff /* an empty slot */

struct backend {
    struct address address;
    struct address source; /* our address towards it; unused with SERVICE_DNAT */
    __be16 port;
    __u16 zero;
    __u32 id;
    __u32 ifindex; /* the device that leads to it; 0: the one the client came by */
    __u32 zero2;
};

/* An address of ours: a VIP of a service, or a source address towards backends. */
struct owned {
    __u32 flags; /* OWNED_* */
};

#define OWNED_SOURCE 1 /* ports of the range belong to flows */
#define OWNED_REJECT 2 /* tell user space of packets that match no flow */
#define OWNED_NAT 4    /* a service of ours or a source: TCP that cannot be translated is refused */
#define OWNED_VIP 8    /* all that comes for it is the master's: relayed by a node that is not */

#define FROZEN_ALL 1
#define FROZEN_OFFERED 2 /* the peer is about to lead: what is not decided is its own already */

/* What this node may do; times are CLOCK_MONOTONIC, ns. Each word is for itself: they are not
 * written in one step. */
struct right {
    __u64 until;  /* decide and forward until then */
    __u64 waits;  /* handshakes wait for the standby's word until then: no process hangs for so short */
    __u64 frozen; /* FROZEN_ALL, FROZEN_OFFERED: only the flows that are there */
    __u64 accept; /* as standby: until then, what the peer hands over is ours */
    __u64 second; /* as master: until then, the peer gets what belongs to no flow and no socket */
};

/* Where the two nodes are on an interface. */
struct neighbour {
    __u8 own[6];
    __u8 peer[6];
    __u32 zero;
};

/* The process that leads the program, as stat(2) of its /proc/self/ns/pid and getpid(2) say. */
struct life {
    __u64 dev;
    __u64 ino;
    __u32 pid;
    __u32 dead; /* its main thread has ended */
};

/* A neighbour that still sends a VIP's packets to this node, which is not master. */
struct stale {
    struct address vip;
    struct address sender; /* as key of `reminded`: zero */
    __u32 family;
    __u32 ifindex;
    __u8 mac[6];
    __u16 zero;
};

struct settings {
    __u16 range_first; /* ports of flows of both nodes, host byte order, inclusive */
    __u16 range_last;
    __u16 own_first; /* those of which this node takes */
    __u16 own_last;
};

enum event_kind {
    EVENT_OPENED = 1,  /* with the client's SYN */
    EVENT_ESTABLISHED, /* SYN-ACK seen: both ISNs are known; FLOW_SYNC: told each time, with it */
    EVENT_CLOSED,
    EVENT_REVIVED, /* the RST that closed it was not its sender's */
    EVENT_REFUSED, /* the backend refused: answer held, user space is to try another */
};

enum cause {
    CAUSE_NONE = 0,
    CAUSE_FIN,
    CAUSE_CLIENT_RST,
    CAUSE_BACKEND_RST,
    CAUSE_REPLACED,    /* a new SYN with the same ports */
    CAUSE_STALE_ACK,   /* the backend remembers an older connection */
};

struct event {
    __u32 kind;
    __u32 cause;
    struct flow_key key; /* the client's */
    struct flow flow;    /* the client's entry after the packet */
    __u64 back_packets;  /* what the other direction counted */
    __u64 back_bytes;
};

#define SYN_MAX 128

/* EVENT_OPENED with the SYN, and EVENT_ESTABLISHED of a flow with FLOW_SYNC with the SYN-ACK that
 * waits: from the IP header on, before translation. */
struct carried {
    struct event event;
    __u32 length;
    __u32 zero;
    __u8 packet[SYN_MAX];
};

/* A packet that deserves a RST, which user space may send. */
struct refusal {
    struct flow_key key;
    __u32 seq; /* host byte order */
    __u32 ack;
    __u32 length; /* sequence numbers it takes */
    __u16 reason; /* enum counter */
    __u8 flags;   /* TCP's */
    __u8 zero;
};

/* Everything that is counted, per CPU. */
enum counter {
    COUNT_TO_BACKEND = 0, /* translated and sent */
    COUNT_TO_CLIENT,
    COUNT_ICMP,       /* ICMP errors translated */
    COUNT_OPENED,     /* flows */
    COUNT_REPLACED,   /* flows that a new SYN ended */
    COUNT_RELAYED,    /* handed to the peer: this node is not master */
    COUNT_ACCEPTED,   /* served as standby: the master handed them over */
    COUNT_HANDED,     /* handed to the peer: nobody here knows the connection */
    COUNT_FROZEN,     /* translated for a process that is dead; also in COUNT_TO_* */
    COUNT_KICKED,     /* SYNs repeated for a process that is dead */
    COUNT_ARP,        /* questions for a VIP, kept from the kernel: user space answers, or nobody */
    DROP_LEASE,       /* this node may not forward now, and knows no peer that might */
    DROP_LOOP,        /* handed over by the peer, and not ours either */
    DROP_UNKNOWN,     /* to a service: no flow, and no SYN */
    DROP_STRAY,       /* to a source address: no flow */
    DROP_NO_BACKEND,  /* no backend for a SYN */
    DROP_NO_PORT,     /* every port tried was taken */
    DROP_TABLE_FULL,  /* no room for a flow */
    DROP_RACE,        /* two SYNs of one flow at once: the second */
    DROP_FRAGMENT,    /* fragments of TCP to an address of ours */
    DROP_MALFORMED,   /* no whole TCP header, impossible lengths */
    DROP_EXTENSION,   /* IPv6 extension headers that are refused */
    DROP_HOPS,        /* TTL or hop limit used up */
    DROP_HAIRPIN,     /* a backend would have to answer itself (SERVICE_DNAT) */
    DROP_BAD_SOURCE,  /* a SYN from an address no client can have */
    DROP_SOURCE_RATE, /* a SYN of a source that opened enough flows this second */
    DROP_HELD,        /* a backend's refusal, held for a retry; its answer to a SYN on old ports */
    DROP_WAITING,     /* a SYN-ACK, held until the standby knows the flow */
    DROP_WRITE,       /* the packet could not be changed */
    LOST_EVENT,       /* `events` was full: rescan `flows` */
    LOST_REFUSAL,     /* `refusals` was full */
    LOST_STALE,       /* `stales` was full */
    BYTES_TO_BACKEND, /* in the packets above, from the IP header on */
    BYTES_TO_CLIENT,
    COUNTERS,
};

#endif
