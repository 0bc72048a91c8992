/* Linear layers on tensor cores, with one row as with many: a row's sums are made in the same order
 * whatever rows are beside it, so its bits are its own. With few rows the time is that of reading
 * the weights, and a tile's unused rows cost nothing; steps of many rows go to
 * linear_long_kernels.cu. */
#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/linear_tile.cuh"

/* ---- rows to fragments ----------------------------------------------------------------------- */

enum { CONVERT_THREADS = 128 };

/* Two elements of a row, of which those behind its end are zero. */
__device__ static __forceinline__ unsigned pair_at(const float *x, uint32_t n_rows, uint32_t k,
                                                   uint32_t row, uint32_t i)
{
    if (row >= n_rows)
        return 0;
    const float *at = x + (size_t)row * k + i;
    const unsigned low = i < k ? bf16_bits(at[0]) : 0, high = i + 1 < k ? bf16_bits(at[1]) : 0;
    return low | high << 16;
}

/* One lane of one tile for each thread. */
__global__ void rows_to_fragments(const float *__restrict__ x, uint32_t n_rows, uint32_t k,
                                  uint32_t n_k_tiles, uint4 *__restrict__ out)
{
    const size_t at = (size_t)blockIdx.x * CONVERT_THREADS + threadIdx.x;
    const size_t tile = at / WARP_LANES;
    const uint32_t lane = (uint32_t)(at % WARP_LANES);
    const uint32_t row = (uint32_t)(tile / n_k_tiles) * FRAGMENT_ROWS + lane / 4;
    const uint32_t i = (uint32_t)(tile % n_k_tiles) * 16 + lane % 4 * 2;
    if (row / FRAGMENT_ROWS * FRAGMENT_ROWS >= n_rows)
        return;
    uint4 fragment;
    fragment.x = pair_at(x, n_rows, k, row, i);
    fragment.y = pair_at(x, n_rows, k, row + 8, i);
    fragment.z = pair_at(x, n_rows, k, row, i + 8);
    fragment.w = pair_at(x, n_rows, k, row + 8, i + 8);
    out[at] = fragment;
}

extern "C" void gpu_rows_to_fragments(struct gpu *gpu, const float *x, uint32_t n_rows, uint32_t k,
                                      void *out)
{
    const size_t n_lanes = fragments_rows(n_rows, k) / 8;
    LAUNCH(rows_to_fragments, dim3(blocks_of(n_lanes, CONVERT_THREADS)), dim3(CONVERT_THREADS),
           gpu->stream, x, n_rows, k, (uint32_t)(fragments_round_up(k, FRAGMENT_ROW_K) / 16),
           (uint4 *)out);
    gpu_check(gpu, "rows_to_fragments");
}

/* ---- products -------------------------------------------------------------------------------- */

/* A block has a warp for each turn (linear_tile.cuh) of 4 tiles of columns; their sums are added in
 * order at the end.
 *
 * What a step of few rows waits for is weights. Each warp has AHEAD records of each column tile
 * under way: 6 KiB and more, 24 for a block. That is what a multiprocessor of an H200 has to have
 * under way (4.8 TB/s for a microsecond, in 132 parts), even if there is one block for each. */
enum {
    N_WARPS = N_TURNS,
    N_COLUMN_TILES = 4,
    LINEAR_THREADS = N_WARPS * WARP_LANES,
    AHEAD = 3,
    N_SLOTS = AHEAD + 1
};

template <int N_ROW_TILES> struct sums {
    float of[N_ROW_TILES][N_COLUMN_TILES][4];
};

/* A warp's ring of records, in units of 16 bytes: slots of [column tile][lane], and of [column
 * tile] scales. */
template <class W> struct ring {
    static const int SCALES = (W::RECORD - FRAGMENT_CODES) / 16, /* of a record */
        CODES = N_COLUMN_TILES * WARP_LANES, SLOT = CODES + N_COLUMN_TILES * SCALES,
                     ALL = N_SLOTS * SLOT;
};

