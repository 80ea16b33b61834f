/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_SESSION_OUT_H
#define SVC_SESSION_OUT_H

/*
 * What a session remembers of its way out between two calls of session_read_batch; part of struct
 * session.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "reactor/bytes.h"
#include "svc/selfpkt.h"
#include "svc/tbuf_read.h"
#include "svc/tbuf_vm.h"

/* A packet that is too large for one batch, on its way out (svc/session_large). */
enum session_large_state { LARGE_NONE, LARGE_GATHER, LARGE_CHECK, LARGE_FILTER, LARGE_SEND };

struct session_large {
    enum session_large_state state;
    uint8_t *bytes; /* own */
    size_t n, cap;
    size_t at;       /* checked, sent or compressed */
    size_t released; /* bytes at the begin whose memory was given back */
    bool taken;      /* by the filter, or by the compressed batch */
    struct tbuf_packet info;
    size_t buffer; /* config index */
};

/* A packet that is at work in filter or compression (svc/session_pipe). */
struct session_pipe {
    bool filtering;          /* the filter has one */
    struct bytes_view rest;  /* of one that is being compressed, or handed on in pieces */
    struct bytes_view whole; /* of one that is handed on: all of it */
    int buffer;              /* and where it is from */
    uint8_t *copy;           /* own: rest, when its bytes could not stay where they were */
    size_t copy_size;
    size_t batch; /* bytes of the packets of the compressed batch so far */
};

/* Where a read stands between two calls (svc/session_read). */
enum session_read_stage {
    READ_BEGIN,
    READ_BUILD, /* our own packets are being built */
    READ_OWN,
    READ_BUFFERS,
    READ_ENDING,
    READ_STATS, /* the statistics are being built */
    READ_END
};

/* Our own packets in the making (svc/session_own). */
struct session_own {
    enum { OWN_HEAD, OWN_PROVENANCE, OWN_TAIL, OWN_VMS, OWN_DONE } step;
    size_t packet; /* place of the one that is open */
    size_t buffer; /* of the provenance: config index, and where in it */
    uint32_t cursor;
    struct selfpkt_provenance provenance;
    size_t vms;               /* place of the message of ProtoVMs; buffer: the one that it is at */
    struct tbuf_vm_cursor vm; /* and where in it */
    bool vms_left_out;
    bool counting; /* the statistics are open */
    struct selfpkt_writers writers;
};

#endif
