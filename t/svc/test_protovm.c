/* SPDX-License-Identifier: Apache-2.0 */
/* svc/protovm, protovm_code, protovm_tree: what programs do to a state, and what they cannot do. */
#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "reactor/chrono.h"
#include "svc/protovm.h"
#include "svc/protovm_code.h"
#include "t/svc/vmasm.h"

#define STEPS 100000u

static struct protovm *vm;
static const char *why;

static void setup(void)
{
    chrono_random_seed(4711);
}

static void teardown(void)
{
    protovm_free(vm);
}

TestSuite(protovm, .init = setup, .fini = teardown);

static int load_bytes(struct bytes_view program, uint64_t limit)
{
    protovm_free(vm);
    vm = NULL;
    why = "";
    return protovm_new(program, limit, &vm, &why);
}

static void load_limited(const char *program, uint64_t limit)
{
    struct bytesbuf b;
    bytesbuf_init(&b, 1 << 20);
    vmasm_program(&b, program);
    cr_assert_eq(load_bytes(bytesbuf_view(&b), limit), 0, "%s", why);
    bytesbuf_fini(&b);
}

static void load(const char *program)
{
    load_limited(program, 1 << 20);
}

static enum protovm_result run_bytes(const void *p, size_t n)
{
    uint32_t steps = STEPS;
    uint8_t *copy = malloc(n + 1); /* of its own, so that a read behind it is seen */
    memcpy(copy, p, n);
    why = "";
    enum protovm_result r = protovm_run(vm, bytes_view(copy, n), &steps, &why);
    cr_expect_eq(r == PROTOVM_ABORT, why[0] != '\0', "an abort says why");
    free(copy);
    return r;
}

static enum protovm_result run(const char *patch)
{
    struct bytesbuf b;
    bytesbuf_init(&b, 1 << 20);
    vmasm_message(&b, patch);
    enum protovm_result r = run_bytes(b.n ? b.p : (const uint8_t *)"", b.n);
    bytesbuf_fini(&b);
    return r;
}

static bool state_is(const char *message)
{
    struct bytesbuf b;
    uint8_t *state = malloc((size_t)protovm_memory(vm));
    size_t n = protovm_state(vm, state);
    bytesbuf_init(&b, 1 << 20);
    vmasm_message(&b, message);
    bool same = vmasm_same(bytes_view(state, n), bytesbuf_view(&b));
    for (size_t i = 0; !same && i < n && i < 200; i++)
        fprintf(stderr, "%02x ", state[i]);
    bytesbuf_fini(&b);
    free(state);
    return same;
}

/* Runs a program on a fresh state and one patch. */
#define EXPECT(program, patch, result, state)                                                      \
    do {                                                                                           \
        load(program);                                                                             \
        cr_expect_eq(run(patch), result, "%s", why);                                               \
        cr_expect(state_is(state));                                                                \
    } while (0)

/* ---- select in the packet ---- */

Test(protovm, an_empty_program_takes_any_packet_and_keeps_nothing)
{
    EXPECT("", "1=1", PROTOVM_OK, "");
    EXPECT("", "", PROTOVM_OK, "");
}

Test(protovm, select_goes_into_a_field_of_the_packet)
{
    EXPECT("src /2/3 { dst+ /7 { set } }", "1=1 2{ 2=9 3=5 }", PROTOVM_OK, "7=5");
    EXPECT("src . { dst+ /7 { set } }", "1=1", PROTOVM_OK, "7{ 1=1 }");
    EXPECT("src /2 { dst+ /7 { set } }", "2=1 2=2", PROTOVM_OK, "7=1"); /* the first one */
}

Test(protovm, select_fails_where_the_packet_has_no_such_field)
{
    EXPECT("src /2/4 { dst+ /7 { set } }", "1=1 2{ 3=5 }", PROTOVM_ERROR, "");
    EXPECT("src /2/4 ? { dst+ /7 { set } }", "2{ 3=5 }", PROTOVM_OK, "");
}

Test(protovm, select_of_an_element_of_the_packet_counts_occurrences)
{
    EXPECT("src /2@1 { dst+ /7 { set } }", "2=5 3=1 2=6 2=7", PROTOVM_OK, "7=6");
    EXPECT("src /2@3 { dst+ /7 { set } }", "2=5 2=6 2=7", PROTOVM_ERROR, "");
}

