/* Attention over pages, in segments of keys: a block makes the softmax of one segment for some
 * (row, head) pairs that read the same keys, rows of one sequence and heads of one group; a second
 * kernel puts the segments of a row together in order, if there is more than one.
 *
 * A row's bits are the same alone, in a batch and in any chunk of a prompt: segments begin at
 * multiples of their length from token 0 on; of a pair, a score is a chain of products over the
 * dims, a sum of values one over 64 keys of a warp, and what other pairs of the tile see has weight
 * zero here. How many pairs a block has changes how often keys are read, and no bit.
 *
 * Neither keys nor values go through shared memory: a lane reads 16 bytes of a key, which are k of
 * two products, and 16 of a value, which are columns of eight; dims are reordered accordingly. With
 * one tile of pairs the time is that of reading the pages, with four that of the tensor cores and
 * of the second-level cache, which gives 64 products for each element. */
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/pages.cuh"

#include <math.h>

enum {
    QUERY_DIMS = 128, /* of a block's queries in shared memory at a time */
    VALUE_DIMS = 64,  /* whose sums a warp has at a time: 8 for each of 8 columns */
    SUM_STRIDE = VALUE_DIMS + 4,
    SUM_TILES = 2, /* whose sums a warp has at a time */
    COMBINE_THREADS = 128
};

/* ---- scores ---------------------------------------------------------------------------------- */

__device__ static __forceinline__ float4 query_at(const struct attention *a,
                                                  const struct tile *tile, uint32_t pair,
                                                  uint32_t dim)
{
    const uint32_t row = pair / tile->n_heads, head = tile->first_head + pair % tile->n_heads;
    if (row >= tile->n_rows)
        return float4{0, 0, 0, 0};
    return four_floats(a->q + ((size_t)(tile->first_row + row) * a->p.n_heads + head) * a->p.k_dim,
                       dim, a->p.k_dim);
}

/* QUERY_DIMS of all queries from first_dim on, as rows of products: [tile][dim / 16][lane]. Within
 * 32 dims, lane t of four has 8 t .. 8 t + 7, so that it reads 16 bytes of a key at once; of two
 * products the first has the first four. */
__device__ static __forceinline__ void
stage_queries(const struct attention *a, const struct tile *tile, uint32_t first_dim, uint4 *staged)
{
    enum { STEPS = QUERY_DIMS / 16 };
    for (uint32_t at = threadIdx.x; at < tile->n_used * STEPS * WARP_LANES; at += ATTEND_THREADS) {
        const uint32_t lane = at % WARP_LANES, step = at / WARP_LANES % STEPS;
        const uint32_t pair = at / WARP_LANES / STEPS * TILE_PAIRS + lane / 4;
        const uint32_t dim = first_dim + step / 2 * 32 + lane % 4 * 8 + step % 2 * 4;
        const float4 upper = query_at(a, tile, pair, dim), lower = query_at(a, tile, pair + 8, dim);
        staged[at] = uint4{bf16_pair(upper.x, upper.y), bf16_pair(lower.x, lower.y),
                           bf16_pair(upper.z, upper.w), bf16_pair(lower.z, lower.w)};
    }
}

/* Of 16 pairs and a warp's keys: of tile j of 8 keys as fragments.h has results. */
struct scores {
    float of[KEY_TILES][4];
};

