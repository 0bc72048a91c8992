/* measure_cuda [--tiny | --devices]: how long the CUDA kernels take on device 0, in the shapes of a
 * model of 8B, and which share of the memory's rate that is. Weights and rows are random and come
 * from memory, not from a cache: each launch has the next of several copies. --tiny: small shapes,
 * for the test over the emulation, whose times say nothing. --devices: only says which device there
 * is, or why none. */
#include "base/clock.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "kernels/cuda/kernels.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_SHAPES = 4, N_ROW_COUNTS = 7, MAX_ROUNDS = 16, MAX_LAUNCHES = 1000, FILL_TOKENS = 64 };

static const struct sizes {
    uint32_t linear[N_SHAPES][2]; /* columns, k */
    uint32_t rows[N_ROW_COUNTS];
    uint32_t n_seqs, context, n_heads, n_kv_heads, head_dim; /* a prompt has `context` rows */
    uint32_t n_groups, width;                                /* of norms and activations */
    uint32_t n_picked, n_vocab;                              /* the likeliest tokens */
    size_t copied, spread; /* bytes: of a copy; of what launches take in turns */
    uint32_t n_rounds;
    double round_ms; /* 0: two launches */
} full = {.linear = {{4096, 4096}, {6144, 4096}, {14336, 4096}, {4096, 14336}},
          .rows = {1, 4, 16, 32, 64, 512, 4096},
          .n_seqs = 32,
          .context = 4096,
          .n_heads = 32,
          .n_kv_heads = 8,
          .head_dim = 128,
          .n_groups = 16384,
          .width = 4096,
          .n_picked = 64,
          .n_vocab = 128256,
          .copied = (size_t)1 << 30,
          .spread = (size_t)1 << 30,
          .n_rounds = 7,
          .round_ms = 20},
  tiny = {.linear = {{33, 64}, {8, 160}, {8, 32}, {1, 1}},
          .rows = {1, 2, 3, 4, 16, 17, 33},
          .n_seqs = 2,
          .context = 24,
          .n_heads = 2,
          .n_kv_heads = 1,
          .head_dim = 16,
          .n_groups = 4,
          .width = 96,
          .n_picked = 3,
          .n_vocab = 70,
          .copied = 4096,
          .spread = 1 << 16,
          .n_rounds = 2};

struct bench {
    struct gpu *gpu;
    const struct sizes *sizes;
    double bytes_per_second; /* of a copy, read and written */
};

/* ---- memory ---------------------------------------------------------------------------------- */

__attribute__((format(printf, 1, 2), noreturn)) static void die(const char *format, ...)
{
    va_list values;
    va_start(values, format);
    (void)fputs("measure_cuda: ", stderr);
    (void)vfprintf(stderr, format, values);
    (void)fputc('\n', stderr);
    va_end(values);
    exit(1);
}

static void wait_for(struct gpu *gpu, const char *what)
{
    serverd_error err;
    if (gpu_wait(gpu, &err) != SERVERD_OK)
        die("%s: %s", what, err.text);
}

static void *must_malloc(size_t bytes)
{
    void *memory = malloc(bytes);
    if (!memory)
        die("no memory for %zu bytes", bytes);
    return memory;
}

static void *allocate(const struct bench *bench, size_t bytes)
{
    void *memory = gpu_allocate(bench->gpu, bytes);
    if (!memory)
        die("the device has no memory for %zu bytes", bytes);
    return memory;
}

/* A copy there, for gpu_free. */
static void *upload(const struct bench *bench, const void *from, size_t bytes)
{
    void *to = allocate(bench, bytes);
    gpu_from_host(bench->gpu, to, from, bytes);
    wait_for(bench->gpu, "uploading");
    return to;
}

static void free_const(const struct bench *bench, const void *there)
{
    void *memory;
    memcpy(&memory, &there, sizeof memory);
    gpu_free(bench->gpu, memory);
}

/* From -1 to 1. */
static float random_float(uint64_t seed)
{
    return (float)(int64_t)(hash_mix(seed) >> 40) / (float)(1 << 23) - 1.0f;
}

