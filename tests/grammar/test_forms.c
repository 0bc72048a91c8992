/* Regular expressions, choices, GBNF and structural tags. */
#include "grammar/grammar_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void regex_is_the_whole_output(void **state)
{
    struct grammar *grammar = compiled(GRAMMAR_REGEX, "(foo|ba[rz])+[0-9]{2}", false);
    assert_accepts(grammar, "foobaz07");
    assert_rejects(grammar, "xfoo07", 0);
    assert_rejects(grammar, "foo071", 5);
    assert_rejects(grammar, "foo0", 4);
    grammar_unref(grammar);
    assert_refused(GRAMMAR_REGEX, "a(", false, "invalid_regex", "");
    assert_refused(GRAMMAR_REGEX, "[^\\u{0}-\\u{10ffff}]", false, "invalid_regex", "nothing");
}

static void choice_is_one_of_the_strings(void **state)
{
    struct grammar *grammar =
        compiled(GRAMMAR_CHOICE, "[\"yes\", \"yes please\", \"n\\u00e9\"]", false);
    assert_accepts(grammar, "yes");
    assert_accepts(grammar, "yes please");
    assert_accepts(grammar, "n\xc3\xa9");
    assert_rejects(grammar, "yes p", 5);
    assert_rejects(grammar, "no", 1);
    grammar_unref(grammar);
    assert_refused(GRAMMAR_CHOICE, "[]", false, "invalid_grammar", "choice");
    assert_refused(GRAMMAR_CHOICE, "[1]", false, "invalid_grammar", "choice");
}

static void json_object_is_any_object(void **state)
{
    struct grammar *grammar = compiled(GRAMMAR_JSON_OBJECT, "", false);
    assert_accepts(grammar, "{\"a\": [1, {\"b\": null}]}");
    assert_rejects(grammar, "[", 0);
    grammar_unref(grammar);
}

static const char arithmetic[] = "root ::= expr  # comment \"\n"
                                 "expr ::= term (op term)*\n"
                                 "op ::= [-+*/]\n"
                                 "term ::= [0-9]+ | \"(\" expr \")\" |\n"
                                 "  \"\\x66\\u006F\\U0000006f\" | [^\\x00-\\x7f]{2,3}\n";

static void gbnf_reads_what_its_rules_say(void **state)
{
    struct grammar *grammar = compiled(GRAMMAR_GBNF, arithmetic, false);
    assert_accepts(grammar, "1+(23*(4))/foo-\xc3\xa9\xc3\xa9");
    assert_rejects(grammar, "1+", 2);
    assert_rejects(grammar, "(1", 2);
    assert_rejects(grammar, "\xc3\xa9", 2);
    assert_rejects(grammar, "1)", 1);
    grammar_unref(grammar);
}

static void gbnf_counts_repetitions(void **state)
{
    struct grammar *grammar =
        compiled(GRAMMAR_GBNF,
                 "root ::= (item \",\"){2,3} item{0,1}\nitem ::= \"[\" item \"]\" | \"x\"?", false);
    assert_accepts(grammar, "x,[x],");
    assert_accepts(grammar, "x,[[]],,x");
    assert_rejects(grammar, "x,", 2);
    assert_rejects(grammar, "x,x,x,,", 6);
    grammar_unref(grammar);
    grammar = compiled(GRAMMAR_GBNF, "root ::= \"a\"{3} | \"b\"{2,} | \"c\"{,2} \".\"", false);
    assert_accepts(grammar, "aaa");
    assert_rejects(grammar, "aa", 2);
    assert_accepts(grammar, "bbbbb");
    assert_accepts(grammar, ".");
    assert_rejects(grammar, "ccc", 2);
    grammar_unref(grammar);
}

