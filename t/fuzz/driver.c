/* SPDX-License-Identifier: Apache-2.0 */
/* The main of a fuzz target in an ordinary build, as a TAP test of `make check`.
 *
 * libFuzzer drives the targets in `./bootstrap fuzz`; here the same entry point first sees every
 * file of its corpus and then a fixed number of mutations of them from a fixed seed, so that a run
 * is the same on every machine. FUZZ_RUNS and FUZZ_SEED change that; file arguments are run
 * instead, once each, to look at a crash. The input that is being run is written out when the
 * target dies. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { INPUT_CAP = 1 << 20, SEED_CAP = 4096, DEFAULT_RUNS = 20000 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

struct input {
    uint8_t *data; /* own */
    size_t size;
};

static struct input seeds[SEED_CAP];
static size_t n_seeds;
static struct input current;
static const char *target;
static uint64_t rng_state;

static uint64_t rng(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state;
}

static size_t below(size_t n)
{
    return n ? (size_t)(rng() % n) : 0;
}

static void save_current(void)
{
    char path[256];
    snprintf(path, sizeof(path), "crash-%s", target);
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
    if (fd < 0)
        return;
    ssize_t put = write(fd, current.data, current.size);
    close(fd);
    dprintf(2, "the input of the crash, %zd bytes, is in %s\n", put, path);
}

static void on_signal(int sig)
{
    save_current();
    signal(sig, SIG_DFL);
    raise(sig);
}

/* Runs a copy of the exact size, so that AddressSanitizer sees the first byte too many. */
static void run_one(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy)
        exit(99);
    if (size)
        memcpy(copy, data, size);
    current = (struct input){copy, size};
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static int load_file(const char *path, struct input *in)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return -1;
    uint8_t *data = malloc(INPUT_CAP);
    if (!data)
        exit(99);
    *in = (struct input){data, fread(data, 1, INPUT_CAP, f)};
    fclose(f);
    return 0;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static void load_corpus(const char *dir)
{
    struct dirent **names;
    int n = scandir(dir, &names, NULL, by_name);
    for (int i = 0; i < n; i++) {
        char path[4096 + sizeof(names[i]->d_name) + 1];
        snprintf(path, sizeof(path), "%s/%s", dir, names[i]->d_name);
        if (names[i]->d_name[0] != '.' && n_seeds < SEED_CAP && !load_file(path, &seeds[n_seeds]))
            n_seeds++;
        free(names[i]);
    }
    if (n >= 0)
        free(names);
}

static size_t insert(uint8_t *buf, size_t size, const uint8_t *from, size_t len)
{
    if (len > INPUT_CAP - size)
        return size;
    size_t at = below(size + 1);
    memmove(buf + at + len, buf + at, size - at);
    memcpy(buf + at, from, len);
    return size + len;
}

static size_t mutate_once(uint8_t *buf, size_t size)
{
    static const uint8_t edges[] = {0, 1, 2, 0x0a, 0x12, 0x7f, 0x80, 0xff, 0xfe, 0x40};
    uint8_t few[8];
    size_t at = below(size);
    switch (below(8)) {
    case 0:
        if (size)
            buf[at] ^= (uint8_t)(1u << below(8));
        return size;
    case 1:
        if (size)
            buf[at] = (uint8_t)rng();
        return size;
    case 2:
        if (size)
            buf[at] = edges[below(sizeof(edges))];
        return size;
    case 3: { /* A run of one byte over a word: lengths and counts. */
        size_t len = size - at < 8 ? size - at : 8;
        memset(buf + at, edges[below(sizeof(edges))], len);
        return size;
    }
    case 4: /* cut the end */
        return at;
    case 5: { /* cut out a piece */
        size_t len = below(size - at + 1);
        memmove(buf + at, buf + at + len, size - at - len);
        return size - len;
    }
    case 6:
        for (size_t i = 0; i < sizeof(few); i++)
            few[i] = rng() & 1 ? (uint8_t)rng() : edges[below(sizeof(edges))];
        return insert(buf, size, few, 1 + below(sizeof(few)));
    default: { /* a piece of another seed */
        const struct input *other = &seeds[below(n_seeds)];
        size_t from = below(other->size);
        return insert(buf, size, other->data + from, below(other->size - from + 1));
    }
    }
}

static void run_mutations(unsigned long runs)
{
    uint8_t *buf = malloc(INPUT_CAP);
    if (!buf)
        exit(99);
    for (unsigned long i = 0; i < runs; i++) {
        const struct input *seed = &seeds[below(n_seeds)];
        size_t size = seed->size;
        memcpy(buf, seed->data, size);
        for (size_t n = 1 + below(6); n > 0; n--)
            size = mutate_once(buf, size);
        run_one(buf, size);
    }
    free(buf);
}

static unsigned long env_number(const char *name, unsigned long otherwise)
{
    const char *value = getenv(name);
    return value ? strtoul(value, NULL, 0) : otherwise;
}

int main(int argc, char **argv)
{
    const char *slash = strrchr(argv[0], '/');
    target = slash ? slash + 1 : argv[0];
    if (strncmp(target, "fuzz_", 5) == 0)
        target += 5;
    static const int fatal[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL};
    for (size_t i = 0; i < sizeof(fatal) / sizeof(fatal[0]); i++)
        signal(fatal[i], on_signal);
    if (__sanitizer_set_death_callback)
        __sanitizer_set_death_callback(save_current);

    for (int i = 1; i < argc; i++) {
        struct input in;
        if (load_file(argv[i], &in)) {
            fprintf(stderr, "%s: cannot read it\n", argv[i]);
            return 1;
        }
        run_one(in.data, in.size);
        free(in.data);
    }
    if (argc > 1)
        return 0;

    const char *src = getenv("srcdir");
    char dir[4096];
    snprintf(dir, sizeof(dir), "%s/t/fuzz/corpus/%s", src ? src : ".", target);
    load_corpus(dir);
    unsigned long runs = env_number("FUZZ_RUNS", DEFAULT_RUNS);
    rng_state = env_number("FUZZ_SEED", 1) * 0x9e3779b97f4a7c15ull | 1;
    printf("1..2\n");
    for (size_t i = 0; i < n_seeds; i++)
        run_one(seeds[i].data, seeds[i].size);
    printf("%sok 1 - the corpus of %s: %zu inputs\n", n_seeds ? "" : "not ", target, n_seeds);
    fflush(stdout);
    if (n_seeds)
        run_mutations(runs);
    printf("%sok 2 - %lu mutations of it\n", n_seeds ? "" : "not ", runs);
    for (size_t i = 0; i < n_seeds; i++)
        free(seeds[i].data);
    return 0;
}
