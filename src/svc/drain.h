/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_DRAIN_H
#define SVC_DRAIN_H

/*
 * The drain: one timed task that works off what producers have committed, in slices, a little of
 * each producer in turn (service.md section 5). Within one commit all moves come before all
 * patches, then the flush ack, then the reply (R76); behind a commit everything its producer sent
 * waits in order.
 */

#include <stdint.h>

#include "smb/scan.h"

struct list;
struct mailbox_msg;
struct producer;
struct service;

void drain_init(struct service *svc);
void drain_fini(struct service *svc);

/* A message for its turn: at once when nothing waits and it is not long, else behind what waits.
 * What the payload owns is taken. */
void drain_push(struct producer *p, struct mailbox_msg *m);

/* The instance at that node of producer.instances is about to go. */
void drain_pass(struct producer *p, struct list *node);

/* Forgets a producer that is being destroyed. */
void drain_forget(struct producer *p);

/* Copies one chunk into the trace buffer with that global id after the checks of R81. Returns what
 * it cost, in bytes of a slice's budget. */
size_t drain_copy(struct producer *p, uint16_t buffer, const struct scan_chunk *c);

#endif
