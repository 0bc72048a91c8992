/* Tokens are drawn where the logits lie. What is drawn is said at serverd_draw (delegate.h); this
 * page has to give the host's token or none.
 *
 * A block has a row. Weights have the very bits of the host's: the same operations, each rounded by
 * itself. They are added up as whole numbers of 2^-42, in which sums have no order, so a row has
 * the same answer alone and among others. The host adds up f32 in its own order (src/sampling/):
 * what it compares is off by less than MARGIN of the row's sum, and whoever is nearer than that to
 * a border is unsure. top_k and min_p compare logits and weights alone, and are exact.
 *
 *     row ── changes ── best ── top_k ── top_p ── min_p ── first token beyond u * sum ── undo
 *
 * A pass over the row is what time goes to; where few tokens matter, only these are looked at. */
#include "kernels/cuda/device.cuh"

#include <float.h>
#include <math.h>

enum {
    NARROW_THREADS = 128,
    WIDE_THREADS = 1024,
    NARROW_WIDTH = 8192,
    AT_ONCE = 8, /* loads of a thread that are under way together */
    BIN_BITS = 11,
    N_BINS = 1 << BIN_BITS,
    FEW = 32 /* tokens that one thread looks through */
};

#define ONE 4398046511104.0f /* 2^42: weights are at most 1, rows have at most 2^21 of them */

/* The host's sums of 64 weights in 16 lanes are rounded seven times, so the two sides of a
 * comparison are off by at most 14 * 2^-24 together. Weights that are cut off at 2^-42 add `width`
 * such units. */
__device__ static __forceinline__ uint64_t margin_of(uint64_t sum, uint32_t width)
{
    return (sum >> 20) + width;
}

/* ---- logits and weights ---------------------------------------------------------------------- */

struct row {
    const float *z;
    const uint64_t *mask; /* NULL: none */
    uint32_t width;
};

__device__ static __forceinline__ float logit_at(const row &r, uint32_t i)
{
    return !r.mask || (r.mask[i / 64] >> (i % 64) & 1) ? r.z[i] : -INFINITY;
}

/* f(i, logit) for the logits `from`, from + step, .. below `end`. */
template <class F>
__device__ static __forceinline__ void each_logit(const row &r, uint32_t from, uint32_t end,
                                                  uint32_t step, F f)
{
    for (uint32_t first = from; first < end; first += AT_ONCE * step) {
        float z[AT_ONCE];
#pragma unroll
        for (uint32_t k = 0; k < AT_ONCE; k++)
            z[k] = first + k * step < end ? logit_at(r, first + k * step) : -INFINITY;
#pragma unroll
        for (uint32_t k = 0; k < AT_ONCE; k++)
            if (first + k * step < end)
                f(first + k * step, z[k]);
    }
}

/* src/sampling/vector_template.h, operation by operation. */
__device__ static __forceinline__ float weight_of(float z, float max, float scale)
{
    const float x = __fmul_rn(__fsub_rn(z, max), scale);
    const float shifted = __fadd_rn(__fmul_rn(x, 1.44269504f), 12582912.0f);
    const float n = __fsub_rn(shifted, 12582912.0f);
    float r = __fsub_rn(x, __fmul_rn(n, 0.693359375f));
    r = __fsub_rn(r, __fmul_rn(n, -2.12194440e-4f));
    float p = __fadd_rn(__fmul_rn(r, 1.9875691500e-4f), 1.3981999507e-3f);
    p = __fadd_rn(__fmul_rn(p, r), 8.3334519073e-3f);
    p = __fadd_rn(__fmul_rn(p, r), 4.1665795894e-2f);
    p = __fadd_rn(__fmul_rn(p, r), 1.6666665459e-1f);
    p = __fadd_rn(__fmul_rn(p, r), 5.0000001201e-1f);
    p = __fadd_rn(__fadd_rn(__fmul_rn(p, __fmul_rn(r, r)), r), 1.0f);
    const float weight = __uint_as_float(__float_as_uint(p) + (__float_as_uint(shifted) << 23));
    return x > -87.0f ? weight : 0.0f;
}

__device__ static __forceinline__ uint64_t whole(float weight)
{
    return (uint64_t)(weight * ONE);
}

