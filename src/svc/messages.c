/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table that the reactor's mailboxes need to carry the messages of svc/messages.h: how large
 * each is, what it owns and how to free it, what it weighs against a mailbox's cap. Owned by
 * nobody, const; it must name every kind of MSG_TABLE and never hold behaviour.
 */
#include "svc/messages.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "reactor/alloc.h"
#include "svc/dsconfig.h"

/* What a payload struct owns, one pair of functions for each struct. */

static void empty_fini(void *payload)
{
    (void)payload;
}

static size_t empty_weight(const void *payload)
{
    (void)payload;
    return 0;
}

static void request_fini(void *payload)
{
    struct msg_request *m = payload;
    free(m->body.p);
}

static size_t request_weight(const void *payload)
{
    const struct msg_request *m = payload;
    return m->body.n;
}

static void reply_fini(void *payload)
{
    struct msg_reply *m = payload;
    free(m->body.p);
}

static size_t reply_weight(const void *payload)
{
    const struct msg_reply *m = payload;
    return m->body.n;
}

static void config_fini(void *payload)
{
    struct msg_config *m = payload;
    dsconfig_unref(m->config);
}

static size_t config_weight(const void *payload)
{
    const struct msg_config *m = payload;
    return m->config ? m->config->n : 0;
}

static void shmem_fini_fd(void *payload)
{
    struct msg_shmem *m = payload;
    if (m->fd >= 0)
        close(m->fd);
}

static void flush_command_fini(void *payload)
{
    struct msg_flush_command *m = payload;
    free(m->ids);
}

static size_t flush_command_weight(const void *payload)
{
    const struct msg_flush_command *m = payload;
    return m->nids * sizeof(*m->ids);
}

static void enable_fini(void *payload)
{
    struct msg_enable *m = payload;
    free(m->body.p);
    if (m->fd >= 0)
        close(m->fd);
}

static size_t enable_weight(const void *payload)
{
    const struct msg_enable *m = payload;
    return m->body.n;
}

#define OWNS_msg_empty         empty_fini, empty_weight
#define OWNS_msg_request       request_fini, request_weight
#define OWNS_msg_writer        empty_fini, empty_weight
#define OWNS_msg_instance      empty_fini, empty_weight
#define OWNS_msg_reply         reply_fini, reply_weight
#define OWNS_msg_config        config_fini, config_weight
#define OWNS_msg_shmem         shmem_fini_fd, empty_weight
#define OWNS_msg_flush_command flush_command_fini, flush_command_weight
#define OWNS_msg_close         empty_fini, empty_weight
#define OWNS_msg_enable        enable_fini, enable_weight
#define OWNS_msg_flush_request empty_fini, empty_weight
#define OWNS_msg_observe       empty_fini, empty_weight
#define OWNS_msg_query         empty_fini, empty_weight
#define OWNS_msg_ack           empty_fini, empty_weight

static const struct mailbox_kind kinds[MSG_KINDS] = {
#define MSG_X(kind, type) [kind] = {#kind, sizeof(struct type), OWNS_##type},
    MSG_TABLE(MSG_X)
#undef MSG_X
};

#define MSG_X(kind, type)                                                                          \
    _Static_assert(sizeof(struct type) <= MAILBOX_PAYLOAD, #type " does not fit a mailbox");
MSG_TABLE(MSG_X)
#undef MSG_X

const struct mailbox_table msg_table = {kinds, MSG_KINDS};

void msg_forget(struct mailbox_msg *m)
{
    memset(m->data, 0, m->size);
    if (m->kind == MSG_PP_SETUP_TRACING)
        ((struct msg_shmem *)(void *)m->data)->fd = -1;
    else if (m->kind == MSG_C_ENABLE || m->kind == MSG_C_CLONE)
        ((struct msg_enable *)(void *)m->data)->fd = -1;
}

int msg_body_copy(struct msg_body *body, const void *p, size_t n)
{
    struct msg_body b = {NULL, 0};
    if (n > 0) {
        b.p = alloc_try(n);
        if (!b.p)
            return -ENOMEM;
        memcpy(b.p, p, n);
        b.n = n;
    }
    *body = b;
    return 0;
}

void msg_post_result(struct reactor *r, uint64_t to, uint64_t from, enum msg_kind kind,
                     uint64_t cookie, bool ok)
{
    struct msg_reply m = {.cookie = cookie, .ok = ok};
    if (cookie != 0)
        ACTOR_POST(r, to, from, kind, &m);
}

void msg_post_reply(struct reactor *r, uint64_t to, uint64_t from, uint64_t cookie,
                    struct msg_body body, bool more)
{
    struct msg_reply m = {.cookie = cookie, .body = body, .ok = true, .more = more};
    if (cookie == 0)
        free(body.p);
    else
        ACTOR_POST(r, to, from, MSG_CP_REPLY, &m);
}
