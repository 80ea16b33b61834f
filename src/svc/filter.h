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

/* Begins a batch: what filter_packet gave before is no longer needed. */
void filter_begin(struct filter *f);

/* Filters one packet (R136, R137). *out describes the result: pieces in memory of the filter, valid
 * until filter_begin, empty when everything was removed, or the packet did not parse or took too
 * much work (*failed then says so; it may be NULL). 0 or -ENOMEM. */
int filter_packet(struct filter *f, const struct packet *in, struct packet *out, bool *failed);

/* The trace_stats packet is counted but not filtered (R138). */
void filter_count_stats_packet(struct filter *f, size_t size);

void filter_get_stats(const struct filter *f, struct filter_stats *out);

#endif
