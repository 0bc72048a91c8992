/* Sequences with a common prefix read it together: the same bits as alone, from the pages of one.
 * Argument: none. */
#include "kernels/cuda/chains.h"
#include "on_device.h"

enum {
    N_SEQS = 7,
    MAX_PAGES = 40,
    N_SEGMENTS = 2,
    SEGMENT_PAGES = GPU_SEGMENT_KEYS / SERVERD_PAGE_TOKENS,
    N_PAGES = N_SEQS * MAX_PAGES
};

/* One row of each sequence. Sequences 0 to 4 have two segments in common, 5 the first of them, 6
 * none; 3 sees not all of the second. */
static const int32_t positions[N_SEQS] = {600, 511, 530, 500, 639, 560, 515};

static const uint32_t expected_chain[N_SEQS][N_SEGMENTS] = {{0, 0}, {1, 1}, {2, 2}, {3, 0},
                                                            {4, 0}, {5, 0}, {0, 0}};

static void make_table(uint32_t table[N_SEQS * MAX_PAGES])
{
    for (uint32_t i = 0; i < N_SEQS * MAX_PAGES; i++)
        table[i] = i * 3 % N_PAGES;
    for (uint32_t s = 1; s < 6; s++)
        memcpy(table + s * MAX_PAGES, table, (s < 5 ? 2 : 1) * SEGMENT_PAGES * sizeof *table);
}

static void chains_are_as_long_as_prefixes(void **state)
{
    (void)state;
    uint32_t table[N_SEQS * MAX_PAGES], chain[N_SEQS * N_SEGMENTS],
        row_seq[N_SEQS] = {0, 1, 2, 3, 4, 5, 6};
    make_table(table);
    serverd_batch batch = {.struct_bytes = sizeof batch,
                           .n_rows = N_SEQS,
                           .n_seqs = N_SEQS,
                           .position = positions,
                           .row_seq = row_seq,
                           .page_table = table,
                           .max_pages = MAX_PAGES};
    assert_true(chains_find(&batch, N_SEGMENTS, chain));
    assert_memory_equal(chain, expected_chain, sizeof chain);
    assert_true(chains_find(&batch, 1, chain)); /* a short context */
    batch.n_rows = N_SEQS + 1;                  /* some sequence has two */
    assert_false(chains_find(&batch, N_SEGMENTS, chain));
    batch.n_rows = N_SEQS;
    for (uint32_t s = 0; s < N_SEQS; s++)
        table[s * MAX_PAGES] = s;
    assert_false(chains_find(&batch, N_SEGMENTS, chain));
    for (uint32_t i = 0; i < N_SEQS * N_SEGMENTS; i++)
        assert_int_equal(chain[i], 0);
}

struct store {
    serverd_attn p;
    struct gpu_kv kv;
    float *q, *scratch;
    size_t scratch_floats;
};

/* Every page has keys and values of its own. */
static struct store make_store(const serverd_attn *p, enum gpu_number type)
{
    const size_t key_bytes = gpu_kv_page_bytes(type, p->k_dim),
                 value_bytes = gpu_kv_page_bytes(type, p->v_dim),
                 n_heads = (size_t)N_PAGES * p->n_kv_heads,
                 n_rows = (size_t)N_PAGES * SERVERD_PAGE_TOKENS;
    struct store s = {.p = *p,
                      .kv = {.keys = gpu_allocate(gpu, n_heads * key_bytes),
                             .values = gpu_allocate(gpu, n_heads * value_bytes),
                             .n_kv_heads = p->n_kv_heads,
                             .k_dim = p->k_dim,
                             .v_dim = p->v_dim,
                             .type = type}};
    int32_t *position = calloc(n_rows, sizeof *position);
    uint32_t *seq = calloc(n_rows, sizeof *seq), page[N_PAGES];
    assert_true(position && seq);
    for (uint32_t i = 0; i < n_rows; i++) {
        position[i] = (int32_t)i;
        page[i / SERVERD_PAGE_TOKENS] = i / SERVERD_PAGE_TOKENS;
    }
    float *k = random_floats(n_rows * p->n_kv_heads * p->k_dim, 1),
          *v = random_floats(n_rows * p->n_kv_heads * p->v_dim, 2),
          *q = random_floats((size_t)N_SEQS * p->n_heads * p->k_dim, 3);
    float *k_there = on_device(k, n_rows * p->n_kv_heads * p->k_dim * sizeof *k),
          *v_there = on_device(v, n_rows * p->n_kv_heads * p->v_dim * sizeof *v);
    int32_t *position_there = on_device(position, n_rows * sizeof *position);
    uint32_t *seq_there = on_device(seq, n_rows * sizeof *seq),
             *page_there = on_device(page, sizeof page);
    const struct gpu_batch batch = {.n_rows = (uint32_t)n_rows,
                                    .n_seqs = 1,
                                    .max_pages = N_PAGES,
                                    .position = position_there,
                                    .row_seq = seq_there,
                                    .page_table = page_there};
    gpu_append(gpu, &batch, &s.kv, k_there, v_there);
    assert_int_equal(gpu_wait(gpu, &err), SERVERD_OK);
    s.q = on_device(q, (size_t)N_SEQS * p->n_heads * p->k_dim * sizeof *q);
    s.scratch_floats = N_SEQS * gpu_attend_row_floats(p, MAX_PAGES * SERVERD_PAGE_TOKENS);
    s.scratch = gpu_allocate(gpu, s.scratch_floats * sizeof *s.scratch);
    void *const there[] = {k_there, v_there, position_there, seq_there, page_there};
    for (size_t i = 0; i < sizeof there / sizeof *there; i++)
        gpu_free(gpu, there[i]);
    void *const here[] = {k, v, q, position, seq};
    for (size_t i = 0; i < sizeof here / sizeof *here; i++)
        free(here[i]);
    return s;
}

