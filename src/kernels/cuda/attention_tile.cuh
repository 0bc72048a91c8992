/* What a block of attention has to do: which rows and heads, which keys, and where they are. */
#ifndef KERNELS_CUDA_ATTENTION_TILE_CUH
#define KERNELS_CUDA_ATTENTION_TILE_CUH

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/pages.cuh"

enum {
    SEGMENT_KEYS = GPU_SEGMENT_KEYS,
    N_PAGES = SEGMENT_KEYS / SERVERD_PAGE_TOKENS,
    ATTEND_WARPS = 4,
    ATTEND_THREADS = ATTEND_WARPS * WARP_LANES,
    WARP_KEYS = SEGMENT_KEYS / ATTEND_WARPS,
    WARP_PAGES = WARP_KEYS / SERVERD_PAGE_TOKENS,
    KEY_TILES = WARP_KEYS / 8,
    TILE_PAIRS = 16,
    MANY_TILES = 4, /* of pairs that a block of a prompt has */
    MAX_TILE_ROWS = MANY_TILES * TILE_PAIRS
};

/* ---- which keys ------------------------------------------------------------------------------ */

/* What the kernels are told. */
struct attention {
    struct gpu_batch batch;
    serverd_attn p;
    struct gpu_kv kv; /* keys NULL: keys and values are the step's */
    const float *q;
    const char *keys, *values;  /* the store's, or the step's: f32 */
    uint32_t first_row, n_rows; /* of the step: this turn's */
    uint32_t rows_per_tile, head_tiles;
    const uint32_t *chain; /* the batch's, if a tile may have rows of several sequences; or NULL */
    uint32_t n_slots;      /* partial results of a row and head */
    float *partials; /* [n_rows][n_heads][n_slots][2 + v_dim]: maximum, sum of weights, sums */
    float *out;
    uint16_t *fragments; /* not NULL: the result goes there instead */
};

/* Keys begin .. end - 1: positions in the store, or rows of the step from the sequence's first. */
struct visible {
    uint32_t begin, end;
};

__device__ static __forceinline__ struct visible visible_keys(const serverd_attn *p, bool has_store,
                                                              uint32_t position, uint32_t n_own)
{
    struct visible keys = {0, position + 1};
    if (!has_store && !p->is_causal)
        keys.end = n_own;
    else if (p->window > 0 && keys.end > p->window)
        keys.begin = keys.end - p->window;
    return keys;
}

/* One segment has them all: its sums are the result. */
__device__ static __forceinline__ bool is_one_segment(struct visible keys)
{
    return keys.begin / SEGMENT_KEYS == (keys.end - 1) / SEGMENT_KEYS;
}

/* ---- what a block has ------------------------------------------------------------------------ */

/* Where a head's keys are, or its values, page after page: bytes from the first of all. It is no
 * pointer, so that the compiler knows that what is read is not in shared memory. */
struct side {
    size_t first;
    uint32_t page_stride, token_stride, dim;
};

/* In shared memory, for registers have better to do. */
struct tile {
    uint32_t seq, first_row, n_rows;  /* of the step: its rows; the first one's sequence */
    uint32_t position[MAX_TILE_ROWS]; /* of each row */
    uint32_t n_own;                   /* rows of the sequence in the step */
    uint32_t first_head, n_heads;
    uint32_t n_used;        /* tiles of 16 pairs */
    uint32_t first_key;     /* of the segment */
    uint32_t from, to;      /* the segment's keys that some row sees; none: nothing is to be done */
    uint32_t page[N_PAGES]; /* those that have such keys */
    struct side keys, values;
    float key_scale[SEGMENT_KEYS], value_scale[SEGMENT_KEYS]; /* of int8; 0: none has the key */
};

/* Sequences share the blocks so that each finds its own: a sequence's begin where this says, and
 * are at least as many as its rows take. */
__device__ static uint32_t first_block(const struct attention *a, uint32_t seq)
{
    const uint32_t row = max(a->batch.first_row[seq], a->first_row) - a->first_row;
    return min(row, a->n_rows) / a->rows_per_tile + seq;
}

__device__ static struct side stored_side(const struct attention *a, uint32_t kv_head, uint32_t dim)
{
    const size_t bytes = page_bytes(a->kv.type, dim);
    return side{kv_head * bytes, (uint32_t)(a->p.n_kv_heads * bytes), token_bytes(a->kv.type, dim),
                dim};
}

/* Rows of the step as if they were pages: page i has 16 i .. 16 i + 15 of the sequence's. */
__device__ static struct side own_side(const struct attention *a, uint32_t kv_head,
                                       uint32_t first_own, uint32_t dim)
{
    const uint32_t stride = a->p.n_kv_heads * dim * (uint32_t)sizeof(float);
    return side{(size_t)first_own * stride + kv_head * dim * sizeof(float),
                SERVERD_PAGE_TOKENS * stride, stride, dim};
}

__device__ static uint32_t tiles_of(uint32_t n_pairs)
{
    return (n_pairs + TILE_PAIRS - 1) / TILE_PAIRS;
}

