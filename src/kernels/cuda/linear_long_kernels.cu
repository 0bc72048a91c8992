/* Linear layers of long prompts: the sums of linear_kernels.cu, bit for bit, in tiles of 128 rows
 * by 128 columns, whose operands go through the block's memory.
 *
 * A turn's sum is a chain, and a result the sum of N_TURNS of them (linear_tile.cuh). So a block
 * goes through k in as many passes: one over the records 0, 4, 8, ..., then one over 1, 5, 9, ...;
 * a lane holds the sums of the pass and the total of those before. All is read once, as without.
 *
 * A block has 8 warps, 2 by 4, each with 4 by 4 tiles of results. k is cut into *slices* of 32:
 *
 *   rows     N_STAGES rings of [row tile][tile of k][lane]        16 bytes each, 8 KiB
 *   records  rings of codes [column tile][lane], scales [column tile]
 *
 * both as they lie in memory, where each lane's 16 bytes follow those of the lane before: all
 * copies and reads are of whole lines, without conflicts of banks. A record is read with its first
 * slice and stays until its last. Before a slice all warps have waited for its copies and met at a
 * barrier; what is copied then is for N_STAGES - 1 slices later, where everybody is done.
 *
 * For a tile of k a warp reads 2 KiB of rows and 1 KiB of bf16 weights, and multiplies 32,768
 * pairs, 10.7 for a byte; a block copies 8 KiB for 262,144, 32 for a byte (42 of 8 bits, 51 of 4),
 * where linear_kernels.cu has 11. */
#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/linear_tile.cuh"

enum {
    ROW_WARPS = 2,
    COLUMN_WARPS = 4,
    N_WARPS = ROW_WARPS * COLUMN_WARPS,
    LONG_THREADS = N_WARPS * WARP_LANES,
    ROW_TILES = 4,    /* of a warp */
    COLUMN_TILES = 4, /* of a warp */
    BLOCK_ROW_TILES = ROW_WARPS * ROW_TILES,
    BLOCK_COLUMN_TILES = COLUMN_WARPS * COLUMN_TILES,
    SLICE_TILES = 2, /* of k */
    SLICE_K = SLICE_TILES * 16,
    N_STAGES = 4,
};

/* A block's memory, in units of 16 bytes. */
template <class W> struct block_memory {
    static const int SLICES = W::CHUNK / SLICE_K; /* of a record */
    /* records that are begun when N_STAGES slices in a row are there */
    static const int N_RECORDS = 1 + (N_STAGES - 1 + SLICES - 1) / SLICES;
    static const int SCALES = (W::RECORD - FRAGMENT_CODES) / 16;        /* of a record */
    static const int ROWS = BLOCK_ROW_TILES * SLICE_TILES * WARP_LANES; /* of a slice */
    static const int CODES = BLOCK_COLUMN_TILES * WARP_LANES;
    static const int RECORDS = CODES + BLOCK_COLUMN_TILES * SCALES;
    static const int ALL = N_STAGES * ROWS + N_RECORDS * RECORDS;

    uint4 *memory;

    __device__ __forceinline__ uint4 *rows(uint32_t stage) const
    {
        return memory + stage * ROWS;
    }
    __device__ __forceinline__ uint4 *codes(uint32_t place) const
    {
        return memory + N_STAGES * ROWS + place * RECORDS;
    }
    __device__ __forceinline__ uint4 *scales(uint32_t place) const
    {
        return codes(place) + CODES;
    }
};

/* ---- copies ---------------------------------------------------------------------------------- */

/* Where a slice lies in the rings. */
struct place {
    uint32_t stage, record;
};

/* The place of the slice that is n further on; `slice` of its record is the one at `at`. */
template <class W>
__device__ static __forceinline__ struct place place_behind(const struct place &at, int slice,
                                                            int n)
{
    typedef block_memory<W> memory;
    const uint32_t record = at.record + (uint32_t)((slice + n) / memory::SLICES);
    const struct place behind = {(at.stage + (uint32_t)n) % N_STAGES,
                                 record < memory::N_RECORDS ? record : record - memory::N_RECORDS};
    return behind;
}