Test(protovm, select_goes_over_a_repeated_field_of_the_packet)
{
    const char *program = "src /2* { load 0 dst+ /7@0 { set } }";
    EXPECT(program, "2=5 3=9 2=6", PROTOVM_OK, "7=6");
    EXPECT(program, "3=9", PROTOVM_OK, ""); /* no element is not a failure */
    EXPECT("src /2*/1* { dst+ /7 { set } }", "2{ 1=1 1=2 } 2{ 1=3 }", PROTOVM_OK, "7=3");
}

Test(protovm, a_failure_in_one_element_ends_the_loop)
{
    EXPECT("src /2*/1 { dst+ /7 { set } }", "2{ 1=1 } 2{ 3=3 } 2{ 1=9 }", PROTOVM_ERROR, "7=1");
}

Test(protovm, the_index_of_a_loop_goes_into_a_register)
{
    EXPECT("src /2*3 { dst+ /7:1=3 { merge } }", "2{ 2=5 } 2{ 2=6 }", PROTOVM_OK,
           "7{ 2=5 } 7{ 2=6 }");
    load("src /2*3 { dst+ /7:1=3 { dst+ /1 { set } } }");
    cr_expect_eq(run("2=9 2=8"), PROTOVM_OK);
    cr_expect(state_is("7{ 1=9 } 7{ 1=8 }"));
}

Test(protovm, select_puts_cursors_back)
{
    EXPECT("src /2 { src /3 dst+ /7 { set } } dst+ /8 { set }", "2{ 3=5 }", PROTOVM_OK,
           "7{ 3=5 } 8{ 2{ 3=5 } }");
}

Test(protovm, what_makes_no_sense_in_the_packet_aborts)
{
    EXPECT("src+ /2", "2=1", PROTOVM_ABORT, "");
    EXPECT("src /2/3", "2=1", PROTOVM_ABORT, ""); /* into a number */
    EXPECT("src /2/3*", "2=1", PROTOVM_ABORT, "");
    EXPECT("src /2 { load 0 } src /3:1=0", "2=1", PROTOVM_ABORT, "");
    EXPECT("src /-", "2=1", PROTOVM_ABORT, "");
    EXPECT("src /0", "2=1", PROTOVM_ABORT, "");
    EXPECT("both /2*", "2=1", PROTOVM_ABORT, "");
    EXPECT("none", "2=1", PROTOVM_ABORT, "");
    EXPECT("none ?", "2=1", PROTOVM_ABORT, ""); /* no abort level softens an abort */
}

/* ---- select in the state ---- */

Test(protovm, select_in_the_state_makes_fields_only_when_asked)
{
    EXPECT("dst /7 { set }", "1=1", PROTOVM_ERROR, "");
    EXPECT("dst+ /7/8 { set }", "1=1", PROTOVM_OK, "7{ 8{ 1=1 } }");
    EXPECT("dst+ /7/8", "1=1", PROTOVM_OK, "7{ }"); /* 8 is there, but nothing yet */
    EXPECT("both /7 ? dst+ /7 both /7 { set }", "1=1", PROTOVM_OK, "7{ 1=1 }");
}

Test(protovm, select_opens_what_was_set_as_a_whole)
{
    EXPECT("dst+ /7 { set } src /1 { dst /7/2 { set } }", "1=5 2=6 2=7", PROTOVM_ABORT,
           "7{ 1=5 2=6 2=7 }"); /* field 2 is a repeated one now */
    EXPECT("dst+ /7 { set } src /1 { dst /7/2 { set } }", "1=5 2=6 3'x'", PROTOVM_OK,
           "7{ 1=5 2=5 3'x' }");
    EXPECT("set src /1 { dst+ /9 { set } }", "1=5", PROTOVM_OK, "1=5 9=5");
}

