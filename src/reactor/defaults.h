/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REACTOR_DEFAULTS_H
#define REACTOR_DEFAULTS_H

/*
 * Every number that a person may want to look up in a man page or change in a build, in one place.
 * Numbers that are ABI (layouts, frame sizes) live beside their layouts, not here. Rules are those
 * of spec/service.md.
 */

/* The loop. */
#define DEFAULTS_ACTOR_BUDGET     64u               /* messages of one actor per tick */
#define DEFAULTS_SLICE_LIMIT_NS   UINT64_C(2000000) /* no callback may hold the loop longer */
#define DEFAULTS_TASK_BUDGET_NS   UINT64_C(1000000) /* what a timed task plans for one slice */
#define DEFAULTS_TASK_BUDGET_SIZE (1024u * 1024u)   /* bytes a timed task plans for one slice */
#define DEFAULTS_AT_ONCE_NS       UINT64_C(250000)  /* what is begun in the message that asks */
#define DEFAULTS_MAILBOX_COUNT    4096u             /* messages waiting for one actor */
#define DEFAULTS_MAILBOX_BYTES    (4u << 20)        /* what they may weigh */
#define DEFAULTS_LOG_BURST        10u /* equal lines per window before they are counted */
#define DEFAULTS_LOG_WINDOW_NS    UINT64_C(5000000000) /* that window */

/* What one uid may hold. Generous: they stop a runaway program, not a busy machine. */
#define DEFAULTS_UID_CONNECTIONS  8192u
#define DEFAULTS_UID_SESSIONS     5u  /* V19 */
#define DEFAULTS_MAX_SESSIONS     15u /* V20, over all uids */
#define DEFAULTS_UID_SMB_BYTES    (UINT64_C(8) << 30)
#define DEFAULTS_UID_BUFFER_BYTES (UINT64_C(16) << 30)
#define DEFAULTS_UID_SOURCE_BYTES (UINT64_C(64) << 20)
#define DEFAULTS_UID_QUEUE_BYTES  (UINT64_C(1) << 30)
#define DEFAULTS_UID_FILES        64u /* being written; above what sessions have, for disks that stall */

/* Shared memory of a producer. */
#define DEFAULTS_SMB_SIZE (256u * 1024u) /* R55 */
#define DEFAULTS_SMB_PAGE 4096u          /* R55 */
#define DEFAULTS_SMB_MAX  (32u << 20)    /* R55 */

/* Sessions, milliseconds. */
#define DEFAULTS_FLUSH_TIMEOUT_MS  5000u      /* R94 */
#define DEFAULTS_STOP_TIMEOUT_MS   5000u      /* R31 */
#define DEFAULTS_SLOW_START_MS     20000u     /* R23 */
#define DEFAULTS_DRAIN_MS          5000u      /* R163: period of writing into a file */
#define DEFAULTS_DRAIN_MIN_MS      100u       /* R163 */
#define DEFAULTS_SNAPSHOT_MS       10000u     /* R21: period of clock snapshots */
#define DEFAULTS_AUTO_FLUSH_MS     5000u      /* section 10.2 */
#define DEFAULTS_MAX_DURATION_MS   604800000u /* V2 */
#define DEFAULTS_GUARD_DURATION_MS 86400000u  /* V2, with guardrails */
#define DEFAULTS_MAX_BUFFERS       128u       /* V11 */
#define DEFAULTS_MAX_BUFFER_KB     4194303u   /* V25 */
#define DEFAULTS_GUARD_BUFFERS_KB  131072u    /* V10c, with guardrails */
#define DEFAULTS_MAX_FLUSHES       1000u      /* R93: pending at a time */

/* A peer that does not read is dropped after this long, milliseconds. */
#define DEFAULTS_PRODUCER_SEND_MS 10u    /* R49 */
#define DEFAULTS_CONSUMER_SEND_MS 10000u /* R49 */

/* Sockets. A queue is checked before each frame, so one frame may reach over its cap. */
#define DEFAULTS_IPC_OUT_CAP         (1u << 20) /* bytes that may wait for one peer */
#define DEFAULTS_IPC_READ_BUDGET     65536u     /* bytes read from one peer per tick */
#define DEFAULTS_IPC_LAST_READ       (1u << 20) /* read from a peer that is being dropped */
#define DEFAULTS_IPC_ACCEPT_BURST    32u        /* connections accepted per tick and listener */
#define DEFAULTS_IPC_FD_RESERVE      32u        /* descriptors that accepting leaves to the rest */
#define DEFAULTS_IPC_ACCEPT_RETRY_MS 250u /* accepting tries again, when descriptors ran low */

#endif
