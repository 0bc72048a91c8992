/* The ABI between serverd and its back-ends (delegates), version 3.2.
 *
 * A delegate is a table of functions. It answers which graph nodes it can run and at what cost,
 * turns weights into its own layout, holds the KV pages of its device, and executes batches.
 * Everything that computes runs through this table: the CPU back-end, the exact reference, the
 * test doubles, CUDA, and shared objects loaded at run time.
 *
 * The host cuts a graph into *partitions*, consecutive nodes that one instance runs, and calls
 * them one after the other; what one makes and another reads passes through memory of the host.
 *
 * Threads: `devices`, `match`, `form` and `pack` are pure and may be called concurrently. An
 * instance has one caller at a time. CPU work is spread only by serverd_host.parallel_for.
 * Ownership: the host keeps what it passes alive for the call; graph, tensors, partition, packed
 * weights and the host table itself until `unload` or `close`. The delegate owns its instances,
 * handles and KV stores until the matching close, unload or kv_destroy.
 * Errors: a function that fails fills *err in (status.h); it never exits, prints or raises signals.
 * Numbers: a row's result never depends on the other rows of the batch, on how a prompt was
 * cut into chunks, or on the number of threads.
 * Every struct starts with its size, so that a later minor version can append members: members of
 * the table beyond struct_bytes are absent. */
#ifndef SERVERD_DELEGATE_H
#define SERVERD_DELEGATE_H

#include "serverd/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SERVERD_DELEGATE_ABI (3u << 16 | 2u) /* major << 16 | minor */
#define SERVERD_NO_PAGE      UINT32_MAX
#define SERVERD_MAX_DIMS     4u

/* Tokens of one KV page: 1, 2, 4, 8, 16, 32 or 64, chosen when serverd is built. Installed headers
 * say what that serverd has; a delegate that was compiled with another number refuses the spec's
 * page_tokens in kv_page_bytes and kv_create. */
#ifndef SERVERD_PAGE_TOKENS
#define SERVERD_PAGE_TOKENS 16u
#endif

/* ---- the graph -------------------------------------------------------------------------- */

/* Element type of a tensor or value: ids 0..63 are GGUF's, 64.. are indexes, 128.. our own. */
typedef uint32_t serverd_dtype;

/* Of serverd_tensor.flags. */
enum {
    SERVERD_TENSOR_OF_LINEAR = 1, /* the matrix of a LINEAR node */
    SERVERD_TENSOR_PACKED = 2     /* data is NULL: the program file has it in other layouts */
};

/* A constant: weights, norms, tables. Row-major, dims outermost first, so a linear layer is
 * [n_out, n_in]. `data` stays valid until the program is closed; `bytes` is its size, also where
 * it is not there. */
typedef struct serverd_tensor {
    uint32_t struct_bytes;
    serverd_dtype dtype;
    const char *name;
    uint32_t rank; /* 1..SERVERD_MAX_DIMS */
    uint32_t flags;
    uint64_t dims[SERVERD_MAX_DIMS];
    const void *data;
    uint64_t bytes;
} serverd_tensor;

/* Symbolic sizes in serverd_value.dims. */
enum { SERVERD_DIM_ROWS = -1, SERVERD_DIM_SEQS = -2, SERVERD_DIM_SELECTED = -3 };

typedef enum serverd_value_kind {
    SERVERD_VALUE_CONSTANT = 0, /* tensors[tensor] */
    SERVERD_VALUE_ACTIVATION    /* f32, row-major, dims[0] symbolic */
} serverd_value_kind;

typedef struct serverd_value {
    uint32_t kind;
    uint32_t rank;
    uint32_t tensor;   /* of a constant */
    uint32_t producer; /* node that writes an activation, UINT32_MAX for a constant */
    int64_t dims[SERVERD_MAX_DIMS];
} serverd_value;

/* Canonical operations. Values: T rows of the step, S sequences, R selected rows. Rows mix only
 * in ATTN and POOL. Operand order is inputs, then outputs. The last two stand in graphs that are
 * one shard of a model (serverd_shard): all shards have them in the same places. Since 3.2. */
