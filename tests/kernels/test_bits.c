/* The CPU back-end and the reference give a row the same bits alone, in any batch, in any chunks,
 * on any number of threads and on any instruction-set level. Synthetic models of every
 * architecture; argument: none.
 */
#include "base/clock.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "kernels/builtin.h"
#include "kernels/cpu/cpu_kernels.h"
#include "program/dtype.h"
#include "runtime/runtime.h"
#include "support/synthetic_program.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum {
    PAGE = SERVERD_PAGE_TOKENS,
    N_TOKENS = PAGE > 16 ? 2 * PAGE + 13 : 45, /* more than two pages */
    N_COPIED = 20,
    LONG_TOKENS = 290, /* past the first attention segment */
    CONTEXT = 304,
    MAX_PAGES = (CONTEXT + SERVERD_PAGE_TOKENS - 1) / SERVERD_PAGE_TOKENS,
    MAX_SEQS = 3,
    N_PAGES = MAX_PAGES * MAX_SEQS
};

static serverd_error err;

struct engine_under_test {
    struct program *program;
    struct worker_pool *pool;
    struct runtime *runtime;
    uint32_t width;        /* of an output row */
    uint32_t n_tokens;     /* of each sequence */
    uint32_t n_shared;     /* sequences begin with so many tokens of sequence 0 */
    bool has_shared_pages; /* and keep them in its pages */
    uint32_t wrong_from;   /* tokens from there on are others; 0: all are right */
};

static uint32_t widest_window(const struct program *program)
{
    uint32_t widest = 0;
    for (uint32_t i = 0; i < program->kv.n_layers; i++)
        if (program->kv.layers[i].window > widest)
            widest = program->kv.layers[i].window;
    return widest;
}

/* Layers with a window lie apart, if they are to and there are any. */
static struct engine_under_test open_with(struct program *program, const char *device,
                                          uint32_t n_threads, serverd_dtype kv, bool is_apart)
{
    struct engine_under_test e = {.program = program, .n_tokens = N_TOKENS};
    assert_int_equal(worker_pool_create(n_threads, &e.pool, &err), SERVERD_OK);
    const struct runtime_options options = {.delegates = builtin_delegates,
                                            .n_delegates = n_builtin_delegates,
                                            .device = device,
                                            .pool = e.pool,
                                            .clock = &system_clock,
                                            .limits = {.max_rows = MAX_SEQS * LONG_TOKENS,
                                                       .max_logit_rows = MAX_SEQS * LONG_TOKENS,
                                                       .max_seqs = MAX_SEQS + 1,
                                                       .max_context = CONTEXT},
                                            .kv_dtype = kv,
                                            .wants_window_pages = is_apart,
                                            .window_share = 0.9,
                                            .wants_kv_identity = true};
    if (runtime_open(program, &options, &e.runtime, &err) != SERVERD_OK)
        fail_msg("%s: %s", device, err.text);
    e.width = runtime_output_width(e.runtime);
    assert_int_equal(runtime_n_window_pages(e.runtime) >= N_PAGES,
                     is_apart && widest_window(program) > 0);
    return e;
}

static struct engine_under_test open_on(struct program *program, const char *device,
                                        uint32_t n_threads, serverd_dtype kv)
{
    return open_with(program, device, n_threads, kv, false);
}

static void close_engine(struct engine_under_test *e)
{
    runtime_close(e->runtime);
    worker_pool_destroy(e->pool);
}

/* Tokens of sequence `seq`; other sequences have other tokens. */
static int32_t token_of(const struct engine_under_test *e, uint32_t seq, uint32_t position)
{
    if (position < e->n_shared)
        seq = 0;
    if (e->wrong_from > 0 && position >= e->wrong_from)
        seq += 77;
    return (int32_t)(hash_mix(seq * 1000u + position) % e->program->vocabulary.n_tokens);
}

/* Scattered, one set for each sequence. */
static uint32_t page_of(const struct engine_under_test *e, uint32_t seq, uint32_t page)
{
    if (e->has_shared_pages && page < e->n_shared / SERVERD_PAGE_TOKENS)
        seq = 0;
    return page * MAX_SEQS + (seq + page) % MAX_SEQS;
}

