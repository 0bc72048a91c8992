#include "server/data/batch_run.h"

#include "base/error.h"
#include "base/numeric.h"
#include "server/data/batch_run_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MS_NS         UINT64_C(1000000)
#define SAVE_AGAIN_MS 5000u
#define BUSY_MS       1000u  /* with open batches something may be due of its own accord */
#define IDLE_MS       10000u /* without */

int64_t batches_now(const struct batches *batches)
{
    return clock_wall_seconds(batches->setup.clock);
}

static uint64_t now_ns(const struct batches *batches)
{
    return clock_now_ns(batches->setup.clock);
}

bool batch_is_done(const struct active_batch *batch, uint32_t index)
{
    return batch->done && (batch->done[index / 8] >> (index % 8) & 1);
}

void batch_set_done(struct active_batch *batch, uint32_t index)
{
    batch->done[index / 8] |= (uint8_t)(1u << (index % 8));
    batch->n_done++;
}

/* ---- changes of state --------------------------------------------------------------------------
 */

static void cancel_lines(struct batches *batches, const struct active_batch *batch)
{
    for (uint32_t i = 0; i < batches->setup.max_running; i++)
        if (batches->slots[i].batch == batch)
            batches->setup.runner.cancel(batches->setup.runner.context, batches->slots[i].number);
}

void batch_save(struct batches *batches, struct active_batch *batch)
{
    serverd_error err;
    if (store_update_batch(batches->index, &batch->row, &err))
        batch_fail_with(batches, batch, &err);
}

void batch_begin_end(struct batches *batches, struct active_batch *batch, enum batch_status as)
{
    const int64_t now = batches_now(batches);
    batch->ends_as = as;
    if (as == BATCH_CANCELLED) {
        batch->row.status = BATCH_CANCELLING;
        batch->row.cancelling_at = now;
    } else {
        batch->row.status = BATCH_FINALIZING;
        batch->row.finalizing_at = now;
    }
    batch->next_result = 0;
    cancel_lines(batches, batch);
    batch_save(batches, batch);
}

/* What the index does not take now, for want of room, it will take later. */
static void save_failure(struct batches *batches, struct active_batch *batch)
{
    serverd_error err;
    batch->is_saved = store_update_batch(batches->index, &batch->row, &err) == SERVERD_OK;
    batch->save_again_ns = now_ns(batches) + SAVE_AGAIN_MS * MS_NS;
}

void batch_fail(struct batches *batches, struct active_batch *batch, struct buffer *errors)
{
    struct buffer list;
    size_t n;
    if (batch->row.status == BATCH_FAILED) {
        buffer_deinit(errors);
        return;
    }
    buffer_init(&list, SIZE_MAX / 2);
    buffer_printf(&list, "[%s]", buffer_str(errors));
    buffer_deinit(errors);
    free(batch->row.errors);
    batch->row.errors = buffer_take(&list, &n);
    free(batch->row.output_file_id);
    free(batch->row.error_file_id);
    batch->row.output_file_id = batch->row.error_file_id = NULL;
    batch->row.status = BATCH_FAILED;
    batch->row.failed_at = batches_now(batches);
    cancel_lines(batches, batch);
    batch_outputs_discard(batch);
    save_failure(batches, batch);
}

void batch_fail_with(struct batches *batches, struct active_batch *batch, const serverd_error *err)
{
    const bool is_full = err->code == SERVERD_NOMEM || err->code == SERVERD_BUSY;
    struct batch_fault fault = {.code = is_full ? "insufficient_storage" : "internal_error"};
    struct buffer errors;
    (void)snprintf(fault.message, sizeof fault.message, "%s",
                   is_full ? "The server has no room for the results."
                           : "The server made an error; its log says more.");
    log_error(batches->setup.log, "batches", "%s fails: %s", batch->row.id, err->text);
    buffer_init(&errors, 4 * KIB);
    batch_write_error(&errors, &fault, 0);
    batch_fail(batches, batch, &errors);
}

/* ---- the list of open batches ------------------------------------------------------------------
 */

static void destroy(struct active_batch *batch)
{
    batch_outputs_discard(batch);
    for (size_t i = 0; i < 2; i++)
        buffer_deinit(&batch->outputs[i].text);
    line_reader_deinit(&batch->reader);
    batch_row_release(&batch->row);
    buffer_deinit(&batch->errors);
    free(batch->keys);
    free(batch->done);
    free(batch->again);
    free(batch);
}

