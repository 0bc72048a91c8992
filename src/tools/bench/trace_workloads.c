#include "tools/bench/trace_workloads.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/numeric.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_KINDS 3

/* One kind of requests. A prompt is one of the preambles and then tokens of its own. */
struct kind {
    const char *class; /* NULL: no further kind */
    const char *key;   /* NULL: none */
    double share;      /* of the requests */
    uint32_t n_keys;   /* over 1: "key-0", "key-1", ... in turn */
    uint32_t n_preambles, preamble_tokens;
    uint32_t own_min, own_max, output_min, output_max;
    uint32_t n_turns;   /* over 1: a conversation, whose prompts hold all turns before */
    double at_s, gap_s; /* over 0: the first comes then, the others so much later each; a
                         * conversation's turns come so much later in any case */
};

struct shape {
    uint32_t n;
    struct kind kinds[MAX_KINDS];
};

static const struct shape shapes[] = {
    [TRACE_HOT_COLD] = {1000,
                        {{.class = "hot",
                          .share = 0.95,
                          .n_preambles = 4,
                          .preamble_tokens = 1024,
                          .own_min = 16,
                          .own_max = 64,
                          .output_min = 32,
                          .output_max = 128},
                         {.class = "cold",
                          .share = 0.05,
                          .own_min = 512,
                          .own_max = 1536,
                          .output_min = 32,
                          .output_max = 128}}},
    [TRACE_TENANTS] = {500,
                       {{.class = "greedy",
                         .key = "greedy",
                         .share = 0.9,
                         .own_min = 256,
                         .own_max = 1024,
                         .output_min = 32,
                         .output_max = 128},
                        {.class = "little",
                         .key = "little",
                         .n_keys = 4,
                         .share = 0.1,
                         .own_min = 256,
                         .own_max = 1024,
                         .output_min = 32,
                         .output_max = 128}}},
    [TRACE_MULTITURN] = {128,
                         {{.class = "turn",
                           .share = 1,
                           .n_preambles = 1,
                           .preamble_tokens = 256,
                           .own_min = 24,
                           .own_max = 48,
                           .output_min = 32,
                           .output_max = 32,
                           .n_turns = 4,
                           .gap_s = 5}}},
    [TRACE_PREAMBLES] = {192,
                         {{.class = "question",
                           .share = 1,
                           .n_preambles = 24,
                           .preamble_tokens = 800,
                           .own_min = 16,
                           .own_max = 32,
                           .output_min = 32,
                           .output_max = 32}}},
    [TRACE_MIXED] = {600,
                     {{.class = "shared",
                       .share = 0.5,
                       .n_preambles = 1,
                       .preamble_tokens = 784,
                       .own_min = 16,
                       .own_max = 716,
                       .output_min = 16,
                       .output_max = 128},
                      {.class = "alone",
                       .share = 0.5,
                       .own_min = 100,
                       .own_max = 1500,
                       .output_min = 16,
                       .output_max = 128}}},
    [TRACE_LONG_BEHIND_STREAMS] = {9,
                                   {{.class = "stream",
                                     .share = 8.0 / 9,
                                     .own_min = 64,
                                     .own_max = 64,
                                     .output_min = 1024,
                                     .output_max = 1024},
                                    {.class = "long",
                                     .share = 1.0 / 9,
                                     .own_min = 4096,
                                     .own_max = 4096,
                                     .output_min = 1,
                                     .output_max = 1,
                                     .at_s = 2,
                                     .gap_s = 5}}},
};

/* A request before it has its place in the trace. */
struct draft {
    uint64_t arrival_ns, order;
    const struct kind *kind;
    uint64_t stream; /* the first of the kind's streams of random numbers */
    uint32_t index;  /* of its kind; the turns of a conversation have the same */
    uint32_t turn, n_own, n_output;
};

struct maker {
    const struct trace_workload_options *options;
    struct trace *trace;
    struct draft *drafts;
    uint32_t n;
};

static uint64_t number(const struct maker *maker, uint64_t stream, uint64_t index)
{
    return hash_mix(hash_mix(maker->options->seed ^ hash_mix(stream)) + index);
}

static uint32_t between(uint64_t number, uint32_t min, uint32_t max)
{
    return min + (uint32_t)(number % (max - min + 1));
}

/* Ids of 52 bits are exact in every JSON reader. */
static uint64_t preamble_id(const struct maker *maker, const struct draft *d)
{
    uint32_t preamble = d->index % d->kind->n_preambles;
    return number(maker, d->stream + 3, preamble) >> 12;
}

static uint64_t own_id(const struct maker *maker, const struct draft *d, uint32_t turn)
{
    return number(maker, d->stream + 4 + turn, d->index) >> 12;
}

static uint32_t whole_blocks(const struct trace *trace, uint32_t n_tokens)
{
    uint32_t block = trace->block_tokens;
    return (n_tokens + block - 1) / block * block;
}

