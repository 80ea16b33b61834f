/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_FILTER_H
#define SVC_FILTER_H

/*
 * The trace filter of a session: bytecode that says which fields may pass, and string rules that
 * redact (service.md section 8). One per session; a clone gets its own copy.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "reactor/bytes.h"
#include "svc/packet.h"

struct filter;

/* Numbers of FilterStats (R138), scalar fields. */
struct filter_stats {
    uint64_t input_packets;
    uint64_t input_bytes;
    uint64_t output_bytes;
    uint64_t errors;
    uint64_t time_taken_ns;
    const uint64_t *discarded_per_buffer; /* borrow: until the next packet */
    size_t buffers;                       /* entries of that array: highest buffer seen + 1 */
};

/* Builds the filter from an encoded TraceFilter message (R139-R148). *out: own, filter_free.
 * ERR_BAD_CONFIG with one line in why (whylen bytes, NUL-terminated) when it is invalid (V21);
 * -ENOMEM. The message is not needed afterwards. */
int filter_new(struct bytes_view trace_filter, struct filter **out, char *why, size_t whylen);
void filter_free(struct filter *f); /* NULL allowed */

/* Begins a batch: what came out before is no longer needed. Not while a packet is at work. */
void filter_begin(struct filter *f);

/* Takes one packet to be filtered (R136): a copy of its bytes. 0 or -ENOMEM. */
int filter_take(struct filter *f, const struct packet *in);

/* The same for n bytes that are filtered where they are; they belong to the caller, who leaves them
 * alone until the packet is done. */
void filter_take_place(struct filter *f, uint8_t *p, size_t n, int buffer);

/* Filters some of the packet that was taken. Takes of *work what it needs: FILTER_UNIT bytes moved
 * or an instruction of svc/rex are one, some nanoseconds; false when *work is spent and the packet
 * not done: call again. Then *out describes it: one piece, valid until filter_begin, or none when
 * everything was removed, or when it did not parse or took too much work (*failed says so, R137).
 */
#define FILTER_UNIT 32
bool filter_step(struct filter *f, uint64_t *work, struct packet *out, bool *failed);

/* The trace_stats packet is counted but not filtered (R138). */
void filter_count_stats_packet(struct filter *f, size_t size);

void filter_get_stats(const struct filter *f, struct filter_stats *out);

#endif
