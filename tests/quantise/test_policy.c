/* Policies: what they choose, and what typos are told. */
#include "base/file.h"
#include "quantise/policy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "program/dtype.h"

static serverd_error err;

static struct quantise_policy *make(const char *text)
{
    struct quantise_policy *policy = NULL;
    if (policy_create(text, &policy, &err) != SERVERD_OK)
        fail_msg("%s: %s", text, err.text);
    return policy;
}

static struct quantise_choice choose(const struct quantise_policy *policy, const char *name,
                                     enum tensor_kind kind)
{
    struct quantise_choice choice;
    assert_int_equal(policy_choose(policy, name, kind, &choice, &err), SERVERD_OK);
    return choice;
}

static void check_refusal(const char *text, const char *expected)
{
    struct quantise_policy *policy = NULL;
    assert_int_equal(policy_create(text, &policy, &err), SERVERD_INVALID);
    if (!strstr(err.text, expected))
        fail_msg("%s: \"%s\" does not say \"%s\"", text, err.text, expected);
}

static void simple_policies_leave_embedding_and_head_in_8_bits(void **state)
{
    (void)state;
    struct quantise_policy *policy = make("i4a:g32:awq+gptq+scale");
    struct quantise_choice c = choose(policy, "blk.0.ffn_up.weight", KIND_FFN_UP);
    assert_int_equal(c.format, FORMAT_I4A);
    assert_int_equal(c.group, 32);
    assert_int_equal(c.methods, METHOD_PLAIN | METHOD_AWQ | METHOD_GPTQ | METHOD_SCALE);
    assert_true(policy_needs_calibration(policy));
    for (int kind = KIND_EMBED; kind <= KIND_HEAD; kind++) {
        c = choose(policy, "token_embd.weight", (enum tensor_kind)kind);
        assert_int_equal(c.format, FORMAT_I8S);
        assert_int_equal(c.group, 64);
        assert_int_equal(c.methods, METHOD_PLAIN);
    }
    policy_destroy(policy);
}

static void words_mean_what_they_say(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint32_t format, group;
        bool one_scale;
        unsigned methods;
    } cases[] = {
        {"int8", FORMAT_I8S, 64, false, METHOD_PLAIN},
        {"int4", FORMAT_I4A, 64, false, METHOD_PLAIN},
        {"int4-best", FORMAT_I4A, 64, false,
         METHOD_PLAIN | METHOD_AWQ | METHOD_GPTQ | METHOD_SCALE},
        {"fp8", FORMAT_F8, 128, false, METHOD_PLAIN},
        {"mxfp4", DTYPE_MXFP4, 32, false, METHOD_PLAIN},
        {"nf4", FORMAT_NF4, 64, false, METHOD_PLAIN},
        {"i4s:g128", FORMAT_I4S, 128, false, METHOD_PLAIN},
        {"i8s:row:minmax", FORMAT_I8S, 128, true, METHOD_MINMAX},
        {"i4z:gptq", FORMAT_I4Z, 64, false, METHOD_PLAIN | METHOD_GPTQ},
        {"i4a:minmax+gptq", FORMAT_I4A, 64, false, METHOD_MINMAX | METHOD_GPTQ},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct quantise_policy *policy = make(cases[i].text);
        struct quantise_choice c = choose(policy, "blk.3.attn_q.weight", KIND_ATTN_Q);
        assert_int_equal(c.format, cases[i].format);
        assert_int_equal(c.group, cases[i].group);
        assert_int_equal(c.one_scale, cases[i].one_scale);
        assert_int_equal(c.methods, cases[i].methods);
        assert_false(policy_keeps_all(policy));
        policy_destroy(policy);
    }
    struct quantise_policy *keep = make("keep");
    assert_true(policy_keeps_all(keep));
    assert_int_equal(choose(keep, "blk.3.attn_q.weight", KIND_ATTN_Q).format, 0);
    policy_destroy(keep);
}

