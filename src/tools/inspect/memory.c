#include "tools/inspect/memory.h"

#include "base/clock.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "runtime/runtime.h"

/* Rows of logits beside one for each running sequence, as tools/model.c has them. */
#define SPARE_LOGIT_ROWS 16

/* What the process is before it has a model: the pages of its code and of the libraries' that are
 * run, stacks, metrics, the log's ring as far as it is used, malloc's own. Measured. */
#define PROCESS_BYTES (7 * MIB + 512 * KIB)

/* For each running request: its connection, its arena, the samplers. */
#define REQUEST_BYTES (64 * KIB)

/* For each token of a context: prompt and output; the index of n-grams; the prefix tree's copy; the
 * text in the request's body, and its parsed form. */
#define TOKEN_BYTES 32u

/* For each page: its record in the pool, its place in a page table, in a sequence, in the tree. */
#define PAGE_RECORD_BYTES 64u

/* Per token of the vocabulary: what the one sampler that draws writes of its lists. */
#define CANDIDATE_BYTES 4u

static struct runtime_options runtime_options(const struct subject *subject,
                                              const struct memory_options *options,
                                              uint32_t context, uint32_t seqs)
{
    uint32_t max_rows = options->prefill_chunk + seqs;
    if (subject->program->config.is_encoder) /* a whole input is one chunk */
        max_rows = (uint32_t)max_size(max_rows, context);
    return (struct runtime_options){.delegates = subject->delegates.items,
                                    .n_delegates = subject->delegates.n,
                                    .device = options->device,
                                    .place = options->place,
                                    .pool = subject->pool,
                                    .clock = &system_clock,
                                    .limits = {.struct_bytes = sizeof(serverd_limits),
                                               .max_rows = max_rows,
                                               .max_logit_rows = seqs + SPARE_LOGIT_ROWS,
                                               .max_seqs = seqs,
                                               .max_context = context},
                                    .kv_dtype = options->kv_dtype,
                                    .wants_window_pages = true};
}

static uint64_t engine_bytes(const struct program_config *config, uint32_t context, uint32_t seqs)
{
    uint64_t tokens = (uint64_t)context * seqs;
    if (config->is_encoder)
        return (uint64_t)seqs * config->n_embd * sizeof(float) + tokens * TOKEN_BYTES;
    return (uint64_t)seqs * config->n_vocab * sizeof(float) +
           (uint64_t)config->n_vocab * CANDIDATE_BYTES + tokens * TOKEN_BYTES +
           tokens / SERVERD_PAGE_TOKENS * PAGE_RECORD_BYTES;
}

serverd_status memory_predict(const struct subject *subject, const struct memory_options *options,
                              struct memory_facts *out, serverd_error *err)
{
    const struct program_config *config = &subject->program->config;
    uint32_t context = options->context, seqs = options->seqs;
    if (context == 0 || (config->is_encoder && context > config->context_length))
        context = config->context_length;
    const struct runtime_options opening = runtime_options(subject, options, context, seqs);
    const struct runtime_options single = runtime_options(subject, options, context, 1);
    struct runtime_memory memory, one;
    serverd_status status = runtime_predict(subject->program, &opening, &memory, err);
    if (status == SERVERD_OK)
        status = runtime_predict(subject->program, &single, &one, err);
    if (status != SERVERD_OK)
        return status;
    *out = (struct memory_facts){.context = context,
                                 .seqs = seqs,
                                 /* window pages are rounded */
                                 .is_whole = memory.kv >= one.kv / 8 * 7 * seqs,
                                 /* only some rows of a table are read, but the kernel maps up to
                                  * two megabytes around each: soon all of it is there */
                                 .mapped = memory.mapped + memory.gathered,
                                 .packed = memory.packed,
                                 .activation = memory.activation,
                                 .unshared = memory.unshared,
                                 .scratch = memory.scratch,
                                 .kv = memory.kv,
                                 .engine = memory.table + engine_bytes(config, context, seqs),
                                 .process = PROCESS_BYTES + seqs * REQUEST_BYTES};
    out->peak = out->mapped + out->packed + out->activation + out->scratch + out->kv + out->engine +
                out->process;
    return SERVERD_OK;
}