/* Larger logits have larger keys, and lower ids among equals; 0 and -0 are equal. */
__device__ static __forceinline__ uint64_t key_of(float z, uint32_t i)
{
    const uint32_t bits = __float_as_uint(__fadd_rn(z, 0.0f));
    const uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)ascending << 32 | (uint32_t)~i;
}

__device__ static __forceinline__ uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* ---- memory of a block ----------------------------------------------------------------------- */

/* The greatest so far, and its column; of equals the lowest. A NaN is greater than all, and so is
 * +infinity, so that they are not overlooked. */
struct best {
    float value;
    uint32_t column;
};

/* Where a head of the order of keys ends. */
struct head {
    uint64_t border;         /* keys from here on belong to it */
    uint64_t before, weight; /* without its last token, and with it */
};

struct memory {
    uint32_t count[N_BINS];
    unsigned long long weight[N_BINS];
    uint64_t of_thread[WIDE_THREADS], of_group[WARP_LANES];
    struct best best_of_warp[WIDE_THREADS / WARP_LANES];
    uint64_t of_piece[WIDE_THREADS / WARP_LANES];
    struct {
        uint32_t bin, count;
        uint64_t before, weight;
        bool is_there;
    } found;
    int32_t token;
};

/* ---- the best -------------------------------------------------------------------------------- */

__device__ static __forceinline__ bool is_better(float value, uint32_t column, best than)
{
    const bool is_odd = !(value < INFINITY), was_odd = !(than.value < INFINITY);
    if (is_odd != was_odd)
        return is_odd;
    return is_odd ? column < than.column
                  : value > than.value || (value == than.value && column < than.column);
}

__device__ static __forceinline__ bool is_finite(float value)
{
    return value < INFINITY && value > -INFINITY;
}

/* All threads get it, and the greatest of the logits that they have looked at themselves. */
template <int N_THREADS> __device__ static best find_best(const row &r, memory *m, float *own)
{
    best mine = {-INFINITY, 0xffffffffu};
    each_logit(r, threadIdx.x, r.width, N_THREADS, [&](uint32_t i, float z) {
        if (is_better(z, i, mine))
            mine = best{z, i};
    });
    *own = mine.value;
    for (int step = WARP_LANES / 2; step > 0; step /= 2) {
        const float value = __shfl_xor_sync(ALL_LANES, mine.value, step);
        const uint32_t column = __shfl_xor_sync(ALL_LANES, mine.column, step);
        if (is_better(value, column, mine))
            mine = best{value, column};
    }
    __syncthreads(); /* the last use is over */
    if (threadIdx.x % WARP_LANES == 0)
        m->best_of_warp[threadIdx.x / WARP_LANES] = mine;
    __syncthreads();
    mine = m->best_of_warp[0];
    for (int i = 1; i < N_THREADS / WARP_LANES; i++)
        if (is_better(m->best_of_warp[i].value, m->best_of_warp[i].column, mine))
            mine = m->best_of_warp[i];
    return mine;
}

/* ---- heads of the order ---------------------------------------------------------------------- */

/* Bins are added up from the last one on until they weigh what is left of the target. */
template <int N_THREADS>
__device__ static void find_bin(memory *m, uint64_t before, uint64_t target)
{
    enum { OF_THREAD = N_BINS / N_THREADS, OF_GROUP = N_THREADS / WARP_LANES };
    uint64_t sum = 0;
    for (int i = 0; i < OF_THREAD; i++)
        sum += m->weight[threadIdx.x * OF_THREAD + i];
    m->of_thread[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x < WARP_LANES) {
        sum = 0;
        for (int i = 0; i < OF_GROUP; i++)
            sum += m->of_thread[threadIdx.x * OF_GROUP + i];
        m->of_group[threadIdx.x] = sum;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        int group = WARP_LANES - 1;
        for (; group > 0 && before + m->of_group[group] < target; group--)
            before += m->of_group[group];
        int thread = group * OF_GROUP + OF_GROUP - 1;
        for (; thread > group * OF_GROUP && before + m->of_thread[thread] < target; thread--)
            before += m->of_thread[thread];
        int bin = thread * OF_THREAD + OF_THREAD - 1;
        for (; bin > thread * OF_THREAD && before + m->weight[bin] < target; bin--)
            before += m->weight[bin];
        m->found.bin = (uint32_t)bin;
        m->found.count = m->count[bin];
        m->found.before = before;
        m->found.weight = m->weight[bin];
        m->found.is_there = before + m->weight[bin] >= target;
    }
    __syncthreads();
}

