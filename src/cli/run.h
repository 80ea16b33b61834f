/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_RUN_H
#define CLI_RUN_H

/* Carries out a command line that talks to a tracing service. */

#include "cli/cmdline.h"

/* Records, detaches, attaches, probes (record), saves clones (clone, save-all), or sends the
 * triggers of a config. Returns the exit code. */
int run_record(struct cmdline *cl);
int run_clone(struct cmdline *cl);
int run_save_all(struct cmdline *cl);
int run_triggers(struct cmdline *cl);

#endif
