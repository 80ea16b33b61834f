/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ProtoVMs of a session (service.md R72): when a data source is set up whose producer registered a
 * program, whose config grants it memory and whose buffer is of the V2 kind, the buffer gets a VM.
 * The buffer owns it (svc/tbuf_vm); the session pays for the memory it may come to take, to its own
 * consumer's uid.
 *
 * Nothing that goes wrong here keeps a data source from working: its packets are only not merged
 * when they are overwritten, and a line tells why.
 */
#include "reactor/err.h"
#include "reactor/log.h"
#include "svc/producer.h"
#include "svc/service_int.h"
#include "svc/session_int.h"
#include "svc/tbuf_vm.h"

/* What the buffer's VMs are charged from now on. */
static int charge_all(struct session *s, struct session_buffer *b, uint64_t bytes)
{
    charge_release(&b->vm_charge);
    return bytes ? charge_take(s->svc->book, &b->vm_charge, s->uid, CHARGE_BUFFER_BYTES, bytes) : 0;
}

static void tell(const struct session *s, const struct datasource *ds, const char *why)
{
    log_warn_limited("session %llu: data source \"%.*s\" of producer %u gets no ProtoVM: %s",
                     (unsigned long long)s->id, (int)ds->name.n, (const char *)ds->name.p,
                     ds->producer->id, why);
}

void session_vm_attach(struct session *s, size_t entry, const struct datasource *ds)
{
    const struct tracecfg_source *e = &s->cfg->sources[entry];
    struct session_buffer *b = &s->buffers[e->target];
    const char *why = "no memory";
    if (e->vm_limit_kb == 0)
        return; /* the usual case, with or without a program */
    if (!ds->program.p) {
        tell(s, ds, "it registered no program");
        return;
    }
    if (!s->cfg->buffers[e->target].v2) {
        tell(s, ds, "its buffer needs experimental_mode TRACE_BUFFER_V2");
        return;
    }
    const struct tbuf_vm_spec spec = {ds->name, ds->program, e->vm_limit_kb};
    uint64_t had = b->vm_charge.amount;
    bool known = tbuf_vm_has(b->tb, &spec);
    if (!known && charge_all(s, b, had + tbuf_vm_reserve(&spec)) != 0) {
        (void)charge_all(s, b, had); /* there was room for that */
        tell(s, ds, "its memory_limit_kb is more than this uid may still hold in buffers");
        return;
    }
    int err = tbuf_vm_attach(b->tb, &spec, ds->producer->id, &why);
    if (!err && !known && e->vm_limit_kb > TBUF_VM_LIMIT_KB)
        log_warn("session %llu: a memory_limit_kb of %u for a ProtoVM is more than %u, which is "
                 "what it gets",
                 (unsigned long long)s->id, e->vm_limit_kb, TBUF_VM_LIMIT_KB);
    if (!err)
        return;
    if (!known)
        (void)charge_all(s, b, had);
    tell(s, ds, why);
}
