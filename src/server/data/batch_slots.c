/* The slots in which lines of batches run, and what comes of them. */
#include "base/error.h"
#include "base/numeric.h"
#include "server/data/batch_run_internal.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MS_NS          UINT64_C(1000000)
#define LEAST_RETRY_MS 1000u
#define MOST_RETRY_MS  60000u

static uint64_t now_ns(const struct batches *batches)
{
    return clock_now_ns(batches->setup.clock);
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

void batch_slots_fill(struct batches *batches)
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

static void read_usage(struct batch_usage *out, const struct batch_slot *slot)
{
    json_t *root = json_loadb(slot->bytes, slot->n, JSON_ALLOW_NUL, NULL);
    const json_t *usage = json_object_get(root, "usage"),
                 *in = json_object_get(usage, "prompt_tokens_details"),
                 *generated = json_object_get(usage, "completion_tokens_details");
    in = in ? in : json_object_get(usage, "input_tokens_details");
    generated = generated ? generated : json_object_get(usage, "output_tokens_details");
    out->input = count_in(usage, "prompt_tokens", "input_tokens");
    out->output = count_in(usage, "completion_tokens", "output_tokens");
    out->cached = count_in(in, "cached_tokens", NULL);
    out->reasoning = count_in(generated, "reasoning_tokens", NULL);
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

/* What its reply is worth, for batch_slots_commit; the slot is free then. */
static void take_reply(struct batches *batches, struct batch_slot *slot)
{
    struct active_batch *batch = slot->batch;
    batch->n_running--;
    if (!is_passing(slot)) {
        struct batch_result *result = &batches->results[batches->n_results++];
        *result = (struct batch_result){
            .batch = batch, .index = slot->place.index, .is_error = slot->status != 200};
        buffer_init(&result->text, SIZE_MAX / 2);
        batch_write_result(&result->text, slot);
        if (!result->is_error)
            read_usage(&result->usage, slot);
    } else if (batch->row.status == BATCH_IN_PROGRESS) {
        again_later(batches, batch, &slot->place, slot->retry_after_ms);
        count_line(batches, "again");
    }
    free(slot->bytes);
    *slot = (struct batch_slot){.batches = batches};
}

void batch_slots_collect(struct batches *batches)
{
    struct batch_slot *ended[LIMIT_BATCH_RUNNING];
    uint32_t n = 0;
    (void)pthread_mutex_lock(&batches->mutex);
    for (uint32_t i = 0; i < batches->setup.max_running; i++)
        if (batches->slots[i].batch && batches->slots[i].has_ended)
            ended[n++] = &batches->slots[i];
    (void)pthread_mutex_unlock(&batches->mutex);
    for (uint32_t i = 0; i < n; i++) /* nobody else looks at a slot that has ended */
        take_reply(batches, ended[i]);
}

/* ---- results -----------------------------------------------------------------------------------
 */

/* Into the index, inside a transaction. */
static serverd_status add_result(struct batches *batches, const struct batch_result *result,
                                 serverd_error *err)
{
    struct active_batch *batch = result->batch;
    const struct store_result row = {.line = result->index,
                                     .is_error = result->is_error,
                                     .text = result->text.data,
                                     .n = result->text.len};
    bool is_new = false;
    if (result->text.is_failed)
        return fail(err, SERVERD_NOMEM, "a batch's result: no memory");
    if (store_add_result(batches->index, batch->row.number, &row, &is_new, err))
        return err->code;
    if (!is_new)
        return SERVERD_OK;
    batch_set_done(batch, result->index);
    batch->row.n_completed += !result->is_error;
    batch->row.n_failed += result->is_error;
    batch->row.input_tokens += result->usage.input;
    batch->row.output_tokens += result->usage.output;
    batch->row.cached_tokens += result->usage.cached;
    batch->row.reasoning_tokens += result->usage.reasoning;
    return store_update_batch(batches->index, &batch->row, err);
}

static serverd_status add_results(struct batches *batches, serverd_error *err)
{
    serverd_status status = store_index_begin(batches->index, err);
    for (uint32_t i = 0; i < batches->n_results && status == SERVERD_OK; i++)
        if (batches->results[i].batch->row.status != BATCH_FAILED)
            status = add_result(batches, &batches->results[i], err);
    if (status == SERVERD_OK)
        status = store_index_commit(batches->index, err);
    if (status != SERVERD_OK)
        store_index_rollback(batches->index);
    return status;
}

void batch_slots_commit(struct batches *batches)
{
    serverd_error err;
    if (batches->n_results == 0)
        return;
    const serverd_status status = add_results(batches, &err);
    for (uint32_t i = 0; i < batches->n_results; i++) {
        struct batch_result *result = &batches->results[i];
        if (status != SERVERD_OK)
            batch_fail_with(batches, result->batch, &err);
        else
            count_line(batches, result->is_error ? "error" : "ok");
        buffer_deinit(&result->text);
    }
    batches->n_results = 0;
}