typedef enum serverd_op {
    SERVERD_OP_EMBED = 0,  /* W [V,D] -> [T,D]: row W[index] * scale; index by attributes */
    SERVERD_OP_LINEAR,     /* x [T,K], W [N,K], bias [N]? -> [T,N]: x W^T + bias */
    SERVERD_OP_RMS_NORM,   /* x, w [width] -> x / sqrt(mean(x^2) + eps) * w, over groups of width */
    SERVERD_OP_LAYER_NORM, /* x, w, b -> (x - mean) / sqrt(var + eps) * w + b */
    SERVERD_OP_ROPE,       /* x [T,H*D], inv_freq [n_rot/2], alt_inv_freq? -> rotated x */
    SERVERD_OP_ATTN,       /* q [T,H*D], k [T,G*D], v [T,G*E] -> [T,H*E]; see serverd_attn */
    SERVERD_OP_POS_SCALE,  /* x -> x * (1 + beta * ln(1 + floor(position / period))) */
    SERVERD_OP_ADD,        /* a, b -> a + b */
    SERVERD_OP_SCALE,      /* x -> factor * x */
    SERVERD_OP_SOFTCAP,    /* x -> cap * tanh(x / cap) */
    SERVERD_OP_ACT,        /* x -> act(x) */
    SERVERD_OP_GLU,        /* a, b -> act(a) * b */
    SERVERD_OP_SLICE,      /* x [T,N] -> [T,count]: columns begin .. begin+count-1 */
    SERVERD_OP_SELECT,     /* x [T,D] -> [R,D]: the rows whose logits are wanted */
    SERVERD_OP_POOL,       /* x [T,D] -> [S,D]: mean, first or last row of each sequence */
    SERVERD_OP_L2,         /* x -> x / max(norm(x), 1e-12) */
    SERVERD_OP_ALL_REDUCE, /* x -> the sum of all ranks' x, in ascending order of the ranks */
    SERVERD_OP_GATHER,     /* x [T,N] -> [T,width] of all ranks' columns; only rank 0 has it */
    SERVERD_OP_COUNT
} serverd_op;

typedef enum serverd_activation {
    SERVERD_ACT_SILU = 0,
    SERVERD_ACT_GELU_TANH,
    SERVERD_ACT_GELU_ERF,
    SERVERD_ACT_RELU,
    SERVERD_ACT_SIGMOID,
    SERVERD_ACT_TANH
} serverd_activation;

typedef enum serverd_embed_index {
    SERVERD_INDEX_TOKEN = 0,
    SERVERD_INDEX_POSITION,
    SERVERD_INDEX_SEGMENT /* of serverd_batch.segment */
} serverd_embed_index;

typedef enum serverd_pooling {
    SERVERD_POOL_NONE = 0,
    SERVERD_POOL_MEAN,
    SERVERD_POOL_CLS,
    SERVERD_POOL_LAST
} serverd_pooling;

typedef struct serverd_embed {
    uint32_t index; /* serverd_embed_index */
    float scale;
} serverd_embed;

typedef struct serverd_norm {
    uint32_t width; /* elements normalised together: the row, or one head */
    float eps;
} serverd_norm;

/* Angle of pair i at position p: p * inv_freq[i]; cos and sin times mscale. The alternative
 * table (third input) replaces the first for the whole run if the context limit the partition
 * was loaded with is above alt_from (longrope). */
typedef struct serverd_rope {
    uint32_t head_dim, n_rot; /* pairs (2i, 2i+1), or (i, i + n_rot/2) if is_neox */
    uint32_t is_neox;
    uint32_t alt_from;
    float mscale, alt_mscale;
} serverd_rope;

/* Append k and v of each row at its position to KV layer `kv_layer`, then for each query head:
 * softmax over the visible keys of the row's own sequence of cap(scale * q.k), times v.
 * Visible from position p: keys 0..p, and with a window only the last `window` of them, the
 * query's own included. Without is_causal there is no KV state: the rows of the same sequence
 * in this batch see each other, all of them. Query head h uses KV head h / (n_heads/n_kv_heads). */