/* Of that page, somewhere else. */
static uint32_t window_page_of(uint32_t page)
{
    return (page * 7 + 20) % N_PAGES;
}

/* What the delegate may look at: from the window of token `begin` on. */
static void fill_window_table(const struct engine_under_test *e, uint32_t begin,
                              const uint32_t *pages, uint32_t *out)
{
    uint32_t window = widest_window(e->program);
    uint32_t first = begin + 1 > window ? (begin + 1 - window) / SERVERD_PAGE_TOKENS : 0;
    for (uint32_t p = 0; p < MAX_PAGES; p++)
        out[p] = p < first ? SERVERD_NO_PAGE : window_page_of(pages[p]);
}

/* One step: tokens begin[s]..end[s]-1 of each sequence, all logits wanted. out [rows][width]. */
static serverd_status step(const struct engine_under_test *e, uint32_t n_seqs, const uint32_t *seqs,
                           const uint32_t *begin, const uint32_t *end, float *out)
{
    static int32_t token[MAX_SEQS * LONG_TOKENS], position[MAX_SEQS * LONG_TOKENS];
    static uint32_t row_seq[MAX_SEQS * LONG_TOKENS], rows[MAX_SEQS * LONG_TOKENS];
    uint32_t pages[MAX_SEQS * MAX_PAGES], windows[MAX_SEQS * MAX_PAGES], n = 0;
    for (uint32_t s = 0; s < n_seqs; s++) {
        for (uint32_t p = 0; p < MAX_PAGES; p++)
            pages[s * MAX_PAGES + p] = page_of(e, seqs[s], p);
        fill_window_table(e, begin[s], pages + s * MAX_PAGES, windows + s * MAX_PAGES);
        for (uint32_t i = begin[s]; i < end[s]; i++, n++) {
            token[n] = token_of(e, seqs[s], i);
            position[n] = (int32_t)i;
            row_seq[n] = s;
            rows[n] = n;
        }
    }
    const serverd_batch batch = {.struct_bytes = sizeof batch,
                                 .n_rows = n,
                                 .n_seqs = n_seqs,
                                 .n_logit_rows = n,
                                 .token = token,
                                 .position = position,
                                 .row_seq = row_seq,
                                 .page_table = pages,
                                 .max_pages = MAX_PAGES,
                                 .window_table =
                                     runtime_n_window_pages(e->runtime) > 0 ? windows : NULL,
                                 .logit_row = rows};
    return runtime_execute(e->runtime, &batch, out, &err);
}

/* All logits of sequence `seq`, computed in chunks. */
static void run_alone(const struct engine_under_test *e, uint32_t seq, uint32_t chunk, float *out)
{
    for (uint32_t begin = 0; begin < e->n_tokens; begin += chunk) {
        uint32_t end = begin + chunk < e->n_tokens ? begin + chunk : e->n_tokens;
        if (step(e, 1, &seq, &begin, &end, out + (size_t)begin * e->width) != SERVERD_OK)
            fail_msg("%s", err.text);
    }
}

static void assert_same_bits(const float *a, const float *b, size_t n, const char *what,
                             uint32_t number)
{
    if (memcmp(a, b, n * sizeof *a) == 0)
        return;
    size_t i = 0;
    while (memcmp(a + i, b + i, sizeof *a) == 0)
        i++;
    fail_msg("%s %u: element %zu is %a, expected %a", what, number, i, (double)b[i], (double)a[i]);
}

static void check_chunks(const struct engine_under_test *e, const float *expected, float *out)
{
    const uint32_t chunks[] = {1, 2, 7, 16, 17, 31, e->n_tokens};
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        run_alone(e, 0, chunks[i], out);
        assert_same_bits(expected, out, (size_t)e->n_tokens * e->width, "chunks of", chunks[i]);
    }
}

