/* Attention over pages, in segments of keys: a block makes the softmax of one segment for one head
 * of one row, a second kernel puts the segments of a row together in order. Segments begin at
 * multiples of their length from token 0 on, so a row's bits are the same alone, in a batch and in
 * any chunk of a prompt. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/sums.cuh"

#include <math.h>

enum { SEGMENT_KEYS = 256, ATTEND_THREADS = 128, APPEND_THREADS = 128 };

/* ---- one head of one token --------------------------------------------------------------------
 */

__host__ __device__ static size_t head_bytes(enum gpu_number type, size_t dim)
{
    if (type == GPU_I8)
        return sizeof(float) + (dim + 3) / 4 * 4; /* scales stay aligned */
    return dim * (type == GPU_F32 ? sizeof(float) : sizeof(uint16_t));
}

extern "C" size_t gpu_kv_head_bytes(enum gpu_number type, size_t dim)
{
    return head_bytes(type, dim);
}

/* To nearest, even. */
__device__ static uint16_t half_bits(float value)
{
    const unsigned bits = __float_as_uint(value), sign = bits >> 16 & 0x8000u,
                   rest = bits & 0x7fffffffu;
    if (rest > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u);
    if (rest >= 0x477ff000u) /* rounds to what is too large */
        return (uint16_t)(sign | 0x7c00u);
    if (rest < 0x38800000u) { /* a number below the normal ones: the sum rounds it in place */
        const float shifted = __uint_as_float(rest) + 0.5f;
        return (uint16_t)(sign | (__float_as_uint(shifted) - 0x3f000000u));
    }
    return (uint16_t)(sign | (rest - 0x38000000u + 0xfffu + (rest >> 13 & 1u)) >> 13);
}

__device__ static float element_at(enum gpu_number type, const char *head, uint32_t i)
{
    switch (type) {
    case GPU_F32:
        return ((const float *)head)[i];
    case GPU_BF16:
        return bf16_value(((const uint16_t *)head)[i]);
    case GPU_F16:
        return half_value(((const uint16_t *)head)[i]);
    default:
        return *(const float *)head * (float)(signed char)head[sizeof(float) + i];
    }
}

/* Where the store has a head of token `position` of a sequence. */
__device__ static char *head_at(const struct gpu_kv *kv, const struct gpu_batch *batch, char *store,
                                uint32_t dim, uint32_t seq, uint32_t position, uint32_t head)
{
    const uint32_t *table = kv->is_windowed ? batch->window_table : batch->page_table;
    const uint32_t page = table[(size_t)seq * batch->max_pages + position / SERVERD_PAGE_TOKENS];
    const size_t slot = ((size_t)page * kv->n_kv_heads + head) * SERVERD_PAGE_TOKENS +
                        position % SERVERD_PAGE_TOKENS;
    return store + slot * head_bytes(kv->type, dim);
}

/* ---- appending ------------------------------------------------------------------------------- */

__device__ static void write_head(enum gpu_number type, const float *x, uint32_t dim, char *out)
{
    float most = 0;
    if (type == GPU_I8) {
        for (uint32_t i = threadIdx.x; i < dim; i += APPEND_THREADS)
            most = fmaxf(most, fabsf(x[i]));
        most = block_max<APPEND_THREADS>(most);
    }
    const float scale = most / 127;
    if (type == GPU_I8 && threadIdx.x == 0)
        *(float *)out = scale;
    for (uint32_t i = threadIdx.x; i < dim; i += APPEND_THREADS) {
        if (type == GPU_F32)
            ((float *)out)[i] = x[i];
        else if (type == GPU_BF16)
            ((uint16_t *)out)[i] = (uint16_t)bf16_bits(x[i]);
        else if (type == GPU_F16)
            ((uint16_t *)out)[i] = half_bits(x[i]);
        else
            out[sizeof(float) + i] =
                (char)(signed char)(scale > 0 ? fminf(fmaxf(rintf(x[i] / scale), -127), 127) : 0);
    }
}