/* The records of a chunk into a slot. Of column tiles that are not there noise stays, which comes
 * into no result that is. */
template <class W>
__device__ static __forceinline__ void copy_records(const struct operands &from, uint32_t chunk,
                                                    uint4 *slot)
{
    enum { SCALES = ring<W>::SCALES };
    const uint32_t lane = threadIdx.x % WARP_LANES;
    const size_t stride = (size_t)from.n_chunks * W::RECORD;
    const char *w = from.w + (size_t)chunk * W::RECORD;
    if (chunk >= from.n_chunks)
        return;
#pragma unroll
    for (int j = 0; j < N_COLUMN_TILES; j++)
        if ((uint32_t)j < from.n_column_tiles)
            copy_async(slot + j * WARP_LANES + lane, (const uint4 *)(w + j * stride) + lane);
    const uint32_t j = lane / max(SCALES, 1), part = lane % max(SCALES, 1);
    if (W::HAS_SCALES && j < min(from.n_column_tiles, (uint32_t)N_COLUMN_TILES))
        copy_async(slot + ring<W>::CODES + lane,
                   (const uint4 *)(w + j * stride + FRAGMENT_CODES) + part);
}

/* The lane's share of a tile of rows; of rows that are not there nothing is read: they are zero. */
__device__ static __forceinline__ uint4 rows_at(const struct operands &from, int row_tile,
                                                uint32_t k_tile)
{
    const uint32_t lane = threadIdx.x % WARP_LANES;
    const uint4 none = {0, 0, 0, 0};
    return row_tile * FRAGMENT_ROWS + lane / 4 < from.n_rows
               ? from.x[row_tile * from.x_stride + (size_t)k_tile * WARP_LANES + lane]
               : none;
}

/* One group of k of all tiles. Rows of a single tile are in `rows`, tiles of the group. */
template <class W, int N_ROW_TILES>
__device__ static __forceinline__ void
add_group(const struct operands &from, const struct lane_record<W> *records, int group,
          uint32_t k_tile, const uint4 *rows, struct sums<N_ROW_TILES> *sums)
{
    const unsigned ones = 0x3f803f80u;
    unsigned pairs[N_COLUMN_TILES][W::N_TILES][2];
    float scale[N_COLUMN_TILES][2], minimum[N_COLUMN_TILES][2];
#pragma unroll
    for (int j = 0; j < N_COLUMN_TILES; j++) {
#pragma unroll
        for (int t = 0; t < W::N_TILES * 2; t++)
            pairs[j][t / 2][t % 2] = pair_of<W>(records[j], group * W::N_TILES + t / 2, t % 2);
        if (W::HAS_SCALES)
            scales_of<W>(records[j], group, scale[j], minimum[j]);
    }
#pragma unroll
    for (int i = 0; i < N_ROW_TILES; i++) {
        if (i > 0 && (uint32_t)i >= from.n_row_tiles)
            continue;
        uint4 a[W::N_TILES];
        float x_sums[4] = {};
#pragma unroll
        for (int t = 0; t < W::N_TILES; t++)
            a[t] = N_ROW_TILES == 1 ? rows[t] : rows_at(from, i, k_tile + t);
#pragma unroll
        for (int t = 0; W::HAS_MIN && t < W::N_TILES; t++)
            mma(x_sums, a[t], ones, ones);
#pragma unroll
        for (int j = 0; j < N_COLUMN_TILES; j++)
            multiply_group<W>(a, pairs[j], scale[j], minimum[j], x_sums, sums->of[i][j]);
    }
}

