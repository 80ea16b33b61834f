/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_FILEHOST_H
#define SVC_FILEHOST_H

/*
 * The service's side of the processes that write regular files (svc/filejob.h): keeps the host
 * running and asks it for a child for each file.
 */

struct charge;
struct filehost;
struct reactor;

/* Nothing runs yet. Own, filehost_free. */
struct filehost *filehost_new(void);

/* Forks the host, unless it runs. Best while the process is small and has few descriptors; a host
 * that is needed and does not run is started then. 0 or -errno. */
int filehost_start(struct filehost *h);

/* The host ends, children go on until their files are written. NULL allowed. */
void filehost_free(struct filehost *h);

/* A child for one file: the write end of its pipe, which does not block, and its control socket,
 * on which it waits for FILEJOB_START. The caller owns both. 0 or -errno; -EAGAIN when very many
 * are being started. */
int filehost_child(struct filehost *h, int *data, int *ctl);

/* Nobody is interested in a child any more. It is told, and what it charges is given back when it
 * has ended, which a disk may put off. Takes ctl and what is in *charge. */
void filehost_abandon(struct filehost *h, struct reactor *r, int ctl, struct charge *charge);

#endif