/* Three sequences at different positions from `first` on, decode rows and chunks mixed. */
static void check_batches(const struct engine_under_test *e, uint32_t first,
                          float *expected[MAX_SEQS], float *out)
{
    static const uint32_t seqs[MAX_SEQS] = {0, 1, 2};
    for (uint64_t seed = 0; seed < 3; seed++) {
        uint32_t at[MAX_SEQS] = {first, first, first};
        uint64_t random = seed;
        while (at[0] < e->n_tokens || at[1] < e->n_tokens || at[2] < e->n_tokens) {
            uint32_t who[MAX_SEQS], begin[MAX_SEQS], end[MAX_SEQS], n = 0;
            for (uint32_t s = 0; s < MAX_SEQS; s++) {
                uint32_t take = (uint32_t)(hash_mix(++random + seed * 7919) % 9);
                take = at[s] + take > e->n_tokens ? e->n_tokens - at[s] : take;
                if (take == 0)
                    continue;
                who[n] = seqs[s];
                begin[n] = at[s];
                end[n++] = at[s] += take;
            }
            if (n == 0)
                continue;
            assert_int_equal(step(e, n, who, begin, end, out), SERVERD_OK);
            const float *row = out;
            for (uint32_t i = 0; i < n; i++) {
                size_t floats = (size_t)(end[i] - begin[i]) * e->width;
                assert_same_bits(expected[who[i]] + (size_t)begin[i] * e->width, row, floats,
                                 "batch with seed", (uint32_t)seed);
                row += floats;
            }
        }
    }
}

struct run {
    const char *isa, *device;
    uint32_t n_threads;
};

/* All runs against one on one thread of the first one's level. */
static void check_runs(struct program *program, const struct run *runs, size_t n_runs,
                       serverd_dtype kv, uint32_t n_tokens)
{
    struct engine_under_test first = open_on(program, runs[0].device, 1, kv);
    first.n_tokens = n_tokens;
    size_t floats = (size_t)MAX_SEQS * n_tokens * first.width;
    float *out = malloc(floats * sizeof *out), *expected[MAX_SEQS];
    assert_non_null(out);
    for (uint32_t s = 0; s < MAX_SEQS; s++) {
        expected[s] = malloc((size_t)n_tokens * first.width * sizeof(float));
        assert_non_null(expected[s]);
        run_alone(&first, s, n_tokens, expected[s]);
    }
    close_engine(&first);
    const size_t n_ways = widest_window(program) > 0 ? 2 : 1; /* with all layers together, apart */
    for (size_t i = 0; i < n_ways * n_runs; i++) {
        const struct run *run = &runs[i % n_runs];
        if (!cpu_kernels_named(run->isa))
            continue; /* not on this machine */
        struct engine_under_test e =
            open_with(program, run->device, run->n_threads, kv, i >= n_runs);
        e.n_tokens = n_tokens;
        check_chunks(&e, expected[0], out);
        check_batches(&e, 0, expected, out);
        close_engine(&e);
    }
    for (uint32_t s = 0; s < MAX_SEQS; s++)
        free(expected[s]);
    free(out);
}

/* Where pages are bf16, levels that multiply bf16 have attention of their own. */
static void check_decoder(const char *arch, const char *dtype, serverd_dtype kv, uint32_t n_tokens)
{
    static const struct run runs[] = {{"generic", "cpu:isa=generic", 1},
                                      {"generic", "cpu:isa=generic", 4},
                                      {"avx2", "cpu:isa=avx2", 2},
                                      {"avxvnni", "cpu:isa=avxvnni", 2},
                                      {"avx512", "cpu:isa=avx512", 3},
                                      {"avx512bf16", "cpu:isa=avx512bf16", 1},
                                      {"avx512bf16", "cpu:isa=avx512bf16", 3},
                                      {"amx", "cpu:isa=amx", 1},
                                      {"amx", "cpu:isa=amx", 3}};
    const size_t n_runs = sizeof runs / sizeof *runs, first_bf16 = 5;
    struct program *program = synthetic_program(arch, dtype);
    bool is_apart = kv == DTYPE_BF16;
    check_runs(program, runs, is_apart ? first_bf16 : n_runs, kv, n_tokens);
    if (is_apart && cpu_kernels_named(runs[first_bf16].isa))
        check_runs(program, runs + first_bf16, n_runs - first_bf16, kv, n_tokens);
    program_unref(program);
}