/* In the order of passes; n_chunks: there is none. */
__device__ static __forceinline__ uint32_t record_behind(uint32_t record, uint32_t n_chunks)
{
    if (record + N_TURNS < n_chunks)
        return record + N_TURNS;
    return record % N_TURNS + 1 == N_TURNS ? n_chunks : record % N_TURNS + 1;
}

/* The warp's share: one of the row tiles, and two of the column tiles. What is not there is left
 * out: noise in its place comes into results only that are not there either. */
template <class W>
__device__ static __forceinline__ void copy_slice(const struct operands &from, uint32_t record,
                                                  int slice, block_memory<W> block,
                                                  const struct place &at)
{
    typedef block_memory<W> memory;
    enum { SHARE = BLOCK_COLUMN_TILES / N_WARPS };
    const uint32_t warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    if (record >= from.n_chunks)
        return;
    if (warp < from.n_row_tiles) {
        const uint4 *x = from.x + warp * from.x_stride +
                         ((size_t)record * memory::SLICES + slice) * (SLICE_TILES * WARP_LANES);
        uint4 *to = block.rows(at.stage) + warp * (SLICE_TILES * WARP_LANES);
#pragma unroll
        for (int t = 0; t < SLICE_TILES; t++)
            copy_async(to + t * WARP_LANES + lane, x + t * WARP_LANES + lane);
    }
    if (slice > 0)
        return;
    const char *w = from.w + (size_t)record * W::RECORD;
    const size_t stride = (size_t)from.n_chunks * W::RECORD;
#pragma unroll
    for (int i = 0; i < SHARE; i++) {
        const uint32_t j = warp * SHARE + i;
        if (j < from.n_column_tiles)
            copy_async(block.codes(at.record) + j * WARP_LANES + lane,
                       (const uint4 *)(w + j * stride) + lane);
    }
    if (W::HAS_SCALES && lane < SHARE * memory::SCALES) {
        const uint32_t j = warp * SHARE + lane / max(memory::SCALES, 1),
                       part = lane % max(memory::SCALES, 1);
        if (j < from.n_column_tiles)
            copy_async(block.scales(at.record) + j * memory::SCALES + part,
                       (const uint4 *)(w + j * stride + FRAGMENT_CODES) + part);
    }
}

/* ---- products -------------------------------------------------------------------------------- */

struct warp_sums {
    float of[ROW_TILES][COLUMN_TILES][4];
};

/* The warp's part of one slice. */
template <class W>
__device__ static __forceinline__ void multiply_slice(block_memory<W> block, const struct place &at,
                                                      int slice, struct lane_record<W> *records,
                                                      struct warp_sums *sums)
{
    typedef block_memory<W> memory;
    enum { N_GROUPS = SLICE_K / W::GROUP };
    const uint32_t warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    const uint32_t column_tile = warp % COLUMN_WARPS * COLUMN_TILES;
    const uint4 *rows =
        block.rows(at.stage) + warp / COLUMN_WARPS * (ROW_TILES * SLICE_TILES * WARP_LANES) + lane;
    const unsigned ones = 0x3f803f80u;
#pragma unroll
    for (int g = 0; g < N_GROUPS; g++) {
        const int group = slice * N_GROUPS + g;
        uint4 a[ROW_TILES][W::N_TILES];
        float x_sums[ROW_TILES][4] = {};
#pragma unroll
        for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
            for (int t = 0; t < W::N_TILES; t++) {
                a[i][t] = rows[(i * SLICE_TILES + g * W::N_TILES + t) * WARP_LANES];
                if (W::HAS_MIN)
                    mma(x_sums[i], a[i][t], ones, ones);
            }
#pragma unroll
        for (int j = 0; j < COLUMN_TILES; j++) {
            unsigned pairs[W::N_TILES][2];
            float scale[2], minimum[2];
#pragma unroll
            for (int t = 0; t < W::N_TILES * 2; t++)
                pairs[t / 2][t % 2] = pair_of<W>(records[j], group * W::N_TILES + t / 2, t % 2);
            if (W::HAS_SCALES) {
                take_scales<W>(block.scales(at.record) + (column_tile + j) * memory::SCALES, lane,
                               group, &records[j]);
                scales_of<W>(records[j], group, scale, minimum);
            }
#pragma unroll
            for (int i = 0; i < ROW_TILES; i++)
                multiply_group<W>(a[i], pairs, scale, minimum, x_sums[i], sums->of[i][j]);
        }
    }
}

