/* Writing a packet: new addresses, ports, hops, and the checksums that go with them.
 *
 * All checksums are changed by differences. So it does not matter whether the sum is complete or,
 * as on virtual devices, only that of the pseudo header, nor how large a super-packet is. */
#ifndef TANDEM_TRANSLATE_H
#define TANDEM_TRANSLATE_H

#include "maps.h"
#include "packet.h"

#define CHECK_OFFSET 16 /* in a TCP header */
#define ICMP_HEADER 8
#define OPTIONS 10 /* TCP options that are looked at */
#define OPTION_END 0
#define OPTION_NOTHING 1
#define OPTION_MSS 2

/* `ports` of a key or of a flow, as one word. */
INLINE __u32 both_ports(const __be16 *ports) {
    return ports[0] | (__u32)ports[1] << 16;
}

INLINE __u16 folded(__u64 sum) {
    sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + ((sum >> 32) & 0xffff) + (sum >> 48);
    sum = (sum & 0xffff) + (sum >> 16);
    return (sum & 0xffff) + (sum >> 16);
}

/* A checksum after what it covers changed by this difference (RFC 1624, equation 3). */
INLINE __u16 adjusted(__u16 check, __u64 difference) {
    return ~folded((__u16)~check + difference);
}

INLINE __u64 changed16(__u16 from, __u16 to) {
    return (__u64)(__u16)~from + to;
}

INLINE __u64 changed_ports(__u32 from, __u32 to) {
    return changed16(from, to) + changed16(from >> 16, to >> 16);
}

/* Both addresses at once, by words of 32 bits: sums of 16 bits come out the same. The words that
 * IPv4 leaves zero add nothing. */
INLINE __u32 changed_addresses(const struct flow_key *from, const struct flow *to) {
    __u64 sum = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        sum += (__u64)(__u32)~from->src.word[i] + to->to_src.word[i];
        sum += (__u64)(__u32)~from->dst.word[i] + to->to_dst.word[i];
    }
    return folded(sum);
}

/* The IP header: addresses and hops. */
INLINE long write_ip(struct __sk_buff *ctx, const struct packet *p, const struct flow *f,
                     __u32 addresses) {
    if (p->key.family == 4) {
        struct {
            __u8 ttl, protocol;
            __u16 check;
            __be32 src, dst;
        } half;
        /* The protocol is in the same word and cancels out. */
        __u64 hops = changed16(BE16(p->hops << 8), BE16((p->hops - 1) << 8));
        half.ttl = p->hops - 1;
        half.protocol = p->protocol;
        half.check = adjusted(p->check, addresses + hops);
        half.src = f->to_src.word[0];
        half.dst = f->to_dst.word[0];
        return PUT(ctx, L3 + 8, &half);
    }
    __u8 hops = p->hops - 1;
    struct {
        struct address src, dst;
    } half = {f->to_src, f->to_dst};
    return PUT(ctx, L3 + 7, &hops) || PUT(ctx, L3 + 8, &half);
}

INLINE int send(struct __sk_buff *ctx, const struct flow *f, __u32 counter) {
    count(counter);
    return redirect_neigh(f->ifindex ? f->ifindex : ctx->ifindex, 0, 0, 0);
}

/* Lowers the segment size that a SYN or SYN-ACK announces. */
INLINE long clamp(struct __sk_buff *ctx, const struct packet *p, __u32 limit) {
    __u32 at = p->l4 + TCP_HEADER, end = p->end - p->payload;
    for (int i = 0; i < OPTIONS; i++) {
        struct {
            __u8 kind, length;
            __be16 value;
        } option;
        /* The one looked for is four bytes long, and none behind it is of interest. */
        if (at + 4 > end || load_bytes(ctx, at, &option, sizeof(option))) return 0;
        if (option.kind == OPTION_END) return 0;
        if (option.kind == OPTION_NOTHING) {
            at += 1;
            continue;
        }
        if (option.kind == OPTION_MSS && option.length == 4) {
            if (BE16(option.value) <= limit) return 0;
            __u16 from = option.value, to = BE16(limit);
            if (store_bytes(ctx, at + 2, &to, sizeof(to), 0)) return -1;
            /* Sums go by words: at an odd place each byte counts in the other half. */
            if (at & 1) {
                from = __builtin_bswap16(from);
                to = __builtin_bswap16(to);
            }
            return l4_csum_replace(ctx, p->l4 + CHECK_OFFSET, from, to, sizeof(to));
        }
        if (option.length < 2) return 0;
        at += option.length;
    }
    return 0;
}

