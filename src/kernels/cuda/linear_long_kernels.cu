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
 * Multiplications for a byte of the block's memory, copies included, and for a byte that is copied:
 * 8 and 32 of bf16, 9.8 and 42 of 8 bits, 11 and 50 of 4, where linear_kernels.cu has 11 for the
 * latter. A multiprocessor of sm_80 makes 8 while its memory gives a byte; one of sm_90 up to 16,
 * so that there bf16 has tiles of 256 columns, 11.6 and 43. Registers do not suffice for their
 * totals, which lie in the block's memory, 224 KiB with them. */
#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/linear_tile.cuh"

enum {
    ROW_WARPS = 2,
    COLUMN_WARPS = 4,
    N_WARPS = ROW_WARPS * COLUMN_WARPS,
    LONG_THREADS = N_WARPS * WARP_LANES,
    ROW_TILES = 4, /* of a warp */
    BLOCK_ROW_TILES = ROW_WARPS * ROW_TILES,
    SLICE_TILES = 2, /* of k */
    SLICE_K = SLICE_TILES * 16,
    N_STAGES = 4,
};

/* A kind of tile: weights, column tiles of a warp, and whether the totals are in the block's memory
 * instead of registers. What a block's memory has is in units of 16 bytes. */
template <class WEIGHTS, int N_COLUMN_TILES, bool HAS_TOTALS> struct tile {
    typedef WEIGHTS W;
    static const int COLUMN_TILES = N_COLUMN_TILES,
                     BLOCK_COLUMN_TILES = COLUMN_WARPS * COLUMN_TILES,
                     N_SUMS = ROW_TILES * COLUMN_TILES * 4; /* of a lane */
    static const bool TOTALS_IN_MEMORY = HAS_TOTALS;
    static const int SLICES = W::CHUNK / SLICE_K; /* of a record */
    /* records that are begun when N_STAGES slices in a row are there */
    static const int N_RECORDS = 1 + (N_STAGES - 1 + SLICES - 1) / SLICES;
    static const int SCALES = (W::RECORD - FRAGMENT_CODES) / 16;        /* of a record */
    static const int ROWS = BLOCK_ROW_TILES * SLICE_TILES * WARP_LANES; /* of a slice */
    static const int CODES = BLOCK_COLUMN_TILES * WARP_LANES;
    static const int RECORDS = CODES + BLOCK_COLUMN_TILES * SCALES;
    static const int TOTALS_AT = N_STAGES * ROWS + N_RECORDS * RECORDS;
    static const int ALL = TOTALS_AT + (HAS_TOTALS ? N_SUMS * LONG_THREADS / 4 : 0);
};

template <class T> struct block_memory {
    uint4 *memory;

    __device__ __forceinline__ uint4 *rows(uint32_t stage) const
    {
        return memory + stage * T::ROWS;
    }
    __device__ __forceinline__ uint4 *codes(uint32_t place) const
    {
        return memory + N_STAGES * T::ROWS + place * T::RECORDS;
    }
    __device__ __forceinline__ uint4 *scales(uint32_t place) const
    {
        return codes(place) + T::CODES;
    }
};

/* ---- copies ---------------------------------------------------------------------------------- */

/* Where a slice lies in the rings. */
struct place {
    uint32_t stage, record;
};

/* The place of the slice that is n further on; `slice` of its record is the one at `at`. */
template <class T>
__device__ static __forceinline__ struct place place_behind(const struct place &at, int slice,
                                                            int n)
{
    const uint32_t record = at.record + (uint32_t)((slice + n) / T::SLICES);
    const struct place behind = {(at.stage + (uint32_t)n) % N_STAGES,
                                 record < T::N_RECORDS ? record : record - T::N_RECORDS};
    return behind;
}

/* In the order of passes; n_chunks: there is none. */
__device__ static __forceinline__ uint32_t record_behind(uint32_t record, uint32_t n_chunks)
{
    if (record + N_TURNS < n_chunks)
        return record + N_TURNS;
    return record % N_TURNS + 1 == N_TURNS ? n_chunks : record % N_TURNS + 1;
}

