/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The script interpreter. It owns the buffer of the running script and its clone, builds chunks
 * from their notation and compares what comes out with the notation of the expectation. After each
 * script the buffer must be zero from its used size on (R29).
 */
#include "tbuf_script.h"

#include <criterion/criterion.h>
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "svc/tbuf.h"
#include "svc/tbuf_read.h"
#include "svc/tbuf_ring.h"

struct script {
    const char *id;
    char step[4096];
    struct tbuf *buf;
    struct tbuf *clone;
    struct tbuf *at; /* the one that the running step works on */
    char walks[4096];
    int num_walks;
};

static void fail(const struct script *s, const char *fmt, ...)
{
    char text[2048];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    cr_assert_fail("%s, step `%s`: %s", s->id, s->step, text);
}

static void create(struct script *s, uint64_t size, enum tbuf_policy policy)
{
    tbuf_free(s->buf);
    cr_assert_eq(tbuf_new(size, policy, 0, &s->buf), 0);
    s->at = s->buf;
}

/* ---- numbers ---- */

/* "M-1", "12", "0+1". */
static uint32_t number(const char **p)
{
    uint64_t v = 0;
    if (**p == 'M') {
        v = UINT32_MAX;
        (*p)++;
    } else {
        char *end = NULL;
        v = (uint64_t)strtoll(*p, &end, 10);
        *p = end;
    }
    while ((**p == '+' || **p == '-') && isdigit((unsigned char)(*p)[1])) {
        char *end = NULL;
        v += (uint64_t)strtoll(*p, &end, 10);
        *p = end;
    }
    return (uint32_t)v;
}

static bool eat(const char **p, const char *word)
{
    size_t n = strlen(word);
    if (strncmp(*p, word, n) != 0)
        return false;
    *p += n;
    return true;
}

static void spaces(const char **p)
{
    while (**p == ' ')
        (*p)++;
}

/* "p/w/c" or "c". */
static void chunk_name(const char **p, uint16_t *producer, uint16_t *writer, uint32_t *chunk)
{
    const char *q = *p;
    *producer = 1;
    *writer = 1;
    uint32_t first = number(&q);
    if (*q == '/') {
        *producer = (uint16_t)first;
        q++;
        *writer = (uint16_t)number(&q);
        q++;
        first = number(&q);
    }
    *chunk = first;
    *p = q;
}

/* ---- fragments ---- */

static size_t payload_of(char letter, uint32_t n, uint8_t *out)
{
    for (uint32_t i = 0; i < n; i++) {
        const char group[4] = {letter, (char)('0' + i / 4 / 10 % 10), (char)('0' + i / 4 % 10),
                               '-'};
        out[i] = (uint8_t)group[i % 4];
    }
    return n;
}

/* "aN": N bytes with the size header. Returns payload bytes; *hdr is the header's length. */
static uint32_t shape(uint32_t total, uint8_t hdr[2], uint32_t *hdr_len)
{
    uint32_t n = total <= 128 ? total - 1 : total - 2;
    *hdr_len = total <= 128 ? 1 : 2;
    hdr[0] = (uint8_t)(total <= 128 ? n : (n & 0x7F) | 0x80);
    hdr[1] = (uint8_t)(n >> 7);
    return n;
}

static size_t hex_bytes(const char **p, uint8_t *out)
{
    size_t n = 0;
    while (**p != '}') {
        unsigned byte = 0;
        unsigned long times = 1;
        if (**p == ',') {
            (*p)++;
            continue;
        }
        sscanf(*p, "%2x", &byte);
        *p += 2;
        if (**p == '*') {
            char *end = NULL;
            times = strtoul(*p + 1, &end, 10);
            *p = end;
        }
        while (times-- > 0)
            out[n++] = (uint8_t)byte;
    }
    (*p)++;
    return n;
}

/* ---- steps ---- */

static unsigned flag_marks(const char **p)
{
    unsigned flags = 0;
    for (; **p == '<' || **p == '>' || **p == '!'; (*p)++)
        flags |= **p == '<' ? 1u : **p == '>' ? 2u : 4u;
    return flags;
}

