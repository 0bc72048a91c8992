/* Everything that is done row by row, or element by element. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/row_math.cuh"
#include "kernels/cuda/weights.cuh"

#include <math.h>

enum { ELEMENT_THREADS = 256 };

/* ---- element by element ---------------------------------------------------------------------- */

/* The element of a thread; those behind the last do nothing. */
#define ELEMENT ((size_t)blockIdx.x * ELEMENT_THREADS + threadIdx.x)

static dim3 elements(size_t n)
{
    return dim3(blocks_of(n, ELEMENT_THREADS));
}

__global__ void add(const float *a, const float *b, size_t n, float *out)
{
    if (ELEMENT < n)
        out[ELEMENT] = a[ELEMENT] + b[ELEMENT];
}

extern "C" void gpu_add(struct gpu *gpu, const float *a, const float *b, size_t n, float *out)
{
    LAUNCH(add, elements(n), dim3(ELEMENT_THREADS), gpu->stream, a, b, n, out);
    gpu_check(gpu, "add");
}

__global__ void scale_all(const float *x, size_t n, float factor, float *out)
{
    if (ELEMENT < n)
        out[ELEMENT] = x[ELEMENT] * factor;
}

extern "C" void gpu_scale(struct gpu *gpu, const float *x, size_t n, float factor, float *out)
{
    LAUNCH(scale_all, elements(n), dim3(ELEMENT_THREADS), gpu->stream, x, n, factor, out);
    gpu_check(gpu, "scale");
}

__global__ void softcap(const float *x, size_t n, float cap, float *out)
{
    if (ELEMENT < n)
        out[ELEMENT] = cap * tanhf(x[ELEMENT] / cap);
}

extern "C" void gpu_softcap(struct gpu *gpu, const float *x, size_t n, float cap, float *out)
{
    LAUNCH(softcap, elements(n), dim3(ELEMENT_THREADS), gpu->stream, x, n, cap, out);
    gpu_check(gpu, "softcap");
}

__global__ void activate(const float *a, const float *b, size_t n, uint32_t activation, float *out)
{
    if (ELEMENT < n)
        out[ELEMENT] = activated_at(a, b, ELEMENT, activation);
}

extern "C" void gpu_activate(struct gpu *gpu, const float *a, const float *b, size_t n,
                             uint32_t activation, float *out)
{
    LAUNCH(activate, elements(n), dim3(ELEMENT_THREADS), gpu->stream, a, b, n, activation, out);
    gpu_check(gpu, "activate");
}

__global__ void slice(const float *x, size_t n, uint32_t width, uint32_t begin, uint32_t count,
                      float *out)
{
    if (ELEMENT < n)
        out[ELEMENT] = x[ELEMENT / count * width + begin + ELEMENT % count];
}

extern "C" void gpu_slice(struct gpu *gpu, const float *x, uint32_t n_rows, uint32_t width,
                          uint32_t begin, uint32_t count, float *out)
{
    const size_t n = (size_t)n_rows * count;
    LAUNCH(slice, elements(n), dim3(ELEMENT_THREADS), gpu->stream, x, n, width, begin, count, out);
    gpu_check(gpu, "slice");
}

__global__ void select(const float *x, size_t n, uint32_t width, const uint32_t *row, float *out)
{
    if (ELEMENT < n)
        out[ELEMENT] = x[(size_t)row[ELEMENT / width] * width + ELEMENT % width];
}

extern "C" void gpu_select(struct gpu *gpu, const struct gpu_batch *batch, const float *x,
                           uint32_t width, float *out)
{
    const size_t n = (size_t)batch->n_logit_rows * width;
    LAUNCH(select, elements(n), dim3(ELEMENT_THREADS), gpu->stream, x, n, width, batch->logit_row,
           out);
    gpu_check(gpu, "select");
}

/* ---- tables ---------------------------------------------------------------------------------- */

template <class W>
__global__ void embed(const uint32_t *index, const char *w, size_t n, uint32_t n_table,
                      uint32_t width, float scale, float *out)
{
    if (ELEMENT < n)
        out[ELEMENT] =
            scale * element_of<W>(w, n_table, width, index[ELEMENT / width], ELEMENT % width);
}

extern "C" void gpu_embed(struct gpu *gpu, const struct gpu_batch *batch, const void *w,
                          enum fragment_form form, uint32_t n_table, enum gpu_index index,
                          uint32_t width, float scale, float *out)
{
    const size_t n = (size_t)batch->n_rows * width;
    const uint32_t *of_row = index == GPU_INDEX_TOKEN      ? (const uint32_t *)batch->token
                             : index == GPU_INDEX_POSITION ? (const uint32_t *)batch->position
                                                           : batch->segment;
    switch (form) {
#define FORM_CASE(name, bits, group, has_min)                                                      \
    case FRAGMENT_##name:                                                                          \
        LAUNCH((embed<weights<bits, group, has_min>>), elements(n), dim3(ELEMENT_THREADS),         \
               gpu->stream, of_row, (const char *)w, n, n_table, width, scale, out);               \
        break;
        FRAGMENT_FORMS(FORM_CASE)
#undef FORM_CASE
    default:
        break;
    }
    gpu_check(gpu, "embed");
}

