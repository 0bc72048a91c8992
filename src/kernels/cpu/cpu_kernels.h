/* The arithmetic of the CPU back-end, once per instruction-set level. The levels are one source
 * (cpu_kernels_template.h, linear_template.h, attention_template.h) compiled with different flags
 * over a small set of vector primitives (simd_*.h): sums run over 16 lanes in one order, so every
 * level gives the same bits, but for attention over bf16 pages where a level has its own
 * instructions for that.
 *
 * All arrays are f32 unless said. None of these allocates or keeps state; any thread. */
#ifndef KERNELS_CPU_KERNELS_H
#define KERNELS_CPU_KERNELS_H

#include "kernels/cpu/packed.h"
#include "program/dtype.h"
#include "serverd/delegate.h"

#include <stdbool.h>
#include <stddef.h>

/* Keys of one attention segment; segments begin at multiples of it in the sequence. */
#define CPU_SEGMENT       256
#define CPU_SEGMENT_PAGES (CPU_SEGMENT / SERVERD_PAGE_TOKENS)

/* Attention takes the keys and values of one head in *strips* of 16 tokens that lie side by side
 * (attention_template.h). A page is one or more whole strips, or has fewer tokens side by side. */
#define CPU_STRIP          16
#define CPU_SEGMENT_STRIPS (CPU_SEGMENT / CPU_STRIP)
#define CPU_SIDE           (SERVERD_PAGE_TOKENS < CPU_STRIP ? SERVERD_PAGE_TOKENS : CPU_STRIP)

/* Rows that may lie behind the last one of a cpu_rows: kernels read whole tiles. */
#define CPU_ROW_PADDING 16

/* Rows of activations, [n][k], as numbers (for weights that are numbers) or quantised: code =
 * round(x / scale), one scale for each span of 256, or, of *fine* rows, for each block of 32.
 *
 * Codes are signed bytes, but for one *wide* quad (four elements) in each block: few numbers stand
 * out, and they would take the precision of all others that share their scale. The wide one is
 * that of the greatest number; its codes have two bytes, code = CPU_HIGH_UNIT * high + low, and
 * cost one more multiplication for each block. On models of 0.1 to 0.5 billion weights that is
 * better than plain 8-bit codes with a scale for each 32 (docs/internals/cpu.md).
 *
 * Rows are kept in spans, all rows of a span side by side, so that a kernel reaches all that it
 * needs from one pointer. NaN or infinity makes the scale NaN, the codes under it are 0. */
#define CPU_SPAN          256
#define CPU_SPAN_BLOCKS   (CPU_SPAN / 32)
#define CPU_HIGH_BITS     7
#define CPU_HIGH_UNIT     (1 << CPU_HIGH_BITS) /* low bytes of wide codes: -64..63 */
#define CPU_CODE_MAX      127
#define CPU_WIDE_CODE_MAX (127 * CPU_HIGH_UNIT + CPU_HIGH_UNIT / 2 - 1)

struct cpu_span {
    float scale;                          /* of fine rows: 1 */
    float sums[CPU_SPAN_BLOCKS];          /* of 32 codes */
    float half_sums[CPU_SPAN_BLOCKS * 2]; /* and of 16 */
    /* The number in the span (0..63) of each block's wide quad; its high bytes, at the half of the
     * block that it lies in, and 0 at the other half. */
    uint8_t wide_quads[CPU_SPAN_BLOCKS];
    int8_t wide_high[CPU_SPAN_BLOCKS * 2][4];
    float block_scales[CPU_SPAN_BLOCKS]; /* of fine rows only */
    _Alignas(64) int8_t codes[CPU_SPAN];
};

struct cpu_rows {
    const float *values;
    bool is_fine;
    struct cpu_span *spans; /* [k / 256 rounded up][n_max] */
    size_t n_max;
};

static inline size_t cpu_n_spans(size_t k)
{
    return (k + CPU_SPAN - 1) / CPU_SPAN;
}

/* Some column blocks of y = x W^T + b (+ added) for all rows. */
struct cpu_linear {
    const struct packed_form *form;
    const uint8_t *weights; /* of the first of these column blocks */
    size_t column_bytes;    /* from one column block to the next */
    size_t first_block, n_blocks;
    size_t n_out, k; /* of the whole matrix */
    const struct cpu_rows *x;
    size_t n_rows;
    const float *bias;  /* [n_out], or NULL */
    float *out;         /* [n_rows], out_stride apart; columns of the whole matrix */
    const float *added; /* as out; or NULL */
    size_t out_stride;
    void *scratch; /* linear_scratch(k) bytes, aligned to 64 */
};

/* The running softmax of some queries; at first -INFINITY, 0, 0. */
struct cpu_softmax {
    float *max, *sum; /* [n]; max is the exponent of a power of two */
    float *acc;       /* [n][v_dim rounded up to 16] */
};