static void step_write(struct script *s, const char *p)
{
    static uint8_t payload[70000];
    struct tbuf_chunk_in in = {.complete = true, .client = {.uid = 42, .pid = 7}};
    size_t len = 0;
    unsigned flags = 0;
    chunk_name(&p, &in.producer_id, &in.writer_id, &in.chunk_id);
    cr_assert_eq(*p, '[', "%s: %s", s->id, s->step);
    p++;
    memset(payload, 0, sizeof(payload));
    for (spaces(&p); *p != ']'; spaces(&p)) {
        flags |= flag_marks(&p);
        if (p[0] == 'x' && p[1] == '{') {
            p += 2;
            len += hex_bytes(&p, payload + len);
        } else {
            uint8_t hdr[2];
            uint32_t hdr_len = 0;
            char letter = *p++;
            uint32_t n = shape(number(&p), hdr, &hdr_len);
            memcpy(payload + len, hdr, hdr_len);
            len += hdr_len;
            len += payload_of(letter, n, payload + len);
        }
        flags |= flag_marks(&p);
        in.num_fragments++;
    }
    p++;
    for (spaces(&p); *p != '\0'; spaces(&p)) {
        if (eat(&p, "inc")) {
            in.complete = false;
        } else if (eat(&p, "pad=")) {
            len = number(&p) - 16;
        } else if (eat(&p, "z=")) {
            char *end = NULL;
            unsigned long off = strtoul(p, &end, 10);
            unsigned long n = strtoul(end + 1, &end, 10);
            memset(payload + off, 0, n);
            p = end;
        } else if (eat(&p, "n+")) {
            in.num_fragments = (uint16_t)(in.num_fragments + number(&p));
        } else if (eat(&p, "flags=")) {
            flags |= flag_marks(&p);
        } else if (eat(&p, "uid=")) {
            in.client.uid = (int32_t)number(&p);
        } else {
            fail(s, "unknown option %s", p);
        }
    }
    in.flags = (uint8_t)flags;
    /* An exact heap copy, so that a read behind the chunk is noticed by the sanitizer. */
    uint8_t *exact = malloc(len != 0 ? len : 1);
    cr_assert_not_null(exact);
    memcpy(exact, payload, len);
    in.payload = exact;
    in.payload_size = (uint32_t)len;
    tbuf_copy_chunk(s->at, &in);
    free(exact);
}

/* Does one slice hold exactly what the notation says? Moves *p behind it. */
static bool slice_is(const char **p, const struct iovec *v)
{
    static uint8_t want[70000];
    size_t n = 0;
    if (**p == '"') {
        const char *end = strchr(*p + 1, '"');
        n = (size_t)(end - *p - 1);
        memcpy(want, *p + 1, n);
        *p = end + 1;
    } else {
        char letter = *(*p)++;
        uint8_t hdr[2];
        uint32_t hdr_len = 0;
        n = payload_of(letter, shape(number(p), hdr, &hdr_len), want);
    }
    return n == v->iov_len && memcmp(want, v->iov_base, n) == 0;
}

/* Do the slices match "a10+b20"? Empty fragments give no slice. */
static bool packet_is(const char **p, const struct tbuf_packet *k)
{
    size_t i = 0;
    bool same = true;
    for (;;) {
        struct iovec none = {NULL, 0};
        bool have = i < k->num_slices;
        same = slice_is(p, have ? &k->slices[i] : &none) && have && same;
        i++;
        if (**p != '+')
            break;
        (*p)++;
    }
    return same && i == k->num_slices;
}

static enum tbuf_read_result next(struct script *s, struct tbuf_packet *k)
{
    enum tbuf_read_result rc;
    do {
        rc = tbuf_read_next(s->at, k);
    } while (rc == TBUF_READ_AGAIN);
    return rc;
}