typedef struct serverd_attn {
    uint32_t n_heads, n_kv_heads;
    uint32_t k_dim, v_dim; /* of one head */
    uint32_t kv_layer;
    uint32_t window;    /* 0: none */
    uint32_t is_causal; /* 0 or 1 */
    float scale;
    float cap; /* 0: none */
} serverd_attn;

typedef struct serverd_pos_scale {
    float beta;
    uint32_t period;
} serverd_pos_scale;

typedef struct serverd_slice {
    uint32_t begin, count;
} serverd_slice;

/* Columns begin .. begin+N-1 of `width` are this rank's; begin and width are GATHER's alone. */
typedef struct serverd_shard {
    uint32_t rank, n_ranks;
    uint32_t begin, width;
} serverd_shard;

typedef union serverd_attributes {
    serverd_embed embed;
    serverd_norm norm;
    serverd_rope rope;
    serverd_attn attn;
    serverd_pos_scale pos_scale;
    serverd_slice slice;
    serverd_shard shard;
    float factor;        /* SCALE, SOFTCAP */
    uint32_t activation; /* ACT, GLU: serverd_activation */
    uint32_t pooling;    /* POOL: serverd_pooling */
    uint32_t words[12];
} serverd_attributes;

typedef struct serverd_node {
    uint16_t op, op_version;
    uint16_t n_inputs, n_outputs;
    uint32_t first_operand; /* inputs, then outputs, in serverd_graph.operands */
    uint32_t layer;         /* UINT32_MAX outside the layers */
    serverd_attributes attributes;
} serverd_node;

/* Nodes stand in execution order; a value's producer comes before its users. */
typedef struct serverd_graph {
    uint32_t struct_bytes;
    uint32_t n_tensors, n_values, n_nodes, n_operands;
    uint32_t output; /* value: logits [R,V]; of an encoder embedding [S,D] or score [S,n] */
    const serverd_tensor *tensors;
    const serverd_value *values;
    const serverd_node *nodes;
    const uint32_t *operands; /* indexes of values */
} serverd_graph;

/* Where a value lies while the nodes of a partition run. Buffers with the same `place` begin at the
 * same offset and share memory one after the other: uses of two of them never meet. */
typedef struct serverd_buffer {
    uint32_t value;
    uint16_t form;                   /* 0: f32 rows, others: the delegate's own */
    uint16_t place;                  /* 0, 1, 2, .. */
    uint64_t offset;                 /* on 64, for the limits it was planned for */
    uint64_t fixed_bytes, row_bytes; /* its size: fixed and for each row of its kind at most */
    uint32_t first_use, last_use;    /* as serverd_plan.use counts */
} serverd_buffer;

/* How a partition's values share memory, for some limits. A delegate may do in other order what
 * does not depend on each other: use[i] counts when node first_node + i runs. */
typedef struct serverd_plan {
    uint32_t struct_bytes;
    uint32_t n_buffers;            /* ascending first_use */
    const serverd_buffer *buffers; /* values without one lie at the host's, or nowhere */
    const uint32_t *use;           /* [n_nodes of the partition] */
    uint64_t arena_bytes;
} serverd_plan;

/* Consecutive nodes of a graph that one instance runs. `inputs` are the activations that these
 * nodes read and earlier ones make; `outputs` those that they make and later ones, or the caller
 * (graph->output), read. Both ascending. */
typedef struct serverd_partition {
    uint32_t struct_bytes;
    uint32_t first_node, n_nodes;
    uint32_t n_inputs, n_outputs;
    const uint32_t *inputs, *outputs; /* values of the graph */
    /* What `plan` of the same delegate made of these nodes earlier, for limits that are those of
     * `load` or above; its buffers do not overlap. NULL: none. It need not be followed. */
    const serverd_plan *plan;
} serverd_partition;

/* ---- the device and the host ------------------------------------------------------------ */

typedef struct serverd_device {
    uint32_t struct_bytes;
    uint32_t ordinal;
    char name[64]; /* "AVX-512 VNNI, 2 threads" */
    uint64_t memory_bytes, free_bytes;
    char reason[128]; /* why there is none, if `devices` reports 0 */
} serverd_device;

