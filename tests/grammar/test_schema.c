/* JSON Schema, keyword by keyword: what is checked, what is produced, what is refused. */
#include "grammar/grammar_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define MANY 12

struct row {
    const char *schema;
    const char *valid[MANY], *invalid[MANY];
};

static const struct row checked[] = {
    {"{}",
     {"1", "\"a\"", "[1, {}]", " { \"a\" : null } ", "1E5", "\"\\u0041\\ud83d\\ude00\""},
     {"", "tru", "01", "[1,]", "{\"a\":1,}", "{\"a\":1,\"a\":2}", "\"\\ud800\"", "\"\t\"", "1 2"}},
    {"false", {NULL}, {"1", "null", "{}"}},
    {"{\"type\": \"integer\"}", {"1", "1.0", "10e-1", "-0", "1e400"}, {"1.5", "1e-1", "\"1\""}},
    {"{\"$schema\": \"http://json-schema.org/draft-04/schema#\", \"type\": \"integer\"}",
     {"1", "-3"},
     {"1.0", "1e2"}},
    {"{\"$schema\": \"http://json-schema.org/draft-04/schema#\", \"not\": {\"type\": \"integer\"}}",
     {"1.0", "\"a\""},
     {"1"}},
    {"{\"type\": [\"null\", \"string\"]}", {"null", "\"\""}, {"1", "[]", "true"}},
    {"{\"minimum\": 1.1, \"maximum\": 3, \"multipleOf\": 0.1}",
     {"1.1", "3", "11e-1", "\"x\""},
     {"1.0", "3.1", "1.15"}},
    {"{\"exclusiveMinimum\": 0, \"exclusiveMaximum\": 1}", {"0.5", "1e-300"}, {"0", "1", "1.0"}},
    {"{\"minimum\": 3, \"exclusiveMinimum\": true}", {"4"}, {"3", "2"}},
    {"{\"minimum\": 9007199254740993}",
     {"9007199254740993", "9007199254740993.5"},
     {"9007199254740992"}},
    {"{\"minLength\": 2, \"maxLength\": 3}",
     {"\"ab\"", "\"\\u00e9\\ud83d\\ude00\"", "5"},
     {"\"a\"", "\"abcd\"", "\"\\ud83d\\ude00\""}},
    {"{\"pattern\": \"^a+$\"}", {"\"a\"", "\"\\u0061a\"", "7"}, {"\"\"", "\"ab\""}},
    {"{\"enum\": [1, \"a\", [1, 2], {\"b\": null}, false]}",
     {"1.0", "\"a\"", "[1.0,2]", "{\"b\":null}", "false"},
     {"2", "[1]", "{\"b\":1}", "{}", "{\"b\":null,\"c\":1}", "true"}},
    {"{\"const\": {\"a\": 1, \"b\": [2]}}", {"{\"b\": [2], \"a\": 1}"}, {"{\"a\": 1}", "{}"}},
    {"{\"not\": {\"const\": {\"a\": 1}}}",
     {"{}", "{\"a\": 2}", "{\"a\": 1, \"b\": 1}", "3"},
     {"{\"a\": 1}", "{\"a\": 1.0}"}},
    {"{\"properties\": {\"a\": {\"type\": \"integer\"}, \"b\": false}, \"required\": [\"a\"]}",
     {"{\"a\": 1}", "{\"c\": 1, \"a\": 1}", "7"},
     {"{}", "{\"a\": \"x\"}", "{\"a\": 1, \"b\": 1}"}},
    {"{\"properties\": {\"a\": {}}, \"patternProperties\": {\"^x\": {\"type\": \"null\"}}, "
     "\"additionalProperties\": {\"type\": \"boolean\"}}",
     {"{\"a\": 1, \"x\": null, \"c\": true}"},
     {"{\"x\": 1}", "{\"c\": 1}"}},
    {"{\"propertyNames\": {\"maxLength\": 2}, \"minProperties\": 1, \"maxProperties\": 2}",
     {"{\"a\": 1}", "{\"ab\": 1, \"\": 2}"},
     {"{}", "{\"abc\": 1}", "{\"a\":1,\"b\":1,\"c\":1}"}},
    {"{\"dependentRequired\": {\"a\": [\"b\"]}, \"dependentSchemas\": {\"c\": {\"maxProperties\": "
     "1}}}",
     {"{\"a\": 1, \"b\": 1}", "{\"b\": 1}", "{\"c\": 1}"},
     {"{\"a\": 1}", "{\"c\": 1, \"d\": 1}"}},
    {"{\"dependencies\": {\"a\": [\"b\"], \"c\": {\"required\": [\"d\"]}}}",
     {"{\"a\":1,\"b\":1}"},
     {"{\"a\":1}", "{\"c\":1}"}},
    {"{\"prefixItems\": [{\"type\": \"integer\"}], \"items\": {\"type\": \"string\"}, "
     "\"minItems\": 1, "
     "\"maxItems\": 3}",
     {"[1]", "[1, \"a\"]", "{}"},
     {"[]", "[1, 2]", "[\"a\"]", "[1,\"a\",\"a\",\"a\"]"}},
    {"{\"$schema\": \"http://json-schema.org/draft-07/schema#\", \"items\": [{\"const\": 1}], "
     "\"additionalItems\": false}",
     {"[]", "[1]"},
     {"[2]", "[1, 1]"}},
    {"{\"contains\": {\"const\": 1}, \"minContains\": 2, \"maxContains\": 3}",
     {"[1, 2, 1]", "[1,1,1]"},
     {"[]", "[1, 2]", "[1,1,1,1]"}},
    {"{\"uniqueItems\": true}",
     {"[1, 2]", "[{\"a\":1}, {\"a\":2}]", "[1, true]"},
     {"[1, 1.0]", "[[1], [1]]", "[{\"a\":1,\"b\":2}, {\"b\":2,\"a\":1}]", "[\"\\u0061\", \"a\"]"}},
    {"{\"anyOf\": [{\"type\": \"string\", \"maxLength\": 1}, {\"required\": [\"a\"], \"type\": "
     "\"object\"}, "
     "{\"type\": \"object\", \"maxProperties\": 0}]}",
     {"\"a\"", "{\"a\": 1}", "{}"},
     {"\"ab\"", "{\"b\": 1}", "1"}},
    {"{\"oneOf\": [{\"properties\": {\"k\": {\"const\": 1}}, \"required\": [\"k\"]}, "
     "{\"properties\": {\"v\": {\"type\": \"string\"}}, \"required\": [\"v\"]}]}",
     {"{\"k\": 1}", "{\"k\": 2, \"v\": \"x\"}", "{\"k\": 1, \"v\": 2}"},
     {"{\"k\": 1, \"v\": \"x\"}", "{}", "1"}},
    {"{\"if\": {\"required\": [\"a\"]}, \"then\": {\"required\": [\"b\"]}, \"else\": "
     "{\"maxProperties\": 1}}",
     {"{\"a\":1,\"b\":1}", "{\"c\":1}", "1"},
     {"{\"a\":1}", "{\"c\":1,\"d\":1}"}},
    {"{\"not\": {\"required\": [\"a\"], \"properties\": {\"a\": {\"items\": {\"type\": "
     "\"null\"}}}}}",
     {"{}", "{\"a\": [1]}", "{\"a\": [null, 1]}"},
     {"{\"a\": 1}", "{\"a\": [null]}", "[]"}},
    {"{\"properties\": {\"a\": {}}, \"allOf\": [{\"properties\": {\"b\": {}}}], "
     "\"unevaluatedProperties\": false}",
     {"{\"a\": 1, \"b\": 1}"},
     {"{\"c\": 1}"}},
    {"{\"anyOf\": [{\"properties\": {\"a\": {\"const\": 1}}, \"required\": [\"a\"]}, "
     "{\"properties\": {\"b\": {\"const\": 1}}, \"required\": [\"b\"]}], "
     "\"unevaluatedProperties\": false}",
     {"{\"a\": 1, \"b\": 1}", "{\"b\": 1}"},
     {"{\"a\": 1, \"b\": 2}", "{\"a\": 1, \"c\": 1}"}},
    {"{\"prefixItems\": [true], \"contains\": {\"type\": \"string\"}, \"unevaluatedItems\": false}",
     {"[1, \"a\"]", "[\"a\"]"},
     {"[1, \"a\", 2]"}},
    {"{\"not\": {\"properties\": {\"a\": {}}, \"unevaluatedProperties\": {\"type\": \"null\"}}}",
     {"{\"b\": 1}", "{\"a\": 1, \"b\": 1}"},
     {"{}", "{\"a\": 1}", "{\"b\": null}", "1"}},
    {"{\"not\": {\"prefixItems\": [{\"const\": 1}], \"unevaluatedItems\": false}}",
     {"[2]", "[1, 1]"},
     {"[]", "[1]", "1"}},
    {"{\"$ref\": \"#/$defs/list\", \"$defs\": {\"list\": {\"anyOf\": [{\"type\": \"null\"}, "
     "{\"type\": "
     "\"object\", \"properties\": {\"next\": {\"$ref\": \"#/$defs/list\"}}, \"required\": "
     "[\"next\"], "
     "\"additionalProperties\": false}]}}}",
     {"null", "{\"next\": {\"next\": null}}"},
     {"{}", "{\"next\": 1}"}},
    {"{\"$id\": \"http://e.org/root\", \"properties\": {\"a\": {\"$ref\": \"other#x\"}, \"b\": "
     "{\"$ref\": "
     "\"#y\"}}, \"$defs\": {\"o\": {\"$id\": \"other\", \"$defs\": {\"p\": {\"$anchor\": \"x\", "
     "\"const\": 1}}}, "
     "\"q\": {\"$anchor\": \"y\", \"const\": 2}}}",
     {"{\"a\": 1, \"b\": 2}"},
     {"{\"a\": 2}", "{\"b\": 1}"}},
    {"{\"properties\": {\"a/b~\\\"%\": {\"const\": 1}, \"r\": {\"$ref\": "
     "\"#/properties/a~1b~0%22%25\"}}}",
     {"{\"r\": 1}"},
     {"{\"r\": 2}"}},
    {"{\"$schema\": \"http://json-schema.org/draft-07/schema#\", \"definitions\": {\"a\": "
     "{\"type\": "
     "\"string\"}}, \"$ref\": \"#/definitions/a\", \"maxLength\": 1}",
     {"\"abc\""},
     {"1"}},
    {"{\"properties\": {\"f\": {\"format\": \"ipv4\"}}}",
     {"{\"f\": \"1.2.3.4\"}", "{\"f\": 1}"},
     {"{\"f\": \"1.2.3\"}"}},
    {"{\"$schema\": \"https://json-schema.org/draft/2020-12/schema\", \"format\": \"ipv4\"}",
     {"\"nonsense\""},
     {NULL}},
    {"{\"format\": \"color\"}", {"\"anything\""}, {NULL}},
};

