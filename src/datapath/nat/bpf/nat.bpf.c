/* Tandem's kernel mode: full NAT of TCP at TC ingress.
 *
 * A client's packet to a service goes on to a backend, from an address and port of ours; a
 * backend's answer goes back to the client, from the service's address. Whatever belongs to a
 * service or to a flow is translated or dropped, and counted; it never reaches the local stack.
 * On a node that is not master all that comes for a VIP goes on to the master (relay.h).
 * Everything else passes untouched.
 *
 * A packet with a VLAN tag passes: it comes again, untagged, on the VLAN's own device. */
#include <linux/pkt_cls.h>

#include "offsets.h"
#include "relay.h"
#include "sign.h"
#include "state.h"
#include "translate.h"

#define TRIES 16
#define PACKET_HOST 0
#define SECOND 1000000000ULL

/* The kernel lends some helpers to GPL compatible programs only. */
const char licence[] SEC("license") = "Dual MIT/GPL";

INLINE struct owned *owner(const struct address *address, __u32 family) {
    struct endpoint endpoint = {.address = *address, .family = family};
    return map_lookup(&addresses, &endpoint);
}

/* TCP that cannot be translated: refused if it is for us, else not ours. */
ONCE int strange(struct __sk_buff *ctx, const struct packet *p, __u32 reason) {
    if (!p) return TC_ACT_SHOT;
    struct owned *owned = owner(&p->key.dst, p->key.family);
    if (!owned) return TC_ACT_UNSPEC;
    struct stand s = {};
    look(ctx, coarse_clock(), &s);
    if (s.leave != MAY_DECIDE && owned->flags & OWNED_VIP) return relay(ctx, p, &s);
    return owned->flags & OWNED_NAT ? drop(reason) : TC_ACT_UNSPEC;
}

/* What is not TCP. */
ONCE int other(struct __sk_buff *ctx, const struct packet *p) {
    if (!p) return TC_ACT_SHOT;
    struct owned *owned = p->key.family ? owner(&p->key.dst, p->key.family) : 0;
    if (!owned || !(owned->flags & OWNED_VIP)) return TC_ACT_UNSPEC;
    struct stand s = {};
    look(ctx, coarse_clock(), &s);
    return local(ctx, p, &s, 0);
}

/* Addresses that no client has: ours, and those that mean no single host. */
INLINE int bad_source(const struct flow_key *key) {
    const struct address *src = &key->src;
    __u32 first = BE32(src->word[0]);
    if (key->family == 4) {
        __u32 net = first >> 24;
        if (net == 0 || net == 127 || net >= 224) return 1;
    } else {
        if (first >> 24 == 0xff) return 1;
        if (!src->word[0] && !src->word[1] && !src->word[2] && BE32(src->word[3]) < 2) return 1;
    }
    return !!owner(src, key->family);
}

/* Whether this source opened enough flows this second. */
INLINE int too_fast(const struct flow_key *key, const struct service *service, __u64 now) {
    if (!service->source_rate) return 0;
    struct source source = {
        .net = {key->src.word[0], key->src.word[1]},
        .service = service->id,
        .family = key->family,
    };
    struct window *window = map_lookup(&sources, &source);
    if (!window) {
        struct window first = {.start = now, .syns = 1};
        map_update(&sources, &source, &first, BPF_ANY);
        return 0;
    }
    if (now - window->start >= SECOND) {
        window->start = now;
        window->syns = 0;
    }
    return __sync_fetch_and_add(&window->syns, 1) >= service->source_rate;
}

INLINE __u32 mixed(__u32 hash, __u32 word) {
    hash = (hash ^ word) * 0x9e3779b1;
    return hash ^ hash >> 15;
}

INLINE __u32 hashed(const struct flow_key *key, const struct service *service) {
    __u32 hash = service->seed;
#pragma unroll
    for (int i = 0; i < 4; i++) hash = mixed(hash, BE32(key->src.word[i]));
    if (service->scheduler == SCHEDULER_TUPLE) hash = mixed(hash, BE16(key->sport));
    return mixed(hash, 0);
}