static void gbnf_errors_have_line_and_column(void **state)
{
    static const struct {
        const char *text, *code, *part;
    } rows[] = {
        {"", "invalid_grammar", "root"},
        {"root ::= \"a", "invalid_grammar", "1:"},
        {"root ::= \"a\"\nroot ::= \"b\"", "invalid_grammar", "2:1"},
        {"root ::= \"a\" foo", "invalid_grammar", "1:14"},
        {"root ::= (\"a\"", "invalid_grammar", "1:"},
        {"root ::= [b-a]", "invalid_grammar", "1:"},
        {"root ::= e\ne ::= \"\"? e \"+\" | \"x\"", "invalid_grammar", "left recursion"},
        {"root ::= \"a\" root", "invalid_grammar", "no text is ever complete"},
        {"root ::= \"a\"{200000}", "grammar_too_complex", "repetitions"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_refused(GRAMMAR_GBNF, rows[i].text, false, rows[i].code, rows[i].part);
}

/* What returns at once is not waited for, and what waits lies in memory, not on the C stack. */
static void gbnf_nests_deeply(void **state)
{
    struct grammar *grammar = compiled(
        GRAMMAR_GBNF, "root ::= \"(\" root \")\" | list\nlist ::= \"x\" list | \"x\"", false);
    size_t n = 20000;
    char *text = malloc(3 * n + 1);
    assert_non_null(text);
    memset(text, '(', n);
    memset(text + n, 'x', n);
    memset(text + 2 * n, ')', n);
    text[3 * n] = '\0';
    assert_accepts(grammar, text);
    text[3 * n - 1] = '\0';
    assert_rejects(grammar, text, (int)(3 * n - 1));
    free(text);
    grammar_unref(grammar);
}

static const char calls[] = "{\"structures\": [{\"begin\": \"<f=get>\", \"schema\": {\"type\": "
                            "\"object\", \"properties\": {\"x\": "
                            "{\"type\": \"integer\"}}, \"required\": [\"x\"], "
                            "\"additionalProperties\": false}, \"end\": \"</f>\"}, "
                            "{\"begin\": \"<f=say>\", \"schema\": {\"type\": \"string\"}, \"end\": "
                            "\"</f>\"}], \"triggers\": "
                            "[\"<f=\"]}";

static void tags_follow_their_triggers(void **state)
{
    struct grammar *grammar = compiled(GRAMMAR_TAGS, calls, false);
    assert_accepts(grammar, "");
    assert_accepts(grammar, "no < call <f");
    assert_accepts(grammar, "Now: <f=get>{\"x\": 1}</f> and <f=say>\"</f>\"</f>!");
    assert_rejects(grammar, "<f=put>", 3);
    assert_rejects(grammar, "<f=", 3);
    assert_rejects(grammar, "<f=get>{\"x\": true}", 13);
    assert_rejects(grammar, "<f=get>{\"x\": 1}<", -1);
    grammar_unref(grammar);
}

static void tag_formats_combine(void **state)
{
    struct grammar *grammar =
        compiled(GRAMMAR_TAGS,
                 "{\"format\": {\"type\": \"sequence\", \"elements\": [{\"type\": \"tag\", "
                 "\"begin\": \"<t>\", "
                 "\"content\": {\"type\": \"any_text\"}, \"end\": \"</t>\"}, {\"type\": \"or\", "
                 "\"elements\": [{\"type\": "
                 "\"const_string\", \"value\": \"yes\"}, {\"type\": \"regex\", \"pattern\": "
                 "\"[0-9]+\"}, {\"type\": "
                 "\"grammar\", \"grammar\": \"root ::= \\\"(\\\" root \\\")\\\" | \\\"x\\\"\"}]}, "
                 "{\"type\": "
                 "\"tags_with_separator\", \"separator\": \";\", \"tags\": [{\"begin\": \"[\", "
                 "\"content\": {\"type\": "
                 "\"json_schema\", \"json_schema\": {\"enum\": [1, 2]}}, \"end\": \"]\"}]}]}}",
                 false);
    assert_accepts(grammar, "<t>a </t b</t>yes");
    assert_accepts(grammar, "<t></t>((x))[1];[2]");
    assert_accepts(grammar, "<t></t>12[1]");
    assert_rejects(grammar, "<t></t>no", 7);
    assert_rejects(grammar, "<t></t>yes[3]", 11);
    assert_rejects(grammar, "<t></t>yes[1];", 14);
    grammar_unref(grammar);
    static const struct {
        const char *flags, *yes[3], *no[3];
    } rows[] = {
        {"", {"", "ab", "!1.!2."}, {"!", "!1", "!3"}},
        {",\"at_least_one\":true", {"a!1.", "!1.b!2.c"}, {"", "ab"}},
        {",\"stop_after_first\":true", {"", "ab", "a!2."}, {"!1.a", "!1.!2."}},
        {",\"at_least_one\":true,\"stop_after_first\":true", {"a!2."}, {"", "a", "!1.a"}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[512];
        (void)snprintf(text, sizeof text,
                       "{\"format\":{\"type\":\"triggered_tags\",\"triggers\":[\"!\"],\"tags\":[{"
                       "\"begin\":\"!\","
                       "\"content\":{\"type\":\"regex\",\"pattern\":\"[12]\"},\"end\":\".\"}]%s}}",
                       rows[i].flags);
        grammar = compiled(GRAMMAR_TAGS, text, false);
        for (int j = 0; j < 3 && rows[i].yes[j]; j++)
            assert_accepts(grammar, rows[i].yes[j]);
        for (int j = 0; j < 3 && rows[i].no[j]; j++)
            assert_rejects(grammar, rows[i].no[j], -1);
        grammar_unref(grammar);
    }
}

#define FORMAT(text) "{\"format\": " text "}"
#define TEXT(text)   "{\"type\": \"const_string\", \"value\": \"" text "\"}"

static void members_come_in_order(void **state)
{
    struct grammar *grammar = compiled(
        GRAMMAR_TAGS,
        FORMAT("{\"type\": \"members\", \"separator\": \",\", \"members\": "
               "[{\"content\": " TEXT("a") "}, {\"content\": " TEXT(
                   "b") ", \"is_required\": true}, {\"content\": " TEXT("c") "}, "
                                                                             "{\"content\":"
                                                                             " " TEXT("d") "}]"
                                                                                           "}"),
        false);
    static const char *const good[] = {"b", "a,b", "b,c", "b,d", "a,b,c,d", "a,b,d"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_accepts(grammar, good[i]);
    assert_rejects(grammar, "", 0);
    assert_rejects(grammar, "a,c", 2);
    assert_rejects(grammar, "c", 0);
    assert_rejects(grammar, "b,d,c", 3);
    grammar_unref(grammar);
    grammar = compiled(GRAMMAR_TAGS,
                       FORMAT("{\"type\": \"members\", \"members\": [{\"content\": " TEXT(
                           "a") "}, {\"content\": " TEXT("b") "}]}"),
                       false);
    assert_accepts(grammar, "");
    assert_accepts(grammar, "ab");
    assert_accepts(grammar, "b");
    assert_rejects(grammar, "ba", 1);
    grammar_unref(grammar);
}

static void repetitions_are_counted(void **state)
{
    struct grammar *grammar =
        compiled(GRAMMAR_TAGS,
                 FORMAT("{\"type\": \"repeat\", \"min\": 2, \"max\": 3, \"separator\": " TEXT(
                     "; ") ", \"content\": {\"type\": \"regex\", \"pattern\": \"[ab]\"}}"),
                 false);
    assert_accepts(grammar, "a; b");
    assert_accepts(grammar, "a; b; a");
    assert_rejects(grammar, "a", 1);
    assert_rejects(grammar, "a; b; a; b", 7);
    grammar_unref(grammar);
    grammar = compiled(GRAMMAR_TAGS,
                       FORMAT("{\"type\": \"repeat\", \"min\": 3, \"max\": 4, \"content\": "
                              "{\"type\": \"regex\", \"pattern\": \"a?\"}}"),
                       false);
    assert_accepts(grammar, ""); /* three times nothing */
    assert_accepts(grammar, "a");
    assert_accepts(grammar, "aaaa");
    assert_rejects(grammar, "aaaaa", 4);
    grammar_unref(grammar);
    assert_refused(GRAMMAR_TAGS,
                   FORMAT("{\"type\": \"repeat\", \"max\": 0, \"content\": " TEXT("a") "}"), false,
                   "invalid_grammar", "max");
    assert_refused(GRAMMAR_TAGS,
                   FORMAT("{\"type\": \"repeat\", \"max\": 1e9, \"content\": " TEXT("a") "}"),
                   false, "invalid_grammar", "#/format/max");
}

static void strings_stand_as_they_are(void **state)
{
    struct grammar *grammar = compiled(
        GRAMMAR_TAGS,
        FORMAT(
            "{\"type\": \"sequence\", \"elements\": [{\"type\": \"string\", \"is_framed\": true, "
            "\"stop\": \"</v>\", \"schema\": {\"type\": \"string\", \"maxLength\": 8}}, " TEXT(
                "</v>") "]}"),
        false);
    assert_accepts(grammar, "a\"b</v>");
    assert_accepts(grammar, "</v </v>");
    assert_accepts(grammar, "</v>");
    assert_rejects(grammar, "123456789", 8);
    assert_rejects(grammar, "\nx", 0); /* readers take it off */
    assert_rejects(grammar, "a</v></v>", 5);
    grammar_unref(grammar);
    grammar = compiled(GRAMMAR_TAGS,
                       FORMAT("{\"type\": \"string\", \"schema\": {\"enum\": [\"x\", 1, \"yy\"]}}"),
                       false);
    assert_accepts(grammar, "x");
    assert_accepts(grammar, "yy");
    assert_rejects(grammar, "1", 0);
    grammar_unref(grammar);
    assert_refused(GRAMMAR_TAGS, FORMAT("{\"type\": \"string\", \"schema\": {\"type\": \"null\"}}"),
                   false, "invalid_schema", "no string");
    assert_refused(
        GRAMMAR_TAGS,
        FORMAT("{\"type\": \"string\", \"stop\": \"a\", \"schema\": {\"const\": \"ba\"}}"), false,
        "invalid_grammar", "no string");
}

static void parts_may_stand_in_text(void **state)
{
    struct grammar *grammar =
        compiled(GRAMMAR_TAGS,
                 FORMAT("{\"type\": \"interleaved\", \"triggers\": [\"<\", \"!\"], \"parts\": "
                        "[{\"begin\": \"<\", \"content\": " TEXT(
                            "a>") "}, {\"begin\": \"<\", "
                                  "\"content\": " TEXT(
                                      "b>") ", \"is_last\": true}, {\"begin\": \"#\", "
                                            "\"content\": " TEXT("c") ", \"is_last\": true}]}"),
                 false);
    assert_accepts(grammar, "");
    assert_accepts(grammar, "x<a>y<a>z");
    assert_accepts(grammar, "x<a><b>");
    assert_rejects(grammar, "<b>x", 3);
    assert_rejects(grammar, "<c>", 1);
    assert_rejects(grammar, "x!", 1); /* a trigger of no part */
    assert_accepts(grammar, "x#y");
    assert_accepts(grammar, "x#c");
    assert_accepts(grammar, "x#cy"); /* which is text as well */
    grammar_unref(grammar);
    grammar = compiled(GRAMMAR_TAGS,
                       FORMAT("{\"type\": \"text_unless\", \"unless\": [\"[f(\", \"{\"]}"), false);
    assert_accepts(grammar, "[g(");
    assert_accepts(grammar, "");
    assert_rejects(grammar, " \n[f(", 4);
    assert_rejects(grammar, "{", 0);
    grammar_unref(grammar);
    assert_refused(GRAMMAR_TAGS, FORMAT("{\"type\": \"token\", \"token\": \"<|x|>\"}"), false,
                   "invalid_grammar", "no such control token");
}

static void broken_tags_are_refused(void **state)
{
    assert_refused(GRAMMAR_TAGS, "{}", false, "invalid_grammar", "structures");
    assert_refused(GRAMMAR_TAGS, "{\"format\": {\"type\": \"x\"}}", false, "invalid_grammar",
                   "#/format");
    assert_refused(GRAMMAR_TAGS,
                   "{\"structures\": [{\"begin\": \"a\", \"schema\": {}, \"end\": \"\"}], "
                   "\"triggers\": [\"b\"]}",
                   false, "invalid_grammar", "no trigger");
    assert_refused(GRAMMAR_TAGS,
                   "{\"format\": {\"type\": \"json_schema\", \"json_schema\": {\"type\": \"x\"}}}",
                   false, "invalid_schema", "#/format/json_schema");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(regex_is_the_whole_output),
        cmocka_unit_test(choice_is_one_of_the_strings),
        cmocka_unit_test(json_object_is_any_object),
        cmocka_unit_test(gbnf_reads_what_its_rules_say),
        cmocka_unit_test(gbnf_counts_repetitions),
        cmocka_unit_test(gbnf_errors_have_line_and_column),
        cmocka_unit_test(gbnf_nests_deeply),
        cmocka_unit_test(tags_follow_their_triggers),
        cmocka_unit_test(tag_formats_combine),
        cmocka_unit_test(members_come_in_order),
        cmocka_unit_test(repetitions_are_counted),
        cmocka_unit_test(strings_stand_as_they_are),
        cmocka_unit_test(parts_may_stand_in_text),
        cmocka_unit_test(broken_tags_are_refused),
    };
    return cmocka_run_group_tests_name("forms", tests, NULL, NULL);
}
