/* SPDX-License-Identifier: Apache-2.0 */
/* Every row of spec/trace_buffer.md sections 19 and 20 is one case, named by its id. */
#include <criterion/criterion.h>

#include "tbuf_script.h"

#define CASE(id, script)                                                                           \
    Test(tbuf_table, id)                                                                           \
    {                                                                                              \
        tbuf_script_run(#id, script);                                                              \
    }
#include "tbuf_cases.def"

#define RECORD(id, script, walks, stats)                                                           \
    Test(tbuf_scenario, id)                                                                        \
    {                                                                                              \
        tbuf_script_record(#id, script, walks, stats);                                             \
    }
#include "tbuf_records.def"
