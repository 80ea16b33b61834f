/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ProtoVMs of a trace buffer.
 *
 * A buffer has one for each data source name and program; producers with the same program share it.
 * When a record is evicted, the packets that nobody read of it are handed, one by one, to the VMs
 * of its producer until one takes it. In a record they lie in one piece; a packet that goes on in
 * the chunks behind is put together in `packet`, the one private buffer of all VMs here, when the
 * record with its begin goes: what follows can no longer be read after that, and is passed over
 * when it is evicted in turn. Packets of a sequence come in the order of its chunks: if the record
 * that is in the way is not the oldest of its sequence, the older ones are evicted with it, except
 * one that is just being written.
 *
 * A loss is reported whether a VM took the packet or not. What a program does wrong is a line of
 * debug output and nothing else: a producer can do it at will.
 *
 * A clone of a buffer has encoded states instead of VMs. Each is taken in one piece, when the clone
 * comes to it or before a program is run on it, whichever is first: so all are those of the moment
 * of the clone. TBUF_VM_LIMIT_KB bounds how long one takes; a reader, too, writes one at a time.
 *
 * How long programs may run: all that is evicted for one chunk shares TBUF_VM_STEPS.
 */
#include "svc/tbuf_vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/err.h"
#include "reactor/log.h"
#include "svc/protovm.h"
#include "svc/tbuf_ring.h"
#include "svc/tbuf_tok.h"
#include "svc/validate.h"

struct vm {
    uint8_t *text; /* own: the program, then the data source name */
    size_t program_len, source_len;
    uint32_t limit_kb;   /* in force */
    uint16_t *producers; /* own: ascending */
    uint32_t nproducers;
    struct protovm *run; /* own; NULL: a clone's */
    uint8_t *state;      /* own: encoded; of a clone */
    size_t state_len;
    bool awaited; /* the state of a clone was not copied yet */
};

#define BYTES_PER_STEP 8u  /* of a state that is copied out of turn: 10 ns */
#define INSTANCE_MAX   64u /* bytes of an instance beside program, state and producers */

struct tbuf_vms {
    struct vm all[TBUF_VM_MAX];
    uint32_t n;
    uint32_t steps;       /* left for this chunk */
    uint32_t work;        /* taken, and not asked for yet */
    uint64_t steps_chunk; /* number of the chunk, as statistics count them */
    uint8_t *packet;      /* own: a packet made of fragments; grows to TBUF_VM_PACKET */
    size_t packet_cap;
};

/* ---- the list ---- */

static struct bytes_view program_of(const struct vm *vm)
{
    return bytes_view(vm->text, vm->program_len);
}

static struct bytes_view source_of(const struct vm *vm)
{
    return bytes_view(vm->text + vm->program_len, vm->source_len);
}

static struct vm *find(const struct tbuf *b, const struct tbuf_vm_spec *spec)
{
    for (uint32_t i = 0; b->vms && i < b->vms->n; i++) {
        struct vm *vm = &b->vms->all[i];
        if (bytes_equal(program_of(vm), spec->program) && bytes_equal(source_of(vm), spec->source))
            return vm;
    }
    return NULL;
}

bool tbuf_vm_has(const struct tbuf *b, const struct tbuf_vm_spec *spec)
{
    return find(b, spec) != NULL;
}

