#include "compiler/sdp_segment.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/limits.h"
#include "base/numeric.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define FORM_ALIGNMENT 64

/* What is written at once, so that the kernel keeps it in huge pages; leaves divide it. */
#define PIECE_BYTES (2 * MIB)

/* The window, if no form is larger. */
#define WINDOW_BYTES (16 * MIB)

/* Rows that a thread packs at once: a multiple of 64, as pack() asks. */
#define CHUNK_ROWS 64

bool segment_place(struct segment *segment, uint64_t *bytes)
{
    size_t at = 0;
    for (uint32_t i = 0; i < segment->n_forms; i++) {
        struct segment_form *form = &segment->forms[i];
        if (!size_align(at, FORM_ALIGNMENT, &at))
            return false;
        form->offset = at;
        if (!size_add(at, form->form.bytes, &at))
            return false;
    }
    *bytes = at;
    return true;
}

/* ---- work for the threads -------------------------------------------------------------------- */

/* Rows to pack, or bytes to hash. */
struct task {
    const struct segment_form *form; /* to pack; NULL: to hash */
    uint64_t first_row, n_rows;
    char *to;
    const void *bytes;
    size_t n_bytes;
    uint8_t *digest;
};

struct writing {
    struct segment *segment;
    uint8_t (*tensor_hash)[32];
    struct task *tasks;
    uint32_t n_tasks, capacity;
    char *window;
    uint64_t window_at; /* its place in the segment */
    size_t window_bytes;
    uint8_t (*leaves)[32]; /* of the segment */
    uint32_t n_leaves;
    struct checksum *checksum;
    uint8_t (*tensor_leaves)[32]; /* of the tensors of a round, one behind the other */
    uint32_t n_tensor_leaves, tensor_leaf_capacity;
    _Atomic bool has_failed; /* the first failure owns `error` */
    serverd_error error;
};

static serverd_status add_task(struct writing *writing, struct task task, serverd_error *err)
{
    if (writing->n_tasks == writing->capacity) {
        uint32_t capacity = 2 * writing->capacity + 64;
        struct task *grown = realloc(writing->tasks, capacity * sizeof *grown);
        if (!grown)
            return fail(err, SERVERD_NOMEM, "no memory to pack");
        writing->tasks = grown;
        writing->capacity = capacity;
    }
    writing->tasks[writing->n_tasks++] = task;
    return SERVERD_OK;
}

static void run_task(void *arg, uint32_t index, uint32_t worker)
{
    (void)worker;
    struct writing *writing = arg;
    const struct task *task = &writing->tasks[index];
    if (!task->form) {
        sha256_leaf(task->bytes, task->n_bytes, task->digest);
        return;
    }
    const serverd_tensor *tensor = &writing->segment->graph->tensors[task->form->tensor];
    serverd_error error;
    if (writing->segment->delegate->pack(tensor, &task->form->form, task->first_row, task->n_rows,
                                         task->to, &error) != SERVERD_OK &&
        !atomic_exchange(&writing->has_failed, true)) {
        writing->error = error;
        (void)error_context(&writing->error, "tensor %s", tensor->name);
    }
}

static serverd_status run_tasks(struct writing *writing, serverd_error *err)
{
    worker_pool_run(writing->segment->pool, writing->n_tasks, run_task, writing);
    writing->n_tasks = 0;
    if (!atomic_load(&writing->has_failed))
        return SERVERD_OK;
    *err = writing->error;
    return err->code;
}

static serverd_status add_leaves(struct writing *writing, const void *bytes, uint64_t n_bytes,
                                 uint8_t (*digests)[32], serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    for (uint64_t at = 0; at < n_bytes && status == SERVERD_OK; at += SHA256_LEAF) {
        struct task task = {.bytes = (const char *)bytes + at,
                            .n_bytes = min_size(n_bytes - at, SHA256_LEAF),
                            .digest = digests[at / SHA256_LEAF]};
        status = add_task(writing, task, err);
    }
    return status;
}

/* ---- a round: the forms that the window holds -------------------------------------------------
 */

