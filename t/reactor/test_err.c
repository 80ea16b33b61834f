/* SPDX-License-Identifier: Apache-2.0 */
#include "reactor/err.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <limits.h>
#include <string.h>

Test(err, names_both_tiers)
{
    cr_assert_str_eq(err_name(0), "OK");
    cr_assert_str_eq(err_name(-EACCES), "EACCES");
    cr_assert_str_eq(err_text(-EACCES), "Permission denied");
    cr_assert_str_eq(err_name(ERR_BAD_FRAME), "ERR_BAD_FRAME");
    cr_assert_str_eq(err_text(ERR_BAD_FRAME), "frame does not parse");
}

Test(err, every_fault_has_its_own_name_and_text)
{
    for (int i = 1; i < ERR_PEER_END; i++) {
        cr_assert(err_is_peer(i) && !err_is_ours(i));
        cr_assert(strncmp(err_name(i), "ERR_", 4) == 0);
        for (int j = 0; j < i; j++) {
            cr_assert_str_neq(err_name(i), err_name(j));
            cr_assert_str_neq(err_text(i), err_text(j));
        }
    }
}

Test(err, survives_values_out_of_range)
{
    cr_assert_str_eq(err_name(ERR_PEER_END), "?");
    cr_assert_str_eq(err_name(INT_MAX), "?");
    cr_assert_str_eq(err_name(INT_MIN), "?");
    cr_assert_str_eq(err_name(-99999), "?");
    cr_assert_str_eq(err_text(INT_MIN), "unknown error");
    cr_assert_str_eq(err_text(INT_MAX), "unknown fault of the peer");
}