/* [n] there: random ones, which after a while are those of the beginning again. */
static float *random_floats(const struct bench *bench, size_t n)
{
    enum { PERIOD = 1 << 20 };
    const size_t n_made = min_size(n, PERIOD);
    float *made = must_malloc(n_made * sizeof *made), *there = allocate(bench, n * sizeof *there);
    for (size_t i = 0; i < n_made; i++)
        made[i] = random_float(i);
    for (size_t i = 0; i < n; i += n_made)
        gpu_from_host(bench->gpu, there + i, made, min_size(n_made, n - i) * sizeof *made);
    wait_for(bench->gpu, "filling memory");
    free(made);
    return there;
}

/* What was computed is numbers, not all of them zero: times of anything else mean nothing. */
static void check_numbers(const struct bench *bench, const char *what, const float *there, size_t n)
{
    enum { N_SEEN = 4096 };
    static float seen[N_SEEN];
    bool any = false;
    n = min_size(n, N_SEEN);
    gpu_to_host(bench->gpu, seen, there, n * sizeof *seen);
    wait_for(bench->gpu, what);
    for (size_t i = 0; i < n; i++) {
        any |= seen[i] != 0;
        if (!isfinite(seen[i]))
            die("%s: result %zu is %g", what, i, (double)seen[i]);
    }
    if (!any)
        die("%s: all results are zero", what);
}

/* ---- times ----------------------------------------------------------------------------------- */

/* What is measured; turn: which of the copies. */
struct op {
    void (*launch)(const struct bench *bench, const void *of, uint32_t turn);
    const void *of;
    double bytes, flops; /* of a launch: read and written; 2 for a multiply-add */
    bool is_copy;        /* which is no launch, and so not recorded */
};

static double elapsed_ms(const struct bench *bench, const struct op *op, struct gpu_graph *graph,
                         uint32_t n_launches)
{
    const uint64_t begin = clock_now_ns(&system_clock);
    if (graph)
        gpu_graph_run(bench->gpu, graph);
    else
        for (uint32_t i = 0; i < n_launches; i++)
            op->launch(bench, op->of, i);
    wait_for(bench->gpu, "measuring");
    return clock_ms_between(begin, clock_now_ns(&system_clock));
}

