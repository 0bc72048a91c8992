/* Batches against a runner that answers as it likes: every line is in the output once, in order,
 * with the answer that it got, whatever happens to the process and to the disk. */
#include "server/data/batch_run.h"

#include "base/buffer.h"
#include "base/limits.h"

#include <ftw.h>
#include <jansson.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define NOW 1700000000

enum { MAX_RUNNING = 6, N_LINES = 120, MAX_STEPS = 100000 };

/* ---- the world ------------------------------------------------------------------------------- */

struct call {
    struct batch_slot *slot; /* NULL: free */
    char *body;
    uint64_t number;
    bool is_cancelled;
};

struct world {
    char folder[64];
    struct file_store *files;
    struct batches *batches;
    struct log *log;
    struct metrics *metrics;
    struct clock clock;
    uint64_t ns;
    int64_t wall;
    unsigned random;
    bool is_closed;    /* the runner takes nothing */
    unsigned n_busy;   /* of ten replies so many are 429, 503 or none */
    uint32_t max_ends; /* lines that end in a step */
    struct call calls[MAX_RUNNING];
    uint64_t n_calls;
    char turns[4096]; /* the batch of each call, by the first letter of its prompts */
};

static void must(serverd_status status, const serverd_error *err)
{
    if (status != SERVERD_OK) {
        (void)fprintf(stderr, "%s\n", err->text);
        abort(); /* also in a child */
    }
}

/* Time goes on whenever it is looked at. */
static uint64_t now_ns(void *context)
{
    struct world *world = context;
    return world->ns += 20000000;
}

static int64_t wall_seconds(void *context)
{
    return ((struct world *)context)->wall;
}

static bool is_open(void *context)
{
    return !((struct world *)context)->is_closed;
}

static uint64_t submit(void *context, const struct batch_call *call)
{
    struct world *world = context;
    struct call *at = world->calls;
    if (world->n_busy > 0 && rand_r(&world->random) % 50 == 0)
        return 0; /* no memory */
    while (at->slot)
        at++;
    assert_true(at < world->calls + MAX_RUNNING);
    assert_string_equal(call->path, "/v1/completions");
    assert_int_equal(strlen(call->body), call->n_body);
    assert_int_equal(call->tenant, 7);
    *at = (struct call){call->slot, strdup(call->body), ++world->n_calls, false};
    const char *prompt = strstr(call->body, "\"prompt\":\"");
    if (prompt && world->n_calls < sizeof world->turns)
        world->turns[world->n_calls - 1] = prompt[10];
    return world->n_calls;
}

static void cancel(void *context, uint64_t number)
{
    struct world *world = context;
    for (size_t i = 0; i < MAX_RUNNING; i++)
        if (world->calls[i].slot && world->calls[i].number == number)
            world->calls[i].is_cancelled = true;
}

static void wake(void *context)
{
    (void)context;
}

/* What becomes of a line is a function of its body. */
static int status_of(const char *body)
{
    return strchr(body, '7') ? 400 : 200;
}

static void write_reply(struct buffer *out, const char *body)
{
    buffer_printf(out, "{\"of\":%s,\n\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":3}}",
                  body);
}

static void end_call(struct world *world, struct call *call)
{
    static const int busy[] = {0, 429, 503};
    struct batch_reply reply = {.request_id = "req_1"};
    struct buffer text;
    buffer_init(&text, MIB);
    if (call->is_cancelled) {
        reply.status = 0;
    } else if ((unsigned)rand_r(&world->random) % 10 < world->n_busy) {
        reply.status = busy[rand_r(&world->random) % 3];
        reply.retry_after_ms = (uint32_t)rand_r(&world->random) % 3000;
    } else {
        reply.status = status_of(call->body);
        write_reply(&text, call->body);
    }
    reply.bytes = buffer_str(&text);
    reply.n = text.len;
    struct batch_slot *slot = call->slot;
    free(call->body);
    *call = (struct call){0};
    batches_line_ended(slot, &reply);
    buffer_deinit(&text);
}

