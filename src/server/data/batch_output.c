/* What a batch leaves: results in one file, errors in another, in the order of lines. */
#include "base/error.h"
#include "base/numeric.h"
#include "server/data/batch_run_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- lines -------------------------------------------------------------------------------------
 */

static void begin_line(struct buffer *out, const struct active_batch *batch, uint32_t index,
                       const char *custom_id)
{
    buffer_printf(out,
                  "{\"id\":\"batch_req_%s%06x\",\"custom_id\":", batch->row.id + strlen("batch_"),
                  index);
    buffer_append_json_string(out, custom_id, strlen(custom_id));
}

void batch_write_result(struct buffer *out, const struct batch_slot *slot)
{
    begin_line(out, slot->batch, slot->place.index, slot->custom_id);
    buffer_printf(out,
                  ",\"response\":{\"status_code\":%d,\"request_id\":\"%s\",\"body\":", slot->status,
                  slot->request_id);
    const size_t from = out->len;
    if (slot->n > 0)
        buffer_append(out, slot->bytes, slot->n);
    else
        buffer_append_str(out, "null");
    for (size_t i = from; i < out->len; i++) /* one line it has to be; in JSON it is white space */
        if (out->data[i] == '\n' || out->data[i] == '\r')
            out->data[i] = ' ';
    buffer_append_str(out, "},\"error\":null}");
}

static void write_expired(struct buffer *out, const struct active_batch *batch, uint32_t index,
                          const char *custom_id)
{
    begin_line(out, batch, index, custom_id);
    buffer_append_str(out, ",\"response\":null,\"error\":{\"code\":\"batch_expired\",\"message\":"
                           "\"The batch's completion window was over before this request had "
                           "run.\"}}\n");
}

/* ---- files -------------------------------------------------------------------------------------
 */

void batch_outputs_discard(struct active_batch *batch)
{
    for (size_t i = 0; i < 2; i++) {
        new_content_discard(&batch->outputs[i].content);
        file_row_release(&batch->outputs[i].row);
        buffer_deinit(&batch->outputs[i].text);
        buffer_init(&batch->outputs[i].text, SIZE_MAX / 2);
        batch->outputs[i].has_lines = false;
    }
}

static serverd_status flush(struct batches *batches, struct active_batch *batch, serverd_error *err)
{
    for (size_t i = 0; i < 2; i++) {
        struct batch_output *output = &batch->outputs[i];
        if (output->text.is_failed)
            return fail(err, SERVERD_NOMEM, "a batch's output: no memory");
        if (output->text.len == 0)
            continue;
        if (!output->has_lines &&
            new_content_create(batches->setup.files, &output->content, err) != SERVERD_OK)
            return err->code;
        output->has_lines = true;
        if (new_content_append(&output->content, output->text.data, output->text.len, err))
            return err->code;
        buffer_reset(&output->text);
    }
    return SERVERD_OK;
}

static void take_result(void *context, const struct store_result *result)
{
    struct active_batch *batch = context;
    struct buffer *text = &batch->outputs[result->is_error].text;
    buffer_append(text, result->text, result->n);
    buffer_append_char(text, '\n');
}

static serverd_status write_results(struct batches *batches, struct active_batch *batch,
                                    serverd_error *err)
{
    serverd_status status =
        store_read_results(batches->index, batch->row.number, batch->next_result, SLICE_LINES,
                           take_result, batch, &batch->next_result, err);
    return status == SERVERD_OK ? flush(batches, batch, err) : status;
}

/* Of an expired batch: the lines that have no result. */
static serverd_status write_missing(struct batches *batches, struct active_batch *batch,
                                    serverd_error *err)
{
    if (!batch->is_second_pass) {
        batch->is_second_pass = true;
        batch->is_read = false;
        batch->next_index = 0;
        line_reader_rewind(&batch->reader);
    }
    for (uint32_t i = 0; i < SLICE_LINES; i++) {
        struct batch_line line;
        struct batch_item item = {0};
        struct batch_fault fault;
        if (batch->next_index == batch->row.n_total)
            batch->is_read = true;
        else if (line_reader_next(&batch->reader, &line, &batch->is_read, err))
            return err->code;
        if (batch->is_read)
            break;
        const uint32_t index = batch->next_index++;
        if (batch_is_done(batch, index) ||
            !batch_item_read(line.text, line.n, batch->row.endpoint, &item, &fault))
            continue;
        write_expired(&batch->outputs[1].text, batch, index, item.custom_id);
        batch_item_release(&item);
    }
    return flush(batches, batch, err);
}