/* The index of a backend, or NO_BACKEND. */
INLINE __u32 pick(const struct flow_key *key, const struct service *service) {
    if (!service->slots) return NO_BACKEND;
    __u64 number = 0;
    if (service->scheduler == SCHEDULER_ROUND_ROBIN) {
        __u32 turn = service->turn;
        __u64 *count = map_lookup(&turns, &turn);
        if (count) number = __sync_fetch_and_add(count, 1);
    } else if (service->scheduler == SCHEDULER_RANDOM) {
        number = prandom();
    } else {
        number = hashed(key, service);
    }
    __u32 slot = service->first + number % service->slots;
    __u32 *index = map_lookup(&slots, &slot);
    return index ? *index : NO_BACKEND;
}

/* Makes the backend's entry; writes the port it took into both. 0, or a reason to drop. */
INLINE __u32 allocate(struct flow *to, struct flow_key *back_key, struct flow *back, __u32 index) {
    if (to->flags & FLOW_DNAT)
        return map_update(&flows, back_key, back, BPF_NOEXIST) ? DROP_NO_PORT : 0;
    __u32 zero = 0;
    struct settings *range = map_lookup(&settings, &zero);
    __u64 *rounds = map_lookup(&ports, &index);
    if (!range || !rounds || range->own_last < range->own_first) return DROP_NO_PORT;
    __u32 first = range->own_first, span = range->own_last - first + 1;
    /* Ports that are taken stand in runs. The golden ratio leads out of one, and never soon back. */
    __u32 leap = span * 2531 >> 12;
    for (int i = 0; i < TRIES; i++) {
        __u16 port = first + __sync_fetch_and_add(rounds, 1) % span;
        back_key->dport = BE16(port);
        int failed = map_update(&flows, back_key, back, BPF_NOEXIST);
        if (!failed) {
            to->to_sport = back_key->dport;
            return 0;
        }
        if (failed != -17 /* EEXIST */) return DROP_TABLE_FULL;
        __sync_fetch_and_add(rounds, leap);
    }
    return DROP_NO_PORT;
}

/* For user space's successors: a process that dies leaves handshakes behind that wait for it. */
INLINE void note_opened(const struct flow_key *key) {
    __u32 zero = 0;
    __u64 *count = map_lookup(&opened, &zero);
    if (!count) return;
    __u32 place = __sync_fetch_and_add(count, 1) & (RECENT - 1);
    map_update(&recent, &place, key, BPF_ANY);
}

/* A SYN to a service, and no flow: makes one. 0, or a reason to drop. */
APART __u32 open(struct __sk_buff *ctx, const struct packet *p, const struct service *service,
                  const struct stand *s) {
    __u64 now = s->now;
    /* Who is not master has no standby that could know of it first. */
    int sync = service->flags & SERVICE_SYNC && !s->accepted;
    if (bad_source(&p->key)) return DROP_BAD_SOURCE;
    if (too_fast(&p->key, service, now)) return DROP_SOURCE_RATE;
    __u32 index = pick(&p->key, service);
    struct backend *backend = map_lookup(&backends, &index);
    if (!backend || !backend->port) return DROP_NO_BACKEND;
    int dnat = service->flags & SERVICE_DNAT;
    __u32 zero = 0;
    struct begun *both = map_lookup(&begun, &zero);
    if (!both) return DROP_WRITE;
    struct flow *to = &both->to, *back = &both->back;
    __builtin_memset(to, 0, sizeof(*to));
    to->to_src = dnat ? p->key.src : backend->source;
    to->to_dst = backend->address;
    to->to_sport = p->key.sport;
    to->to_dport = backend->port;
    to->service = service->id;
    to->backend = backend->id;
    to->ifindex = backend->ifindex;
    to->client_isn = p->seq;
    to->seq = p->seq + taken(p);
    to->mss = service->mss;
    to->state = STATE_OPENING;
    to->flags = (dnat ? FLOW_DNAT : 0) | (sync ? FLOW_SYNC : 0) |
                 (service->flags & SERVICE_RETRY ? FLOW_RETRY : 0);
    to->opened = now;
    to->seen = now;
    if (dnat && same(&to->to_src, &to->to_dst)) return DROP_HAIRPIN;
    struct flow_key key = opposite(to, p->key.family);
    *back = *to;
    back->to_src = p->key.dst;
    back->to_dst = p->key.src;
    back->to_sport = p->key.dport;
    back->to_dport = p->key.sport;
    back->ifindex = ctx->ifindex;
    back->seq = 0;
    to->flags |= FLOW_CLIENT;
    __u32 refused = allocate(to, &key, back, index);
    if (refused) return refused;
    key = p->key;
    int failed = map_update(&flows, &key, to, BPF_NOEXIST);
    if (failed) {
        key = opposite(to, p->key.family);
        map_delete(&flows, &key);
        return failed == -17 ? DROP_RACE : DROP_TABLE_FULL;
    }
    count(COUNT_OPENED);
    if (sync) note_opened(&key);
    carry(ctx, p, EVENT_OPENED, &p->key, to, 0);
    return 0;
}

