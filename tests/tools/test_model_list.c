/* Which models the options name. */
#include "base/limits.h"
#include "tools/model_list.h"

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* A folder of its own, and the options that look at it. */
struct fixture {
    char folder[64];
    struct options options;
    struct metrics *metrics;
    struct model_list list;
    serverd_error err;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    (void)snprintf(f->folder, sizeof f->folder, "/tmp/serverd-models-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    assert_int_equal(options_init(&f->options, &f->err), SERVERD_OK);
    f->metrics = metrics_create();
    *state = f;
    return 0;
}

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *at)
{
    (void)status, (void)kind, (void)at;
    return remove(path);
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    model_list_destroy(&f->list);
    metrics_destroy(f->metrics);
    options_deinit(&f->options);
    (void)nftw(f->folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(f);
    return 0;
}

static void set(struct fixture *f, const char *name, const char *value)
{
    assert_int_equal(options_set(&f->options, name, value, OPTION_COMMAND_LINE, &f->err),
                     SERVERD_OK);
}

static void make_file(struct fixture *f, const char *name)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", f->folder, name);
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    (void)fclose(file);
}

static void make_folder(struct fixture *f, const char *name)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", f->folder, name);
    assert_int_equal(mkdir(path, 0700), 0);
}

/* name|aliases|adapters, one model after the other. */
static void check(struct fixture *f, const char *expected)
{
    char found[2048] = "";
    if (model_list_create(&f->options, f->metrics, &f->list, &f->err) != SERVERD_OK)
        fail_msg("%s", f->err.text);
    for (uint32_t i = 0; i < f->list.n; i++) {
        const struct model_config *c = &f->list.items[i];
        const size_t n = strlen(found);
        assert_non_null(c->metrics);
        (void)snprintf(found + n, sizeof found - n, "%s%s|%s|%s", i ? " " : "", c->name,
                       c->aliases ? c->aliases : "", c->adapters ? c->adapters : "");
    }
    assert_string_equal(found, expected);
}

static void check_refused(struct fixture *f, const char *text)
{
    assert_int_equal(model_list_create(&f->options, f->metrics, &f->list, &f->err),
                     SERVERD_INVALID);
    if (!strstr(f->err.text, text))
        fail_msg("%s is not in: %s", text, f->err.text);
}

