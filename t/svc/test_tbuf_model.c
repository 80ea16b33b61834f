/* SPDX-License-Identifier: Apache-2.0 */
/* Random operations on the trace buffer and on its reference model: 100 thousand steps. The soak
 * program runs ten million. */
#include <criterion/criterion.h>

#include "tbuf_drive.h"

#define PAIRS          25
#define STEPS_PER_PAIR 4000

static uint32_t generate(void *arg)
{
    uint64_t *x = arg;
    *x = *x * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*x >> 33);
}

Test(tbuf_model, a_hundred_thousand_steps)
{
    uint64_t packets = 0;
    for (uint64_t seed = 1; seed <= PAIRS; seed++) {
        uint64_t state = seed;
        struct drive *d = drive_new((struct drive_source){generate, &state});
        cr_assert_not_null(d);
        for (int i = 0; i < STEPS_PER_PAIR; i++) {
            const char *bad = drive_step(d);
            cr_assert_null(bad, "seed %llu, %s", (unsigned long long)seed, bad);
        }
        packets += drive_packets(d);
        drive_free(d);
    }
    cr_assert_gt(packets, 10000, "only %llu packets came out", (unsigned long long)packets);
}