/* One pass: the warp's sums of a turn. next_record: of the slice N_STAGES - 1 behind `at`. */
template <class W>
__device__ static __forceinline__ void
multiply_turn(const struct operands &from, uint32_t turn, bool is_idle, block_memory<W> block,
              struct place *at, uint32_t *next_record, struct warp_sums *sums)
{
    typedef block_memory<W> memory;
    enum { AHEAD = N_STAGES - 1, KEEPS_CODES = !W::HAS_MIN }; /* else registers do not suffice */
    const uint32_t warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    const uint32_t column_tile = warp % COLUMN_WARPS * COLUMN_TILES;
    for (uint32_t record = turn; record < from.n_chunks; record += N_TURNS) {
        struct lane_record<W> records[COLUMN_TILES];
#pragma unroll
        for (int slice = 0; slice < memory::SLICES; slice++) {
            const int next_slice = (slice + AHEAD) % memory::SLICES;
            copies_wait<AHEAD - 1>();
            __syncthreads();
            copy_slice<W>(from, *next_record, next_slice, block,
                          place_behind<W>(*at, slice, AHEAD));
            copies_commit();
            if (next_slice + 1 == memory::SLICES)
                *next_record = record_behind(*next_record, from.n_chunks);
#pragma unroll
            for (int j = 0; (slice == 0 || !KEEPS_CODES) && j < COLUMN_TILES; j++)
                take_codes<W>(block.codes(at->record) + (column_tile + j) * WARP_LANES, lane,
                              &records[j]);
            if (!is_idle)
                multiply_slice<W>(block, *at, slice, records, sums);
            *at = place_behind<W>(*at, slice, 1);
        }
    }
}

/* ---- blocks ---------------------------------------------------------------------------------- */

/* Blocks that run at once should share rows and weights in the second-level cache: they go down
 * columns of up to GROUP_BLOCKS blocks of rows, then to the next columns of weights. */
enum { GROUP_BLOCKS = 16 };

__device__ static __forceinline__ void find_block(uint32_t n_rows, uint32_t n, uint32_t *row_tile,
                                                  uint32_t *column_tile)
{
    const uint32_t n_down = (n_rows + BLOCK_ROW_TILES * 16 - 1) / (BLOCK_ROW_TILES * 16),
                   n_across = (n + BLOCK_COLUMN_TILES * 8 - 1) / (BLOCK_COLUMN_TILES * 8),
                   first = blockIdx.x / (GROUP_BLOCKS * n_across) * GROUP_BLOCKS,
                   place = blockIdx.x % (GROUP_BLOCKS * n_across),
                   height = min((uint32_t)GROUP_BLOCKS, n_down - first);
    *row_tile = (first + place % height) * BLOCK_ROW_TILES;
    *column_tile = place / height * BLOCK_COLUMN_TILES;
}

template <class W>
__device__ static __forceinline__ void
write_total(const struct warp_sums &total, const float *powers, const float *bias,
            uint32_t first_row, uint32_t first_column, uint32_t n_rows, uint32_t n, float *y)
{
    const uint32_t lane = threadIdx.x % WARP_LANES;
#pragma unroll
    for (int s = 0; s < ROW_TILES * COLUMN_TILES * 4; s++) {
        const uint32_t row = first_row + s / (COLUMN_TILES * 4) * 16 + s % 4 / 2 * 8 + lane / 4,
                       column = first_column + s / 4 % COLUMN_TILES * 8 + lane % 4 * 2 + s % 2;
        if (row < n_rows && column < n)
            y[(size_t)row * n + column] =
                finished<W>((&total.of[0][0][0])[s], powers, bias, column);
    }
}