static void a_decoder_gives_the_same_bits_however_it_is_run(void **state)
{
    (void)state;
    static const char *const archs[] = {"llama",  "mistral3", "qwen2", "qwen3",
                                        "gemma2", "gemma3",   "phi3"};
    static const serverd_dtype kinds[] = {DTYPE_BF16, DTYPE_F16, DTYPE_I8, DTYPE_F32};
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++)
        check_decoder(archs[i], i == 2 ? "F32" : "Q8_0", kinds[i % 4], N_TOKENS);
    check_decoder("llama", "Q4_0", DTYPE_BF16, N_TOKENS);
    check_decoder("llama", "F16", DTYPE_I8, N_TOKENS);
}

static void the_reference_too(void **state)
{
    (void)state;
    static const char *const archs[] = {"llama",  "mistral3", "qwen2", "qwen3",
                                        "gemma2", "gemma3",   "phi3"};
    static const serverd_dtype kinds[] = {DTYPE_BF16, DTYPE_F16, DTYPE_I8, DTYPE_F32};
    static const struct run runs[] = {{"generic", "cpu-reference", 1},
                                      {"generic", "cpu-reference", 3}};
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++) {
        struct program *program = synthetic_program(archs[i], i % 2 ? "F32" : "Q4_0");
        check_runs(program, runs, sizeof runs / sizeof *runs, kinds[i % 4], N_TOKENS);
        program_unref(program);
    }
}

static void segments_of_a_long_context_are_merged_in_one_order(void **state)
{
    (void)state;
    check_decoder("llama", "Q8_0", DTYPE_BF16, LONG_TOKENS);
    check_decoder("gemma2", "Q4_0", DTYPE_I8, LONG_TOKENS);
}

/* Layers with a window see so many tokens: those of synthetic models see less than a page. */
static void widen_windows(struct program *program, uint32_t window)
{
    serverd_node *nodes = (serverd_node *)(uintptr_t)program->graph.nodes;
    serverd_kv_layer *layers = (serverd_kv_layer *)(uintptr_t)program->kv.layers;
    for (uint32_t i = 0; i < program->graph.n_nodes; i++)
        if (nodes[i].op == SERVERD_OP_ATTN && nodes[i].attributes.attn.window > 0)
            nodes[i].attributes.attn.window = window;
    for (uint32_t i = 0; i < program->kv.n_layers; i++)
        if (layers[i].window > 0)
            layers[i].window = window;
}

/* Sequences with the same beginning read it in the pages of one of them. */
static void check_shared_pages(const char *arch, serverd_dtype kv, bool is_apart, uint32_t window,
                               uint32_t n_shared, uint32_t n_tokens)
{
    struct program *program = synthetic_program(arch, "Q8_0");
    widen_windows(program, window);
    struct engine_under_test e = open_with(program, "cpu", 2, kv, is_apart);
    e.n_tokens = n_tokens;
    size_t floats = (size_t)n_tokens * e.width;
    float *out = malloc(MAX_SEQS * floats * sizeof *out), *expected[MAX_SEQS];
    assert_non_null(out);
    e.n_shared = n_shared;
    for (uint32_t s = 0; s < MAX_SEQS; s++) {
        expected[s] = malloc(floats * sizeof(float));
        assert_non_null(expected[s]);
        run_alone(&e, s, n_tokens, expected[s]);
    }
    e.has_shared_pages = true;
    check_batches(&e, n_shared, expected, out);
    for (uint32_t s = 0; s < MAX_SEQS; s++)
        free(expected[s]);
    free(out);
    close_engine(&e);
    program_unref(program);
}