static void free_store(struct store *s)
{
    gpu_free(gpu, s->kv.keys);
    gpu_free(gpu, s->kv.values);
    gpu_free(gpu, s->q);
    gpu_free(gpu, s->scratch);
}

/* chain NULL: each for itself. rows: that scratch has room for. */
static float *attend(const struct store *s, const uint32_t *table, const uint32_t *chain,
                     uint32_t rows)
{
    uint32_t first[N_SEQS + 1], row_seq[N_SEQS];
    for (uint32_t i = 0; i <= N_SEQS; i++)
        first[i] = i;
    memcpy(row_seq, first, sizeof row_seq);
    int32_t *position = on_device(positions, sizeof positions);
    uint32_t *seq = on_device(row_seq, sizeof row_seq), *first_row = on_device(first, sizeof first),
             *table_there = on_device(table, N_SEQS * MAX_PAGES * sizeof *table),
             *chain_there = chain ? on_device(chain, sizeof expected_chain) : NULL;
    const size_t bytes = (size_t)N_SEQS * s->p.n_heads * s->p.v_dim * sizeof(float);
    float *out = gpu_allocate(gpu, bytes);
    const struct gpu_batch batch = {.n_rows = N_SEQS,
                                    .n_seqs = N_SEQS,
                                    .max_pages = MAX_PAGES,
                                    .position = position,
                                    .row_seq = seq,
                                    .first_row = first_row,
                                    .page_table = table_there,
                                    .chain = chain_there,
                                    .n_segments = N_SEGMENTS};
    gpu_attend(gpu, &batch, &s->p, &s->kv, s->q, NULL, NULL, MAX_PAGES * SERVERD_PAGE_TOKENS,
               s->scratch, s->scratch_floats * rows / N_SEQS, out, NULL);
    float *result = from_device(out, bytes);
    void *const all[] = {position, seq, first_row, table_there, chain_there, out};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        gpu_free(gpu, all[i]);
    return result;
}

/* Pages of those who follow others in a segment become wrong, one page for all. */
static void spoil(uint32_t table[N_SEQS * MAX_PAGES], uint32_t n_together)
{
    for (uint32_t s = 0; s < N_SEQS; s++)
        for (uint32_t k = 0; k < N_SEGMENTS; k++)
            for (uint32_t i = 0; expected_chain[s][k] % n_together != 0 && i < SEGMENT_PAGES; i++)
                table[s * MAX_PAGES + k * SEGMENT_PAGES + i] = 1;
}

static void check(const serverd_attn *p, enum gpu_number type)
{
    const size_t bytes = (size_t)N_SEQS * p->n_heads * p->v_dim * sizeof(float);
    const uint32_t group = p->n_heads / p->n_kv_heads;
    uint32_t table[N_SEQS * MAX_PAGES];
    struct store s = make_store(p, type);
    make_table(table);
    float *alone = attend(&s, table, NULL, N_SEQS),
          *together = attend(&s, table, expected_chain[0], N_SEQS),
          *turns = attend(&s, table, expected_chain[0], 3);
    assert_memory_equal(alone, together, bytes);
    assert_memory_equal(alone, turns, bytes); /* nobody's row is left to an earlier turn */
    spoil(table, group < 16 ? 16 / group : 1);
    float *spoiled = attend(&s, table, expected_chain[0], N_SEQS);
    assert_memory_equal(alone, spoiled, bytes);
    free(alone);
    free(together);
    free(turns);
    free(spoiled);
    free_store(&s);
}

static void a_common_prefix_is_read_once_for_several(void **state)
{
    (void)state;
    check(&(serverd_attn){8, 2, 32, 32, .is_causal = 1, .scale = 0.3f}, GPU_BF16);  /* 4 together */
    check(&(serverd_attn){2, 2, 16, 24, .is_causal = 1, .scale = 0.3f}, GPU_I8);    /* all */
    check(&(serverd_attn){6, 1, 32, 16, .is_causal = 1, .scale = 0.3f}, GPU_F16);   /* 2 */
    check(&(serverd_attn){16, 1, 16, 16, .is_causal = 1, .scale = 0.3f}, GPU_BF16); /* none */
}

/* With a window rows begin in different segments. */
static void windows_are_everybodys_own(void **state)
{
    (void)state;
    const serverd_attn p = {8, 2, 16, 16, .window = 100, .is_causal = 1, .scale = 0.3f};
    uint32_t table[N_SEQS * MAX_PAGES];
    struct store s = make_store(&p, GPU_BF16);
    make_table(table);
    float *alone = attend(&s, table, NULL, N_SEQS),
          *together = attend(&s, table, expected_chain[0], N_SEQS);
    assert_memory_equal(alone, together, (size_t)N_SEQS * 8 * 16 * sizeof *alone);
    free(alone);
    free(together);
    free_store(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chains_are_as_long_as_prefixes),
        cmocka_unit_test(a_common_prefix_is_read_once_for_several),
        cmocka_unit_test(windows_are_everybodys_own),
    };
    return cmocka_run_group_tests(tests, open_gpu, close_gpu);
}
