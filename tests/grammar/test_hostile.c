/* Schemas and grammars that were made to hurt: an answer within a second, of whatever kind. */
#include "base/buffer.h"
#include "base/limits.h"
#include "grammar/grammar_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SECOND_NS UINT64_C(1000000000)

/* Compiles in both ways within the usual time and a margin for slow machines and sanitizers. */
static void answers(enum grammar_form form, const char *text, size_t n)
{
    for (int checks = 0; checks < 2; checks++) {
        const struct grammar_options options = {.checks = checks};
        struct grammar *grammar = NULL;
        const char *code;
        serverd_error err;
        uint64_t begin = clock_now_ns(&system_clock);
        serverd_status status = grammar_compile(form, text, n, &options, &grammar, &code, &err);
        uint64_t took = clock_now_ns(&system_clock) - begin;
        if (took > 8 * SECOND_NS)
            fail_msg("%.100s: %.1f s", text, (double)took / 1e9);
        if (status == SERVERD_OK)
            grammar_unref(grammar);
        else
            assert_true(err.text[0] != '\0' && code[0] != '\0');
    }
}

static void answers_buffer(enum grammar_form form, struct buffer *text)
{
    assert_false(text->is_failed);
    answers(form, buffer_str(text), text->len);
    buffer_reset(text);
}

static void repeat(struct buffer *out, const char *piece, size_t n)
{
    for (size_t i = 0; i < n; i++)
        buffer_append_str(out, piece);
}

static void deep_nesting(void **state)
{
    static const char *const pieces[][2] = {{"[", "]"},
                                            {"{\"not\":", "}"},
                                            {"{\"items\":", "}"},
                                            {"{\"allOf\":[", "]}"},
                                            {"{\"a\":", "}"}};
    static const size_t depths[] = {100, 250, 5000, 100000};
    struct buffer text;
    buffer_init(&text, 4 * MIB);
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        for (size_t j = 0; j < sizeof depths / sizeof *depths; j++) {
            repeat(&text, pieces[i][0], depths[j]);
            buffer_append_str(&text, i == 0 ? "" : "{}");
            repeat(&text, pieces[i][1], depths[j]);
            answers_buffer(GRAMMAR_JSON_SCHEMA, &text);
        }
    repeat(&text, "(", 60000);
    buffer_reset(&text);
    buffer_append_str(&text, "root ::= ");
    repeat(&text, "(", 60000);
    answers_buffer(GRAMMAR_GBNF, &text);
    buffer_deinit(&text);
}

static void reference_chains(void **state)
{
    static const size_t counts[] = {60, 300, 20000};
    struct buffer text;
    buffer_init(&text, 4 * MIB);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        buffer_append_str(&text, "{\"$ref\":\"#/$defs/0\",\"$defs\":{");
        for (size_t j = 0; j < counts[i]; j++)
            buffer_printf(&text, "\"%zu\":{\"$ref\":\"#/$defs/%zu\"},", j, j + 1);
        buffer_printf(&text, "\"%zu\":{}}}", counts[i]);
        answers_buffer(GRAMMAR_JSON_SCHEMA, &text);
        buffer_append_str(&text, "{\"$ref\":\"#/$defs/0\",\"$defs\":{"); /* each doubles the next */
        for (size_t j = 0; j < counts[i]; j++)
            buffer_printf(&text,
                          "\"%zu\":{\"properties\":{\"a\":{\"$ref\":\"#/$defs/"
                          "%zu\"},\"b\":{\"allOf\":[{\"$ref\":"
                          "\"#/$defs/%zu\"},{\"$ref\":\"#/$defs/0\"}]}}},",
                          j, j + 1, (j * 7) % counts[i]);
        buffer_printf(&text, "\"%zu\":{}}}", counts[i]);
        if (text.len < MIB)
            answers_buffer(GRAMMAR_JSON_SCHEMA, &text);
        buffer_reset(&text);
    }
    buffer_deinit(&text);
}