/* The shortest head that weighs `target`; all if there is not as much. each(f) calls f(key, weight)
 * for the keys from `floor` on that a thread has, all of them different. Digit by digit from the
 * highest on, until what is left is one key or all needed. */
template <int N_THREADS, class Each>
__device__ static head find_head(memory *m, uint64_t target, uint64_t floor, Each each)
{
    uint64_t prefix = 0, before = 0;
    for (int high = 64; high > 0;) {
        const int low = high > BIN_BITS ? high - BIN_BITS : 0;
        for (uint32_t bin = threadIdx.x; bin < N_BINS; bin += N_THREADS) {
            m->count[bin] = 0;
            m->weight[bin] = 0;
        }
        __syncthreads();
        each([&](uint64_t key, uint64_t weight) {
            if (high < 64 && key >> high != prefix)
                return;
            const uint32_t bin = (uint32_t)(key >> low) & ((1u << (high - low)) - 1);
            atomicAdd(&m->count[bin], 1u);
            atomicAdd(&m->weight[bin], (unsigned long long)weight);
        });
        __syncthreads();
        find_bin<N_THREADS>(m, before, target);
        if (!m->found.is_there)
            return head{floor, before, before};
        before = m->found.before;
        prefix = prefix << (high - low) | m->found.bin;
        const uint64_t weight = before + m->found.weight;
        if (m->found.count == 1 || weight == target || low == 0)
            return head{larger(prefix << low, floor), before, weight};
        high = low;
    }
    return head{floor, 0, 0};
}

/* What is left to draw from. */
struct left {
    float max, scale;
    uint64_t border; /* tokens with this key or a larger one */
    float least;     /* and this weight or more */
};

__device__ static __forceinline__ float weight_left(const left &l, uint32_t i, float z)
{
    const float weight = weight_of(z, l.max, l.scale);
    return z > -INFINITY && key_of(z, i) >= l.border && weight >= l.least ? weight : 0.0f;
}

/* At least k logits are not below the k-th largest of what threads have at most, and seldom many
 * more. */
template <int N_THREADS> __device__ static uint64_t find_floor(memory *m, uint32_t k, float own)
{
    if (k > N_THREADS)
        return 0;
    const head first = find_head<N_THREADS>(m, k, 0, [&](auto f) {
        if (own > -INFINITY)
            f(key_of(own, threadIdx.x), (uint64_t)1);
    });
    return first.border >> 32 << 32;
}

template <int N_THREADS>
__device__ static void keep_top_k(const row &r, memory *m, uint32_t k, float own, left *l)
{
    const uint64_t floor = find_floor<N_THREADS>(m, k, own);
    l->border = find_head<N_THREADS>(m, k, floor, [&](auto f) {
                    each_logit(r, threadIdx.x, r.width, N_THREADS, [&](uint32_t i, float z) {
                        const uint64_t key = key_of(z, i);
                        if (z > -INFINITY && key >= floor)
                            f(key, (uint64_t)1);
                    });
                }).border;
}

/* ---- sums ------------------------------------------------------------------------------------ */

/* The tokens of a piece out of as many as there are warps. */
__device__ static __forceinline__ uint32_t piece_size(uint32_t n, uint32_t n_warps)
{
    return (n + n_warps - 1) / n_warps;
}

