#include "kernels/testing/null.h"

#include "base/error.h"
#include "base/numeric.h"
#include "kernels/batch_check.h"
#include "kernels/testing/null_model.h"
#include "kernels/testing/plain_draw.h"
#include "program/op.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    MAX_LEAVING = 8,  /* pages that are on their way out */
    MAX_SORTED = 4096 /* tokens */
};

#define BEST_LOGIT 16.0f /* the others are 0: the best token has nearly all probability */

struct serverd_instance {
    const serverd_host *host;
    uint32_t step_us, row_us, min_token, repeat, waits, unsure;
};

struct serverd_handle {
    const serverd_instance *instance;
    uint32_t n_out; /* n_vocab or n_embd */
    uint32_t max_logit_rows;
    /* of the last step */
    uint32_t n_logit_rows;
    int32_t *answer; /* [max_logit_rows] */
    /* of a draw */
    float *row;      /* [n_out] */
    uint32_t *order; /* [n_out] */
};

/* Pages have the state after the token of each slot. So have the pages of layers with a window, in
 * the same place or in window pages: a row looks whether all that its window shows are the same. */
struct serverd_kv {
    const serverd_instance *instance;
    uint32_t n_pages, n_window_pages;
    uint32_t window; /* tokens of the widest; 0: no layer has one */
    uint64_t (*state)[SERVERD_PAGE_TOKENS];
    uint64_t (*window_state)[SERVERD_PAGE_TOKENS]; /* NULL: no layer has a window */
    struct leaving *leaving;
};

/* Pages on their way out. */
struct leaving {
    uint32_t n;
    struct {
        void *out;
        size_t bytes;
        uint64_t state[2 * SERVERD_PAGE_TOKENS];
    } page[MAX_LEAVING];
};

static serverd_status null_devices(const serverd_host *host, serverd_device *out, uint32_t cap,
                                   uint32_t *n, serverd_error *err)
{
    (void)host, (void)err;
    if (cap > 0) {
        out[0] = (serverd_device){.struct_bytes = sizeof out[0], .free_bytes = UINT64_C(1) << 30};
        out[0].memory_bytes = out[0].free_bytes;
        (void)snprintf(out[0].name, sizeof out[0].name, "test double");
    }
    *n = 1;
    return SERVERD_OK;
}

static serverd_status null_match(const serverd_host *host, const serverd_graph *graph,
                                 uint32_t node, serverd_claim *out, serverd_error *err)
{
    (void)err;
    *out = (serverd_claim){.struct_bytes = sizeof *out, .reason = SERVERD_REASON_OP};
    if (!host->collective) /* it answers for a whole model */
        out->n_nodes = graph->n_nodes - node;
    return SERVERD_OK;
}

static serverd_status null_form(const serverd_tensor *tensor, serverd_form *out, serverd_error *err)
{
    (void)err;
    *out =
        (serverd_form){.struct_bytes = sizeof *out, .layout = SERVERD_LAYOUT_ROWS, .alignment = 1};
    return SERVERD_OK;
}

static serverd_status null_pack(const serverd_tensor *tensor, const serverd_form *form,
                                uint64_t first_row, uint64_t n_rows, void *dst, serverd_error *err)
{
    (void)form, (void)first_row, (void)n_rows, (void)dst;
    return fail(err, SERVERD_INTERNAL, "null: %s needs no packing", tensor->name);
}

static serverd_status null_open(const serverd_host *host, const serverd_device *device,
                                serverd_instance **out, serverd_error *err)
{
    (void)device;
    *out = calloc(1, sizeof **out);
    if (!*out)
        return fail(err, SERVERD_NOMEM, "null: no memory");
    (*out)->host = host;
    return SERVERD_OK;
}

static serverd_status null_set_option(serverd_instance *instance, const char *key,
                                      const char *value, serverd_error *err)
{
    const struct {
        const char *key;
        uint32_t *value;
        uint32_t max;
    } options[] = {
        {"step_us", &instance->step_us, 60000000},
        {"row_us", &instance->row_us, 1000000},
        {"min_token", &instance->min_token, INT32_MAX},
        {"repeat", &instance->repeat, 100},
        {"waits", &instance->waits, 1},
        {"unsure", &instance->unsure, 100},
    };
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        uint64_t number;
        if (strcmp(key, options[i].key) != 0)
            continue;
        if (!parse_u64(value, 0, options[i].max, &number))
            return fail(err, SERVERD_INVALID, "found %.60s, allowed 0 to %u", value,
                        options[i].max);
        *options[i].value = (uint32_t)number;
        return SERVERD_OK;
    }
    return fail(err, SERVERD_INVALID,
                "there are step_us, row_us, min_token, repeat, waits and unsure");
}

