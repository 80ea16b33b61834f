/* SPDX-License-Identifier: Apache-2.0 */
/* The generated code and the embedded descriptors speak of the same messages. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "protos/common/builtin_clock.upb.h"
#include "protos/config/trace_config.upb.h"
#include "protos/config/data_source_config.upb.h"
#include "protos/descset.h"
#include "protos/fieldnum.h"
#include "upb/reflection.h"

#define TRACE_CONFIG "protos/config/trace_config.proto"

static char *make_config(upb_Arena *arena, size_t *len)
{
    perfetto_protos_TraceConfig *cfg = perfetto_protos_TraceConfig_new(arena);
    perfetto_protos_TraceConfig_set_duration_ms(cfg, 2500);
    perfetto_protos_TraceConfig_BufferConfig *buf =
        perfetto_protos_TraceConfig_add_buffers(cfg, arena);
    perfetto_protos_TraceConfig_BufferConfig_set_size_kb(buf, 4096);
    perfetto_protos_TraceConfig_DataSource *ds =
        perfetto_protos_TraceConfig_add_data_sources(cfg, arena);
    perfetto_protos_DataSourceConfig *dscfg =
        perfetto_protos_TraceConfig_DataSource_mutable_config(ds, arena);
    perfetto_protos_DataSourceConfig_set_name(dscfg, upb_StringView_FromString("linux.ftrace"));
    char *bytes = perfetto_protos_TraceConfig_serialize(cfg, arena, len);
    cr_assert_not_null(bytes);
    return bytes;
}

Test(descset, generated_code_round_trips_a_trace_config)
{
    upb_Arena *arena = upb_Arena_New();
    size_t len;
    char *bytes = make_config(arena, &len);
    const perfetto_protos_TraceConfig *back = perfetto_protos_TraceConfig_parse(bytes, len, arena);
    cr_assert_not_null(back);
    cr_assert_eq(perfetto_protos_TraceConfig_duration_ms(back), 2500);
    size_t n;
    const perfetto_protos_TraceConfig_DataSource *const *ds =
        perfetto_protos_TraceConfig_data_sources(back, &n);
    cr_assert_eq(n, 1);
    upb_StringView name =
        perfetto_protos_DataSourceConfig_name(perfetto_protos_TraceConfig_DataSource_config(ds[0]));
    cr_assert_eq(name.size, strlen("linux.ftrace"));
    cr_assert_arr_eq(name.data, "linux.ftrace", name.size);
    upb_Arena_Free(arena);
}

Test(descset, reflection_reads_what_generated_code_wrote)
{
    upb_Arena *arena = upb_Arena_New();
    size_t len;
    char *bytes = make_config(arena, &len);

    upb_DefPool *pool = upb_DefPool_New();
    upb_Status status;
    upb_Status_Clear(&status);
    cr_assert_eq(descset_load(pool, TRACE_CONFIG, &status), 0, "%s",
                 upb_Status_ErrorMessage(&status));
    const upb_MessageDef *m = upb_DefPool_FindMessageByName(pool, "perfetto.protos.TraceConfig");
    cr_assert_not_null(m);
    upb_Message *msg = upb_Message_New(m, arena);
    cr_assert_eq(upb_Decode(bytes, len, msg, upb_MessageDef_MiniTable(m), NULL, 0, arena),
                 kUpb_DecodeStatus_Ok);

    const upb_FieldDef *duration = upb_MessageDef_FindFieldByName(m, "duration_ms");
    cr_assert_eq(upb_Message_Get(msg, duration).uint32_val, 2500);
    cr_assert_eq(upb_FieldDef_Number(duration), PBF_TraceConfig_duration_ms);
    const upb_FieldDef *buffers = upb_MessageDef_FindFieldByName(m, "buffers");
    const upb_Array *arr = upb_Message_Get(msg, buffers).array_val;
    cr_assert_eq(upb_Array_Size(arr), 1);
    const upb_FieldDef *size_kb =
        upb_MessageDef_FindFieldByName(upb_FieldDef_MessageSubDef(buffers), "size_kb");
    cr_assert_eq(upb_Message_Get(upb_Array_Get(arr, 0).msg_val, size_kb).uint32_val, 4096);

    upb_DefPool_Free(pool);
    upb_Arena_Free(arena);
}

Test(descset, one_file_brings_its_imports_and_no_more)
{
    upb_DefPool *pool = upb_DefPool_New();
    upb_Status status;
    cr_assert_eq(descset_load(pool, TRACE_CONFIG, &status), 0);
    cr_assert_not_null(upb_DefPool_FindMessageByName(pool, "perfetto.protos.DataSourceConfig"));
    cr_assert_null(upb_DefPool_FindMessageByName(pool, "perfetto.protos.TracePacket"));
    upb_DefPool_Free(pool);
}

Test(descset, the_whole_set_loads_also_on_top_of_a_part)
{
    upb_DefPool *pool = upb_DefPool_New();
    upb_Status status;
    upb_Status_Clear(&status);
    cr_assert_eq(descset_load(pool, TRACE_CONFIG, &status), 0);
    cr_assert_eq(descset_load(pool, NULL, &status), 0, "%s", upb_Status_ErrorMessage(&status));
    cr_assert_not_null(upb_DefPool_FindMessageByName(pool, "perfetto.protos.TracePacket"));
    cr_assert_not_null(upb_DefPool_FindMessageByName(pool, "perfetto.protos.FtraceEvent"));
    cr_assert_not_null(upb_DefPool_FindMessageByName(pool, "perfetto.protos.IPCFrame"));
    upb_DefPool_Free(pool);
}

Test(descset, a_file_that_is_not_there_is_said_to_be_missing)
{
    upb_DefPool *pool = upb_DefPool_New();
    upb_Status status;
    cr_assert_eq(descset_load(pool, "protos/none.proto", &status), -ENOENT);
    upb_DefPool_Free(pool);
}
