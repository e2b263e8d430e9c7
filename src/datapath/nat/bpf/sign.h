/* The sign of death: the main thread of the process that leads the program has ended. It comes tens
 * of microseconds after a SIGKILL, before any file of the process is closed. */
#ifndef TANDEM_SIGN_H
#define TANDEM_SIGN_H

#include "maps.h"

SEC("raw_tp/sched_process_exit")
int tandem_sign(void *ctx) {
    __u32 zero = 0;
    struct life *process = map_lookup(&life, &zero);
    struct bpf_pidns_info now = {};
    if (!process || !process->pid) return 0;
    if (current_in_ns(process->dev, process->ino, &now, sizeof(now))) return 0;
    if (now.pid == process->pid && now.tgid == process->pid) process->dead = 1;
    return 0;
}

#endif