/* What each piece of the tokens begin .. end-1 weighs goes to of_piece; returns their sum. */
template <int N_THREADS>
__device__ static uint64_t weigh_pieces(const row &r, memory *m, const left &l, uint32_t begin,
                                        uint32_t end)
{
    enum { N_WARPS = N_THREADS / WARP_LANES };
    const uint32_t size = piece_size(end - begin, N_WARPS), warp = threadIdx.x / WARP_LANES;
    const uint32_t first = begin + warp * size, past = min(first + size, end);
    uint64_t sum = 0;
    each_logit(r, first + threadIdx.x % WARP_LANES, past, WARP_LANES,
               [&](uint32_t i, float z) { sum += whole(weight_left(l, i, z)); });
    for (int step = WARP_LANES / 2; step > 0; step /= 2)
        sum += __shfl_xor_sync(ALL_LANES, sum, step);
    __syncthreads(); /* the last use is over */
    if (threadIdx.x % WARP_LANES == 0)
        m->of_piece[warp] = sum;
    __syncthreads();
    sum = 0;
    for (int i = 0; i < N_WARPS; i++)
        sum += m->of_piece[i];
    return sum;
}

/* A key below which logits weigh less than that, and a little more: rounding shall not matter. */
__device__ static uint64_t floor_of_weight(double weight, const left &l)
{
    double z = (double)l.max + (log(weight) - 1e-2) / (double)l.scale;
    z -= 4 * (double)FLT_EPSILON * (fabs(z) + fabs((double)l.max));
    return z > -(double)FLT_MAX ? key_of((float)z, 0xffffffffu) : 0;
}

/* False: unsure. Tokens so light that all of them together may be left out are not looked at. */
template <int N_THREADS>
__device__ static bool keep_top_p(const row &r, memory *m, float top_p, left *l)
{
    const left before = *l;
    const uint64_t sum = weigh_pieces<N_THREADS>(r, m, before, 0, r.width);
    const uint64_t margin = margin_of(sum, r.width);
    const uint64_t target = (uint64_t)((double)top_p * (double)sum);
    const double light = (1.0 - (double)top_p) * (double)sum / (double)ONE / r.width / 2;
    const uint64_t floor = larger(before.border, floor_of_weight(light, before));
    const head h = find_head<N_THREADS>(m, target, floor, [&](auto f) {
        each_logit(r, threadIdx.x, r.width, N_THREADS, [&](uint32_t i, float z) {
            const uint64_t key = key_of(z, i);
            if (key >= floor)
                f(key, whole(weight_left(before, i, z)));
        });
    });
    l->border = h.border;
    return (h.before == 0 || h.before + margin <= target) && target + margin <= h.weight;
}

/* ---- the draw -------------------------------------------------------------------------------- */

/* The first of the tokens begin .. end-1 beyond `border`, before which others weigh `before`. */
__device__ static int32_t first_beyond(const row &r, const left &l, uint32_t begin, uint32_t end,
                                       uint64_t before, uint64_t border, uint64_t margin)
{
    for (uint32_t i = begin; i < end; i++) {
        const uint64_t with = before + whole(weight_left(l, i, logit_at(r, i)));
        if (with > border)
            return before + margin <= border && border + margin <= with ? (int32_t)i
                                                                        : SERVERD_DRAWN_UNSURE;
        before = with;
    }
    return SERVERD_DRAWN_UNSURE;
}

/* Pieces of pieces, until the one that has the token is small. */
template <int N_THREADS>
__device__ static int32_t draw_from(const row &r, memory *m, const left &l, double u)
{
    enum { N_WARPS = N_THREADS / WARP_LANES };
    const uint64_t sum = weigh_pieces<N_THREADS>(r, m, l, 0, r.width);
    const uint64_t border = (uint64_t)(u * (double)sum), margin = margin_of(sum, r.width);
    uint32_t begin = 0, end = r.width;
    uint64_t before = 0;
    while (end - begin > FEW) {
        const uint32_t size = piece_size(end - begin, N_WARPS);
        int piece = 0;
        for (; piece < N_WARPS - 1 && before + m->of_piece[piece] <= border; piece++)
            before += m->of_piece[piece];
        begin = min(begin + (uint32_t)piece * size, end);
        end = min(begin + size, end);
        if (end - begin > FEW)
            (void)weigh_pieces<N_THREADS>(r, m, l, begin, end);
    }
    if (threadIdx.x == 0)
        m->token = first_beyond(r, l, begin, end, before, border, margin);
    __syncthreads();
    return m->token;
}