Test(protovm, elements_are_made_one_behind_the_other)
{
    const char *program = "src /1 { dst+ /7@0 { set } } src /2 ? { dst+ /7@1 { set } }"
                          "src /3 ? { dst+ /7@3 { set } }";
    EXPECT(program, "1=5", PROTOVM_OK, "7=5");
    EXPECT(program, "1=5 2=6", PROTOVM_OK, "7=5 7=6");
    EXPECT(program, "1=5 2=6 3=7", PROTOVM_ABORT, "7=5 7=6"); /* 3 would leave a hole */
    /* a single value becomes the first element */
    EXPECT("src /1 { dst+ /7 { set } dst /7@1 { set } }", "1=5", PROTOVM_OK, "7=5 7=5");
    EXPECT("dst+ /7 { set } dst /7@1 { set }", "1=5", PROTOVM_OK, "7{ 1=5 } 7{ 1=5 }");
}

Test(protovm, elements_are_found_by_key)
{
    const char *program = "src /1* { src /1 { load 0 } dst+ /7:1=0 { merge } }"
                          "src /2* { load 0 dst /7:1=0 ? { del } }";
    load(program);
    cr_expect_eq(run("1{ 1=9 2=1 } 1{ 1=3 2=2 }"), PROTOVM_OK, "%s", why);
    cr_expect(state_is("7{ 1=3 2=2 } 7{ 1=9 2=1 }"), "in the order of keys");
    cr_expect_eq(run("1{ 1=9 3'x' }"), PROTOVM_OK);
    cr_expect(state_is("7{ 1=3 2=2 } 7{ 1=9 2=1 3'x' }"));
    cr_expect_eq(run("2=77 2=3"), PROTOVM_OK, "a key that is not there stops nothing");
    cr_expect(state_is("7{ 1=9 2=1 3'x' }"));
    cr_expect_eq(run("1{ 1=0xFFFFFFFFFFFFFFFF 2=4 }"), PROTOVM_OK);
    cr_expect_eq(run("1{ 1=0xFFFFFFFF 2=5 }"), PROTOVM_OK);
    cr_expect(state_is("7{ 1=9 2=1 3'x' } 7{ 1=0xFFFFFFFF 2=5 } 7{ 1=0xFFFFFFFFFFFFFFFF 2=4 }"),
              "keys have 64 bits");
}

Test(protovm, a_map_is_made_of_what_was_set_before)
{
    const char *program = "src /1 ? { load 0 dst /7:1=0 { dst+ /2 { set } } }"
                          "src /2 ? { dst . { set } }";
    load(program);
    cr_expect_eq(run("2{ 7{ 1=5 } }"), PROTOVM_OK);
    cr_expect_eq(run("1=5"), PROTOVM_OK, "one element: %s", why);
    cr_expect(state_is("7{ 1=5 2=5 }"));
    cr_expect_eq(run("2{ 7{ 1=9 } 7{ 1=5 3=1 } 7{ 1=5 3=2 } }"), PROTOVM_OK);
    cr_expect_eq(run("1=5"), PROTOVM_OK, "several: %s", why);
    cr_expect(state_is("7{ 1=5 2=5 3=2 } 7{ 1=9 }"), "the later of two equal ones");
    cr_expect_eq(run("2{ 7{ 1=9 } 7{ 2=5 } }"), PROTOVM_OK);
    cr_expect_eq(run("1=5"), PROTOVM_ABORT, "one without a key");
    cr_expect(state_is("7{ 1=9 } 7{ 2=5 }"), "nothing happened to it");
    cr_expect_eq(run("2{ 7{ 1'x' } }"), PROTOVM_OK);
    cr_expect_eq(run("1=5"), PROTOVM_ABORT, "a key that is no number");
    cr_expect_eq(run("2{ 7=5 }"), PROTOVM_OK);
    cr_expect_eq(run("1=5"), PROTOVM_ABORT, "an element that is no message");
    cr_expect(state_is("7=5"));
}

Test(protovm, select_goes_over_a_repeated_field_of_the_state)
{
    load("src /2 ? { dst . { set } } src /1 ? { dst /7* { dst+ /2 { set } } }");
    cr_expect_eq(run("1=5"), PROTOVM_OK, "none is no failure");
    cr_expect_eq(run("2{ 7{ 1=1 } 7{ 1=2 } }"), PROTOVM_OK);
    cr_expect_eq(run("1=5"), PROTOVM_OK, "%s", why);
    cr_expect(state_is("7{ 1=1 2=5 } 7{ 1=2 2=5 }"));
    cr_expect_eq(run("2{ 7{ 1=1 } }"), PROTOVM_OK);
    cr_expect_eq(run("1=6"), PROTOVM_OK, "a single one is a field of one element: %s", why);
    cr_expect(state_is("7{ 1=1 2=6 }"));
}