static void end_some(struct world *world)
{
    for (uint32_t n = (uint32_t)rand_r(&world->random) % (world->max_ends + 1); n > 0; n--) {
        struct call *call = &world->calls[(unsigned)rand_r(&world->random) % MAX_RUNNING];
        if (call->slot)
            end_call(world, call);
    }
    for (size_t i = 0; i < MAX_RUNNING; i++)
        if (world->calls[i].slot && world->calls[i].is_cancelled)
            end_call(world, &world->calls[i]);
}

static void open_world(struct world *world)
{
    serverd_error err;
    world->clock = (struct clock){now_ns, wall_seconds, world};
    world->max_ends = MAX_RUNNING;
    must(log_create(STDERR_FILENO, LOG_OFF, LOG_TEXT, &world->log, &err), &err);
    world->metrics = metrics_create();
    must(file_store_open(world->folder, GIB, &world->files, &err), &err);
    const struct batches_setup setup = {.files = world->files,
                                        .clock = &world->clock,
                                        .log = world->log,
                                        .metrics = world->metrics,
                                        .runner = {is_open, submit, cancel, wake, world},
                                        .max_running = MAX_RUNNING,
                                        .max_line = 4096};
    must(batches_create(&setup, &world->batches, &err), &err);
}

static void close_world(struct world *world)
{
    batches_destroy(world->batches);
    file_store_close(world->files);
    metrics_destroy(world->metrics);
    log_destroy(world->log);
    for (size_t i = 0; i < MAX_RUNNING; i++) {
        free(world->calls[i].body);
        world->calls[i] = (struct call){0};
    }
}

static void reopen_world(struct world *world)
{
    close_world(world);
    open_world(world);
}

