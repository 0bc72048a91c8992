/* What --data-path holds: the index, contents, and the lines of inputs. */
#include "server/data/batch_lines.h"
#include "server/data/file_store.h"

#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define NOW 1700000000

static char folder[64];

static void must(serverd_status status, const serverd_error *err)
{
    if (status != SERVERD_OK)
        fail_msg("%s", err->text);
}

static int make_folder(void **state)
{
    (void)state;
    (void)snprintf(folder, sizeof folder, "/tmp/serverd-store-XXXXXX");
    assert_non_null(mkdtemp(folder));
    return 0;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static int remove_folder(void **state)
{
    (void)state;
    return nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static struct file_store *open_store(uint64_t max_bytes)
{
    struct file_store *store;
    serverd_error err;
    must(file_store_open(folder, max_bytes, &store, &err), &err);
    return store;
}

static void write_content(struct file_store *store, const char *text, struct new_content *out)
{
    serverd_error err;
    must(new_content_create(store, out, &err), &err);
    must(new_content_append(out, text, strlen(text), &err), &err);
}

/* A file with these; its id in `id`. */
static void add_file(struct file_store *store, uint64_t tenant, const char *purpose,
                     const char *text, int64_t expires_at, char id[STORE_ID_BYTES])
{
    struct new_content content;
    struct file_row row = {.tenant = tenant,
                           .filename = strdup("a \"name\""),
                           .created_at = NOW,
                           .expires_at = expires_at};
    serverd_error err;
    (void)snprintf(row.purpose, sizeof row.purpose, "%s", purpose);
    write_content(store, text, &content);
    must(file_store_keep(store, &content, &row, &err), &err);
    must(file_store_add(store, &row, &err), &err);
    memcpy(id, row.id, sizeof row.id);
    file_row_release(&row);
}

static bool has_file(struct file_store *store, uint64_t tenant, const char *id)
{
    struct file_row row;
    bool is_found;
    serverd_error err;
    must(store_get_file(store->index, id, tenant, &row, &is_found, &err), &err);
    if (is_found) {
        assert_string_equal(row.filename, "a \"name\"");
        file_row_release(&row);
    }
    return is_found;
}

static bool has_content(const char *id)
{
    char path[160];
    (void)snprintf(path, sizeof path, "%s/files/%s", folder, id);
    return access(path, F_OK) == 0;
}

/* ---- files ----------------------------------------------------------------------------------- */

static void a_file_is_there_for_its_tenant_until_it_is_deleted(void **state)
{
    struct file_store *store = open_store(1000);
    struct file file = {.fd = -1};
    char id[STORE_ID_BYTES], text[5];
    serverd_error err;
    (void)state;
    add_file(store, UINT64_MAX, "batch", "hello", 0, id);
    assert_true(has_file(store, UINT64_MAX, id));
    assert_false(has_file(store, 0, id));
    file_store_close(store);
    store = open_store(1000);
    assert_int_equal(store->n_bytes, 5);
    assert_true(has_file(store, UINT64_MAX, id));
    must(file_store_read(store, id, &file, &err), &err);
    must(file_read_at(&file, 0, text, 5, &err), &err);
    assert_memory_equal(text, "hello", 5);
    must(file_store_delete(store, id, &err), &err);
    assert_false(has_file(store, UINT64_MAX, id));
    must(file_store_sweep(store, NOW, &err), &err);
    assert_false(has_content(id));
    must(file_read_at(&file, 0, text, 5, &err), &err); /* who reads it already goes on */
    file_close(&file);
    assert_int_equal(store->n_bytes, 0);
    assert_int_equal(store->n_files, 0);
    file_store_close(store);
}

static void files_go_when_they_expire(void **state)
{
    struct file_store *store = open_store(1000);
    char early[STORE_ID_BYTES], late[STORE_ID_BYTES], never[STORE_ID_BYTES];
    serverd_error err;
    (void)state;
    add_file(store, 1, "batch", "a", NOW + 10, early);
    add_file(store, 1, "batch", "b", NOW + 20, late);
    add_file(store, 1, "batch", "c", 0, never);
    must(file_store_sweep(store, NOW + 9, &err), &err);
    assert_true(has_content(early) && has_content(late) && has_content(never));
    must(file_store_sweep(store, NOW + 10, &err), &err);
    assert_true(!has_content(early) && has_content(late) && has_content(never));
    must(file_store_sweep(store, INT64_MAX, &err), &err);
    assert_true(!has_content(late) && has_content(never));
    assert_true(has_file(store, 1, never) && !has_file(store, 1, late));
    file_store_close(store);
}

static void an_open_batch_keeps_its_input(void **state)
{
    struct file_store *store = open_store(1000);
    struct batch_row row = {.tenant = 1};
    char id[STORE_ID_BYTES];
    serverd_error err;
    (void)state;
    add_file(store, 1, "batch", "a", 0, id);
    row.input_file_id = id;
    must(store_make_id("batch_", row.id, &err), &err);
    must(store_add_batch(store->index, &row, &err), &err);
    must(file_store_delete(store, id, &err), &err);
    must(file_store_sweep(store, NOW, &err), &err);
    assert_true(has_content(id) && !has_file(store, 1, id));
    row.status = BATCH_FAILED;
    must(store_update_batch(store->index, &row, &err), &err);
    must(file_store_sweep(store, NOW, &err), &err);
    assert_false(has_content(id));
    file_store_close(store);
}

static void contents_are_bounded(void **state)
{
    struct file_store *store = open_store(10);
    struct new_content first, second;
    serverd_error err;
    (void)state;
    write_content(store, "123456", &first);
    must(new_content_create(store, &second, &err), &err);
    assert_int_equal(new_content_append(&second, "12345", 5, &err), SERVERD_BUSY);
    must(new_content_append(&second, "1234", 4, &err), &err);
    assert_int_equal(new_content_append(&first, "1", 1, &err), SERVERD_BUSY);
    new_content_discard(&second);
    new_content_discard(&second);
    must(new_content_append(&first, "1", 1, &err), &err);
    new_content_discard(&first);
    assert_int_equal(store->n_bytes, 0);
    file_store_close(store);
}

static void what_is_not_in_the_index_goes_at_the_next_start(void **state)
{
    struct file_store *store = open_store(1000);
    struct new_content unfinished, kept;
    struct file_row row = {.created_at = NOW};
    char id[STORE_ID_BYTES];
    serverd_error err;
    (void)state;
    add_file(store, 1, "batch", "a", 0, id);
    write_content(store, "b", &unfinished);
    write_content(store, "c", &kept);
    must(file_store_keep(store, &kept, &row, &err), &err);
    assert_true(has_content(row.id));
    file_store_close(store);
    (void)close(unfinished.file.fd); /* as a process that ends; */
    free(unfinished.file.path);
    free(unfinished.file.temporary);
    store = open_store(1000);
    assert_true(has_content(id));
    assert_false(has_content(row.id));
    assert_int_equal(store->n_bytes, 1);
    file_store_close(store);
}

/* ---- lists ----------------------------------------------------------------------------------- */

enum { N_LISTED = 20 };

struct listing {
    char ids[N_LISTED][STORE_ID_BYTES];
    uint32_t n;
};

static void take_id(void *context, const struct file_row *row)
{
    struct listing *listing = context;
    memcpy(listing->ids[listing->n++], row->id, STORE_ID_BYTES);
}

/* All pages of a size; the ids in the order that they came. */
static void list_all(struct file_store *store, const char *purpose, bool is_ascending,
                     uint32_t limit, struct listing *out)
{
    struct store_page page = {
        .tenant = 7, .purpose = purpose, .limit = limit, .is_ascending = is_ascending};
    bool has_more = true;
    serverd_error err;
    out->n = 0;
    while (has_more) {
        const uint32_t before = out->n;
        must(store_list_files(store->index, &page, take_id, out, &has_more, &err), &err);
        assert_true(out->n - before <= limit);
        assert_true(!has_more || out->n - before == limit);
        page.after = out->n > 0 ? out->ids[out->n - 1] : NULL;
    }
}

static void pages_have_every_file_of_the_tenant_once(void **state)
{
    struct file_store *store = open_store(1000);
    struct listing made = {0}, listed;
    char other[STORE_ID_BYTES];
    (void)state;
    for (uint32_t i = 0; i < N_LISTED; i++) {
        add_file(store, 7, i % 3 ? "batch" : "vision", "x", 0, made.ids[i]);
        add_file(store, 8, "batch", "x", 0, other);
    }
    for (uint32_t limit = 1; limit <= N_LISTED + 1; limit++) {
        list_all(store, NULL, true, limit, &listed);
        assert_int_equal(listed.n, N_LISTED);
        assert_memory_equal(listed.ids, made.ids, sizeof made.ids);
        list_all(store, NULL, false, limit, &listed);
        assert_int_equal(listed.n, N_LISTED);
        for (uint32_t i = 0; i < N_LISTED; i++)
            assert_string_equal(listed.ids[i], made.ids[N_LISTED - 1 - i]);
        list_all(store, "vision", true, limit, &listed);
        assert_int_equal(listed.n, (N_LISTED + 2) / 3);
        for (uint32_t i = 0; i < listed.n; i++)
            assert_string_equal(listed.ids[i], made.ids[3 * i]);
    }
    file_store_close(store);
}

/* ---- the index ------------------------------------------------------------------------------- */

static void a_batch_comes_back_as_it_was(void **state)
{
    struct file_store *store = open_store(1000);
    struct batch_row row = {.tenant = 3}, back;
    bool is_found;
    serverd_error err;
    (void)state;
    int64_t number = 1000;
#define X(name) row.name = strdup(#name " \"'; DROP TABLE batch; --");
    BATCH_TEXTS(X)
#undef X
#define X(name) row.name = number++;
    BATCH_NUMBERS(X)
#undef X
    free(row.errors);
    row.errors = NULL;
    must(store_make_id("batch_", row.id, &err), &err);
    must(store_add_batch(store->index, &row, &err), &err);
    row.n_completed = INT64_MAX;
    must(store_update_batch(store->index, &row, &err), &err);
    must(store_get_batch(store->index, row.id, 3, &back, &is_found, &err), &err);
    assert_true(is_found);
    assert_int_equal(back.number, row.number);
    assert_null(back.errors);
#define X(name)                                                                                    \
    if (row.name)                                                                                  \
        assert_string_equal(back.name, row.name);
    BATCH_TEXTS(X)
#undef X
#define X(name) assert_int_equal(back.name, row.name);
    BATCH_NUMBERS(X)
#undef X
    batch_row_release(&back);
    must(store_get_batch(store->index, row.id, 4, &back, &is_found, &err), &err);
    assert_false(is_found);
    batch_row_release(&row);
    file_store_close(store);
}

static void note_line(void *context, const struct store_result *result)
{
    char *seen = context;
    assert_int_equal(result->n, 3);
    assert_memory_equal(result->text, result->is_error ? "bad" : "\0ok", 3);
    seen[result->line]++;
}

static void results_are_of_one_batch_and_stay_as_they_came(void **state)
{
    struct file_store *store = open_store(1000);
    char seen[100] = {0};
    uint32_t next = 0, n_reads = 0;
    bool is_new;
    serverd_error err;
    (void)state;
    for (uint32_t line = 0; line < 100; line += 2) {
        const struct store_result good = {line, false, "\0ok", 3}, bad = {line, true, "bad", 3};
        must(store_add_result(store->index, 5, line % 4 ? &good : &bad, &is_new, &err), &err);
        assert_true(is_new);
        must(store_add_result(store->index, 5, line % 4 ? &bad : &good, &is_new, &err), &err);
        assert_false(is_new);
        must(store_add_result(store->index, 4 + 2 * (line % 4 == 0), &good, &is_new, &err), &err);
    }
    for (; next != UINT32_MAX; n_reads++)
        must(store_read_results(store->index, 5, next, 7, note_line, seen, &next, &err), &err);
    assert_true(n_reads >= 8);
    for (uint32_t line = 0; line < 100; line++)
        assert_int_equal(seen[line], line % 2 == 0);
    bool is_empty = false;
    for (n_reads = 0; !is_empty; n_reads++)
        must(store_remove_results(store->index, 5, 7, &is_empty, &err), &err);
    assert_int_equal(n_reads, 8); /* 50 of them */
    must(store_read_results(store->index, 5, 0, 7, note_line, NULL, &next, &err), &err);
    memset(seen, 0, sizeof seen);
    must(store_read_results(store->index, 6, 0, 100, note_line, seen, &next, &err), &err);
    assert_int_equal(seen[0] + seen[4] + seen[96], 3);
    file_store_close(store);
}

static void what_is_rolled_back_never_was(void **state)
{
    struct file_store *store = open_store(1000);
    const struct store_result result = {1, false, "\0ok", 3};
    char seen[4] = {0};
    uint32_t next;
    bool is_new;
    serverd_error err;
    (void)state;
    must(store_index_begin(store->index, &err), &err);
    must(store_add_result(store->index, 1, &result, &is_new, &err), &err);
    store_index_rollback(store->index);
    store_index_rollback(store->index);
    must(store_read_results(store->index, 1, 0, 4, note_line, seen, &next, &err), &err);
    assert_int_equal(seen[1], 0);
    file_store_close(store);
}

static void write_index(const char *bytes, size_t n)
{
    char path[96];
    (void)snprintf(path, sizeof path, "%s/index.sqlite", folder);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, n), (ssize_t)n);
    (void)close(fd);
}