Test(protovm, elements_can_be_deleted_while_going_over_them)
{
    load("src /2 ? { dst . { set } } src /1 ? { dst /7* { dst /3 ? { dst . { del } } } }"
         "src /4 ? { dst /7* { del } }");
    cr_expect_eq(run("2{ 7{ 1=1 } 7{ 1=2 3=1 } 7{ 1=3 3=1 } 7{ 1=4 } }"), PROTOVM_OK);
    cr_expect_eq(run("1=5"), PROTOVM_OK, "%s", why);
    cr_expect(state_is("7{ 1=1 } 7{ 1=2 } 7{ 1=3 } 7{ 1=4 }"));
    cr_expect_eq(run("4=5"), PROTOVM_OK, "%s", why);
    cr_expect(state_is(""));
}

Test(protovm, what_makes_no_sense_in_the_state_aborts)
{
    EXPECT("src /1 { dst+ /7 { set } } dst /7/8", "1=1", PROTOVM_ABORT, "7=1");
    EXPECT("src /1 { dst+ /7@0 { set } } dst /7", "1=1", PROTOVM_ABORT, "7=1");
    EXPECT("src /1 { load 0 } dst+ /7:1=0 dst /7", "1=1", PROTOVM_ABORT, "");
    EXPECT("src /1 { load 0 } dst+ /7:1=0 dst /7@0", "1=1", PROTOVM_ABORT, "");
    EXPECT("src /1 { load 0 } dst+ /7:1=0 dst /7*", "1=1", PROTOVM_ABORT, "");
    EXPECT("dst+ /7:1=0", "1=1", PROTOVM_ABORT, "");                 /* not loaded */
    EXPECT("src /1 { load 0 } dst+ /7:1", "1=1", PROTOVM_ABORT, ""); /* which register? */
    EXPECT("dst+ /7:1=32", "1=1", PROTOVM_ABORT, "");
}

/* ---- registers ---- */

Test(protovm, registers_hold_numbers_and_stay_loaded)
{
    load("src /1 ? { load 31 } src /2 ? { dst+ /7:1=31 { merge } }");
    cr_expect_eq(run("1d123456789012"), PROTOVM_OK, "%s", why);
    cr_expect_eq(run("2{ 1=123456789012 }"), PROTOVM_OK, "from the packet before: %s", why);
    cr_expect_eq(run("1f7"), PROTOVM_OK);
    cr_expect_eq(run("2{ 1=7 }"), PROTOVM_OK);
    cr_expect(state_is("7{ 1=7 } 7{ 1=123456789012 }"));
    EXPECT("src /1 { load 32 }", "1=1", PROTOVM_ABORT, "");
    EXPECT("src /1 { load 0 }", "1'x'", PROTOVM_ABORT, "");
    EXPECT("load 0", "1=1", PROTOVM_ABORT, "");
    EXPECT("dst+ /7 { loaddst 0 }", "1=1", PROTOVM_ABORT, "");
    EXPECT("src /1 { dst+ /7 { set loaddst 5 } } dst+ /8:1=5 { merge }", "1=4", PROTOVM_OK,
           "7=4 8{ 1=4 }");
}

/* ---- set, del ---- */

Test(protovm, set_replaces)
{
    load("src /1 { dst+ /7 { set } }");
    cr_expect_eq(run("1{ 1=1 2=2 }"), PROTOVM_OK);
    cr_expect_eq(run("1{ 3=3 }"), PROTOVM_OK);
    cr_expect(state_is("7{ 3=3 }"));
    cr_expect_eq(run("1''"), PROTOVM_OK);
    cr_expect(state_is("7''"));
    load("src /1 { dst+ /7 { set } }");
    cr_expect_eq(run("1=1"), PROTOVM_OK);
    cr_expect_eq(run("1d9"), PROTOVM_OK, "any number takes the place of any");
    cr_expect(state_is("7d9"));
    cr_expect_eq(run("1f9"), PROTOVM_OK);
    cr_expect(state_is("7f9"));
    cr_expect_eq(run("1'x'"), PROTOVM_ABORT);
    cr_expect(state_is("7f9"));
}