/* Queries of one KV head against one segment of its keys and values, of which each query sees
 * some consecutive tokens; merges the segment into the queries' running softmax. */
struct cpu_attention {
    serverd_dtype kv;                        /* F32, F16, BF16, I8 */
    const void *const *keys, *const *values; /* [CPU_SEGMENT_STRIPS] strips, attention_template.h */
    size_t k_dim, v_dim;
    float scale, cap; /* cap 0: none */
    size_t n_queries;
    const float *queries;        /* [n_queries][k_dim] */
    const uint32_t *begin, *end; /* [n_queries] visible tokens of the segment; none if equal */
    float *max, *sum, *acc;      /* as cpu_softmax has them */
    float *scratch;              /* attention_scratch floats, aligned to 64 */
};

/* Low-rank additions to one linear layer (adapter_template.h), in the narrowest type that has all
 * their numbers: BF16, F16 or F32. */
#define CPU_ADAPTER_RANKS 4 /* of A that are taken at once */
struct cpu_low_rank {
    uint32_t rank, dtype;
    size_t n_in, n_out;
    float scale;
    const void *a, *b; /* NULL: nothing is added */
};

/* Bytes of one token of one head, with its scale. */
static inline size_t cpu_key_token_bytes(serverd_dtype kv, size_t k_dim)
{
    if (kv == DTYPE_I8)
        return 4 + (k_dim + 3) / 4 * 4;
    if (kv == DTYPE_BF16)
        return (k_dim + 1) / 2 * 4;
    return k_dim * (kv == DTYPE_F16 ? 2 : 4);
}

static inline size_t cpu_value_token_bytes(serverd_dtype kv, size_t v_dim)
{
    size_t width = (v_dim + 15) / 16 * 16;
    return kv == DTYPE_I8 ? 4 + width : width * (kv == DTYPE_F32 ? 4 : 2);
}

/* Bytes of one page of one head. */
static inline size_t cpu_key_page_bytes(serverd_dtype kv, size_t k_dim)
{
    return SERVERD_PAGE_TOKENS * cpu_key_token_bytes(kv, k_dim);
}

static inline size_t cpu_value_page_bytes(serverd_dtype kv, size_t v_dim)
{
    return SERVERD_PAGE_TOKENS * cpu_value_token_bytes(kv, v_dim);
}

struct cpu_kernels {
    const char *name; /* "avx512" */

    void (*linear)(const struct cpu_linear *call);
    size_t (*linear_scratch)(size_t k);
    size_t tile_rows; /* many rows are taken so many at a time */
    /* Writes row `row` of `out`; k is a multiple of 32. */
    void (*quantise)(const float *x, size_t k, const struct cpu_rows *out, size_t row);

    void (*attend)(const struct cpu_attention *call);
    size_t (*attention_scratch)(size_t k_dim);
    /* Merges a part into a running softmax, as attend does with its segment. */
    void (*merge)(const struct cpu_softmax *part, size_t n, size_t v_dim,
                  const struct cpu_softmax *into);
    void (*append)(serverd_dtype kv, const float *k, size_t k_dim, const float *v, size_t v_dim,
                   void *key_page, void *value_page, uint32_t slot);

    float (*sum_of_squares)(const float *x, size_t n);
    void (*scale)(const float *x, float factor, const float *or_null_w, float *out, size_t n);
    void (*add)(const float *a, const float *b, float *out, size_t n);
    /* One head: pairs (i, i + n_pairs), or (2i, 2i + 1), turned by [n_pairs][cos, sin]. */
    void (*rope)(const float *x, const float *cos_sin, size_t n_pairs, bool is_neox, float *out);
    float (*sum)(const float *x, size_t n);
    /* act(x), times b if there is one. */
    void (*activate)(uint32_t activation, const float *x, const float *or_null_b, float *out,
                     size_t n);
    void (*softcap)(const float *x, float cap, float *out, size_t n);

    /* Of some rows, each with pointers of its own: t[CPU_ADAPTER_RANKS * group ..] = A x; and for
     * some column blocks, y += factor * (B t). */
    void (*adapter_down)(const struct cpu_low_rank *site, uint32_t group, const float *const *x,
                         float *const *t, size_t n_rows);
    void (*adapter_up)(const struct cpu_low_rank *site, size_t first_block, size_t n_blocks,
                       const float *const *t, const float *factor, float *const *y, size_t n_rows);
};

extern const struct cpu_kernels cpu_kernels_generic, cpu_kernels_avx2, cpu_kernels_avxvnni,
    cpu_kernels_avx512, cpu_kernels_avx512bf16, cpu_kernels_amx;

/* The best level of this machine, or the one of that name; NULL: not here. */
const struct cpu_kernels *cpu_kernels_best(void);
const struct cpu_kernels *cpu_kernels_named(const char *name);

#endif
