/* Named programs: a folder that changes under the reader, uploads over it, what is kept by whom. */
#include "base/limits.h"
#include "frontend_dsl/event_log.h"
#include "frontend_dsl/store.h"

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

enum { N_NAMES = 4, N_STEPS = 400 };

struct world {
    char folder[64];
    struct dsl_store *store;
};

static struct world *world_create(void)
{
    serverd_error err;
    struct world *w = calloc(1, sizeof *w);
    (void)snprintf(w->folder, sizeof w->folder, "/tmp/serverd-store-XXXXXX");
    assert_non_null(mkdtemp(w->folder));
    const struct dsl_store_options options = {
        .folder = w->folder, .max_source = 2048, .limits = dsl_limits_default()};
    assert_int_equal(dsl_store_create(&options, &w->store, &err), SERVERD_OK);
    return w;
}

static int remove_one(const char *path, const struct stat *stat, int flag, struct FTW *walk)
{
    (void)stat, (void)flag, (void)walk;
    return remove(path);
}

static void world_destroy(struct world *w)
{
    dsl_store_destroy(w->store);
    (void)nftw(w->folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(w);
}

static void path_of(const struct world *w, const char *file, char path[256])
{
    (void)snprintf(path, 256, "%s/%s", w->folder, file);
}

static void write_file(const struct world *w, const char *file, const char *text)
{
    char path[256];
    path_of(w, file, path);
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    assert_true(fputs(text, out) >= 0);
    assert_int_equal(fclose(out), 0);
}

/* A program that says its version. */
static void text_of(unsigned version, char text[128])
{
    (void)snprintf(text, 128, "return program{version = '%u', main = function() end}", version);
}

/* -1: there is none of that name. */
static int version_of(struct world *w, const char *name)
{
    struct dsl_program *program = dsl_store_find(w->store, name);
    const int version = program ? (int)strtol(program->version, NULL, 10) : -1;
    dsl_program_unref(program);
    return version;
}

static const char *error_of(const json_t *entry)
{
    return json_string_value(json_object_get(json_object_get(entry, "load_error"), "code"));
}

/* ---- the folder -------------------------------------------------------------------------------
 */

static void only_regular_files_with_a_name_are_read(void **state)
{
    (void)state;
    struct world *w = world_create();
    char text[128], path[256], target[256];
    text_of(1, text);
    write_file(w, "good_one-2.lua", text);
    write_file(w, "Upper.lua", text);
    write_file(w, "no-ending", text);
    write_file(w, ".lua", text);
    path_of(w, "good_one-2.lua", target);
    path_of(w, "link.lua", path);
    assert_int_equal(symlink(target, path), 0);
    path_of(w, "pipe.lua", path);
    assert_int_equal(mkfifo(path, 0600), 0);
    path_of(w, "folder.lua", path);
    assert_int_equal(mkdir(path, 0700), 0);
    dsl_store_scan(w->store);
    json_t *list = dsl_store_list(w->store);
    assert_int_equal(json_array_size(list), 1);
    assert_string_equal(json_string_value(json_object_get(json_array_get(list, 0), "name")),
                        "good_one-2");
    json_decref(list);
    world_destroy(w);
}

static void a_broken_file_leaves_the_old_version_and_says_why(void **state)
{
    (void)state;
    struct world *w = world_create();
    char text[128];
    text_of(1, text);
    write_file(w, "a.lua", text);
    dsl_store_scan(w->store);
    assert_int_equal(version_of(w, "a"), 1);
    struct dsl_program *held = dsl_store_find(w->store, "a");
    write_file(w, "a.lua", "return program{\n main = }");
    dsl_store_scan(w->store);
    assert_int_equal(version_of(w, "a"), 1);
    json_t *entry = dsl_store_entry(w->store, "a");
    assert_string_equal(error_of(entry), "syntax_error");
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(entry, "load_error"), "line")), 2);
    json_decref(entry);
    write_file(w, "a.lua", text); /* what was there before the fault is no change, but its end */
    dsl_store_scan(w->store);
    entry = dsl_store_entry(w->store, "a");
    assert_null(error_of(entry));
    json_decref(entry);
    text_of(2, text);
    write_file(w, "a.lua", text);
    dsl_store_scan(w->store);
    assert_int_equal(version_of(w, "a"), 2);
    assert_string_equal(held->version, "1"); /* who has it keeps it */
    dsl_program_unref(held);
    world_destroy(w);
}

static void a_file_that_was_never_good_is_listed_with_its_error(void **state)
{
    (void)state;
    struct world *w = world_create();
    static char big[4096];
    memset(big, '-', sizeof big - 1);
    write_file(w, "a.lua", "return 5");
    write_file(w, "b.lua", big);
    dsl_store_scan(w->store);
    json_t *a = dsl_store_entry(w->store, "a"), *b = dsl_store_entry(w->store, "b");
    assert_string_equal(error_of(a), "bad_program");
    assert_string_equal(error_of(b), "source_too_large");
    assert_true(json_is_null(json_object_get(a, "sha256")));
    assert_int_equal(version_of(w, "a"), -1);
    json_decref(a);
    json_decref(b);
    world_destroy(w);
}

/* ---- uploads ----------------------------------------------------------------------------------
 */