static int start(void **state)
{
    struct world *world = calloc(1, sizeof *world);
    assert_non_null(world);
    (void)snprintf(world->folder, sizeof world->folder, "/tmp/serverd-batch-XXXXXX");
    assert_non_null(mkdtemp(world->folder));
    world->wall = NOW;
    world->random = 1;
    open_world(world);
    *state = world;
    return 0;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static int stop(void **state)
{
    struct world *world = *state;
    close_world(world);
    const int code = nftw(world->folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    free(world);
    return code;
}

/* ---- batches --------------------------------------------------------------------------------- */

static void write_body(struct buffer *out, char letter, uint32_t i)
{
    buffer_printf(out, "{\"prompt\":\"%c%u\",\"x\":1.5}", letter, i);
}

static void upload(struct world *world, const char *text, size_t n, char id[STORE_ID_BYTES])
{
    struct new_content content;
    struct file_row row = {
        .tenant = 7, .purpose = "batch", .filename = strdup("in.jsonl"), .created_at = NOW};
    serverd_error err;
    must(new_content_create(world->files, &content, &err), &err);
    must(new_content_append(&content, text, n, &err), &err);
    must(file_store_keep(world->files, &content, &row, &err), &err);
    must(file_store_add(world->files, &row, &err), &err);
    memcpy(id, row.id, STORE_ID_BYTES);
    file_row_release(&row);
}

/* A batch of n lines whose prompts begin with the letter; its id. */
static void add_batch(struct world *world, char letter, uint32_t n, char id[STORE_ID_BYTES])
{
    char input[STORE_ID_BYTES];
    struct buffer text;
    serverd_error err;
    buffer_init(&text, 64 * MIB);
    for (uint32_t i = 0; i < n; i++) {
        buffer_printf(&text,
                      "%s{\"custom_id\":\"%c-%u\",\"method\":\"POST\",\"url\":"
                      "\"/v1/completions\",\"body\":",
                      i % 5 ? "" : " \n", letter, i);
        write_body(&text, letter, i);
        buffer_append_str(&text, i % 2 ? "}\n" : "}\r\n");
    }
    upload(world, buffer_str(&text), text.len, input);
    buffer_deinit(&text);
    struct batch_row row = {.tenant = 7,
                            .endpoint = (char *)(uintptr_t) "/v1/completions",
                            .input_file_id = input,
                            .completion_window = (char *)(uintptr_t) "24h",
                            .created_at = NOW,
                            .expires_at = NOW + 86400};
    must(store_make_id("batch_", row.id, &err), &err);
    must(batches_add(world->batches, &row, &err), &err);
    memcpy(id, row.id, STORE_ID_BYTES);
}

static struct batch_row get(struct world *world, const char *id)
{
    struct batch_row row;
    bool is_found;
    serverd_error err;
    must(store_get_batch(world->files->index, id, 7, &row, &is_found, &err), &err);
    assert_true(is_found);
    return row;
}

static bool has_ended(struct world *world, const char *id)
{
    struct batch_row row = get(world, id);
    const bool has_ended = row.status >= BATCH_COMPLETED;
    batch_row_release(&row);
    return has_ended;
}

static void step(struct world *world)
{
    (void)batches_advance(world->batches);
    end_some(world);
}

static void run_to_end(struct world *world, const char *id)
{
    for (int i = 0; !has_ended(world, id); i++) {
        if (i == MAX_STEPS)
            abort();
        step(world);
    }
}

/* ---- output ---------------------------------------------------------------------------------- */

struct expectation {
    char letter;
    uint32_t n;
    bool is_whole;     /* each line is in one of the files */
    uint32_t n_output; /* counted */
    uint32_t n_errors, n_expired;
};

/* One line of a file: which one it is; its content has to be what was answered. */
static uint32_t check_line(struct expectation *e, const char *text, bool is_error)
{
    struct buffer body, reply;
    json_t *line = json_loads(text, 0, NULL);
    assert_non_null(line);
    const char *custom_id = json_string_value(json_object_get(line, "custom_id"));
    assert_non_null(custom_id);
    assert_int_equal(custom_id[0], e->letter);
    const uint32_t index = (uint32_t)strtoul(custom_id + 2, NULL, 10);
    const json_t *response = json_object_get(line, "response");
    assert_int_equal(strncmp(json_string_value(json_object_get(line, "id")), "batch_req_", 10), 0);
    if (json_is_null(response)) {
        assert_true(is_error);
        assert_string_equal(
            json_string_value(json_object_get(json_object_get(line, "error"), "code")),
            "batch_expired");
        e->n_expired++;
        json_decref(line);
        return index;
    }
    buffer_init(&body, KIB);
    buffer_init(&reply, KIB);
    write_body(&body, e->letter, index);
    write_reply(&reply, buffer_str(&body));
    json_t *expected = json_loads(buffer_str(&reply), 0, NULL);
    assert_true(json_equal(json_object_get(response, "body"), expected));
    const int status = (int)json_integer_value(json_object_get(response, "status_code"));
    assert_int_equal(status, status_of(buffer_str(&body)));
    assert_true(is_error == (status != 200));
    if (is_error)
        e->n_errors++;
    else
        e->n_output++;
    json_decref(expected);
    json_decref(line);
    buffer_deinit(&body);
    buffer_deinit(&reply);
    return index;
}

static void check_file(struct world *world, struct expectation *e, const char *id, bool is_error,
                       char *seen)
{
    struct file file;
    serverd_error err;
    uint32_t last = 0, n = 0;
    if (!id)
        return;
    must(file_store_read(world->files, id, &file, &err), &err);
    assert_true(file.bytes > 0);
    char *text = calloc(1, file.bytes + 1);
    must(file_read_at(&file, 0, text, file.bytes, &err), &err);
    assert_int_equal(text[file.bytes - 1], '\n');
    for (char *at = text; *at; n++) {
        char *newline = strchr(at, '\n');
        *newline = '\0';
        const uint32_t index = check_line(e, at, is_error);
        assert_true(index < e->n);
        assert_int_equal(seen[index], 0);
        seen[index] = 1;
        if (n > 0 && e->n_expired == 0)
            assert_true(index > last);
        last = index;
        at = newline + 1;
    }
    free(text);
    file_close(&file);
}

/* The files of a batch that has ended, and its counts. */
static void check_output(struct world *world, const char *id, struct expectation *e)
{
    struct batch_row row = get(world, id);
    char *seen = calloc(e->n, 1);
    assert_non_null(seen);
    check_file(world, e, row.output_file_id, false, seen);
    check_file(world, e, row.error_file_id, true, seen);
    for (uint32_t i = 0; i < e->n && e->is_whole; i++)
        if (!seen[i])
            fail_msg("line %u of %c is missing", i, e->letter);
    assert_int_equal(row.n_completed, e->n_output);
    assert_int_equal(row.n_failed, e->n_errors);
    assert_int_equal(row.input_tokens, 2 * e->n_output);
    assert_int_equal(row.output_tokens, 3 * e->n_output);
    free(seen);
    batch_row_release(&row);
}

static void check_completed(struct world *world, const char *id, char letter, uint32_t n)
{
    struct expectation e = {.letter = letter, .n = n, .is_whole = true};
    struct batch_row row = get(world, id);
    assert_int_equal(row.status, BATCH_COMPLETED);
    assert_int_equal(row.n_total, n);
    assert_true(row.completed_at > 0 && row.in_progress_at > 0 && row.finalizing_at > 0);
    batch_row_release(&row);
    check_output(world, id, &e);
    assert_int_equal(e.n_expired, 0);
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void each_line_is_answered_once(void **state)
{
    struct world *world = *state;
    char id[STORE_ID_BYTES];
    for (uint32_t n = 1; n <= 1000; n *= 10) {
        add_batch(world, 'a', n, id);
        run_to_end(world, id);
        check_completed(world, id, 'a', n);
    }
    assert_int_equal(world->n_calls, 1111);
}

static void a_line_that_is_told_to_come_again_does(void **state)
{
    struct world *world = *state;
    char id[STORE_ID_BYTES];
    world->n_busy = 5;
    add_batch(world, 'a', N_LINES, id);
    run_to_end(world, id);
    check_completed(world, id, 'a', N_LINES);
    assert_true(world->n_calls > N_LINES);
}

static void a_runner_that_is_closed_is_left_alone(void **state)
{
    struct world *world = *state;
    char id[STORE_ID_BYTES];
    world->is_closed = true;
    add_batch(world, 'a', 5, id);
    for (int i = 0; i < 20; i++)
        step(world);
    assert_int_equal(world->n_calls, 0);
    world->is_closed = false;
    run_to_end(world, id);
    check_completed(world, id, 'a', 5);
}

static void batches_take_turns(void **state)
{
    struct world *world = *state;
    char ids[3][STORE_ID_BYTES];
    for (int i = 0; i < 3; i++)
        add_batch(world, (char)('a' + i), 200, ids[i]);
    world->max_ends = 1;
    for (int i = 0; i < 3; i++)
        run_to_end(world, ids[i]);
    /* while all have lines, each has every third */
    uint32_t counts[3] = {0};
    for (int i = 60; i < 360; i++)
        counts[world->turns[i] - 'a']++;
    for (int i = 0; i < 3; i++) {
        assert_in_range(counts[i], 90, 110);
        check_completed(world, ids[i], (char)('a' + i), 200);
    }
}

static void more_batches_than_take_turns_wait(void **state)
{
    struct world *world = *state;
    char ids[LIMIT_ACTIVE_BATCHES + 10][STORE_ID_BYTES];
    for (uint32_t i = 0; i < LIMIT_ACTIVE_BATCHES + 10; i++)
        add_batch(world, 'a', 3, ids[i]);
    struct batch_row last = get(world, ids[LIMIT_ACTIVE_BATCHES + 9]);
    serverd_error err;
    step(world);
    must(batches_cancel(world->batches, &last, &err), &err); /* one that is not in memory */
    batch_row_release(&last);
    for (uint32_t i = 0; i < LIMIT_ACTIVE_BATCHES + 9; i++) {
        run_to_end(world, ids[i]);
        check_completed(world, ids[i], 'a', 3);
    }
    run_to_end(world, ids[LIMIT_ACTIVE_BATCHES + 9]);
    last = get(world, ids[LIMIT_ACTIVE_BATCHES + 9]);
    assert_int_equal(last.status, BATCH_CANCELLED);
    assert_int_equal(last.n_total, 0);
    batch_row_release(&last);
}

static void a_cancelled_batch_keeps_what_it_has(void **state)
{
    struct world *world = *state;
    for (unsigned seed = 0; seed < 30; seed += 3) {
        struct expectation e = {.letter = 'a', .n = N_LINES};
        char id[STORE_ID_BYTES];
        serverd_error err;
        world->random = seed;
        world->max_ends = 2;
        add_batch(world, 'a', N_LINES, id);
        for (unsigned i = 0; i < 4 * seed; i++)
            step(world);
        struct batch_row row = get(world, id);
        must(batches_cancel(world->batches, &row, &err), &err);
        batch_row_release(&row);
        if (seed % 2 == 0)
            reopen_world(world); /* it goes on cancelling */
        run_to_end(world, id);
        row = get(world, id);
        assert_true(row.status == BATCH_CANCELLED || row.status == BATCH_COMPLETED);
        assert_true(row.cancelling_at > 0 || row.status == BATCH_COMPLETED);
        assert_true((row.output_file_id != NULL) == (row.n_completed > 0));
        batch_row_release(&row);
        check_output(world, id, &e);
    }
}

static void an_expired_batch_says_what_it_could_not_do(void **state)
{
    struct world *world = *state;
    for (unsigned seed = 0; seed < 30; seed += 3) {
        struct expectation e = {.letter = 'a', .n = N_LINES, .is_whole = true};
        char id[STORE_ID_BYTES];
        world->random = seed;
        world->max_ends = 2;
        world->wall = NOW;
        add_batch(world, 'a', N_LINES, id);
        for (unsigned i = 0; i < 2 + 2 * seed; i++)
            step(world);
        struct batch_row row = get(world, id);
        assert_true(row.n_total == N_LINES);
        batch_row_release(&row);
        world->wall = NOW + 86400;
        step(world);
        if (seed % 2)
            reopen_world(world);
        run_to_end(world, id);
        row = get(world, id);
        assert_int_equal(row.status, BATCH_EXPIRED);
        assert_true(row.expired_at >= row.expires_at);
        batch_row_release(&row);
        check_output(world, id, &e);
        assert_int_equal(e.n_output + e.n_errors + e.n_expired, N_LINES);
    }
}

static void an_input_that_changes_fails_its_batch(void **state)
{
    struct world *world = *state;
    char id[STORE_ID_BYTES], path[256];
    add_batch(world, 'a', 1000, id);
    while (world->n_calls < 20)
        step(world);
    struct batch_row row = get(world, id);
    (void)snprintf(path, sizeof path, "%s/files/%s", world->folder, row.input_file_id);
    batch_row_release(&row);
    assert_int_equal(truncate(path, 3000), 0);
    reopen_world(world);
    run_to_end(world, id);
    row = get(world, id);
    assert_int_equal(row.status, BATCH_FAILED);
    assert_non_null(strstr(row.errors, "internal_error"));
    batch_row_release(&row);
}

/* ---- the process is killed ------------------------------------------------------------------- */

enum { N_KILLED = 4 };

static void live(struct world *world, char ids[][STORE_ID_BYTES], unsigned seed)
{
    open_world(world);
    world->random = seed;
    world->n_busy = 1;
    world->max_ends = 3;
    for (int i = 0; i < N_KILLED; i++)
        run_to_end(world, ids[i]);
    _exit(0);
}

static bool live_and_die(struct world *world, char ids[][STORE_ID_BYTES], unsigned seed)
{
    int status = 0;
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        live(world, ids, seed);
    (void)usleep(seed * 7919u % 150000u);
    (void)kill(child, SIGKILL);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status))
        assert_int_equal(WEXITSTATUS(status), 0);
    else
        assert_int_equal(WTERMSIG(status), SIGKILL);
    return WIFEXITED(status);
}

/* What is committed stays: nothing is lost from one life to the next. */
static void look(struct world *world, char ids[][STORE_ID_BYTES], int64_t *n_done)
{
    for (int i = 0; i < N_KILLED; i++) {
        struct batch_row row = get(world, ids[i]);
        assert_true(row.n_completed + row.n_failed >= n_done[i]);
        n_done[i] = row.n_completed + row.n_failed;
        assert_true(row.status != BATCH_FAILED);
        batch_row_release(&row);
    }
}

static void a_process_that_is_killed_loses_and_doubles_nothing(void **state)
{
    struct world *world = *state;
    char ids[N_KILLED][STORE_ID_BYTES];
    int64_t n_done[N_KILLED] = {0};
    unsigned n_lives = 1, seed = (unsigned)getpid();
    print_message("seed %u\n", seed);
    for (int i = 0; i < N_KILLED; i++)
        add_batch(world, (char)('a' + i), N_LINES * (unsigned)(i + 1), ids[i]);
    close_world(world);
    while (!live_and_die(world, ids, seed++)) {
        n_lives++;
        open_world(world);
        look(world, ids, n_done);
        close_world(world);
    }
    print_message("%u lives\n", n_lives);
    open_world(world);
    for (int i = 0; i < N_KILLED; i++)
        check_completed(world, ids[i], (char)('a' + i), N_LINES * (unsigned)(i + 1));
    uint64_t n, bytes;
    serverd_error err;
    must(store_count_files(world->files->index, &n, &bytes, &err), &err);
    assert_int_equal(n, 3 * N_KILLED); /* input, output, errors */
    assert_int_equal(bytes, atomic_load(&world->files->n_bytes));
}

/* ---- the disk is full ------------------------------------------------------------------------ */

static void limit_files(rlim_t bytes)
{
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void a_full_disk_fails_the_batch_and_nothing_else(void **state)
{
    struct world *world = *state;
    for (rlim_t bytes = 0; bytes < 400 * KIB; bytes += 40 * KIB) {
        char id[STORE_ID_BYTES], next[STORE_ID_BYTES];
        add_batch(world, 'a', 600, id);
        world->max_ends = 2;
        for (int i = 0; i < 10; i++)
            step(world);
        limit_files(bytes);
        for (int i = 0; i < 3000; i++)
            step(world);
        const struct batch_row *now = batches_find(world->batches, id);
        const bool has_failed = now && now->status == BATCH_FAILED; /* the index may not know */
        if (has_failed)
            assert_non_null(strstr(now->errors, "insufficient_storage"));
        limit_files(RLIM_INFINITY);
        for (int i = 0; i < 1000; i++)
            step(world);
        assert_null(batches_find(world->batches, id));
        struct batch_row row = get(world, id);
        if (has_failed || bytes == 0)
            assert_int_equal(row.status, BATCH_FAILED);
        if (row.status == BATCH_FAILED)
            assert_true(row.failed_at > 0 && !row.output_file_id);
        else
            check_completed(world, id, 'a', 600);
        batch_row_release(&row);
        add_batch(world, 'b', 20, next);
        run_to_end(world, next);
        check_completed(world, next, 'b', 20);
    }
}

int main(void)
{
    (void)signal(SIGXFSZ, SIG_IGN);
#define IN_A_WORLD(test) cmocka_unit_test_setup_teardown(test, start, stop)
    const struct CMUnitTest tests[] = {
        IN_A_WORLD(each_line_is_answered_once),
        IN_A_WORLD(a_line_that_is_told_to_come_again_does),
        IN_A_WORLD(a_runner_that_is_closed_is_left_alone),
        IN_A_WORLD(batches_take_turns),
        IN_A_WORLD(more_batches_than_take_turns_wait),
        IN_A_WORLD(a_cancelled_batch_keeps_what_it_has),
        IN_A_WORLD(an_expired_batch_says_what_it_could_not_do),
        IN_A_WORLD(an_input_that_changes_fails_its_batch),
        IN_A_WORLD(a_process_that_is_killed_loses_and_doubles_nothing),
        IN_A_WORLD(a_full_disk_fails_the_batch_and_nothing_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