INLINE int translate_tcp(struct __sk_buff *ctx, const struct packet *p, const struct flow *f) {
    __u32 addresses = changed_addresses(&p->key, f);
    __u32 from = both_ports(&p->key.sport), to = both_ports(&f->to_sport);
    __u32 check = p->l4 + CHECK_OFFSET;
    if (l4_csum_replace(ctx, check, 0, addresses, BPF_F_PSEUDO_HDR) ||
        l4_csum_replace(ctx, check, from, to, 4) ||
        PUT(ctx, p->l4, &to) ||
        (p->flags & TCP_SYN && f->mss && clamp(ctx, p, f->mss)) ||
        write_ip(ctx, p, f, addresses))
        return drop(DROP_WRITE);
    int client = f->flags & FLOW_CLIENT;
    count_by(client ? BYTES_TO_BACKEND : BYTES_TO_CLIENT, p->end - L3);
    return send(ctx, f, client ? COUNT_TO_BACKEND : COUNT_TO_CLIENT);
}

/* What an ICMP error quotes: a packet that left here. */
struct quote {
    struct flow_key key; /* of the answer to it */
    __u32 l3;
    __u32 l4;
    __u16 check; /* IPv4 */
};

/* Whether there is a quote of TCP. */
INLINE int read_quote(struct __sk_buff *ctx, const struct packet *p, struct quote *q) {
    __u8 type;
    if (p->l4 + ICMP_HEADER > p->end || load_bytes(ctx, p->l4, &type, 1)) return 0;
    q->l3 = p->l4 + ICMP_HEADER;
    q->key.family = p->key.family;
    if (p->key.family == 4) {
        struct iphdr ip;
        /* Unreachable (also: fragmentation needed), time exceeded, parameter problem. */
        if (type != 3 && type != 11 && type != 12) return 0;
        if (load_bytes(ctx, q->l3, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5) return 0;
        if (ip.protocol != IPPROTO_TCP || ip.frag_off & BE16(0x1fff)) return 0;
        q->key.src.word[0] = ip.daddr;
        q->key.dst.word[0] = ip.saddr;
        q->l4 = q->l3 + ip.ihl * 4;
        q->check = ip.check;
    } else {
        struct ipv6hdr ip;
        /* Unreachable, packet too big, time exceeded, parameter problem. */
        if (type < 1 || type > 4) return 0;
        if (load_bytes(ctx, q->l3, &ip, sizeof(ip)) || ip.version != 6) return 0;
        if (ip.nexthdr != IPPROTO_TCP) return 0;
        __builtin_memcpy(&q->key.src, &ip.daddr, sizeof(struct address));
        __builtin_memcpy(&q->key.dst, &ip.saddr, sizeof(struct address));
        q->l4 = q->l3 + sizeof(ip);
    }
    __be16 ports[2];
    if (q->l4 + 8 > p->end || load_bytes(ctx, q->l4, ports, sizeof(ports))) return 0;
    q->key.sport = ports[1];
    q->key.dport = ports[0];
    /* An error comes to whom it quotes. */
    return same(&q->key.dst, &p->key.dst);
}

/* The quote becomes what its receiver once sent, and the error comes from whom it was sent to:
 * routers on the other side stay unseen. */
APART int translate_icmp(struct __sk_buff *ctx, const struct packet *p, const struct quote *q,
                          const struct flow *f) {
    /* Sums do not mind that the quote's source and destination are those of the flow swapped. */
    __u32 addresses = changed_addresses(&q->key, f);
    __u32 ports = f->to_dport | (__u32)f->to_sport << 16;
    __u64 tcp = addresses + changed_ports(both_ports(&q->key.sport), ports);
    __u64 all = tcp;
    __u16 check;
    long failed = 0;
    /* Quotes may end before the TCP checksum. */
    if (q->l4 + CHECK_OFFSET + 2 <= p->end) {
        failed |= load_bytes(ctx, q->l4 + CHECK_OFFSET, &check, sizeof(check));
        __u16 now = adjusted(check, tcp);
        all += changed16(check, now);
        failed |= store_bytes(ctx, q->l4 + CHECK_OFFSET, &now, sizeof(now), 0);
    }
    struct address swapped[2] = {f->to_dst, f->to_src};
    if (p->key.family == 4) {
        check = adjusted(q->check, addresses);
        all += changed16(q->check, check);
        __be32 words[2] = {swapped[0].word[0], swapped[1].word[0]};
        failed |= store_bytes(ctx, q->l3 + 10, &check, sizeof(check), 0);
        failed |= store_bytes(ctx, q->l3 + 12, words, sizeof(words), 0);
    } else {
        failed |= store_bytes(ctx, q->l3 + 8, swapped, sizeof(swapped), 0);
    }
    failed |= store_bytes(ctx, q->l4, &ports, sizeof(ports), 0);
    __u32 outer = changed_addresses(&p->key, f);
    failed |= l4_csum_replace(ctx, p->l4 + 2, 0, folded(all), 0);
    if (p->key.family == 6)
        failed |= l4_csum_replace(ctx, p->l4 + 2, 0, outer, BPF_F_PSEUDO_HDR);
    failed |= write_ip(ctx, p, f, outer);
    return failed ? drop(DROP_WRITE) : send(ctx, f, COUNT_ICMP);
}

#endif
