/* SPDX-License-Identifier: Apache-2.0 */
#include "reactor/charge.h"

#include "reactor/defaults.h"
#include "reactor/err.h"
#include "reactor/log.h"

#include <criterion/criterion.h>

static const struct charge_limit limits[CHARGE_KINDS] = {
    [CHARGE_CONNECTIONS] = {2, 3},
    [CHARGE_SESSIONS] = {UINT64_MAX, UINT64_MAX},
    [CHARGE_SMB_BYTES] = {100, UINT64_MAX},
    [CHARGE_BUFFER_BYTES] = {UINT64_MAX, UINT64_MAX},
    [CHARGE_SOURCE_BYTES] = {UINT64_MAX, UINT64_MAX},
    [CHARGE_QUEUE_BYTES] = {UINT64_MAX, UINT64_MAX},
};

Test(charge, balances_to_zero)
{
    struct charge_book *book = charge_book_new(limits);
    struct charge a = {0};
    struct charge b = {0};
    cr_assert_eq(charge_take(book, &a, 1000, CHARGE_SMB_BYTES, 60), 0);
    cr_assert_eq(charge_take(book, &b, 1000, CHARGE_SMB_BYTES, 40), 0);
    cr_assert_eq(charge_balance(book, 1000, CHARGE_SMB_BYTES), 100);
    cr_assert_eq(charge_balance(book, 1000, CHARGE_CONNECTIONS), 0);
    cr_assert_eq(charge_balance(book, 1001, CHARGE_SMB_BYTES), 0);
    charge_release(&a);
    charge_release(&a);
    cr_assert_eq(charge_balance(book, 1000, CHARGE_SMB_BYTES), 40);
    cr_assert_eq(charge_accounts(book), 1);
    charge_release(&b);
    cr_assert_eq(charge_total(book, CHARGE_SMB_BYTES), 0);
    cr_assert_eq(charge_accounts(book), 0, "a uid that holds nothing leaves nothing behind");
    charge_book_free(book);
}

Test(charge, limits_hold_per_uid_and_in_total)
{
    struct charge_book *book = charge_book_new(limits);
    struct charge c[5] = {{0}};
    cr_assert_eq(charge_take(book, &c[0], 1, CHARGE_CONNECTIONS, 1), 0);
    cr_assert_eq(charge_take(book, &c[1], 1, CHARGE_CONNECTIONS, 1), 0);
    cr_assert_eq(charge_take(book, &c[2], 1, CHARGE_CONNECTIONS, 1), ERR_QUOTA);
    cr_assert_null(c[2].account, "nothing is charged by what was refused");
    cr_assert_eq(charge_take(book, &c[2], 2, CHARGE_CONNECTIONS, 1), 0);
    cr_assert_eq(charge_take(book, &c[3], 3, CHARGE_CONNECTIONS, 1), ERR_QUOTA, "3 in total");
    cr_assert_eq(charge_accounts(book), 2);
    charge_release(&c[0]);
    cr_assert_eq(charge_take(book, &c[3], 3, CHARGE_CONNECTIONS, 1), 0);
    cr_assert_eq(charge_take(book, &c[4], 1, CHARGE_SMB_BYTES, 101), ERR_QUOTA);
    for (int i = 0; i < 5; i++)
        charge_release(&c[i]);
    charge_book_free(book);
}

Test(charge, huge_amounts_do_not_wrap)
{
    struct charge_book *book = charge_book_new(limits);
    struct charge a = {0};
    struct charge b = {0};
    cr_assert_eq(charge_take(book, &a, 1, CHARGE_BUFFER_BYTES, UINT64_MAX), 0);
    cr_assert_eq(charge_take(book, &b, 1, CHARGE_BUFFER_BYTES, 1), ERR_QUOTA);
    cr_assert_eq(charge_take(book, &b, 1, CHARGE_SMB_BYTES, UINT64_MAX), ERR_QUOTA);
    charge_release(&a);
    charge_book_free(book);
}

Test(charge, defaults_are_those_of_the_header)
{
    struct charge_book *book = charge_book_new(NULL);
    cr_assert_eq(charge_limit_of(book, CHARGE_SESSIONS).per_uid, DEFAULTS_UID_SESSIONS);
    cr_assert_eq(charge_limit_of(book, CHARGE_SESSIONS).total, DEFAULTS_MAX_SESSIONS);
    cr_assert_eq(charge_limit_of(book, CHARGE_SMB_BYTES).per_uid, DEFAULTS_UID_SMB_BYTES);
    charge_book_free(book);
}

static void count_errors(void *arg, enum log_level level, const char *text)
{
    (void)text;
    *(int *)arg += level == LOG_LEVEL_ERROR;
}

Test(charge, an_unbalanced_end_is_an_error_line)
{
    int errors = 0;
    struct charge_book *book = charge_book_new(limits);
    struct charge a = {0};
    log_set_sink(count_errors, &errors);
    charge_take(book, &a, 1, CHARGE_SESSIONS, 1);
    charge_book_free(book);
    cr_assert_eq(errors, 1);
}

Test(charge, grows_and_shrinks_within_the_limits)
{
    struct charge_book *book = charge_book_new(limits);
    struct charge a = {0}, b = {0}, none = {0};
    cr_assert_eq(charge_take(book, &a, 1, CHARGE_SMB_BYTES, 0), 0);
    cr_assert_eq(charge_take(book, &b, 1, CHARGE_SMB_BYTES, 30), 0);
    cr_expect_eq(charge_resize(&a, 70), 0);
    cr_expect_eq(charge_resize(&a, 71), ERR_QUOTA);
    cr_expect_eq(charge_balance(book, 1, CHARGE_SMB_BYTES), 100, "as it was");
    cr_expect_eq(charge_resize(&b, 0), 0);
    cr_expect_eq(charge_resize(&a, 100), 0);
    cr_expect_eq(charge_resize(&none, 5), 0);
    cr_expect_eq(charge_total(book, CHARGE_SMB_BYTES), 100);
    charge_release(&a);
    cr_expect_eq(charge_resize(&a, 5), 0, "one that was given back pays for nothing");
    cr_expect_eq(charge_total(book, CHARGE_SMB_BYTES), 0);
    charge_release(&b);
    charge_book_free(book);
}