static void typos_are_refused_with_what_is_meant(void **state)
{
    (void)state;
    check_refusal("i4aa", "is i4a meant?");
    check_refusal("int4_best", "unknown format");
    check_refusal("int9", "is int");
    check_refusal("i4a:g48", "32, 64, 128 and row");
    check_refusal("i4a:g64:gptk", "is gptq meant?");
    check_refusal("i4a:g64:gptq+", "unknown method");
    check_refusal("i4a:g64:gptq:awq", "too much");
    check_refusal("i4a:minmax+plain", "exclude each other");
    check_refusal("mxfp4:g64", "groups of 32");
    check_refusal("i8s:row:scale", "scale");
    check_refusal("", "unknown format");
    check_refusal("/does/not/exist.yaml", "exist");
}

/* A file of rules; the path is valid until the next one. */
static const char *rules(const char *text)
{
    static char path[64];
    (void)snprintf(path, sizeof path, "/tmp/serverd-policy-%d.yaml", (int)getpid());
    assert_int_equal(file_write_atomic(path, text, strlen(text), &err), SERVERD_OK);
    return path;
}

static void the_first_rule_that_fits_decides(void **state)
{
    (void)state;
    const char *path = rules("# rules\n"
                             "- {match: 'blk\\.0\\.', format: keep}\n"
                             "- {kind: head, format: i8a, group: 32}\n"
                             "- {match: '(ffn_down|attn_v)', format: i8s, group: row}\n"
                             "- kind: ffn_up\n"
                             "  format: nf4\n"
                             "  method: minmax\n");
    struct quantise_policy *policy = make(path);
    assert_int_equal(choose(policy, "blk.0.ffn_down.weight", KIND_FFN_DOWN).format, 0);
    assert_int_equal(choose(policy, "output.weight", KIND_HEAD).format, FORMAT_I8A);
    assert_int_equal(choose(policy, "output.weight", KIND_HEAD).group, 32);
    struct quantise_choice c = choose(policy, "blk.10.ffn_down.weight", KIND_FFN_DOWN);
    assert_int_equal(c.format, FORMAT_I8S);
    assert_true(c.one_scale);
    c = choose(policy, "blk.1.ffn_up.weight", KIND_FFN_UP);
    assert_int_equal(c.format, FORMAT_NF4);
    assert_int_equal(c.methods, METHOD_MINMAX);
    assert_int_equal(choose(policy, "blk.1.ffn_gate.weight", KIND_FFN_GATE).format, 0);
    policy_destroy(policy);
    (void)unlink(path);
}

static void files_with_mistakes_name_the_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *expected;
    } cases[] = {
        {"- {kind: head, format: i8s}\n- {kind: ffn_dwn, format: i4a}\n", "is ffn_down meant?"},
        {"- {kind: head, format: i8s}\n- {kind: ffn_dwn, format: i4a}\n", ".yaml:2:"},
        {"- {kind: head, fromat: i8s}\n", "is format meant?"},
        {"- {kind: head}\n", "without format"},
        {"- {format: i8s, format: i4a}\n", "repeated"},
        {"- {match: '(', format: i8s}\n", "match:"},
        {"- {format: [i8s]}\n", "plain value"},
        {"- i8s\n", "mapping"},
        {"format: i8s\n", "list of rules"},
        {"- {format: i8s\n", "not valid YAML"},
        {"- {format: i8s, group: 7}\n", "32, 64, 128"},
        {"- {format: &a i8s}\n", "plain value"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = rules(cases[i].text);
        check_refusal(path, cases[i].expected);
        (void)unlink(path);
    }
}

static void an_expression_that_takes_too_long_ends(void **state)
{
    (void)state;
    const char *path = rules("- {match: '(a+)+$', format: i8s}\n");
    struct quantise_policy *policy = make(path);
    struct quantise_choice choice;
    assert_int_equal(policy_choose(policy, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab",
                                   KIND_OTHER, &choice, &err),
                     SERVERD_INVALID);
    policy_destroy(policy);
    (void)unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(simple_policies_leave_embedding_and_head_in_8_bits),
        cmocka_unit_test(words_mean_what_they_say),
        cmocka_unit_test(typos_are_refused_with_what_is_meant),
        cmocka_unit_test(the_first_rule_that_fits_decides),
        cmocka_unit_test(files_with_mistakes_name_the_line),
        cmocka_unit_test(an_expression_that_takes_too_long_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