static void step_read(struct script *s, const char *p)
{
    struct tbuf_packet k = {0};
    if (eat(&p, "*") && !isdigit((unsigned char)*p)) {
        while (next(s, &k) == TBUF_READ_PACKET)
            ;
        return;
    }
    spaces(&p);
    enum tbuf_read_result rc = next(s, &k);
    if (*p == '-') {
        if (rc != TBUF_READ_EMPTY)
            fail(s, "a packet of %zu slices, first byte %c", k.num_slices,
                 *(const char *)k.slices[0].iov_base);
        return;
    }
    if (rc != TBUF_READ_PACKET)
        fail(s, "nothing to read");
    if (eat(&p, "*")) {
        if (number(&p) != k.num_slices)
            fail(s, "%zu slices", k.num_slices);
    } else if (isdigit((unsigned char)s->step[2])) {
        if ((size_t)(s->step[2] - '0') != k.num_slices)
            fail(s, "%zu slices", k.num_slices);
        p++;
    } else if (!packet_is(&p, &k)) {
        fail(s, "%zu slices, the first has %zu bytes and begins with %c", k.num_slices,
             k.slices[0].iov_len, *(const char *)k.slices[0].iov_base);
    }
    for (spaces(&p); *p != '\0'; spaces(&p)) {
        if (eat(&p, "loss!=0")) {
            if (k.loss == 0)
                fail(s, "loss 0");
        } else if (eat(&p, "loss=")) {
            if (number(&p) != k.loss)
                fail(s, "loss %u", k.loss);
        } else if (eat(&p, "uid=")) {
            if (number(&p) != (uint32_t)k.client.uid)
                fail(s, "uid %d", k.client.uid);
        } else if (eat(&p, "from=")) {
            if (number(&p) != k.producer_id)
                fail(s, "producer %u", k.producer_id);
        } else {
            fail(s, "unknown expectation %s", p);
        }
    }
    if (k.loss != 0 && (k.loss & TBUF_LOSS_PRESENT) == 0)
        fail(s, "loss %u without PRESENT", k.loss);
}

/* "DRAIN has=a,b:loss0 hasnot=c" */
static void step_drain(struct script *s, const char *p)
{
    struct tbuf_packet k = {0};
    const char *has = strstr(p, "has=");
    const char *hasnot = strstr(p, "hasnot=");
    unsigned found = 0;
    unsigned wanted = 0;
    if (has == hasnot + 3)
        has = NULL;
    for (const char *q = has; q != NULL && *q != '\0' && *q != ' '; q++)
        wanted += *q == '=' || *q == ',';
    while (next(s, &k) == TBUF_READ_PACKET) {
        for (const char *q = has != NULL ? has + 4 : ""; *q != '\0' && *q != ' ';) {
            bool match = packet_is(&q, &k);
            bool clean = eat(&q, ":loss0");
            if (match && clean && k.loss != 0)
                fail(s, "loss %u", k.loss);
            found += match;
            q += *q == ',';
        }
        for (const char *q = hasnot != NULL ? hasnot + 7 : ""; *q != '\0' && *q != ' ';) {
            if (packet_is(&q, &k))
                fail(s, "a packet that must not come");
            q += *q == ',';
        }
    }
    if (found != wanted)
        fail(s, "%u of %u wanted packets", found, wanted);
}

static void step_patch(struct script *s, const char *p)
{
    struct tbuf_patch patches[16];
    size_t n = 0;
    uint16_t producer = 0;
    uint16_t writer = 0;
    uint32_t chunk = 0;
    chunk_name(&p, &producer, &writer, &chunk);
    spaces(&p);
    if (*p == '-' && p[1] == ' ') {
        p++;
    } else {
        while (*p != ' ') {
            char *end = NULL;
            patches[n].offset = (uint32_t)strtoll(p, &end, 10);
            memcpy(patches[n].data, end + 1, 4);
            n++;
            p = end + 5;
            p += *p == ',';
        }
    }
    spaces(&p);
    bool ok = tbuf_patch(s->at, producer, writer, chunk, patches, n, strstr(p, "more") != NULL);
    if ((eat(&p, "ok") && !ok) || (eat(&p, "fail") && ok))
        fail(s, "the patch %s", ok ? "succeeded" : "failed");
}

