/* SPDX-License-Identifier: Apache-2.0 */
#ifndef T_SVC_WORLD_H
#define T_SVC_WORLD_H

/*
 * A whole tracing service in one process, driven by messages alone and by a clock that the test
 * turns: fake producers and consumers are transports that write down what they hear. No socket, no
 * thread, no real time.
 *
 *     struct world *w = world_new();
 *     struct prod *p = prod_new(w, "prod", 1000);
 *     prod_register(p, "ds", 0);
 *     struct cons *c = cons_new(w, 1000);
 *     cfg_begin(&w->cfg); cfg_buffer(&w->cfg, 64); cfg_source(&w->cfg, "ds", 0);
 *     cons_enable(c, &w->cfg);
 *     prod_put(p, 1, "hello");
 *     cons_read(c);
 *     world_free(w);
 *
 * Every call lets the loop settle before it returns, so the test sees the outcome at once.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "reactor/bytesbuf.h"
#include "reactor/reactor.h"
#include "svc/messages.h"
#include "svc/service.h"

struct world {
    struct reactor *reactor;
    struct service *svc;
    struct bytesbuf cfg; /* for configs under construction */
    struct list peers;   /* all fakes, freed by world_free */
    char dir[64];        /* made on demand by world_path, removed at the end */
};

struct world *world_new(void);
struct world *world_new_limited(const struct charge_limit *limits);
/* All that goes in slices does one piece in each. WORLD_SLICED=1 in the environment makes every
 * world such a one: nothing that a peer can tell may depend on it. */
struct world *world_new_sliced(void);
/* Slices as the service has them, whatever the environment says. */
struct world *world_new_whole(void);
/* Ends the service and checks that nothing is charged any more. */
void world_free(struct world *w);
void world_settle(struct world *w);
/* Turns the clock on, with everything that comes due on the way. */
void world_advance_ms(struct world *w, uint64_t ms);
/* A path in a private folder. Static storage. */
const char *world_path(struct world *w, const char *name);

/* ---- configs ---- */

void cfg_begin(struct bytesbuf *b);
void cfg_buffer(struct bytesbuf *b, uint32_t kb);
void cfg_source(struct bytesbuf *b, const char *name, uint32_t target);
/* builtin_data_sources that turns all packets of the service off. */
void cfg_quiet(struct bytesbuf *b);
void cfg_trigger_mode(struct bytesbuf *b, uint32_t mode, uint32_t timeout_ms);
/* One trigger inside trigger_config; merges with cfg_trigger_mode. max_per_24_h 0: none. */
void cfg_trigger(struct bytesbuf *b, const char *name, const char *regex, uint32_t delay_ms,
                 uint32_t max_per_24_h, double skip);

/* ---- producers ---- */

enum { DS_NOTIFY_START = 1, DS_NOTIFY_STOP = 2, DS_CLEARS = 4, DS_NO_FLUSH = 8 };

#define HEARD_IDS 16

/* One thing that a producer heard. */
struct heard {
    enum msg_kind kind;
    uint64_t id;     /* instance, flush request or cookie */
    uint64_t flags;  /* of a flush; 1 for a successful reply */
    uint8_t *config; /* own: of a setup or start */
    size_t config_len;
    uint64_t ids[HEARD_IDS];
    size_t nids;
};

struct prod {
    struct actor actor;
    struct list node;
    struct world *w;
    uint64_t endpoint;
    bool adopted, emulated;
    bool mute;           /* does not ack flushes */
    struct heard *heard; /* own */
    size_t nheard;
    uint8_t *smb; /* own: mapped */
    size_t smb_size;
    uint32_t page;          /* bytes */
    uint32_t next_chunk[8]; /* of each small writer id */
    uint64_t cookie;
};

struct prod_opts {
    const char *name;
    uint32_t uid, page_hint, size_hint, scraping, machine_id;
    int32_t pid;
    const char *machine_name;
    int shmem_fd; /* 0: none */
    bool emulated, in_process;
};

struct prod *prod_new(struct world *w, const char *name, uint32_t uid);
/* NULL when it was refused. */
struct prod *prod_new_opts(struct world *w, const struct prod_opts *o);
void prod_bye(struct prod *p);

void prod_register(struct prod *p, const char *name, unsigned flags);
void prod_register_id(struct prod *p, const char *name, unsigned flags, uint64_t id);
void prod_update_id(struct prod *p, const char *name, unsigned flags, uint64_t id);
void prod_unregister(struct prod *p, const char *name);
void prod_writer(struct prod *p, uint32_t writer, uint32_t buffer);
void prod_writer_gone(struct prod *p, uint32_t writer);
void prod_started(struct prod *p, uint64_t instance);
void prod_stopped(struct prod *p, uint64_t instance);
void prod_ack_flush(struct prod *p, uint64_t id);
void prod_trigger(struct prod *p, const char *name);
/* True when Sync was answered with success. */
bool prod_sync(struct prod *p);