/* Index of the producer in the list, or where it belongs. */
static uint32_t place_of(const struct vm *vm, uint16_t producer)
{
    uint32_t lo = 0, hi = vm->nproducers;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (vm->producers[mid] < producer)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static bool has_producer(const struct vm *vm, uint16_t producer)
{
    uint32_t at = place_of(vm, producer);
    return at < vm->nproducers && vm->producers[at] == producer;
}

static int add_producer(struct vm *vm, uint16_t producer)
{
    uint32_t at = place_of(vm, producer);
    if (has_producer(vm, producer))
        return 0;
    if ((vm->nproducers & (vm->nproducers - 1)) == 0) {
        size_t cap = vm->nproducers ? 2 * (size_t)vm->nproducers : 1;
        uint16_t *p = alloc_try_resize(vm->producers, cap, sizeof(*p));
        if (!p)
            return -ENOMEM;
        vm->producers = p;
    }
    memmove(vm->producers + at + 1, vm->producers + at,
            (vm->nproducers - at) * sizeof(*vm->producers));
    vm->producers[at] = producer;
    vm->nproducers++;
    return 0;
}

static void vm_fini(struct vm *vm)
{
    protovm_free(vm->run);
    free(vm->text);
    free(vm->producers);
    free(vm->state);
    *vm = (struct vm){0};
}

/* All but producers and what runs or is shown. */
static int vm_init(struct vm *vm, const struct tbuf_vm_spec *spec)
{
    *vm = (struct vm){.program_len = spec->program.n, .source_len = spec->source.n};
    vm->limit_kb = spec->limit_kb < TBUF_VM_LIMIT_KB ? spec->limit_kb : TBUF_VM_LIMIT_KB;
    vm->text = alloc_try(spec->program.n + spec->source.n + 1);
    if (!vm->text)
        return -ENOMEM;
    memcpy(vm->text, spec->program.p, spec->program.n);
    memcpy(vm->text + spec->program.n, spec->source.p, spec->source.n);
    return 0;
}

/* The list of a buffer that gets its first. */
static int ensure_list(struct tbuf *b)
{
    if (!b->vms)
        b->vms = alloc_try_array(1, sizeof(*b->vms));
    return b->vms ? 0 : -ENOMEM;
}

void tbuf_vm_free_all(struct tbuf *b)
{
    if (!b->vms)
        return;
    for (uint32_t i = 0; i < b->vms->n; i++)
        vm_fini(&b->vms->all[i]);
    free(b->vms->packet);
    alloc_free(&b->vms);
}

static int make(struct tbuf *b, const struct tbuf_vm_spec *spec, const char **why, struct vm **out)
{
    int err = ensure_list(b);
    if (err)
        return err;
    if (b->vms->n >= TBUF_VM_MAX) {
        *why = "the buffer has as many programs as it takes";
        return ERR_QUOTA;
    }
    struct vm *vm = &b->vms->all[b->vms->n];
    err = vm_init(vm, spec);
    if (!err)
        err = protovm_new(program_of(vm), (uint64_t)vm->limit_kb * 1024, &vm->run, why);
    if (err) {
        vm_fini(vm);
        return err;
    }
    b->vms->n++;
    *out = vm;
    return 0;
}

int tbuf_vm_attach(struct tbuf *b, const struct tbuf_vm_spec *spec, uint16_t producer,
                   const char **why)
{
    struct vm *vm = find(b, spec);
    int err = vm ? 0 : make(b, spec, why, &vm);
    if (!err)
        err = add_producer(vm, producer);
    if (b->vms && b->vms->n == 0)
        tbuf_vm_free_all(b);
    return err;
}

/* ---- copies ---- */

/* Bytes that its state may have when it is encoded. */
static size_t state_max(const struct vm *vm)
{
    return vm->run ? (size_t)protovm_memory(vm->run) : vm->state_len;
}

static struct tbuf_vm_spec spec_of(const struct vm *vm)
{
    return (struct tbuf_vm_spec){source_of(vm), program_of(vm), vm->limit_kb};
}

static int copy_producers(struct vm *to, const struct vm *from)
{
    int err = 0;
    for (uint32_t i = 0; !err && i < from->nproducers; i++)
        err = add_producer(to, from->producers[i]);
    return err;
}

int tbuf_vm_renew(struct tbuf *to, const struct tbuf *from)
{
    const char *why = "";
    int err = 0;
    for (uint32_t i = 0; !err && from->vms && i < from->vms->n; i++) {
        const struct vm *vm = &from->vms->all[i];
        const struct tbuf_vm_spec spec = spec_of(vm);
        struct vm *fresh;
        err = make(to, &spec, &why, &fresh);
        if (!err)
            err = copy_producers(fresh, vm);
    }
    if (err)
        tbuf_vm_free_all(to);
    return err;
}

/* The state of `from` as it is now. */
static int take_state(struct vm *to, const struct vm *from)
{
    size_t max = state_max(from);
    to->state = alloc_try(max + 1);
    if (!to->state)
        return -ENOMEM;
    if (!from->run) {
        if (from->state_len != 0)
            memcpy(to->state, from->state, from->state_len);
        to->state_len = from->state_len;
        return 0;
    }
    to->state_len = protovm_state(from->run, to->state);
    uint8_t *fit = alloc_try_resize(to->state, to->state_len + 1, 1);
    if (fit)
        to->state = fit;
    return 0;
}

size_t tbuf_vm_copy_state(struct tbuf *to, const struct tbuf *from, uint32_t vm)
{
    if (!to->vms || vm >= to->vms->n || !to->vms->all[vm].awaited)
        return 0;
    struct vm *copy = &to->vms->all[vm];
    copy->awaited = false;
    if (take_state(copy, &from->vms->all[vm]) != 0)
        log_warn_limited("a clone of a buffer shows an empty state of \"%.*s\": no memory for it",
                         (int)copy->source_len, (const char *)source_of(copy).p);
    return state_max(&from->vms->all[vm]) + 1;
}

int tbuf_vm_copy(struct tbuf *to, const struct tbuf *from)
{
    if (!from->vms)
        return 0;
    int err = ensure_list(to);
    for (uint32_t i = 0; !err && i < from->vms->n; i++) {
        const struct vm *vm = &from->vms->all[i];
        const struct tbuf_vm_spec spec = spec_of(vm);
        struct vm *copy = &to->vms->all[to->vms->n++];
        err = vm_init(copy, &spec);
        if (!err)
            err = copy_producers(copy, vm);
        copy->awaited = true;
    }
    if (err)
        tbuf_vm_free_all(to);
    return err;
}

/* ---- what they are ---- */

size_t tbuf_vm_count(const struct tbuf *b)
{
    return b->vms ? b->vms->n : 0;
}

uint64_t tbuf_vm_memory(const struct tbuf *b)
{
    if (!b->vms)
        return 0;
    uint64_t bytes = sizeof(*b->vms) + b->vms->packet_cap;
    for (uint32_t i = 0; i < b->vms->n; i++) {
        const struct vm *vm = &b->vms->all[i];
        bytes += vm->program_len + vm->source_len + vm->nproducers * sizeof(*vm->producers) +
                 (vm->run ? protovm_memory(vm->run) : vm->state_len);
    }
    return bytes;
}

uint64_t tbuf_vm_reserved(const struct tbuf *b)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; b->vms && i < b->vms->n; i++) {
        const struct tbuf_vm_spec spec = spec_of(&b->vms->all[i]);
        bytes += tbuf_vm_reserve(&spec);
    }
    return bytes;
}

