/* /v1/batches, as OpenAI has it. */
#include "base/numeric.h"
#include "server/data/batch_run.h"
#include "server/data/data_thread.h"
#include "server/data/store_query.h"
#include "server/endpoints.h"
#include "server/request/json_body.h"
#include "server/server_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LEAST_WINDOW 60
#define MOST_WINDOW  2592000
#define PRESET_ITEMS 20u

static const char *const endpoints[] = {"/v1/chat/completions", "/v1/completions", "/v1/embeddings",
                                        "/v1/responses"};

static const char *const status_names[] = {
    [BATCH_VALIDATING] = "validating", [BATCH_IN_PROGRESS] = "in_progress",
    [BATCH_FINALIZING] = "finalizing", [BATCH_CANCELLING] = "cancelling",
    [BATCH_COMPLETED] = "completed",   [BATCH_FAILED] = "failed",
    [BATCH_EXPIRED] = "expired",       [BATCH_CANCELLED] = "cancelled",
};

/* What is asked of the data thread, and then its answer. */
struct batch_job {
    uint64_t tenant;
    struct store_query query; /* of a list */
    char id[STORE_ID_BYTES];
    struct batch_row row;
    int64_t window; /* seconds */
    struct data_thread *data;
    struct buffer reply;
};

static void destroy(void *state)
{
    struct batch_job *job = state;
    if (!job)
        return;
    batch_row_release(&job->row);
    buffer_deinit(&job->reply);
    free(job);
}

static void on_end(void *state, struct buffer *out)
{
    struct batch_job *job = state;
    buffer_append(out, buffer_str(&job->reply), job->reply.len);
    out->is_failed |= job->reply.is_failed;
}

static const struct reply_encoder encoder = {.on_end = on_end, .destroy = destroy};

static struct batch_job *create(struct exchange *x)
{
    struct batch_job *job = calloc(1, sizeof *job);
    struct api_error e;
    if (!job) {
        (void)api_error_no_memory(&e);
        exchange_fail(x, &e);
        return NULL;
    }
    job->tenant = x->tenant;
    buffer_init(&job->reply, 64 * MIB);
    return job;
}

static void refuse(struct exchange *x, struct batch_job *job, const struct api_error *e)
{
    destroy(job);
    exchange_fail(x, e);
}

/* ---- the object --------------------------------------------------------------------------------
 */

static void write_text(struct buffer *out, const char *name, const char *text)
{
    buffer_printf(out, ",\"%s\":", name);
    if (text)
        buffer_append_json_string(out, text, strlen(text));
    else
        buffer_append_str(out, "null");
}

static void write_time(struct buffer *out, const char *name, int64_t time)
{
    if (time > 0)
        buffer_printf(out, ",\"%s\":%lld", name, (long long)time);
    else
        buffer_printf(out, ",\"%s\":null", name);
}

static void write_usage(struct buffer *out, const struct batch_row *row)
{
    buffer_printf(out,
                  ",\"usage\":{\"input_tokens\":%lld,\"input_tokens_details\":{\"cached_tokens\":"
                  "%lld},\"output_tokens\":%lld,\"output_tokens_details\":{\"reasoning_tokens\":"
                  "%lld},\"total_tokens\":%lld}",
                  (long long)row->input_tokens, (long long)row->cached_tokens,
                  (long long)row->output_tokens, (long long)row->reasoning_tokens,
                  (long long)(row->input_tokens + row->output_tokens));
}

