#include "tools/bench/commands.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct values {
    const char *name;
    uint32_t count;
    double real;
    struct command_list list, maybe;
    bool flag;
    int choice;
    struct command_names names;
};

#define AT(field) offsetof(struct values, field)

static const struct command_option rows[] = {
    {"name", 'N', COMMAND_STRING, AT(name), "TEXT", NULL, 0, 0, "A name"},
    {"count", 'c', COMMAND_COUNT, AT(count), "N", "7", 1, 100, "A count"},
    {"real-number", 0, COMMAND_FLOAT, AT(real), "X", "0.5", 0, 1, "A number"},
    {"list", 'l', COMMAND_LIST, AT(list), "N,...", "0", 0, 4000000000.0, "Numbers, 0 one of them"},
    {"maybe", 'm', COMMAND_LIST, AT(maybe), "N,...", "512", 1, 1000, "Numbers or none"},
    {"flag", 0, COMMAND_FLAG, AT(flag), NULL, NULL, 0, 0, "A flag"},
    {"choice", 0, COMMAND_CHOICE, AT(choice), "red|green|blue", "green", 0, 0, "A colour"},
    {"names", 0, COMMAND_NAMES, AT(names), "NAME", NULL, 0, 0, "Names, one at a time"},
};

static const struct command command = {.name = "try",
                                       .summary = "Tries",
                                       .options = rows,
                                       .n_options = sizeof rows / sizeof *rows,
                                       .bare = {"name"},
                                       .values_bytes = sizeof(struct values)};

static struct values values;
static serverd_error err;

static serverd_status parse(const char *const *words, int n, bool *wants_help)
{
    values = (struct values){0};
    return command_parse(&command, n, (char *const *)(uintptr_t)words, &values, wants_help, &err);
}

#define PARSE(...)                                                                                 \
    parse((const char *const[]){__VA_ARGS__},                                                      \
          (int)(sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *)), &(bool){false})

static void without_arguments_there_are_the_defaults(void **state)
{
    (void)state;
    bool wants_help = true;
    assert_int_equal(parse(NULL, 0, &wants_help), SERVERD_OK);
    assert_false(wants_help || values.flag || values.name);
    assert_int_equal(values.count, 7);
    assert_true(values.real == 0.5);
    assert_int_equal(values.list.n, 1);
    assert_int_equal(values.list.value[0], 0);
    assert_int_equal(values.maybe.n, 1);
    assert_int_equal(values.maybe.value[0], 512);
    assert_int_equal(values.choice, 1);
}

static void all_forms_are_read(void **state)
{
    (void)state;
    assert_int_equal(PARSE("--count", "3", "--real_number=0.25", "-l1,0,4000000000", "-m", "0",
                           "--flag", "--choice", "blue", "bare word"),
                     SERVERD_OK);
    assert_int_equal(values.count, 3);
    assert_true(values.real == 0.25);
    assert_int_equal(values.list.n, 3);
    assert_true(values.list.value[2] == 4000000000u);
    assert_int_equal(values.maybe.n, 0);
    assert_true(values.flag);
    assert_int_equal(values.choice, 2);
    assert_string_equal(values.name, "bare word");
    assert_int_equal(PARSE("--flag", "--no-flag"), SERVERD_OK);
    assert_false(values.flag);
    assert_int_equal(PARSE("one", "--names", "two", "--names=three"), SERVERD_OK);
    assert_string_equal(values.name, "one");
    assert_int_equal(values.names.n, 2);
    assert_string_equal(values.names.value[1], "three");
    bool wants_help = false;
    assert_int_equal(parse((const char *const[]){"--help"}, 1, &wants_help), SERVERD_OK);
    assert_true(wants_help);
}

/* The last of the bare arguments takes the rest if it is a list of names. */
static void bare_names_go_on(void **state)
{
    (void)state;
    struct command many = command;
    bool wants_help;
    const char *const words[] = {"one", "two", "--flag", "three"};
    many.bare[1] = "names";
    values = (struct values){0};
    assert_int_equal(
        command_parse(&many, 4, (char *const *)(uintptr_t)words, &values, &wants_help, &err),
        SERVERD_OK);
    assert_string_equal(values.name, "one");
    assert_int_equal(values.names.n, 2);
    assert_string_equal(values.names.value[1], "three");
    assert_true(values.flag);
}

