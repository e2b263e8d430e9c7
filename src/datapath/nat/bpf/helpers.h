/* What the program needs of the kernel's helpers and of libbpf's conventions, and no more. */
#ifndef TANDEM_HELPERS_H
#define TANDEM_HELPERS_H

#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
/* With a stack of its own: 512 bytes are all that one has. */
#define APART static __attribute__((noinline))
/* The same, and the verifier looks at it once, not once for each way that leads to it. Its pointers
 * may be anything to it, so it asks for each whether there is one, and kernels before 6.3 take
 * nothing that they point to for a key of a map, nor for a value to write: it is copied first. */
#define ONCE __attribute__((noinline))

/* A map, described by types: the loader reads them from BTF. */
#define NUMBER(name, value) int(*name)[value]
#define TYPE(name, value) typeof(value) *name

static void *(*const map_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
/* An int: kernels before 6.4 leave the upper half of a negative result empty. */
static int (*const map_update)(void *map, const void *key, const void *value,
                               __u64 flags) = (void *)BPF_FUNC_map_update_elem;
static long (*const map_delete)(void *map, const void *key) = (void *)BPF_FUNC_map_delete_elem;
static __u64 (*const coarse_clock)(void) = (void *)BPF_FUNC_ktime_get_coarse_ns;
static __u32 (*const prandom)(void) = (void *)BPF_FUNC_get_prandom_u32;
static long (*const l4_csum_replace)(struct __sk_buff *skb, __u32 offset, __u64 from, __u64 to,
                                     __u64 flags) = (void *)BPF_FUNC_l4_csum_replace;
static long (*const load_bytes)(const void *skb, __u32 offset, void *to,
                                __u32 len) = (void *)BPF_FUNC_skb_load_bytes;
static long (*const store_bytes)(struct __sk_buff *skb, __u32 offset, const void *from, __u32 len,
                                 __u64 flags) = (void *)BPF_FUNC_skb_store_bytes;
static long (*const redirect_neigh)(__u32 ifindex, void *params, int size,
                                    __u64 flags) = (void *)BPF_FUNC_redirect_neigh;
static long (*const change_type)(struct __sk_buff *skb,
                                 __u32 type) = (void *)BPF_FUNC_skb_change_type;
static long (*const redirect)(__u32 ifindex, __u64 flags) = (void *)BPF_FUNC_redirect;
static struct bpf_sock *(*const skc_lookup_tcp)(void *ctx, struct bpf_sock_tuple *tuple,
                                                __u32 size, __u64 netns,
                                                __u64 flags) = (void *)BPF_FUNC_skc_lookup_tcp;
static long (*const sk_release)(void *sock) = (void *)BPF_FUNC_sk_release;
static long (*const current_in_ns)(__u64 dev, __u64 ino, struct bpf_pidns_info *info,
                                   __u32 size) = (void *)BPF_FUNC_get_ns_current_pid_tgid;
static void *(*const ring_reserve)(void *ring, __u64 size,
                                   __u64 flags) = (void *)BPF_FUNC_ringbuf_reserve;
static void (*const ring_submit)(void *data, __u64 flags) = (void *)BPF_FUNC_ringbuf_submit;
static __u64 (*const ring_query)(void *ring, __u64 flags) = (void *)BPF_FUNC_ringbuf_query;

/* Values of a packet at an offset, by pointer where they are near its beginning and in the linear
 * area, as headers nearly always are; else by helpers, which cost more. 0, or an error. A pointer
 * lasts until a helper changes the packet, so each access makes its own.
 * Since the program writes directly, the kernel sees to it that the linear area is ours alone
 * before the program runs, and drops the packet itself if it has no memory for that. */
#define NEAR 256
#define GET(ctx, at, to)                                                                         \
    ({                                                                                           \
        __u32 at_ = (at);                                                                        \
        typeof(to) from_ = (void *)(long)(ctx)->data + at_;                                      \
        long failed_ = 0;                                                                        \
        if (at_ < NEAR && (void *)(from_ + 1) <= (void *)(long)(ctx)->data_end)                  \
            *(to) = *from_;                                                                      \
        else                                                                                     \
            failed_ = load_bytes(ctx, at_, to, sizeof(*(to)));                                   \
        failed_;                                                                                 \
    })
#define PUT(ctx, at, from)                                                                       \
    ({                                                                                           \
        __u32 at_ = (at);                                                                        \
        typeof(*(from)) *to_ = (void *)(long)(ctx)->data + at_;                                  \
        long failed_ = 0;                                                                        \
        if (at_ < NEAR && (void *)(to_ + 1) <= (void *)(long)(ctx)->data_end)                    \
            *to_ = *(from);                                                                      \
        else                                                                                     \
            failed_ = store_bytes(ctx, at_, from, sizeof(*(from)), 0);                           \
        failed_;                                                                                 \
    })

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define BE16(x) ((__u16)__builtin_bswap16(x))
#define BE32(x) ((__u32)__builtin_bswap32(x))
#else
#define BE16(x) ((__u16)(x))
#define BE32(x) ((__u32)(x))
#endif

#endif
