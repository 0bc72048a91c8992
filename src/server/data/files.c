/* /v1/files, as OpenAI has it. */
#include "server/data/data_thread.h"
#include "server/data/store_query.h"
#include "server/data/upload.h"
#include "server/endpoints.h"
#include "server/server_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is asked of the data thread, and then its answer. */
struct file_job {
    struct exchange *exchange;
    uint64_t tenant;
    struct store_query query; /* of a list */
    char id[STORE_ID_BYTES];
    struct new_content content; /* of an upload */
    struct file_row row;
    struct buffer reply;
    struct file file; /* the reply, if fd is not -1 */
};

static void destroy(void *state)
{
    struct file_job *job = state;
    if (!job)
        return;
    new_content_discard(&job->content);
    file_row_release(&job->row);
    buffer_deinit(&job->reply);
    file_close(&job->file);
    free(job);
}

static void on_end(void *state, struct buffer *out)
{
    struct file_job *job = state;
    if (job->file.fd >= 0) {
        exchange_attach_file(job->exchange, "application/octet-stream", &job->file);
        return;
    }
    buffer_append(out, buffer_str(&job->reply), job->reply.len);
    if (job->reply.is_failed)
        out->is_failed = true;
}

static const struct reply_encoder encoder = {.on_end = on_end, .destroy = destroy};

static struct file_job *create(struct exchange *x)
{
    struct file_job *job = calloc(1, sizeof *job);
    struct api_error e;
    if (!job) {
        (void)api_error_no_memory(&e);
        exchange_fail(x, &e);
        return NULL;
    }
    job->exchange = x;
    job->tenant = x->tenant;
    job->content.file.fd = job->file.fd = -1;
    buffer_init(&job->reply, 64 * MIB);
    return job;
}

static void write_file(struct buffer *out, const struct file_row *row)
{
    buffer_printf(out, "{\"id\":\"%s\",\"object\":\"file\",\"bytes\":%llu,\"created_at\":%lld,",
                  row->id, (unsigned long long)row->bytes, (long long)row->created_at);
    if (row->expires_at > 0)
        buffer_printf(out, "\"expires_at\":%lld,", (long long)row->expires_at);
    else
        buffer_append_str(out, "\"expires_at\":null,");
    buffer_append_str(out, "\"filename\":");
    buffer_append_json_string(out, row->filename, strlen(row->filename));
    buffer_printf(out, ",\"purpose\":\"%s\",\"status\":\"processed\",\"status_details\":null}",
                  row->purpose);
}

/* ---- POST /v1/files ----------------------------------------------------------------------------
 */

static bool keep_upload(void *state, struct data_thread *data, struct api_error *e)
{
    struct file_job *job = state;
    struct file_store *files = data_thread_files(data);
    const int64_t now = clock_wall_seconds(data_thread_clock(data));
    serverd_error err;
    job->row.tenant = job->tenant;
    job->row.created_at = now;
    if (job->row.expires_at > 0)
        job->row.expires_at += now;
    serverd_status status = file_store_keep(files, &job->content, &job->row, &err);
    if (status == SERVERD_OK && (status = file_store_add(files, &job->row, &err)) != SERVERD_OK)
        file_store_drop(files, &job->row);
    if (status != SERVERD_OK) {
        data_thread_error(data, &err, e);
        return false;
    }
    write_file(&job->reply, &job->row);
    return true;
}

void endpoint_files_create(struct exchange *x)
{
    struct api_error e;
    struct file_job *job = create(x);
    if (!job)
        return;
    if (upload_finish(x->upload, &job->content, &job->row, &e)) {
        exchange_run_with_data(x, keep_upload, &encoder, job);
        return;
    }
    destroy(job);
    exchange_fail(x, &e);
}

/* ---- GET /v1/files -----------------------------------------------------------------------------
 */