/* The chunk whose records lie in the slot. */
template <class W, int N_ROW_TILES>
__device__ static __forceinline__ void add_chunk(const struct operands &from, uint32_t chunk,
                                                 const uint4 *slot, const uint4 *rows,
                                                 struct sums<N_ROW_TILES> *sums)
{
    const uint32_t lane = threadIdx.x % WARP_LANES;
    struct lane_record<W> records[N_COLUMN_TILES];
#pragma unroll
    for (int j = 0; j < N_COLUMN_TILES; j++)
        take_codes<W>(slot + j * WARP_LANES, lane, &records[j]);
#pragma unroll
    for (int group = 0; group < W::N_GROUPS; group++) {
#pragma unroll
        for (int j = 0; W::HAS_SCALES && j < N_COLUMN_TILES; j++)
            take_scales<W>(slot + ring<W>::CODES + j * ring<W>::SCALES, lane, group, &records[j]);
        add_group<W, N_ROW_TILES>(from, records, group,
                                  chunk * (W::CHUNK / 16) + group * W::N_TILES,
                                  rows + group * W::N_TILES, sums);
    }
}

/* The warp's turn. Rows of a single tile are asked for before the weights are waited for. */
template <class W, int N_ROW_TILES>
__device__ static __forceinline__ void multiply(const struct operands &from, uint4 *slots,
                                                struct sums<N_ROW_TILES> *sums)
{
    enum { K_TILES = W::CHUNK / 16 };
    const uint32_t warp = threadIdx.x / WARP_LANES;
    uint32_t slot = 0;
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
        copy_records<W>(from, warp + i * N_TURNS, slots + i * ring<W>::SLOT);
        copies_commit();
    }
    for (uint32_t chunk = warp; chunk < from.n_chunks; chunk += N_TURNS) {
        uint4 rows[K_TILES];
#pragma unroll
        for (int t = 0; N_ROW_TILES == 1 && t < K_TILES; t++)
            rows[t] = rows_at(from, 0, chunk * K_TILES + t);
        copies_wait<AHEAD - 1>();
        __syncwarp();
        copy_records<W>(from, chunk + AHEAD * N_TURNS,
                        slots + (slot + AHEAD) % N_SLOTS * ring<W>::SLOT);
        copies_commit();
        add_chunk<W, N_ROW_TILES>(from, chunk, slots + slot * ring<W>::SLOT, rows, sums);
        slot = (slot + 1) % N_SLOTS;
    }
}

/* Blocks that a multiprocessor holds at once: as many as leave all registers that a tile wants. */
template <int N_ROW_TILES> struct occupancy {
    static const int BLOCKS = N_ROW_TILES > 2 ? 2 : 3;
};

/* Layers of the same rows. */
struct joined {
    struct gpu_linear_part of[GPU_MAX_JOINED];
    uint32_t n;
};

__host__ __device__ static inline uint32_t column_blocks(uint32_t n)
{
    return (n + N_COLUMN_TILES * FRAGMENT_COLUMNS - 1) / (N_COLUMN_TILES * FRAGMENT_COLUMNS);
}

/* The part of a block; *block becomes the block's number in it. */
__device__ static __forceinline__ struct gpu_linear_part part_of(const struct joined &parts,
                                                                 uint32_t *block)
{
    struct gpu_linear_part part = parts.of[0];
#pragma unroll
    for (uint32_t i = 1; i < GPU_MAX_JOINED; i++) {
        if (i >= parts.n || *block < column_blocks(part.n))
            break;
        *block -= column_blocks(part.n);
        part = parts.of[i];
    }
    return part;
}