/* ---- writing ---- */

static void write_state(const struct vm *vm, struct tbuf_vm_cursor *c, struct bytesbuf *out)
{
    size_t mark = bytesbuf_pb_begin_large(out, PBF_TracePacket_ProtoVms_Instance_state);
    uint8_t *p = bytesbuf_reserve(out, state_max(vm));
    c->state = mark;
    c->state_len = 0;
    if (!p)
        return;
    if (vm->run)
        c->state_len = protovm_state(vm->run, p);
    else if (vm->state_len != 0)
        memcpy(p, vm->state, c->state_len = vm->state_len);
    bytesbuf_commit(out, c->state_len);
    bytesbuf_pb_end_large(out, mark);
}

/* All of it, with a length that holds if the state passes. */
static void write_instance(const struct vm *vm, struct tbuf_vm_cursor *c, struct bytesbuf *out)
{
    c->instance = bytesbuf_pb_begin_large(out, PBF_TracePacket_ProtoVms_instance);
    bytesbuf_pb_bytes(out, PBF_TracePacket_ProtoVms_Instance_program, vm->text, vm->program_len);
    write_state(vm, c, out);
    bytesbuf_pb_varint(out, PBF_TracePacket_ProtoVms_Instance_memory_limit_kb, vm->limit_kb);
    for (uint32_t k = 0; k < vm->nproducers; k++)
        bytesbuf_pb_varint(out, PBF_TracePacket_ProtoVms_Instance_producer_id, vm->producers[k]);
    bytesbuf_pb_end_large(out, c->instance);
}

/* Takes the bytes of the state out of what was written last. */
static void empty_state(const struct tbuf_vm_cursor *c, struct bytesbuf *out)
{
    size_t behind = c->state + c->state_len, n = out->n - behind;
    out->n = c->state;
    bytesbuf_pb_end_large(out, c->state);
    memmove(out->p + c->state, out->p + behind, n);
    out->n += n;
    bytesbuf_pb_end_large(out, c->instance);
}

/* Some of the check. A state is held to what producers' packets are held to, since it may be read
 * as one: a program that puts there what only the service may say, or what is no packet at all,
 * shows an empty state. */