Test(protovm, set_does_not_mix_kinds)
{
    EXPECT("dst+ /7 { set } src /1 { dst /7 { set } }", "1=1", PROTOVM_ABORT, "7{ 1=1 }");
    EXPECT("src /1 { set }", "1=1", PROTOVM_ABORT, ""); /* a state is no number */
    EXPECT("dst+ /7 { dst+ /8 set }", "1=1", PROTOVM_OK, "7{ 1=1 }");
}

Test(protovm, del_removes_a_field_an_element_or_all)
{
    load("src /2 ? { dst . { set } } src /1 ? { dst /7 { dst /1 ? { del } } } src /3 ? { del }"
         "src /4 ? { dst /8@0 { del } } src /5 ? { dst+ /8@1 { set } }");
    cr_expect_eq(run("2{ 7{ 1=1 2=2 } 8=1 8=2 }"), PROTOVM_OK);
    cr_expect_eq(run("1=5"), PROTOVM_OK, "%s", why);
    cr_expect(state_is("7{ 2=2 } 8=1 8=2"));
    cr_expect_eq(run("4=5"), PROTOVM_OK, "%s", why);
    cr_expect(state_is("7{ 2=2 } 8=2"));
    cr_expect_eq(run("5=6"), PROTOVM_OK, "the others keep their index: %s", why);
    cr_expect(state_is("7{ 2=2 } 8=6"));
    cr_expect_eq(run("3=5"), PROTOVM_OK, "%s", why);
    cr_expect(state_is(""));
}

Test(protovm, nothing_can_be_done_to_what_was_deleted)
{
    /* The cursor of the instructions behind, of those nested, and of a select around that stands on
     * the same place. */
    EXPECT("dst+ /7 { set del set }", "1=1", PROTOVM_ABORT, "");
    EXPECT("dst+ /7 { set del { merge } }", "1=1", PROTOVM_ABORT, "");
    EXPECT("dst+ /7 { set dst . { del } set }", "1=1", PROTOVM_ABORT, "");
    EXPECT("dst+ /7 { set dst . { dst . { del } } dst+ /8 }", "1=1", PROTOVM_ABORT, "");
    EXPECT("dst+ /7 { set dst . { del } del }", "1=1", PROTOVM_ABORT, "");
    EXPECT("dst+ /7 { set dst . { del } loaddst 0 }", "1=1", PROTOVM_ABORT, "");
    EXPECT("dst+ /7@0 { set dst . { del } dst /1* }", "1=1", PROTOVM_ABORT, "");
    EXPECT("dst+ /7 { set del } dst+ /7 { set }", "1=1", PROTOVM_OK, "7{ 1=1 }");
}

/* ---- merge ---- */

Test(protovm, merge_copies_field_by_field)
{
    load("src /1 { dst+ /7 { merge } }");
    cr_expect_eq(run("1{ 1=1 2'a' }"), PROTOVM_OK);
    cr_expect_eq(run("1{ 2'b' 3=3 }"), PROTOVM_OK);
    cr_expect(state_is("7{ 1=1 2'b' 3=3 }"));
    cr_expect_eq(run("1{ 1'x' 4{ 1=1 2=2 } }"), PROTOVM_OK);
    cr_expect_eq(run("1{ 4{ 3=3 } }"), PROTOVM_OK);
    cr_expect(state_is("7{ 1'x' 2'b' 3=3 4{ 3=3 } }"), "messages in it are copied as a whole");
    cr_expect_eq(run("1''"), PROTOVM_OK);
    cr_expect(state_is("7{ 1'x' 2'b' 3=3 4{ 3=3 } }"));
    EXPECT("merge", "1=1 2=2", PROTOVM_OK, "1=1 2=2");
    EXPECT("src /1 { dst+ /7 { merge } }", "1=1", PROTOVM_ABORT, "");
    EXPECT("src /1 { dst+ /7 { set } } dst /7 { merge }", "1=1", PROTOVM_ABORT, "7=1");
}