template <class W, int N_ROW_TILES>
__global__ void __launch_bounds__(LINEAR_THREADS, (occupancy<N_ROW_TILES>::BLOCKS))
    linear(const uint4 *__restrict__ x, struct joined parts, uint32_t n_rows, uint32_t k)
{
    enum {
        N_SUMS = N_ROW_TILES * N_COLUMN_TILES * 4,
        RINGS = N_WARPS * ring<W>::ALL,
        PARTIAL = (N_WARPS - 1) * N_SUMS * WARP_LANES / 4
    };
    const uint32_t warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    uint32_t block = blockIdx.x;
    const struct gpu_linear_part part = part_of(parts, &block);
    const char *w = (const char *)part.w;
    const uint32_t row_tile = blockIdx.y * N_ROW_TILES, column_tile = block * N_COLUMN_TILES;
    SHARED(uint4, shared, RINGS > PARTIAL ? RINGS : PARTIAL); /* rings, then the sums */
    float *partial = (float *)shared;
    struct sums<N_ROW_TILES> sums = {
    };
    const struct operands from = operands_from<W>(x, w, n_rows, part.n, k, row_tile, column_tile);
    multiply<W, N_ROW_TILES>(from, shared + warp * ring<W>::ALL, &sums);
    __syncthreads();
    if (warp > 0)
        for (int s = 0; s < N_SUMS; s++)
            partial[((warp - 1) * N_SUMS + s) * WARP_LANES + lane] = (&sums.of[0][0][0])[s];
    __syncthreads();
    if (warp > 0)
        return;
    const float *powers = (const float *)(w + fragments_records(W::shape(), part.n, k));
#pragma unroll
    for (int s = 0; s < N_SUMS; s++) {
        float sum = (&sums.of[0][0][0])[s];
        for (int other = 0; other < N_WARPS - 1; other++)
            sum += partial[(other * N_SUMS + s) * WARP_LANES + lane];
        const uint32_t row = (row_tile + s / (N_COLUMN_TILES * 4)) * 16 + lane / 4 + s % 4 / 2 * 8;
        const uint32_t column = (column_tile + s / 4 % N_COLUMN_TILES) * 8 + lane % 4 * 2 + s % 2;
        if (row < n_rows && column < part.n)
            write_sum<W>(part, powers, row, column, sum);
    }
}

/* What is to be done, for rows that are few. */
struct joined_call {
    const uint4 *x;
    uint32_t n_rows, k;
    struct joined parts;
};

template <class W, int N_ROW_TILES> static void launch(struct gpu *gpu, const joined_call &call)
{
    dim3 grid(0, blocks_of(call.n_rows, N_ROW_TILES * FRAGMENT_ROWS));
    for (uint32_t i = 0; i < call.parts.n; i++)
        grid.x += column_blocks(call.parts.of[i].n);
    LAUNCH((linear<W, N_ROW_TILES>), grid, dim3(LINEAR_THREADS), gpu->stream, call.x, call.parts,
           call.n_rows, call.k);
    gpu_check(gpu, "linear");
}

template <class W> static void launch_for_rows(struct gpu *gpu, const joined_call &call)
{
    if (call.n_rows <= FRAGMENT_ROWS)
        launch<W, 1>(gpu, call);
    else if (call.n_rows <= 2 * FRAGMENT_ROWS)
        launch<W, 2>(gpu, call);
    else
        launch<W, 4>(gpu, call);
}

extern "C" void gpu_linear_parts(struct gpu *gpu, const void *x, enum fragment_form form,
                                 const struct gpu_linear_part *parts, uint32_t n_parts,
                                 uint32_t n_rows, uint32_t k)
{
    struct joined_call joined = {(const uint4 *)x, n_rows, k, {}};
    for (uint32_t i = 0; i < n_parts; i++) {
        const struct linear_call call = {joined.x, n_rows, k, parts[i]};
        if (linear_long_pays(gpu, call))
            linear_long(gpu, form, call);
        else
            joined.parts.of[joined.parts.n++] = parts[i];
    }
    if (joined.parts.n == 0)
        return;
    switch (form) {
#define FORM_CASE(name, bits, group, numbers)                                                      \
    case FRAGMENT_##name:                                                                          \
        launch_for_rows<weights<bits, group, numbers>>(gpu, joined);                               \
        break;
        FRAGMENT_FORMS(FORM_CASE)
#undef FORM_CASE
    default:
        break;
    }
}

extern "C" void gpu_linear(struct gpu *gpu, const void *x, const void *w, enum fragment_form form,
                           const float *bias, uint32_t n_rows, uint32_t n, uint32_t k, float *y)
{
    const struct gpu_linear_part part = {w, bias, NULL, y, n};
    gpu_linear_parts(gpu, x, form, &part, 1, n_rows, k);
}