/* What a worker did, and when: some nodes for some rows. Nodes that are computed together are one
 * event; a node's time may come in several events, of other rows, columns or workers. */
typedef struct serverd_trace_event {
    uint64_t start_ns, end_ns;
    uint32_t first_node, n_nodes; /* consecutive ones */
    uint32_t worker, n_rows;
} serverd_trace_event;

/* The other ranks of a group, which run the other shards of the same model. Each call is one that
 * all ranks make, with the same sizes (or all get SERVERD_INTERNAL), and returns when the caller's
 * part of it is done. A rank that fails somewhere else ends the others' calls: SERVERD_DEVICE_LOST.
 * For `execute`, on the thread that called it. */
typedef struct serverd_collective {
    uint32_t struct_bytes;
    uint32_t rank, n_ranks;
    uint32_t reserved;
    void *context;
    /* data[i] becomes the sum of all ranks' data[i], added in ascending order of the ranks. */
    serverd_status (*all_reduce)(void *context, float *data, size_t n, serverd_error *err);
    /* Rank 0's out [n_rows][width] gets `part` [n_rows][n_columns] of every rank, from the rank's
     * column `begin` on. out: NULL on the other ranks. */
    serverd_status (*gather)(void *context, const float *part, size_t n_rows, size_t n_columns,
                             size_t begin, size_t width, float *out, serverd_error *err);
    /* How often the calls of others were ended because a rank had failed. Ranks that meet in a way
     * of their own look at it while they wait: when it changes, one of them will not come. Any
     * thread. */
    uint64_t (*n_breaks)(void *context);
} serverd_collective;

/* What the host lends to a delegate. parallel_for runs fn(arg, chunk, worker) for every chunk
 * in 0..n_chunks-1 on the engine's threads, the caller's among them, and returns when all are
 * done; worker < n_workers names the thread, for scratch memory. It is legal only inside
 * `load` and `execute`.
 *
 * trace comes and goes between two calls of `execute`, and is called inside it: NULL means that
 * nobody looks, and times need not be taken. Each worker calls it for itself, several at once, in
 * the order of its times; the thread that called `execute` is worker 0. Who waits for others in
 * parallel_for is seen by the host. A delegate that never calls it is seen as one event for each
 * `execute`.
 *
 * meanwhile is for delegates whose device computes while the calling thread would wait: they call
 * it in `execute`, on that thread, once all work is on its way, and the host does something else
 * for a few microseconds. It is another one or NULL from call to call. */
typedef struct serverd_host {
    uint32_t struct_bytes;
    uint32_t n_workers;
    void *context;
    void (*log)(void *context, int level, const char *text);
    void (*parallel_for)(void *context, uint32_t n_chunks,
                         void (*fn)(void *arg, uint32_t chunk, uint32_t worker), void *arg);
    uint64_t (*now_ns)(void *context);
    void (*trace)(void *context, const serverd_trace_event *event); /* may be NULL */
    const serverd_collective *collective; /* NULL: graphs are whole. Since 3.2 */
    void (*meanwhile)(void *context);     /* may be NULL. Since 3.2 */
} serverd_host;

/* ---- packing ---------------------------------------------------------------------------- */

enum { SERVERD_LAYOUT_ROWS = 0 }; /* the logical bytes as they stand in the file, used in place */

/* How one tensor wants to lie in memory. bytes 0: nobody will look at it. */
typedef struct serverd_form {
    uint32_t struct_bytes;
    uint32_t layout;
    uint64_t bytes;
    uint32_t alignment;
} serverd_form;

/* ---- capability ------------------------------------------------------------------------- */