static void sequences_share_the_pages_of_a_common_beginning(void **state)
{
    (void)state;
    /* a whole segment, which is run once for all of them */
    check_shared_pages("llama", DTYPE_BF16, false, 0, 256, LONG_TOKENS);
    check_shared_pages("llama", DTYPE_BF16, false, 0, 2 * SERVERD_PAGE_TOKENS, N_TOKENS);
    check_shared_pages("qwen3", DTYPE_F16, false, 0, 2 * SERVERD_PAGE_TOKENS, N_TOKENS);
    for (int is_apart = 0; is_apart < 2; is_apart++) {
        check_shared_pages("gemma2", DTYPE_I8, is_apart, 8, 256, LONG_TOKENS);
        /* sequences see the segment that they share from different pages on */
        check_shared_pages("gemma2", DTYPE_BF16, is_apart, 40, 256, LONG_TOKENS);
        check_shared_pages("gemma2", DTYPE_I8, is_apart, 130, 256, LONG_TOKENS);
        check_shared_pages("gemma3", DTYPE_I8, is_apart, 20, 2 * SERVERD_PAGE_TOKENS, N_TOKENS);
    }
}

/* Sequences of so many tokens, alone on one thread and together on some. */
static void check_encoder(const char *weights, const uint32_t *n_tokens)
{
    struct program *program = synthetic_program("bert", weights);
    float alone[MAX_SEQS][256], together[MAX_SEQS * 256];
    const uint32_t seqs[MAX_SEQS] = {0, 1, 2}, begin[MAX_SEQS] = {0};
    struct engine_under_test e = open_on(program, "cpu", 1, DTYPE_F32);
    assert_true(e.width <= 256);
    for (uint32_t s = 0; s < MAX_SEQS; s++)
        assert_int_equal(step(&e, 1, &seqs[s], begin, &n_tokens[s], alone[s]), SERVERD_OK);
    close_engine(&e);
    for (uint32_t n_threads = 2; n_threads < 5; n_threads++) {
        e = open_on(program, "cpu", n_threads, DTYPE_F32);
        for (int again = 0; again < 5; again++) {
            assert_int_equal(step(&e, MAX_SEQS, seqs, begin, n_tokens, together), SERVERD_OK);
            for (uint32_t s = 0; s < MAX_SEQS; s++)
                assert_same_bits(alone[s], together + s * e.width, e.width, "sequence", s);
        }
        close_engine(&e);
    }
    program_unref(program);
}

static void an_encoder_gives_the_same_bits_alone_and_batched(void **state)
{
    (void)state;
    check_encoder("F32", (const uint32_t[]){5, 45, 1});
    /* blocks of rows, which end within a sequence and within a page */
    check_encoder("F32", (const uint32_t[]){LONG_TOKENS, 45, LONG_TOKENS - 13});
    check_encoder("Q8_0", (const uint32_t[]){LONG_TOKENS, 45, LONG_TOKENS - 13});
}

static serverd_kv_page whole_page(const struct engine_under_test *e, uint32_t page)
{
    bool is_apart = runtime_n_window_pages(e->runtime) > 0;
    return (serverd_kv_page){page, is_apart ? window_page_of(page) : SERVERD_NO_PAGE};
}

