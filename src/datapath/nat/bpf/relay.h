/* What this node may do with a packet, and the way to the other one.
 *
 * A node that is not master decides nothing: what comes for a VIP goes on to the peer, at layer 2.
 * What came from the peer never goes back, so that each packet is handed over once at most; but for
 * the moment in which a master has offered the mastership and the peer has not begun. */
#ifndef TANDEM_RELAY_H
#define TANDEM_RELAY_H

#include "maps.h"
#include "packet.h"

/* Flows of a process that is dead are forwarded for so long after its lease. Its peer knows them
 * too, and will use their ports again one day. */
#define FROZEN 60000000000ULL
/* Those of a process that hangs: it is dead, or has taken back what it may not do any more, long before. */
#define HUNG 1000000000ULL
#define REMINDER 1000000000ULL /* between two records of one stale neighbour */
#define TCP_LISTEN 10
#define CURRENT_NETNS (-1L)
#define ARP_REQUEST 1
#define PACKET_OTHERHOST 3

enum leave {
    MAY_NOTHING,
    MAY_FORWARD, /* what is decided already: the flows that are there */
    MAY_DECIDE,
};

struct stand {
    const struct neighbour *at; /* none: no peer is known on this link, or it does not matter */
    __u64 now;
    __u8 leave;     /* enum leave */
    __u8 alive;     /* the process that leads the program */
    __u8 waits;     /* and it has turned lately: handshakes wait for it */
    __u8 from_peer; /* the packet was handed over */
    __u8 accepted;  /* and by that alone we may decide */
    __u8 offered;   /* the peer is about to lead, and accepts */
    __u8 second;    /* the peer may know what nobody here does */
};

INLINE int is_alive(void) {
    __u32 zero = 0;
    struct life *process = map_lookup(&life, &zero);
    if (!process || process->dead) return 0;
    void *sock = map_lookup(&pulse, &zero);
    if (!sock) return 0;
    sk_release(sock);
    return 1;
}

INLINE int sent_by(struct __sk_buff *ctx, const __u8 *mac) {
    struct {
        __u16 to[3], from[3];
    } ends;
    const __u16 *half = (const __u16 *)mac;
    if (GET(ctx, 0, &ends)) return 0;
    return !((ends.from[0] ^ half[0]) | (ends.from[1] ^ half[1]) | (ends.from[2] ^ half[2]));
}

INLINE void find_peer(struct __sk_buff *ctx, struct stand *s) {
    __u32 ifindex = ctx->ifindex;
    s->at = map_lookup(&neighbours, &ifindex);
    s->from_peer = s->at && sent_by(ctx, s->at->peer);
}

INLINE void look(struct __sk_buff *ctx, __u64 now, struct stand *s) {
    __u32 zero = 0;
    struct right *right = map_lookup(&lease, &zero);
    s->now = now;
    s->alive = is_alive();
    int holds = right && now < right->until;
    s->waits = s->alive && right && now < right->waits;
    if (s->alive && holds && !right->frozen) {
        s->leave = MAY_DECIDE;
        /* A master has nothing to do with its peer otherwise: it is not looked for. */
        int second = now < right->second;
        if (s->waits && !second) return;
        find_peer(ctx, s);
        s->second = second && s->at && !s->from_peer;
        return;
    }
    find_peer(ctx, s);
    if (!right) return;
    /* A process that turns takes a lease back before it ends. */
    __u64 longer = s->alive ? HUNG : FROZEN;
    int lately = holds || (right->until && now < right->until + longer);
    if (s->alive && s->from_peer && now < right->accept) {
        s->leave = MAY_DECIDE;
        s->accepted = 1;
        count(COUNT_ACCEPTED);
    } else if (lately) {
        s->leave = MAY_FORWARD;
        s->offered = s->alive && holds && right->frozen == FROZEN_OFFERED;
    }
}