static void one_model_has_its_file_s_name(void **state)
{
    struct fixture *f = *state;
    static const char *const cases[][2] = {
        {"/a/b.gguf", "b||"},
        {"b.sdp", "b||"},
        {"/x/folder/", "folder||"},
        {"folder.v1", "folder.v1||"},
        {"/x/big-00001-of-00003.gguf", "big||"},
        {"big-0001-of-00003.gguf", "big-0001-of-00003||"},
        {".gguf", ".gguf||"},
        {"/", "/||"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        set(f, "model-path", cases[i][0]);
        check(f, cases[i][1]);
        assert_ptr_equal(f->list.items[0].metrics, f->metrics);
        model_list_destroy(&f->list);
    }
    set(f, "served-model-name", "mine/own");
    check(f, "mine/own||");
}

static void further_models_stand_behind_the_default(void **state)
{
    struct fixture *f = *state;
    set(f, "model-path", "/a/b.gguf");
    set(f, "models", "z=/z.gguf,c=/c=d.gguf");
    check(f, "b|| z|| c||");
    assert_string_equal(f->list.items[2].path, "/c=d.gguf");
    assert_ptr_not_equal(f->list.items[0].metrics, f->metrics);
}

static void a_folder_is_served_by_name(void **state)
{
    struct fixture *f = *state;
    make_file(f, "b.gguf");
    make_file(f, "a.sdp");
    make_file(f, "big-00001-of-00002.gguf");
    make_file(f, "big-00002-of-00002.gguf");
    make_file(f, "notes.txt");
    make_file(f, ".c.gguf");
    make_file(f, "default.gguf");
    make_file(f, "x,y.gguf");
    make_folder(f, "empty");
    make_folder(f, "hf");
    make_file(f, "hf/config.json");
    set(f, "models-path", f->folder);
    check(f, "a|| b|| big|| hf||");
    model_list_destroy(&f->list);
    set(f, "models", "b=/elsewhere.gguf"); /* what is named counts more */
    check(f, "b|| a|| big|| hf||");
    assert_string_equal(f->list.items[0].path, "/elsewhere.gguf");
}

static void a_folder_is_looked_at_again(void **state)
{
    struct fixture *f = *state;
    make_file(f, "b.gguf");
    set(f, "models-path", f->folder);
    check(f, "b||");
    const struct model_config *first = &f->list.items[0];
    make_file(f, "a.gguf");
    make_file(f, "c.gguf");
    assert_int_equal(model_list_rescan(&f->list, &f->options, f->metrics, &f->err), SERVERD_OK);
    assert_int_equal(f->list.n, 3);
    assert_ptr_equal(first, &f->list.items[0]);
    assert_string_equal(f->list.items[1].name, "a");
    assert_non_null(f->list.items[2].metrics);
    assert_int_equal(model_list_rescan(&f->list, &f->options, f->metrics, &f->err), SERVERD_OK);
    assert_int_equal(f->list.n, 3);
}

static void aliases_and_adapters_go_to_their_models(void **state)
{
    struct fixture *f = *state;
    set(f, "model-path", "/b.gguf");
    set(f, "models", "c=/c.gguf,d:e=/d.gguf");
    set(f, "model-alias", "x, y=c,,z=d:e,w");
    set(f, "lora", "s=/s,c:t=/t:0.5,d:e:u=/u,other:v=/v,c:w:w=/w");
    check(f, "b|x,w|s=/s,other:v=/v c|y|t=/t:0.5,w:w=/w d:e|z|u=/u");
}

static void what_makes_no_sense_is_refused(void **state)
{
    struct fixture *f = *state;
    check_refused(f, "--model-path");
    static const char *const bad[][2] = {{"a", "NAME=PATH"},     {"=b", "NAME=PATH"},
                                         {"a=", "NAME=PATH"},    {"a=b,a=c", "two are named a"},
                                         {"a=b,c", "NAME=PATH"}, {"a=b,,", ""}};
    for (size_t i = 0; i + 1 < sizeof bad / sizeof *bad; i++) {
        set(f, "models", bad[i][0]);
        check_refused(f, bad[i][1]);
    }
    set(f, "models", "a=b");
    set(f, "model-alias", "x=nobody");
    check_refused(f, "nobody");
    set(f, "model-alias", "x");
    set(f, "models-path", "/nowhere/at/all");
    check_refused(f, "models-path");
}

static void names_and_models_have_bounds(void **state)
{
    struct fixture *f = *state;
    char text[2 * LIMIT_MODEL_NAME];
    memset(text, 'n', sizeof text);
    memcpy(text + LIMIT_MODEL_NAME, "=/a", 4);
    set(f, "models", text);
    check_refused(f, "at most 127");
    memcpy(text + LIMIT_MODEL_NAME - 1, "=/a", 4);
    set(f, "models", text);
    assert_int_equal(model_list_create(&f->options, f->metrics, &f->list, &f->err), SERVERD_OK);
    model_list_destroy(&f->list);
    for (uint32_t i = 0; i < LIMIT_MODELS; i++) {
        (void)snprintf(text, sizeof text, "%u.gguf", i);
        make_file(f, text);
    }
    set(f, "models-path", f->folder);
    check_refused(f, "more than 256");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(one_model_has_its_file_s_name, set_up, tear_down),
        cmocka_unit_test_setup_teardown(further_models_stand_behind_the_default, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_folder_is_served_by_name, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_folder_is_looked_at_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(aliases_and_adapters_go_to_their_models, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_makes_no_sense_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(names_and_models_have_bounds, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
