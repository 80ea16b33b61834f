/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Data source types: what a producer can record, and how the service is told. A type belongs to the
 * link and is announced again on each connection, with the same id (R49).
 */
#include "client/datasource.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/prodlink_priv.h"
#include "ipc/frame.h"
#include "protos/fieldnum.h"
#include "reactor/alloc.h"
#include "reactor/bytesbuf.h"
#include "reactor/chrono.h"
#include "reactor/log.h"

/* ---- descriptors ---- */

static bool has_field(struct bytes_view msg, uint32_t field, enum bytes_wire type)
{
    struct bytes_field f;
    return bytes_find(msg, field, type, &f);
}

static void add_flag(struct bytesbuf *b, struct bytes_view given, uint32_t field, bool value)
{
    if (value && !has_field(given, field, BYTES_VARINT))
        bytesbuf_pb_varint(b, field, 1);
}

/* The descriptor to send: what the owner gave, and behind it what it left open (R49). 0 or -EINVAL.
 */
static int complete_descriptor(struct datasource *ds, const uint8_t *given, size_t given_len)
{
    struct bytes_view view = bytes_view(given, given_len);
    struct bytes_field f;
    struct bytesbuf b;
    if (bytes_find(view, PBF_DataSourceDescriptor_name, BYTES_LEN, &f) &&
        !bytes_equal(f.data, bytes_str(ds->name)))
        return -EINVAL;
    bytesbuf_init(&b, FRAME_BLOB_MAX);
    bytesbuf_put(&b, given, given_len);
    if (!has_field(view, PBF_DataSourceDescriptor_name, BYTES_LEN))
        bytesbuf_pb_str(&b, PBF_DataSourceDescriptor_name, ds->name);
    add_flag(&b, view, PBF_DataSourceDescriptor_will_notify_on_start, ds->def.will_notify_on_start);
    add_flag(&b, view, PBF_DataSourceDescriptor_will_notify_on_stop, ds->def.will_notify_on_stop);
    add_flag(&b, view, PBF_DataSourceDescriptor_handles_incremental_state_clear,
             ds->def.handles_incremental_state_clear);
    add_flag(&b, view, PBF_DataSourceDescriptor_no_flush, ds->def.no_flush || !ds->ops->flush);
    if (!has_field(view, PBF_DataSourceDescriptor_id, BYTES_VARINT))
        bytesbuf_pb_varint(&b, PBF_DataSourceDescriptor_id, ds->id);
    if (b.failed) {
        bytesbuf_fini(&b);
        return -EINVAL;
    }
    free(ds->descriptor);
    ds->descriptor = bytesbuf_take(&b, &ds->descriptor_len);
    view = bytes_view(ds->descriptor, ds->descriptor_len);
    ds->will_notify_on_stop =
        bytes_find(view, PBF_DataSourceDescriptor_will_notify_on_stop, BYTES_VARINT, &f) && f.num;
    return 0;
}

/* RegisterDataSource and UpdateDataSource: {1 data_source_descriptor}. */
static void send_descriptor(struct datasource *ds, uint32_t method)
{
    struct bytesbuf b;
    bytesbuf_init(&b, FRAME_BLOB_MAX);
    bytesbuf_pb_bytes(&b, 1, ds->descriptor, ds->descriptor_len);
    if (b.failed)
        log_error("data source %s: descriptor of %zu bytes is larger than a frame; not registered",
                  ds->name, ds->descriptor_len);
    else
        prodlink_call(ds->link, method, bytesbuf_view(&b), -1, prodlink_ignore_result, NULL);
    bytesbuf_fini(&b);
}

/* ---- types ---- */

static bool announced(const struct prodlink *link)
{
    return link->state == PRODLINK_CONNECTED;
}

int datasource_register(struct prodlink *link, const struct datasource_def *def,
                        struct datasource **out)
{
    struct datasource *ds = alloc_new(struct datasource);
    ds->link = link;
    ds->name = alloc_strdup(def->name);
    ds->ops = def->ops;
    ds->ctx = def->ctx;
    ds->def = *def;
    do
        ds->id = chrono_random_u64();
    while (ds->id == 0);
    int err = complete_descriptor(ds, def->descriptor, def->descriptor_len);
    if (err) {
        free(ds->name);
        free(ds);
        return err;
    }
    list_push_back(&link->sources, &ds->node);
    if (announced(link))
        send_descriptor(ds, PORT_PRODUCER_REGISTER_DATA_SOURCE);
    if (out)
        *out = ds;
    return 0;
}

int datasource_update(struct datasource *ds, const uint8_t *descriptor, size_t len)
{
    int err = complete_descriptor(ds, descriptor, len);
    if (err == 0 && announced(ds->link))
        send_descriptor(ds, PORT_PRODUCER_UPDATE_DATA_SOURCE);
    return err;
}

static void free_type(struct datasource *ds)
{
    list_remove(&ds->node);
    free(ds->name);
    free(ds->descriptor);
    free(ds);
}

void datasource_announce_all(struct prodlink *link)
{
    list_for_each (pos, &link->sources)
        send_descriptor(list_entry(pos, struct datasource, node),
                        PORT_PRODUCER_REGISTER_DATA_SOURCE);
}

void datasource_free_all(struct prodlink *link)
{
    list_for_each_safe (pos, tmp, &link->sources)
        free_type(list_entry(pos, struct datasource, node));
}

void *datasource_ctx(const struct datasource *ds)
{
    return ds->ctx;
}

const char *datasource_name(const struct datasource *ds)
{
    return ds->name;
}

void datasource_unregister(struct datasource *ds)
{
    struct prodlink *link = ds->link;
    struct bytesbuf b;
    ds_inst_end_type(ds);
    bytesbuf_init(&b, FRAME_BLOB_MAX);
    bytesbuf_pb_str(&b, 1, ds->name);
    if (announced(link))
        prodlink_call(link, PORT_PRODUCER_UNREGISTER_DATA_SOURCE, bytesbuf_view(&b), -1, NULL,
                      NULL);
    bytesbuf_fini(&b);
    free_type(ds);
}
