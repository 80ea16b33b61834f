/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chaff: one producer process of a crowd, for t/system/chaos.py.
 *
 *   chaff SOCKET NAME UID PERIOD_MS SOURCE...
 *
 * It becomes UID, registers the data sources, and while they are recorded writes numbered packets
 * from 0 up on a sequence of its own for each instance, a few each period. Now and then it leaves a
 * chunk open, so that its death leaves something to scrape. It drops nothing: without a free chunk
 * it waits. Ends with 0 when the service hangs up.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <signal.h>
#include <unistd.h>

#include "t/support/rawpeer.h"

int main(int argc, char **argv)
{
    struct rawprod p;
    if (argc < 6) {
        fprintf(stderr, "usage: chaff SOCKET NAME UID PERIOD_MS SOURCE...\n");
        return 2;
    }
    uid_t uid = (uid_t)atol(argv[3]);
    int period = atoi(argv[4]);
    if (uid != getuid() && setresuid(uid, uid, uid) != 0) {
        perror("setresuid");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    srandom((unsigned)getpid());
    if (!rawprod_open(&p, argv[1], argv[2], argv + 5, argc - 5))
        return 0;
    while (rawprod_serve(&p, period)) {
        for (int i = 0; p.smb && i < RAWPROD_WRITERS; i++) {
            if (p.writers[i].instance)
                rawprod_write(&p, &p.writers[i], 1 + (unsigned)random() % 6, (size_t)random() % 100,
                              random() % 3 != 0);
        }
        if (p.commit.n && !rawprod_commit(&p, false))
            break;
    }
    rawprod_close(&p);
    return 0;
}
