/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The blocking peer. It follows the documents by hand so that it tests our libraries and does not
 * use them: chunk states change by compare-and-swap, a packet is counted after it is whole, and no
 * chunk is begun that could not be sent. All five layouts are used in turn.
 */
#include "t/support/rawpeer.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "ipc/port_producer.h"
#include "protos/fieldnum.h"

#define LARGEST_FRAME 131068u
#define PACKET_MAX    512u
#define READ_SIZE     8192u /* small: a benchmark has ten thousand of us */

static void die(const char *what)
{
    fprintf(stderr, "rawpeer: %s: %s\n", what, strerror(errno));
    exit(2);
}

/* ---- frames ---- */

static bool send_frame(struct rawpeer *p, struct bytesbuf *b)
{
    if (b->failed || b->n > LARGEST_FRAME)
        die("frame too long");
    uint32_t size = (uint32_t)b->n;
    uint8_t head[4];
    bytes_store32(head, size);
    struct iovec iov[2] = {{head, 4}, {b->p, b->n}};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
    while (iov[0].iov_len + iov[1].iov_len > 0) {
        ssize_t n = sendmsg(p->fd, &msg, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return false;
        for (int i = 0; i < 2; i++) {
            size_t part = (size_t)n < iov[i].iov_len ? (size_t)n : iov[i].iov_len;
            iov[i].iov_base = (uint8_t *)iov[i].iov_base + part;
            iov[i].iov_len -= part;
            n -= (ssize_t)part;
        }
    }
    return true;
}

/* Reads what is there; false at the end of the connection. */
static bool receive(struct rawpeer *p)
{
    char control[CMSG_SPACE(sizeof(int))];
    uint8_t *to = bytesbuf_reserve(&p->in, READ_SIZE);
    struct iovec iov = {to, READ_SIZE};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control,
                         .msg_controllen = sizeof(control)};
    if (!to)
        die("no memory");
    ssize_t n = recvmsg(p->fd, &msg, MSG_CMSG_CLOEXEC);
    if (n <= 0)
        return n < 0 && errno == EINTR;
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    if (c && c->cmsg_type == SCM_RIGHTS) {
        if (p->passed_fd >= 0)
            close(p->passed_fd);
        memcpy(&p->passed_fd, CMSG_DATA(c), sizeof(int));
    }
    bytesbuf_commit(&p->in, (size_t)n);
    return true;
}

/* The next whole frame: 1, 0 when the time is over, -1 when hung up. */
static int next_frame(struct rawpeer *p, int timeout_ms, struct bytes_view *out)
{
    bytesbuf_drop_front(&p->in, p->consumed);
    p->consumed = 0;
    for (;;) {
        if (p->in.n >= 4 && p->in.n - 4 >= bytes_load32(p->in.p)) {
            p->consumed = 4 + (size_t)bytes_load32(p->in.p);
            *out = bytes_view(p->in.p + 4, p->consumed - 4);
            return 1;
        }
        struct pollfd fd = {.fd = p->fd, .events = POLLIN};
        int n = poll(&fd, 1, timeout_ms);
        if (n == 0)
            return 0;
        if (n > 0 && !receive(p))
            return -1;
    }
}

static uint64_t number_of(struct bytes_view msg, uint32_t field)
{
    struct bytes_field f;
    return bytes_find(msg, field, BYTES_VARINT, &f) ? f.num : 0;
}

static struct bytes_view part_of(struct bytes_view msg, uint32_t field)
{
    struct bytes_field f;
    return bytes_find(msg, field, BYTES_LEN, &f) ? f.data : bytes_view(NULL, 0);
}

bool rawpeer_open(struct rawpeer *p, const char *path, const char *service)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct bytesbuf b;
    struct bytes_view frame;
    *p = (struct rawpeer){.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), .passed_fd = -1};
    bytesbuf_init(&p->in, 4 << 20);
    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    if (p->fd < 0)
        die("socket");
    if (connect(p->fd, (struct sockaddr *)&addr, sizeof(addr)) != 0)
        return false;
    bytesbuf_init(&b, LARGEST_FRAME);
    bytesbuf_pb_varint(&b, PBF_IPCFrame_request_id, ++p->request);
    size_t mark = bytesbuf_pb_begin(&b, PBF_IPCFrame_msg_bind_service);
    bytesbuf_pb_str(&b, PBF_IPCFrame_BindService_service_name, service);
    bytesbuf_pb_end(&b, mark);
    bool ok = send_frame(p, &b) && next_frame(p, -1, &frame) > 0;
    bytesbuf_fini(&b);
    if (ok)
        p->service_id = number_of(part_of(frame, PBF_IPCFrame_msg_bind_service_reply),
                                  PBF_IPCFrame_BindServiceReply_service_id);
    return ok && p->service_id;
}