static serverd_status add_packing(struct writing *writing, const struct segment_form *form,
                                  serverd_error *err)
{
    const serverd_tensor *tensor = &writing->segment->graph->tensors[form->tensor];
    char *to = writing->window + (form->offset - writing->window_at);
    if (form->form.layout == SERVERD_LAYOUT_ROWS) {
        memcpy(to, tensor->data, tensor->bytes);
        return SERVERD_OK;
    }
    uint64_t n_rows = 1;
    for (uint32_t d = 0; d + 1 < tensor->rank; d++)
        n_rows *= tensor->dims[d]; /* checked by program_check */
    uint64_t row_bytes = max_size(form->form.bytes / max_size(n_rows, 1), 1);
    uint64_t rows = max_size(PIECE_BYTES / row_bytes / CHUNK_ROWS, 1) * CHUNK_ROWS;
    serverd_status status = SERVERD_OK;
    for (uint64_t first = 0; first < n_rows && status == SERVERD_OK; first += rows) {
        struct task task = {
            .form = form, .first_row = first, .n_rows = min_size(n_rows - first, rows), .to = to};
        status = add_task(writing, task, err);
    }
    return status;
}

static uint32_t n_leaves_of(uint64_t bytes)
{
    return (uint32_t)((bytes + SHA256_LEAF - 1) / SHA256_LEAF);
}

/* The first form of a tensor hashes it. */
static bool is_first_form(const struct segment *segment, uint32_t index)
{
    return index == 0 || segment->forms[index - 1].tensor != segment->forms[index].tensor;
}

static serverd_status reserve_leaves(struct writing *writing, uint32_t first, uint32_t end,
                                     serverd_error *err)
{
    const struct segment *segment = writing->segment;
    uint32_t n = 0;
    for (uint32_t i = first; i < end; i++)
        if (is_first_form(segment, i))
            n += n_leaves_of(segment->graph->tensors[segment->forms[i].tensor].bytes);
    writing->n_tensor_leaves = 0;
    if (n <= writing->tensor_leaf_capacity)
        return SERVERD_OK;
    void *grown = realloc(writing->tensor_leaves, n * sizeof *writing->tensor_leaves);
    if (!grown)
        return fail(err, SERVERD_NOMEM, "no memory to hash");
    writing->tensor_leaves = grown;
    writing->tensor_leaf_capacity = n;
    return SERVERD_OK;
}

static serverd_status pack_round(struct writing *writing, uint32_t first, uint32_t end,
                                 serverd_error *err)
{
    struct segment *segment = writing->segment;
    serverd_status status = reserve_leaves(writing, first, end, err);
    for (uint32_t i = first; i < end && status == SERVERD_OK; i++) {
        const serverd_tensor *tensor = &segment->graph->tensors[segment->forms[i].tensor];
        status = add_packing(writing, &segment->forms[i], err);
        if (status == SERVERD_OK && is_first_form(segment, i)) {
            status = add_leaves(writing, tensor->data, tensor->bytes,
                                writing->tensor_leaves + writing->n_tensor_leaves, err);
            writing->n_tensor_leaves += n_leaves_of(tensor->bytes);
        }
    }
    return status == SERVERD_OK ? run_tasks(writing, err) : status;
}

static void finish_round(struct writing *writing, uint32_t first, uint32_t end)
{
    struct segment *segment = writing->segment;
    uint8_t(*leaves)[32] = writing->tensor_leaves;
    for (uint32_t i = first; i < end; i++) {
        struct segment_form *form = &segment->forms[i];
        form->checksum =
            checksum64(writing->window + (form->offset - writing->window_at), form->form.bytes);
        if (!is_first_form(segment, i))
            continue;
        uint32_t n = n_leaves_of(segment->graph->tensors[form->tensor].bytes);
        sha256_root((const uint8_t(*)[32])leaves, n, writing->tensor_hash[form->tensor]);
        leaves += n;
        segment->forget(segment->context, form->tensor);
    }
}