static void an_upload_goes_before_a_file(void **state)
{
    (void)state;
    struct world *w = world_create();
    struct dsl_error error;
    char text[128];
    dsl_error_init(&error);
    text_of(1, text);
    write_file(w, "a.lua", text);
    dsl_store_scan(w->store);
    text_of(2, text);
    assert_int_equal(dsl_store_put(w->store, "a", text, strlen(text), &error), DSL_PUT_NEW);
    assert_int_equal(dsl_store_put(w->store, "a", text, strlen(text), &error), DSL_PUT_REPLACED);
    assert_int_equal(dsl_store_put(w->store, "a", "x", 1, &error), DSL_PUT_BROKEN);
    assert_string_equal(error.code, "syntax_error");
    assert_int_equal(version_of(w, "a"), 2);
    json_t *list = dsl_store_list(w->store);
    assert_int_equal(json_array_size(list), 1);
    json_decref(list);
    assert_int_equal(dsl_store_remove(w->store, "a"), DSL_REMOVED);
    assert_int_equal(version_of(w, "a"), 1);
    assert_int_equal(dsl_store_remove(w->store, "a"), DSL_REMOVAL_IS_FILE);
    assert_int_equal(dsl_store_remove(w->store, "b"), DSL_REMOVAL_UNKNOWN);
    dsl_error_deinit(&error);
    world_destroy(w);
}

static void there_are_only_so_many(void **state)
{
    (void)state;
    struct world *w = world_create();
    struct dsl_error error;
    char text[128], name[32];
    dsl_error_init(&error);
    text_of(1, text);
    for (unsigned i = 0; i <= LIMIT_DSL_PROGRAMS; i++) {
        (void)snprintf(name, sizeof name, "p%u", i);
        assert_int_equal(dsl_store_put(w->store, name, text, strlen(text), &error),
                         i < LIMIT_DSL_PROGRAMS ? DSL_PUT_NEW : DSL_PUT_FULL);
    }
    dsl_error_deinit(&error);
    world_destroy(w);
}

static uint32_t draw(uint64_t *seed, uint32_t n)
{
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*seed >> 33) % n;
}

/* Files written, broken and removed, uploads put and taken, against what the names mean then. */
static void random_changes_are_seen(void **state)
{
    (void)state;
    struct world *w = world_create();
    struct dsl_error error;
    int files[N_NAMES], uploads[N_NAMES];
    uint64_t seed = 4;
    char text[128], name[8], file[16], path[256];
    dsl_error_init(&error);
    for (int i = 0; i < N_NAMES; i++)
        files[i] = uploads[i] = -1;
    for (unsigned step = 1; step <= N_STEPS; step++) {
        const uint32_t i = draw(&seed, N_NAMES);
        (void)snprintf(name, sizeof name, "n%u", i);
        (void)snprintf(file, sizeof file, "n%u.lua", i);
        path_of(w, file, path);
        text_of(step, text);
        switch (draw(&seed, 5)) {
        case 0:
            write_file(w, file, text);
            files[i] = (int)step;
            break;
        case 1:
            if (access(path, F_OK) == 0)
                write_file(w, file, "return program{"); /* the version stays */
            break;
        case 2:
            (void)remove(path);
            files[i] = -1;
            break;
        case 3:
            (void)dsl_store_put(w->store, name, text, strlen(text), &error);
            uploads[i] = (int)step;
            break;
        default:
            (void)dsl_store_remove(w->store, name);
            uploads[i] = -1;
        }
        dsl_store_scan(w->store);
        for (int k = 0; k < N_NAMES; k++) {
            (void)snprintf(name, sizeof name, "n%d", k);
            assert_int_equal(version_of(w, name), uploads[k] >= 0 ? uploads[k] : files[k]);
        }
    }
    dsl_error_deinit(&error);
    world_destroy(w);
}

/* ---- what jobs have said ----------------------------------------------------------------------
 */

static void a_log_is_bounded_but_for_its_last_event(void **state)
{
    (void)state;
    struct event_log log;
    static char data[1 << 20];
    memset(data, 'x', sizeof data);
    event_log_init(&log);
    uint64_t n = 0;
    while (event_log_add(&log, "e", data, sizeof data, false))
        n++;
    assert_true(n >= 60 && n < LIMIT_DSL_EVENT_BYTES / sizeof data + 1);
    assert_int_equal(log.n, n);
    const size_t len = log.frames.len;
    assert_true(len <= LIMIT_DSL_EVENT_BYTES);
    assert_true(event_log_add(&log, "last", "{}", 2, true));
    assert_int_equal(event_log_start(&log, n), len);
    assert_string_equal(log.frames.data + len, "id: 63\nevent: last\ndata: {}\n\n");
    assert_int_equal(event_log_start(&log, n + 1), log.frames.len);
    assert_int_equal(event_log_start(&log, UINT64_MAX), log.frames.len);
    event_log_deinit(&log);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_regular_files_with_a_name_are_read),
        cmocka_unit_test(a_broken_file_leaves_the_old_version_and_says_why),
        cmocka_unit_test(a_file_that_was_never_good_is_listed_with_its_error),
        cmocka_unit_test(an_upload_goes_before_a_file),
        cmocka_unit_test(there_are_only_so_many),
        cmocka_unit_test(random_changes_are_seen),
        cmocka_unit_test(a_log_is_bounded_but_for_its_last_event),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