void rawpeer_close(struct rawpeer *p)
{
    close(p->fd);
    if (p->passed_fd >= 0)
        close(p->passed_fd);
    bytesbuf_fini(&p->in);
}

uint64_t rawpeer_call(struct rawpeer *p, uint32_t method, struct bytes_view args, bool drop_reply)
{
    struct bytesbuf b;
    bytesbuf_init(&b, LARGEST_FRAME);
    bytesbuf_pb_varint(&b, PBF_IPCFrame_request_id, ++p->request);
    size_t mark = bytesbuf_pb_begin(&b, PBF_IPCFrame_msg_invoke_method);
    bytesbuf_pb_varint(&b, PBF_IPCFrame_InvokeMethod_service_id, p->service_id);
    bytesbuf_pb_varint(&b, PBF_IPCFrame_InvokeMethod_method_id, method);
    bytesbuf_pb_bytes(&b, PBF_IPCFrame_InvokeMethod_args_proto, args.p, args.n);
    bytesbuf_pb_varint(&b, PBF_IPCFrame_InvokeMethod_drop_reply, drop_reply);
    bytesbuf_pb_end(&b, mark);
    bool ok = send_frame(p, &b);
    bytesbuf_fini(&b);
    return ok ? p->request : 0;
}

int rawpeer_next(struct rawpeer *p, int timeout_ms, struct rawpeer_reply *out)
{
    struct bytes_view frame;
    int n = next_frame(p, timeout_ms, &frame);
    if (n <= 0)
        return n;
    struct bytes_view reply = part_of(frame, PBF_IPCFrame_msg_invoke_method_reply);
    *out = (struct rawpeer_reply){
        .request = number_of(frame, PBF_IPCFrame_request_id),
        .ok = number_of(reply, PBF_IPCFrame_InvokeMethodReply_success) != 0,
        .has_more = number_of(reply, PBF_IPCFrame_InvokeMethodReply_has_more) != 0,
        .body = part_of(reply, PBF_IPCFrame_InvokeMethodReply_reply_proto)};
    return 1;
}

bool rawpeer_ask(struct rawpeer *p, uint32_t method, struct bytes_view args)
{
    struct rawpeer_reply r;
    uint64_t request = rawpeer_call(p, method, args, false);
    while (request) {
        if (rawpeer_next(p, -1, &r) < 0)
            return false;
        if (r.request == request && !r.has_more)
            return r.ok;
    }
    return false;
}

/* ---- producer ---- */

static const uint32_t chunks_of[] = {0, 1, 2, 4, 7, 14, 0, 0};

static _Atomic uint32_t *word_of(const struct rawprod *p, uint32_t page)
{
    return (_Atomic uint32_t *)(void *)(p->smb + page * p->page);
}

static uint8_t *chunk_at(const struct rawprod *p, uint32_t page, uint32_t word, uint32_t chunk,
                         size_t *size)
{
    *size = ((p->page - 8) / chunks_of[word >> 28 & 7]) & ~(size_t)3;
    return p->smb + page * p->page + 8 + chunk * *size;
}

static bool take_chunk(struct rawprod *p, struct rawprod_writer *w, uint32_t page, uint32_t chunk,
                       uint32_t word, uint32_t want)
{
    size_t size;
    if (!atomic_compare_exchange_strong(word_of(p, page), &want, word | 1u << 2 * chunk))
        return false;
    uint8_t *head = chunk_at(p, page, word, chunk, &size);
    w->page = page;
    w->chunk = chunk;
    w->at = head + 8;
    w->end = head + size;
    w->count = 0;
    w->open = true;
    bytes_store32(head, w->chunk_id++);
    bytes_store16(head + 4, w->id);
    atomic_store_explicit((_Atomic uint16_t *)(void *)(head + 6), 0, memory_order_release);
    return true;
}

static bool open_chunk(struct rawprod *p, struct rawprod_writer *w)
{
    uint32_t pages = (uint32_t)(p->size / p->page);
    for (uint32_t i = 0; i < pages; i++) {
        uint32_t page = p->search;
        uint32_t word = atomic_load(word_of(p, page));
        p->search = (page + 1) % pages;
        if (word == 0) {
            uint32_t layout = (1 + page % 5) << 28;
            if (take_chunk(p, w, page, 0, layout, 0))
                return true;
            continue;
        }
        for (uint32_t c = 0; c < chunks_of[word >> 28 & 7]; c++) {
            if (!(word >> 2 * c & 3) && take_chunk(p, w, page, c, word, word))
                return true;
        }
    }
    return false;
}

/* Counts a packet that is whole. */
static void count_packet(struct rawprod *p, struct rawprod_writer *w)
{
    size_t size;
    uint32_t word = atomic_load(word_of(p, w->page));
    uint8_t *head = chunk_at(p, w->page, word, w->chunk, &size);
    atomic_store_explicit((_Atomic uint16_t *)(void *)(head + 6), (uint16_t)++w->count,
                          memory_order_release);
}