static void what_is_wrong_is_named(void **state)
{
    (void)state;
    const struct {
        const char *words[2];
        const char *expected;
    } wrong[] = {
        {{"--cuont", "3"}, "did you mean --count"},
        {{"--count", "0"}, "--count: \"0\" is not a whole number from 1 to 100"},
        {{"--count", "101"}, "--count"},
        {{"--count", "1.5"}, "--count"},
        {{"--count", ""}, "--count"},
        {{"--real-number", "2"}, "--real-number: \"2\" is not a number from 0 to 1"},
        {{"--real-number", "nan"}, "--real-number"},
        {{"--list", "1,,2"}, "--list"},
        {{"--list", "1,2,"}, "--list"},
        {{"--list", "-1"}, "--list"},
        {{"--list", "99999999999999999999"}, "--list"},
        {{"--maybe", "0,5"}, "--maybe"},
        {{"--choice", "gren"}, "did you mean green"},
        {{"--choice", ""}, "--choice"},
        {{"--name", ""}, "--name: may not be empty"},
        {{"--flag=1", "x"}, "--flag: takes no value"},
        {{"-x", "1"}, "-x"},
        {{"one", "two"}, "unexpected argument \"two\""},
        {{"--flag", "--count"}, "--count: needs a value"},
        {{"--no-count", "1"}, "--no-count"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        bool wants_help;
        if (parse(wrong[i].words, 2, &wants_help) != SERVERD_INVALID)
            fail_msg("taken: %s %s", wrong[i].words[0], wrong[i].words[1]);
        if (!strstr(err.text, wrong[i].expected))
            fail_msg("%s %s: \"%s\" does not say %s", wrong[i].words[0], wrong[i].words[1],
                     err.text, wrong[i].expected);
    }
}

static void a_list_has_its_bound(void **state)
{
    (void)state;
    char text[2 * COMMAND_LIST_MAX + 2];
    for (size_t i = 0; i <= COMMAND_LIST_MAX; i++)
        memcpy(text + 2 * i, "1,", 2);
    text[2 * COMMAND_LIST_MAX - 1] = '\0';
    assert_int_equal(PARSE("--list", text), SERVERD_OK);
    assert_int_equal(values.list.n, COMMAND_LIST_MAX);
    text[2 * COMMAND_LIST_MAX - 1] = ',';
    text[2 * COMMAND_LIST_MAX + 1] = '\0';
    assert_int_equal(PARSE("--list", text), SERVERD_INVALID);
}

static void help_names_every_option(void **state)
{
    (void)state;
    struct buffer text;
    buffer_init(&text, 1 << 16);
    command_help("tool", &command, &text);
    for (size_t i = 0; i < command.n_options; i++)
        assert_non_null(strstr(buffer_str(&text), rows[i].name));
    assert_non_null(strstr(buffer_str(&text), "[default green]"));
    buffer_deinit(&text);
}

/* Defaults in range, fields inside the struct, no name twice; the help at most 80 columns wide. */
static void the_real_tables_are_sound(void **state)
{
    (void)state;
    const struct command *const commands[] = {&bench_model, &bench_kernels, &bench_serve,
                                              &bench_compare};
    for (size_t c = 0; c < sizeof commands / sizeof *commands; c++) {
        const struct command *each = commands[c];
        void *memory = calloc(1, each->values_bytes);
        struct buffer text;
        bool wants_help;
        assert_non_null(memory);
        if (command_parse(each, 0, NULL, memory, &wants_help, &err) != SERVERD_OK)
            fail_msg("%s: %s", each->name, err.text);
        for (size_t i = 0; i < each->n_options; i++) {
            assert_true(each->options[i].offset < each->values_bytes);
            for (size_t j = 0; j < i; j++) {
                if (strcmp(each->options[i].name, each->options[j].name) == 0 ||
                    (each->options[i].letter && each->options[i].letter == each->options[j].letter))
                    fail_msg("%s: --%s and --%s", each->name, each->options[i].name,
                             each->options[j].name);
            }
        }
        buffer_init(&text, 1 << 16);
        command_help("serverd-bench", each, &text);
        for (const char *line = buffer_str(&text); *line; line += strcspn(line, "\n") + 1)
            if (strcspn(line, "\n") > 80)
                fail_msg("%s: %.100s", each->name, line);
        buffer_deinit(&text);
        free(memory);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_arguments_there_are_the_defaults),
        cmocka_unit_test(all_forms_are_read),
        cmocka_unit_test(bare_names_go_on),
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(a_list_has_its_bound),
        cmocka_unit_test(help_names_every_option),
        cmocka_unit_test(the_real_tables_are_sound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