INLINE void touch(struct flow *f, const struct packet *p, __u64 now) {
    if (f->seen != now) f->seen = now;
    f->packets += 1;
    f->bytes += p->end - L3;
    /* Whoever sends a RST may be somebody else, and nothing follows it. */
    if (p->flags & TCP_RST) return;
    f->seq = p->seq + taken(p);
    if (p->flags & TCP_ACK) f->ack = p->ack;
}

/* Follows what the packet says. Why it stays here, or 0. */
INLINE __u32 hold(struct __sk_buff *ctx, const struct packet *p, struct flow *f,
                  const struct stand *s) {
    struct flow_key other = opposite(f, p->key.family);
    struct flow *pair = map_lookup(&flows, &other);
    int client = f->flags & FLOW_CLIENT;
    /* Half a flow (user space is adding or removing it) is forwarded and not followed. */
    if (!pair) return 0;
    struct flow *front = client ? f : pair, *back = client ? pair : f;
    struct step step = {};
    follow(front, back, p, client, &step);
    back->state = front->state;
    back->marks = front->marks;
    back->backend_isn = front->backend_isn;
    back->client_isn = front->client_isn;
    back->opened = front->opened;
    const struct flow_key *key = client ? &p->key : &other;
    if (step.carry)
        carry(ctx, p, step.event, key, front, back);
    else if (step.event)
        tell(step.event, step.cause, key, front, back);
    /* Nobody would send it soon, or try another backend. */
    if (!s->waits && step.held == DROP_WAITING) return 0;
    if (!s->alive && step.event == EVENT_REFUSED) return 0;
    return step.held;
}

APART int forward(struct __sk_buff *ctx, const struct packet *p, struct flow *f,
                   const struct stand *s) {
    if (p->hops < 2) return drop(DROP_HOPS);
    touch(f, p, s->now);
    if (f->state != STATE_ESTABLISHED || p->flags & (TCP_SYN | TCP_FIN | TCP_RST)) {
        __u32 reason = hold(ctx, p, f, s);
        if (reason) return drop(reason);
    }
    if (!s->alive) count(COUNT_FROZEN);
    return translate_tcp(ctx, p, f);
}

/* A new SYN on old ports, of a connection that is over or never was: it makes room. Told in any
 * case: there may be no room for the new flow, and then nobody else says that the old one is gone. */
INLINE void replace(const struct packet *p, struct flow *f) {
    struct flow_key key = opposite(f, p->key.family);
    struct flow *back = map_lookup(&flows, &key);
    count(COUNT_REPLACED);
    f->state = STATE_CLOSED;
    tell(EVENT_CLOSED, CAUSE_REPLACED, &p->key, f, back);
    map_delete(&flows, &key);
    key = p->key;
    map_delete(&flows, &key);
}

/* Makes a SYN the RST that a client sends whose backend remembers an older connection of this port, and
 * says so by an ACK (RFC 9293, section 3.10.7.3). The ACK is still here. 0: there is none. */