static void take_file(void *context, const struct file_row *row)
{
    struct file_job *job = context;
    store_query_begin_item(&job->query, row->id, &job->reply);
    write_file(&job->reply, row);
}

static bool list_files(void *state, struct data_thread *data, struct api_error *e)
{
    struct file_job *job = state;
    const struct store_page page = store_query_page(&job->query, job->tenant);
    bool has_more;
    serverd_error err;
    store_query_begin_list(&job->query, &job->reply);
    if (store_list_files(data_thread_files(data)->index, &page, take_file, job, &has_more, &err)) {
        data_thread_error(data, &err, e);
        return false;
    }
    store_query_end_list(&job->query, has_more, &job->reply);
    return true;
}

void endpoint_files_list(struct exchange *x)
{
    struct api_error e;
    struct file_job *job = create(x);
    if (!job)
        return;
    if (store_query_read(x, LIMIT_FILES_LISTED, LIMIT_FILES_LISTED, &job->query, &e)) {
        exchange_run_with_data(x, list_files, &encoder, job);
        return;
    }
    destroy(job);
    exchange_fail(x, &e);
}

/* ---- one file ----------------------------------------------------------------------------------
 */

static bool find(struct file_job *job, struct data_thread *data, struct api_error *e)
{
    bool is_found = false;
    serverd_error err;
    if (store_get_file(data_thread_files(data)->index, job->id, job->tenant, &job->row, &is_found,
                       &err))
        data_thread_error(data, &err, e);
    else if (!is_found || (job->row.expires_at > 0 &&
                           job->row.expires_at <= clock_wall_seconds(data_thread_clock(data))))
        api_error_set(e, "not_found", "id", "There is no file with the id %s.", job->id);
    else
        return true;
    return false;
}

static bool get_file(void *state, struct data_thread *data, struct api_error *e)
{
    struct file_job *job = state;
    if (!find(job, data, e))
        return false;
    write_file(&job->reply, &job->row);
    return true;
}

static bool get_content(void *state, struct data_thread *data, struct api_error *e)
{
    struct file_job *job = state;
    serverd_error err;
    if (!find(job, data, e))
        return false;
    if (file_store_read(data_thread_files(data), job->id, &job->file, &err) == SERVERD_OK)
        return true;
    data_thread_error(data, &err, e);
    return false;
}

static bool delete_file(void *state, struct data_thread *data, struct api_error *e)
{
    struct file_job *job = state;
    struct file_store *files = data_thread_files(data);
    serverd_error err;
    if (!find(job, data, e))
        return false;
    if (file_store_delete(files, job->id, &err) ||
        file_store_sweep(files, clock_wall_seconds(data_thread_clock(data)), &err)) {
        data_thread_error(data, &err, e);
        return false;
    }
    buffer_printf(&job->reply, "{\"id\":\"%s\",\"object\":\"file\",\"deleted\":true}", job->id);
    return true;
}

static void with_file(struct exchange *x,
                      bool (*run)(void *state, struct data_thread *data, struct api_error *e),
                      const char *id, size_t n)
{
    struct api_error e;
    struct file_job *job = create(x);
    if (!job)
        return;
    if (store_query_id(id, n, job->id)) {
        exchange_run_with_data(x, run, &encoder, job);
        return;
    }
    destroy(job);
    api_error_set(&e, "not_found", "id", "There is no file with this id.");
    exchange_fail(x, &e);
}

/* /v1/files/{id} and /v1/files/{id}/content */
void endpoint_files_get(struct exchange *x)
{
    const char *rest = exchange_path_rest(x);
    const size_t n = strcspn(rest, "/");
    const bool wants_content = strcmp(rest + n, "/content") == 0;
    with_file(x, wants_content ? get_content : get_file, rest, wants_content ? n : strlen(rest));
}

void endpoint_files_delete(struct exchange *x)
{
    const char *rest = exchange_path_rest(x);
    with_file(x, delete_file, rest, strlen(rest));
}
