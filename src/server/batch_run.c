#include "server/batch_run.h"

#include "base/error.h"
#include "base/numeric.h"
#include "server/batch_run_internal.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MS_NS          UINT64_C(1000000)
#define LEAST_RETRY_MS 1000u
#define MOST_RETRY_MS  60000u
#define SAVE_AGAIN_MS  5000u
#define BUSY_MS        1000u  /* with open batches something may be due of its own accord */
#define IDLE_MS        10000u /* without */

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

static void set_done(struct active_batch *batch, uint32_t index)
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
    struct store_index *index = batches->index;
    serverd_error err;
    serverd_status status = store_index_begin(index, &err);
    if (status == SERVERD_OK)
        status = store_update_batch(index, &batch->row, &err);
    if (status == SERVERD_OK)
        status = store_remove_results(index, batch->row.number, &err);
    if (status == SERVERD_OK)
        status = store_index_commit(index, &err);
    batch->is_saved = status == SERVERD_OK;
    if (batch->is_saved) {
        store_index_shrink(index);
        return;
    }
    store_index_rollback(index);
    batch->save_again_ns = now_ns(batches) + SAVE_AGAIN_MS * MS_NS;
}

void batch_fail(struct batches *batches, struct active_batch *batch, struct buffer *errors)
{
    struct buffer list;
    size_t n;
    if (batch->row.status == BATCH_FAILED)
        return;
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
    const bool is_full = err->code == SERVERD_NOMEM;
    struct batch_fault fault = {.code = is_full ? "insufficient_storage" : "internal_error"};
    struct buffer errors;
    (void)snprintf(fault.message, sizeof fault.message, "%s",
                   is_full ? "The server's disk takes no more results."
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
    set_done(batch, result->line);
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
        if (batch->row.status < BATCH_COMPLETED || batch->n_running > 0 || !batch->is_saved) {
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

/* ---- lines that begin --------------------------------------------------------------------------
 */

static void again_later(struct batches *batches, struct active_batch *batch,
                        const struct line_place *place, uint32_t ms)
{
    const uint64_t wait = min_u32(max_u32(ms, LEAST_RETRY_MS), MOST_RETRY_MS);
    batch->again[batch->n_again++] = *place; /* with those that run, at most max_running */
    batch->not_before_ns = now_ns(batches) + wait * MS_NS;
}

/* The next line that has no result; a text that has to be freed in *owned, if any. False: there is
 * none, or the batch has failed. */
static bool next_line(struct batches *batches, struct active_batch *batch, struct line_place *place,
                      const char **text, char **owned)
{
    serverd_error err;
    serverd_status status = SERVERD_OK;
    if (batch->n_again > 0) {
        *place = batch->again[--batch->n_again];
        *text = *owned = malloc(place->n + 1);
        status = *owned ? file_read_at(&batch->reader.file, place->offset, *owned, place->n, &err)
                        : fail(&err, SERVERD_NOMEM, "a batch's line: no memory");
    } else {
        struct batch_line line = {0};
        uint32_t index = 0;
        do {
            status = line_reader_next(&batch->reader, &line, &batch->is_read, &err);
            index = batch->next_index;
            batch->is_read |= index == batch->row.n_total;
            batch->next_index += !batch->is_read;
        } while (status == SERVERD_OK && !batch->is_read && batch_is_done(batch, index));
        if (status == SERVERD_OK && batch->is_read)
            return false;
        *place = (struct line_place){index, line.offset, line.n};
        *text = line.text;
    }
    if (status == SERVERD_OK)
        return true;
    batch_fail_with(batches, batch, &err);
    return false;
}

/* Gives the slot a line of the batch; false: it has none that could run now. */
static bool start_line(struct batches *batches, struct active_batch *batch, struct batch_slot *slot)
{
    const struct batch_runner *runner = &batches->setup.runner;
    struct batch_item item = {0};
    struct batch_fault fault;
    struct line_place place;
    const char *text = NULL;
    char *owned = NULL;
    bool has_started = false;
    if (!next_line(batches, batch, &place, &text, &owned))
        goto out;
    if (!text || !batch_item_read(text, place.n, batch->row.endpoint, &item, &fault)) {
        const serverd_error err = {.code = SERVERD_CORRUPT, .text = "its input has changed"};
        batch_fail_with(batches, batch, &err);
        goto out;
    }
    slot->batch = batch;
    slot->place = place;
    memcpy(slot->custom_id, item.custom_id, sizeof slot->custom_id);
    batch->n_running++;
    const struct batch_call call = {.path = batch->row.endpoint,
                                    .body = item.body,
                                    .n_body = item.n_body,
                                    .tenant = batch->row.tenant,
                                    .slot = slot};
    slot->number = runner->submit(runner->context, &call);
    has_started = slot->number != 0;
    if (!has_started) {
        slot->batch = NULL;
        batch->n_running--;
        again_later(batches, batch, &place, 0);
    }
out:
    batch_item_release(&item);
    free(owned);
    return has_started;
}

static bool wants_to_run(const struct active_batch *batch, uint64_t now)
{
    return batch->row.status == BATCH_IN_PROGRESS && (batch->n_again > 0 || !batch->is_read) &&
           batch->not_before_ns <= now;
}

/* Batches take turns. */
static bool give_line(struct batches *batches, struct batch_slot *slot)
{
    const uint64_t now = now_ns(batches);
    for (uint32_t i = 0; i < batches->n_active; i++) {
        struct active_batch *batch = batches->turn ? batches->turn : batches->active;
        batches->turn = batch->next;
        if (wants_to_run(batch, now) && start_line(batches, batch, slot))
            return true;
    }
    return false;
}

static void fill(struct batches *batches)
{
    const struct batch_runner *runner = &batches->setup.runner;
    if (batches->n_active == 0 || !runner->is_open(runner->context))
        return;
    for (uint32_t i = 0; i < batches->setup.max_running; i++)
        if (!batches->slots[i].batch && !give_line(batches, &batches->slots[i]))
            return;
}

/* ---- lines that end ----------------------------------------------------------------------------
 */

void batches_line_ended(struct batch_slot *slot, const struct batch_reply *reply)
{
    struct batches *batches = slot->batches;
    (void)pthread_mutex_lock(&batches->mutex);
    slot->status = reply->status;
    slot->retry_after_ms = reply->retry_after_ms;
    slot->n = reply->n;
    slot->bytes = malloc(reply->n + 1);
    if (slot->bytes && reply->n > 0)
        memcpy(slot->bytes, reply->bytes, reply->n);
    (void)snprintf(slot->request_id, sizeof slot->request_id, "%s", reply->request_id);
    slot->has_ended = true;
    (void)pthread_mutex_unlock(&batches->mutex);
    batches->setup.runner.wake(batches->setup.runner.context);
}

static int64_t count_in(const json_t *object, const char *name, const char *other)
{
    const json_t *value = json_object_get(object, name);
    if (!value && other)
        value = json_object_get(object, other);
    return json_integer_value(value); /* 0 of what is no number */
}

static void add_usage(struct active_batch *batch, const struct batch_slot *slot)
{
    json_t *root = json_loadb(slot->bytes, slot->n, JSON_ALLOW_NUL, NULL);
    const json_t *usage = json_object_get(root, "usage"),
                 *in = json_object_get(usage, "prompt_tokens_details"),
                 *out = json_object_get(usage, "completion_tokens_details");
    in = in ? in : json_object_get(usage, "input_tokens_details");
    out = out ? out : json_object_get(usage, "output_tokens_details");
    batch->row.input_tokens += count_in(usage, "prompt_tokens", "input_tokens");
    batch->row.output_tokens += count_in(usage, "completion_tokens", "output_tokens");
    batch->row.cached_tokens += count_in(in, "cached_tokens", NULL);
    batch->row.reasoning_tokens += count_in(out, "reasoning_tokens", NULL);
    json_decref(root);
}

static void count_line(struct batches *batches, const char *outcome)
{
    const char *labels[] = {outcome};
    metrics_add_labelled(batches->setup.metrics, METRIC_BATCH_LINES, labels, 1);
}

/* A reply that may become another one later, or that nobody could keep. */
static bool is_passing(const struct batch_slot *slot)
{
    return slot->status == 0 || slot->status == 429 || slot->status == 503 || !slot->bytes;
}

/* Into the index, inside a transaction. */
static serverd_status take_reply(struct batches *batches, struct batch_slot *slot,
                                 serverd_error *err)
{
    struct active_batch *batch = slot->batch;
    const bool is_error = slot->status != 200;
    bool is_new = false;
    struct buffer text;
    buffer_init(&text, SIZE_MAX / 2);
    batch_write_result(&text, slot);
    const struct store_result result = {
        .line = slot->place.index, .is_error = is_error, .text = text.data, .n = text.len};
    serverd_status status =
        text.is_failed ? fail(err, SERVERD_NOMEM, "a batch's result: no memory")
                       : store_add_result(batches->index, batch->row.number, &result, &is_new, err);
    buffer_deinit(&text);
    if (status != SERVERD_OK || !is_new)
        return status;
    set_done(batch, slot->place.index);
    batch->row.n_completed += !is_error;
    batch->row.n_failed += is_error;
    if (!is_error)
        add_usage(batch, slot);
    count_line(batches, is_error ? "error" : "ok");
    return store_update_batch(batches->index, &batch->row, err);
}

static uint32_t list_ended(struct batches *batches, struct batch_slot **out)
{
    uint32_t n = 0;
    (void)pthread_mutex_lock(&batches->mutex);
    for (uint32_t i = 0; i < batches->setup.max_running; i++)
        if (batches->slots[i].batch && batches->slots[i].has_ended)
            out[n++] = &batches->slots[i];
    (void)pthread_mutex_unlock(&batches->mutex);
    return n;
}

/* One transaction for all lines that have ended meanwhile: the more come, the fewer writes to the
 * disk each of them takes. */
static serverd_status take_replies(struct batches *batches, struct batch_slot **ended, uint32_t n,
                                   serverd_error *err)
{
    bool has_begun = false;
    serverd_status status = SERVERD_OK;
    for (uint32_t i = 0; i < n && status == SERVERD_OK; i++) {
        if (is_passing(ended[i]) || ended[i]->batch->row.status == BATCH_FAILED)
            continue;
        if (!has_begun)
            status = store_index_begin(batches->index, err);
        has_begun = true;
        if (status == SERVERD_OK)
            status = take_reply(batches, ended[i], err);
    }
    if (status == SERVERD_OK && has_begun)
        status = store_index_commit(batches->index, err);
    if (status != SERVERD_OK)
        store_index_rollback(batches->index);
    return status;
}

static void free_slot(struct batches *batches, struct batch_slot *slot)
{
    struct active_batch *batch = slot->batch;
    batch->n_running--;
    if (is_passing(slot) && batch->row.status == BATCH_IN_PROGRESS) {
        again_later(batches, batch, &slot->place, slot->retry_after_ms);
        count_line(batches, "again");
    }
    free(slot->bytes);
    *slot = (struct batch_slot){.batches = batches};
}

static void collect(struct batches *batches)
{
    struct batch_slot *ended[LIMIT_BATCH_RUNNING];
    serverd_error err;
    const uint32_t n = list_ended(batches, ended);
    const serverd_status status = take_replies(batches, ended, n, &err);
    for (uint32_t i = 0; i < n; i++) {
        struct active_batch *batch = ended[i]->batch;
        if (status != SERVERD_OK && !is_passing(ended[i]))
            batch_fail_with(batches, batch, &err);
        free_slot(batches, ended[i]);
    }
}

/* ---- in between --------------------------------------------------------------------------------
 */

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
        if (!batch->is_saved && now_ns(batches) >= batch->save_again_ns)
            save_failure(batches, batch);
        return false;
    }
}

uint32_t batches_advance(struct batches *batches)
{
    bool wants_more = false;
    load_open(batches);
    collect(batches);
    fill(batches);
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
    if (batches)
        batches->slots = calloc(setup->max_running, sizeof *batches->slots);
    if (!batches || !batches->slots) {
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
    while (batches->active) {
        struct active_batch *batch = batches->active;
        batches->active = batch->next;
        destroy(batch);
    }
    free(batches->slots);
    (void)pthread_mutex_destroy(&batches->mutex);
    free(batches);
}