static void null_unload(serverd_handle *handle)
{
    free(handle->answer);
    free(handle->row);
    free(handle->order);
    free(handle);
}

static serverd_status null_load(serverd_instance *instance, const serverd_graph *graph,
                                const serverd_partition *partition, const void *const *packed,
                                const serverd_limits *limits, const serverd_kv_spec *kv,
                                serverd_handle **out, serverd_error *err)
{
    (void)packed, (void)kv;
    if (partition->n_nodes != graph->n_nodes)
        return fail(err, SERVERD_UNSUPPORTED, "null: answers for a whole model, not for %u nodes",
                    partition->n_nodes);
    uint64_t n_out = value_width(&graph->values[graph->output]);
    if (n_out <= instance->min_token || n_out > INT32_MAX)
        return fail(err, SERVERD_INVALID, "null: min_token is %u, the vocabulary has %llu",
                    instance->min_token, (unsigned long long)n_out);
    serverd_handle *handle = calloc(1, sizeof *handle);
    if (!handle)
        return fail(err, SERVERD_NOMEM, "null: no memory");
    *handle = (serverd_handle){
        .instance = instance,
        .n_out = (uint32_t)n_out,
        .max_logit_rows = limits->max_logit_rows,
        .answer = calloc(max_size(limits->max_logit_rows, 1), sizeof *handle->answer),
        .row = calloc(n_out, sizeof *handle->row),
        .order = calloc(n_out, sizeof *handle->order)};
    if (!handle->answer || !handle->row || !handle->order) {
        null_unload(handle);
        return fail(err, SERVERD_NOMEM, "null: no memory");
    }
    *out = handle;
    return SERVERD_OK;
}

/* ---- KV ------------------------------------------------------------------------------------ */

static uint32_t widest_window(const serverd_kv_spec *spec)
{
    uint32_t widest = 0;
    for (uint32_t i = 0; i < spec->n_layers; i++)
        widest = (uint32_t)max_size(widest, spec->layers[i].window);
    return widest;
}

static serverd_status null_kv_page_bytes(serverd_instance *instance, const serverd_kv_spec *spec,
                                         serverd_kv_bytes *out, serverd_error *err)
{
    (void)instance, (void)err;
    const uint64_t bytes = SERVERD_PAGE_TOKENS * sizeof(uint64_t);
    *out = (serverd_kv_bytes){bytes, widest_window(spec) > 0 ? bytes : 0};
    return SERVERD_OK;
}

static void null_kv_destroy(serverd_kv *kv)
{
    free(kv->state);
    free(kv->window_state);
    free(kv->leaving);
    free(kv);
}

static serverd_status null_kv_create(serverd_instance *instance, const serverd_kv_spec *spec,
                                     uint32_t n_pages, uint32_t n_window_pages, serverd_kv **out,
                                     serverd_error *err)
{
    serverd_kv *kv = calloc(1, sizeof *kv);
    if (!kv)
        return fail(err, SERVERD_NOMEM, "null: no memory");
    *kv = (serverd_kv){.instance = instance,
                       .n_pages = n_pages,
                       .n_window_pages = n_window_pages,
                       .window = widest_window(spec),
                       .leaving = calloc(1, sizeof *kv->leaving)};
    kv->state = calloc(max_size(n_pages, 1), sizeof *kv->state);
    if (kv->window > 0)
        kv->window_state = calloc(max_size(n_window_pages > 0 ? n_window_pages : n_pages, 1),
                                  sizeof *kv->window_state);
    if (!kv->state || !kv->leaving || (kv->window > 0 && !kv->window_state)) {
        null_kv_destroy(kv);
        return fail(err, SERVERD_NOMEM, "null: no memory for %u pages, %u window pages", n_pages,
                    n_window_pages);
    }
    *out = kv;
    return SERVERD_OK;
}

static serverd_status check_page(const serverd_kv *kv, serverd_kv_page page, serverd_error *err)
{
    if ((page.page != SERVERD_NO_PAGE && page.page >= kv->n_pages) ||
        (page.window_page != SERVERD_NO_PAGE && page.window_page >= kv->n_window_pages))
        return fail(err, SERVERD_INTERNAL, "null: there is no page %u, or no window page %u",
                    page.page, page.window_page);
    return SERVERD_OK;
}