static void close_chunk(struct rawprod *p, struct rawprod_writer *w)
{
    _Atomic uint32_t *word = word_of(p, w->page);
    uint32_t old = atomic_load(word);
    while (!atomic_compare_exchange_weak(word, &old, old | 3u << 2 * w->chunk))
        continue;
    w->open = false;
    if (p->commit.n > LARGEST_FRAME / 2)
        rawprod_commit(p, false);
    size_t mark = bytesbuf_pb_begin(&p->commit, PBF_CommitDataRequest_chunks_to_move);
    bytesbuf_pb_varint(&p->commit, PBF_CommitDataRequest_ChunksToMove_page, w->page);
    bytesbuf_pb_varint(&p->commit, PBF_CommitDataRequest_ChunksToMove_chunk, w->chunk);
    bytesbuf_pb_varint(&p->commit, PBF_CommitDataRequest_ChunksToMove_target_buffer, w->target);
    bytesbuf_pb_end(&p->commit, mark);
}

static size_t put_packet(struct bytesbuf *b, uint64_t n, size_t pad)
{
    static const char dots[PACKET_MAX] = {0};
    bytesbuf_clear(b);
    bytesbuf_pb_varint(b, PBF_TracePacket_timestamp, 1000 + n);
    size_t mark = bytesbuf_pb_begin(b, PBF_TracePacket_for_testing);
    bytesbuf_pb_bytes(b, PBF_TestEvent_str, dots, pad);
    bytesbuf_pb_varint(b, PBF_TestEvent_seq_value, n);
    bytesbuf_pb_end(b, mark);
    return b->n;
}

bool rawprod_write(struct rawprod *p, struct rawprod_writer *w, unsigned n, size_t pad, bool finish)
{
    struct bytesbuf b;
    bytesbuf_init(&b, PACKET_MAX);
    bool ok = true;
    for (unsigned i = 0; i < n && ok; i++) {
        size_t size = put_packet(&b, w->next, pad);
        if (w->open && (size_t)(w->end - w->at) < size + 2)
            close_chunk(p, w);
        ok = w->open || open_chunk(p, w);
        if (!ok)
            break;
        *w->at++ = (uint8_t)(size | 0x80);
        *w->at++ = (uint8_t)(size >> 7);
        memcpy(w->at, b.p, size);
        w->at += size;
        w->next++;
        count_packet(p, w);
    }
    bytesbuf_fini(&b);
    if (finish && w->open)
        close_chunk(p, w);
    return ok;
}

bool rawprod_commit(struct rawprod *p, bool ack)
{
    bool ok = ack ? rawpeer_ask(&p->peer, PORT_PRODUCER_COMMIT_DATA, bytesbuf_view(&p->commit))
                  : rawpeer_call(&p->peer, PORT_PRODUCER_COMMIT_DATA, bytesbuf_view(&p->commit),
                                 true) != 0;
    bytesbuf_clear(&p->commit);
    return ok;
}

static void close_all(struct rawprod *p)
{
    for (int i = 0; i < RAWPROD_WRITERS; i++) {
        if (p->writers[i].open)
            close_chunk(p, &p->writers[i]);
    }
}

static bool call_number(struct rawprod *p, uint32_t method, uint64_t a, uint64_t b)
{
    struct bytesbuf args;
    bytesbuf_init(&args, 64);
    bytesbuf_pb_varint(&args, 1, a);
    if (b)
        bytesbuf_pb_varint(&args, 2, b);
    bool ok = rawpeer_call(&p->peer, method, bytesbuf_view(&args), true) != 0;
    bytesbuf_fini(&args);
    return ok;
}

static void map_smb(struct rawprod *p, struct bytes_view setup)
{
    struct stat st;
    if (p->peer.passed_fd < 0 || fstat(p->peer.passed_fd, &st) != 0)
        die("no shared memory came");
    p->size = (size_t)st.st_size;
    p->page = 1024 *
              number_of(setup, PBF_GetAsyncCommandResponse_SetupTracing_shared_buffer_page_size_kb);
    p->smb = mmap(NULL, p->size, PROT_READ | PROT_WRITE, MAP_SHARED, p->peer.passed_fd, 0);
    if (p->smb == MAP_FAILED)
        die("mmap");
    close(p->peer.passed_fd);
    p->peer.passed_fd = -1;
}