static void instances_are_valid_or_not(void **state)
{
    for (size_t i = 0; i < sizeof checked / sizeof *checked; i++) {
        struct grammar *grammar = compiled(GRAMMAR_JSON_SCHEMA, checked[i].schema, true);
        for (size_t j = 0; j < MANY && checked[i].valid[j]; j++)
            assert_accepts(grammar, checked[i].valid[j]);
        for (size_t j = 0; j < MANY && checked[i].invalid[j]; j++)
            assert_rejects(grammar, checked[i].invalid[j], -1);
        grammar_unref(grammar);
    }
}

static const struct row produced[] = {
    {"{\"properties\": {\"b\": {\"type\": \"integer\"}, \"a\": {}}, \"required\": [\"z\", \"a\"]}",
     {"{\"b\": 1, \"a\": [1, 2], \"z\": null}",
      "{\"a\": 1, \"z\": {\"x\": 1.5}, \"other\": \"\\n\\u0001\xc3\xa9\"}"},
     {"{\"a\": 1, \"b\": 1, \"z\": 1}", "{\"b\": 1.0, \"a\": 1, \"z\": 1}", "{\"a\":1, \"z\": 1}",
      "{\"a\": 1, \"z\": 1, \"z\": 1}", "{\"a\": 1, \"z\": \"\\u0041\"}", "{\"a\": 1, \"z\": 1e5}",
      "{\"a\": 1, \"z\": 1, \"o\": 1, \"o\": 2}", "{ \"a\": 1, \"z\": 1}",
      "{\"a\": 1, \"z\": 1} "}},
    {"{\"type\": \"string\", \"format\": \"date\"}", {"\"2024-02-29\""}, {"\"2023-02-29\""}},
    {"{\"$schema\": \"https://json-schema.org/draft/2020-12/schema\", \"format\": \"ipv4\"}",
     {"\"1.2.3.4\""},
     {"\"1.2.3\""}},
    {"{\"type\": \"array\", \"uniqueItems\": true, \"items\": {\"enum\": [1, 12, \"a\", \"ab\", "
     "true]}}",
     {"[12, 1, \"ab\", \"a\", true]", "[]"},
     {"[1, 1]", "[true, true]", "[\"a\", \"a\"]", "[1, 12, \"a\", \"ab\", true, 1]"}},
    {"{\"type\": \"array\", \"items\": {\"type\": \"number\"}, \"minItems\": 1}",
     {"[1, -2.5, 0]"},
     {"[]", "[1,2]", "[-0]", "[1 ,2]"}},
};

