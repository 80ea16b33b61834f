/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether a new session may exist beside the others: the checks V14 to V20 of service.md R12, in
 * order, with the one side effect in their midst: an exclusive session ends all others before the
 * later checks can refuse it (Q1). The cooldown table belongs to the service and forgets after 300
 * s.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "reactor/err.h"
#include "svc/service_int.h"
#include "svc/session_int.h"

#define COOLDOWN_S     300  /* V18 */
#define MAX_COOLDOWNS  1024 /* guarded names remembered by the service; the oldest go */
#define MAX_SEMAPHORES 256  /* of one config: each is looked for in every other session */

struct refusal {
    char *why;
    size_t len;
};

static int refuse(struct refusal *r, int err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static int refuse(struct refusal *r, int err, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(r->why, r->len, fmt, ap);
    va_end(ap);
    return err;
}

#define NAME(v) (int)((v).n < 64 ? (v).n : 64), (const char *)((v).n ? (v).p : (const uint8_t *)"")

/* V14, and the abort of the others (R19). */
static int check_exclusive(struct service *svc, const struct tracecfg *cfg, struct refusal *r)
{
    uint32_t highest = 0;
    list_for_each (it, &svc->sessions) {
        const struct session *s = list_entry(it, struct session, node);
        if (s->cfg->exclusive_prio > highest)
            highest = s->cfg->exclusive_prio;
    }
    if (highest > 0 && highest >= cfg->exclusive_prio)
        return refuse(r, ERR_FORBIDDEN,
                      "An exclusive session with priority %u >= requested priority %u is already "
                      "active.",
                      highest, cfg->exclusive_prio);
    if (cfg->exclusive_prio == 0)
        return 0;
    char text[128];
    snprintf(text, sizeof(text),
             "Aborted due to user requested higher-priority (%u) exclusive session.",
             cfg->exclusive_prio);
    while (!list_empty(&svc->sessions))
        session_free(list_first(&svc->sessions, struct session, node), text);
    return 0;
}

static int check_unique_name(struct service *svc, const struct tracecfg *cfg, struct refusal *r)
{
    list_for_each (it, &svc->sessions) {
        const struct session *s = list_entry(it, struct session, node);
        if (cfg->unique_session_name.n && s->state != SESSION_CLONED &&
            bytes_equal(s->cfg->unique_session_name, cfg->unique_session_name))
            return refuse(r, ERR_DUPLICATE,
                          "a session named \"%.*s\" exists already; stop and free it first",
                          NAME(cfg->unique_session_name));
    }
    return 0;
}

/* The entry of a session's config for a semaphore, or NULL. */
static const struct tracecfg_semaphore *semaphore(const struct tracecfg *cfg,
                                                  struct bytes_view name)
{
    for (size_t i = 0; i < cfg->nsemaphores; i++) {
        if (bytes_equal(cfg->semaphores[i].name, name))
            return &cfg->semaphores[i];
    }
    return NULL;
}

static bool is_active(const struct session *s)
{
    return s->state == SESSION_CONFIGURED || s->state == SESSION_STARTED ||
           s->state == SESSION_STOP_WAIT;
}

static int check_semaphores(struct service *svc, const struct tracecfg *cfg, struct refusal *r)
{
    if (cfg->nsemaphores > MAX_SEMAPHORES)
        return refuse(r, ERR_BAD_CONFIG, "%zu session semaphores; a session may have %d",
                      cfg->nsemaphores, MAX_SEMAPHORES);
    for (size_t i = 0; i < cfg->nsemaphores; i++) { /* R18 */
        const struct tracecfg_semaphore *mine = &cfg->semaphores[i];
        uint64_t others = 0, allowed = mine->max_other_session_count;
        list_for_each (it, &svc->sessions) {
            const struct session *s = list_entry(it, struct session, node);
            const struct tracecfg_semaphore *theirs =
                is_active(s) ? semaphore(s->cfg, mine->name) : NULL;
            if (!theirs)
                continue;
            others++;
            if (theirs->max_other_session_count < allowed)
                allowed = theirs->max_other_session_count;
        }
        if (others > allowed)
            return refuse(r, ERR_QUOTA,
                          "session semaphore \"%.*s\" is taken: %llu other sessions hold it, %llu "
                          "are allowed",
                          NAME(mine->name), (unsigned long long)others,
                          (unsigned long long)allowed);
    }
    return 0;
}

static void cooldown_free(struct service *svc, struct service_cooldown *c)
{
    list_remove(&c->node);
    svc->ncooldowns--;
    free(c);
}

/* V18, R20. The entry is written here even if a later check refuses. */
static int check_cooldown(struct service *svc, const struct tracecfg *cfg, struct refusal *r)
{
    if (!cfg->extra_guardrails)
        return 0;
    uint64_t now = chrono_boot_ns() / CHRONO_SEC, hash = bytes_hash(cfg->unique_session_name);
    list_for_each_safe (it, tmp, &svc->cooldowns) {
        struct service_cooldown *c = list_entry(it, struct service_cooldown, node);
        if (now - c->boot_s > COOLDOWN_S)
            cooldown_free(svc, c);
        else if (c->name_hash == hash)
            return refuse(
                r, ERR_QUOTA,
                "a guarded session named \"%.*s\" started %llu s ago; wait until %d s have "
                "passed",
                NAME(cfg->unique_session_name), (unsigned long long)(now - c->boot_s), COOLDOWN_S);
    }
    if (svc->ncooldowns == MAX_COOLDOWNS) /* refused requests leave an entry, too */
        cooldown_free(svc, list_first(&svc->cooldowns, struct service_cooldown, node));
    struct service_cooldown *c = alloc_new(struct service_cooldown);
    c->boot_s = now;
    c->name_hash = hash;
    list_push_back(&svc->cooldowns, &c->node);
    svc->ncooldowns++;
    return 0;
}

/* V19, V20. Clones and ended sessions count. */
static int check_counts(struct service *svc, uid_t uid, struct refusal *r)
{
    struct charge_limit limit = charge_limit_of(svc->book, CHARGE_SESSIONS);
    size_t own = service_sessions_of(svc, uid), all = service_sessions(svc);
    if (own >= limit.per_uid)
        return refuse(r, ERR_QUOTA,
                      "uid %u has %zu sessions already, which is the limit; free one first "
                      "(QueryServiceState lists them)",
                      (unsigned)uid, own);
    if (all >= limit.total)
        return refuse(
            r, ERR_QUOTA,
            "%zu sessions exist already, which is the limit of the service; free one first", all);
    return 0;
}

int session_admit(struct service *svc, uid_t uid, const struct tracecfg *cfg, bool again, char *why,
                  size_t whylen)
{
    struct refusal r = {why, whylen};
    int err = check_exclusive(svc, cfg, &r);
    if (!err)
        err = check_unique_name(svc, cfg, &r);
    if (!err)
        err = check_semaphores(svc, cfg, &r);
    if (!err && !again)
        err = check_cooldown(svc, cfg, &r);
    if (!err)
        err = check_counts(svc, uid, &r);
    return err;
}

void session_admit_forget(struct service *svc)
{
    while (!list_empty(&svc->cooldowns))
        cooldown_free(svc, list_first(&svc->cooldowns, struct service_cooldown, node));
}