static void huge_lists(void **state)
{
    struct buffer text;
    buffer_init(&text, 4 * MIB);
    buffer_append_str(&text, "{\"enum\":[0");
    for (int i = 0; i < 60000; i++)
        buffer_printf(&text, ",\"value %d\"", i);
    buffer_append_str(&text, "]}");
    answers_buffer(GRAMMAR_JSON_SCHEMA, &text);
    buffer_append_str(&text, "{\"enum\":[0");
    for (int i = 0; i < 60000; i++)
        buffer_printf(&text, ",{\"a\":%d}", i);
    buffer_append_str(&text, "]}");
    answers_buffer(GRAMMAR_JSON_SCHEMA, &text);
    buffer_append_str(&text, "{\"enum\":[0");
    for (int i = 0; i < 100000; i++)
        buffer_printf(&text, ",%d", i * 3);
    buffer_append_str(&text, "]}");
    answers_buffer(GRAMMAR_JSON_SCHEMA, &text);
    buffer_append_str(&text, "{\"properties\":{\"a\":{}");
    for (int i = 0; i < 40000; i++)
        buffer_printf(&text, ",\"k%d\":{}", i);
    buffer_append_str(&text, "},\"required\":[\"k7\"],\"not\":{\"required\":[\"k8\"]}}");
    answers_buffer(GRAMMAR_JSON_SCHEMA, &text);
    buffer_append_str(&text, "[\"\"");
    for (int i = 0; i < 60000; i++)
        buffer_printf(&text, ",\"choice %d\"", i);
    buffer_append_str(&text, "]");
    answers_buffer(GRAMMAR_CHOICE, &text);
    buffer_deinit(&text);
}

static void explosions(void **state)
{
    struct buffer text;
    buffer_init(&text, 4 * MIB);
    static const char *const words[] = {"anyOf", "oneOf", "allOf"};
    for (int w = 0; w < 3; w++) { /* 2^20 combinations of properties */
        buffer_append_str(&text, "{\"allOf\":[true");
        for (int i = 0; i < 20; i++)
            buffer_printf(&text,
                          ",{\"%s\":[{\"required\":[\"a%d\"]},{\"properties\":{\"b%d\":{\"type\":"
                          "\"null\"}}}]}",
                          words[w], i, i);
        buffer_append_str(&text, "]}");
        answers_buffer(GRAMMAR_JSON_SCHEMA, &text);
        buffer_append_str(&text, "{\"not\":{\"anyOf\":[true");
        for (int i = 0; i < 20; i++)
            buffer_printf(&text,
                          ",{\"%s\":[{\"required\":[\"a%d\",\"b\",\"c\"]},{\"maxProperties\":%d}]}",
                          words[w], i, i);
        buffer_append_str(&text, "]}}");
        answers_buffer(GRAMMAR_JSON_SCHEMA, &text);
    }
    buffer_append_str(&text, "{\"patternProperties\":{\"x\":{}");
    for (int i = 0; i < 24; i++)
        buffer_printf(&text, ",\"%c.{%d}z\":{\"minimum\":%d}", 'a' + i, i, i);
    buffer_append_str(&text, "}}");
    answers_buffer(GRAMMAR_JSON_SCHEMA, &text);
    static const char *const schemas[] = {
        "{\"pattern\":\"(a+)+$\"}",
        "{\"pattern\":\"((a|b){1000}){1000}\"}",
        "{\"pattern\":\"(x.{20}y|z.{30}w)*q.{15}$\"}",
        "{\"allOf\":[{\"multipleOf\":997},{\"multipleOf\":991},{\"multipleOf\":983},{"
        "\"multipleOf\":977}]}",
        "{\"multipleOf\":1e-300,\"minimum\":1e300}",
        "{\"multipleOf\":123456789.123456789}",
        "{\"minItems\":4294967295,\"contains\":{},\"minContains\":4000000000}",
        "{\"minProperties\":99999999999999999999,\"additionalProperties\":{\"type\":\"null\"}}",
        "{\"minLength\":1e9,\"pattern\":\"^(ab|c)*$\"}",
        "{\"maxItems\":1e400}",
        "{\"const\":1e999999999}",
        "{\"minimum\":-1e999999999,\"maximum\":1e-999999999}",
        "{\"not\":{\"enum\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]}}",
        "{\"not\":{\"const\":{\"a\":{\"b\":{\"c\":[1,2,[3,{\"d\":null}]]}}}}}",
        "{\"properties\":{\"a\":{\"$ref\":\"#\"}},\"items\":{\"not\":{\"$ref\":\"#\"}},\"oneOf\":[{"
        "\"properties\":"
        "{\"b\":{\"not\":{\"$ref\":\"#\"}}}},{\"required\":[\"c\"]}]}",
        "{\"$schema\":1}",
        "{\"$id\":\"\\u0000\",\"$ref\":\"\\u0000#\"}",
        "{\"$ref\":\"#/%zz\"}",
        "{\"type\":[]}",
        "{\"enum\":{}}",
        "{\"required\":\"a\"}",
        "{\"items\":3}",
        "{\"properties\":[]}",
        "{\"dependentRequired\":[1],\"dependencies\":[2],\"dependentSchemas\":[3]}",
        "{\"dependentRequired\":{\"a\":3}}",
        "\"\\ud800\"",
        "{\"a\":\"\xff\"}",
    };
    for (size_t i = 0; i < sizeof schemas / sizeof *schemas; i++)
        answers(GRAMMAR_JSON_SCHEMA, schemas[i], strlen(schemas[i]));
    buffer_deinit(&text);
}