static void draft_kind(struct maker *maker, const struct kind *kind, uint32_t kind_index,
                       uint32_t n)
{
    uint32_t n_turns = kind->n_turns > 1 ? kind->n_turns : 1;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t talk = i / n_turns;
        uint64_t stream = (kind_index + 1) * UINT64_C(1000);
        maker->drafts[maker->n++] = (struct draft){
            .order = number(maker, stream, n_turns > 1 ? talk : i),
            .kind = kind,
            .stream = stream,
            .index = talk,
            .turn = i % n_turns,
            .n_own = between(number(maker, stream + 1, i), kind->own_min, kind->own_max),
            .n_output = between(number(maker, stream + 2, i), kind->output_min, kind->output_max),
        };
    }
}

static int compare_order(const void *a, const void *b)
{
    const struct draft *x = a, *y = b;
    if (x->order != y->order)
        return x->order < y->order ? -1 : 1;
    return x->turn < y->turn ? -1 : x->turn > y->turn;
}

static int compare_arrival(const void *a, const void *b)
{
    const struct draft *x = a, *y = b;
    if (x->arrival_ns != y->arrival_ns)
        return x->arrival_ns < y->arrival_ns ? -1 : 1;
    return compare_order(a, b);
}

/* As exact as it is written. */
static uint64_t whole_us(double seconds)
{
    return (uint64_t)(seconds * 1e6) * 1000;
}

/* In random order, at a mean rate or all at once; what has its own times is outside of that. */
static void set_arrivals(struct maker *maker)
{
    double now_s = 0;
    qsort(maker->drafts, maker->n, sizeof *maker->drafts, compare_order);
    for (uint32_t i = 0; i < maker->n; i++) {
        struct draft *d = &maker->drafts[i];
        if (d->kind->at_s > 0) {
            d->arrival_ns = whole_us(d->kind->at_s + d->index * d->kind->gap_s);
            continue;
        }
        if (maker->options->rate > 0 && d->turn == 0) {
            double u = ((double)(number(maker, 1, i) >> 11) + 0.5) * 0x1p-53;
            now_s += -log(u) / maker->options->rate;
        }
        d->arrival_ns = whole_us(now_s + d->turn * d->kind->gap_s);
    }
    qsort(maker->drafts, maker->n, sizeof *maker->drafts, compare_arrival);
}

/* Turns of a conversation before this one: question, answer, and the rest of their last block. */
static serverd_status add_history(struct maker *maker, const struct draft *d, serverd_error *err)
{
    uint32_t n = whole_blocks(maker->trace, d->kind->own_max + d->kind->output_max);
    for (uint32_t turn = 0; turn < d->turn; turn++)
        if (trace_add_tokens(maker->trace, own_id(maker, d, turn), n, err))
            return err->code;
    return SERVERD_OK;
}

static serverd_status name_key(struct maker *maker, const struct draft *d, uint32_t *key,
                               serverd_error *err)
{
    char text[TRACE_NAME_BYTES];
    const struct kind *kind = d->kind;
    if (kind->n_keys > 1)
        (void)snprintf(text, sizeof text, "%s-%u", kind->key, d->index % kind->n_keys);
    else
        (void)snprintf(text, sizeof text, "%s", kind->key ? kind->key : "");
    return trace_name(maker->trace, text, key, err);
}

static serverd_status add_draft(struct maker *maker, const struct draft *d, serverd_error *err)
{
    const struct kind *kind = d->kind;
    struct trace_request r = {.arrival_ns = d->arrival_ns, .n_output = d->n_output};
    if (name_key(maker, d, &r.key, err) || trace_name(maker->trace, kind->class, &r.class, err))
        return err->code;
    if (kind->n_preambles > 0) {
        uint32_t n = whole_blocks(maker->trace, kind->preamble_tokens);
        if (trace_add_tokens(maker->trace, preamble_id(maker, d), n, err))
            return err->code;
    }
    if (add_history(maker, d, err) ||
        trace_add_tokens(maker->trace, own_id(maker, d, d->turn), d->n_own, err))
        return err->code;
    return trace_add_request(maker->trace, &r, err);
}

serverd_status trace_generate(struct trace *trace, const struct trace_workload_options *options,
                              serverd_error *err)
{
    const struct shape *shape = &shapes[options->workload];
    uint32_t n = options->n ? options->n : shape->n, n_left = n;
    struct maker maker = {.options = options, .trace = trace};
    maker.drafts = calloc(n, sizeof *maker.drafts);
    if (!maker.drafts)
        return fail(err, SERVERD_NOMEM, "no memory for %u requests", n);
    for (uint32_t k = 0; k < MAX_KINDS && shape->kinds[k].class; k++) {
        bool is_last = k + 1 == MAX_KINDS || !shape->kinds[k + 1].class;
        uint32_t n_kind = (uint32_t)min_size(llround(n * shape->kinds[k].share), n_left);
        draft_kind(&maker, &shape->kinds[k], k, is_last ? n_left : n_kind);
        n_left -= is_last ? n_left : n_kind;
    }
    set_arrivals(&maker);
    serverd_status status = SERVERD_OK;
    for (uint32_t i = 0; i < n && status == SERVERD_OK; i++)
        status = add_draft(&maker, &maker.drafts[i], err);
    free(maker.drafts);
    return status;
}