/* How often it heard a kind; the nth of them (0 the first), NULL when there is none. */
size_t prod_count(const struct prod *p, enum msg_kind kind);
const struct heard *prod_heard(const struct prod *p, enum msg_kind kind, size_t nth);
/* The instance of the nth setup; the global buffer id in its config; a number of its config. */
uint64_t prod_instance(const struct prod *p, size_t nth);
uint32_t prod_target(const struct prod *p, size_t nth);
uint64_t prod_config(const struct prod *p, size_t nth, uint32_t field);
void prod_forget(struct prod *p); /* what it heard so far */

/* Commits one chunk (whole page 0) with one packet { for_testing { str: text } }, into the buffer
 * of its first setup. False when the commit was rejected. */
bool prod_put(struct prod *p, uint16_t writer, const char *text);
bool prod_put_to(struct prod *p, uint16_t writer, uint32_t buffer, const char *text);
/* The same with given fragments (raw payload), chunk id, flags and state of the chunk. state 3:
 * committed; other states: left in the SMB at that page. */
void prod_fill(struct prod *p, uint32_t page, uint16_t writer, uint32_t chunk_id, unsigned count,
               unsigned flags, const void *payload, size_t len, unsigned state);
bool prod_commit_raw(struct prod *p, const void *request, size_t len);

/* Appends a fragment with one test packet to a payload. */
size_t frag_packet(uint8_t *at, const char *text);

/* ---- consumers ---- */

struct pkt {
    uint8_t *p; /* own */
    size_t n;
};

struct cons {
    struct actor actor;
    struct list node;
    struct world *w;
    uint64_t endpoint;
    uint64_t cookie;
    /* EnableTracing */
    uint64_t enable_cookie;
    bool disabled, enable_rejected;
    char error[512];
    /* last reply of anything else */
    uint64_t reply_cookie;
    bool reply_ok, replied;
    unsigned nheard, disabled_at, replied_at; /* which of all answers these were */
    struct bytesbuf reply;                    /* body, parts one after the other */
    unsigned reply_parts;
    bool reply_more;
    /* ReadBuffers */
    struct pkt *pkts; /* own: of the last read */
    size_t npkts;
    unsigned batches;
    unsigned pieces;      /* puts that went on with a packet */
    bool read_done, full; /* full: the sink has no room */
    size_t room_batches;  /* batches until it says full; SIZE_MAX: never */
    /* ObserveEvents: bodies of the stream */
    uint64_t observe_cookie;
    struct bytesbuf events; /* ObservableEvents, one after the other */
    unsigned nevents;
    bool observe_done;
};

struct cons *cons_new(struct world *w, uint32_t uid);
void cons_bye(struct cons *c);
/* EnableTracing; true when a session runs or waits (no answer came). */
bool cons_enable(struct cons *c, const struct bytesbuf *cfg);
bool cons_enable_fd(struct cons *c, const struct bytesbuf *cfg, int fd);
void cons_enable_attach(struct cons *c);
/* A request without arguments (MSG_C_START, _DISABLE, _FREE, _STATS, _CAPABILITIES, _SAVE_TRACE);
 * true when it was answered with success. The body is in c->reply. */
bool cons_ask(struct cons *c, enum msg_kind kind);
bool cons_ask_body(struct cons *c, enum msg_kind kind, const void *body, size_t len);
void cons_flush_begin(struct cons *c, uint32_t timeout_ms, uint64_t flags);
void cons_observe(struct cons *c, uint32_t mask);
bool cons_query(struct cons *c, bool sessions_only);
void cons_clone(struct cons *c, const struct bytesbuf *request, int fd);
/* Reads until the end (or until the sink is full); returns the number of packets. */
size_t cons_read(struct cons *c);

/* ---- packets ---- */

/* The text of the nth packet of producers that was read; NULL when there is none. */
const char *cons_text(const struct cons *c, size_t nth);
size_t cons_texts(const struct cons *c);
/* True when some packet of producers has this text. */
bool cons_has(const struct cons *c, const char *text);
/* How many packets have this field; the nth of them; a number in it. */
size_t cons_count(const struct cons *c, uint32_t field);
const struct pkt *cons_pkt(const struct cons *c, uint32_t field, size_t nth);
uint64_t pkt_num(const struct pkt *p, uint32_t field, uint64_t absent);
/* Number in a message in a packet: field, then sub-field. */
uint64_t pkt_sub(const struct pkt *p, uint32_t field, uint32_t sub, uint64_t absent);
/* How many service events of a kind (field number of TracingServiceEvent). */
size_t cons_events(const struct cons *c, uint32_t kind);
/* A number of an encoded message. */
uint64_t msg_num(const void *msg, size_t n, uint32_t field, uint64_t absent);
/* A text of an encoded message, in static storage; "" when absent. */
const char *msg_str(const void *msg, size_t n, uint32_t field);
/* How often a field occurs. */
size_t msg_fields(const void *msg, size_t n, uint32_t field);
/* The nth occurrence of a length-delimited field. */
struct bytes_view msg_part(const void *msg, size_t n, uint32_t field, size_t nth);

#endif