static void hostile_grammars(void **state)
{
    struct buffer text;
    buffer_init(&text, 4 * MIB);
    buffer_append_str(&text, "root ::= r0\n");
    for (int i = 0; i < 3000; i++)
        buffer_printf(&text, "r%d ::= \"a\" r%d r%d | [b-c]\n", i, i + 1, (i * 7) % 3000);
    buffer_append_str(&text, "r3000 ::= \"x\"\n");
    answers_buffer(GRAMMAR_GBNF, &text);
    buffer_append_str(&text, "root ::= r0\n");
    for (int i = 0; i < 300; i++)
        buffer_printf(&text, "r%d ::= (r%d r%d)* \"a\"{0,1000}\n", i, i + 1, i + 1);
    buffer_append_str(&text, "r300 ::= \"x\"\n");
    answers_buffer(GRAMMAR_GBNF, &text);
    buffer_append_str(&text, "root ::= \"a\"");
    repeat(&text, " | \"ab\"", 20000);
    answers_buffer(GRAMMAR_GBNF, &text);
    static const char *const grammars[] = {"root ::= ((((\"a\"*)*)*)*)* \"b\"",
                                           "root ::= (\"a\"? \"b\"?){0,100000} root?",
                                           "root ::= [",
                                           "root ::= \"\\x",
                                           "root ::= .{50000}",
                                           "root ::= [a-\\U0010ffff]{3,",
                                           "root :: = \"a\"",
                                           "root ::= \"\xff\"",
                                           "::=",
                                           "root ::= ()"};
    for (size_t i = 0; i < sizeof grammars / sizeof *grammars; i++)
        answers(GRAMMAR_GBNF, grammars[i], strlen(grammars[i]));
    buffer_deinit(&text);
}

/* A text that forks at every character ends in an error, not in all memory. */
static void ambiguity_has_a_bound(void **state)
{
    struct grammar *grammar = compiled(GRAMMAR_GBNF,
                                       "root ::= a a a a\na ::= \"x\" a \"y\" | \"x\" a \"z\" | "
                                       "\"x\" a | \"x\" b\nb ::= \"x\" a? ",
                                       false);
    struct matcher *matcher = matcher_create(grammar);
    char text[3000];
    memset(text, 'x', sizeof text);
    size_t n = matcher_read(matcher, text, sizeof text);
    assert_true(n == sizeof text || matcher_has_failed(matcher));
    matcher_destroy(matcher);
    grammar_unref(grammar);
}

/* Every tag is compared with every trigger, and every part with every other one. */
static void many_tags(void **state)
{
    (void)state;
    enum { N_TAGS = 9000 };
    struct buffer text;
    buffer_init(&text, LIMIT_GRAMMAR_TEXT);
    buffer_append_str(&text, "{\"format\":{\"type\":\"triggered_tags\",\"triggers\":[\"z\"");
    for (unsigned i = 0; i < N_TAGS; i++)
        buffer_printf(&text, ",\"t%u\"", i);
    buffer_append_str(&text, "],\"tags\":[");
    for (unsigned i = 0; i < N_TAGS; i++)
        buffer_printf(&text,
                      "%s{\"begin\":\"z%u\",\"content\":{\"type\":\"any_text\"},\"end\":\".\"}",
                      i > 0 ? "," : "", i);
    buffer_append_str(&text, "]}}");
    answers_buffer(GRAMMAR_TAGS, &text);
    buffer_append_str(&text, "{\"format\":{\"type\":\"interleaved\",\"triggers\":[],\"parts\":[");
    for (unsigned i = 0; i < N_TAGS; i++)
        buffer_printf(
            &text, "%s{\"begin\":\"z%u\",\"content\":{\"type\":\"const_string\",\"value\":\"\"}}",
            i > 0 ? "," : "", i);
    buffer_append_str(&text, "]}}");
    answers_buffer(GRAMMAR_TAGS, &text);
    buffer_deinit(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(deep_nesting),     cmocka_unit_test(reference_chains),
        cmocka_unit_test(huge_lists),       cmocka_unit_test(explosions),
        cmocka_unit_test(hostile_grammars), cmocka_unit_test(ambiguity_has_a_bound),
        cmocka_unit_test(many_tags),
    };
    return cmocka_run_group_tests_name("hostile", tests, NULL, NULL);
}
