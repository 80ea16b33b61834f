/* SPDX-License-Identifier: Apache-2.0 */
/* Constants, sizes and the size negotiation: R3-R5, R14, R28. */
#include <criterion/criterion.h>

#include "smb/abi.h"

Test(abi, R14_chunk_sizes)
{
    static const struct {
        uint32_t page, size[5], tail[5];
    } rows[] = {
        {4096, {4088, 2044, 1020, 584, 292}, {0, 0, 8, 0, 0}},
        {8192, {8184, 4092, 2044, 1168, 584}, {0, 0, 8, 8, 8}},
        {16384, {16376, 8188, 4092, 2336, 1168}, {0, 0, 8, 24, 24}},
        {32768, {32760, 16380, 8188, 4680, 2340}, {0, 0, 8, 0, 0}},
        {65536, {65528, 32764, 16380, 9360, 4680}, {0, 0, 8, 8, 8}},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (uint32_t layout = 1; layout <= 5; layout++) {
            uint32_t size = abi_chunk_size(rows[i].page, layout);
            cr_assert_eq(size, rows[i].size[layout - 1]);
            cr_assert_eq(rows[i].page - 8 - size * abi_layout_chunks(layout),
                         rows[i].tail[layout - 1]);
        }
        cr_assert_eq(abi_chunk_size(rows[i].page, SMB_LAYOUT_NONE), 0);
        cr_assert_eq(abi_chunk_size(rows[i].page, 6), 0);
        cr_assert_eq(abi_chunk_size(rows[i].page, 7), 0);
    }
}

/* R3. */
Test(abi, R5_size_table)
{
    /* KiB: config page, hint page, page; config total, hint total, total. */
    static const uint32_t rows[][6] = {
        {0, 0, 4, 0, 0, 256},
        {16, 0, 16, 16, 0, 16},
        {0, 4, 4, 0, 16, 16},
        {4, 8, 4, 16, 32, 16},
        {8, 4, 8, 32, 16, 32},
        {3, 0, 4, 0, 0, 256},
        {2, 0, 4, 0, 0, 256},
        {4096, 0, 32, 4096000, 0, 32768},
        {0, 4096, 32, 0, 4096000, 32768},
        {0, 0, 4, 18, 0, 256},
        {2, 0, 4, 32, 0, 256},
        {16, 0, 4, 18, 0, 256},
        {8, 0, 4, 20, 0, 256},
        {28, 0, 4, 0, 0, 256},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const uint32_t *r = rows[i];
        struct smb_size got = abi_size_resolve((uint64_t)r[3] * 1024, (uint64_t)r[0] * 1024,
                                               (uint64_t)r[4] * 1024, (uint64_t)r[1] * 1024);
        cr_assert_eq(got.page, r[2] * 1024, "row %zu: page %u", i, got.page);
        cr_assert_eq(got.total, r[5] * 1024, "row %zu: total %u", i, got.total);
    }
    /* Nothing overflows, whatever is asked for. */
    struct smb_size got = abi_size_resolve(UINT64_MAX, UINT64_MAX, 0, 0);
    cr_assert_eq(got.page, SMB_MAX_PAGE);
    cr_assert_eq(got.total, SMB_MAX_SIZE);
}

Test(abi, R11_offered_pairs)
{
    cr_assert(abi_size_valid(1048576, 4096));
    cr_assert(abi_size_valid(4096, 4096));
    cr_assert(abi_size_valid(SMB_MAX_SIZE, 32768));
    cr_assert_not(abi_size_valid(1048576, 20480));
    cr_assert_not(abi_size_valid(1048576, 0));
    cr_assert_not(abi_size_valid(0, 4096));
    cr_assert_not(abi_size_valid(2048, 4096));
    cr_assert_not(abi_size_valid(65536, 65536));
    cr_assert_not(abi_size_valid((uint64_t)SMB_MAX_SIZE + 4096, 4096));
    cr_assert_not(abi_size_valid(4096 * 5, 8192));
}

Test(abi, R28_redundant_sizes)
{
    static const struct {
        uint32_t v;
        uint8_t bytes[4];
    } rows[] = {
        {0, {0x80, 0x80, 0x80, 0x00}},
        {1, {0x81, 0x80, 0x80, 0x00}},
        {2103, {0xB7, 0x90, 0x80, 0x00}},
        {2026, {0xEA, 0x8F, 0x80, 0x00}},
        {SMB_DROP_SENTINEL, {0xFF, 0xFF, 0xFF, 0x7F}},
        {0x1234567, {0xE7, 0x8A, 0x8D, 0x09}},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        uint8_t got[4];
        abi_put_size(got, rows[i].v);
        cr_assert_arr_eq(got, rows[i].bytes, 4);
    }
}

Test(abi, packets_word)
{
    cr_assert_eq(abi_packets(2, SMB_LAST_CONTINUES | SMB_NEEDS_PATCHING), 0x1802);
    cr_assert_eq(abi_packets(3, SMB_FIRST_CONTINUES), 0x0403);
    for (uint32_t flags = 0; flags < 64; flags++) {
        for (uint32_t count = 0; count <= SMB_MAX_COUNT; count += 31) {
            uint16_t p = abi_packets(count, flags);
            cr_assert_eq(abi_packets_count(p), count);
            cr_assert_eq(abi_packets_flags(p), flags);
        }
    }
}