static void check_state(struct tbuf_vm_cursor *c, struct bytesbuf *out)
{
    enum validate_result r = validate_some(out->p + c->state, c->state_len, &c->at, TBUF_VM_FIELDS);
    c->checking = r == VALIDATE_MORE;
    if (r == VALIDATE_BAD)
        empty_state(c, out);
}

bool tbuf_vm_write_some(const struct tbuf *b, struct tbuf_vm_cursor *c, struct bytesbuf *out,
                        size_t max, bool *left_out)
{
    if (out->failed)
        return false;
    if (c->checking) {
        check_state(c, out);
        return true;
    }
    while (b->vms && c->vm < b->vms->n) {
        const struct vm *vm = &b->vms->all[c->vm++];
        size_t more = INSTANCE_MAX + vm->program_len + state_max(vm) + 4 * (size_t)vm->nproducers;
        if (out->n + more > max) {
            *left_out = true;
            continue;
        }
        write_instance(vm, c, out);
        c->at = 0;
        c->checking = !out->failed && c->state_len != 0;
        return true;
    }
    return false;
}

/* ---- eviction ---- */

/* Line of debug output for what went wrong; many are left out. */
static void tell(uint16_t producer, const char *source, size_t len, const char *why)
{
    static struct log_rate rate;
    if (log_enabled(LOG_LEVEL_DEBUG) && log_rate_pass(&rate, LOG_LEVEL_DEBUG))
        log_line(LOG_LEVEL_DEBUG, "producer %u: a packet of \"%.*s\" was not merged: %s", producer,
                 (int)len, source, why);
}

/* Steps are granted anew for each chunk that is written. */
static void grant_steps(struct tbuf *b)
{
    struct tbuf_vms *v = b->vms;
    if (v->steps_chunk == b->stats.chunks_written + 1)
        return;
    v->steps_chunk = b->stats.chunks_written + 1;
    v->steps = TBUF_VM_STEPS;
}

uint32_t tbuf_vm_take_work(struct tbuf *b)
{
    if (b->vms == NULL)
        return 0;
    uint32_t work = b->vms->work;
    b->vms->work = 0;
    return work;
}

static void offer(struct tbuf *b, uint16_t producer, const uint8_t *p, size_t n)
{
    struct tbuf_vms *v = b->vms;
    for (uint32_t i = 0; i < v->n; i++) {
        struct vm *vm = &v->all[i];
        const char *why = "";
        uint32_t had = v->steps;
        if (!vm->run || !has_producer(vm, producer))
            continue;
        v->work += (uint32_t)(tbuf_clone_keep_vm(b, i) / BYTES_PER_STEP);
        enum protovm_result r = protovm_run(vm->run, bytes_view(p, n), &v->steps, &why);
        v->work += had - v->steps;
        switch (r) {
        case PROTOVM_OK:
            return;
        case PROTOVM_ERROR:
            break;
        case PROTOVM_ABORT:
            tell(producer, (const char *)source_of(vm).p, vm->source_len, why);
            break;
        }
    }
}

/* A fragment of a stored chunk. */
struct piece {
    const uint8_t *p;
    uint32_t n;
    uint32_t end; /* offset behind it */
    bool last;    /* of its chunk */
};

static bool piece_at(struct tbuf_rec *r, uint32_t at, struct piece *f)
{
    uint64_t size = 0;
    uint32_t left = r->payload - at;
    uint32_t hdr = tbuf_tok_header(tbuf_rec_bytes(r) + at, left, &size);
    if (hdr == 0 || size > left - hdr)
        return false;
    f->p = tbuf_rec_bytes(r) + at + hdr;
    f->n = (uint32_t)size;
    f->end = at + hdr + f->n;
    f->last = f->end == r->payload;
    return true;
}

static bool collect(struct tbuf_vms *v, size_t have, const struct piece *f)
{
    if (have + f->n > TBUF_VM_PACKET)
        return false;
    if (have + f->n > v->packet_cap) {
        size_t cap = v->packet_cap ? v->packet_cap : 4096;
        while (cap < have + f->n)
            cap *= 2;
        uint8_t *p = alloc_try_resize(v->packet, cap, 1);
        if (!p)
            return false;
        v->packet = p;
        v->packet_cap = cap;
    }
    if (f->n != 0)
        memcpy(v->packet + have, f->p, f->n);
    return true;
}

/* The entry names a record. One that is being written stands in the list before its record is
 * there: then its place is in the cleared room, or holds another record still. */
