/* Reading a packet: where its TCP or ICMP header is, and what it says. Changes nothing. */
#ifndef TANDEM_PACKET_H
#define TANDEM_PACKET_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include "helpers.h"
#include "layout.h"

#define L3 ETH_HLEN
#define EXTENSIONS 6 /* IPv6 extension headers that are walked */

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10
#define TCP_HEADER 20

#define NEXT_HOP_BY_HOP 0
#define NEXT_ROUTING 43
#define NEXT_FRAGMENT 44
#define NEXT_AUTHENTICATION 51
#define NEXT_ICMPV6 58
#define NEXT_NONE 59
#define NEXT_OPTIONS 60

/* The start of a TCP header. */
struct tcp {
    __be16 sport;
    __be16 dport;
    __be32 seq;
    __be32 ack;
    __u8 offset; /* in its upper half, words */
    __u8 flags;
};

enum kind {
    KIND_OTHER, /* none of our business */
    KIND_TCP,
    KIND_ICMP,
    KIND_FRAGMENT, /* the rest: TCP that is refused if it is for us */
    KIND_MALFORMED,
    KIND_EXTENSION,
};

struct packet {
    struct flow_key key; /* without ports unless it is TCP; family 0: no IP packet */
    __u32 l4;            /* where the TCP or ICMP header begins */
    __u32 end;           /* where the IP packet ends */
    __u32 seq;
    __u32 ack;
    __u32 payload;
    __u16 check;   /* IPv4: as in the header */
    __u8 protocol; /* IPv4 */
    __u8 hops;     /* TTL or hop limit */
    __u8 flags;    /* TCP's */
};

/* Written out: the compiler would call memcmp, which is nowhere. */
INLINE int same(const struct address *a, const struct address *b) {
    return !((a->word[0] ^ b->word[0]) | (a->word[1] ^ b->word[1]) | (a->word[2] ^ b->word[2]) |
             (a->word[3] ^ b->word[3]));
}

/* Sequence numbers that a packet takes. */
INLINE __u32 taken(const struct packet *p) {
    return p->payload + !!(p->flags & TCP_SYN) + !!(p->flags & TCP_FIN);
}

INLINE int bare_syn(__u8 flags) {
    return (flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == TCP_SYN;
}

INLINE enum kind read_tcp(struct __sk_buff *ctx, struct packet *p) {
    struct tcp tcp;
    if (p->l4 + TCP_HEADER > p->end || GET(ctx, p->l4, &tcp))
        return KIND_MALFORMED;
    __u32 header = (tcp.offset >> 4) * 4;
    if (header < TCP_HEADER || p->l4 + header > p->end) return KIND_MALFORMED;
    p->key.sport = tcp.sport;
    p->key.dport = tcp.dport;
    p->seq = BE32(tcp.seq);
    p->ack = BE32(tcp.ack);
    p->flags = tcp.flags;
    p->payload = p->end - p->l4 - header;
    return KIND_TCP;
}

INLINE enum kind read_ipv4(struct __sk_buff *ctx, struct packet *p) {
    struct iphdr ip;
    if (GET(ctx, L3, &ip) || ip.version != 4) return KIND_OTHER;
    p->key.family = 4;
    p->key.src.word[0] = ip.saddr;
    p->key.dst.word[0] = ip.daddr;
    if (ip.protocol != IPPROTO_TCP && ip.protocol != IPPROTO_ICMP) return KIND_OTHER;
    enum kind bad = ip.protocol == IPPROTO_TCP ? KIND_MALFORMED : KIND_OTHER;
    p->protocol = ip.protocol;
    p->hops = ip.ttl;
    p->check = ip.check;
    __u32 length = BE16(ip.tot_len);
    /* A super-packet may be longer than its header can say. */
    if (!length && ctx->gso_size) length = ctx->len - L3;
    p->l4 = L3 + ip.ihl * 4;
    p->end = L3 + length;
    if (ip.ihl < 5 || p->end < p->l4 || p->end > ctx->len) return bad;
    if (ip.frag_off & BE16(0x3fff)) return bad == KIND_OTHER ? KIND_OTHER : KIND_FRAGMENT;
    return ip.protocol == IPPROTO_TCP ? read_tcp(ctx, p) : KIND_ICMP;
}

INLINE enum kind read_ipv6(struct __sk_buff *ctx, struct packet *p) {
    struct ipv6hdr ip;
    if (GET(ctx, L3, &ip) || ip.version != 6) return KIND_OTHER;
    p->key.family = 6;
    __builtin_memcpy(&p->key.src, &ip.saddr, sizeof(struct address));
    __builtin_memcpy(&p->key.dst, &ip.daddr, sizeof(struct address));
    p->hops = ip.hop_limit;
    __u32 length = BE16(ip.payload_len);
    if (!length && ctx->gso_size) length = ctx->len - L3 - sizeof(ip);
    p->l4 = L3 + sizeof(ip);
    p->end = p->l4 + length;
    if (p->end > ctx->len) return ip.nexthdr == IPPROTO_TCP ? KIND_MALFORMED : KIND_OTHER;
    __u8 next = ip.nexthdr;
#pragma unroll
    for (int i = 0; i < EXTENSIONS; i++) {
        if (next == IPPROTO_TCP || next == NEXT_ICMPV6) break;
        if (next == NEXT_AUTHENTICATION) return KIND_EXTENSION;
        if (next != NEXT_HOP_BY_HOP && next != NEXT_ROUTING && next != NEXT_FRAGMENT &&
            next != NEXT_OPTIONS)
            return KIND_OTHER;
        __u8 header[4];
        if (p->l4 + 8 > p->end || load_bytes(ctx, p->l4, header, sizeof(header)))
            return KIND_MALFORMED;
        __u32 size = (header[1] + 1) * 8;
        if (next == NEXT_FRAGMENT) {
            size = 8;
            /* Offset or more fragments; "atomic" ones are whole (RFC 6946). */
            if (header[2] || header[3] & 0xf9)
                return header[0] == NEXT_ICMPV6 || header[0] == IPPROTO_UDP ||
                               header[0] == NEXT_NONE
                           ? KIND_OTHER
                           : KIND_FRAGMENT;
        }
        /* The checksum covers the final destination, which is another one. */
        if (next == NEXT_ROUTING && header[3]) return KIND_EXTENSION;
        next = header[0];
        p->l4 += size;
    }
    if (next == NEXT_ICMPV6) return KIND_ICMP;
    return next == IPPROTO_TCP ? read_tcp(ctx, p) : KIND_EXTENSION;
}

#endif