template <class W>
__global__ void __launch_bounds__(LONG_THREADS, 1)
    linear_tiles(const uint4 *__restrict__ x, const char *__restrict__ w,
                 const float *__restrict__ bias, uint32_t n_rows, uint32_t n, uint32_t k,
                 float *__restrict__ y)
{
    typedef block_memory<W> memory;
    SHARED_DYNAMIC(uint4, shared, memory::ALL);
    const memory block = {shared};
    const uint32_t warp = threadIdx.x / WARP_LANES;
    const uint32_t warp_row = warp / COLUMN_WARPS * ROW_TILES,
                   warp_column = warp % COLUMN_WARPS * COLUMN_TILES;
    uint32_t row_tile, column_tile;
    find_block(n_rows, n, &row_tile, &column_tile);
    const struct operands from = operands_from<W>(x, w, n_rows, n, k, row_tile, column_tile);
    const bool is_idle = warp_row >= from.n_row_tiles || warp_column >= from.n_column_tiles;

    struct place at = {0, 0};
    uint32_t next_record = 0;
#pragma unroll
    for (int i = 0; i < N_STAGES - 1; i++) {
        copy_slice<W>(from, next_record, i % memory::SLICES, block, place_behind<W>(at, 0, i));
        copies_commit();
        if (i % memory::SLICES + 1 == memory::SLICES)
            next_record = record_behind(next_record, from.n_chunks);
    }
    struct warp_sums total;
#pragma unroll
    for (int s = 0; s < ROW_TILES * COLUMN_TILES * 4; s++)
        (&total.of[0][0][0])[s] = -0.0f; /* with any number added it is that number, 0 too */
#pragma unroll 1
    for (uint32_t turn = 0; turn < N_TURNS; turn++) {
        struct warp_sums sums = {};
        multiply_turn<W>(from, turn, is_idle, block, &at, &next_record, &sums);
#pragma unroll
        for (int s = 0; s < ROW_TILES * COLUMN_TILES * 4; s++)
            (&total.of[0][0][0])[s] += (&sums.of[0][0][0])[s];
    }
    write_total<W>(total, (const float *)(w + fragments_records(W::shape(), n, k)), bias,
                   (row_tile + warp_row) * 16, (column_tile + warp_column) * 8, n_rows, n, y);
}

/* ---- launches -------------------------------------------------------------------------------- */

static size_t n_blocks(const struct linear_call &call)
{
    return (size_t)blocks_of(call.n_rows, BLOCK_ROW_TILES * FRAGMENT_ROWS) *
           blocks_of(call.n, BLOCK_COLUMN_TILES * FRAGMENT_COLUMNS);
}

/* A multiprocessor multiplies with it at least twice as fast, if there is a block for it. */
bool linear_long_pays(const struct gpu *gpu, const struct linear_call &call)
{
    return call.n_rows > 4 * FRAGMENT_ROWS && n_blocks(call) * 2 >= gpu->n_multiprocessors;
}

template <class W> static void launch(struct gpu *gpu, const struct linear_call &call)
{
    const size_t bytes = block_memory<W>::ALL * sizeof(uint4);
    gpu_allow_shared(gpu, linear_tiles<W>, bytes);
    LAUNCH_SHARED(linear_tiles<W>, dim3((unsigned)n_blocks(call)), dim3(LONG_THREADS), bytes,
                  gpu->stream, call.x, call.w, call.bias, call.n_rows, call.n, call.k, call.y);
    gpu_check(gpu, "linear_tiles");
}

void linear_long(struct gpu *gpu, enum fragment_form form, const struct linear_call &call)
{
    switch (form) {
#define FORM_CASE(name, bits, group, numbers)                                                      \
    case FRAGMENT_##name:                                                                          \
        launch<weights<bits, group, numbers>>(gpu, call);                                          \
        break;
        FRAGMENT_FORMS(FORM_CASE)
#undef FORM_CASE
    default:
        break;
    }
}
