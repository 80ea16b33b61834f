/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_TRIM_H
#define SVC_TRIM_H

/*
 * Gives back the pages that starting up has touched and an idle service does not need.
 */

/* Drops the clean pages of all loaded code and constants; they come back from the files when they
 * are used. To be called once, when start-up is over. */
void trim_startup(void);

#endif