/* Hashes and writes the first `n` bytes of the window: whole pieces, or all that is left. */
static serverd_status write_window(struct writing *writing, size_t n, serverd_error *err)
{
    struct segment *segment = writing->segment;
    serverd_status status =
        add_leaves(writing, writing->window, n, writing->leaves + writing->n_leaves, err);
    if (status == SERVERD_OK)
        status = run_tasks(writing, err);
    if (status == SERVERD_OK)
        status = new_file_write_at(segment->file, segment->file_offset + writing->window_at,
                                   writing->window, n, err);
    writing->n_leaves += n_leaves_of(n);
    checksum_update(writing->checksum, writing->window, n);
    return status;
}

/* What was written goes; the rest of what is filled moves to the front, zeros behind it. */
static void shift_window(struct writing *writing, size_t written, size_t filled)
{
    memmove(writing->window, writing->window + written, filled - written);
    memset(writing->window + (filled - written), 0, written);
    writing->window_at += written;
}

static serverd_status write_rounds(struct writing *writing, uint64_t segment_bytes,
                                   serverd_error *err)
{
    struct segment *segment = writing->segment;
    serverd_status status = SERVERD_OK;
    for (uint32_t first = 0, end; first < segment->n_forms && status == SERVERD_OK; first = end) {
        uint64_t filled = 0;
        for (end = first; end < segment->n_forms; end++) {
            const struct segment_form *form = &segment->forms[end];
            uint64_t form_end = form->offset + form->form.bytes - writing->window_at;
            if (form_end > writing->window_bytes)
                break;
            filled = form_end;
        }
        bool is_last = end == segment->n_forms;
        size_t n = is_last ? filled : filled / PIECE_BYTES * PIECE_BYTES;
        if ((status = pack_round(writing, first, end, err)) != SERVERD_OK)
            break;
        finish_round(writing, first, end);
        if ((status = write_window(writing, n, err)) != SERVERD_OK)
            break;
        shift_window(writing, n, filled);
        if (segment->progress)
            segment->progress(segment->context, (double)writing->window_at / (double)segment_bytes);
    }
    return status;
}

/* ---- all ------------------------------------------------------------------------------------- */

static serverd_status take_memory(struct writing *writing, uint64_t segment_bytes,
                                  serverd_error *err)
{
    const struct segment *segment = writing->segment;
    uint64_t largest = 0;
    for (uint32_t i = 0; i < segment->n_forms; i++)
        largest = max_size(largest, segment->forms[i].form.bytes);
    /* before the form may stand a piece that is not whole yet */
    writing->window_bytes = min_size(max_size(WINDOW_BYTES, largest) + PIECE_BYTES + FORM_ALIGNMENT,
                                     segment_bytes + FORM_ALIGNMENT);
    writing->window = calloc(1, writing->window_bytes);
    writing->leaves = calloc(segment_bytes / SHA256_LEAF + 1, sizeof *writing->leaves);
    writing->checksum = checksum_create();
    if (!writing->window || !writing->leaves || !writing->checksum)
        return fail(err, SERVERD_NOMEM, "no memory for a window of %zu bytes",
                    writing->window_bytes);
    return SERVERD_OK;
}

serverd_status segment_write(struct segment *segment, uint8_t (*tensor_hash)[32],
                             uint8_t segment_hash[32], uint64_t *segment_checksum,
                             serverd_error *err)
{
    struct writing writing = {.segment = segment, .tensor_hash = tensor_hash};
    uint64_t bytes = 0;
    serverd_status status = SERVERD_OK;
    if (!segment_place(segment, &bytes))
        status = fail(err, SERVERD_NOMEM, "the packed weights overflow");
    if (status == SERVERD_OK)
        status = take_memory(&writing, bytes, err);
    if (status == SERVERD_OK)
        status = write_rounds(&writing, bytes, err);
    if (status == SERVERD_OK) {
        sha256_root((const uint8_t(*)[32])writing.leaves, writing.n_leaves, segment_hash);
        *segment_checksum = checksum_final(writing.checksum);
    }
    free(writing.tasks);
    free(writing.window);
    free(writing.leaves);
    free(writing.tensor_leaves);
    checksum_destroy(writing.checksum);
    return status;
}