/* The warp's share: one of the row tiles, and SHARE of the column tiles. What is not there is left
 * out: noise in its place comes into results only that are not there either. */
template <class T>
__device__ static __forceinline__ void copy_slice(const struct operands &from, uint32_t record,
                                                  int slice, block_memory<T> block,
                                                  const struct place &at)
{
    typedef typename T::W W;
    enum { SHARE = T::BLOCK_COLUMN_TILES / N_WARPS };
    const uint32_t warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    if (record >= from.n_chunks)
        return;
    if (warp < from.n_row_tiles) {
        const uint4 *x = from.x + warp * from.x_stride +
                         ((size_t)record * T::SLICES + slice) * (SLICE_TILES * WARP_LANES);
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
    if (W::HAS_SCALES && lane < SHARE * T::SCALES) {
        const uint32_t j = warp * SHARE + lane / max(T::SCALES, 1), part = lane % max(T::SCALES, 1);
        if (j < from.n_column_tiles)
            copy_async(block.scales(at.record) + j * T::SCALES + part,
                       (const uint4 *)(w + j * stride + FRAGMENT_CODES) + part);
    }
}

/* ---- products -------------------------------------------------------------------------------- */

template <class T> struct warp_sums {
    float of[ROW_TILES][T::COLUMN_TILES][4];
};

/* The warp's part of one slice. */
template <class T>
__device__ static __forceinline__ void
multiply_slice(block_memory<T> block, const struct place &at, int slice,
               struct lane_record<typename T::W> *records, struct warp_sums<T> *sums)
{
    typedef typename T::W W;
    enum { N_GROUPS = SLICE_K / W::GROUP };
    const uint32_t warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    const uint32_t column_tile = warp % COLUMN_WARPS * T::COLUMN_TILES;
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
        for (int j = 0; j < T::COLUMN_TILES; j++) {
            unsigned pairs[W::N_TILES][2];
            float scale[2], minimum[2];
#pragma unroll
            for (int t = 0; t < W::N_TILES * 2; t++)
                pairs[t / 2][t % 2] = pair_of<W>(records[j], group * W::N_TILES + t / 2, t % 2);
            if (W::HAS_SCALES) {
                take_scales<W>(block.scales(at.record) + (column_tile + j) * T::SCALES, lane, group,
                               &records[j]);
                scales_of<W>(records[j], group, scale, minimum);
            }
#pragma unroll
            for (int i = 0; i < ROW_TILES; i++)
                multiply_group<W>(a[i], pairs, scale, minimum, x_sums[i], sums->of[i][j]);
        }
    }
}

/* One pass: the warp's sums of a turn. next_record: of the slice N_STAGES - 1 behind `at`. */
template <class T>
__device__ static __forceinline__ void
multiply_turn(const struct operands &from, uint32_t turn, bool is_idle, block_memory<T> block,
              struct place *at, uint32_t *next_record, struct warp_sums<T> *sums)
{
    typedef typename T::W W;
    enum { AHEAD = N_STAGES - 1, KEEPS_CODES = !W::HAS_MIN }; /* else registers do not suffice */
    const uint32_t warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    const uint32_t column_tile = warp % COLUMN_WARPS * T::COLUMN_TILES;
    for (uint32_t record = turn; record < from.n_chunks; record += N_TURNS) {
        struct lane_record<W> records[T::COLUMN_TILES];
#pragma unroll
        for (int slice = 0; slice < T::SLICES; slice++) {
            const int next_slice = (slice + AHEAD) % T::SLICES;
            copies_wait<AHEAD - 1>();
            __syncthreads();
            copy_slice<T>(from, *next_record, next_slice, block,
                          place_behind<T>(*at, slice, AHEAD));
            copies_commit();
            if (next_slice + 1 == T::SLICES)
                *next_record = record_behind(*next_record, from.n_chunks);
#pragma unroll
            for (int j = 0; (slice == 0 || !KEEPS_CODES) && j < T::COLUMN_TILES; j++)
                take_codes<W>(block.codes(at->record) + (column_tile + j) * WARP_LANES, lane,
                              &records[j]);
            if (!is_idle)
                multiply_slice<T>(block, *at, slice, records, sums);
            *at = place_behind<T>(*at, slice, 1);
        }
    }
}

