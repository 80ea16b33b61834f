/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_PORTLIB_H
#define SVC_PORTLIB_H

/*
 * What the two socket transports share: cookies that name pending requests, sub-messages cut out of
 * requests without generated code, and the charge that each connection pays.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "ipc/rpc_host.h"
#include "svc/messages.h"

struct charge_book;

/* Takes the duty to answer out of a call and returns its cookie: 0 when no answer is wanted. All
 * that a cookie needs is the request id, so nothing is kept for it. */
uint64_t portlib_take_reply(struct rpc_call *call);

/* The pending reply that a cookie stands for. */
struct rpc_reply portlib_reply(struct rpc_host *host, uint64_t conn, uint64_t cookie);

/* A copy of the sub-message in `field` of an encoded message: all its occurrences one after the
 * other, as protobuf merges them. Empty when there is none. 0; ERR_BAD_REQUEST when msg does not
 * parse; -ENOMEM. */
int portlib_submessage(struct bytes_view msg, uint32_t field, struct msg_body *out);

/* Numbers of the first n fields (1 .. n) of a message; absent ones and other wire types are 0. 0 or
 * ERR_BAD_REQUEST. */
int portlib_numbers(struct bytes_view msg, uint64_t *out, uint32_t n);

/* Who pays for a connection: its uid, or CHARGE_STRANGERS when it comes over a network. */
uid_t portlib_payer(const struct rpc_conn *conn);

/* For rpc_host_conf: charges a connection and its queues, and gives them back. arg is the
 * charge_book. */
int portlib_admit(void *book, struct rpc_conn *conn, char *why, size_t len);
void portlib_gone(void *book, struct rpc_conn *conn);

#endif
