/* New keys and values go into pages, and what is done with them just before; pages leave the device
 * and come back. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/pages.cuh"
#include "kernels/cuda/row_math.cuh"
#include "kernels/cuda/sums.cuh"

enum { HEAD_THREADS = 128 };

extern "C" size_t gpu_kv_page_bytes(enum gpu_number type, uint32_t dim)
{
    return page_bytes(type, dim);
}

/* A head of token `slot` of a page. */
__device__ static void write_head(enum gpu_number type, const float *x, uint32_t dim, char *page,
                                  uint32_t slot)
{
    const uint32_t stride = token_bytes(type, dim);
    float most = 0, scale = 0;
    if (type == GPU_I8) {
        for (uint32_t i = threadIdx.x; i < dim; i += HEAD_THREADS)
            most = fmaxf(most, fabsf(x[i]));
        scale = block_max<HEAD_THREADS>(most) / 127;
        if (threadIdx.x == 0)
            ((float *)(page + (size_t)SERVERD_PAGE_TOKENS * stride))[slot] = scale;
    }
    char *token = page + (size_t)slot * stride;
    for (uint32_t i = threadIdx.x; i < padded_dim(type, dim); i += HEAD_THREADS)
        write_element(type, token, i, i < dim ? x[i] : 0, scale);
}

/* Head `head` of row `row`; k [k_dim], v [v_dim]. */
__device__ static void append_head(const struct gpu_batch *batch, const struct gpu_kv *kv,
                                   uint32_t row, uint32_t head, const float *k, const float *v)
{
    const uint32_t seq = batch->row_seq[row], position = (uint32_t)batch->position[row],
                   slot = position % SERVERD_PAGE_TOKENS;
    const uint32_t *table = kv->is_windowed ? batch->window_table : batch->page_table;
    const size_t page = table[(size_t)seq * batch->max_pages + position / SERVERD_PAGE_TOKENS],
                 to = page * kv->n_kv_heads + head;
    write_head(kv->type, k, kv->k_dim, kv->keys + to * page_bytes(kv->type, kv->k_dim), slot);
    write_head(kv->type, v, kv->v_dim, kv->values + to * page_bytes(kv->type, kv->v_dim), slot);
}

/* A block has one head of one row. */
__global__ void append(struct gpu_batch batch, struct gpu_kv kv, const float *k, const float *v)
{
    const uint32_t row = blockIdx.x, head = blockIdx.y;
    const size_t at = (size_t)row * kv.n_kv_heads + head;
    append_head(&batch, &kv, row, head, k + at * kv.k_dim, v + at * kv.v_dim);
}

extern "C" void gpu_append(struct gpu *gpu, const struct gpu_batch *batch, const struct gpu_kv *kv,
                           const float *k, const float *v)
{
    LAUNCH(append, dim3(batch->n_rows, kv->n_kv_heads), dim3(HEAD_THREADS), gpu->stream, *batch,
           *kv, k, v);
    gpu_check(gpu, "append");
}

/* ---- turned on the way ----------------------------------------------------------------------- */

struct turned {
    struct gpu_batch batch;
    struct gpu_kv kv;
    struct turn turn;
    uint32_t n_heads; /* of the queries */
    const float *q, *k, *v;
    float *q_out;
};

/* A block has one head of one row: of the queries, or a key and its value. */
__global__ void turn_and_append(struct turned t)
{
    SHARED(float, key, GPU_MAX_TURNED_DIM);
    const uint32_t row = blockIdx.x, head = blockIdx.y, dim = t.turn.rope.head_dim;
    const bool is_query = head < t.n_heads;
    const uint32_t kv_head = head - t.n_heads;
    const size_t of_query = ((size_t)row * t.n_heads + head) * dim,
                 of_key = ((size_t)row * t.kv.n_kv_heads + kv_head) * dim;
    const float *x = is_query ? t.q + of_query : t.k + of_key;
    float *out = is_query ? t.q_out + of_query : key;
    for (uint32_t unit = threadIdx.x; unit < turn_units(&t.turn.rope); unit += HEAD_THREADS)
        turn_unit(&t.turn, t.batch.position[row], unit, x, out);
    if (is_query)
        return;
    __syncthreads();
    append_head(&t.batch, &t.kv, row, kv_head, key,
                t.v + ((size_t)row * t.kv.n_kv_heads + kv_head) * t.kv.v_dim);
}

extern "C" void gpu_turn_and_append(struct gpu *gpu, const struct gpu_batch *batch,
                                    const struct gpu_kv *kv, const float *inv_freq,
                                    const serverd_rope *rope, float mscale, uint32_t n_heads,
                                    const float *q, const float *k, const float *v, float *q_out)
{
    const struct turned turned = {*batch, *kv, {inv_freq, *rope, mscale}, n_heads, q, k, v, q_out};
    LAUNCH(turn_and_append, dim3(batch->n_rows, n_heads + kv->n_kv_heads), dim3(HEAD_THREADS),
           gpu->stream, turned);
    gpu_check(gpu, "turn_and_append");
}

/* ---- pages that leave and come back ---------------------------------------------------------- */

enum { PIECE_THREADS = 256, PIECE_BLOCKS = 4 };

/* PIECE_BLOCKS blocks have a piece, 16 bytes each thread. */
template <bool IS_LEAVING> __global__ void move_pieces(struct gpu_pieces pieces, char *linear)
{
    const struct gpu_piece piece = pieces.of[blockIdx.x];
    const uint4 *from = (const uint4 *)(IS_LEAVING ? piece.at : linear + piece.offset);
    uint4 *to = (uint4 *)(IS_LEAVING ? linear + piece.offset : piece.at);
    for (uint32_t i = blockIdx.y * PIECE_THREADS + threadIdx.x; i < piece.bytes / sizeof *to;
         i += PIECE_BLOCKS * PIECE_THREADS)
        to[i] = from[i];
}

extern "C" void gpu_gather(struct gpu *gpu, const struct gpu_pieces *pieces, void *out)
{
    LAUNCH(move_pieces<true>, dim3(pieces->n, PIECE_BLOCKS), dim3(PIECE_THREADS), gpu->stream,
           *pieces, (char *)out);
    gpu_check(gpu, "gather");
}

extern "C" void gpu_scatter(struct gpu *gpu, const struct gpu_pieces *pieces, const void *from)
{
    LAUNCH(move_pieces<false>, dim3(pieces->n, PIECE_BLOCKS), dim3(PIECE_THREADS), gpu->stream,
           *pieces, (char *)from);
    gpu_check(gpu, "scatter");
}
