/* SPDX-License-Identifier: Apache-2.0 */
/* sysinfo: an instance of linux.system_info: it writes one or two packets when it starts, flushes
 * them itself, and then has nothing to do. Nothing is kept; all text comes from the kernel and is
 * read through ptext, so an unknown layout leaves fields out and no more. */
#include "probes/sysinfo.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "probes/probe.h"
#include "probes/procfs.h"
#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/chrono.h"
#include "smb/pbw.h"

#define CPUINFO_MAX (4U << 20)
#define FREQ_MAX    256 /* frequencies of one CPU */
#define WORDS_MAX   32  /* words of an interrupt's line behind its counts */

/* CPU features that the trace knows. */
enum { FEATURE_MTE = 1, FEATURE_MTE3 = 2 };

enum {
    ID_IMPLEMENTER = 1,
    ID_ARCHITECTURE = 2,
    ID_VARIANT = 4,
    ID_PART = 8,
    ID_REVISION = 16,
    ID_ALL = 31
};

struct cpu {
    bool seen; /* a `processor` line */
    uint64_t index;
    unsigned have; /* ID_* */
    uint64_t implementer, architecture, variant, part, revision, features;
};

static int by_freq(const void *a, const void *b)
{
    uint32_t x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

static size_t add_freqs(int root, const char *path, uint32_t *out, size_t n)
{
    struct procfs_buf b = {0};
    struct ptext w;
    uint64_t v;
    if (procfs_read(root, path, 16384, &b) == 0) {
        struct ptext t = ptext_trim(procfs_text(&b));
        while (n < FREQ_MAX && ptext_word(&t, &w) && ptext_u64(w, &v))
            out[n++] = (uint32_t)v;
    }
    procfs_buf_fini(&b);
    return n;
}

static void write_freqs(struct pbw *p, int root, uint64_t cpu)
{
    static const char *const names[] = {"scaling_available_frequencies",
                                        "scaling_boost_frequencies"};
    uint32_t f[FREQ_MAX];
    size_t n = 0;
    for (size_t i = 0; i < 2; i++) {
        char path[128];
        snprintf(path, sizeof path, "sys/devices/system/cpu/cpu%llu/cpufreq/%s",
                 (unsigned long long)cpu, names[i]);
        n = add_freqs(root, path, f, n);
    }
    qsort(f, n, sizeof *f, by_freq);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || f[i] != f[i - 1])
            pbw_varint(p, PBF_CpuInfo_Cpu_frequencies, f[i]);
}

static void write_cpu(struct pbw *p, const struct cpu *c, const char *processor, int root)
{
    char path[96];
    uint64_t v;
    pbw_begin(p, PBF_CpuInfo_cpus);
    pbw_str(p, PBF_CpuInfo_Cpu_processor, processor);
    write_freqs(p, root, c->index);
    snprintf(path, sizeof path, "sys/devices/system/cpu/cpu%llu/cpu_capacity",
             (unsigned long long)c->index);
    if (procfs_read_u64(root, path, &v))
        pbw_varint(p, PBF_CpuInfo_Cpu_capacity, (uint32_t)v);
    if (c->have == ID_ALL) {
        pbw_begin(p, PBF_CpuInfo_Cpu_arm_identifier);
        pbw_varint(p, PBF_CpuInfo_ArmCpuIdentifier_implementer, c->implementer);
        pbw_varint(p, PBF_CpuInfo_ArmCpuIdentifier_architecture, c->architecture);
        pbw_varint(p, PBF_CpuInfo_ArmCpuIdentifier_variant, c->variant);
        pbw_varint(p, PBF_CpuInfo_ArmCpuIdentifier_part, c->part);
        pbw_varint(p, PBF_CpuInfo_ArmCpuIdentifier_revision, c->revision);
        pbw_end(p);
    }
    if (c->features)
        pbw_varint(p, PBF_CpuInfo_Cpu_features, c->features);
    pbw_end(p);
}

static uint64_t features_of(struct ptext v)
{
    struct ptext w;
    uint64_t f = 0;
    while (ptext_word(&v, &w))
        f |= ptext_eq(w, "mte") ? FEATURE_MTE : ptext_eq(w, "mte3") ? FEATURE_MTE3 : 0;
    return f;
}

static void take_number(struct cpu *c, unsigned bit, struct ptext v, bool hex, uint64_t *out)
{
    uint64_t n;
    if (hex ? !ptext_hex(v, &n) : !ptext_u64(v, &n))
        return;
    *out = (uint32_t)n;
    c->have |= bit;
}

static void take_line(struct cpu *c, struct ptext key, struct ptext v, char *processor, size_t cap)
{
    if (ptext_eq(key, "processor"))
        c->seen = ptext_u64(v, &c->index);
    else if (ptext_eq(key, "Processor"))
        ptext_copy(v, processor, cap);
    else if (ptext_eq(key, "CPU implementer"))
        take_number(c, ID_IMPLEMENTER, v, true, &c->implementer);
    else if (ptext_eq(key, "CPU architecture"))
        take_number(c, ID_ARCHITECTURE, v, false, &c->architecture);
    else if (ptext_eq(key, "CPU variant"))
        take_number(c, ID_VARIANT, v, true, &c->variant);
    else if (ptext_eq(key, "CPU part"))
        take_number(c, ID_PART, v, true, &c->part);
    else if (ptext_eq(key, "CPU revision"))
        take_number(c, ID_REVISION, v, false, &c->revision);
    else if (ptext_eq(key, "Features") || ptext_eq(key, "Flags"))
        c->features |= features_of(v);
}