/* So many launches in one record, as a step has them; NULL: they cannot be recorded. */
static struct gpu_graph *record(const struct bench *bench, const struct op *op, uint32_t n_launches)
{
    if (op->is_copy || !gpu_record_begin(bench->gpu))
        return NULL;
    for (uint32_t i = 0; i < n_launches; i++)
        op->launch(bench, op->of, i);
    return gpu_record_end(bench->gpu);
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds of a launch: the median of the rounds, the first one left out. */
static double measure(const struct bench *bench, const struct op *op)
{
    const struct sizes *sizes = bench->sizes;
    double ms[MAX_ROUNDS];
    uint32_t n_launches = 2;
    (void)elapsed_ms(bench, op, NULL, n_launches); /* loads the kernel */
    const double first = elapsed_ms(bench, op, NULL, n_launches) / n_launches;
    n_launches = (uint32_t)fmin(fmax(sizes->round_ms / fmax(first, 1e-6), 2), MAX_LAUNCHES);
    struct gpu_graph *graph = record(bench, op, n_launches);
    (void)elapsed_ms(bench, op, graph, n_launches);
    for (uint32_t i = 0; i < sizes->n_rounds; i++)
        ms[i] = elapsed_ms(bench, op, graph, n_launches) / n_launches;
    gpu_graph_free(bench->gpu, graph);
    qsort(ms, sizes->n_rounds, sizeof *ms, compare_doubles);
    const double median = ms[sizes->n_rounds / 2] * 1e-3;
    if (!(median > 0 && isfinite(median)))
        die("a time of %g s", median);
    return median;
}

static void print_head(void)
{
    (void)printf("%-34s %10s %8s %8s %8s  %s\n", "what", "us", "GB/s", "of copy", "TFLOPS", "goal");
}

/* goal: what the measured share is to reach. */
static void report(const struct bench *bench, const char *what, const struct op *op,
                   const char *goal)
{
    const double seconds = measure(bench, op);
    char flops[32] = "";
    if (op->flops > 0)
        (void)snprintf(flops, sizeof flops, "%.1f", op->flops / seconds * 1e-12);
    (void)printf("%-34s %10.2f %8.1f %7.1f%% %8s  %s\n", what, seconds * 1e6,
                 op->bytes / seconds * 1e-9, 100 * op->bytes / seconds / bench->bytes_per_second,
                 flops, goal);
    (void)fflush(stdout);
}

/* ---- memory's rate --------------------------------------------------------------------------- */

struct copy {
    char *from, *to;
    size_t bytes;
};

static void launch_copy(const struct bench *bench, const void *of, uint32_t turn)
{
    const struct copy *copy = of;
    (void)turn;
    gpu_copy(bench->gpu, copy->to, copy->from, copy->bytes);
}

/* What all shares are of: a copy, which reads and writes. */
static void measure_copy(struct bench *bench)
{
    const size_t bytes = bench->sizes->copied;
    float *from = random_floats(bench, bytes / sizeof *from);
    const struct copy copy = {(char *)from, allocate(bench, bytes), bytes};
    const struct op op = {launch_copy, &copy, .bytes = 2 * (double)bytes, .is_copy = true};
    bench->bytes_per_second = op.bytes / measure(bench, &op);
    report(bench, "copy, read + written", &op, "");
    gpu_free(bench->gpu, copy.from);
    gpu_free(bench->gpu, copy.to);
}

/* ---- linear layers --------------------------------------------------------------------------- */

struct linear {
    enum fragment_form form;
    uint32_t n, k, n_rows, n_copies;
    size_t copy_bytes; /* of a copy of the weights */
    char *weights;
    void *x;
    float *y;
};

static void launch_linear(const struct bench *bench, const void *of, uint32_t turn)
{
    const struct linear *l = of;
    gpu_linear(bench->gpu, l->x, l->weights + turn % l->n_copies * l->copy_bytes, l->form, NULL,
               l->n_rows, l->n, l->k, l->y);
}

/* Random codes or bf16; what stands behind codes is f16. */
static void fill_record(enum fragment_form form, uint16_t *record, uint64_t seed)
{
    const struct fragment_shape shape = fragments_shape(form);
    const size_t n_codes = FRAGMENT_CODES / sizeof *record,
                 n = fragments_record(shape) / sizeof *record;
    for (size_t i = 0; i < n; i++) {
        const float x = random_float(seed * 1024 + i);
        if (i >= n_codes)
            record[i] = f32_to_f16(x / 128);
        else
            record[i] = shape.bits == 16 ? f32_to_bf16(x) : (uint16_t)hash_mix(seed * 1024 + i);
    }
}

/* One matrix: some records again and again, and powers of one. */
static void fill_weights(const struct bench *bench, const struct linear *l)
{
    enum { N_MADE = 1024 };
    const struct fragment_shape shape = fragments_shape(l->form);
    const size_t record = fragments_record(shape), records = fragments_records(shape, l->n, l->k),
                 n_powers = (fragments_weights(shape, l->n, l->k) - records) / sizeof(float);
    char *made = must_malloc(N_MADE * record);
    float *powers = must_malloc((n_powers + 1) * sizeof *powers);
    for (size_t i = 0; i < N_MADE; i++)
        fill_record(l->form, (uint16_t *)(void *)(made + i * record), i);
    for (size_t i = 0; i < n_powers; i++)
        powers[i] = 1;
    for (size_t at = 0; at < records; at += N_MADE * record)
        gpu_from_host(bench->gpu, l->weights + at, made, min_size(N_MADE * record, records - at));
    if (n_powers > 0)
        gpu_from_host(bench->gpu, l->weights + records, powers, n_powers * sizeof *powers);
    for (uint32_t i = 1; i < l->n_copies; i++)
        gpu_copy(bench->gpu, l->weights + i * l->copy_bytes, l->weights, l->copy_bytes);
    wait_for(bench->gpu, "filling weights");
    free(made);
    free(powers);
}

/* Memory bounds few rows, multiply-adds many. */
static const char *linear_goal(const struct linear *l)
{
    if (l->n_rows <= 4)
        return "85 to 92 % of reading";
    if (l->n_rows > 64)
        return "75 to 81 % of 989 TFLOPS (H100)";
    return l->form == FRAGMENT_I4 ? "80 to 90 % of reading; a third of bf16's time up to 16 rows"
                                  : "80 to 90 % of reading";
}

static void measure_rows(const struct bench *bench, struct linear *l, const char *form_name)
{
    const size_t x_elements = fragments_rows(l->n_rows, l->k),
                 y_elements = (size_t)l->n_rows * l->n;
    float *rows = random_floats(bench, (size_t)l->n_rows * l->k);
    char what[64];
    l->x = allocate(bench, x_elements * sizeof(uint16_t));
    l->y = allocate(bench, y_elements * sizeof *l->y);
    gpu_rows_to_fragments(bench->gpu, rows, l->n_rows, l->k, l->x);
    const struct op op = {launch_linear, l,
                          .bytes = (double)fragments_weights(fragments_shape(l->form), l->n, l->k) +
                                   (double)(x_elements * sizeof(uint16_t)) +
                                   (double)(y_elements * sizeof *l->y),
                          .flops = 2.0 * l->n_rows * l->n * l->k};
    (void)snprintf(what, sizeof what, "linear %s %ux%u, %u rows", form_name, l->n, l->k, l->n_rows);
    report(bench, what, &op, linear_goal(l));
    check_numbers(bench, what, l->y, y_elements);
    gpu_free(bench->gpu, rows);
    gpu_free(bench->gpu, l->x);
    gpu_free(bench->gpu, l->y);
}

static void measure_linear(const struct bench *bench, enum fragment_form form, const char *name)
{
    for (uint32_t s = 0; s < N_SHAPES; s++) {
        struct linear l = {
            .form = form, .n = bench->sizes->linear[s][0], .k = bench->sizes->linear[s][1]};
        l.copy_bytes = fragments_round_up(fragments_weights(fragments_shape(form), l.n, l.k), 256);
        l.n_copies = (uint32_t)(bench->sizes->spread / l.copy_bytes + 1);
        l.weights = allocate(bench, l.n_copies * l.copy_bytes);
        fill_weights(bench, &l);
        for (uint32_t r = 0; r < N_ROW_COUNTS; r++) {
            l.n_rows = bench->sizes->rows[r];
            measure_rows(bench, &l, name);
        }
        gpu_free(bench->gpu, l.weights);
    }
}

/* ---- attention ------------------------------------------------------------------------------- */

/* Tokens first .. first + n - 1 of each of the sequences, whose pages lie in no order. */
static struct gpu_batch make_batch(const struct bench *bench, uint32_t n_seqs, uint32_t first,
                                   uint32_t n)
{
    const uint32_t n_rows = n_seqs * n, max_pages = bench->sizes->context / SERVERD_PAGE_TOKENS + 1,
                   n_pages = bench->sizes->n_seqs * max_pages;
    int32_t *position = must_malloc(n_rows * sizeof *position);
    uint32_t *seq = must_malloc(n_rows * sizeof *seq),
             *first_row = must_malloc((n_seqs + 1) * sizeof *first_row),
             *table = must_malloc(n_pages * sizeof *table);
    for (uint32_t r = 0; r < n_rows; r++) {
        seq[r] = r / n;
        position[r] = (int32_t)(first + r % n);
    }
    for (uint32_t s = 0; s <= n_seqs; s++)
        first_row[s] = s * n;
    for (uint32_t i = 0; i < n_pages; i++) /* 7919 is prime */
        table[i] = (uint32_t)((uint64_t)i * 7919 % n_pages);
    const struct gpu_batch batch = {
        .n_rows = n_rows,
        .n_seqs = n_seqs,
        .max_pages = max_pages,
        .position = upload(bench, position, n_rows * sizeof *position),
        .row_seq = upload(bench, seq, n_rows * sizeof *seq),
        .first_row = upload(bench, first_row, (n_seqs + 1) * sizeof *first_row),
        .page_table = upload(bench, table, n_pages * sizeof *table),
    };
    free(position);
    free(seq);
    free(first_row);
    free(table);
    return batch;
}

static void free_batch(const struct bench *bench, const struct gpu_batch *batch)
{
    free_const(bench, batch->position);
    free_const(bench, batch->row_seq);
    free_const(bench, batch->first_row);
    free_const(bench, batch->page_table);
}

struct attention {
    serverd_attn p;
    struct gpu_kv kv;
    struct gpu_batch batch;
    float *q, *scratch, *out;
    size_t scratch_floats;
};

static void launch_attention(const struct bench *bench, const void *of, uint32_t turn)
{
    const struct attention *a = of;
    (void)turn;
    gpu_attend(bench->gpu, &a->batch, &a->p, &a->kv, a->q, NULL, NULL, bench->sizes->context,
               a->scratch, a->scratch_floats, a->out, NULL);
}

/* Keys and values of all tokens, the same for each FILL_TOKENS. */
static void fill_pages(const struct bench *bench, const struct gpu_kv *kv)
{
    const struct sizes *sizes = bench->sizes;
    const size_t n = (size_t)sizes->n_seqs * FILL_TOKENS * kv->n_kv_heads * kv->k_dim;
    float *k = random_floats(bench, n), *v = random_floats(bench, n);
    for (uint32_t at = 0; at < sizes->context; at += FILL_TOKENS) {
        const struct gpu_batch batch =
            make_batch(bench, sizes->n_seqs, at, min_u32(FILL_TOKENS, sizes->context - at));
        gpu_append(bench->gpu, &batch, kv, k, v);
        wait_for(bench->gpu, "filling pages");
        free_batch(bench, &batch);
    }
    gpu_free(bench->gpu, k);
    gpu_free(bench->gpu, v);
}

/* Rows first .. first + n - 1 of n_seqs sequences, as a step has them. */
static void measure_attention_of(const struct bench *bench, struct attention *a, const char *what,
                                 uint32_t n_seqs, uint32_t first, uint32_t n, struct op op,
                                 const char *goal)
{
    const size_t scratch_bytes = (size_t)64 << 20, /* as load.c takes it */
        row_floats = gpu_attend_row_floats(&a->p, bench->sizes->context),
                 out_floats = (size_t)n_seqs * n * a->p.n_heads * a->p.v_dim;
    a->batch = make_batch(bench, n_seqs, first, n);
    a->scratch_floats =
        max_size(row_floats, min_size(row_floats * n_seqs * n, scratch_bytes / sizeof *a->scratch));
    a->scratch = allocate(bench, a->scratch_floats * sizeof *a->scratch);
    a->q = random_floats(bench, (size_t)n_seqs * n * a->p.n_heads * a->p.k_dim);
    a->out = allocate(bench, out_floats * sizeof *a->out);
    op.launch = launch_attention;
    op.of = a;
    report(bench, what, &op, goal);
    check_numbers(bench, what, a->out, out_floats);
    free_batch(bench, &a->batch);
    gpu_free(bench->gpu, a->scratch);
    gpu_free(bench->gpu, a->q);
    gpu_free(bench->gpu, a->out);
}

static void measure_attention(const struct bench *bench, enum gpu_number type, const char *name)
{
    const struct sizes *sizes = bench->sizes;
    const uint32_t dim = sizes->head_dim, context = sizes->context;
    const size_t head_page = gpu_kv_page_bytes(type, dim),
                 pages = (size_t)sizes->n_seqs * (context / SERVERD_PAGE_TOKENS + 1) *
                         sizes->n_kv_heads * head_page;
    struct attention a = {.p = {.n_heads = sizes->n_heads,
                                .n_kv_heads = sizes->n_kv_heads,
                                .k_dim = dim,
                                .v_dim = dim,
                                .is_causal = true,
                                .scale = 1 / sqrtf((float)dim)},
                          .kv = {.keys = allocate(bench, pages),
                                 .values = allocate(bench, pages),
                                 .n_kv_heads = sizes->n_kv_heads,
                                 .k_dim = dim,
                                 .v_dim = dim,
                                 .type = type}};
    char what[64];
    fill_pages(bench, &a.kv);
    const double sequence = 2.0 * context * sizes->n_kv_heads * (double)head_page /
                            SERVERD_PAGE_TOKENS, /* bytes of its keys and values */
        pair = 4.0 * dim * sizes->n_heads;       /* flops of a row and a key */
    (void)snprintf(what, sizeof what, "decode %s, %u x %u tokens", name, sizes->n_seqs, context);
    measure_attention_of(
        bench, &a, what, sizes->n_seqs, context - 1, 1,
        (struct op){.bytes = sizes->n_seqs * sequence, .flops = sizes->n_seqs * pair * context},
        "75 to 85 % of reading");
    (void)snprintf(what, sizeof what, "prompt %s, 1 x %u tokens", name, context);
    measure_attention_of(
        bench, &a, what, 1, 0, context,
        (struct op){.bytes = sequence, .flops = pair * context * (context + 1) / 2},
        "45 to 55 % of 989 TFLOPS (H100)");
    gpu_free(bench->gpu, a.kv.keys);
    gpu_free(bench->gpu, a.kv.values);
}

/* ---- rows ------------------------------------------------------------------------------------ */

struct rows {
    float *x, *y, *out;
    struct gpu_draws draws;
    uint32_t n_copies; /* of x, for draws */
};

static void launch_norm(const struct bench *bench, const void *of, uint32_t turn)
{
    const struct rows *rows = of;
    (void)turn;
    gpu_norm(bench->gpu, rows->x, rows->y, NULL, bench->sizes->n_groups, bench->sizes->width, 1e-5f,
             rows->out);
}

static void launch_activate(const struct bench *bench, const void *of, uint32_t turn)
{
    const struct rows *rows = of;
    (void)turn;
    gpu_activate(bench->gpu, rows->x, rows->y, (size_t)bench->sizes->n_groups * bench->sizes->width,
                 SERVERD_ACT_SILU, rows->out);
}

static void launch_fragments(const struct bench *bench, const void *of, uint32_t turn)
{
    const struct rows *rows = of;
    (void)turn;
    gpu_rows_to_fragments(bench->gpu, rows->x, bench->sizes->n_groups, bench->sizes->width,
                          rows->out);
}

static void launch_draws(const struct bench *bench, const void *of, uint32_t turn)
{
    const struct rows *rows = of;
    const size_t n = (size_t)bench->sizes->n_picked * bench->sizes->n_vocab;
    gpu_draw(bench->gpu, rows->x + turn % rows->n_copies * n, bench->sizes->n_picked,
             bench->sizes->n_vocab, &rows->draws);
}

static void measure_row_kernels(const struct bench *bench)
{
    static const char goal[] = "85 to 90 % of reading and writing";
    const struct sizes *sizes = bench->sizes;
    const size_t n = (size_t)sizes->n_groups * sizes->width;
    const double bytes = (double)n * sizeof(float);
    /* what fragments are padded to is less than the floats they are made of, but in tiny shapes */
    const size_t n_fragments = fragments_rows(sizes->n_groups, sizes->width);
    const struct rows rows = {
        .x = random_floats(bench, n),
        .y = random_floats(bench, n),
        .out = allocate(bench, max_size(n * sizeof(float), n_fragments * sizeof(uint16_t)))};
    const struct op norm = {launch_norm, &rows, .bytes = 2 * bytes},
                    activate = {launch_activate, &rows, .bytes = 3 * bytes},
                    fragments = {launch_fragments, &rows, .bytes = 1.5 * bytes};
    char what[64];
    (void)snprintf(what, sizeof what, "norm, %u x %u", sizes->n_groups, sizes->width);
    report(bench, what, &norm, goal);
    check_numbers(bench, what, rows.out, n);
    (void)snprintf(what, sizeof what, "silu * y, %u x %u", sizes->n_groups, sizes->width);
    report(bench, what, &activate, goal);
    check_numbers(bench, what, rows.out, n);
    (void)snprintf(what, sizeof what, "to fragments, %u x %u", sizes->n_groups, sizes->width);
    report(bench, what, &fragments, goal);
    gpu_free(bench->gpu, rows.x);
    gpu_free(bench->gpu, rows.y);
    gpu_free(bench->gpu, rows.out);
}

/* All rows by the same draw. */
static void measure_draw(const struct bench *bench, const char *kind, const serverd_draw *draw)
{
    const struct sizes *sizes = bench->sizes;
    const size_t n = (size_t)sizes->n_picked * sizes->n_vocab;
    serverd_draw *draws = must_malloc(sizes->n_picked * sizeof *draws);
    for (uint32_t i = 0; i < sizes->n_picked; i++)
        draws[i] = *draw;
    serverd_draw *there = allocate(bench, sizes->n_picked * sizeof *there);
    gpu_from_host(bench->gpu, there, draws, sizes->n_picked * sizeof *there);
    const struct rows rows = {
        .n_copies = (uint32_t)(sizes->spread / (n * sizeof(float)) + 1),
        .x = random_floats(bench, (sizes->spread / (n * sizeof(float)) + 1) * n),
        .draws = {.draw = there, .drawn = allocate(bench, sizes->n_picked * sizeof(int32_t))}};
    const struct op op = {launch_draws, &rows, .bytes = (double)(n * sizeof(float))};
    int32_t *drawn = must_malloc(sizes->n_picked * sizeof *drawn);
    char what[64];
    (void)snprintf(what, sizeof what, "%s, %u x %u", kind, sizes->n_picked, sizes->n_vocab);
    report(bench, what, &op, draw->kind == SERVERD_DRAW_BEST ? "at most 15 us" : "at most 80 us");
    gpu_to_host(bench->gpu, drawn, rows.draws.drawn, sizes->n_picked * sizeof *drawn);
    wait_for(bench->gpu, what);
    for (uint32_t i = 0; i < sizes->n_picked; i++)
        if (drawn[i] != SERVERD_DRAWN_UNSURE &&
            (drawn[i] < 0 || (uint32_t)drawn[i] >= sizes->n_vocab))
            die("%s: row %u has %d", what, i, drawn[i]);
    free(drawn);
    free(draws);
    gpu_free(bench->gpu, rows.x);
    gpu_free(bench->gpu, rows.draws.drawn);
    gpu_free(bench->gpu, there);
}

static void measure_draws(const struct bench *bench)
{
    const serverd_draw best = {.kind = SERVERD_DRAW_BEST, .mask = SERVERD_NO_MASK};
    const serverd_draw plain = {
        .kind = SERVERD_DRAW_RANDOM, .mask = SERVERD_NO_MASK, .u = 0.4, .scale = 1, .top_p = 1};
    serverd_draw limited = plain;
    limited.top_k = 40;
    limited.top_p = 0.95f;
    measure_draw(bench, "likeliest", &best);
    measure_draw(bench, "drawn", &plain);
    measure_draw(bench, "drawn, top_k, top_p", &limited);
}

/* ---- all ------------------------------------------------------------------------------------- */

static void measure_all(struct bench *bench)
{
    static const struct {
        enum fragment_form form;
        const char *name;
    } forms[] = {{FRAGMENT_BF16, "bf16"}, {FRAGMENT_I8, "8 bits"}, {FRAGMENT_I4, "4 bits"}};
    print_head();
    measure_copy(bench);
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        measure_linear(bench, forms[i].form, forms[i].name);
    measure_attention(bench, GPU_BF16, "bf16");
    measure_attention(bench, GPU_I8, "int8");
    measure_row_kernels(bench);
    measure_draws(bench);
}

int main(int argc, char **argv)
{
    const char *option = argc == 2 ? argv[1] : "";
    char reason[128] = "";
    struct gpu_info info;
    serverd_error err;
    if (argc > 2 || (*option && strcmp(option, "--tiny") && strcmp(option, "--devices")))
        die("usage: measure_cuda [--tiny | --devices]");
    if (gpu_count(reason, sizeof reason) == 0)
        die("%s", reason);
    if (!gpu_describe(0, &info))
        die("device 0 cannot be described");
    (void)printf("%s, %.1f GiB; by its data sheet about %.0f GB/s\n", info.name,
                 (double)info.memory_bytes * 0x1p-30, info.bytes_per_second * 1e-9);
    if (strcmp(option, "--devices") == 0)
        return 0;
    struct bench bench = {.sizes = strcmp(option, "--tiny") == 0 ? &tiny : &full};
    if (gpu_open(0, &bench.gpu, &err) != SERVERD_OK)
        die("%s", err.text);
    gpu_enter(bench.gpu);
    measure_all(&bench);
    gpu_close(bench.gpu);
    return 0;
}
