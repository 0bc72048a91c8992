#include "tools/bench/virtual_device.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "program/dtype.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BEST_LOGIT 16.0f

struct serverd_instance {
    char nothing;
};

struct serverd_handle {
    struct virtual_machine *machine;
    uint32_t n_vocab;
};

/* Which token each place of the pool holds. */
struct serverd_kv {
    uint32_t n_pages;
    int32_t (*token)[SERVERD_PAGE_TOKENS];
};

/* ---- clock and price ------------------------------------------------------------------------- */

static uint64_t virtual_now_ns(void *context)
{
    const struct virtual_machine *machine = context;
    return machine->now_ns;
}

static int64_t virtual_wall_seconds(void *context)
{
    const struct virtual_machine *machine = context;
    return (int64_t)(machine->now_ns / 1000000000u);
}

struct clock virtual_clock(struct virtual_machine *machine)
{
    return (struct clock){virtual_now_ns, virtual_wall_seconds, machine};
}

double step_price_ms(const struct step_price *price, uint32_t n_rows, uint32_t n_seqs,
                     uint64_t context)
{
    return fmax(price->step_ms, n_rows * price->row_ms) + n_seqs * price->sequence_ms +
           (double)context * price->context_us * 1e-3;
}

/* ---- the program ----------------------------------------------------------------------------- */

static serverd_tensor *make_tensor(struct program *program, struct virtual_machine *machine)
{
    struct virtual_machine **constant = arena_alloc(program->arena, sizeof *constant);
    serverd_tensor *tensor = arena_alloc(program->arena, sizeof *tensor);
    if (!constant || !tensor)
        return NULL;
    *constant = machine;
    *tensor = (serverd_tensor){.struct_bytes = sizeof *tensor,
                               .dtype = DTYPE_F32,
                               .name = "machine",
                               .rank = 1,
                               .dims = {sizeof(void *) / sizeof(float)},
                               .data = constant,
                               .bytes = sizeof(void *)};
    return tensor;
}

/* One node from the constant to the logits: that there is one is all that anybody asks. */
static bool make_graph(struct program *program, struct virtual_machine *machine, uint32_t n_vocab)
{
    static const serverd_node node = {
        .op = SERVERD_OP_EMBED, .n_inputs = 1, .n_outputs = 1, .layer = UINT32_MAX};
    static const uint32_t operands[] = {0, 1};
    static const serverd_kv_layer layer = {.n_kv_heads = 1, .k_dim = 1, .v_dim = 1};
    serverd_tensor *tensor = make_tensor(program, machine);
    serverd_value *values = arena_array(program->arena, 2, sizeof *values);
    if (!tensor || !values)
        return false;
    values[0] = (serverd_value){.kind = SERVERD_VALUE_CONSTANT,
                                .rank = 1,
                                .producer = UINT32_MAX,
                                .dims = {(int64_t)tensor->dims[0]}};
    values[1] = (serverd_value){
        .kind = SERVERD_VALUE_ACTIVATION, .rank = 2, .dims = {SERVERD_DIM_ROWS, n_vocab}};
    program->graph = (serverd_graph){.struct_bytes = sizeof program->graph,
                                     .n_tensors = 1,
                                     .n_values = 2,
                                     .n_nodes = 1,
                                     .n_operands = 2,
                                     .output = 1,
                                     .tensors = tensor,
                                     .values = values,
                                     .nodes = &node,
                                     .operands = operands};
    program->kv =
        (serverd_kv_spec){.struct_bytes = sizeof program->kv, .n_layers = 1, .layers = &layer};
    program->config.n_vocab = program->config.n_embd = n_vocab;
    return true;
}

static bool make_vocabulary(struct program *program, uint32_t n_vocab)
{
    static const char *const controls[] = {"<unk>", "<s>", "</s>"};
    struct token_text *token = arena_array(program->arena, n_vocab, sizeof *token);
    if (!token)
        return false;
    for (uint32_t i = 0; i < n_vocab; i++) {
        char text[16];
        int len = snprintf(text, sizeof text, "%s", i < 3 ? controls[i] : "");
        if (i >= 3)
            len = snprintf(text, sizeof text, "t%u", i);
        token[i] = (struct token_text){.bytes = arena_copy(program->arena, text, (size_t)len),
                                       .len = (uint32_t)len,
                                       .type = i == 0  ? TOKEN_UNKNOWN
                                               : i < 3 ? TOKEN_CONTROL
                                                       : TOKEN_NORMAL};
        if (!token[i].bytes)
            return false;
    }
    struct vocabulary *v = &program->vocabulary;
    *v = (struct vocabulary){.kind = VOCABULARY_SPM, .n_tokens = n_vocab, .token = token};
    v->unknown = 0;
    v->bos = 1;
    v->eos = 2;
    v->eot = v->eom = v->separator = v->padding = v->cls = v->mask = -1;
    v->fim_prefix = v->fim_suffix = v->fim_middle = -1;
    v->fim_pad = v->fim_repo = v->fim_separator = -1;
    return true;
}