static serverd_status open_input(struct batches *batches, struct active_batch *batch,
                                 serverd_error *err)
{
    const char *id = batch->row.input_file_id;
    struct file_row row;
    struct file file = {.fd = -1};
    bool is_found = false;
    serverd_status status = store_find_file(batches->index, id, &row, &is_found, err);
    if (status != SERVERD_OK)
        return status;
    if (!is_found)
        return fail(err, SERVERD_INVALID, "%s: its input %s is gone", batch->row.id, id);
    file_row_release(&row);
    if ((status = file_store_read(batches->setup.files, id, &file, err)) == SERVERD_OK)
        status = line_reader_init(&batch->reader, &file, batches->setup.max_line, err);
    file_close(&file);
    return status;
}

static void note_result(void *context, const struct store_result *result)
{
    struct active_batch *batch = context;
    if (result->line >= batch->row.n_total || batch_is_done(batch, result->line))
        return;
    batch_set_done(batch, result->line);
    batch->row.n_completed += !result->is_error;
    batch->row.n_failed += result->is_error;
}

/* What a batch that had begun has got so far. */
static serverd_status resume(struct batches *batches, struct active_batch *batch,
                             serverd_error *err)
{
    if (batch->row.n_total < 0 || batch->row.n_total > LIMIT_BATCH_LINES)
        return fail(err, SERVERD_CORRUPT, "%s: the index is damaged", batch->row.id);
    batch->done = calloc((size_t)batch->row.n_total / 8 + 1, 1);
    if (!batch->done)
        return fail(err, SERVERD_NOMEM, "a batch: no memory");
    batch->row.n_completed = batch->row.n_failed = 0;
    for (uint32_t next = 0; next != UINT32_MAX;)
        if (store_read_results(batches->index, batch->row.number, next, SLICE_LINES, note_result,
                               batch, &next, err))
            return err->code;
    batch->ends_as = batch->row.status == BATCH_CANCELLING ? BATCH_CANCELLED
                     : batch->n_done == batch->row.n_total ? BATCH_COMPLETED
                                                           : BATCH_EXPIRED;
    return SERVERD_OK;
}

/* Takes the row over. */
static serverd_status activate(struct batches *batches, struct batch_row *row, serverd_error *err)
{
    struct active_batch *batch = calloc(1, sizeof *batch), **at = &batches->active;
    struct line_place *again = calloc(batches->setup.max_running, sizeof *again);
    if (!batch || !again) {
        free(batch);
        free(again);
        batch_row_release(row);
        return fail(err, SERVERD_NOMEM, "a batch: no memory");
    }
    batch->row = *row;
    batch->again = again;
    batch->reader.file.fd = -1;
    buffer_init(&batch->errors, MIB);
    for (size_t i = 0; i < 2; i++) {
        batch->outputs[i].content.file.fd = -1;
        buffer_init(&batch->outputs[i].text, SIZE_MAX / 2);
    }
    while (*at)
        at = &(*at)->next;
    *at = batch;
    batches->n_active++;
    batches->last_number = batch->row.number;
    serverd_status status = open_input(batches, batch, err);
    if (status == SERVERD_OK && batch->row.status != BATCH_VALIDATING)
        status = resume(batches, batch, err);
    if (status != SERVERD_OK)
        batch_fail_with(batches, batch, err);
    return SERVERD_OK;
}

static void load_open(struct batches *batches)
{
    while (batches->may_have_more && batches->n_active < LIMIT_ACTIVE_BATCHES) {
        struct batch_row row;
        bool is_found = false;
        serverd_error err;
        if (store_next_open_batch(batches->index, batches->last_number, &row, &is_found, &err) ||
            (is_found && activate(batches, &row, &err))) {
            log_error(batches->setup.log, "batches", "%s", err.text);
            return; /* later again */
        }
        batches->may_have_more = is_found;
    }
}

static void drop_ended(struct batches *batches)
{
    for (struct active_batch **at = &batches->active; *at;) {
        struct active_batch *batch = *at;
        if (batch->row.status < BATCH_COMPLETED || batch->n_running > 0 || !batch->is_tidy) {
            at = &batch->next;
            continue;
        }
        *at = batch->next;
        if (batches->turn == batch)
            batches->turn = batch->next;
        batches->n_active--;
        destroy(batch);
    }
}

static struct active_batch *find_active(const struct batches *batches, const char *id)
{
    struct active_batch *batch = batches->active;
    while (batch && strcmp(batch->row.id, id) != 0)
        batch = batch->next;
    return batch;
}

/* ---- in between --------------------------------------------------------------------------------
 */