/* ---- blocks ---------------------------------------------------------------------------------- */

/* Blocks that run at once should share rows and weights in the second-level cache: they go down
 * columns of up to GROUP_BLOCKS blocks of rows, then to the next columns of weights. */
enum { GROUP_BLOCKS = 16 };

template <class T>
__device__ static __forceinline__ void find_block(uint32_t n_rows, uint32_t n, uint32_t *row_tile,
                                                  uint32_t *column_tile)
{
    const uint32_t n_down = (n_rows + BLOCK_ROW_TILES * 16 - 1) / (BLOCK_ROW_TILES * 16),
                   n_across = (n + T::BLOCK_COLUMN_TILES * 8 - 1) / (T::BLOCK_COLUMN_TILES * 8),
                   first = blockIdx.x / (GROUP_BLOCKS * n_across) * GROUP_BLOCKS,
                   place = blockIdx.x % (GROUP_BLOCKS * n_across),
                   height = min((uint32_t)GROUP_BLOCKS, n_down - first);
    *row_tile = (first + place % height) * BLOCK_ROW_TILES;
    *column_tile = place / height * T::BLOCK_COLUMN_TILES;
}

/* Of the passes until now. Minus zero with any number added is that number, zero too. */
template <class T> struct totals {
    float in_registers[T::TOTALS_IN_MEMORY ? 1 : T::N_SUMS];
    volatile float *in_memory; /* [sum][thread] */

    __device__ __forceinline__ float of(int s) const
    {
        return T::TOTALS_IN_MEMORY ? in_memory[s * LONG_THREADS]
                                   : in_registers[T::TOTALS_IN_MEMORY ? 0 : s];
    }
    __device__ __forceinline__ void set(int s, float value)
    {
        if (T::TOTALS_IN_MEMORY)
            in_memory[s * LONG_THREADS] = value;
        else
            in_registers[T::TOTALS_IN_MEMORY ? 0 : s] = value;
    }
};

/* A few at once, which `volatile` keeps so: beside the sums there are no registers for all. */
template <class T>
__device__ static __forceinline__ void add_to_totals(const struct warp_sums<T> &sums,
                                                     struct totals<T> *totals)
{
    enum { FEW = 8 };
    static_assert(T::N_SUMS % FEW == 0, "all of them are set");
    float few[FEW];
#pragma unroll
    for (int s = 0; s < T::N_SUMS; s++) {
        few[s % FEW] = totals->of(s) + (&sums.of[0][0][0])[s];
#pragma unroll
        for (int e = 0; s % FEW == FEW - 1 && e < FEW; e++)
            totals->set(s - FEW + 1 + e, few[e]);
    }
}

template <class T>
__device__ static __forceinline__ void
write_totals(const struct totals<T> *totals, const struct gpu_linear_part &part, uint32_t k,
             uint32_t first_row, uint32_t first_column, uint32_t n_rows)
{
    typedef typename T::W W;
    const uint32_t lane = threadIdx.x % WARP_LANES;
    const float *powers =
        (const float *)((const char *)part.w + fragments_records(W::shape(), part.n, k));
#pragma unroll
    for (int s = 0; s < T::N_SUMS; s++) {
        const uint32_t row = first_row + s / (T::COLUMN_TILES * 4) * 16 + s % 4 / 2 * 8 + lane / 4,
                       column = first_column + s / 4 % T::COLUMN_TILES * 8 + lane % 4 * 2 + s % 2;
        if (row < n_rows && column < part.n)
            write_sum<W>(part, powers, row, column, totals->of(s));
    }
}

