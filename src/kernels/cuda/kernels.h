/* The kernels as the delegate's C code calls them, and the device that they run on: implemented
 * over the CUDA runtime (device.cu, *_kernels.cu with nvcc), or over the emulation.
 *
 * Launches return at once; what fails is said by the next gpu_wait. Calls of one stream run in
 * order. One thread at a time for a stream. All pointers of launches are the device's. Shapes are
 * in elements, matrices row-major; rows are those of the step, of kind T, S or R (delegate.h). */
#ifndef KERNELS_CUDA_KERNELS_H
#define KERNELS_CUDA_KERNELS_H

#include "kernels/cuda/fragments.h"
#include "serverd/delegate.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- the device ------------------------------------------------------------------------------ */

struct gpu; /* a device with its stream */

struct gpu_info {
    char name[64];
    uint64_t memory_bytes, free_bytes;
    double bytes_per_second, macs_per_second; /* of its data sheet, about */
};

/* How many there are; 0: `reason` says why. Never fails. */
uint32_t gpu_count(char *reason, size_t reason_bytes);
bool gpu_describe(uint32_t ordinal, struct gpu_info *out);

serverd_status gpu_open(uint32_t ordinal, struct gpu **out, serverd_error *err);
void gpu_close(struct gpu *gpu); /* its memory has been freed */
/* Launches of the calling thread go to this one; before the first of them. */
void gpu_enter(struct gpu *gpu);

/* Of the device. NULL: there is none. Aligned to 256. */
void *gpu_allocate(struct gpu *gpu, size_t bytes);
void gpu_free(struct gpu *gpu, void *memory);
/* Of the host, that copies run from at full speed; launches may read and write it. */
void *gpu_allocate_pinned(struct gpu *gpu, size_t bytes);
void gpu_free_pinned(struct gpu *gpu, void *memory);

/* In order with launches. to_host and from_host are done when gpu_wait returns. */
void gpu_zero(struct gpu *gpu, void *to, size_t bytes);
void gpu_copy(struct gpu *gpu, void *to, const void *from, size_t bytes);
void gpu_from_host(struct gpu *gpu, void *to, const void *from, size_t bytes);
void gpu_to_host(struct gpu *gpu, void *to, const void *from, size_t bytes);

/* Until all is done. The first error since the last wait: SERVERD_NOMEM, or SERVERD_DEVICE_LOST
 * after which only gpu_free and gpu_close are any good. */
serverd_status gpu_wait(struct gpu *gpu, serverd_error *err);

/* Remembers what was launched until now, instead of what it remembered; and waits for that alone.
 * An error of anything since the last gpu_wait is told, and told again there. */
void gpu_mark(struct gpu *gpu);
serverd_status gpu_wait_for_mark(struct gpu *gpu, serverd_error *err);

/* ---- launches that are repeated ---------------------------------------------------------------
 */

/* Launches with their arguments, run again with one call. What differs from run to run has to be in
 * memory of the device. */
struct gpu_graph;

/* From begin to end launches are recorded instead of run; nothing but launches is between. False:
 * it is not possible, and nothing is recorded. */
bool gpu_record_begin(struct gpu *gpu);
struct gpu_graph *gpu_record_end(struct gpu *gpu); /* NULL: it did not succeed */
void gpu_graph_run(struct gpu *gpu, struct gpu_graph *graph);
void gpu_graph_free(struct gpu *gpu, struct gpu_graph *graph); /* NULL is fine */

/* ---- a step ---------------------------------------------------------------------------------- */

/* serverd_batch on the device. */
struct gpu_batch {
    uint32_t n_rows, n_seqs, n_logit_rows, max_pages;
    const int32_t *token, *position;           /* [n_rows] */
    const uint32_t *row_seq;                   /* [n_rows] */
    const uint32_t *segment;                   /* [n_rows] */
    const uint32_t *first_row;                 /* [n_seqs + 1] of each sequence; the last: n_rows */
    const uint32_t *logit_row;                 /* [n_logit_rows] */
    const uint32_t *page_table, *window_table; /* [n_seqs][max_pages]; NULL: none */
    const uint32_t *chain;                     /* [n_seqs][n_segments] of chains.h; NULL: none */
    uint32_t n_segments;
};