INLINE __u32 forget(struct __sk_buff *ctx, const struct packet *p, const struct flow *f) {
    struct flow_key other = opposite(f, p->key.family);
    struct flow *back = map_lookup(&flows, &other);
    __u32 at = p->l4 + 12, check = p->l4 + CHECK_OFFSET, number;
    __be16 from, to;
    if (!back || f->state != STATE_OPENING) return 0;
    number = back->ack;
    /* Else it is of this connection, and another node saw the backend's answer. */
    if (!number || number - f->client_isn - 1 < SYN_DATA) return 0;
    if (GET(ctx, at, &from)) return 0;
    to = (from & ~BE16(0xff)) | BE16(TCP_RST);
    if (l4_csum_replace(ctx, check, from, to, 2) || PUT(ctx, at, &to)) return 0;
    back->ack = 0;
    return number;
}

/* The peer asks for the SYN of the n-th youngest handshake that waits for the process that died here,
 * or hangs: its backend repeats the answer, which nobody holds back any more. The
 * number is the packet's sequence number; its other numbers are zero. */
APART int kick(struct __sk_buff *ctx, const struct packet *p) {
    __u32 zero = 0, check = p->l4 + CHECK_OFFSET;
    __u64 *count_opened = map_lookup(&opened, &zero);
    if (!count_opened || p->seq >= *count_opened || p->seq >= RECENT || p->hops < 2)
        return drop(DROP_LOOP);
    __u32 place = (*count_opened - 1 - p->seq) & (RECENT - 1);
    struct flow_key *key = map_lookup(&recent, &place);
    struct flow *f = key ? map_lookup(&flows, key) : 0;
    if (!f || key->family != p->key.family || f->state >= STATE_ESTABLISHED)
        return drop(DROP_LOOP);
    __u32 old = forget(ctx, p, f);
    __be32 from = BE32(p->seq), to = BE32(old ?: f->client_isn);
    if (l4_csum_replace(ctx, check, from, to, 4) || PUT(ctx, p->l4 + 4, &to))
        return drop(DROP_WRITE);
    count(COUNT_KICKED);
    return translate_tcp(ctx, p, f);
}

/* The connection is over, and its client acknowledges what nobody sent on it: it has begun a new one on
 * these ports, of which only the peer knows. */
INLINE int is_of_next(const struct packet *p, const struct flow *f) {
    return f->state == STATE_CLOSED && f->flags & FLOW_CLIENT &&
           (p->flags & (TCP_SYN | TCP_ACK)) == TCP_ACK && !near(p->ack, f->ack);
}

/* A packet of a flow. */
INLINE int known(struct __sk_buff *ctx, const struct packet *p, struct flow *f, struct stand *s,
                 int *gone) {
    if (s->leave == MAY_NOTHING) return relay(ctx, p, s);
    /* Who may only forward let its SYN go to the peer, perhaps when even that was over; and what comes
     * from there may be of a flow that only the peer has. */
    int next = s->second || s->from_peer || s->leave == MAY_FORWARD;
    if (next && is_of_next(p, f)) return hand(ctx, s, COUNT_HANDED);
    /* On the ports of a connection that goes on, its backend decides: it asks the client,
     * whose RST ends the flow if the client has forgotten it (RFC 5961, section 4.2). */
    int over = f->state == STATE_CLOSED ||
               (f->state < STATE_ESTABLISHED && f->client_isn != p->seq);
    if (!(bare_syn(p->flags) && f->flags & FLOW_CLIENT && over)) return forward(ctx, p, f, s);
    /* Also where the new one is the peer's: what follows on these ports is not the old one's. */
    replace(p, f);
    if (s->leave != MAY_DECIDE) return relay(ctx, p, s);
    *gone = 1;
    return 0;
}

/* The flow that a packet belongs to. */
APART struct flow *flow_of(const struct packet *p) {
    struct flow_key key = p->key;
    return map_lookup(&flows, &key);
}