/* Why a delegate does not run a node. Delegates say the first four; the others are the host's. */
typedef enum serverd_reason {
    SERVERD_REASON_NONE = 0,
    SERVERD_REASON_OP,          /* unsupported-op */
    SERVERD_REASON_DTYPE,       /* unsupported-dtype */
    SERVERD_REASON_SHAPE,       /* unsupported-shape */
    SERVERD_REASON_LAYOUT,      /* no-layout: weights that it cannot bring into one of its own */
    SERVERD_REASON_MEMORY,      /* memory: the device has not enough */
    SERVERD_REASON_SLOWER,      /* slower than the one that was chosen */
    SERVERD_REASON_OVERRIDE,    /* override: the user wants another one */
    SERVERD_REASON_UNAVAILABLE, /* unavailable: it has no device here */
    SERVERD_REASON_INIT_FAILED, /* init-failed: `open` or `load` failed */
    SERVERD_REASON_COUNT
} serverd_reason;

typedef struct serverd_claim {
    uint32_t struct_bytes;
    uint32_t n_nodes;        /* fused from the node on; 0: not claimed, see reason */
    uint32_t reason;         /* serverd_reason of a node that is not claimed */
    float seconds[3];        /* estimate at T = 1, 16, 512 rows; 0: unknown */
    uint64_t resident_bytes; /* memory of the device that the weights of these nodes take */
    char text[128];          /* more about the reason, or "" */
} serverd_claim;

/* What `load` takes of the device's memory, beside the packed weights. Partitions of an instance
 * run one after the other: they may use the same memory, so together they take less than the sum.
 */
typedef struct serverd_footprint {
    uint32_t struct_bytes;
    uint32_t reserved;
    uint64_t activation_bytes; /* values of a step; several have one place where lifetimes allow */
    uint64_t unshared_bytes;   /* the same if each had a place of its own */
    uint64_t scratch_bytes;    /* everything else */
} serverd_footprint;

/* ---- KV pages --------------------------------------------------------------------------- */

typedef struct serverd_kv_layer {
    uint32_t n_kv_heads; /* 0: an attention that another instance runs has it */
    uint32_t k_dim, v_dim, window;
} serverd_kv_layer;

/* An instance keeps the layers of the attention that it runs, in one store for all its partitions.
 * Page numbers mean the same tokens in all stores.
 *
 * A page holds SERVERD_PAGE_TOKENS tokens of all layers. A store may keep the layers with a window
 * apart: then a page holds the other layers, and a *window page* the same tokens of those with a
 * window, which nobody needs any more once the window has moved on. */
typedef struct serverd_kv_spec {
    uint32_t struct_bytes;
    uint32_t n_layers;
    serverd_dtype dtype; /* of the stored keys and values */
    uint32_t page_tokens;
    const serverd_kv_layer *layers;
} serverd_kv_spec;

/* Some tokens in a store. SERVERD_NO_PAGE: that half is left out. In a store without window pages
 * `page` is all layers, and window_page is SERVERD_NO_PAGE. */
typedef struct serverd_kv_page {
    uint32_t page, window_page;
} serverd_kv_page;

/* Bytes of a page's layers without and with a window: of its two halves. */
typedef struct serverd_kv_bytes {
    uint64_t page, window_page;
} serverd_kv_bytes;

/* ---- a step ----------------------------------------------------------------------------- */

/* What is wanted of a row of logits. */
typedef enum serverd_draw_kind {
    SERVERD_DRAW_LOGITS = 0, /* its logits */
    SERVERD_DRAW_BEST,       /* the token of the greatest logit, the lowest of equals */
    SERVERD_DRAW_RANDOM      /* one that is drawn */
} serverd_draw_kind;

/* A change of one logit z before anything is drawn: z + bias, where bias -INFINITY bans the token.
 * Then, if count >= 0 and z is not -INFINITY, for the penalties of the row's draw:
 *
 *     z > 0 ? z / repetition : z * repetition
 *     z - (frequency * count + (count > 0 ? presence : 0)), kept within the finite numbers
 *
 * Each operation is rounded to f32. */
typedef struct serverd_logit_change {
    int32_t token;
    int32_t count; /* -1: no penalty */
    float bias;
} serverd_logit_change;