/* ---- linear_kernels.cu ----------------------------------------------------------------------- */

/* x [n_rows, k] f32 to fragments of bf16. */
void gpu_rows_to_fragments(struct gpu *gpu, const float *x, uint32_t n_rows, uint32_t k, void *out);
/* y [n_rows, n] = x w^T + bias, both as fragments; bias NULL: none. A row's bits do not depend on
 * n_rows. */
void gpu_linear(struct gpu *gpu, const void *x, const void *w, enum fragment_form form,
                const float *bias, uint32_t n_rows, uint32_t n, uint32_t k, float *y);

/* Some with the same rows, form and k at once, which takes one launch if rows are few; what is
 * `added` to y, if that is not NULL, has its shape. */
enum { GPU_MAX_JOINED = 4 };
struct gpu_linear_part {
    const void *w;
    const float *bias, *added;
    float *y;
    uint32_t n;
};
void gpu_linear_parts(struct gpu *gpu, const void *x, enum fragment_form form,
                      const struct gpu_linear_part *parts, uint32_t n_parts, uint32_t n_rows,
                      uint32_t k);

/* ---- fused_kernels.cu, row_kernels.cu: a row's bits depend on no other row
 * ---------------------------------------
 */

/* The same as below, as the rows of a linear layer: rounded to bf16, in fragments. The norm is of
 * whole rows. */
void gpu_norm_to_fragments(struct gpu *gpu, const float *x, const float *w, const float *b,
                           uint32_t n_rows, uint32_t width, float eps, void *out);
void gpu_activate_to_fragments(struct gpu *gpu, const float *a, const float *b, uint32_t n_rows,
                               uint32_t width, uint32_t activation, void *out);

enum gpu_index { GPU_INDEX_TOKEN, GPU_INDEX_POSITION, GPU_INDEX_SEGMENT };

/* out [n_rows, width] = scale * w[index]; w in fragments, [n_table, width]. */
void gpu_embed(struct gpu *gpu, const struct gpu_batch *batch, const void *w,
               enum fragment_form form, uint32_t n_table, enum gpu_index index, uint32_t width,
               float scale, float *out);
/* Groups of `width`; w, b [width]; b NULL: RMS norm. */
void gpu_norm(struct gpu *gpu, const float *x, const float *w, const float *b, uint32_t n_groups,
              uint32_t width, float eps, float *out);
void gpu_l2(struct gpu *gpu, const float *x, uint32_t n_rows, uint32_t width, float *out);
void gpu_rope(struct gpu *gpu, const struct gpu_batch *batch, const float *x, const float *inv_freq,
              uint32_t n_heads, const serverd_rope *rope, float mscale, float *out);
void gpu_pos_scale(struct gpu *gpu, const struct gpu_batch *batch, const float *x, uint32_t width,
                   const serverd_pos_scale *scale, float *out);
void gpu_add(struct gpu *gpu, const float *a, const float *b, size_t n, float *out);
void gpu_scale(struct gpu *gpu, const float *x, size_t n, float factor, float *out);
void gpu_softcap(struct gpu *gpu, const float *x, size_t n, float cap, float *out);
/* act(a), or act(a) * b; b NULL: the former. */
void gpu_activate(struct gpu *gpu, const float *a, const float *b, size_t n, uint32_t activation,
                  float *out);
void gpu_slice(struct gpu *gpu, const float *x, uint32_t n_rows, uint32_t width, uint32_t begin,
               uint32_t count, float *out);
void gpu_select(struct gpu *gpu, const struct gpu_batch *batch, const float *x, uint32_t width,
                float *out);
void gpu_pool(struct gpu *gpu, const struct gpu_batch *batch, const float *x, uint32_t width,
              uint32_t pooling, float *out);

/* ---- meeting_kernels.cu -------------------------------------------------------------------- */

/* out [n] = parts[0] + parts[1] + ..; parts [n_parts][n], added in this order. */
void gpu_sum_parts(struct gpu *gpu, const float *parts, uint32_t n_parts, size_t n, float *out);
/* out [n_rows][width] gets part [n_rows][n_columns] from its column `begin` on. */
void gpu_place_columns(struct gpu *gpu, const float *part, uint32_t n_rows, uint32_t n_columns,
                       uint32_t begin, uint32_t width, float *out);