void sysinfo_cpus(struct pbw *p, struct ptext t, int root)
{
    char processor[256] = "unknown";
    struct cpu c = {0};
    struct ptext line;
    bool more = true;
    while (more) {
        struct ptext key, v;
        more = ptext_line(&t, &line);
        if (!more || ptext_len(ptext_trim(line)) == 0) {
            if (c.seen)
                write_cpu(p, &c, processor, root);
            c = (struct cpu){0};
            continue;
        }
        v = line;
        if (!ptext_cut(&v, ':', &key) || memchr(v.p, ':', ptext_len(v)))
            continue;
        take_line(&c, ptext_trim(key), ptext_trim(v), processor, sizeof processor);
    }
}

/* ---- interrupts ---- */

unsigned sysinfo_irq_columns(struct ptext header)
{
    struct ptext w;
    unsigned n = 0;
    while (ptext_word(&header, &w))
        n += ptext_starts(w, "CPU");
    return n;
}

static bool is_trigger(struct ptext w)
{
    return ptext_eq(w, "Level") || ptext_eq(w, "Edge") || ptext_ends(w, "-edge") ||
           ptext_ends(w, "-level") || ptext_ends(w, "-fasteoi") || ptext_ends(w, "-fasteoi-level");
}

bool sysinfo_irq(struct ptext line, unsigned n_cpus, unsigned *irq, struct ptext *name)
{
    struct ptext w, words[WORDS_MAX];
    unsigned n = 0, first;
    uint64_t id;
    line = ptext_trim(line);
    if (!ptext_word(&line, &w) || w.end[-1] != ':')
        return false;
    w.end--;
    if (!ptext_all_digits(w) || !ptext_u64(w, &id) || id > INT32_MAX ||
        !ptext_skip_words(&line, n_cpus))
        return false;
    while (n < WORDS_MAX && ptext_word(&line, &words[n]))
        n++;
    /* The name must not start before the second word behind the counts: the first is the chip. */
    first = n ? n - 1 : 0;
    for (unsigned i = n; i-- > 0;)
        if (is_trigger(words[i])) {
            first = i + 1;
            break;
        }
    if (first < 1 || first >= n)
        return false;
    *irq = (unsigned)id;
    *name = (struct ptext){words[first].p, words[n - 1].end};
    return true;
}

/* The words of a name joined by single blanks. */
static void write_name(struct pbw *p, struct ptext name)
{
    char text[512];
    size_t n = 0;
    struct ptext w;
    while (ptext_word(&name, &w) && n + ptext_len(w) + 2 < sizeof text) {
        if (n)
            text[n++] = ' ';
        memcpy(text + n, w.p, ptext_len(w));
        n += ptext_len(w);
    }
    pbw_bytes(p, PBF_InterruptInfo_InterruptMapping_name, text, n);
}

static void write_interrupts(const struct probe_host *h, struct ptext t)
{
    struct ptext line, name;
    struct pbw *p = NULL;
    unsigned irq, n_cpus = 0;
    while (n_cpus == 0 && ptext_line(&t, &line)) {
        if (ptext_len(ptext_trim(line)) == 0)
            continue;
        n_cpus = sysinfo_irq_columns(line);
        if (n_cpus == 0)
            return;
    }
    while (ptext_line(&t, &line)) {
        if (!sysinfo_irq(line, n_cpus, &irq, &name))
            continue;
        if (!p) {
            p = h->sink.begin(h->sink.arg);
            pbw_varint(p, PBF_TracePacket_timestamp, chrono_boot_ns());
            pbw_begin(p, PBF_TracePacket_interrupt_info);
        }
        pbw_begin(p, PBF_InterruptInfo_irq_mapping);
        pbw_varint(p, PBF_InterruptInfo_InterruptMapping_irq_id, irq);
        write_name(p, name);
        pbw_end(p);
    }
    if (p) {
        pbw_end(p);
        h->sink.end(h->sink.arg);
    }
}

/* ---- the instance ---- */

struct sysinfo {
    struct probe_host host;
    bool irq_names;
};

static int setup(const struct probe_host *host, struct bytes_view config, void **inst, char *why)
{
    struct bytes_field f;
    struct sysinfo *s = alloc_new(struct sysinfo);
    (void)why;
    s->host = *host;
    s->irq_names = bytes_find(config, PBF_SystemInfoConfig_irq_names, BYTES_VARINT, &f) && f.num;
    *inst = s;
    return 0;
}

static void start(void *inst)
{
    struct sysinfo *s = inst;
    const struct probe_host *h = &s->host;
    struct procfs_buf b = {0};
    procfs_read(h->sysroot, "proc/cpuinfo", CPUINFO_MAX, &b);
    struct pbw *p = h->sink.begin(h->sink.arg);
    pbw_varint(p, PBF_TracePacket_timestamp, chrono_boot_ns());
    pbw_begin(p, PBF_TracePacket_cpu_info);
    sysinfo_cpus(p, procfs_text(&b), h->sysroot);
    pbw_end(p);
    h->sink.end(h->sink.arg);
    if (s->irq_names && procfs_read(h->sysroot, "proc/interrupts", CPUINFO_MAX, &b) == 0)
        write_interrupts(h, procfs_text(&b));
    procfs_buf_fini(&b);
    h->flush(h->arg);
}

const struct probe_ops probe_sysinfo = {
    .name = "linux.system_info",
    .config_field = PBF_DataSourceConfig_system_info_config,
    .setup = setup,
    .start = start,
    .destroy = free,
};
