/* The life of a flow: what each packet says of it. */
#ifndef TANDEM_STATE_H
#define TANDEM_STATE_H

#include "maps.h"
#include "packet.h"

struct step {
    __u32 event; /* enum event_kind, or 0 */
    __u32 cause;
    __u32 held; /* why the packet stays here (enum counter), or 0 */
    int carry;  /* tell with the packet */
};

INLINE void refused(struct step *step, __u32 cause) {
    step->event = EVENT_REFUSED;
    step->cause = cause;
    step->held = DROP_HELD;
}

INLINE void reset(struct flow *f, const struct packet *p, int client, struct step *step) {
    __u32 cause = client ? CAUSE_CLIENT_RST : CAUSE_BACKEND_RST;
    if (!client && f->state == STATE_OPENING && f->flags & FLOW_RETRY) {
        refused(step, cause);
        return;
    }
    f->marks |= client ? MARK_CLIENT_RST : MARK_BACKEND_RST;
    if (f->state == STATE_CLOSED) return;
    f->state = STATE_CLOSED;
    step->event = EVENT_CLOSED;
    step->cause = cause;
}

INLINE void speak(struct flow *f, const struct packet *p, int client, struct step *step) {
    __u8 own_rst = client ? MARK_CLIENT_RST : MARK_BACKEND_RST;
    __u8 fins = MARK_CLIENT_FIN | MARK_BACKEND_FIN;
    if (f->state == STATE_OPENING) {
        /* Not an answer to our SYN: the backend remembers an older connection. */
        if (!client && f->flags & FLOW_RETRY) refused(step, CAUSE_STALE_ACK);
        return;
    }
    /* Who resets a connection is silent on it from then on: somebody else sent that RST. */
    if (f->state == STATE_CLOSED && f->marks & own_rst && (f->marks & fins) != fins) {
        f->marks &= ~own_rst;
        f->state = f->marks & fins ? STATE_CLOSING : STATE_ESTABLISHED;
        step->event = EVENT_REVIVED;
    }
    if (f->state == STATE_ANSWERED && client && p->flags & TCP_ACK) f->state = STATE_ESTABLISHED;
    if (!(p->flags & TCP_FIN)) return;
    f->marks |= client ? MARK_CLIENT_FIN : MARK_BACKEND_FIN;
    if (f->state == STATE_CLOSED) return;
    f->state = STATE_CLOSING;
    if ((f->marks & fins) != fins) return;
    f->state = STATE_CLOSED;
    step->event = EVENT_CLOSED;
    step->cause = CAUSE_FIN;
}

/* A SYN-ACK that the client would take. With FLOW_SYNC each of them is held and told: the one
 * before may have been lost on its way through user space. */
INLINE void answer(struct flow *f, const struct packet *p, struct step *step) {
    int sync = f->flags & FLOW_SYNC;
    if (f->state != STATE_OPENING && !(sync && f->state == STATE_ANSWERED)) return;
    f->backend_isn = p->seq;
    f->state = STATE_ANSWERED;
    step->event = EVENT_ESTABLISHED;
    if (!sync) return;
    step->held = DROP_WAITING;
    step->carry = 1;
}

/* Moves the client's entry on. The other entry gets a copy of its state afterwards. */
INLINE void follow(struct flow *f, const struct packet *p, int client, struct step *step) {
    if (p->flags & TCP_RST) {
        reset(f, p, client, step);
    } else if (p->flags & TCP_SYN) {
        if (!client && p->flags & TCP_ACK && p->ack == f->client_isn + 1) answer(f, p, step);
    } else {
        speak(f, p, client, step);
    }
}

INLINE struct flow_key opposite(const struct flow *f, __u32 family) {
    struct flow_key key = {
        .src = f->to_dst,
        .dst = f->to_src,
        .sport = f->to_dport,
        .dport = f->to_sport,
        .family = family,
    };
    return key;
}

INLINE void fill(struct event *event, __u32 kind, __u32 cause, const struct flow_key *key,
                 const struct flow *f, const struct flow *back) {
    event->kind = kind;
    event->cause = cause;
    event->key = *key;
    event->flow = *f;
    event->back_packets = back ? back->packets : 0;
    event->back_bytes = back ? back->bytes : 0;
}

/* How to submit a record that cannot wait for the reader's next look. The kernel's own choice
 * (0) wakes a reader that has read all before this record; but one that sleeps may have left
 * records unread that did not wake it. So it is woken by force unless it was already, and has
 * not yet come to where `events` ended then. */
INLINE __u64 waking(void) {
    __u32 zero = 0;
    __u64 *end = map_lookup(&woken, &zero);
    if (!end || ring_query(&events, BPF_RB_CONS_POS) < *end) return 0;
    *end = ring_query(&events, BPF_RB_PROD_POS);
    return BPF_RB_FORCE_WAKEUP;
}

INLINE void tell(__u32 kind, __u32 cause, const struct flow_key *key, const struct flow *f,
                 const struct flow *back) {
    struct event *event = ring_reserve(&events, sizeof(*event), 0);
    if (!event) {
        count(LOST_EVENT);
        return;
    }
    fill(event, kind, cause, key, f, back);
    ring_submit(event, kind == EVENT_REFUSED ? waking() : BPF_RB_NO_WAKEUP);
}

/* With the packet itself: a retry must send the same SYN, and a SYN-ACK that waits is sent by user
 * space. */
INLINE void carry(struct __sk_buff *ctx, const struct packet *p, __u32 kind,
                  const struct flow_key *key, const struct flow *f, const struct flow *back) {
    struct carried *carried = ring_reserve(&events, sizeof(*carried), 0);
    if (!carried) {
        count(LOST_EVENT);
        return;
    }
    fill(&carried->event, kind, CAUSE_NONE, key, f, back);
    __builtin_memset(carried->packet, 0, SYN_MAX);
    carried->zero = 0;
    /* Less one, masked, plus one: bounds that the verifier believes. */
    __u32 last = p->end - L3 - 1;
    if (last >= SYN_MAX) last = SYN_MAX - 1;
    asm volatile("%0 &= 127" : "+r"(last));
    carried->length = last + 1;
    if (load_bytes(ctx, L3, carried->packet, last + 1)) carried->length = 0;
    ring_submit(carried, f->flags & FLOW_SYNC ? waking() : BPF_RB_NO_WAKEUP);
}

/* Counts a packet that is dropped, and tells user space if it is to send a RST for it. */
INLINE int refuse(const struct packet *p, __u32 reason, int answer) {
    if (answer && !(p->flags & TCP_RST)) {
        struct refusal *refusal = ring_reserve(&refusals, sizeof(*refusal), 0);
        if (refusal) {
            refusal->key = p->key;
            refusal->seq = p->seq;
            refusal->ack = p->ack;
            refusal->length = taken(p);
            refusal->reason = reason;
            refusal->flags = p->flags;
            refusal->zero = 0;
            ring_submit(refusal, BPF_RB_NO_WAKEUP);
        } else {
            count(LOST_REFUSAL);
        }
    }
    return drop(reason);
}

#endif