/* A block has one head of one row. */
__global__ void append(struct gpu_batch batch, struct gpu_kv kv, const float *k, const float *v)
{
    const uint32_t row = blockIdx.x, head = blockIdx.y, seq = batch.row_seq[row];
    const uint32_t position = (uint32_t)batch.position[row];
    const size_t at = (size_t)row * kv.n_kv_heads + head;
    write_head(kv.type, k + at * kv.k_dim, kv.k_dim,
               head_at(&kv, &batch, kv.keys, kv.k_dim, seq, position, head));
    write_head(kv.type, v + at * kv.v_dim, kv.v_dim,
               head_at(&kv, &batch, kv.values, kv.v_dim, seq, position, head));
}

extern "C" void gpu_append(struct gpu *gpu, const struct gpu_batch *batch, const struct gpu_kv *kv,
                           const float *k, const float *v)
{
    LAUNCH(append, dim3(batch->n_rows, kv->n_kv_heads), dim3(APPEND_THREADS), gpu->stream, *batch,
           *kv, k, v);
    gpu_check(gpu, "append");
}

/* ---- segments -------------------------------------------------------------------------------- */

/* What a segment leaves for each row and head: maximum, sum of weights, and v_dim weighted sums. */
__device__ static size_t partial_at(const serverd_attn *p, uint32_t n_segments, uint32_t row,
                                    uint32_t head, uint32_t segment)
{
    return (((size_t)row * p->n_heads + head) * n_segments + segment) * (p->v_dim + 2);
}

/* Keys begin .. end - 1, positions in the store or in the step, counted from the sequence's first
 * row. */
struct visible {
    uint32_t begin, end;
};

__device__ static struct visible visible_keys(const struct gpu_batch *batch, const serverd_attn *p,
                                              bool has_store, uint32_t row)
{
    const uint32_t seq = batch->row_seq[row], position = (uint32_t)batch->position[row];
    const uint32_t n_rows = batch->first_row[seq + 1] - batch->first_row[seq];
    struct visible keys = {0, position + 1};
    if (!has_store && !p->is_causal)
        keys.end = n_rows;
    else if (p->window > 0 && keys.end > p->window)
        keys.begin = keys.end - p->window;
    return keys;
}

/* A block has segment blockIdx.z of head blockIdx.y of row first_row + blockIdx.x. */
__global__ void __launch_bounds__(ATTEND_THREADS)
    attend(struct gpu_batch batch, serverd_attn p, struct gpu_kv kv, const float *q, const float *k,
           const float *v, uint32_t first_row, uint32_t n_segments, float *partials)
{
    const uint32_t row = first_row + blockIdx.x, head = blockIdx.y, segment = blockIdx.z;
    const uint32_t kv_head = head / (p.n_heads / p.n_kv_heads), seq = batch.row_seq[row];
    const uint32_t warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    const bool has_store = kv.keys != NULL;
    const enum gpu_number type = has_store ? kv.type : GPU_F32;
    const struct visible keys = visible_keys(&batch, &p, has_store, row);
    const uint32_t from = segment * SEGMENT_KEYS > keys.begin ? segment * SEGMENT_KEYS : keys.begin;
    const uint32_t to =
        (segment + 1) * SEGMENT_KEYS < keys.end ? (segment + 1) * SEGMENT_KEYS : keys.end;
    float *out = partials + partial_at(&p, n_segments, blockIdx.x, head, segment);
    SHARED(float, weight, SEGMENT_KEYS);
    if (from >= to) {
        if (threadIdx.x == 0) {
            out[0] = -INFINITY;
            out[1] = 0;
        }
        return;
    }
    const float *query = q + ((size_t)row * p.n_heads + head) * p.k_dim;
    const size_t first_own = batch.first_row[seq];
    for (uint32_t key = from + warp; key < to; key += ATTEND_THREADS / WARP_LANES) {
        const char *stored =
            has_store ? head_at(&kv, &batch, kv.keys, p.k_dim, seq, key, kv_head)
                      : (const char *)(k + ((first_own + key) * p.n_kv_heads + kv_head) * p.k_dim);
        float sum = 0;
        for (uint32_t i = lane; i < p.k_dim; i += WARP_LANES)
            sum += query[i] * element_at(type, stored, i);
        sum = p.scale * warp_sum(sum);
        if (lane == 0)
            weight[key - segment * SEGMENT_KEYS] = p.cap > 0 ? p.cap * tanhf(sum / p.cap) : sum;
    }
    __syncthreads();
    float most = -INFINITY, total = 0;
    for (uint32_t key = from + threadIdx.x; key < to; key += ATTEND_THREADS)
        most = fmaxf(most, weight[key - segment * SEGMENT_KEYS]);
    most = block_max<ATTEND_THREADS>(most);
    for (uint32_t key = from + threadIdx.x; key < to; key += ATTEND_THREADS) {
        float *w = &weight[key - segment * SEGMENT_KEYS];
        *w = expf(*w - most);
        total += *w;
    }
    total = block_sum<ATTEND_THREADS>(total); /* and all weights are there */
    for (uint32_t i = threadIdx.x; i < p.v_dim; i += ATTEND_THREADS) {
        float sum = 0;
        for (uint32_t key = from; key < to; key++) {
            const char *stored =
                has_store
                    ? head_at(&kv, &batch, kv.values, p.v_dim, seq, key, kv_head)
                    : (const char *)(v + ((first_own + key) * p.n_kv_heads + kv_head) * p.v_dim);
            sum += weight[key - segment * SEGMENT_KEYS] * element_at(type, stored, i);
        }
        out[2 + i] = sum;
    }
    if (threadIdx.x == 0) {
        out[0] = most;
        out[1] = total;
    }
}