struct program *virtual_program(struct virtual_machine *machine, uint32_t n_vocab)
{
    struct program *program = program_create(16 * MIB);
    if (program && make_graph(program, machine, n_vocab) && make_vocabulary(program, n_vocab))
        return program;
    program_unref(program);
    return NULL;
}

/* ---- the delegate's life --------------------------------------------------------------------- */

static serverd_status virtual_devices(const serverd_host *host, serverd_device *out, uint32_t cap,
                                      uint32_t *n, serverd_error *err)
{
    (void)host, (void)err;
    if (cap > 0) {
        out[0] = (serverd_device){.struct_bytes = sizeof out[0], .free_bytes = UINT64_C(1) << 40};
        out[0].memory_bytes = out[0].free_bytes;
        (void)snprintf(out[0].name, sizeof out[0].name, "virtual time");
    }
    *n = 1;
    return SERVERD_OK;
}

static serverd_status virtual_match(const serverd_host *host, const serverd_graph *graph,
                                    uint32_t node, serverd_claim *out, serverd_error *err)
{
    (void)host, (void)err;
    *out = (serverd_claim){.struct_bytes = sizeof *out, .n_nodes = graph->n_nodes - node};
    return SERVERD_OK;
}

static serverd_status virtual_form(const serverd_tensor *tensor, serverd_form *out,
                                   serverd_error *err)
{
    (void)err;
    *out = (serverd_form){.struct_bytes = sizeof *out,
                          .layout = SERVERD_LAYOUT_ROWS,
                          .bytes = tensor->bytes,
                          .alignment = 1};
    return SERVERD_OK;
}

static serverd_status virtual_pack(const serverd_tensor *tensor, const serverd_form *form,
                                   uint64_t first_row, uint64_t n_rows, void *dst,
                                   serverd_error *err)
{
    (void)form, (void)first_row, (void)n_rows, (void)dst;
    return fail(err, SERVERD_INTERNAL, "virtual: %s needs no packing", tensor->name);
}

static serverd_status virtual_open(const serverd_host *host, const serverd_device *device,
                                   serverd_instance **out, serverd_error *err)
{
    (void)host, (void)device;
    *out = calloc(1, sizeof **out);
    return *out ? SERVERD_OK : fail(err, SERVERD_NOMEM, "virtual: no memory");
}

static serverd_status virtual_load(serverd_instance *instance, const serverd_graph *graph,
                                   const serverd_partition *partition, const void *const *packed,
                                   const serverd_limits *limits, const serverd_kv_spec *kv,
                                   serverd_handle **out, serverd_error *err)
{
    (void)instance, (void)partition, (void)packed, (void)limits;
    if (!kv || graph->n_tensors != 1 || graph->tensors[0].bytes != sizeof(void *))
        return fail(err, SERVERD_UNSUPPORTED, "virtual: runs only models of its own");
    serverd_handle *handle = calloc(1, sizeof *handle);
    if (!handle)
        return fail(err, SERVERD_NOMEM, "virtual: no memory");
    memcpy(&handle->machine, graph->tensors[0].data, sizeof handle->machine);
    handle->n_vocab = (uint32_t)graph->values[graph->output].dims[1];
    *out = handle;
    return SERVERD_OK;
}

static void virtual_unload(serverd_handle *handle)
{
    free(handle);
}

static void virtual_close(serverd_instance *instance)
{
    free(instance);
}

/* ---- pages ----------------------------------------------------------------------------------- */

static serverd_status virtual_kv_page_bytes(serverd_instance *instance, const serverd_kv_spec *spec,
                                            serverd_kv_bytes *out, serverd_error *err)
{
    (void)instance, (void)spec, (void)err;
    *out = (serverd_kv_bytes){.page = SERVERD_PAGE_TOKENS * sizeof(int32_t)};
    return SERVERD_OK;
}

static serverd_status virtual_kv_create(serverd_instance *instance, const serverd_kv_spec *spec,
                                        uint32_t n_pages, uint32_t n_window_pages, serverd_kv **out,
                                        serverd_error *err)
{
    (void)instance, (void)spec, (void)n_window_pages; /* no layer of its model has a window */
    serverd_kv *kv = calloc(1, sizeof *kv);
    if (kv)
        kv->token = calloc(max_size(n_pages, 1), sizeof *kv->token);
    if (!kv || !kv->token) {
        free(kv);
        return fail(err, SERVERD_NOMEM, "virtual: no memory for %u pages", n_pages);
    }
    kv->n_pages = n_pages;
    *out = kv;
    return SERVERD_OK;
}

static void virtual_kv_destroy(serverd_kv *kv)
{
    free(kv->token);
    free(kv);
}