static void an_index_of_others_is_refused(void **state)
{
    struct file_store *store = open_store(1000), *second;
    serverd_error err;
    (void)state;
    assert_int_equal(file_store_open(folder, 1000, &second, &err), SERVERD_BUSY);
    assert_non_null(strstr(err.text, "another serverd"));
    file_store_close(store);
    file_store_close(open_store(1000));
    char header[100] = "SQLite format 3";
    write_index(header, sizeof header);
    assert_int_not_equal(file_store_open(folder, 1000, &second, &err), SERVERD_OK);
    write_index("this is no database at all", 26);
    assert_int_not_equal(file_store_open(folder, 1000, &second, &err), SERVERD_OK);
}

/* ---- lines ----------------------------------------------------------------------------------- */

static struct file file_of(const char *text, size_t n)
{
    struct file file;
    serverd_error err;
    char path[64];
    int fd = memfd_create("lines", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, n), (ssize_t)n);
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    must(file_open(path, &file, &err), &err);
    (void)close(fd);
    return file;
}

static bool is_blank(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strchr(" \t\r", text[i]))
            return false;
    return true;
}

/* What the reader says against a plain split of the text. */
static void check_lines(const char *text, size_t n, size_t max_line)
{
    struct line_reader reader;
    struct batch_line line;
    bool is_end;
    serverd_error err;
    struct file file = file_of(text, n);
    must(line_reader_init(&reader, &file, max_line, &err), &err);
    for (int pass = 0; pass < 2; pass++, line_reader_rewind(&reader)) {
        uint32_t number = 0;
        for (size_t at = 0; at < n;) {
            const char *newline = memchr(text + at, '\n', n - at);
            const size_t len = newline ? (size_t)(newline - (text + at)) : n - at;
            number++;
            if (len > max_line || !is_blank(text + at, len)) {
                must(line_reader_next(&reader, &line, &is_end, &err), &err);
                assert_false(is_end);
                assert_int_equal(line.number, number);
                assert_int_equal(line.offset, at);
                assert_true(line.is_too_long == (len > max_line));
                if (!line.is_too_long) {
                    assert_int_equal(line.n, len);
                    assert_memory_equal(line.text, text + at, len);
                }
            }
            at += len + 1;
        }
        must(line_reader_next(&reader, &line, &is_end, &err), &err);
        assert_true(is_end);
    }
    line_reader_deinit(&reader);
}