/* How the token of a row is found. Tokens whose bit in the mask is 0 count as banned, too. Weights
 * are exp((z - greatest z) * scale), those of banned tokens 0. Of the order of larger logits first,
 * lower ids first among equals, top_k leaves so many, then top_p the shortest head that weighs that
 * much of what is left, then min_p those that weigh as much or more. The token is the first one by
 * ascending ids whose cumulative weight exceeds u times the weight of all that are left.
 *
 * That is the token that the host would draw, who adds up f32 weights in an order of its own: a
 * delegate says a token only if rounding cannot make it another one, else SERVERD_DRAWN_UNSURE. The
 * host's weights are off by less than 4e-7 of each, its sums by 5e-7 more; src/sampling/ has them.
 */
typedef struct serverd_draw {
    uint32_t kind;                    /* serverd_draw_kind; BEST looks at changes and mask alone */
    uint32_t first_change, n_changes; /* of serverd_batch.change; each of another token */
    uint32_t mask;                    /* of serverd_batch.mask; SERVERD_NO_MASK: none */
    double u;                         /* [0, 1) */
    float scale;                      /* 1 / temperature, > 0 */
    uint32_t top_k;                   /* 0: off */
    float top_p, min_p;               /* 1 and 0: off */
    float repetition, frequency, presence;
    uint32_t reserved;
} serverd_draw;

#define SERVERD_NO_MASK      UINT32_MAX
#define SERVERD_MAX_CHANGES  (1u << 16) /* of a batch */
#define SERVERD_MAX_MASKS    64u
#define SERVERD_DRAWN_LOGITS (-1)
/* It could be one of several, or none: a logit is NaN or +INFINITY, or nothing is left. The host
 * reads the row with read_logits. */
#define SERVERD_DRAWN_UNSURE (-2)

/* The rows of one step: prefill chunks and single decode tokens of many sequences, mixed. Rows
 * of a sequence are adjacent with ascending positions. Token t of a sequence lives in page
 * page_table[seq * max_pages + t / SERVERD_PAGE_TOKENS] at slot t % SERVERD_PAGE_TOKENS; the
 * entries up to the sequence's last row are valid, all earlier tokens are already there.
 *
 * In a store with window pages window_table says the same of these. Only entries that a row of the
 * step sees, or is, are read: from the first token of the sequence's first row's widest window on.
 * A page has one window page: where two sequences have the same page and both see it, they have
 * the same window page. */
typedef struct serverd_batch {
    uint32_t struct_bytes;
    uint32_t n_rows, n_seqs, n_logit_rows;
    const int32_t *token;       /* [n_rows] */
    const int32_t *position;    /* [n_rows] */
    const uint32_t *row_seq;    /* [n_rows], 0..n_seqs-1, ascending */
    const uint32_t *page_table; /* [n_seqs][max_pages] page indexes; NULL for encoders */
    uint32_t max_pages;
    uint32_t reserved;
    const uint32_t *logit_row; /* [n_logit_rows] ascending rows whose logits are wanted */
    uint64_t step;             /* counts the steps of this engine, for traces and tests */
    /* [n_seqs][max_pages] window pages; NULL: the store has none */
    const uint32_t *window_table;
    /* [n_seqs] slot of the sequence's adapter, or SERVERD_NO_ADAPTER, and what its part is
     * multiplied with; NULL: nobody has one */
    const uint32_t *adapter_slot;
    const float *adapter_scale;
    /* [n_rows] the text of a pair that a row belongs to, 0 or 1; NULL: 0 everywhere. Since 3.1: a
     * delegate for 3.0 gets no node that looks a segment up in a table of several rows. */
    const uint8_t *segment;
    /* [n_logit_rows] what is wanted of each row; NULL: the logits of all. A delegate may say which
     * token it is instead of writing the row's logits. The host has set all of drawn [n_logit_rows]
     * to SERVERD_DRAWN_LOGITS, which says that the logits are there. Since 3.2. */
    const serverd_draw *draw;
    int32_t *drawn;
    const serverd_logit_change *change; /* [n_changes], of all rows */
    const uint64_t *mask;               /* [n_masks][(n_vocab + 63) / 64] */
    uint32_t n_changes, n_masks;
} serverd_batch;

#define SERVERD_NO_ADAPTER UINT32_MAX