/* The page's states; NULL: left out. */
static uint64_t *states_of(const serverd_kv *kv, serverd_kv_page page)
{
    return page.page == SERVERD_NO_PAGE ? NULL : kv->state[page.page];
}

/* Those of its layers with a window. */
static uint64_t *window_states_of(const serverd_kv *kv, serverd_kv_page page)
{
    uint32_t index = kv->n_window_pages > 0 ? page.window_page : page.page;
    return !kv->window_state || index == SERVERD_NO_PAGE ? NULL : kv->window_state[index];
}

static serverd_status null_kv_zero(serverd_kv *kv, const serverd_kv_page *pages, uint32_t n,
                                   serverd_error *err)
{
    for (uint32_t i = 0; i < n; i++) {
        if (check_page(kv, pages[i], err))
            return err->code;
        uint64_t *states[] = {states_of(kv, pages[i]), window_states_of(kv, pages[i])};
        for (int half = 0; half < 2; half++)
            if (states[half])
                memset(states[half], 0, sizeof *kv->state);
    }
    return SERVERD_OK;
}

static serverd_status null_kv_copy(serverd_kv *kv, serverd_kv_page from, serverd_kv_page to,
                                   uint32_t n_tokens, serverd_error *err)
{
    if (check_page(kv, from, err) || check_page(kv, to, err))
        return err->code;
    uint64_t *sources[] = {states_of(kv, from), window_states_of(kv, from)};
    uint64_t *targets[] = {states_of(kv, to), window_states_of(kv, to)};
    for (int half = 0; half < 2; half++) {
        if (n_tokens > SERVERD_PAGE_TOKENS || !sources[half] != !targets[half])
            return fail(err, SERVERD_INTERNAL, "null: cannot copy %u tokens of page %u to %u",
                        n_tokens, from.page, to.page);
        if (sources[half])
            memmove(targets[half], sources[half], n_tokens * sizeof kv->state[0][0]);
    }
    return SERVERD_OK;
}

static serverd_status null_kv_identity(serverd_instance *instance, const serverd_kv_spec *spec,
                                       uint64_t *out, serverd_error *err)
{
    (void)instance, (void)spec, (void)err;
    *out = NULL_MODEL_EMPTY;
    return SERVERD_OK;
}

static void let_go(struct leaving *leaving)
{
    for (uint32_t i = 0; i < leaving->n; i++)
        memcpy(leaving->page[i].out, leaving->page[i].state, leaving->page[i].bytes);
    leaving->n = 0;
}

static serverd_status null_kv_settle(serverd_kv *kv, serverd_error *err)
{
    (void)err;
    let_go(kv->leaving);
    return SERVERD_OK;
}

static serverd_status null_kv_export(const serverd_kv *kv, serverd_kv_page page, void *out,
                                     serverd_error *err)
{
    struct leaving *leaving = kv->leaving;
    if (check_page(kv, page, err))
        return err->code;
    if (leaving->n == MAX_LEAVING)
        let_go(leaving);
    const uint64_t *states[] = {states_of(kv, page), window_states_of(kv, page)};
    size_t bytes = 0;
    for (int half = 0; half < 2; half++)
        if (states[half]) {
            memcpy((char *)leaving->page[leaving->n].state + bytes, states[half],
                   sizeof *kv->state);
            bytes += sizeof *kv->state;
        }
    memset(out, 0xcd, bytes);
    leaving->page[leaving->n].out = out;
    leaving->page[leaving->n++].bytes = bytes;
    if (!kv->instance->waits)
        let_go(leaving);
    return SERVERD_OK;
}

static serverd_status null_kv_import(serverd_kv *kv, serverd_kv_page page, const void *bytes,
                                     serverd_error *err)
{
    if (check_page(kv, page, err))
        return err->code;
    uint64_t *states[] = {states_of(kv, page), window_states_of(kv, page)};
    const char *at = bytes;
    for (int half = 0; half < 2; half++)
        if (states[half]) {
            memcpy(states[half], at, sizeof *kv->state);
            at += sizeof *kv->state;
        }
    return SERVERD_OK;
}

/* ---- a step -------------------------------------------------------------------------------- */