/* Tile `index` of the sequence's rows in this turn. */
__device__ static void set_rows(const struct attention *a, uint32_t seq, uint32_t index,
                                uint32_t most_pairs, struct tile *tile)
{
    const uint32_t first_own = a->batch.first_row[seq], end_own = a->batch.first_row[seq + 1];
    const uint32_t end = min(end_own, a->first_row + a->n_rows);
    const uint32_t group = a->p.n_heads / a->p.n_kv_heads, kv_head = blockIdx.y / a->head_tiles,
                   head = blockIdx.y % a->head_tiles * most_pairs;
    tile->seq = seq;
    tile->n_own = end_own - first_own;
    tile->first_row = max(first_own, a->first_row) + index * a->rows_per_tile;
    tile->n_rows = tile->first_row < end ? min(end - tile->first_row, a->rows_per_tile) : 0;
    tile->first_head = kv_head * group + head;
    tile->n_heads = min(group - head, most_pairs);
    tile->n_used = tiles_of(tile->n_rows * tile->n_heads);
    const bool has_store = a->kv.keys != NULL;
    tile->keys = has_store ? stored_side(a, kv_head, a->p.k_dim)
                           : own_side(a, kv_head, first_own, a->p.k_dim);
    tile->values = has_store ? stored_side(a, kv_head, a->p.v_dim)
                             : own_side(a, kv_head, first_own, a->p.v_dim);
}

/* The keys of row `row` of the tile. */
__device__ static __forceinline__ struct visible row_keys(const struct attention *a,
                                                          const struct tile *tile, uint32_t row)
{
    return visible_keys(&a->p, a->kv.keys != NULL, tile->position[row], tile->n_own);
}

__device__ static void set_keys(const struct attention *a, struct tile *tile)
{
    tile->from = tile->to = 0;
    if (tile->n_rows == 0)
        return;
    const uint32_t position = (uint32_t)a->batch.position[tile->first_row];
    for (uint32_t row = 0; row < a->rows_per_tile; row++)
        tile->position[row] = position + row;
    const uint32_t begin = row_keys(a, tile, 0).begin;
    tile->first_key = (begin / SEGMENT_KEYS + blockIdx.z) * SEGMENT_KEYS;
    tile->from = max(begin, tile->first_key);
    tile->to = min(row_keys(a, tile, tile->n_rows - 1).end, tile->first_key + SEGMENT_KEYS);
}

/* Where sequences have the same pages of the segment, the first one of as many as fit has the rows
 * of all. */
__device__ static void follow_chain(const struct attention *a, struct tile *tile)
{
    const uint32_t segment = tile->first_key / SEGMENT_KEYS, n_segments = a->batch.n_segments;
    if (!a->chain || tile->n_rows == 0 || segment >= n_segments)
        return;
    const uint32_t *chain = a->chain + (size_t)tile->seq * n_segments + segment;
    const uint32_t before = chain[0];
    if (before % a->rows_per_tile != 0) {
        tile->from = tile->to = 0;
        return;
    }
    uint32_t n = 1;
    for (; n < a->rows_per_tile && tile->seq + n < a->batch.n_seqs; n++) {
        if (chain[(size_t)n * n_segments] != before + n)
            break;
        tile->position[n] = (uint32_t)a->batch.position[tile->first_row + n];
    }
    tile->n_rows = n;
    tile->n_used = tiles_of(n * tile->n_heads);
}

/* Key `key` of the segment is seen by some row. */
__device__ static __forceinline__ bool has_key(const struct tile *tile, uint32_t key)
{
    return tile->first_key + key >= tile->from && tile->first_key + key < tile->to;
}

/* Some key of page `i` of the segment is. */
__device__ static __forceinline__ bool has_page(const struct tile *tile, uint32_t i)
{
    const uint32_t first = tile->first_key + i * SERVERD_PAGE_TOKENS;
    return first < tile->to && first + SERVERD_PAGE_TOKENS > tile->from;
}

/* Token `key` of the segment, which the tile has. all: the keys or values. */
__device__ static __forceinline__ const char *token_at(const char *all, const struct tile *tile,
                                                       const struct side *side, uint32_t key)
{
    return all + side->first + (size_t)tile->page[key / SERVERD_PAGE_TOKENS] * side->page_stride +
           key % SERVERD_PAGE_TOKENS * side->token_stride;
}

__device__ static float scale_at(const char *all, const struct tile *tile, const struct side *side,
                                 uint32_t key)
{
    if (!has_key(tile, key))
        return 0;
    const char *page = token_at(all, tile, side, key / SERVERD_PAGE_TOKENS * SERVERD_PAGE_TOKENS);
    return scales_of(page, side->token_stride)[key % SERVERD_PAGE_TOKENS];
}

/* False: it has nothing to do. Scales are there behind the next barrier. */
__device__ static bool find_tile(const struct attention *a, uint32_t most_pairs, bool has_scales,
                                 struct tile *tile)
{
    for (uint32_t seq = threadIdx.x; seq < a->batch.n_seqs; seq += ATTEND_THREADS) {
        const uint32_t first = first_block(a, seq);
        if (first <= blockIdx.x && blockIdx.x < first_block(a, seq + 1)) {
            set_rows(a, seq, blockIdx.x - first, most_pairs, tile);
            set_keys(a, tile);
            follow_chain(a, tile);
        }
    }
    __syncthreads();
    if (tile->from >= tile->to)
        return false;
    const uint32_t *table = a->kv.keys == NULL  ? NULL
                            : a->kv.is_windowed ? a->batch.window_table
                                                : a->batch.page_table;
    const uint32_t i = threadIdx.x, page = tile->first_key / SERVERD_PAGE_TOKENS + i;
    if (i < N_PAGES && has_page(tile, i))
        tile->page[i] = table ? table[(size_t)tile->seq * a->batch.max_pages + page] : page;
    __syncthreads();
    for (uint32_t key = threadIdx.x; key < SEGMENT_KEYS && has_scales; key += ATTEND_THREADS) {
        tile->key_scale[key] = scale_at(a->keys, tile, &tile->keys, key);
        tile->value_scale[key] = scale_at(a->values, tile, &tile->values, key);
    }
    return true;
}

/* The warp's share of the segment begins there. */
__device__ static __forceinline__ uint32_t first_of_warp(void)
{
    return threadIdx.x / WARP_LANES * WARP_KEYS;
}

#endif