static void write_batch(struct buffer *out, const struct batch_row *row)
{
    buffer_printf(out, "{\"id\":\"%s\",\"object\":\"batch\",\"endpoint\":\"%s\"", row->id,
                  row->endpoint);
    write_text(out, "model", row->model);
    if (row->errors)
        buffer_printf(out, ",\"errors\":{\"object\":\"list\",\"data\":%s}", row->errors);
    else
        buffer_append_str(out, ",\"errors\":null");
    write_text(out, "input_file_id", row->input_file_id);
    write_text(out, "completion_window", row->completion_window);
    write_text(out, "status", status_names[row->status & 7]);
    write_text(out, "output_file_id", row->output_file_id);
    write_text(out, "error_file_id", row->error_file_id);
    write_time(out, "created_at", row->created_at);
    write_time(out, "in_progress_at", row->in_progress_at);
    write_time(out, "expires_at", row->expires_at);
    write_time(out, "finalizing_at", row->finalizing_at);
    write_time(out, "completed_at", row->completed_at);
    write_time(out, "failed_at", row->failed_at);
    write_time(out, "expired_at", row->expired_at);
    write_time(out, "cancelling_at", row->cancelling_at);
    write_time(out, "cancelled_at", row->cancelled_at);
    buffer_printf(out, ",\"request_counts\":{\"total\":%lld,\"completed\":%lld,\"failed\":%lld}",
                  (long long)row->n_total, (long long)row->n_completed, (long long)row->n_failed);
    write_usage(out, row);
    buffer_printf(out, ",\"metadata\":%s}", row->metadata ? row->metadata : "null");
}

/* As it is now. */
static void write_present(struct buffer *out, struct data_thread *data, const struct batch_row *row)
{
    const struct batch_row *open = batches_find(data_thread_batches(data), row->id);
    write_batch(out, open ? open : row);
}

/* ---- POST /v1/batches --------------------------------------------------------------------------
 */

/* A copy of a text, in *out. */
static bool read_text(const json_t *root, const char *name, char **out, struct api_error *e)
{
    const json_t *value = json_body_get(root, name);
    const char *text = json_string_value(value);
    if (!value)
        api_error_set(e, "missing_required_parameter", name, "%s is missing.", name);
    else if (!text || strlen(text) != json_string_length(value) || strlen(text) > KIB)
        api_error_set(e, "invalid_type", name, "%s has to be a string.", name);
    else if (!(*out = strdup(text)))
        (void)api_error_no_memory(e);
    return *out != NULL;
}

static bool read_endpoint(const json_t *root, struct batch_row *row, struct api_error *e)
{
    if (!read_text(root, "endpoint", &row->endpoint, e))
        return false;
    for (size_t i = 0; i < sizeof endpoints / sizeof *endpoints; i++)
        if (strcmp(endpoints[i], row->endpoint) == 0)
            return true;
    api_error_set(e, "invalid_value", "endpoint",
                  "endpoint has to be /v1/chat/completions, /v1/completions, /v1/embeddings or "
                  "/v1/responses.");
    return false;
}

/* "24h" and the like: minutes, hours, days. */
static bool read_window(const json_t *root, struct batch_job *job, struct api_error *e)
{
    static const struct {
        char unit;
        int64_t seconds;
    } units[] = {{'m', 60}, {'h', 3600}, {'d', 86400}};
    char digits[8];
    uint64_t n;
    if (!read_text(root, "completion_window", &job->row.completion_window, e))
        return false;
    const char *text = job->row.completion_window;
    const size_t len = strlen(text);
    for (size_t i = 0; len > 1 && len <= sizeof digits && i < 3; i++) {
        (void)snprintf(digits, sizeof digits, "%.*s", (int)(len - 1), text);
        if (text[len - 1] == units[i].unit && parse_u64(digits, 1, 1000000, &n) &&
            (int64_t)n <= MOST_WINDOW / units[i].seconds) {
            job->window = (int64_t)n * units[i].seconds;
            return true;
        }
    }
    api_error_set(e, "invalid_value", "completion_window",
                  "completion_window has to be a time such as 24h, from 1m to 30d.");
    return false;
}