/* What was in a page is overwritten before it is read. */
static serverd_status virtual_kv_zero(serverd_kv *kv, const serverd_kv_page *pages, uint32_t n,
                                      serverd_error *err)
{
    (void)kv, (void)pages, (void)n, (void)err;
    return SERVERD_OK;
}

static serverd_status virtual_kv_copy(serverd_kv *kv, serverd_kv_page from, serverd_kv_page to,
                                      uint32_t n_tokens, serverd_error *err)
{
    if (from.page >= kv->n_pages || to.page >= kv->n_pages || n_tokens > SERVERD_PAGE_TOKENS)
        return fail(err, SERVERD_INTERNAL, "virtual: cannot copy %u tokens of page %u to %u",
                    n_tokens, from.page, to.page);
    memmove(kv->token[to.page], kv->token[from.page], n_tokens * sizeof kv->token[0][0]);
    return SERVERD_OK;
}

/* ---- a step ---------------------------------------------------------------------------------- */

/* The place of a sequence's token; NULL: the page table is wrong. */
static int32_t *place(const serverd_kv *kv, const serverd_batch *batch, uint32_t seq,
                      uint32_t position)
{
    uint32_t entry = position / SERVERD_PAGE_TOKENS;
    if (entry >= batch->max_pages)
        return NULL;
    uint32_t page = batch->page_table[(size_t)seq * batch->max_pages + entry];
    return page < kv->n_pages ? &kv->token[page][position % SERVERD_PAGE_TOKENS] : NULL;
}

/* What comes behind a row: the token that stands a page's length before it, or in a sequence that
 * is no longer than that the row's own. */
static const int32_t *next_token(const serverd_kv *kv, const serverd_batch *batch, uint32_t row)
{
    uint32_t next = (uint32_t)batch->position[row] + 1;
    return next < SERVERD_PAGE_TOKENS
               ? &batch->token[row]
               : place(kv, batch, batch->row_seq[row], next - SERVERD_PAGE_TOKENS);
}

static serverd_status write_logits(const serverd_handle *handle, const serverd_batch *batch,
                                   const serverd_kv *kv, float *out, serverd_error *err)
{
    memset(out, 0, (size_t)batch->n_logit_rows * handle->n_vocab * sizeof *out);
    for (uint32_t i = 0; i < batch->n_logit_rows; i++) {
        const int32_t *token = next_token(kv, batch, batch->logit_row[i]);
        if (!token || *token < 0 || (uint32_t)*token >= handle->n_vocab)
            return fail(err, SERVERD_INTERNAL, "virtual: row %u has no valid page",
                        batch->logit_row[i]);
        out[(size_t)i * handle->n_vocab + (uint32_t)*token] = BEST_LOGIT;
    }
    return SERVERD_OK;
}

static serverd_status virtual_execute(serverd_handle *handle, const serverd_batch *batch,
                                      serverd_kv *kv, const float *const *inputs,
                                      float *const *outputs, serverd_error *err)
{
    (void)inputs;
    struct virtual_machine *machine = handle->machine;
    uint64_t begin_ns = clock_now_ns(&system_clock), context = 0;
    for (uint32_t row = 0; row < batch->n_rows; row++) {
        int32_t *token = place(kv, batch, batch->row_seq[row], (uint32_t)batch->position[row]);
        if (!token)
            return fail(err, SERVERD_INTERNAL, "virtual: row %u has no valid page", row);
        *token = batch->token[row];
        context += (uint64_t)batch->position[row] + 1;
    }
    serverd_status status = write_logits(handle, batch, kv, outputs[0], err);
    double ms = step_price_ms(&machine->price, batch->n_rows, batch->n_seqs, context);
    uint64_t ns = (uint64_t)(ms * 1e6);
    machine->now_ns += ns;
    machine->busy_ns += ns;
    machine->n_steps++;
    machine->n_rows += batch->n_rows;
    machine->real_ns += clock_now_ns(&system_clock) - begin_ns;
    return status;
}

const serverd_delegate virtual_delegate = {
    .abi = SERVERD_DELEGATE_ABI,
    .struct_bytes = sizeof(serverd_delegate),
    .name = "virtual",
    .version = "1",
    .flags = SERVERD_DELEGATE_BY_NAME_ONLY,
    .devices = virtual_devices,
    .match = virtual_match,
    .form = virtual_form,
    .pack = virtual_pack,
    .open = virtual_open,
    .load = virtual_load,
    .kv_page_bytes = virtual_kv_page_bytes,
    .kv_create = virtual_kv_create,
    .kv_zero = virtual_kv_zero,
    .kv_copy = virtual_kv_copy,
    .execute = virtual_execute,
    .kv_destroy = virtual_kv_destroy,
    .unload = virtual_unload,
    .close = virtual_close,
};
