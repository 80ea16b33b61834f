/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The service's commands: GetAsyncCommandResponse, read field by field from the frame so that a
 * data source gets its config as the very bytes that were sent. Unknown commands and fields are
 * skipped (R93).
 *
 * {3 setup_tracing {1 page size KiB}, 6 setup_data_source {1 id, 2 config}, 1 start_data_source
 * {same}, 2 stop_data_source {1 id}, 5 flush {1 ids, 2 request, 3 flags}, 7 clear_incremental_state
 * {1 ids}}
 */
#include "client/prodcmd.h"

#include "client/prodlink_priv.h"
#include "reactor/err.h"
#include "reactor/log.h"

enum {
    CMD_START = 1,
    CMD_STOP = 2,
    CMD_SETUP_TRACING = 3,
    CMD_FLUSH = 5,
    CMD_SETUP = 6,
    CMD_CLEAR = 7,
};

static uint64_t number(struct bytes_view msg, uint32_t field)
{
    struct bytes_field f;
    return bytes_find(msg, field, BYTES_VARINT, &f) ? f.num : 0;
}

static struct bytes_view blob(struct bytes_view msg, uint32_t field)
{
    struct bytes_field f;
    return bytes_find(msg, field, BYTES_LEN, &f) ? f.data : bytes_view(NULL, 0);
}

static void setup_tracing(struct prodlink *link, struct bytes_view msg)
{
    uint64_t kb = number(msg, 1);
    uint32_t page = link->adopted ? link->cfg.shm_page_hint : kb < 1024 ? (uint32_t)kb * 1024 : 0;
    int err = prodsmb_setup(&link->memory, page, rpc_client_take_fd(link->client));
    if (err_is_peer(err))
        prodlink_fault(link, err == ERR_BAD_STATE ? "setup_tracing came twice"
                                                  : "setup_tracing without usable memory");
    else if (err)
        log_error("producer %s: cannot map the shared memory: %s; nothing will be recorded",
                  link->producer_name, err_text(err));
}

/* True when every byte of msg is part of a field. */
static bool well_formed(struct bytes_view msg)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field f;
    while (bytes_next(&cur, &f))
        ;
    return bytes_done(&cur);
}

static void dispatch(struct prodlink *link, uint32_t command, struct bytes_view body)
{
    switch (command) {
    case CMD_SETUP_TRACING:
        setup_tracing(link, body);
        break;
    case CMD_SETUP:
        ds_inst_setup(link, number(body, 1), blob(body, 2));
        break;
    case CMD_START:
        ds_inst_start(link, number(body, 1), blob(body, 2));
        break;
    case CMD_STOP:
        ds_inst_stop(link, number(body, 1));
        break;
    case CMD_FLUSH:
        ds_inst_flush(link, number(body, 2), number(body, 3), body);
        break;
    case CMD_CLEAR:
        ds_inst_clear(link, body);
        break;
    default:
        break;
    }
}

/* What we do not know is skipped unseen (R93): it may be a text, not a message. */
static bool known(uint32_t command)
{
    return command == CMD_START || command == CMD_STOP || command == CMD_SETUP_TRACING ||
           command == CMD_FLUSH || command == CMD_SETUP || command == CMD_CLEAR;
}

void prodcmd_handle(struct prodlink *link, struct bytes_view msg)
{
    struct bytes_cur cur = bytes_cur(msg);
    struct bytes_field f;
    while (bytes_next(&cur, &f)) {
        if (f.type != BYTES_LEN || !known(f.id))
            continue;
        if (!well_formed(f.data)) {
            prodlink_fault(link, "malformed command");
            return;
        }
        dispatch(link, f.id, f.data);
    }
    if (!bytes_done(&cur))
        prodlink_fault(link, "malformed command");
}