/* ---- positions ------------------------------------------------------------------------------- */

/* A thread has a unit of a head. */
__global__ void rope(const float *x, size_t n, const int32_t *position, uint32_t n_heads,
                     struct turn turn, float *out)
{
    const uint32_t n_units = turn_units(&turn.rope);
    if (ELEMENT >= n)
        return;
    const size_t head = ELEMENT / n_units, at = head * turn.rope.head_dim;
    turn_unit(&turn, position[head / n_heads], (uint32_t)(ELEMENT % n_units), x + at, out + at);
}

extern "C" void gpu_rope(struct gpu *gpu, const struct gpu_batch *batch, const float *x,
                         const float *inv_freq, uint32_t n_heads, const serverd_rope *p,
                         float mscale, float *out)
{
    const struct turn turn = {inv_freq, *p, mscale};
    const size_t n = (size_t)batch->n_rows * n_heads * turn_units(p);
    LAUNCH(rope, elements(n), dim3(ELEMENT_THREADS), gpu->stream, x, n, batch->position, n_heads,
           turn, out);
    gpu_check(gpu, "rope");
}

__global__ void pos_scale(const float *x, size_t n, uint32_t width, const int32_t *position,
                          serverd_pos_scale p, float *out)
{
    if (ELEMENT >= n)
        return;
    const uint32_t periods = (uint32_t)position[ELEMENT / width] / p.period;
    out[ELEMENT] = x[ELEMENT] * (1 + p.beta * logf(1 + (float)periods));
}

extern "C" void gpu_pos_scale(struct gpu *gpu, const struct gpu_batch *batch, const float *x,
                              uint32_t width, const serverd_pos_scale *p, float *out)
{
    const size_t n = (size_t)batch->n_rows * width;
    LAUNCH(pos_scale, elements(n), dim3(ELEMENT_THREADS), gpu->stream, x, n, width, batch->position,
           *p, out);
    gpu_check(gpu, "pos_scale");
}

/* ---- norms ----------------------------------------------------------------------------------- */

/* A block norms a group. b NULL: RMS norm; w NULL: what is divided by is the group's length. */
__global__ void norm(const float *x, const float *w, const float *b, uint32_t width, float eps,
                     float *out)
{
    const size_t at = (size_t)blockIdx.x * width;
    const struct normal normal = find_normal(x + at, width, b != NULL, w == NULL, eps);
    for (uint32_t i = threadIdx.x; i < width; i += ROW_THREADS)
        out[at + i] = normed(normal, x[at + i], w, b, i);
}

extern "C" void gpu_norm(struct gpu *gpu, const float *x, const float *w, const float *b,
                         uint32_t n_groups, uint32_t width, float eps, float *out)
{
    LAUNCH(norm, dim3(n_groups), dim3(ROW_THREADS), gpu->stream, x, w, b, width, eps, out);
    gpu_check(gpu, "norm");
}

extern "C" void gpu_l2(struct gpu *gpu, const float *x, uint32_t n_rows, uint32_t width, float *out)
{
    const float *none = NULL;
    LAUNCH(norm, dim3(n_rows), dim3(ROW_THREADS), gpu->stream, x, none, none, width, 0.0f, out);
    gpu_check(gpu, "l2");
}

/* ---- pooling --------------------------------------------------------------------------------- */

/* A thread has a column of a sequence, and adds its rows one after the other. */
__global__ void pool(const float *x, size_t n, uint32_t width, const uint32_t *first_row,
                     uint32_t pooling, float *out)
{
    if (ELEMENT >= n)
        return;
    const uint32_t seq = (uint32_t)(ELEMENT / width), begin = first_row[seq],
                   end = first_row[seq + 1];
    const float *column = x + ELEMENT % width;
    if (pooling != SERVERD_POOL_MEAN) {
        out[ELEMENT] = column[(size_t)(pooling == SERVERD_POOL_CLS ? begin : end - 1) * width];
        return;
    }
    float sum = 0;
    for (uint32_t row = begin; row < end; row++)
        sum += column[(size_t)row * width];
    out[ELEMENT] = sum / (float)(end - begin);
}

extern "C" void gpu_pool(struct gpu *gpu, const struct gpu_batch *batch, const float *x,
                         uint32_t width, uint32_t pooling, float *out)
{
    const size_t n = (size_t)batch->n_seqs * width;
    LAUNCH(pool, elements(n), dim3(ELEMENT_THREADS), gpu->stream, x, n, width, batch->first_row,
           pooling, out);
    gpu_check(gpu, "pool");
}