/* A block has a head of a row. Segments that saw no key have no weight, and no sums. */
__global__ void combine(serverd_attn p, uint32_t first_row, uint32_t n_segments,
                        const float *partials, float *out)
{
    const uint32_t row = first_row + blockIdx.x, head = blockIdx.y;
    const float *partial = partials + partial_at(&p, n_segments, blockIdx.x, head, 0);
    const uint32_t stride = p.v_dim + 2;
    float most = -INFINITY;
    for (uint32_t s = 0; s < n_segments; s++)
        most = fmaxf(most, partial[s * stride]);
    for (uint32_t i = threadIdx.x; i < p.v_dim; i += ATTEND_THREADS) {
        float sum = 0, total = 0;
        for (uint32_t s = 0; s < n_segments; s++) {
            const float *of = partial + s * stride;
            if (of[1] <= 0)
                continue;
            const float factor = expf(of[0] - most);
            sum += factor * of[2 + i];
            total += factor * of[1];
        }
        out[((size_t)row * p.n_heads + head) * p.v_dim + i] = sum / total;
    }
}

static uint32_t segments_of(uint32_t n_keys)
{
    return (n_keys + SEGMENT_KEYS - 1) / SEGMENT_KEYS;
}

extern "C" size_t gpu_attend_row_floats(const serverd_attn *p, uint32_t max_keys)
{
    return (size_t)p->n_heads * segments_of(max_keys) * (p->v_dim + 2);
}

extern "C" void gpu_attend(struct gpu *gpu, const struct gpu_batch *batch, const serverd_attn *p,
                           const struct gpu_kv *kv, const float *q, const float *k, const float *v,
                           uint32_t n_keys, float *scratch, size_t scratch_floats, float *out)
{
    const uint32_t n_segments = segments_of(n_keys);
    const size_t fitting = scratch_floats / gpu_attend_row_floats(p, n_keys);
    const uint32_t most = fitting < batch->n_rows ? (uint32_t)fitting : batch->n_rows;
    for (uint32_t row = 0; row < batch->n_rows && most > 0; row += most) {
        const uint32_t n = batch->n_rows - row < most ? batch->n_rows - row : most;
        LAUNCH(attend, dim3(n, p->n_heads, n_segments), dim3(ATTEND_THREADS), gpu->stream, *batch,
               *p, *kv, q, k, v, row, n_segments, scratch);
        gpu_check(gpu, "attend");
        LAUNCH(combine, dim3(n, p->n_heads), dim3(ATTEND_THREADS), gpu->stream, *p, row, n_segments,
               scratch, out);
        gpu_check(gpu, "combine");
    }
}