template <class T>
__global__ void __launch_bounds__(LONG_THREADS, 1)
    linear_tiles(const uint4 *__restrict__ x, struct gpu_linear_part part, uint32_t n_rows,
                 uint32_t k)
{
    typedef typename T::W W;
    SHARED_DYNAMIC(uint4, shared, T::ALL);
    const struct block_memory<T> block = {
        shared
    };
    const uint32_t warp = threadIdx.x / WARP_LANES;
    const uint32_t warp_row = warp / COLUMN_WARPS * ROW_TILES,
                   warp_column = warp % COLUMN_WARPS * T::COLUMN_TILES;
    uint32_t row_tile, column_tile;
    find_block<T>(n_rows, part.n, &row_tile, &column_tile);
    const struct operands from =
        operands_from<W>(x, (const char *)part.w, n_rows, part.n, k, row_tile, column_tile);
    const bool is_idle = warp_row >= from.n_row_tiles || warp_column >= from.n_column_tiles;

    struct place at = {0, 0};
    uint32_t next_record = 0;
#pragma unroll
    for (int i = 0; i < N_STAGES - 1; i++) {
        copy_slice<T>(from, next_record, i % T::SLICES, block, place_behind<T>(at, 0, i));
        copies_commit();
        if (i % T::SLICES + 1 == T::SLICES)
            next_record = record_behind(next_record, from.n_chunks);
    }
    struct totals<T> totals;
    totals.in_memory = (float *)(shared + T::TOTALS_AT) + threadIdx.x;
#pragma unroll
    for (int s = 0; s < T::N_SUMS; s++)
        totals.set(s, -0.0f);
#pragma unroll 1
    for (uint32_t turn = 0; turn < N_TURNS; turn++) {
        struct warp_sums<T> sums = {
        };
        multiply_turn<T>(from, turn, is_idle, block, &at, &next_record, &sums);
        add_to_totals<T>(sums, &totals);
    }
    write_totals<T>(&totals, part, k, (row_tile + warp_row) * 16, (column_tile + warp_column) * 8,
                    n_rows);
}

/* ---- launches -------------------------------------------------------------------------------- */

/* Any weights; and bf16 in twice as many columns, if the device has the memory for totals. */
template <class W> struct tiles {
    typedef tile<W, 4, false> usual;
    typedef tile<W, W::HAS_SCALES ? 4 : 8, !W::HAS_SCALES> large;
};

static size_t n_blocks(const struct linear_call &call, uint32_t column_tiles)
{
    return (size_t)blocks_of(call.n_rows, BLOCK_ROW_TILES * FRAGMENT_ROWS) *
           blocks_of(call.part.n, column_tiles * FRAGMENT_COLUMNS);
}

/* A multiprocessor multiplies with it at least twice as fast, if there is a block for it. */
bool linear_long_pays(const struct gpu *gpu, const struct linear_call &call)
{
    enum { COLUMN_TILES = COLUMN_WARPS * 4 };
    return call.n_rows > 4 * FRAGMENT_ROWS &&
           n_blocks(call, COLUMN_TILES) * 2 >= gpu->n_multiprocessors;
}

template <class T> static void launch(struct gpu *gpu, const struct linear_call &call)
{
    const size_t bytes = T::ALL * sizeof(uint4);
    gpu_allow_shared(gpu, linear_tiles<T>, bytes);
    LAUNCH_SHARED(linear_tiles<T>, dim3((unsigned)n_blocks(call, T::BLOCK_COLUMN_TILES)),
                  dim3(LONG_THREADS), bytes, gpu->stream, call.x, call.part, call.n_rows, call.k);
    gpu_check(gpu, "linear_tiles");
}

template <class W> static void launch_for_device(struct gpu *gpu, const struct linear_call &call)
{
    typedef typename tiles<W>::large large;
    if (large::TOTALS_IN_MEMORY && large::ALL * sizeof(uint4) <= gpu->block_bytes &&
        n_blocks(call, large::BLOCK_COLUMN_TILES) >= gpu->n_multiprocessors)
        launch<large>(gpu, call);
    else
        launch<typename tiles<W>::usual>(gpu, call);
}

void linear_long(struct gpu *gpu, enum fragment_form form, const struct linear_call &call)
{
    switch (form) {
#define FORM_CASE(name, bits, group, numbers)                                                      \
    case FRAGMENT_##name:                                                                          \
        launch_for_device<weights<bits, group, numbers>>(gpu, call);                               \
        break;
        FRAGMENT_FORMS(FORM_CASE)
#undef FORM_CASE
    default:
        break;
    }
}
