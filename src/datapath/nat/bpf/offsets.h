/* Sizes and offsets as this compiler sees them. No code reads the table: a test finds it in the
 * object by its first words and compares it with layout.rs, in this order. */
#ifndef TANDEM_OFFSETS_H
#define TANDEM_OFFSETS_H

#include "helpers.h"
#include "layout.h"

#define AT(type, field) __builtin_offsetof(struct type, field)

const __u32 layout_table[] SEC("layout") = {
    0x646e6174, 0x6c206d65, 0x756f7961, 0x00000074, /* "tandem layout" */
    sizeof(struct flow_key), AT(flow_key, src), AT(flow_key, dst), AT(flow_key, sport),
    AT(flow_key, dport), AT(flow_key, family),
    sizeof(struct flow), AT(flow, to_src), AT(flow, to_dst), AT(flow, to_sport),
    AT(flow, to_dport), AT(flow, service), AT(flow, backend), AT(flow, ifindex),
    AT(flow, client_isn), AT(flow, backend_isn), AT(flow, state), AT(flow, flags),
    AT(flow, marks), AT(flow, mss), AT(flow, opened), AT(flow, seen), AT(flow, packets), AT(flow, bytes),
    AT(flow, seq), AT(flow, ack),
    sizeof(struct endpoint), AT(endpoint, address), AT(endpoint, port), AT(endpoint, family),
    sizeof(struct service), AT(service, id), AT(service, flags), AT(service, scheduler),
    AT(service, first), AT(service, slots), AT(service, turn), AT(service, seed),
    AT(service, mss), AT(service, source_rate),
    sizeof(struct source), AT(source, net), AT(source, service), AT(source, family),
    sizeof(struct window), AT(window, start), AT(window, syns),
    sizeof(struct backend), AT(backend, address), AT(backend, source), AT(backend, port),
    AT(backend, id), AT(backend, ifindex),
    sizeof(struct owned), AT(owned, flags),
    sizeof(struct right), AT(right, until), AT(right, waits), AT(right, frozen),
    AT(right, accept), AT(right, second),
    sizeof(struct neighbour), AT(neighbour, own), AT(neighbour, peer),
    sizeof(struct life), AT(life, dev), AT(life, ino), AT(life, pid), AT(life, dead),
    sizeof(struct stale), AT(stale, vip), AT(stale, sender), AT(stale, family),
    AT(stale, ifindex), AT(stale, mac),
    sizeof(struct settings), AT(settings, range_first), AT(settings, range_last),
    AT(settings, own_first), AT(settings, own_last),
    sizeof(struct event), AT(event, kind), AT(event, cause), AT(event, key), AT(event, flow),
    AT(event, back_packets), AT(event, back_bytes),
    sizeof(struct carried), AT(carried, event), AT(carried, length), AT(carried, packet),
    sizeof(struct refusal), AT(refusal, key), AT(refusal, seq), AT(refusal, ack),
    AT(refusal, length), AT(refusal, reason), AT(refusal, flags),
    COUNTERS, SYN_MAX,
};

#endif