/* A sequence goes on in copies of its pages as in the pages themselves. */
static void check_copied_pages(const char *device, bool is_apart)
{
    struct program *program = synthetic_program("gemma3", "F32");
    struct engine_under_test e = open_with(program, device, 2, DTYPE_BF16, is_apart);
    float *expected = malloc((size_t)N_TOKENS * e.width * sizeof *expected);
    float *out = malloc((size_t)N_TOKENS * e.width * sizeof *out);
    assert_true(expected && out);
    run_alone(&e, 0, N_TOKENS, expected);
    /* the first tokens of sequence 0 into the pages of sequence 1 */
    for (uint32_t p = 0; p * PAGE < N_COPIED; p++)
        assert_int_equal(runtime_kv_copy(e.runtime, whole_page(&e, p * MAX_SEQS + p % MAX_SEQS),
                                         whole_page(&e, p * MAX_SEQS + (1 + p) % MAX_SEQS),
                                         (uint32_t)min_size(PAGE, N_COPIED - p * PAGE), &err),
                         SERVERD_OK);
    int32_t token[N_TOKENS], position[N_TOKENS];
    uint32_t row_seq[N_TOKENS] = {0}, rows[N_TOKENS], pages[MAX_PAGES], n = N_TOKENS - N_COPIED;
    uint32_t windows[MAX_PAGES];
    const uint32_t next = N_COPIED / PAGE; /* the page that is written to first */
    for (uint32_t i = 0; i < n; i++) {
        token[i] = token_of(&e, 0, N_COPIED + i);
        position[i] = (int32_t)(N_COPIED + i);
        rows[i] = i;
    }
    for (uint32_t p = 0; p < MAX_PAGES; p++)
        pages[p] = p * MAX_SEQS + (1 + p) % MAX_SEQS;
    fill_window_table(&e, N_COPIED, pages, windows);
    serverd_batch batch = {.struct_bytes = sizeof batch,
                           .n_rows = n,
                           .n_seqs = 1,
                           .n_logit_rows = n,
                           .token = token,
                           .position = position,
                           .row_seq = row_seq,
                           .page_table = pages,
                           .max_pages = MAX_PAGES,
                           .window_table = is_apart ? windows : NULL,
                           .logit_row = rows};
    assert_int_equal(runtime_execute(e.runtime, &batch, out, &err), SERVERD_OK);
    assert_same_bits(expected + (size_t)N_COPIED * e.width, out, (size_t)n * e.width, "copy", 0);

    /* batches that are none are refused, each by what is wrong with it */
    position[3] = 299;
    assert_int_equal(runtime_execute(e.runtime, &batch, out, &err), SERVERD_INTERNAL);
    position[3] = N_COPIED + 3;
    token[2] = -1;
    assert_int_equal(runtime_execute(e.runtime, &batch, out, &err), SERVERD_INTERNAL);
    token[2] = 1 << 20;
    assert_int_equal(runtime_execute(e.runtime, &batch, out, &err), SERVERD_INTERNAL);
    token[2] = 5;
    row_seq[n - 1] = 2;
    assert_int_equal(runtime_execute(e.runtime, &batch, out, &err), SERVERD_INTERNAL);
    row_seq[n - 1] = 0;
    rows[1] = n;
    assert_int_equal(runtime_execute(e.runtime, &batch, out, &err), SERVERD_INTERNAL);
    rows[1] = 1;
    if (is_apart) {
        windows[next] = SERVERD_NO_PAGE;
        assert_int_equal(runtime_execute(e.runtime, &batch, out, &err), SERVERD_INTERNAL);
        windows[next] = window_page_of(pages[next]);
        batch.window_table = NULL;
        assert_int_equal(runtime_execute(e.runtime, &batch, out, &err), SERVERD_INTERNAL);
        batch.window_table = windows;
        assert_int_equal(runtime_execute(e.runtime, &batch, out, &err), SERVERD_OK);
        /* halves that do not fit each other */
        const serverd_kv_page whole = whole_page(&e, 1), half = {2, SERVERD_NO_PAGE};
        assert_int_equal(runtime_kv_copy(e.runtime, whole, half, 1, &err), SERVERD_INTERNAL);
    }
    pages[next] = 100000;
    assert_int_equal(runtime_execute(e.runtime, &batch, out, &err), SERVERD_INTERNAL);
    batch.page_table = NULL;
    assert_int_equal(runtime_execute(e.runtime, &batch, out, &err), SERVERD_INTERNAL);
    free(expected);
    free(out);
    close_engine(&e);
    program_unref(program);
}

static void copied_pages_are_as_good(void **state)
{
    (void)state;
    static const char *const devices[] = {"cpu", "cpu-reference"};
    for (int i = 0; i < 2; i++) {
        check_copied_pages(devices[i], false);
        check_copied_pages(devices[i], true);
    }
}