Test(protovm, merge_replaces_repeated_fields_as_a_whole)
{
    load("src /1 { dst+ /7 { merge } }");
    cr_expect_eq(run("1{ 1=1 1=2 1=3 2=1 }"), PROTOVM_OK);
    cr_expect(state_is("7{ 1=1 1=2 1=3 2=1 }"));
    cr_expect_eq(run("1{ 1=8 1=9 }"), PROTOVM_OK);
    cr_expect(state_is("7{ 1=8 1=9 2=1 }"));
    cr_expect_eq(run("1{ 1=4 }"), PROTOVM_OK);
    cr_expect(state_is("7{ 1=4 2=1 }"));
    cr_expect_eq(run("1{ 2=5 2=6 }"), PROTOVM_OK);
    cr_expect(state_is("7{ 1=4 2=5 2=6 }"));
    load("src /1 { load 0 dst+ /7:1=0 } merge");
    cr_expect_eq(run("1=1 7{ 1=1 }"), PROTOVM_ABORT, "but not maps");
}

Test(protovm, merge_can_leave_submessages_alone)
{
    load("src /1/4 ? { dst+ /7/4 { merge } } src /1 { dst+ /7 { mergeskip } }");
    cr_expect_eq(run("1{ 1=1 4{ 1=1 } }"), PROTOVM_OK);
    cr_expect_eq(run("1{ 1=2 4{ 2=2 } }"), PROTOVM_OK);
    cr_expect(state_is("7{ 1=2 4{ 1=1 2=2 } }"));
    cr_expect_eq(run("1{ 5{ 1=1 } }"), PROTOVM_OK);
    cr_expect_eq(run("1{ 5{ 2=2 } }"), PROTOVM_OK);
    cr_expect(state_is("7{ 1=2 4{ 1=1 2=2 } 5{ 2=2 } }"), "one that nobody entered is bytes");
}

Test(protovm, merge_can_delete_what_comes_empty)
{
    load("src /1 { dst+ /7 { mergedel } }");
    cr_expect_eq(run("1{ 1=1 4{ 1=1 } 5'' }"), PROTOVM_OK);
    cr_expect(state_is("7{ 1=1 4{ 1=1 } 5'' }"), "what is not there cannot be deleted");
    cr_expect_eq(run("1{ 1=0 4'' }"), PROTOVM_OK);
    cr_expect(state_is("7{ 1=0 5'' }"));
    load("src /1 { load 0 dst+ /7/2:1=0 } src /2 { dst /7 { mergedel } }");
    cr_expect_eq(run("1=1 2{ 2'' }"), PROTOVM_OK, "maps too: %s", why);
    cr_expect(state_is("7{ }"));
}

/* ---- abort levels ---- */

Test(protovm, abort_levels_say_how_much_is_skipped)
{
    /* what fails is the select of field 2 */
    EXPECT("src /1 { src /2 dst+ /7 { set } } dst+ /8 { set }", "1{ 1=1 }", PROTOVM_ERROR, "");
    EXPECT("src /1 { src /2 ~ dst+ /7 { set } } dst+ /8 { set }", "1{ 1=1 }", PROTOVM_ERROR, "");
    EXPECT("src /1 ? { src /2 dst+ /7 { set } } src /1 { dst+ /8 { set } }", "1{ 1=1 }", PROTOVM_OK,
           "8{ 1=1 }");
    EXPECT("src /1 { src /2 ? dst+ /7 { set } } src /1 { dst+ /8 { set } }", "1{ 1=1 }", PROTOVM_OK,
           "7{ 1=1 } 8{ 1=1 }");
    EXPECT("dst+ /6 { set } src /1 ? { src /2 ! dst+ /7 { set } } dst+ /8 { set }", "1{ 1=1 }",
           PROTOVM_ABORT, "6{ 1{ 1=1 } }");
}

Test(protovm, nested_instructions_run_only_after_success)
{
    EXPECT("src /1 ? { set } src /2 { load 0 { dst+ /7 { set } } }", "2=1", PROTOVM_OK, "7=1");
    EXPECT("dst+ /7 { set { dst+ /9 { set } } }", "1=1", PROTOVM_OK, "7{ 1=1 9{ 1=1 } }");
}