/* Of a batch that has ended: what it leaves in the index goes piece by piece. */
static bool tidy_up(struct batches *batches, struct active_batch *batch)
{
    serverd_error err;
    if (now_ns(batches) < batch->save_again_ns)
        return false;
    if (!batch->is_saved)
        save_failure(batches, batch);
    else if (store_remove_results(batches->index, batch->row.number, SLICE_LINES, &batch->is_tidy,
                                  &err))
        batch->save_again_ns = now_ns(batches) + SAVE_AGAIN_MS * MS_NS;
    return batch->is_saved && !batch->is_tidy;
}

/* True: it wants its next turn at once. */
static bool advance(struct batches *batches, struct active_batch *batch)
{
    const bool is_over = batches_now(batches) >= batch->row.expires_at;
    switch ((enum batch_status)batch->row.status) {
    case BATCH_VALIDATING:
        if (is_over)
            batch_begin_end(batches, batch, BATCH_EXPIRED);
        else
            batch_validate(batches, batch);
        return true;
    case BATCH_IN_PROGRESS:
        if (batch->n_done == batch->row.n_total)
            batch_begin_end(batches, batch, BATCH_COMPLETED);
        else if (is_over)
            batch_begin_end(batches, batch, BATCH_EXPIRED);
        else
            return false;
        return true;
    case BATCH_FINALIZING:
    case BATCH_CANCELLING:
        if (batch->n_running > 0)
            return false;
        batch_write_output(batches, batch);
        return true;
    default:
        return tidy_up(batches, batch);
    }
}

uint32_t batches_advance(struct batches *batches)
{
    bool wants_more = false;
    load_open(batches);
    batch_slots_collect(batches);
    batch_slots_fill(batches); /* before the disk is waited for */
    batch_slots_commit(batches);
    for (struct active_batch *batch = batches->active; batch; batch = batch->next)
        wants_more |= advance(batches, batch);
    drop_ended(batches);
    metrics_set(batches->setup.metrics, METRIC_BATCHES_OPEN, batches->n_active);
    return wants_more ? 0 : batches->n_active > 0 ? BUSY_MS : IDLE_MS;
}

/* ---- what clients ask for ----------------------------------------------------------------------
 */

serverd_status batches_add(struct batches *batches, struct batch_row *row, serverd_error *err)
{
    const serverd_status status = store_add_batch(batches->index, row, err);
    if (status == SERVERD_OK)
        batches->may_have_more = true;
    return status;
}

serverd_status batches_cancel(struct batches *batches, struct batch_row *row, serverd_error *err)
{
    struct active_batch *batch = find_active(batches, row->id);
    struct batch_row *own = batch ? &batch->row : row;
    if (own->status > BATCH_IN_PROGRESS)
        return SERVERD_OK;
    if (batch) {
        batch_begin_end(batches, batch, BATCH_CANCELLED);
        return SERVERD_OK;
    }
    row->status = BATCH_CANCELLING;
    row->cancelling_at = batches_now(batches);
    return store_update_batch(batches->index, row, err);
}

const struct batch_row *batches_find(const struct batches *batches, const char *id)
{
    const struct active_batch *batch = find_active(batches, id);
    return batch ? &batch->row : NULL;
}

/* ---- life --------------------------------------------------------------------------------------
 */

serverd_status batches_create(const struct batches_setup *setup, struct batches **out,
                              serverd_error *err)
{
    struct batches *batches = calloc(1, sizeof *batches);
    if (batches) {
        batches->slots = calloc(setup->max_running, sizeof *batches->slots);
        batches->results = calloc(setup->max_running, sizeof *batches->results);
    }
    if (!batches || !batches->slots || !batches->results) {
        if (batches) {
            free(batches->slots);
            free(batches->results);
        }
        free(batches);
        return fail(err, SERVERD_NOMEM, "batches: no memory");
    }
    batches->setup = *setup;
    batches->index = setup->files->index;
    batches->may_have_more = true;
    (void)pthread_mutex_init(&batches->mutex, NULL);
    for (uint32_t i = 0; i < setup->max_running; i++)
        batches->slots[i].batches = batches;
    *out = batches;
    return SERVERD_OK;
}

void batches_destroy(struct batches *batches)
{
    if (!batches)
        return;
    for (uint32_t i = 0; i < batches->setup.max_running; i++)
        free(batches->slots[i].bytes);
    free(batches->results);
    while (batches->active) {
        struct active_batch *batch = batches->active;
        batches->active = batch->next;
        destroy(batch);
    }
    free(batches->slots);
    (void)pthread_mutex_destroy(&batches->mutex);
    free(batches);
}
