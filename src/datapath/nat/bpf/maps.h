/* The maps. User space sets the sizes of all whose size depends on the configuration. */
#ifndef TANDEM_MAPS_H
#define TANDEM_MAPS_H

#include "helpers.h"
#include "layout.h"

#define RECENT 1024 /* a power of two */

struct begun {
    struct flow to, back;
};

/* Two entries a flow. */
struct {
    NUMBER(type, BPF_MAP_TYPE_HASH);
    NUMBER(max_entries, 131072);
    TYPE(key, struct flow_key);
    TYPE(value, struct flow);
} flows SEC(".maps");

struct {
    NUMBER(type, BPF_MAP_TYPE_HASH);
    NUMBER(max_entries, 1024);
    TYPE(key, struct endpoint);
    TYPE(value, struct service);
} services SEC(".maps");

struct {
    NUMBER(type, BPF_MAP_TYPE_HASH);
    NUMBER(max_entries, 1024);
    TYPE(key, struct endpoint);
    TYPE(value, struct owned);
} addresses SEC(".maps");

/* Indices into `backends`. */
struct {
    NUMBER(type, BPF_MAP_TYPE_ARRAY);
    NUMBER(max_entries, 65344);
    TYPE(key, __u32);
    TYPE(value, __u32);
} slots SEC(".maps");

struct {
    NUMBER(type, BPF_MAP_TYPE_ARRAY);
    NUMBER(max_entries, 4096);
    TYPE(key, __u32);
    TYPE(value, struct backend);
} backends SEC(".maps");

/* How often the ports of each backend went round. */
struct {
    NUMBER(type, BPF_MAP_TYPE_ARRAY);
    NUMBER(max_entries, 4096);
    TYPE(key, __u32);
    TYPE(value, __u64);
} ports SEC(".maps");

/* Round robin: how many flows each service had. */
struct {
    NUMBER(type, BPF_MAP_TYPE_ARRAY);
    NUMBER(max_entries, 1024);
    TYPE(key, __u32);
    TYPE(value, __u64);
} turns SEC(".maps");

/* Sources of services that limit them; 6.3 MB, allocated at once. The ones longest unseen make
 * room: under a flood from more sources than this, some begin anew before their second is over. */
struct {
    NUMBER(type, BPF_MAP_TYPE_LRU_HASH);
    NUMBER(max_entries, 65536);
    TYPE(key, struct source);
    TYPE(value, struct window);
} sources SEC(".maps");

struct {
    NUMBER(type, BPF_MAP_TYPE_ARRAY);
    NUMBER(max_entries, 1);
    TYPE(key, __u32);
    TYPE(value, struct settings);
} settings SEC(".maps");

struct {
    NUMBER(type, BPF_MAP_TYPE_ARRAY);
    NUMBER(max_entries, 1);
    TYPE(key, __u32);
    TYPE(value, struct right);
} lease SEC(".maps");

struct {
    NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    NUMBER(max_entries, COUNTERS);
    TYPE(key, __u32);
    TYPE(value, __u64);
} counters SEC(".maps");

struct {
    NUMBER(type, BPF_MAP_TYPE_RINGBUF);
    NUMBER(max_entries, 4194304);
} events SEC(".maps");

/* Where `events` ended when its reader was last woken. */
struct {
    NUMBER(type, BPF_MAP_TYPE_ARRAY);
    NUMBER(max_entries, 1);
    TYPE(key, __u32);
    TYPE(value, __u64);
} woken SEC(".maps");

/* A ring of its own: a flood of strays must not push out what is true of flows. */
struct {
    NUMBER(type, BPF_MAP_TYPE_RINGBUF);
    NUMBER(max_entries, 65536);
} refusals SEC(".maps");

/* Both entries of a flow that begins: the stack has no room for them. */
struct {
    NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    NUMBER(max_entries, 1);
    TYPE(key, __u32);
    TYPE(value, struct begun);
} begun SEC(".maps");

/* By interface index. */
struct {
    NUMBER(type, BPF_MAP_TYPE_HASH);
    NUMBER(max_entries, 64);
    TYPE(key, __u32);
    TYPE(value, struct neighbour);
} neighbours SEC(".maps");

/* A socket of the process that leads the program: it is gone as soon as that process is. */
struct {
    NUMBER(type, BPF_MAP_TYPE_SOCKMAP);
    NUMBER(max_entries, 1);
    TYPE(key, __u32);
    TYPE(value, __u32);
} pulse SEC(".maps");

struct {
    NUMBER(type, BPF_MAP_TYPE_ARRAY);
    NUMBER(max_entries, 1);
    TYPE(key, __u32);
    TYPE(value, struct life);
} life SEC(".maps");

/* The client's keys of the flows that were opened last and wait for user space, in a circle. */
struct {
    NUMBER(type, BPF_MAP_TYPE_ARRAY);
    NUMBER(max_entries, RECENT);
    TYPE(key, __u32);
    TYPE(value, struct flow_key);
} recent SEC(".maps");

/* How many there were. */
struct {
    NUMBER(type, BPF_MAP_TYPE_ARRAY);
    NUMBER(max_entries, 1);
    TYPE(key, __u32);
    TYPE(value, __u64);
} opened SEC(".maps");

/* When each was told of in `stales`. */
struct {
    NUMBER(type, BPF_MAP_TYPE_LRU_HASH);
    NUMBER(max_entries, 1024);
    TYPE(key, struct stale);
    TYPE(value, __u64);
} reminded SEC(".maps");

struct {
    NUMBER(type, BPF_MAP_TYPE_RINGBUF);
    NUMBER(max_entries, 16384);
} stales SEC(".maps");

INLINE void count_by(__u32 counter, __u64 amount) {
    __u64 *value = map_lookup(&counters, &counter);
    if (value) *value += amount;
}

INLINE void count(__u32 counter) {
    count_by(counter, 1);
}

INLINE int drop(__u32 reason) {
    count(reason);
    return TC_ACT_SHOT;
}

#endif