/* ---- sampling_kernels.cu --------------------------------------------------------------------- */

/* Columns that a row may have to be drawn from. */
#define GPU_DRAW_WIDTH (1u << 21)

/* serverd_batch's draws on the device. */
struct gpu_draws {
    const serverd_draw *draw;           /* [n_rows] */
    const serverd_logit_change *change; /* of all rows */
    float *unchanged;                   /* as long: what was there before, while a row is drawn */
    const uint64_t *mask;               /* [][(width + 63) / 64] */
    int32_t *drawn;                     /* [n_rows] */
};

/* drawn[row]: the token, or SERVERD_DRAWN_UNSURE; nothing for rows whose logits are wanted. Logits
 * [n_rows, width] are as before afterwards. */
void gpu_draw(struct gpu *gpu, float *logits, uint32_t n_rows, uint32_t width,
              const struct gpu_draws *draws);

/* ---- page_kernels.cu, attention_kernels.cu --------------------------------------------------
 */

/* Attention's launches depend on how many segments of so many keys there are, not on keys. */
#define GPU_SEGMENT_KEYS 256u

/* How keys and values are stored. */
enum gpu_number { GPU_F32, GPU_F16, GPU_BF16, GPU_I8 }; /* I8: an f32 scale for each token */

/* One layer of a store, as kv_store.h has it. */
struct gpu_kv {
    char *keys, *values; /* [page][head], pages.cuh says what a page of a head has */
    uint32_t n_kv_heads, k_dim, v_dim;
    enum gpu_number type;
    bool is_windowed; /* its pages are the window pages */
};

/* Bytes of one head of a page, a multiple of 16. */
size_t gpu_kv_page_bytes(enum gpu_number type, uint32_t dim);

void gpu_append(struct gpu *gpu, const struct gpu_batch *batch, const struct gpu_kv *kv,
                const float *k, const float *v);

/* Heads of no more elements. */
#define GPU_MAX_TURNED_DIM 512u

/* gpu_rope of q [n_rows, n_heads, head_dim] to q_out, of k on its way into the pages; v goes there
 * as it is. head_dim is the store's k_dim. */
void gpu_turn_and_append(struct gpu *gpu, const struct gpu_batch *batch, const struct gpu_kv *kv,
                         const float *inv_freq, const serverd_rope *rope, float mscale,
                         uint32_t n_heads, const float *q, const float *k, const float *v,
                         float *q_out);

/* Stretches of memory that become one, or are filled from one. */
enum { GPU_MAX_PIECES = 64 };
struct gpu_piece {
    char *at;               /* multiples of 16, all three */
    uint32_t bytes, offset; /* in the one */
};
struct gpu_pieces {
    uint32_t n;
    struct gpu_piece of[GPU_MAX_PIECES];
};

/* out, from: pinned memory of the host, too; nobody else uses it until a mark behind is over. */
void gpu_gather(struct gpu *gpu, const struct gpu_pieces *pieces, void *out);
void gpu_scatter(struct gpu *gpu, const struct gpu_pieces *pieces, const void *from);

/* Floats of scratch that gpu_attend wants for one row; it takes rows in turns if it has less than
 * for all, at least for one. Rows of a sequence follow each other, in the step and in position. q,
 * k, v and pages begin at multiples of 16 bytes. Queries, weights, and keys and values that are f32
 * or f16, are rounded to bf16. */
size_t gpu_attend_row_floats(const serverd_attn *attn, uint32_t max_keys);
/* n_keys: one more than the step's highest position, or, without a store, the rows of its longest
 * sequence; or more, at most what scratch was taken for. kv->keys NULL: without a store. fragments
 * not NULL: the result goes there instead, as the rows of a linear layer; their width is a multiple
 * of 128. */
void gpu_attend(struct gpu *gpu, const struct gpu_batch *batch, const serverd_attn *attn,
                const struct gpu_kv *kv, const float *q, const float *k, const float *v,
                uint32_t n_keys, float *scratch, size_t scratch_floats, float *out,
                void *fragments);

#ifdef __cplusplus
}
#endif
#endif