/* ---- the end -----------------------------------------------------------------------------------
 */

static serverd_status keep_output(struct batches *batches, struct active_batch *batch, size_t i,
                                  serverd_error *err)
{
    static const char *const endings[] = {"output", "error"};
    struct batch_output *output = &batch->outputs[i];
    const int64_t now = batches_now(batches), lives = batch->row.output_lives;
    char name[STORE_ID_BYTES + 16];
    char **id = i == 0 ? &batch->row.output_file_id : &batch->row.error_file_id;
    (void)snprintf(name, sizeof name, "%s_%s.jsonl", batch->row.id, endings[i]);
    output->row = (struct file_row){.tenant = batch->row.tenant,
                                    .purpose = "batch_output",
                                    .filename = strdup(name),
                                    .created_at = now,
                                    .expires_at = lives > 0 ? now + lives : 0};
    if (!output->row.filename)
        return fail(err, SERVERD_NOMEM, "a batch's output: no memory");
    if (file_store_keep(batches->setup.files, &output->content, &output->row, err))
        return err->code;
    free(*id);
    *id = strdup(output->row.id);
    return *id ? SERVERD_OK : fail(err, SERVERD_NOMEM, "a batch's output: no memory");
}

static serverd_status save_end(struct batches *batches, struct active_batch *batch,
                               serverd_error *err)
{
    struct store_index *index = batches->index;
    serverd_status status = store_index_begin(index, err);
    for (size_t i = 0; i < 2 && status == SERVERD_OK; i++)
        if (batch->outputs[i].has_lines)
            status = store_add_file(index, &batch->outputs[i].row, err);
    if (status == SERVERD_OK)
        status = store_update_batch(index, &batch->row, err);
    return status == SERVERD_OK ? store_index_commit(index, err) : status;
}

static void set_end(struct batches *batches, struct active_batch *batch)
{
    const int64_t now = batches_now(batches);
    int64_t *const times[] = {[BATCH_COMPLETED] = &batch->row.completed_at,
                              [BATCH_FAILED] = &batch->row.failed_at,
                              [BATCH_EXPIRED] = &batch->row.expired_at,
                              [BATCH_CANCELLED] = &batch->row.cancelled_at};
    batch->row.status = batch->ends_as;
    *times[batch->ends_as] = now;
}

static void drop_kept(struct batches *batches, struct active_batch *batch)
{
    for (size_t i = 0; i < 2; i++)
        if (batch->outputs[i].has_lines && batch->outputs[i].row.id[0])
            file_store_drop(batches->setup.files, &batch->outputs[i].row);
}

/* The files last before the index knows of them, and it knows of them when the batch has ended. */
static void finish(struct batches *batches, struct active_batch *batch)
{
    serverd_error err;
    serverd_status status = SERVERD_OK;
    const int64_t status_before = batch->row.status;
    for (size_t i = 0; i < 2 && status == SERVERD_OK; i++)
        if (batch->outputs[i].has_lines)
            status = keep_output(batches, batch, i, &err);
    if (status == SERVERD_OK) {
        set_end(batches, batch);
        status = save_end(batches, batch, &err);
    }
    if (status == SERVERD_OK) {
        batch->is_saved = true;
        atomic_fetch_add(&batches->setup.files->n_files,
                         batch->outputs[0].has_lines + batch->outputs[1].has_lines);
        log_info(batches->setup.log, "batches", "%s: %lld lines are done, %lld of them failed",
                 batch->row.id, (long long)(batch->row.n_completed + batch->row.n_failed),
                 (long long)batch->row.n_failed);
        return;
    }
    store_index_rollback(batches->index);
    drop_kept(batches, batch);
    batch->row.status = status_before;
    batch_fail_with(batches, batch, &err);
}

void batch_write_output(struct batches *batches, struct active_batch *batch)
{
    serverd_error err;
    serverd_status status = SERVERD_OK;
    if (batch->next_result != UINT32_MAX)
        status = write_results(batches, batch, &err);
    else if (batch->ends_as == BATCH_EXPIRED && batch->row.n_total > 0 &&
             (!batch->is_second_pass || !batch->is_read))
        status = write_missing(batches, batch, &err);
    else
        finish(batches, batch);
    if (status != SERVERD_OK)
        batch_fail_with(batches, batch, &err);
}