static bool is_there(struct tbuf *b, struct tbuf_ent e, uint32_t slot)
{
    uint64_t place = (uint64_t)e.ref << 4;
    if (place >= b->wr && place < b->wr + b->gap)
        return false;
    const struct tbuf_rec *r = tbuf_rec_of(b, e.ref);
    return (r->flags & TBUF_REC_GONE) == 0 && r->id == e.id && r->seq == slot;
}

/* The record at `pos` of the sequence, which goes on from the one before it; NULL: the packet is
 * not whole. *pos moves on over chunks without fragments. */
static struct tbuf_rec *next_of_chain(struct tbuf *b, struct tbuf_seq *s, uint32_t *pos)
{
    for (;; ++*pos) {
        if (*pos >= s->count)
            return NULL;
        struct tbuf_ent e = *tbuf_seq_ent(s, *pos);
        if (e.id != tbuf_seq_ent(s, *pos - 1)->id + 1)
            return NULL;
        if (tbuf_ent_is_tomb(e)) {
            if ((e.ref & TBUF_TOMB_EMPTY) == 0)
                return NULL;
            continue;
        }
        if (!is_there(b, e, tbuf_seq_slot(&b->seqs, s)))
            return NULL;
        struct tbuf_rec *r = tbuf_rec_of(b, e.ref);
        if (r->payload != 0)
            return (r->flags & TBUF_CHUNK_FIRST_CONTINUES) != 0 && r->consumed == 0 ? r : NULL;
        if ((r->flags & (TBUF_REC_INCOMPLETE | TBUF_REC_ABORTED | TBUF_REC_CORRUPT)) != 0)
            return NULL;
    }
}

/* Puts together the packet that begins with this fragment, the last of the record at `pos`. Returns
 * its size; 0: it is not whole, or too large. */
static size_t gather(struct tbuf *b, struct tbuf_seq *s, uint32_t pos, const struct piece *begin)
{
    struct piece f = *begin;
    size_t have = 0;
    for (pos++;; pos++) {
        if (!collect(b->vms, have, &f))
            return 0;
        have += f.n;
        struct tbuf_rec *r = next_of_chain(b, s, &pos);
        if (r == NULL || !piece_at(r, 0, &f) ||
            (f.last && (r->flags & TBUF_CHUNK_NEEDS_PATCHING) != 0))
            return 0;
        if (f.last && (r->flags & TBUF_CHUNK_LAST_CONTINUES) != 0)
            continue;
        return collect(b->vms, have, &f) ? have + f.n : 0;
    }
}

/* All that is unread in a record. */
static void hand_on(struct tbuf *b, struct tbuf_seq *s, struct tbuf_rec *r)
{
    uint32_t pos = 0;
    if (tbuf_seq_locate(s, r->id, &pos) != TBUF_PLACE_FOUND)
        return;
    uint16_t producer = (uint16_t)(s->key >> 16);
    struct piece f;
    for (uint32_t at = r->consumed; piece_at(r, at, &f); at = f.end) {
        if (at == 0 && (r->flags & TBUF_CHUNK_FIRST_CONTINUES) != 0)
            continue; /* came with its begin, or that is lost */
        if (f.last && (r->flags & TBUF_CHUNK_NEEDS_PATCHING) != 0)
            continue; /* has holes */
        if (f.last && (r->flags & TBUF_CHUNK_LAST_CONTINUES) != 0) {
            size_t n = gather(b, s, pos, &f);
            if (n != 0)
                offer(b, producer, b->vms->packet, n);
        } else if (f.n != 0) {
            offer(b, producer, f.p, f.n);
        }
    }
}

void tbuf_vm_evict(struct tbuf *b, struct tbuf_rec *r)
{
    struct tbuf_seq *s = tbuf_seq_at(&b->seqs, r->seq);
    bool wanted = false;
    for (uint32_t i = 0; i < b->vms->n && !wanted; i++)
        wanted = has_producer(&b->vms->all[i], (uint16_t)(s->key >> 16));
    if (!wanted || r->consumed >= r->payload || (r->flags & TBUF_REC_FILLED) == 0)
        return;
    while (s->ids.front != r->id && is_there(b, *tbuf_seq_ent(s, 0), r->seq))
        tbuf_ring_evict_front(b, s);
    grant_steps(b);
    hand_on(b, s, r);
}