static void production_has_one_spelling(void **state)
{
    for (size_t i = 0; i < sizeof produced / sizeof *produced; i++) {
        struct grammar *grammar = compiled(GRAMMAR_JSON_SCHEMA, produced[i].schema, false);
        for (size_t j = 0; j < MANY && produced[i].valid[j]; j++)
            assert_accepts(grammar, produced[i].valid[j]);
        for (size_t j = 0; j < MANY && produced[i].invalid[j]; j++)
            assert_rejects(grammar, produced[i].invalid[j], -1);
        grammar_unref(grammar);
    }
}

static void white_space_is_as_asked_for(void **state)
{
    static const char schema[] = "{\"type\": \"object\"}";
    static const char *const texts[] = {"{\"a\": [1, 2]}", "{\"a\":[1,2]}",
                                        "{\n  \"a\" : [\n1 ,\t2 ]\n}"};
    static const bool legal[][3] = {[WHITESPACE_SPACED] = {true, false, false},
                                    [WHITESPACE_COMPACT] = {false, true, false},
                                    [WHITESPACE_FLEXIBLE] = {true, true, true}};
    for (unsigned rule = WHITESPACE_SPACED; rule <= WHITESPACE_FLEXIBLE; rule++) {
        const struct grammar_options options = {.whitespace = rule};
        struct grammar *grammar = compiled_with(GRAMMAR_JSON_SCHEMA, schema, &options);
        for (int i = 0; i < 3; i++) {
            bool is_whole;
            (void)matched(grammar, texts[i], &is_whole);
            assert_int_equal(is_whole, legal[rule][i]);
        }
        if (rule == WHITESPACE_FLEXIBLE) {
            assert_accepts(grammar, "{                }");
            assert_rejects(grammar, "{                 }", 17);
        }
        grammar_unref(grammar);
    }
}

