/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_LIGHT_H
#define CLI_LIGHT_H

/* The light form: a TraceConfig from a few options and words (rules R401..R415). */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "reactor/bytesbuf.h"

#define LIGHT_TIME   "10s"  /* default of --time */
#define LIGHT_BUFFER "32mb" /* default of --buffer */

struct light {
    const char *time, *buffer, *size; /* borrow: as typed; NULL for the default */
    const char *const *apps;          /* borrow */
    size_t n_apps;
    const char *const *words; /* borrow: events and categories in order */
    size_t n_words;
    bool harness; /* recording lasts as long as a command: no time unless given, and track events */
};

/* "5s", "100ms", "0" or "" -> milliseconds (R401, R402). False if it is no duration, or one above
 * 2^32 - 1 ms. */
bool light_duration_ms(const char *text, uint32_t *ms);

/* "32mb", "1g", "0" or "" -> kilobytes. False if it is no size. */
bool light_size_kb(const char *text, uint64_t *kb);

/* Appends the encoded config to out. 0, or -EINVAL with one line in err that names the option. */
int light_config(const struct light *l, struct bytesbuf *out, char *err, size_t errlen);

#endif