/* `f`: the packet's flow, if there is one. */
ONCE int tcp(struct __sk_buff *ctx, const struct packet *p, struct flow *f) {
    if (!p) return TC_ACT_SHOT;
    __u64 now = coarse_clock();
    struct stand s = {};
    int syn = bare_syn(p->flags);
    if (f) {
        int gone = 0;
        look(ctx, now, &s);
        int done = known(ctx, p, f, &s, &gone);
        if (!gone) return done;
    }
    struct endpoint endpoint = {
        .address = p->key.dst,
        .port = p->key.dport,
        .family = p->key.family,
    };
    struct service *service = map_lookup(&services, &endpoint);
    struct owned *owned = service ? 0 : owner(&p->key.dst, p->key.family);
    if (!service && !owned) return TC_ACT_UNSPEC;
    if (!f) look(ctx, now, &s);
    if (service) {
        int reject = service->flags & SERVICE_REJECT;
        if (s.leave != MAY_DECIDE) return relay(ctx, p, &s);
        if (!syn && s.second) return hand(ctx, &s, COUNT_HANDED);
        if (!syn) return refuse(p, DROP_UNKNOWN, reject);
        if (p->hops < 2) return drop(DROP_HOPS);
        __u32 refused = open(ctx, p, service, &s);
        if (refused) return refuse(p, refused, reject && refused == DROP_NO_BACKEND);
        f = flow_of(p);
        return f ? forward(ctx, p, f, &s) : drop(DROP_RACE);
    }
    __u32 zero = 0;
    struct settings *range = map_lookup(&settings, &zero);
    __u16 port = BE16(p->key.dport);
    if (owned->flags & OWNED_SOURCE && range && port >= range->range_first &&
        port <= range->range_last) {
        if (s.leave != MAY_DECIDE) return relay(ctx, p, &s);
        if (s.second) return hand(ctx, &s, COUNT_HANDED);
        return refuse(p, DROP_STRAY, owned->flags & OWNED_REJECT);
    }
    if (!(owned->flags & OWNED_VIP)) return TC_ACT_UNSPEC;
    if (s.from_peer && !s.waits && s.leave != MAY_NOTHING && !s.accepted && syn &&
        !p->key.sport && !p->key.dport)
        return kick(ctx, p);
    return local(ctx, p, &s, 1);
}

ONCE int icmp(struct __sk_buff *ctx, const struct packet *p) {
    if (!p) return TC_ACT_SHOT;
    struct quote quote = {};
    if (!read_quote(ctx, p, &quote)) return other(ctx, p);
    struct flow *f = map_lookup(&flows, &quote.key);
    if (!f) return other(ctx, p);
    struct stand s = {};
    look(ctx, coarse_clock(), &s);
    if (s.leave == MAY_NOTHING) return relay(ctx, p, &s);
    if (p->hops < 2) return drop(DROP_HOPS);
    return translate_icmp(ctx, p, &quote, f);
}

SEC("classifier")
int tandem_nat(struct __sk_buff *ctx) {
    struct packet p = {};
    enum kind kind = KIND_OTHER;
    if (ctx->vlan_present) return TC_ACT_UNSPEC;
    if (ctx->protocol == BE16(ETH_P_ARP)) return arp(ctx);
    if (ctx->pkt_type != PACKET_HOST) return TC_ACT_UNSPEC;
    if (ctx->protocol == BE16(ETH_P_IP)) kind = read_ipv4(ctx, &p);
    if (ctx->protocol == BE16(ETH_P_IPV6)) kind = read_ipv6(ctx, &p);
    switch (kind) {
    case KIND_TCP:
        return tcp(ctx, &p, map_lookup(&flows, &p.key));
    case KIND_ICMP:
        return icmp(ctx, &p);
    case KIND_FRAGMENT:
        return strange(ctx, &p, DROP_FRAGMENT);
    case KIND_MALFORMED:
        return strange(ctx, &p, DROP_MALFORMED);
    case KIND_EXTENSION:
        return strange(ctx, &p, DROP_EXTENSION);
    default:
        return other(ctx, &p);
    }
}