static uint64_t stat_named(const struct script *s, const struct tbuf_stats *st, const char *name,
                           size_t len)
{
#define STAT(field)                                                                                \
    if (len == strlen(#field) && memcmp(name, #field, len) == 0)                                   \
        return st->field;
    STAT(bytes_written)
    STAT(bytes_overwritten)
    STAT(bytes_read)
    STAT(padding_bytes_written)
    STAT(padding_bytes_cleared)
    STAT(chunks_written)
    STAT(chunks_rewritten)
    STAT(chunks_relocated)
    STAT(chunks_overwritten)
    STAT(chunks_discarded)
    STAT(chunks_read)
    STAT(chunks_committed_out_of_order)
    STAT(write_wrap_count)
    STAT(patches_succeeded)
    STAT(patches_failed)
    STAT(readaheads_succeeded)
    STAT(readaheads_failed)
    STAT(abi_violations)
    STAT(trace_writer_packet_loss)
    STAT(chunks_stale)
#undef STAT
    fail(s, "no counter %.*s", (int)len, name);
    return 0;
}

static void step_stats(struct script *s, const char *p, const struct tbuf *b)
{
    for (spaces(&p); *p != '\0'; spaces(&p)) {
        size_t len = strcspn(p, "=>");
        uint64_t seen = stat_named(s, tbuf_stats(b), p, len);
        const char *name = p;
        p += len;
        bool at_least = eat(&p, ">=");
        if (!at_least)
            p++;
        uint64_t want = number(&p);
        if (at_least ? seen < want : seen != want)
            fail(s, "%.*s is %llu", (int)len, name, (unsigned long long)seen);
    }
}

static void step_walk(struct script *s, unsigned max)
{
    char *out = s->walks;
    size_t room = sizeof(s->walks);
    struct tbuf_packet k = {0};
    unsigned n = 0;
#define OUT(...) snprintf(out + strlen(out), room - strlen(out), __VA_ARGS__)
    if (s->num_walks++ > 0)
        OUT(" / ");
    tbuf_read_begin(s->at);
    for (; n < max && next(s, &k) == TBUF_READ_PACKET; n++) {
        OUT("%s", n > 0 ? " " : "");
        for (size_t i = 0; i < k.num_slices; i++)
            OUT("%s%c%zu", i > 0 ? "+" : "", *(const char *)k.slices[i].iov_base,
                k.slices[i].iov_len);
        OUT("(%u)", k.loss);
    }
    if (n == 0)
        OUT("-");
#undef OUT
}

static void step_clone(struct script *s)
{
    tbuf_free(s->clone);
    s->clone = NULL;
    cr_assert_eq(tbuf_clone_read_only(s->buf, &s->clone), 0);
}

static void run_step(struct script *s)
{
    const char *p = s->step;
    s->at = s->buf;
    if (eat(&p, "@"))
        s->at = s->clone;
    if (eat(&p, "new ")) {
        uint64_t size = strtoull(p, NULL, 10);
        create(s, size, strstr(p, "discard") != NULL ? TBUF_DISCARD : TBUF_RING);
    } else if (eat(&p, "W")) {
        step_write(s, p);
    } else if (eat(&p, "RD1")) {
        step_walk(s, 1);
    } else if (eat(&p, "RD")) {
        step_walk(s, UINT32_MAX);
    } else if (eat(&p, "R")) {
        step_read(s, p);
    } else if (eat(&p, "B")) {
        tbuf_read_begin(s->at);
    } else if (eat(&p, "DRAIN ")) {
        step_drain(s, p);
    } else if (eat(&p, "P ")) {
        step_patch(s, p);
    } else if (eat(&p, "S ")) {
        step_stats(s, p, s->at);
    } else if (eat(&p, "F ")) {
        if (tbuf_room_to_end(s->at) != number(&p))
            fail(s, "%llu", (unsigned long long)tbuf_room_to_end(s->at));
    } else if (eat(&p, "U ")) {
        if (tbuf_used_size(s->at) != number(&p))
            fail(s, "%llu", (unsigned long long)tbuf_used_size(s->at));
    } else if (eat(&p, "CLONE")) {
        step_clone(s);
    } else {
        fail(s, "unknown step");
    }
}

/* Copies text with $name replaced. */
static char *replace(const char *text, size_t len, const char *name, long value)
{
    char *out = calloc(1, len * 4 + 64);
    size_t n = 0;
    size_t name_len = strlen(name);
    cr_assert_not_null(out);
    for (size_t i = 0; i < len;) {
        if (text[i] == '$' && strncmp(text + i + 1, name, name_len) == 0) {
            n += (size_t)sprintf(out + n, "%ld", value);
            i += name_len + 1;
        } else {
            out[n++] = text[i++];
        }
    }
    return out;
}

static void run(struct script *s, const char *p)
{
    while (*p != '\0') {
        while (*p == ' ' || *p == ';')
            p++;
        if (eat(&p, "LOOP ")) {
            char name[8] = {0};
            long a = 0;
            long z = 0;
            sscanf(p, "%7[a-z]=%ld..%ld", name, &a, &z);
            const char *open = strchr(p, '{');
            const char *close = strchr(open, '}');
            for (long i = a; i <= z; i++) {
                char *body = replace(open + 1, (size_t)(close - open - 1), name, i);
                run(s, body);
                free(body);
            }
            p = close + 1;
            continue;
        }
        size_t n = 0;
        for (int quoted = 0; *p != '\0' && (*p != ';' || quoted); p++) {
            quoted ^= *p == '"';
            s->step[n++] = *p;
        }
        while (n > 0 && s->step[n - 1] == ' ')
            n--;
        s->step[n] = '\0';
        if (n > 0)
            run_step(s);
    }
}

static void check_tail(const struct script *s, const struct tbuf *b)
{
    if (b == NULL)
        return;
    cr_assert_leq(tbuf_used_size(b), tbuf_size(b), "%s", s->id);
    for (uint64_t i = tbuf_used_size(b); i < tbuf_size(b); i++)
        cr_assert_eq(b->mem[i], 0, "%s: byte %llu above the used size was touched", s->id,
                     (unsigned long long)i);
}

static void finish(struct script *s)
{
    check_tail(s, s->buf);
    check_tail(s, s->clone);
    tbuf_free(s->buf);
    tbuf_free(s->clone);
}

void tbuf_script_run(const char *id, const char *script)
{
    struct script s = {.id = id};
    create(&s, 4096, TBUF_RING);
    run(&s, script);
    finish(&s);
}

/* Compares walk by walk, number by number; "(5*)" allows more bits. */
static bool walks_match(const char *want, const char *seen)
{
    while (*want != '\0') {
        if (*want == '(') {
            char *want_end = NULL;
            char *seen_end = NULL;
            unsigned long w = strtoul(want + 1, &want_end, 10);
            if (*seen != '(')
                return false;
            unsigned long v = strtoul(seen + 1, &seen_end, 10);
            bool more = *want_end == '*';
            if (more ? (v & w) != w : v != w)
                return false;
            want = want_end + more;
            seen = seen_end;
        } else if (*want++ != *seen++) {
            return false;
        }
    }
    return *seen == '\0';
}

void tbuf_script_record(const char *id, const char *script, const char *walks, const char *stats)
{
    struct script s = {.id = id};
    create(&s, 4096, TBUF_RING);
    run(&s, script);
    if (!walks_match(walks, s.walks))
        cr_assert_fail("%s: walks %s, wanted %s", id, s.walks, walks);
    snprintf(s.step, sizeof(s.step), "final counters");
    step_stats(&s, stats, s.buf);
    finish(&s);
}
