/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small things that both socket transports need. Requests are read field by field instead of
 * decoded into structs, because most of them are handed on in their encoded form anyway. Owns
 * nothing but the charge of each connection, which lives in the connection's user pointer.
 */
#include "svc/portlib.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "reactor/alloc.h"
#include "reactor/bytesbuf.h"
#include "reactor/charge.h"
#include "reactor/err.h"
#include "reactor/log.h"

uint64_t portlib_take_reply(struct rpc_call *call)
{
    struct rpc_reply r = rpc_reply_move(&call->reply);
    if (r.dropped)
        return 0;
    /* Ids come from the peer. The very last one shares its cookie with the one before; who uses
     * both at once confuses nobody but itself. */
    return r.request_id == UINT64_MAX ? UINT64_MAX : r.request_id + 1;
}

struct rpc_reply portlib_reply(struct rpc_host *host, uint64_t conn, uint64_t cookie)
{
    return (struct rpc_reply){.host = host, .conn = conn, .request_id = cookie - 1};
}

int portlib_submessage(struct bytes_view msg, uint32_t field, struct msg_body *out)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field f;
    struct bytesbuf b;
    bytesbuf_init(&b, msg.n);
    while (bytes_next(&cur, &f)) {
        if (f.id == field && f.type == BYTES_LEN)
            bytesbuf_put(&b, f.data.p, f.data.n);
    }
    int err = !bytes_done(&cur) ? ERR_BAD_REQUEST : b.failed ? -ENOMEM : 0;
    if (!err)
        out->p = bytesbuf_take(&b, &out->n);
    bytesbuf_fini(&b);
    return err;
}

int portlib_numbers(struct bytes_view msg, uint64_t *out, uint32_t n)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field f;
    for (uint32_t i = 0; i < n; i++)
        out[i] = 0;
    while (bytes_next(&cur, &f)) {
        if (f.id <= n && f.type == BYTES_VARINT)
            out[f.id - 1] = f.num;
    }
    return bytes_done(&cur) ? 0 : ERR_BAD_REQUEST;
}

uid_t portlib_payer(const struct rpc_conn *conn)
{
    return rpc_conn_has_fds(conn) ? rpc_conn_cred(conn)->uid : CHARGE_STRANGERS;
}

/* What a connection is charged. */
struct charges {
    struct charge connection, queues;
};

/* Why it was refused, for the peer and the log. */
static void explain(const struct charge_book *book, uid_t uid, char *why, size_t len)
{
    unsigned long long n = charge_balance(book, uid, CHARGE_CONNECTIONS);
    if (uid == CHARGE_STRANGERS)
        snprintf(why, len,
                 "network peers have %llu connections already, which is the limit; close some, "
                 "or raise traced --limit-connections",
                 n);
    else
        snprintf(why, len,
                 "uid %u has %llu connections already, which is its limit; close some, or "
                 "raise traced --limit-connections",
                 (unsigned)uid, n);
}

int portlib_admit(void *book, struct rpc_conn *conn, char *why, size_t len)
{
    uid_t uid = portlib_payer(conn);
    struct charges *c = alloc_new(struct charges);
    int err = charge_take(book, &c->connection, uid, CHARGE_CONNECTIONS, 1);
    if (err)
        explain(book, uid, why, len);
    else
        err = charge_take(book, &c->queues, uid, CHARGE_QUEUE_BYTES, 0);
    if (err) {
        charge_release(&c->connection);
        free(c);
        return err;
    }
    rpc_conn_set_held(conn, &c->queues);
    rpc_conn_set_host_user(conn, c);
    return 0;
}

void portlib_gone(void *book, struct rpc_conn *conn)
{
    struct charges *c = rpc_conn_host_user(conn);
    (void)book;
    if (!c)
        return;
    charge_release(&c->connection);
    charge_release(&c->queues);
    free(c);
    rpc_conn_set_host_user(conn, NULL);
}