static void sleep_us(uint64_t us)
{
    struct timespec left = {.tv_sec = (time_t)(us / 1000000),
                            .tv_nsec = (long)(us % 1000000 * 1000)};
    while (us > 0 && nanosleep(&left, &left) != 0)
        continue;
}

static uint32_t entry_of(const uint32_t *table, const serverd_batch *batch, uint32_t row,
                         uint32_t position)
{
    uint32_t entry = position / SERVERD_PAGE_TOKENS;
    if (!table || entry >= batch->max_pages)
        return SERVERD_NO_PAGE;
    return table[(size_t)batch->row_seq[row] * batch->max_pages + entry];
}

/* Where the state after the token at `position` of a row's sequence is kept; NULL: the page
 * table is wrong. */
static uint64_t *state_slot(const serverd_kv *kv, const serverd_batch *batch, uint32_t row,
                            uint32_t position)
{
    uint32_t page = entry_of(batch->page_table, batch, row, position);
    return page < kv->n_pages ? &kv->state[page][position % SERVERD_PAGE_TOKENS] : NULL;
}

/* And where layers with a window have it. */
static uint64_t *window_slot(const serverd_kv *kv, const serverd_batch *batch, uint32_t row,
                             uint32_t position)
{
    bool is_apart = kv->n_window_pages > 0;
    uint32_t page =
        entry_of(is_apart ? batch->window_table : batch->page_table, batch, row, position);
    return page < (is_apart ? kv->n_window_pages : kv->n_pages)
               ? &kv->window_state[page][position % SERVERD_PAGE_TOKENS]
               : NULL;
}

/* The row's own state goes into the window's layers; *state is another one from here on if they
 * show another sequence than the pages do. False: the window table is wrong. */
static bool look_through_window(const serverd_kv *kv, const serverd_batch *batch, uint32_t row,
                                uint32_t position, uint64_t *state)
{
    uint64_t *own = window_slot(kv, batch, row, position);
    if (!own)
        return false;
    *own = *state;
    for (uint32_t p = position + 1 > kv->window ? position + 1 - kv->window : 0; p < position;
         p++) {
        const uint64_t *seen = window_slot(kv, batch, row, p);
        const uint64_t *expected = state_slot(kv, batch, row, p);
        if (!seen || !expected)
            return false;
        if (*seen != *expected)
            *state = hash_mix(*state ^ *seen);
    }
    return true;
}

/* The state after row `row`. An encoder's rows follow each other without pages. */
static serverd_status row_state(const serverd_kv *kv, const serverd_batch *batch, uint32_t row,
                                uint64_t before, uint64_t *after, serverd_error *err)
{
    int32_t position = batch->position[row];
    if (position < 0)
        return fail(err, SERVERD_INTERNAL, "null: row %u is at position %d", row, position);
    if (!kv) {
        uint64_t state = position == 0 ? NULL_MODEL_EMPTY : before;
        *after = null_model_next(state, batch->token[row], (uint32_t)position);
        return SERVERD_OK;
    }
    uint64_t *slot = state_slot(kv, batch, row, (uint32_t)position);
    uint64_t *previous = position == 0 ? NULL : state_slot(kv, batch, row, (uint32_t)position - 1);
    if (!slot || (position > 0 && !previous))
        return fail(err, SERVERD_INTERNAL, "null: row %u at position %d has no valid page", row,
                    position);
    *slot = null_model_next(previous ? *previous : NULL_MODEL_EMPTY, batch->token[row],
                            (uint32_t)position);
    if (kv->window > 0 && !look_through_window(kv, batch, row, (uint32_t)position, slot))
        return fail(err, SERVERD_INTERNAL, "null: row %u at position %d has no valid window page",
                    row, position);
    *after = *slot;
    return SERVERD_OK;
}

static void write_row(const serverd_handle *handle, int32_t best, float *row)
{
    memset(row, 0, handle->n_out * sizeof *row);
    row[best] = BEST_LOGIT;
}

/* The best of the row as it is. */
static bool is_plain(const serverd_draw *draw)
{
    return draw->kind == SERVERD_DRAW_BEST && draw->n_changes == 0 && draw->mask == SERVERD_NO_MASK;
}

/* Of logit row number `index`, or only which token is drawn: then its row is noise. It is unsure
 * now and then without a reason. Of a large vocabulary plain_draw, which sorts it, would take most
 * of a server's time. */