/* What cannot be completed is not begun. */
static void production_has_no_dead_ends(void **state)
{
    static const struct {
        const char *schema, *text;
        int at;
    } rows[] = {
        {"{\"type\": \"object\", \"properties\": {\"a\": false, \"b\": {\"const\": 1}}, "
         "\"additionalProperties\": false}",
         "{\"a", 2},
        {"{\"type\": \"array\", \"items\": {\"type\": \"string\", \"minLength\": 3, \"maxLength\": "
         "2}}",
         "[\"", 1},
        {"{\"type\": \"object\", \"minProperties\": 2, \"properties\": {\"a\": {\"const\": 1}, "
         "\"b\": {\"const\": "
         "1}}, \"additionalProperties\": false}",
         "{\"b", 2},
        {"{\"type\": \"object\", \"propertyNames\": {\"enum\": [\"x\", \"y\"]}, \"minProperties\": "
         "2, "
         "\"additionalProperties\": {\"const\": 1}}",
         "{\"y", 2},
        {"{\"type\": \"object\", \"patternProperties\": {\"^[a-h]{2}$\": {\"const\": 1}}, "
         "\"additionalProperties\": false, \"maxProperties\": 1}",
         "{\"aa\": 1, ", 8},
        {"{\"type\": \"array\", \"contains\": {\"const\": 1}, \"items\": {\"enum\": [1, 2]}, "
         "\"maxItems\": 2, "
         "\"minItems\": 2, \"minContains\": 2}",
         "[2", 1},
        {"{\"type\": \"array\", \"uniqueItems\": true, \"items\": {\"anyOf\": [{\"enum\": [1, 2]}, "
         "{\"type\": "
         "\"integer\", \"minimum\": 1, \"maximum\": 3}]}}",
         "[2, 1, 3,", 8},
        {"{\"type\": \"object\", \"properties\": {\"a\": {\"$ref\": \"#\"}}, \"required\": "
         "[\"a\"], \"anyOf\": "
         "[{\"required\": [\"a\"]}, {\"maxProperties\": 0}]}",
         NULL, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (!rows[i].text) {
            assert_refused(GRAMMAR_JSON_SCHEMA, rows[i].schema, false, "invalid_schema",
                           "no value satisfies");
            continue;
        }
        struct grammar *grammar = compiled(GRAMMAR_JSON_SCHEMA, rows[i].schema, false);
        assert_rejects(grammar, rows[i].text, rows[i].at);
        grammar_unref(grammar);
    }
}

static void the_first_illegal_byte_is_told(void **state)
{
    struct grammar *grammar = compiled(
        GRAMMAR_JSON_SCHEMA,
        "{\"properties\": {\"abc\": {\"type\": \"integer\"}}, \"additionalProperties\": false}",
        true);
    assert_rejects(grammar, "{\"abd\": 1}", 4);
    assert_rejects(grammar, "{\"abc\": true}", 8);
    assert_rejects(grammar, "{\"abc\": 1", 9);
    grammar_unref(grammar);
}

static void refusals_name_keyword_and_place(void **state)
{
    static const struct {
        const char *schema, *code, *part;
    } rows[] = {
        {"{", "invalid_schema", "JSON at byte 1"},
        {"[]", "invalid_schema", "a schema is"},
        {"{\"type\": \"strin\"}", "invalid_schema", "type"},
        {"{\"properties\": {\"a\": {\"pattern\": \"(\"}}}", "invalid_regex",
         "#/properties/a/pattern"},
        {"{\"pattern\": \"(a)\\\\1\"}", "unsupported_schema", "#/pattern"},
        {"{\"$ref\": \"http://example.org/x\"}", "unsupported_schema", "$ref"},
        {"{\"$ref\": \"#/nowhere\"}", "invalid_schema", "$ref"},
        {"{\"$ref\": \"#\"}", "invalid_schema", "leads to itself"},
        {"{\"anyOf\": [{\"$ref\": \"#\"}, {\"type\": \"null\"}]}", "invalid_schema",
         "leads to itself"},
        {"{\"not\": {\"uniqueItems\": true}}", "unsupported_schema", "uniqueItems"},
        {"{\"items\": {\"not\": {\"uniqueItems\": true}}}", "unsupported_schema", "#/items/not"},
        {"{\"minLength\": -1}", "invalid_schema", "#/minLength"},
        {"{\"multipleOf\": 0}", "invalid_schema", "#/multipleOf"},
        {"{\"required\": [1]}", "invalid_schema", "required"},
        {"{\"$schema\": \"http://example.org/own\"}", "unsupported_schema", "$schema"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_refused(GRAMMAR_JSON_SCHEMA, rows[i].schema, true, rows[i].code, rows[i].part);
    assert_refused(GRAMMAR_JSON_SCHEMA, "false", false, "invalid_schema", "no value satisfies");
    assert_refused(GRAMMAR_JSON_SCHEMA, "{\"properties\": {\"a\": {\"uniqueItems\": true}}}", false,
                   "unsupported_schema", "#/properties/a: uniqueItems");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(instances_are_valid_or_not),
        cmocka_unit_test(production_has_one_spelling),
        cmocka_unit_test(white_space_is_as_asked_for),
        cmocka_unit_test(production_has_no_dead_ends),
        cmocka_unit_test(the_first_illegal_byte_is_told),
        cmocka_unit_test(refusals_name_keyword_and_place),
    };
    return cmocka_run_group_tests_name("schema", tests, NULL, NULL);
}