static void lines_are_what_lies_between_newlines(void **state)
{
    static const size_t sizes[] = {0, 1, 2, 3, 100, 4095, 65534, 65535, 65536, 65537, 131072};
    static const char kinds[] = "aaaaaa \n\n\r\t";
    enum { N_SIZES = sizeof sizes / sizeof *sizes };
    char *text = malloc(1 << 20);
    (void)state;
    assert_non_null(text);
    for (unsigned seed = 0; seed < 300; seed++) {
        unsigned random = seed;
        size_t n = 0;
        for (int i = rand_r(&random) % 8; i > 0; i--) {
            const size_t len = sizes[(unsigned)rand_r(&random) % N_SIZES];
            memset(text + n, kinds[(unsigned)rand_r(&random) % 11], len);
            n += len;
            text[n++] = '\n';
        }
        n -= n > 0 && rand_r(&random) % 2; /* the last newline may lack */
        check_lines(text, n, sizes[3 + (unsigned)rand_r(&random) % (N_SIZES - 3)]);
    }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define IN_A_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)
        IN_A_FOLDER(a_file_is_there_for_its_tenant_until_it_is_deleted),
        IN_A_FOLDER(files_go_when_they_expire),
        IN_A_FOLDER(an_open_batch_keeps_its_input),
        IN_A_FOLDER(contents_are_bounded),
        IN_A_FOLDER(what_is_not_in_the_index_goes_at_the_next_start),
        IN_A_FOLDER(pages_have_every_file_of_the_tenant_once),
        IN_A_FOLDER(a_batch_comes_back_as_it_was),
        IN_A_FOLDER(results_are_of_one_batch_and_stay_as_they_came),
        IN_A_FOLDER(what_is_rolled_back_never_was),
        IN_A_FOLDER(an_index_of_others_is_refused),
        cmocka_unit_test(lines_are_what_lies_between_newlines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