static bool read_metadata(const json_t *root, struct batch_row *row, struct api_error *e)
{
    json_t *metadata = json_body_get(root, "metadata"), *value;
    const char *key;
    if (!metadata)
        return true;
    bool is_good = json_is_object(metadata) && json_object_size(metadata) <= LIMIT_METADATA_PAIRS;
    json_object_foreach(metadata, key, value) is_good =
        is_good && strlen(key) <= LIMIT_METADATA_KEY && json_is_string(value) &&
        json_string_length(value) <= LIMIT_METADATA_VALUE;
    if (!is_good) {
        api_error_set(e, "invalid_value", "metadata",
                      "metadata has to be an object of up to %u strings of up to %u bytes, with "
                      "names of up to %u.",
                      LIMIT_METADATA_PAIRS, LIMIT_METADATA_VALUE, LIMIT_METADATA_KEY);
        return false;
    }
    row->metadata = json_dumps(metadata, JSON_COMPACT);
    if (!row->metadata)
        (void)api_error_no_memory(e);
    return row->metadata != NULL;
}

static bool read_output_age(const json_t *root, struct batch_row *row, struct api_error *e)
{
    const json_t *age = json_body_get(root, "output_expires_after");
    const char *anchor = json_string_value(json_object_get(age, "anchor"));
    row->output_lives = LIMIT_FILE_AGE;
    if (!age)
        return true;
    if (anchor && strcmp(anchor, "created_at") == 0 &&
        json_body_integer(json_object_get(age, "seconds"), &row->output_lives) &&
        row->output_lives >= LIMIT_LEAST_FILE_AGE && row->output_lives <= LIMIT_FILE_AGE)
        return true;
    api_error_set(e, "invalid_value", "output_expires_after",
                  "output_expires_after has to be an object with anchor, which is created_at, and "
                  "seconds, from %u to %u.",
                  LIMIT_LEAST_FILE_AGE, LIMIT_FILE_AGE);
    return false;
}

static bool read_request(struct exchange *x, struct batch_job *job, struct api_error *e)
{
    size_t n;
    json_t *root;
    const char *body = exchange_body(x, &n);
    if (!json_body_parse(body, n, &root, e))
        return false;
    const bool is_good = read_text(root, "input_file_id", &job->row.input_file_id, e) &&
                         read_endpoint(root, &job->row, e) && read_window(root, job, e) &&
                         read_metadata(root, &job->row, e) && read_output_age(root, &job->row, e);
    json_decref(root);
    return is_good;
}

/* Its input is a file of the same key, for batches. */
static bool check_input(struct batch_job *job, struct data_thread *data, struct api_error *e)
{
    struct file_row file;
    bool is_found = false;
    serverd_error err;
    if (store_get_file(data_thread_files(data)->index, job->row.input_file_id, job->tenant, &file,
                       &is_found, &err)) {
        data_thread_error(data, &err, e);
        return false;
    }
    if (!is_found) {
        api_error_set(e, "invalid_value", "input_file_id", "There is no file with this id.");
        return false;
    }
    const bool is_batch = strcmp(file.purpose, "batch") == 0;
    file_row_release(&file);
    if (!is_batch)
        api_error_set(e, "invalid_value", "input_file_id", "The file's purpose has to be batch.");
    return is_batch;
}

static bool check_room(struct batch_job *job, struct data_thread *data, struct api_error *e)
{
    uint64_t n, n_own;
    serverd_error err;
    if (store_count_open_batches(data_thread_files(data)->index, job->tenant, &n, &n_own, &err)) {
        data_thread_error(data, &err, e);
        return false;
    }
    if (n < LIMIT_OPEN_BATCHES && n_own < LIMIT_OPEN_BATCHES_KEY)
        return true;
    api_error_set(e, "rate_limit_exceeded", NULL,
                  "Too many batches have not ended yet. Please try again in 60s.");
    e->retry_after_ms = 60000;
    return false;
}

static bool add_batch(void *state, struct data_thread *data, struct api_error *e)
{
    struct batch_job *job = state;
    serverd_error err;
    if (!check_input(job, data, e) || !check_room(job, data, e))
        return false;
    job->row.tenant = job->tenant;
    job->row.created_at = clock_wall_seconds(data_thread_clock(data));
    job->row.expires_at = job->row.created_at + job->window;
    if (store_make_id("batch_", job->row.id, &err) ||
        batches_add(data_thread_batches(data), &job->row, &err)) {
        data_thread_error(data, &err, e);
        return false;
    }
    write_batch(&job->reply, &job->row);
    return true;
}