/* ---- programs ---- */

Test(protovm, programs_that_cannot_be_used_are_refused)
{
    static uint8_t big[PROTOVM_PROGRAM_MAX + 1];
    struct bytesbuf b;
    cr_expect_gt(load_bytes(bytes_view("\x12\x05", 2), 1 << 20), 0);
    cr_expect_neq(why[0], '\0');
    cr_expect_gt(load_bytes(bytes_view(big, sizeof(big)), 1 << 20), 0);
    cr_expect_neq(why[0], '\0');

    bytesbuf_init(&b, 1 << 20);
    for (unsigned i = 0; i <= PROTOVM_CODE_MAX; i++)
        vmasm_program(&b, "del");
    cr_expect_gt(load_bytes(bytesbuf_view(&b), 1 << 20), 0);
    cr_expect_neq(why[0], '\0');

    bytesbuf_clear(&b);
    size_t marks[PROTOVM_CODE_DEPTH + 1];
    for (unsigned i = 0; i <= PROTOVM_CODE_DEPTH; i++)
        marks[i] = bytesbuf_pb_begin(&b, i ? 7 : 2);
    for (unsigned i = PROTOVM_CODE_DEPTH + 1; i-- > 0;)
        bytesbuf_pb_end(&b, marks[i]);
    cr_expect_gt(load_bytes(bytesbuf_view(&b), 1 << 20), 0, "nested too deep");
    cr_expect_neq(why[0], '\0');

    bytesbuf_clear(&b);
    char path[4 * PROTOVM_CODE_DEPTH + 8] = "src ";
    for (unsigned i = 0; i <= PROTOVM_CODE_DEPTH; i++)
        strcat(path, "/1*");
    vmasm_program(&b, path);
    cr_expect_gt(load_bytes(bytesbuf_view(&b), 1 << 20), 0, "too many loops");
    cr_expect_neq(why[0], '\0');
    bytesbuf_fini(&b);
}

/* ---- limits ---- */

Test(protovm, the_state_stays_within_its_memory)
{
    char patch[4200];
    load_limited("src /1 { load 0 } src /2 { dst+ /7:1=0 { set } }", 64 << 10);
    uint64_t empty = protovm_memory(vm);
    memset(patch, 'x', sizeof(patch));
    enum protovm_result r = PROTOVM_OK;
    unsigned n = 0;
    for (; r == PROTOVM_OK && n < 1000; n++) {
        int len = snprintf(patch, sizeof(patch), "1=%u 2'", n);
        patch[len] = 'x';
        patch[len + 150] = '\'';
        patch[len + 151] = '\0';
        r = run(patch);
        cr_assert_leq(protovm_memory(vm), empty + (64 << 10));
    }
    cr_expect_eq(r, PROTOVM_ABORT);
    cr_expect(n > 100 && n < 500, "%u", n);
}

Test(protovm, what_is_replaced_or_deleted_makes_room)
{
    load_limited("src /1 ? { load 0 dst /7:1=0 ? { del } } src /2 ? { load 0 }"
                 "src /3 ? { dst+ /7:1=0 { merge } }",
                 8 << 10);
    for (unsigned i = 0; i < 2000; i++) {
        char patch[200];
        snprintf(patch, sizeof(patch), "2=%u 3{ 1=%u 2'%0100u' }", i, i, i);
        cr_assert_eq(run(patch), PROTOVM_OK, "%u: %s", i, why);
        snprintf(patch, sizeof(patch), "1=%u", i - 10);
        cr_assert_neq(run(patch), PROTOVM_ABORT, "%u: %s", i, why);
    }
}

Test(protovm, what_was_thrown_away_makes_room_at_once)
{
    char patch[7000] = "";
    load_limited(
        "src /1 ? { dst+ /7 { set dst /9 ? } } src /2 ? { dst /7 ? { del } dst+ /8 { set } }",
        8 << 10);
    strcpy(patch, "1{");
    for (unsigned i = 1; i <= 60; i++)
        snprintf(patch + strlen(patch), 20, " %u=1", i);
    strcat(patch, " }");
    cr_assert_eq(run(patch), PROTOVM_OK, "%s", why);
    cr_assert_gt(protovm_memory(vm), 4 << 10);
    struct bytesbuf b; /* what stands on no more than three nodes, but needs all the memory */
    bytesbuf_init(&b, 1 << 20);
    bytesbuf_pb_bytes(&b, 2, patch, sizeof(patch));
    cr_expect_eq(run_bytes(b.p, b.n), PROTOVM_OK, "%s", why);
    bytesbuf_fini(&b);
}