/* Tells user space whom to tell where the VIP lives; a dead one cannot. */
INLINE void remember(struct __sk_buff *ctx, const struct packet *p, const struct stand *s) {
    if (!s->alive) return;
    struct stale key = {.vip = p->key.dst, .family = p->key.family, .ifindex = ctx->ifindex};
    struct {
        __u8 to[6], from[6];
    } ends;
    if (GET(ctx, 0, &ends)) return;
    __builtin_memcpy(key.mac, ends.from, sizeof(key.mac));
    __u64 *last = map_lookup(&reminded, &key);
    if (last && s->now - *last < REMINDER) return;
    map_update(&reminded, &key, &s->now, BPF_ANY);
    struct stale *stale = ring_reserve(&stales, sizeof(*stale), 0);
    if (!stale) {
        count(LOST_STALE);
        return;
    }
    *stale = key;
    stale->sender = p->key.src;
    ring_submit(stale, BPF_RB_NO_WAKEUP);
}

/* On to the peer, or nowhere. */
INLINE int hand(struct __sk_buff *ctx, const struct stand *s, __u32 counter) {
    struct {
        __u8 to[6], from[6];
    } ends;
    if (!s->at) return drop(DROP_LEASE);
    if (s->from_peer && !s->offered) return drop(DROP_LOOP);
    __builtin_memcpy(ends.to, s->at->peer, sizeof(ends.to));
    __builtin_memcpy(ends.from, s->at->own, sizeof(ends.from));
    if (PUT(ctx, 0, &ends)) return drop(DROP_WRITE);
    count(counter);
    return redirect(ctx->ifindex, 0);
}

/* What is not ours now. */
APART int relay(struct __sk_buff *ctx, const struct packet *p, const struct stand *s) {
    if (s->at && !s->from_peer) remember(ctx, p, s);
    return hand(ctx, s, COUNT_RELAYED);
}

/* Whether a connection of this host has it. */
APART int has_socket(struct __sk_buff *ctx, const struct packet *p) {
    struct bpf_sock_tuple tuple = {};
    struct bpf_sock *sock;
    if (p->key.family == 4) {
        tuple.ipv4.saddr = p->key.src.word[0];
        tuple.ipv4.daddr = p->key.dst.word[0];
        tuple.ipv4.sport = p->key.sport;
        tuple.ipv4.dport = p->key.dport;
        sock = skc_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv4), CURRENT_NETNS, 0);
    } else {
        __builtin_memcpy(tuple.ipv6.saddr, &p->key.src, sizeof(tuple.ipv6.saddr));
        __builtin_memcpy(tuple.ipv6.daddr, &p->key.dst, sizeof(tuple.ipv6.daddr));
        tuple.ipv6.sport = p->key.sport;
        tuple.ipv6.dport = p->key.dport;
        sock = skc_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv6), CURRENT_NETNS, 0);
    }
    if (!sock) return 0;
    int connection = sock->state != TCP_LISTEN;
    sk_release(sock);
    return connection;
}

/* For a VIP, and the local stack's affair on the node that has it. */
INLINE int local(struct __sk_buff *ctx, const struct packet *p, const struct stand *s, int tcp) {
    if (s->leave == MAY_DECIDE) {
        if (tcp && s->second && !bare_syn(p->flags) && !has_socket(ctx, p))
            return hand(ctx, s, COUNT_HANDED);
        return TC_ACT_UNSPEC;
    }
    /* A connection that began here goes on here: a switchover leaves it the time to end. */
    if (tcp && s->alive && has_socket(ctx, p)) return TC_ACT_UNSPEC;
    return relay(ctx, p, s);
}

/* The kernel would answer for a VIP, which is on the device of both nodes. It does not look at
 * questions to other hosts; packet sockets do, and user space answers on the master. */
APART int arp(struct __sk_buff *ctx) {
    struct {
        __be16 hardware, protocol;
        __u8 lengths[2];
        __be16 operation;
        __u8 sender[6];
        __be16 sender_ip[2];
        __u8 target[6];
        __be16 target_ip[2];
    } packet;
    struct endpoint asked = {.family = 4};
    if (GET(ctx, L3, &packet) || packet.operation != BE16(ARP_REQUEST)) return TC_ACT_UNSPEC;
    asked.address.word[0] = packet.target_ip[0] | (__u32)packet.target_ip[1] << 16;
    struct owned *owned = map_lookup(&addresses, &asked);
    if (!owned || !(owned->flags & OWNED_VIP)) return TC_ACT_UNSPEC;
    count(COUNT_ARP);
    return change_type(ctx, PACKET_OTHERHOST) ? drop(DROP_WRITE) : TC_ACT_UNSPEC;
}

#endif
