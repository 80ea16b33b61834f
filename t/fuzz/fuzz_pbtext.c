/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Text configs: any bytes are parsed to the end, and what was accepted prints to a text that parses
 * to the same bytes. The first byte chooses lossy mode.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/pbprint.h"
#include "cli/pbtext.h"
#include "protos/descset.h"

static upb_DefPool *pool;
static const upb_MessageDef *config;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void load(void)
{
    upb_Status status;

    upb_Status_Clear(&status);
    pool = upb_DefPool_New();
    if (descset_load(pool, "protos/config/trace_config.proto", &status) != 0)
        abort();
    config = upb_DefPool_FindMessageByName(pool, "perfetto.protos.TraceConfig");
}

static int parse(const char *text, size_t len, bool lossy, struct bytesbuf *out)
{
    struct pbdiag_source source = {.name = "input"};
    struct pbtext_options options = {.lossy = lossy};
    char *said = NULL;
    size_t said_len;
    FILE *f = open_memstream(&said, &said_len);
    struct pbdiag d = {
        .text = text, .len = len, .sources = &source, .n_sources = 1, .out = f, .shown_max = 20};
    int rc;

    bytesbuf_init(out, 1 << 24);
    rc = pbtext_parse(config, pool, &options, &d, out);
    fclose(f);
    if ((rc == 0) != (d.errors == 0) || (rc != 0 && said_len == 0))
        abort();
    free(said);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytesbuf first, second;
    char *printed = NULL;
    size_t len;
    FILE *f;

    if (pool == NULL)
        load();
    if (size == 0)
        return 0;
    if (parse((const char *)data + 1, size - 1, data[0] & 1, &first) == 0) {
        f = open_memstream(&printed, &len);
        pbprint_text(f, config, bytesbuf_view(&first), 0);
        fclose(f);
        if (parse(printed, len, false, &second) != 0 ||
            !bytes_equal(bytesbuf_view(&first), bytesbuf_view(&second)))
            abort();
        bytesbuf_fini(&second);
        free(printed);
    }
    bytesbuf_fini(&first);
    return 0;
}