/* The pages of a sequence's beginning leave one runtime and go on in another, elsewhere in it. */
static void check_exported_pages(const char *device, const char *arch, serverd_dtype kv,
                                 bool is_apart)
{
    enum { N_MOVED = 2, BEGIN = N_MOVED * SERVERD_PAGE_TOKENS };
    struct program *program = synthetic_program(arch, "Q8_0");
    struct engine_under_test from = open_with(program, device, 1, kv, is_apart), to;
    from.n_shared = from.n_tokens; /* every sequence is number 0 */
    size_t floats = (size_t)from.n_tokens * from.width,
           page_bytes = runtime_page_bytes(from.runtime) + runtime_window_page_bytes(from.runtime);
    float *expected = malloc(floats * sizeof *expected), *out = malloc(floats * sizeof *out);
    char *pages = malloc((N_MOVED + 1) * page_bytes), *again = pages + N_MOVED * page_bytes;
    uint8_t identity[2][32];
    assert_true(expected && out && pages);
    run_alone(&from, 0, 7, expected);
    for (uint32_t p = 0; p < N_MOVED; p++)
        assert_int_equal(runtime_kv_export(from.runtime, whole_page(&from, page_of(&from, 0, p)),
                                           pages + p * page_bytes, &err),
                         SERVERD_OK);
    assert_int_equal(runtime_kv_identity(from.runtime, identity[0], &err), SERVERD_OK);
    close_engine(&from);
    program_unref(program);

    program = synthetic_program(arch, "Q8_0");
    to = open_with(program, device, 2, kv, is_apart);
    to.n_shared = to.n_tokens;
    assert_int_equal(runtime_kv_identity(to.runtime, identity[1], &err), SERVERD_OK);
    assert_memory_equal(identity[0], identity[1], sizeof identity[0]);
    for (uint32_t p = 0; p < N_MOVED; p++) {
        serverd_kv_page page = whole_page(&to, page_of(&to, 1, p));
        /* nobody sees the window of the first one any more, if a page is as long as it */
        const bool is_passed = is_apart && p == 0 && widest_window(program) <= PAGE + 1;
        if (is_passed)
            page.window_page = SERVERD_NO_PAGE;
        assert_int_equal(runtime_kv_import(to.runtime, page, pages + p * page_bytes, &err),
                         SERVERD_OK);
        assert_int_equal(runtime_kv_export(to.runtime, page, again, &err), SERVERD_OK);
        assert_memory_equal(again, pages + p * page_bytes,
                            is_passed ? runtime_page_bytes(to.runtime) : page_bytes);
    }
    const uint32_t seq = 1, begin = BEGIN, end = to.n_tokens;
    assert_int_equal(step(&to, 1, &seq, &begin, &end, out), SERVERD_OK);
    assert_same_bits(expected + (size_t)BEGIN * to.width, out, (size_t)(end - BEGIN) * to.width,
                     "imported pages of type", kv);
    const serverd_kv_page wrong[] = {{runtime_n_pages(to.runtime), SERVERD_NO_PAGE},
                                     {0, runtime_n_window_pages(to.runtime)}};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(runtime_kv_export(to.runtime, wrong[i], again, &err), SERVERD_INTERNAL);
        assert_int_equal(runtime_kv_import(to.runtime, wrong[i], again, &err), SERVERD_INTERNAL);
    }
    close_engine(&to);
    program_unref(program);
    free(expected);
    free(out);
    free(pages);
}

static void exported_pages_go_on_elsewhere_with_the_same_bits(void **state)
{
    (void)state;
    static const serverd_dtype kinds[] = {DTYPE_BF16, DTYPE_F16, DTYPE_I8, DTYPE_F32};
    static const char *const devices[] = {"cpu", "cpu-reference"};
    for (size_t i = 0; i < 2 * sizeof kinds / sizeof *kinds; i++) {
        check_exported_pages(devices[i % 2], "llama", kinds[i / 2], false);
        check_exported_pages(devices[i % 2], "gemma3", kinds[i / 2], false);
        check_exported_pages(devices[i % 2], "gemma3", kinds[i / 2], true);
    }
}