Test(protovm, what_takes_too_long_is_aborted)
{
    /* Each of 1000 elements of the state looks at 4000 fields of the packet. */
    struct bytesbuf b;
    bytesbuf_init(&b, 1 << 20);
    load("src /2 ? { dst . { set } } dst /7* { src /1@3999 ? }");
    size_t mark = bytesbuf_pb_begin(&b, 2);
    for (unsigned i = 0; i < 1000; i++)
        vmasm_message(&b, "7=1");
    bytesbuf_pb_end(&b, mark);
    cr_expect_eq(run_bytes(b.p, b.n), PROTOVM_OK);
    bytesbuf_clear(&b);
    for (unsigned i = 0; i < 10; i++)
        vmasm_message(&b, "1=1");
    cr_expect_eq(run_bytes(b.p, b.n), PROTOVM_OK, "%s", why);
    for (unsigned i = 0; i < 3990; i++)
        vmasm_message(&b, "1=1");
    cr_expect_eq(run_bytes(b.p, b.n), PROTOVM_ABORT);
    cr_expect_str_eq(why, "it takes too long");
    bytesbuf_fini(&b);
}

Test(protovm, a_state_cannot_get_deeper_than_decoders_take)
{
    char program[2000] = "dst+ ";
    for (unsigned i = 0; i < 100; i++)
        strcat(program, "/7");
    strcat(program, " { set }");
    load(program);
    cr_expect_eq(run("1=1"), PROTOVM_ABORT);
    strcpy(program, "dst+ ");
    for (unsigned i = 0; i < 40; i++)
        strcat(program, "/7@0");
    load(program);
    cr_expect_eq(run("1=1"), PROTOVM_ABORT);
}

Test(protovm, packets_that_are_no_messages_do_no_harm)
{
    static const char *const bad[] = {
        "\x0a\x05\x08", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        "\x0b\x0c",     "\x08",
        "\x0f\x01",     ""};
    load("src /1 ? { dst+ /7 { merge } } dst+ /8 { merge } dst+ /9 { set } dst /9/1 ?");
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_expect_neq(run_bytes(bad[i], strlen(bad[i])), PROTOVM_ERROR, "%zu", i);
}

/* Many elements, in and out in an order that is none, against a plain array. */
Test(protovm, a_large_map_is_what_it_should_be)
{
    enum { N = 3000 };
    static uint32_t value[N];
    uint64_t x = 88172645463325252u;
    load_limited("src /1 { load 0 } src /2 ? { dst+ /7:1=0 { merge } } src /3 ? "
                 "{ dst /7:1=0 ? { del } }",
                 4 << 20);
    for (unsigned i = 0; i < 20000; i++) {
        char patch[100];
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        uint32_t key = (uint32_t)(x % N);
        value[key] = x >> 20 & 1 ? i + 1 : 0;
        if (value[key])
            snprintf(patch, sizeof(patch), "1=%u 2{ 1=%u 2=%u }", key, key, value[key]);
        else
            snprintf(patch, sizeof(patch), "1=%u 3=1", key);
        cr_assert_eq(run(patch), PROTOVM_OK, "%s", why);
    }
    struct bytesbuf b;
    bytesbuf_init(&b, 1 << 20);
    for (unsigned key = 0; key < N; key++) {
        char element[100];
        snprintf(element, sizeof(element), "7{ 1=%u 2=%u }", key, value[key]);
        if (value[key])
            vmasm_message(&b, element);
    }
    uint8_t *state = malloc((size_t)protovm_memory(vm));
    size_t n = protovm_state(vm, state);
    cr_expect(vmasm_same(bytes_view(state, n), bytesbuf_view(&b)));
    free(state);
    bytesbuf_fini(&b);
}