/* Low-rank additions to linear layers: y += scale * B (A x), in f32. */
typedef struct serverd_adapter_site {
    uint32_t node; /* LINEAR */
    uint32_t rank;
    const float *a, *b; /* [rank][n_in], [n_out][rank] */
    float scale;
} serverd_adapter_site;

typedef struct serverd_adapter {
    uint32_t struct_bytes;
    uint32_t n_sites;
    const serverd_adapter_site *sites; /* of the partition; ascending nodes */
} serverd_adapter;

/* Sizes promised at load; `execute` never sees more. */
typedef struct serverd_limits {
    uint32_t struct_bytes;
    uint32_t max_rows, max_logit_rows, max_seqs, max_context;
    uint32_t max_adapters, max_adapter_rank; /* slots; 0: no batch has adapters */
} serverd_limits;

typedef struct serverd_instance serverd_instance;
typedef struct serverd_handle serverd_handle;
typedef struct serverd_kv serverd_kv;

/* ---- the table -------------------------------------------------------------------------- */

#define SERVERD_FN(name, ...) serverd_status (*name)(__VA_ARGS__, serverd_error * err)

enum { SERVERD_DELEGATE_BY_NAME_ONLY = 1 }; /* never chosen by "auto": test doubles, references */

typedef struct serverd_delegate {
    uint32_t abi, struct_bytes;
    const char *name, *version;
    uint64_t flags; /* SERVERD_DELEGATE_* */

    /* Devices that are there now; *n may be more than cap. None: *n = 0 and, if cap > 0,
     * out[0].reason says why. */
    SERVERD_FN(devices, const serverd_host *, serverd_device *out, uint32_t cap, uint32_t *n);

    /* Can this node run here, and at what cost? A refusal is n_nodes = 0 with a reason. A delegate
     * that claims several nodes at once need not be given all of them. */
    SERVERD_FN(match, const serverd_host *, const serverd_graph *, uint32_t node,
               serverd_claim *out);

    /* The layout this delegate wants for a tensor that a claimed node reads. */
    SERVERD_FN(form, const serverd_tensor *, serverd_form *out);

    /* Write rows first_row .. first_row+n_rows-1 of the tensor into its form at dst (start of
     * the whole form). Called for every layout but SERVERD_LAYOUT_ROWS; rows come in multiples
     * of 64 but for the last. */
    SERVERD_FN(pack, const serverd_tensor *, const serverd_form *, uint64_t first_row,
               uint64_t n_rows, void *dst);

    SERVERD_FN(open, const serverd_host *, const serverd_device *, serverd_instance **out);

    /* "key=value" tuning and test scripts, before the first load or kv call; unknown key:
     * SERVERD_INVALID. May be NULL. */
    SERVERD_FN(set_option, serverd_instance *, const char *key, const char *value);

    /* Prepare to run the nodes of a partition. packed[i] is the form of graph->tensors[i], or
     * NULL where the layout is SERVERD_LAYOUT_ROWS: then tensors[i].data is it; tensors that no
     * node of the partition reads are not packed. All scratch memory is taken here; `execute`
     * allocates nothing. kv: what kv_create of this instance was told; NULL: it has no store. */
    SERVERD_FN(load, serverd_instance *, const serverd_graph *, const serverd_partition *,
               const void *const *packed, const serverd_limits *, const serverd_kv_spec *or_null,
               serverd_handle **out);

    /* The kv functions are NULL, all of them, in a delegate that claims no attention with a state.
     */
    SERVERD_FN(kv_page_bytes, serverd_instance *, const serverd_kv_spec *, serverd_kv_bytes *out);
    /* n_window_pages 0: none, pages hold all layers. */
    SERVERD_FN(kv_create, serverd_instance *, const serverd_kv_spec *, uint32_t n_pages,
               uint32_t n_window_pages, serverd_kv **out);
    SERVERD_FN(kv_zero, serverd_kv *, const serverd_kv_page *pages, uint32_t n);
    /* Both leave out the same halves. */
    SERVERD_FN(kv_copy, serverd_kv *, serverd_kv_page from, serverd_kv_page to, uint32_t n_tokens);

    /* Run one batch: inputs[i] has the rows of partition->inputs[i], outputs[i] receives those of
     * partition->outputs[i], f32 [rows of its kind][columns], in memory of the host that does not
     * overlap; NULL for the output of GATHER on other ranks than 0. The graph's output are logits
     * [n_logit_rows][V], embeddings [n_seqs][D] or scores [n_seqs][n]. A SERVERD_NUMERIC or other
     * error leaves the KV pages of the batch's rows undefined; SERVERD_DEVICE_LOST leaves only
     * unload, kv_destroy, close. */
    SERVERD_FN(execute, serverd_handle *, const serverd_batch *, serverd_kv *or_null,
               const float *const *inputs, float *const *outputs);

    void (*kv_destroy)(serverd_kv *);
    void (*unload)(serverd_handle *);
    void (*close)(serverd_instance *);

    /* NULL: pages cannot leave this delegate.
     *
     * kv_identity: a number for how the bytes of a page lie and for the arithmetic that makes
     * them. Two instances that say the same write the same bytes for the same model, spec and
     * tokens, in this process or in a later one.
     * kv_export, kv_import: a page out of the store and into it, as many bytes as kv_page_bytes
     * says of the halves that are not left out; of both, first the page's and then the window
     * page's. Bytes go only to a store of the same identity, model and spec, that has window pages,
     * too, or none, either. */
    SERVERD_FN(kv_identity, serverd_instance *, const serverd_kv_spec *, uint64_t *out);
    SERVERD_FN(kv_export, const serverd_kv *, serverd_kv_page, void *out);
    SERVERD_FN(kv_import, serverd_kv *, serverd_kv_page, const void *bytes);

    /* What `load` with the same arguments would take. NULL: unknown. */
    SERVERD_FN(footprint, serverd_instance *, const serverd_graph *, const serverd_partition *,
               const serverd_limits *, const serverd_kv_spec *or_null, serverd_footprint *out);

    /* Put an adapter into a slot, 0..max_adapters-1; NULL: empty it. The delegate copies what it
     * needs; after a failure the slot is as before. The output of a site's node is then
     * (x W^T + bias) + scale * adapter_scale * B (A x) in rows of sequences with that slot, before
     * anything that the delegate has fused to the node. Other rows keep their bits. Any thread, and
     * beside an `execute` whose batch does not name the slot; one slot, one thread at a time. NULL
     * as a member: no batch with adapters may be executed. */
    SERVERD_FN(adapter, serverd_handle *, uint32_t slot, const serverd_adapter *or_null);

    /* How `load` would place the values of a partition; pure. buffers and use: the caller's memory,
     * of 2 (n_nodes + n_inputs) buffers and n_nodes; out->buffers and out->use become these. NULL:
     * unknown. */
    SERVERD_FN(plan, const serverd_graph *, const serverd_partition *, const serverd_limits *,
               serverd_buffer *buffers, uint32_t *use, serverd_plan *out);

    /* What kv_export was asked for until now is there. A delegate that has this function may let
     * kv_export return before; then its `out` is the delegate's until here, and steps may run in
     * between. After an error the bytes are undefined. NULL: kv_export does not return before.
     * Since 3.2. */
    SERVERD_FN(kv_settle, serverd_kv *);

    /* The logits of row number logit_row of the last step as they came from the graph: out
     * [n_vocab]. For rows of which `execute` has said something else instead, before the next
     * `execute`. NULL: batches have no draws. Since 3.2. */
    SERVERD_FN(read_logits, serverd_handle *, uint32_t logit_row, float *out);
} serverd_delegate;

/* The one symbol that a delegate in a shared object exports, named SERVERD_DELEGATE_ENTRY. It
 * returns the same table at each call, valid for as long as the object is loaded; NULL: it cannot
 * work with a host of this ABI. */
#define SERVERD_DELEGATE_ENTRY "serverd_delegate_entry"
typedef const serverd_delegate *(*serverd_delegate_entry_fn)(uint32_t host_abi);

#ifdef __cplusplus
}
#endif
#endif
