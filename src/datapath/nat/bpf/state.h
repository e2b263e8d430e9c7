/* The life of a flow: what each packet says of it. */
#ifndef TANDEM_STATE_H
#define TANDEM_STATE_H

#include "maps.h"
#include "packet.h"

struct step {
    __u32 event; /* enum event_kind, or 0 */
    __u32 cause;
    int held; /* the packet stays here */
};

INLINE void refused(struct step *step, __u32 cause) {
    step->event = EVENT_REFUSED;
    step->cause = cause;
    step->held = 1;
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

/* Moves the client's entry on. The other entry gets a copy of its state afterwards. */
INLINE void follow(struct flow *f, const struct packet *p, int client, struct step *step) {
    if (p->flags & TCP_RST) {
        reset(f, p, client, step);
    } else if (p->flags & TCP_SYN) {
        if (client || !(p->flags & TCP_ACK) || f->state != STATE_OPENING) return;
        if (p->ack != f->client_isn + 1) return;
        f->backend_isn = p->seq;
        f->state = STATE_ANSWERED;
        step->event = EVENT_ESTABLISHED;
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

INLINE void tell(__u32 kind, __u32 cause, const struct flow_key *key, const struct flow *f,
                 const struct flow *back) {
    struct event *event = ring_reserve(&events, sizeof(*event), 0);
    if (!event) {
        count(LOST_EVENT);
        return;
    }
    fill(event, kind, cause, key, f, back);
    ring_submit(event, BPF_RB_NO_WAKEUP);
}

/* With the SYN itself: a retry must send the same one. */
INLINE void tell_opened(struct __sk_buff *ctx, const struct packet *p, const struct flow *f) {
    struct opened *opened = ring_reserve(&events, sizeof(*opened), 0);
    if (!opened) {
        count(LOST_EVENT);
        return;
    }
    fill(&opened->event, EVENT_OPENED, CAUSE_NONE, &p->key, f, 0);
    __builtin_memset(opened->syn, 0, SYN_MAX);
    opened->zero = 0;
    /* Less one, masked, plus one: bounds that the verifier believes. */
    __u32 last = p->end - L3 - 1;
    if (last >= SYN_MAX) last = SYN_MAX - 1;
    asm volatile("%0 &= 127" : "+r"(last));
    opened->length = last + 1;
    if (load_bytes(ctx, L3, opened->syn, last + 1)) opened->length = 0;
    ring_submit(opened, BPF_RB_NO_WAKEUP);
}

/* Counts a packet that is dropped, and tells user space if it is to send a RST for it. */
INLINE int refuse(const struct packet *p, __u32 reason, int answer) {
    if (answer && !(p->flags & TCP_RST)) {
        struct refusal *refusal = ring_reserve(&refusals, sizeof(*refusal), 0);
        if (refusal) {
            refusal->key = p->key;
            refusal->seq = p->seq;
            refusal->ack = p->ack;
            refusal->length =
                p->payload + !!(p->flags & TCP_SYN) + !!(p->flags & TCP_FIN);
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
