/* Checks a batch's input, line by line: each has to be a request to the batch's endpoint under a
 * name that no other line has. */
#include "base/hash.h"
#include "base/numeric.h"
#include "server/data/batch_run_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

void batch_write_error(struct buffer *out, const struct batch_fault *fault, uint32_t number)
{
    if (out->len > 0)
        buffer_append_char(out, ',');
    buffer_printf(out, "{\"code\":\"%s\",\"message\":", fault->code);
    buffer_append_json_string(out, fault->message, strlen(fault->message));
    if (fault->param)
        buffer_printf(out, ",\"param\":\"%s\"", fault->param);
    else
        buffer_append_str(out, ",\"param\":null");
    if (number > 0)
        buffer_printf(out, ",\"line\":%" PRIu32 "}", number);
    else
        buffer_append_str(out, ",\"line\":null}");
}

static void note_fault(struct active_batch *batch, const struct batch_fault *fault, uint32_t number)
{
    if (batch->n_errors < LIMIT_BATCH_ERRORS)
        batch_write_error(&batch->errors, fault, number);
    batch->n_errors++;
}

static bool note_key(struct active_batch *batch, const char *custom_id, uint32_t number)
{
    if (batch->n_keys == batch->keys_cap) {
        const uint32_t cap = max_u32(1024, 2 * batch->keys_cap); /* LIMIT_BATCH_LINES bounds it */
        struct line_key *bigger = realloc(batch->keys, cap * sizeof *bigger);
        if (!bigger)
            return false;
        batch->keys = bigger;
        batch->keys_cap = cap;
    }
    struct line_key *key = &batch->keys[batch->n_keys++];
    checksum128(custom_id, strlen(custom_id), key->digest);
    key->number = number;
    return true;
}

static int compare_keys(const void *a, const void *b)
{
    const struct line_key *x = a, *y = b;
    const int order = memcmp(x->digest, y->digest, sizeof x->digest);
    return order != 0 ? order : (x->number > y->number) - (x->number < y->number);
}

/* Of lines with the same name all but the first are at fault. */
static void find_doubles(struct active_batch *batch)
{
    const struct batch_fault fault = {.code = "duplicate_custom_id",
                                      .param = "custom_id",
                                      .message = "This custom_id stands in an earlier line, too."};
    if (batch->n_keys > 0)
        qsort(batch->keys, batch->n_keys, sizeof *batch->keys, compare_keys);
    for (uint32_t i = 1; i < batch->n_keys; i++)
        if (memcmp(batch->keys[i].digest, batch->keys[i - 1].digest, sizeof batch->keys->digest) ==
            0)
            note_fault(batch, &fault, batch->keys[i].number);
}

/* False: no memory. */
static bool check_line(struct active_batch *batch, const struct batch_line *line)
{
    struct batch_item item = {0};
    struct batch_fault fault = {.code = "line_too_long", .message = "This line is too long."};
    bool has_memory = true;
    if (!line->is_too_long &&
        batch_item_read(line->text, line->n, batch->row.endpoint, &item, &fault)) {
        has_memory = note_key(batch, item.custom_id, line->number);
        if (!batch->row.model && item.model[0])
            has_memory &= (batch->row.model = strdup(item.model)) != NULL;
    } else {
        note_fault(batch, &fault, line->number);
    }
    batch_item_release(&item);
    return has_memory;
}

static void end_check(struct batches *batches, struct active_batch *batch)
{
    const struct batch_fault empty = {.code = "empty_file", .message = "The file has no lines."};
    const serverd_error no_memory = {.code = SERVERD_NOMEM, .text = "a batch: no memory"};
    find_doubles(batch);
    if (batch->next_index == 0)
        note_fault(batch, &empty, 0);
    const uint32_t n = batch->next_index;
    free(batch->keys);
    batch->keys = NULL;
    batch->n_keys = batch->keys_cap = 0;
    if (batch->n_errors > 0) {
        batch_fail(batches, batch, &batch->errors);
        return;
    }
    batch->done = calloc(n / 8 + 1, 1);
    if (!batch->done) {
        batch_fail_with(batches, batch, &no_memory);
        return;
    }
    batch->row.n_total = n;
    batch->row.status = BATCH_IN_PROGRESS;
    batch->row.in_progress_at = batches_now(batches);
    batch->next_index = 0;
    line_reader_rewind(&batch->reader);
    batch_save(batches, batch);
}

void batch_validate(struct batches *batches, struct active_batch *batch)
{
    const struct batch_fault too_many = {.code = "too_many_lines",
                                         .message = "A batch may have 50000 lines."};
    const uint64_t first = batch->reader.offset;
    bool is_end = false;
    for (uint32_t i = 0; i < SLICE_LINES && batch->reader.offset - first < SLICE_BYTES; i++) {
        struct batch_line line;
        serverd_error err;
        if (line_reader_next(&batch->reader, &line, &is_end, &err)) {
            batch_fail_with(batches, batch, &err);
            return;
        }
        if (!is_end && batch->next_index == LIMIT_BATCH_LINES) {
            note_fault(batch, &too_many, line.number);
            is_end = true;
        }
        if (is_end) {
            end_check(batches, batch);
            return;
        }
        batch->next_index++;
        if (!check_line(batch, &line)) {
            err = (serverd_error){.code = SERVERD_NOMEM, .text = "a batch's lines: no memory"};
            batch_fail_with(batches, batch, &err);
            return;
        }
    }
}