/* One bit of one weight, the type of the pages, the arithmetic, the model: all of them count. */
static void the_identity_of_pages_covers_what_makes_them(void **state)
{
    (void)state;
    static const struct {
        const char *arch, *dtype, *device;
        serverd_dtype kv;
        bool is_changed;
    } rows[] = {{"llama", "F32", "cpu:isa=generic", DTYPE_F32, false},
                {"llama", "F32", "cpu:isa=generic", DTYPE_F32, true},
                {"llama", "F32", "cpu:isa=generic", DTYPE_F16, false},
                {"llama", "F32", "cpu:isa=avx2", DTYPE_F32, false},
                {"llama", "F32", "null", DTYPE_F32, false},
                {"llama", "F16", "cpu:isa=generic", DTYPE_F32, false},
                {"qwen2", "F32", "cpu:isa=generic", DTYPE_F32, false}};
    enum { N = sizeof rows / sizeof *rows };
    uint8_t identity[N][32];
    for (size_t i = 0; i < N; i++) {
        bool is_here = strcmp(rows[i].device, "cpu:isa=avx2") != 0 || cpu_kernels_named("avx2");
        struct program *program = synthetic_program(rows[i].arch, rows[i].dtype);
        struct serverd_tensor *last =
            (struct serverd_tensor *)&program->graph.tensors[program->graph.n_tensors - 1];
        char *copy = malloc(last->bytes);
        assert_non_null(copy);
        memcpy(copy, last->data, last->bytes);
        copy[last->bytes - 2] ^= rows[i].is_changed ? 4 : 0;
        last->data = copy;
        struct engine_under_test e =
            open_on(program, is_here ? rows[i].device : "null", 2, rows[i].kv);
        assert_int_equal(runtime_kv_identity(e.runtime, identity[i], &err), SERVERD_OK);
        for (size_t j = 0; j < i && is_here; j++)
            if (memcmp(identity[i], identity[j], sizeof identity[i]) == 0)
                fail_msg("rows %zu and %zu have the same identity", i, j);
        if (!is_here)
            memset(identity[i], 0, sizeof identity[i]);
        close_engine(&e);
        program_unref(program);
        free(copy);
    }
}

/* As when tokens are guessed: some rows of each step turn out wrong, and later ones write over
 * them. */
static void check_wrong_guesses(const char *arch, serverd_dtype kv, uint32_t n_tokens)
{
    enum { N_GUESSED = 8, N_RIGHT = 3 };
    struct program *program = synthetic_program(arch, "Q8_0");
    struct engine_under_test e = open_on(program, "cpu", 2, kv);
    e.n_tokens = n_tokens;
    float *expected = malloc((size_t)n_tokens * e.width * sizeof *expected);
    float *out = malloc((size_t)N_GUESSED * e.width * sizeof *out);
    assert_true(expected && out);
    run_alone(&e, 0, n_tokens, expected);
    const uint32_t seq = 1; /* whose pages hold nothing yet */
    e.n_shared = n_tokens;  /* but whose tokens are those of sequence 0 */
    for (uint32_t begin = 0; begin + N_GUESSED <= n_tokens; begin += N_RIGHT) {
        uint32_t end = begin + N_GUESSED;
        e.wrong_from = begin + N_RIGHT;
        assert_int_equal(step(&e, 1, &seq, &begin, &end, out), SERVERD_OK);
        assert_same_bits(expected + (size_t)begin * e.width, out, N_RIGHT * (size_t)e.width,
                         "guesses behind", begin);
    }
    free(expected);
    free(out);
    close_engine(&e);
    program_unref(program);
}

static void wrong_guesses_leave_nothing_behind(void **state)
{
    (void)state;
    check_wrong_guesses("llama", DTYPE_BF16, LONG_TOKENS);
    check_wrong_guesses("gemma3", DTYPE_F16, N_TOKENS);
    check_wrong_guesses("qwen2", DTYPE_I8, N_TOKENS);
    check_wrong_guesses("llama", DTYPE_F32, N_TOKENS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_decoder_gives_the_same_bits_however_it_is_run),
        cmocka_unit_test(the_reference_too),
        cmocka_unit_test(segments_of_a_long_context_are_merged_in_one_order),
        cmocka_unit_test(sequences_share_the_pages_of_a_common_beginning),
        cmocka_unit_test(an_encoder_gives_the_same_bits_alone_and_batched),
        cmocka_unit_test(copied_pages_are_as_good),
        cmocka_unit_test(exported_pages_go_on_elsewhere_with_the_same_bits),
        cmocka_unit_test(the_identity_of_pages_covers_what_makes_them),
        cmocka_unit_test(wrong_guesses_leave_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
