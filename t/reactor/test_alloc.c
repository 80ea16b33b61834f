/* SPDX-License-Identifier: Apache-2.0 */
#include "reactor/alloc.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <string.h>

Test(alloc, zeroes_and_never_gives_null)
{
    unsigned char *p = alloc_array(100, 3);
    for (int i = 0; i < 300; i++)
        cr_assert_eq(p[i], 0);
    p = alloc_resize(p, 10, 1);
    free(p);
    p = alloc_zero(0);
    cr_assert_not_null(p);
    alloc_free(&p);
    cr_assert_null(p);
}

Test(alloc, copies_strings)
{
    char *s = alloc_strndup("producer", 4);
    cr_assert_str_eq(s, "prod");
    free(s);
    s = alloc_strdup("");
    cr_assert_str_eq(s, "");
    free(s);
}

Test(alloc, try_refuses_overflow_and_keeps_the_block)
{
    volatile size_t huge = SIZE_MAX / 2 + 2; /* twice that is 2 again */
    char *p = alloc_try(8);
    strcpy(p, "kept");
    cr_assert_null(alloc_try_resize(p, huge, 2));
    cr_assert_str_eq(p, "kept");
    cr_assert_null(alloc_try_array(huge, 2));
    free(p);
}

Test(alloc, bounded_kind_aborts_when_there_is_no_memory, .signal = SIGABRT)
{
    volatile size_t huge = SIZE_MAX / 2;
    alloc_array(huge, 3);
}
