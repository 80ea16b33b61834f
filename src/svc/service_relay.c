/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What relay connections told about their machines (service.md section 14): system info and the
 * last few clock exchanges, kept while the connection is open, listed by machine and then by
 * connection, so that of several connections of one machine the oldest one with data speaks. Sizes
 * are bounded by the frame that brought them.
 */
#include <stdlib.h>
#include <string.h>

#include "reactor/alloc.h"
#include "svc/service_int.h"

static struct service_relay *find(struct service *svc, uint32_t machine_id, uint64_t connection)
{
    list_for_each (it, &svc->relays) {
        struct service_relay *r = list_entry(it, struct service_relay, node);
        if (r->machine_id == machine_id && r->connection == connection)
            return r;
    }
    return NULL;
}

/* Finds the entry or makes it: either method may be the first (ipc.md R115). */
static struct service_relay *find_or_make(struct service *svc, uint32_t machine_id,
                                          uint64_t connection)
{
    struct service_relay *r = find(svc, machine_id, connection);
    if (r)
        return r;
    r = alloc_new(struct service_relay);
    r->machine_id = machine_id;
    r->connection = connection;
    struct list *at = svc->relays.next;
    while (at != &svc->relays) {
        const struct service_relay *o = list_entry(at, struct service_relay, node);
        if (o->machine_id > machine_id ||
            (o->machine_id == machine_id && o->connection > connection))
            break;
        at = at->next;
    }
    list_push_back(at, &r->node);
    return r;
}

int service_relay_init(struct service *svc, uint32_t machine_id, uint64_t connection,
                       struct bytes_view system_info)
{
    struct msg_body copy;
    int err = msg_body_copy(&copy, system_info.p, system_info.n);
    if (err)
        return err;
    struct service_relay *r = find_or_make(svc, machine_id, connection);
    free(r->system_info.p);
    r->system_info = copy;
    return 0;
}

int service_relay_clock(struct service *svc, uint32_t machine_id, uint64_t connection,
                        struct bytes_view request)
{
    struct clocksnap now;
    struct msg_body copy;
    clocksnap_take(&now);
    int err = msg_body_copy(&copy, request.p, request.n);
    if (err)
        return err;
    struct service_relay *r = find_or_make(svc, machine_id, connection);
    if (r->nclocks == SERVICE_RELAY_CLOCKS) {
        free(r->requests[0].p);
        r->nclocks--;
        memmove(r->requests, r->requests + 1, r->nclocks * sizeof(r->requests[0]));
        memmove(r->clocks, r->clocks + 1, r->nclocks * sizeof(r->clocks[0]));
    }
    r->requests[r->nclocks] = copy;
    r->clocks[r->nclocks] = now;
    r->nclocks++;
    return 0;
}

static void relay_free(struct service_relay *r)
{
    list_remove(&r->node);
    free(r->system_info.p);
    for (uint32_t i = 0; i < r->nclocks; i++)
        free(r->requests[i].p);
    free(r);
}

void service_relay_gone(struct service *svc, uint32_t machine_id, uint64_t connection)
{
    struct service_relay *r = find(svc, machine_id, connection);
    if (r)
        relay_free(r);
}

void service_relay_forget(struct service *svc)
{
    while (!list_empty(&svc->relays))
        relay_free(list_first(&svc->relays, struct service_relay, node));
}