static bool start_writer(struct rawprod *p, struct bytes_view start)
{
    struct bytes_view config = part_of(start, PBF_GetAsyncCommandResponse_StartDataSource_config);
    for (int i = 0; i < RAWPROD_WRITERS; i++) {
        struct rawprod_writer *w = &p->writers[i];
        if (w->instance)
            continue;
        *w = (struct rawprod_writer){
            .instance =
                number_of(start, PBF_GetAsyncCommandResponse_StartDataSource_new_instance_id),
            .target = (uint32_t)number_of(config, PBF_DataSourceConfig_target_buffer),
            .id = ++p->writer_ids};
        return call_number(p, PORT_PRODUCER_REGISTER_TRACE_WRITER, w->id, w->target) &&
               call_number(p, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STARTED, w->instance, 0);
    }
    errno = E2BIG;
    die("more instances than writers");
    return false;
}

static bool stop_writer(struct rawprod *p, uint64_t instance)
{
    for (int i = 0; i < RAWPROD_WRITERS; i++) {
        struct rawprod_writer *w = &p->writers[i];
        if (w->instance != instance)
            continue;
        if (w->open)
            close_chunk(p, w);
        w->instance = 0;
        if (!rawprod_commit(p, false) ||
            !call_number(p, PORT_PRODUCER_UNREGISTER_TRACE_WRITER, w->id, 0))
            return false;
    }
    return call_number(p, PORT_PRODUCER_NOTIFY_DATA_SOURCE_STOPPED, instance, 0);
}

static bool answer_flush(struct rawprod *p, struct bytes_view flush)
{
    close_all(p);
    bytesbuf_pb_varint(&p->commit, PBF_CommitDataRequest_flush_request_id,
                       number_of(flush, PBF_GetAsyncCommandResponse_Flush_request_id));
    return rawprod_commit(p, false);
}

static bool take_command(struct rawprod *p, struct bytes_view body)
{
    struct bytes_cur cur = bytes_cur(body);
    struct bytes_field f;
    bool ok = true;
    while (ok && bytes_next(&cur, &f)) {
        if (f.id == PBF_GetAsyncCommandResponse_setup_tracing)
            map_smb(p, f.data);
        else if (f.id == PBF_GetAsyncCommandResponse_start_data_source)
            ok = start_writer(p, f.data);
        else if (f.id == PBF_GetAsyncCommandResponse_stop_data_source)
            ok = stop_writer(p, number_of(f.data, 1));
        else if (f.id == PBF_GetAsyncCommandResponse_flush)
            ok = answer_flush(p, f.data);
    }
    return ok;
}

bool rawprod_serve(struct rawprod *p, int timeout_ms)
{
    struct rawpeer_reply r;
    int n;
    while ((n = rawpeer_next(&p->peer, timeout_ms, &r)) > 0) {
        if (r.request == p->commands && !take_command(p, r.body))
            return false;
        timeout_ms = 0;
    }
    return n == 0;
}

static bool register_source(struct rawprod *p, const char *name)
{
    struct bytesbuf b;
    bytesbuf_init(&b, LARGEST_FRAME);
    size_t mark = bytesbuf_pb_begin(&b, PBF_RegisterDataSourceRequest_data_source_descriptor);
    bytesbuf_pb_str(&b, PBF_DataSourceDescriptor_name, name);
    bytesbuf_pb_varint(&b, PBF_DataSourceDescriptor_will_notify_on_start, 1);
    bytesbuf_pb_varint(&b, PBF_DataSourceDescriptor_will_notify_on_stop, 1);
    bytesbuf_pb_end(&b, mark);
    bool ok =
        rawpeer_call(&p->peer, PORT_PRODUCER_REGISTER_DATA_SOURCE, bytesbuf_view(&b), true) != 0;
    bytesbuf_fini(&b);
    return ok;
}

bool rawprod_open(struct rawprod *p, const char *path, const char *name, char *const *sources,
                  int nsources)
{
    struct bytesbuf b;
    *p = (struct rawprod){0};
    bytesbuf_init(&p->commit, LARGEST_FRAME);
    if (!rawpeer_open(&p->peer, path, "ProducerPort"))
        return false;
    bytesbuf_init(&b, LARGEST_FRAME);
    bytesbuf_pb_str(&b, PBF_InitializeConnectionRequest_producer_name, name);
    bytesbuf_pb_varint(&b, PBF_InitializeConnectionRequest_smb_scraping_mode, 1);
    bool ok = rawpeer_ask(&p->peer, PORT_PRODUCER_INITIALIZE_CONNECTION, bytesbuf_view(&b));
    bytesbuf_fini(&b);
    if (!ok)
        return false;
    p->commands =
        rawpeer_call(&p->peer, PORT_PRODUCER_GET_ASYNC_COMMAND, bytes_view(NULL, 0), false);
    ok = p->commands != 0;
    for (int i = 0; i < nsources && ok; i++)
        ok = register_source(p, sources[i]);
    return ok;
}

void rawprod_close(struct rawprod *p)
{
    if (p->smb)
        munmap(p->smb, p->size);
    bytesbuf_fini(&p->commit);
    rawpeer_close(&p->peer);
}