/* Adds what QUERY_DIMS have to it. */
template <enum gpu_number TYPE, int N_TILES>
__device__ static __forceinline__ void add_scores(const char *all, const struct tile *tile,
                                                  uint32_t first_dim, const uint4 *staged,
                                                  struct scores scores[N_TILES])
{
    const uint32_t lane = threadIdx.x % WARP_LANES, k_dim = tile->keys.dim;
    for (uint32_t i = 0; i < QUERY_DIMS && first_dim + i < k_dim; i += 32) {
        const uint32_t dim = first_dim + i + lane % 4 * 8;
        uint4 key[KEY_TILES] = {};
#pragma unroll
        for (uint32_t j = 0; j < KEY_TILES; j++) {
            const uint32_t at = first_of_warp() + j * 8 + lane / 4;
            if (has_key(tile, at) && dim < k_dim)
                key[j] = eight_elements<TYPE>(token_at(all, tile, &tile->keys, at), dim, k_dim);
        }
#pragma unroll
        for (uint32_t t = 0; t < N_TILES; t++) {
            if (t >= tile->n_used)
                continue;
            const uint4 *at = staged + (t * (QUERY_DIMS / 16) + i / 16) * WARP_LANES + lane;
            const uint4 first = at[0], second = at[WARP_LANES];
#pragma unroll
            for (uint32_t j = 0; j < KEY_TILES; j++) {
                if (!has_page(tile, (first_of_warp() + j * 8) / SERVERD_PAGE_TOKENS))
                    continue;
                mma(scores[t].of[j], first, key[j].x, key[j].y);
                mma(scores[t].of[j], second, key[j].z, key[j].w);
            }
        }
    }
}

/* ---- weights --------------------------------------------------------------------------------- */

/* Scales and caps scores; of keys that a pair does not see they become -INFINITY. Products are
 * rounded for themselves: contracted with what follows, they might not be in every kernel. */
template <enum gpu_number TYPE>
__device__ static __forceinline__ void finish_scores(const struct attention *a,
                                                     const struct tile *tile, uint32_t first_pair,
                                                     struct scores *scores)
{
    const uint32_t lane = threadIdx.x % WARP_LANES, pair = first_pair + lane / 4;
    const struct visible upper = row_keys(a, tile, pair / tile->n_heads),
                         lower = row_keys(a, tile, (pair + 8) / tile->n_heads);
#pragma unroll
    for (uint32_t j = 0; j < KEY_TILES; j++)
#pragma unroll
        for (uint32_t c = 0; c < 4; c++) {
            const uint32_t at = first_of_warp() + j * 8 + lane % 4 * 2 + c % 2;
            const uint32_t key = tile->first_key + at;
            const struct visible *sees = c < 2 ? &upper : &lower;
            float x = scores->of[j][c];
            if (TYPE == GPU_I8)
                x = __fmul_rn(x, tile->key_scale[at]);
            x = __fmul_rn(a->p.scale, x);
            if (a->p.cap > 0)
                x = __fmul_rn(a->p.cap, tanhf(x / a->p.cap));
            const bool is_seen = has_key(tile, at) && key >= sees->begin && key < sees->end;
            scores->of[j][c] = is_seen ? x : -INFINITY;
        }
}

/* Over the four lanes that have a row. */
__device__ static __forceinline__ float row_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