static void write_logits(const serverd_handle *handle, const serverd_batch *batch, uint32_t index,
                         uint64_t state, float *out)
{
    const serverd_instance *instance = handle->instance;
    const int32_t last = batch->token[batch->logit_row[index]],
                  best = null_model_answer(state, last, instance->repeat, instance->min_token,
                                           handle->n_out);
    float *row = out + (size_t)index * handle->n_out;
    handle->answer[index] = best;
    const serverd_draw *draw = batch->draw ? &batch->draw[index] : NULL;
    if (!draw || draw->kind == SERVERD_DRAW_LOGITS ||
        (handle->n_out > MAX_SORTED && !is_plain(draw))) {
        write_row(handle, best, row);
        return;
    }
    row[0] = NAN;
    if (hash_mix(state) % 100 < instance->unsure) {
        batch->drawn[index] = SERVERD_DRAWN_UNSURE;
    } else if (is_plain(draw)) {
        batch->drawn[index] = best;
    } else {
        write_row(handle, best, handle->row);
        batch->drawn[index] = plain_draw(batch, draw, handle->row, handle->order, handle->n_out);
    }
}

static serverd_status null_read_logits(serverd_handle *handle, uint32_t logit_row, float *out,
                                       serverd_error *err)
{
    if (logit_row >= handle->n_logit_rows)
        return fail(err, SERVERD_INTERNAL, "null: logit row %u of the last step's %u", logit_row,
                    handle->n_logit_rows);
    write_row(handle, handle->answer[logit_row], out);
    return SERVERD_OK;
}

/* A unit vector that depends on the whole sequence. */
static void write_embedding(const serverd_handle *handle, uint64_t state, float *out)
{
    memset(out, 0, handle->n_out * sizeof *out);
    out[null_model_token(state, 0, handle->n_out)] = 1.0f;
}

static serverd_status null_execute(serverd_handle *handle, const serverd_batch *batch,
                                   serverd_kv *kv, const float *const *inputs,
                                   float *const *outputs, serverd_error *err)
{
    (void)inputs;
    const serverd_instance *instance = handle->instance;
    float *out = outputs[0];
    uint32_t logit = 0;
    if (batch->n_logit_rows > handle->max_logit_rows)
        return fail(err, SERVERD_INTERNAL, "null: %u logit rows of %u", batch->n_logit_rows,
                    handle->max_logit_rows);
    const struct batch_bounds bounds = {.name = "null"};
    if (batch_check_draws(&bounds, batch, handle->n_out, err))
        return err->code;
    uint64_t state = NULL_MODEL_EMPTY;
    for (uint32_t row = 0; row < batch->n_rows; row++) {
        serverd_status status = row_state(kv, batch, row, state, &state, err);
        if (status != SERVERD_OK)
            return status;
        bool is_last = row + 1 == batch->n_rows || batch->row_seq[row + 1] != batch->row_seq[row];
        if (!kv && is_last)
            write_embedding(handle, state, out + (size_t)batch->row_seq[row] * handle->n_out);
        if (kv && logit < batch->n_logit_rows && batch->logit_row[logit] == row)
            write_logits(handle, batch, logit++, state, out);
    }
    handle->n_logit_rows = logit;
    if (instance->waits && instance->host->meanwhile)
        instance->host->meanwhile(instance->host->context);
    sleep_us(instance->step_us + (uint64_t)instance->row_us * batch->n_rows);
    return SERVERD_OK;
}

static void null_close(serverd_instance *instance)
{
    free(instance);
}

const serverd_delegate null_delegate = {
    .abi = SERVERD_DELEGATE_ABI,
    .struct_bytes = sizeof(serverd_delegate),
    .name = "null",
    .version = "1",
    .flags = SERVERD_DELEGATE_BY_NAME_ONLY,
    .devices = null_devices,
    .match = null_match,
    .form = null_form,
    .pack = null_pack,
    .open = null_open,
    .set_option = null_set_option,
    .load = null_load,
    .kv_page_bytes = null_kv_page_bytes,
    .kv_create = null_kv_create,
    .kv_zero = null_kv_zero,
    .kv_copy = null_kv_copy,
    .execute = null_execute,
    .kv_destroy = null_kv_destroy,
    .unload = null_unload,
    .close = null_close,
    .kv_identity = null_kv_identity,
    .kv_export = null_kv_export,
    .kv_import = null_kv_import,
    .kv_settle = null_kv_settle,
    .read_logits = null_read_logits,
};
