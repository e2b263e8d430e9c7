/* The life of a flow: what each packet says of it. */
#ifndef TANDEM_STATE_H
#define TANDEM_STATE_H

#include "maps.h"
#include "packet.h"

#define SYN_DATA 65536    /* more than fits in a SYN */
#define FLIGHT (1u << 22) /* most that an end sends without an answer, as far as is believed */

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

INLINE int near(__u32 a, __u32 b) {
    return a - b + FLIGHT <= 2 * FLIGHT;
}

/* Whether the end that a RST goes to believes it: then it says that it acknowledges the SYN that
 * this end sent (RFC 9293, section 3.10.7.3), or its number is the next that this end expects (RFC
 * 5961, section 3.2). That is what this end acknowledged last, or, behind what it has not
 * acknowledged yet, what the RST's sender sends next. */
INLINE int believed(const struct flow *front, const struct flow *back, const struct packet *p,
                    int client) {
    const struct flow *from = client ? front : back, *to = client ? back : front;
    __u32 first = front->client_isn + 1;
    if (!client && front->state <= STATE_ANSWERED) {
        if (p->flags & TCP_ACK && p->ack - first < SYN_DATA) return 1;
        return front->state == STATE_ANSWERED && p->seq == front->backend_isn + 1;
    }
    if (front->state == STATE_OPENING) return p->seq == first || p->seq == from->seq;
    /* An end that has said nothing to this node yet may be anywhere. */
    if (!to->packets || p->seq == to->ack) return 1;
    return p->seq == from->seq && p->seq - to->ack <= FLIGHT && near(from->ack, to->seq);
}

/* The same of a FIN, as far as can be told: it is one of those that may be on their way. */
INLINE int ends(const struct flow *to, const struct packet *p) {
    if (!(p->flags & TCP_FIN)) return 0;
    if (!to->packets) return 1;
    return p->flags & TCP_ACK && p->seq + taken(p) - to->ack <= FLIGHT && near(p->ack, to->seq);
}

INLINE void reset(struct flow *f, const struct flow *back, const struct packet *p, int client,
                  struct step *step) {
    __u32 cause = client ? CAUSE_CLIENT_RST : CAUSE_BACKEND_RST;
    if (!believed(f, back, p, client)) return;
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

/* A client that acknowledges something has the SYN-ACK: it came by way of another node. */
INLINE int has_answer(struct flow *f, const struct packet *p, struct step *step) {
    if (!(p->flags & TCP_ACK) || p->seq - f->client_isn - 1 >= SYN_DATA) return 0;
    f->backend_isn = p->ack - 1;
    f->state = STATE_ESTABLISHED;
    step->event = EVENT_ESTABLISHED;
    return 1;
}

INLINE void speak(struct flow *f, const struct flow *back, const struct packet *p, int client,
                  struct step *step) {
    __u8 own_rst = client ? MARK_CLIENT_RST : MARK_BACKEND_RST;
    __u8 fins = MARK_CLIENT_FIN | MARK_BACKEND_FIN;
    if (f->state == STATE_OPENING && !client) {
        /* Not an answer to our SYN: the backend remembers an older connection. */
        if (f->flags & FLOW_RETRY) refused(step, CAUSE_STALE_ACK);
        return;
    }
    if (f->state == STATE_OPENING && !has_answer(f, p, step)) return;
    /* Who resets a connection is silent on it from then on: somebody else sent that RST. */
    if (f->state == STATE_CLOSED && f->marks & own_rst && (f->marks & fins) != fins) {
        f->marks &= ~own_rst;
        f->state = f->marks & fins ? STATE_CLOSING : STATE_ESTABLISHED;
        step->event = EVENT_REVIVED;
    }
    if (f->state == STATE_ANSWERED && client && p->flags & TCP_ACK) f->state = STATE_ESTABLISHED;
    if (!ends(client ? back : f, p)) return;
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

/* The backend took a SYN on ports of a flow for the first of a new connection: it has forgotten
 * the old one, as its client has. The flow is the new one's from here on. */
INLINE void renew(struct flow *f, const struct flow *back, const struct packet *p,
                  struct step *step) {
    f->client_isn = p->ack - 1;
    f->marks = 0;
    f->opened = back->seen;
    f->state = STATE_OPENING;
    answer(f, p, step);
}

/* Not over: a SYN that comes to a flow that is gets a flow of its own. */
INLINE int is_speaking(__u32 state) {
    return state == STATE_ESTABLISHED || state == STATE_CLOSING;
}

/* Moves the client's entry on. The other entry gets a copy of its state afterwards. */
INLINE void follow(struct flow *f, const struct flow *back, const struct packet *p, int client,
                   struct step *step) {
    if (p->flags & TCP_RST) {
        reset(f, back, p, client, step);
    } else if (p->flags & TCP_SYN) {
        /* A SYN may carry data, which its answer may acknowledge as well (RFC 7413). */
        __u32 data = p->ack - f->client_isn - 1;
        if (client || !(p->flags & TCP_ACK)) return;
        if (data < SYN_DATA)
            answer(f, p, step);
        else if (is_speaking(f->state) && p->ack == f->seq)
            renew(f, back, p, step);
    } else {
        speak(f, back, p, client, step);
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