__device__ static __forceinline__ float row_sum(float x)
{
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

/* What the warps of a block tell each other of each pair. */
template <int N_TILES> struct of_pairs {
    float most[ATTEND_WARPS][N_TILES * TILE_PAIRS], total[ATTEND_WARPS][N_TILES * TILE_PAIRS];
};

template <int N_TILES>
__device__ static __forceinline__ void tell_maxima(const struct scores *scores, uint32_t first_pair,
                                                   struct of_pairs<N_TILES> *pairs)
{
    const uint32_t warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    float upper = -INFINITY, lower = -INFINITY;
#pragma unroll
    for (uint32_t j = 0; j < KEY_TILES; j++) {
        upper = fmaxf(upper, fmaxf(scores->of[j][0], scores->of[j][1]));
        lower = fmaxf(lower, fmaxf(scores->of[j][2], scores->of[j][3]));
    }
    upper = row_max(upper);
    lower = row_max(lower);
    if (lane % 4 == 0) {
        pairs->most[warp][first_pair + lane / 4] = upper;
        pairs->most[warp][first_pair + lane / 4 + 8] = lower;
    }
}

template <int N_TILES>
__device__ static __forceinline__ float most_of(const struct of_pairs<N_TILES> *pairs,
                                                uint32_t pair)
{
    float most = pairs->most[0][pair];
    for (int warp = 1; warp < ATTEND_WARPS; warp++)
        most = fmaxf(most, pairs->most[warp][pair]);
    return most;
}

/* Weights of 16 pairs and a warp's keys, as rows of products: of page i as fragments.h has them. */
struct weights {
    uint4 of[WARP_PAGES];
};

/* Weights, of int8 times the values' scales, and the sums of those without them. */
template <enum gpu_number TYPE, int N_TILES>
__device__ static __forceinline__ void weigh(const struct tile *tile, uint32_t first_pair,
                                             struct of_pairs<N_TILES> *pairs,
                                             const struct scores *scores, struct weights *weights)
{
    const uint32_t warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    const uint32_t pair = first_pair + lane / 4;
    const float most[2] = {most_of(pairs, pair), most_of(pairs, pair + 8)};
    float total[2] = {0, 0};
#pragma unroll
    for (uint32_t j = 0; j < KEY_TILES; j++) {
        float w[4];
#pragma unroll
        for (uint32_t c = 0; c < 4; c++) {
            const float x = scores->of[j][c];
            w[c] = x == -INFINITY ? 0 : expf(x - most[c / 2]);
            total[c / 2] += w[c];
            if (TYPE == GPU_I8)
                w[c] = __fmul_rn(w[c],
                                 tile->value_scale[first_of_warp() + j * 8 + lane % 4 * 2 + c % 2]);
        }
        (j % 2 ? weights->of[j / 2].z : weights->of[j / 2].x) = bf16_pair(w[0], w[1]);
        (j % 2 ? weights->of[j / 2].w : weights->of[j / 2].y) = bf16_pair(w[2], w[3]);
    }
    total[0] = row_sum(total[0]);
    total[1] = row_sum(total[1]);
    if (lane % 4 == 0) {
        pairs->total[warp][pair] = total[0];
        pairs->total[warp][pair + 8] = total[1];
    }
}

/* ---- values ---------------------------------------------------------------------------------- */

/* Of 16 pairs: column c of tile j is dim 8 c + j, so that a lane reads 16 bytes of a value. */
struct value_sums {
    float of[VALUE_DIMS / 8][4];
};

/* Element j of two vectors. */
__device__ static __forceinline__ unsigned zipped(const uint4 *first, const uint4 *second,
                                                  uint32_t j)
{
    const unsigned a = j / 2 == 0   ? first->x
                       : j / 2 == 1 ? first->y
                       : j / 2 == 2 ? first->z
                                    : first->w;
    const unsigned b = j / 2 == 0   ? second->x
                       : j / 2 == 1 ? second->y
                       : j / 2 == 2 ? second->z
                                    : second->w;
    return j % 2 ? a >> 16 | (b & 0xffff0000u) : (a & 0xffffu) | b << 16;
}

template <enum gpu_number TYPE, int N_TILES>
__device__ static __forceinline__ void
add_values(const char *all, const struct tile *tile, uint32_t n_used, uint32_t first_dim,
           const struct weights weights[N_TILES], struct value_sums sums[N_TILES])
{
    enum { AHEAD = N_TILES == 1 ? 2 : 1 }; /* pages that are read before they are used */
    const uint32_t lane = threadIdx.x % WARP_LANES, v_dim = tile->values.dim;
    const uint32_t dim = first_dim + lane / 4 * 8;
#pragma unroll
    for (uint32_t i = 0; i < WARP_PAGES; i += AHEAD) {
        uint4 value[AHEAD][4] = {};
#pragma unroll
        for (uint32_t e = 0; e < AHEAD * 4; e++) {
            const uint32_t key = first_of_warp() + (i + e / 4) * SERVERD_PAGE_TOKENS +
                                 lane % 4 * 2 + e % 2 + e % 4 / 2 * 8;
            if (has_key(tile, key) && dim < v_dim)
                value[e / 4][e % 4] =
                    eight_elements<TYPE>(token_at(all, tile, &tile->values, key), dim, v_dim);
        }
#pragma unroll
        for (uint32_t j = 0; j < AHEAD * VALUE_DIMS / 8; j++) {
            const uint4 *of_page = value[j / (VALUE_DIMS / 8)];
            const uint32_t column = j % (VALUE_DIMS / 8), page = i + j / (VALUE_DIMS / 8);
            if (!has_page(tile, first_of_warp() / SERVERD_PAGE_TOKENS + page))
                continue;
            const unsigned b0 = zipped(&of_page[0], &of_page[1], column),
                           b1 = zipped(&of_page[2], &of_page[3], column);
#pragma unroll
            for (uint32_t t = 0; t < N_TILES; t++)
                if (t < n_used)
                    mma(sums[t].of[column], weights[t].of[page], b0, b1);
        }
    }
}

/* Where the sums of a pair go. */
struct place {
    float *to;    /* [v_dim]; NULL: not there */
    uint32_t row; /* of the result; NO_ROW: not there */
    uint32_t head;
    float total; /* by which they are divided */
};

enum { NO_ROW = 0xffffffffu };

/* Element i of a head of the result: in f32, or as the row of a linear layer. */
__device__ static __forceinline__ void write_result(const struct attention *a, uint32_t row,
                                                    uint32_t head, uint32_t i, float x)
{
    const size_t width = (size_t)a->p.n_heads * a->p.v_dim, column = (size_t)head * a->p.v_dim + i;
    if (a->fragments)
        a->fragments[fragments_row_at(row, column, width)] = (uint16_t)bf16_bits(x);
    else
        a->out[row * width + column] = x;
}

template <int N_TILES>
__device__ static __forceinline__ struct place place_of(const struct attention *a,
                                                        const struct tile *tile, uint32_t pair,
                                                        const struct of_pairs<N_TILES> *pairs)
{
    const uint32_t in_tile = pair / tile->n_heads, row = tile->first_row + in_tile;
    const uint32_t head = tile->first_head + pair % tile->n_heads;
    const struct visible keys = row_keys(a, tile, in_tile);
    if (in_tile >= tile->n_rows || keys.end <= tile->first_key ||
        keys.begin >= tile->first_key + SEGMENT_KEYS)
        return place{NULL, NO_ROW, head, 1};
    float total = pairs->total[0][pair];
    for (int warp = 1; warp < ATTEND_WARPS; warp++)
        total += pairs->total[warp][pair];
    if (is_one_segment(keys))
        return place{NULL, row, head, total};
    const size_t slot = ((size_t)(row - a->first_row) * a->p.n_heads + head) * a->n_slots +
                        tile->first_key / SEGMENT_KEYS - keys.begin / SEGMENT_KEYS;
    float *partial = a->partials + slot * (2 + a->p.v_dim);
    partial[0] = most_of(pairs, pair);
    partial[1] = total;
    return place{partial + 2, NO_ROW, head, 1};
}

/* Adds what the warps have of 16 pairs, in order. */
__device__ static __forceinline__ void add_warps(const struct attention *a,
                                                 const struct value_sums *sums,
                                                 const struct place *places, uint32_t first_dim,
                                                 float *staged)
{
    const uint32_t warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    __syncthreads(); /* the last use of `staged` is over */
    float *of_warp = staged + warp * TILE_PAIRS * SUM_STRIDE;
#pragma unroll
    for (uint32_t c = 0; c < 4; c++) {
        float4 *to =
            (float4 *)(of_warp + (lane / 4 + c / 2 * 8) * SUM_STRIDE + lane % 4 * 16 + c % 2 * 8);
        to[0] = float4{sums->of[0][c], sums->of[1][c], sums->of[2][c], sums->of[3][c]};
        to[1] = float4{sums->of[4][c], sums->of[5][c], sums->of[6][c], sums->of[7][c]};
    }
    __syncthreads();
    const uint32_t i = threadIdx.x % VALUE_DIMS;
    for (uint32_t pair = threadIdx.x / VALUE_DIMS; pair < TILE_PAIRS;
         pair += ATTEND_THREADS / VALUE_DIMS) {
        float sum = staged[pair * SUM_STRIDE + i];
        for (int other = 1; other < ATTEND_WARPS; other++)
            sum += staged[(other * TILE_PAIRS + pair) * SUM_STRIDE + i];
        if (first_dim + i >= a->p.v_dim)
            continue;
        const struct place *place = &places[pair];
        if (place->row != NO_ROW)
            write_result(a, place->row, place->head, first_dim + i, sum / place->total);
        else if (place->to)
            place->to[first_dim + i] = sum;
    }
}

/* ---- the kernels ----------------------------------------------------------------------------- */

template <enum gpu_number TYPE, int N_TILES>
__global__ void __launch_bounds__(ATTEND_THREADS, N_TILES == 1 ? 3 : 2) attend(struct attention a)
{
    enum {
        QUERIES = N_TILES * QUERY_DIMS / 16 * WARP_LANES,
        SUMS = ATTEND_WARPS * TILE_PAIRS * SUM_STRIDE / 4,
        N_SUMS = N_TILES < SUM_TILES ? N_TILES : SUM_TILES
    };
    SHARED(uint4, staged, QUERIES > SUMS ? QUERIES : SUMS); /* queries, then sums */
    SHARED(struct of_pairs<N_TILES>, pairs, 1);
    SHARED(struct place, places, N_TILES * TILE_PAIRS);
    SHARED(struct tile, tile, 1);
    if (!find_tile(&a, N_TILES * TILE_PAIRS, TYPE == GPU_I8, tile))
        return;
    struct weights weights[N_TILES];
    {
        struct scores scores[N_TILES] = {};
        for (uint32_t dim = 0; dim < a.p.k_dim; dim += QUERY_DIMS) {
            __syncthreads(); /* the last dims have been read */
            stage_queries(&a, tile, dim, staged);
            __syncthreads();
            add_scores<TYPE, N_TILES>(a.keys, tile, dim, staged, scores);
        }
#pragma unroll
        for (uint32_t i = 0; i < N_TILES; i++) {
            if (i >= tile->n_used)
                continue;
            finish_scores<TYPE>(&a, tile, i * TILE_PAIRS, &scores[i]);
            tell_maxima<N_TILES>(&scores[i], i * TILE_PAIRS, pairs);
            __syncwarp(); /* registers do not suffice for what tiles have in common */
        }
        __syncthreads();
#pragma unroll
        for (uint32_t i = 0; i < N_TILES; i++)
            if (i < tile->n_used)
                weigh<TYPE, N_TILES>(tile, i * TILE_PAIRS, pairs, &scores[i], &weights[i]);
    }
    __syncthreads();
    if (threadIdx.x < N_TILES * TILE_PAIRS)
        places[threadIdx.x] = place_of<N_TILES>(&a, tile, threadIdx.x, pairs);
    for (uint32_t dim = 0; dim < a.p.v_dim; dim += VALUE_DIMS)
#pragma unroll
        for (uint32_t i = 0; i < N_TILES; i += N_SUMS) {
            if (i >= tile->n_used)
                continue;
            struct value_sums sums[N_SUMS] = {};
            add_values<TYPE, N_SUMS>(a.values, tile, tile->n_used - i, dim, weights + i, sums);
#pragma unroll
            for (uint32_t t = 0; t < N_SUMS; t++)
                if (i + t < tile->n_used)
                    add_warps(&a, &sums[t], places + (i + t) * TILE_PAIRS, dim, (float *)staged);
        }
}

/* A block has a head of a row. */
__global__ void __launch_bounds__(COMBINE_THREADS) combine(struct attention a)
{
    const uint32_t row = a.first_row + blockIdx.x, head = blockIdx.y, seq = a.batch.row_seq[row];
    const uint32_t stride = 2 + a.p.v_dim;
    const struct visible keys =
        visible_keys(&a.p, a.kv.keys != NULL, (uint32_t)a.batch.position[row],
                     a.batch.first_row[seq + 1] - a.batch.first_row[seq]);
    if (is_one_segment(keys))
        return;
    const uint32_t n = (keys.end - 1) / SEGMENT_KEYS - keys.begin / SEGMENT_KEYS + 1;
    const float *partial =
        a.partials + ((size_t)blockIdx.x * a.p.n_heads + head) * a.n_slots * stride;
    float most = -INFINITY;
    for (uint32_t s = 0; s < n; s++)
        most = fmaxf(most, partial[s * stride]);
    for (uint32_t i = threadIdx.x; i < a.p.v_dim; i += COMBINE_THREADS) {
        float sum = 0, total = 0;
        for (uint32_t s = 0; s < n; s++) {
            const float *of = partial + s * stride;
            const float factor = expf(of[0] - most);
            sum += factor * of[2 + i];
            total += factor * of[1];
        }
        write_result(&a, row, head, i, sum / total);
    }
}

/* ---- launches -------------------------------------------------------------------------------- */

/* That n rows in a row see together. */
static uint32_t segments_of(const serverd_attn *p, uint32_t n_keys, uint32_t n_rows)
{
    const uint32_t all = blocks_of(n_keys, SEGMENT_KEYS);
    if (p->window == 0 || !p->is_causal)
        return all;
    const size_t some = ((size_t)p->window + n_rows - 2 + SEGMENT_KEYS - 1) / SEGMENT_KEYS + 1;
    return some < all ? (uint32_t)some : all;
}

extern "C" size_t gpu_attend_row_floats(const serverd_attn *p, uint32_t max_keys)
{
    return (size_t)p->n_heads * segments_of(p, max_keys, 1) * (2 + p->v_dim);
}

template <int N_TILES> static void launch(struct gpu *gpu, struct attention a, uint32_t n_keys)
{
    const enum gpu_number type = a.kv.keys ? a.kv.type : GPU_F32;
    const uint32_t group = a.p.n_heads / a.p.n_kv_heads, most = N_TILES * TILE_PAIRS;
    a.rows_per_tile = group < most ? most / group : 1;
    a.head_tiles = blocks_of(group, most);
    const dim3 grid(a.n_rows / a.rows_per_tile + a.batch.n_seqs, a.p.n_kv_heads * a.head_tiles,
                    segments_of(&a.p, n_keys, a.rows_per_tile)),
        block(ATTEND_THREADS);
    if (type == GPU_F32)
        LAUNCH((attend<GPU_F32, N_TILES>), grid, block, gpu->stream, a);
    else if (type == GPU_F16)
        LAUNCH((attend<GPU_F16, N_TILES>), grid, block, gpu->stream, a);
    else if (type == GPU_BF16)
        LAUNCH((attend<GPU_BF16, N_TILES>), grid, block, gpu->stream, a);
    else
        LAUNCH((attend<GPU_I8, N_TILES>), grid, block, gpu->stream, a);
    gpu_check(gpu, "attend");
}

extern "C" void gpu_attend(struct gpu *gpu, const struct gpu_batch *batch, const serverd_attn *p,
                           const struct gpu_kv *kv, const float *q, const float *k, const float *v,
                           uint32_t n_keys, float *scratch, size_t scratch_floats, float *out,
                           void *fragments)
{
    struct attention a = {};
    a.batch = *batch;
    a.p = *p;
    a.kv = *kv;
    a.q = q;
    a.keys = kv->keys ? kv->keys : (const char *)k;
    a.values = kv->keys ? kv->values : (const char *)v;
    a.n_slots = segments_of(p, n_keys, 1);
    a.partials = scratch;
    a.out = out;
    a.fragments = (uint16_t *)fragments;
    const size_t fitting =
        a.n_slots == 1 ? batch->n_rows : scratch_floats / gpu_attend_row_floats(p, n_keys);
    const uint32_t most = fitting < batch->n_rows ? (uint32_t)fitting : batch->n_rows;
    /* more pairs than a tile: keys that are read are for several tiles */
    const bool is_prompt =
        (size_t)batch->n_rows * (p->n_heads / p->n_kv_heads) > (size_t)batch->n_seqs * TILE_PAIRS;
    if (batch->n_rows == batch->n_seqs && most == batch->n_rows && !is_prompt && p->window == 0)
        a.chain = batch->chain;
    for (; a.first_row < batch->n_rows && most > 0; a.first_row += most) {
        a.n_rows = batch->n_rows - a.first_row < most ? batch->n_rows - a.first_row : most;
        if (is_prompt)
            launch<MANY_TILES>(gpu, a, n_keys);
        else
            launch<1>(gpu, a, n_keys);
        if (a.n_slots == 1)
            continue;
        LAUNCH(combine, dim3(a.n_rows, p->n_heads), dim3(COMBINE_THREADS), gpu->stream, a);
        gpu_check(gpu, "combine");
    }
}