void endpoint_batches_create(struct exchange *x)
{
    struct api_error e;
    struct batch_job *job = create(x);
    if (!job)
        return;
    if (read_request(x, job, &e))
        exchange_run_with_data(x, add_batch, &encoder, job);
    else
        refuse(x, job, &e);
}

/* ---- GET /v1/batches ---------------------------------------------------------------------------
 */

static void take_batch(void *context, const struct batch_row *row)
{
    struct batch_job *job = context;
    store_query_begin_item(&job->query, row->id, &job->reply);
    write_present(&job->reply, job->data, row);
}

static bool list_batches(void *state, struct data_thread *data, struct api_error *e)
{
    struct batch_job *job = state;
    const struct store_page page = store_query_page(&job->query, job->tenant);
    bool has_more;
    serverd_error err;
    job->data = data;
    store_query_begin_list(&job->query, &job->reply);
    if (store_list_batches(data_thread_files(data)->index, &page, take_batch, job, &has_more,
                           &err)) {
        data_thread_error(data, &err, e);
        return false;
    }
    store_query_end_list(&job->query, has_more, &job->reply);
    return true;
}

void endpoint_batches_list(struct exchange *x)
{
    struct api_error e;
    struct batch_job *job = create(x);
    if (!job)
        return;
    if (store_query_read(x, PRESET_ITEMS, LIMIT_BATCHES_LISTED, &job->query, &e))
        exchange_run_with_data(x, list_batches, &encoder, job);
    else
        refuse(x, job, &e);
}

/* ---- one batch ---------------------------------------------------------------------------------
 */

static bool find(struct batch_job *job, struct data_thread *data, struct api_error *e)
{
    bool is_found = false;
    serverd_error err;
    if (store_get_batch(data_thread_files(data)->index, job->id, job->tenant, &job->row, &is_found,
                        &err))
        data_thread_error(data, &err, e);
    else if (!is_found)
        api_error_set(e, "not_found", "id", "There is no batch with the id %s.", job->id);
    return is_found;
}

static bool get_batch(void *state, struct data_thread *data, struct api_error *e)
{
    struct batch_job *job = state;
    if (!find(job, data, e))
        return false;
    write_present(&job->reply, data, &job->row);
    return true;
}

static bool cancel_batch(void *state, struct data_thread *data, struct api_error *e)
{
    struct batch_job *job = state;
    serverd_error err;
    if (!find(job, data, e))
        return false;
    if (job->row.status >= BATCH_COMPLETED) {
        api_error_set(e, "invalid_value", NULL, "The batch has ended: it is %s.",
                      status_names[job->row.status & 7]);
        return false;
    }
    if (batches_cancel(data_thread_batches(data), &job->row, &err)) {
        data_thread_error(data, &err, e);
        return false;
    }
    write_present(&job->reply, data, &job->row);
    return true;
}

static void with_batch(struct exchange *x,
                       bool (*run)(void *state, struct data_thread *data, struct api_error *e),
                       const char *id, size_t n)
{
    struct api_error e;
    struct batch_job *job = create(x);
    if (!job)
        return;
    if (store_query_id(id, n, job->id)) {
        exchange_run_with_data(x, run, &encoder, job);
        return;
    }
    api_error_set(&e, "not_found", "id", "There is no batch with this id.");
    refuse(x, job, &e);
}

void endpoint_batches_get(struct exchange *x)
{
    const char *rest = exchange_path_rest(x);
    with_batch(x, get_batch, rest, strlen(rest));
}

/* /v1/batches/{id}/cancel */
void endpoint_batches_cancel(struct exchange *x)
{
    const char *rest = exchange_path_rest(x);
    const size_t n = strcspn(rest, "/");
    with_batch(x, cancel_batch, rest, strcmp(rest + n, "/cancel") == 0 ? n : 0);
}
