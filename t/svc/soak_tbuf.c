/* SPDX-License-Identifier: Apache-2.0 */
/*
 * soak_tbuf [STEPS [SEED]]: random operations on a trace buffer and on its reference model, default
 * 10 million steps. A new pair every few thousand steps. Ends with status 1 and the seed of the
 * pair at the first difference; `soak_tbuf STEPS SEED` runs that pair first.
 */
#include <stdio.h>
#include <stdlib.h>

#include "tbuf_drive.h"

#define STEPS_PER_PAIR 4000

static uint32_t generate(void *arg)
{
    uint64_t *x = arg;
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return (uint32_t)(*x >> 16);
}

int main(int argc, char **argv)
{
    uint64_t steps = argc > 1 ? strtoull(argv[1], NULL, 10) : 10000000;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    uint64_t done = 0;
    uint64_t packets = 0;
    for (; done < steps; seed++) {
        uint64_t state = seed * 0x9E3779B97F4A7C15u + 1;
        struct drive *d = drive_new((struct drive_source){generate, &state});
        if (d == NULL)
            return 99;
        for (uint64_t i = 0; i < STEPS_PER_PAIR && done < steps; i++, done++) {
            const char *bad = drive_step(d);
            if (bad != NULL) {
                printf("soak_tbuf: seed %llu, %s\n", (unsigned long long)seed, bad);
                return 1;
            }
        }
        packets += drive_packets(d);
        drive_free(d);
    }
    printf("soak_tbuf: %llu steps, %llu packets, no difference\n", (unsigned long long)done,
           (unsigned long long)packets);
    return 0;
}