template <int N_THREADS>
__device__ static int32_t draw_random(const row &r, memory *m, const serverd_draw &draw, float max,
                                      float own)
{
    left l = {max, draw.scale, 0, 0.0f};
    if (draw.top_k > 0)
        keep_top_k<N_THREADS>(r, m, draw.top_k, own, &l);
    if (draw.top_p < 1 && !keep_top_p<N_THREADS>(r, m, draw.top_p, &l))
        return SERVERD_DRAWN_UNSURE;
    l.least = draw.min_p;
    return draw_from<N_THREADS>(r, m, l, draw.u);
}

/* ---- changes --------------------------------------------------------------------------------- */

/* src/sampling/sample.c, operation by operation. */
__device__ static float changed(float z, const serverd_logit_change &change,
                                const serverd_draw &draw)
{
    z = __fadd_rn(z, change.bias);
    if (change.count < 0 || z == -INFINITY)
        return z;
    z = z > 0 ? __fdiv_rn(z, draw.repetition) : __fmul_rn(z, draw.repetition);
    const float presence = change.count > 0 ? draw.presence : 0.0f;
    z = __fsub_rn(z, __fadd_rn(__fmul_rn(draw.frequency, (float)change.count), presence));
    return z > FLT_MAX ? FLT_MAX : z < -FLT_MAX ? -FLT_MAX : z;
}

/* A thread has the same changes in both. */
template <int N_THREADS>
__device__ static void make_changes(float *z, const gpu_draws &draws, const serverd_draw &draw)
{
    for (uint32_t i = threadIdx.x; i < draw.n_changes; i += N_THREADS) {
        const serverd_logit_change change = draws.change[draw.first_change + i];
        draws.unchanged[draw.first_change + i] = z[change.token];
        z[change.token] = changed(z[change.token], change, draw);
    }
}

template <int N_THREADS>
__device__ static void undo_changes(float *z, const gpu_draws &draws, const serverd_draw &draw)
{
    for (uint32_t i = threadIdx.x; i < draw.n_changes; i += N_THREADS)
        z[draws.change[draw.first_change + i].token] = draws.unchanged[draw.first_change + i];
}

template <int N_THREADS>
__global__ void __launch_bounds__(N_THREADS)
    draw_rows(float *logits, uint32_t width, gpu_draws draws)
{
    SHARED(struct memory, m, 1);
    const serverd_draw draw = draws.draw[blockIdx.x];
    if (draw.kind == SERVERD_DRAW_LOGITS)
        return;
    float *z = logits + (size_t)blockIdx.x * width;
    row r = {z, NULL, width};
    float own;
    best first = find_best<N_THREADS>(r, m, &own);
    const bool is_sound = is_finite(first.value);
    const bool is_changed = draw.n_changes > 0 || draw.mask != SERVERD_NO_MASK;
    if (is_sound && is_changed) {
        make_changes<N_THREADS>(z, draws, draw);
        if (draw.mask != SERVERD_NO_MASK)
            r.mask = draws.mask + (size_t)draw.mask * ((width + 63) / 64);
        __syncthreads();
        first = find_best<N_THREADS>(r, m, &own);
    }
    int32_t token = SERVERD_DRAWN_UNSURE;
    if (is_finite(first.value))
        token = draw.kind == SERVERD_DRAW_BEST
                    ? (int32_t)first.column
                    : draw_random<N_THREADS>(r, m, draw, first.value, own);
    __syncthreads();
    if (is_sound && is_changed)
        undo_changes<N_THREADS>(z, draws, draw);
    if (threadIdx.x == 0)
        draws.drawn[blockIdx.x] = token;
}

extern "C" void gpu_draw(struct gpu *gpu, float *logits, uint32_t n_rows, uint32_t width,
                         const struct gpu_draws *draws)
{
    if (width <= NARROW_WIDTH)
        LAUNCH((draw_rows<NARROW_THREADS>), dim3(n_rows), dim3(NARROW_THREADS), gpu->stream, logits,
               width, *draws);
    else
        LAUNCH((draw_rows<WIDE_THREADS>), dim3(n_rows), dim3(WIDE_THREADS), gpu->stream, logits,
               width, *draws);
    gpu_check(gpu, "draw");
}
