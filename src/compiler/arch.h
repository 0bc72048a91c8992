/* Architectures: from hyper-parameters and tensors to the canonical graph.
 *
 * arch.c has one row per architecture and reads the hyper-parameters; arch/NAME.c says how the
 * architecture's graph is put together from the pieces of blocks.h. Single-threaded. */
#ifndef COMPILER_ARCH_H
#define COMPILER_ARCH_H

#include "compiler/compile.h"
#include "compiler/source.h"
#include "program/graph.h"
#include "program/program.h"

/* Hyper-parameters, checked against base/limits.h. */
struct arch_params {
    uint32_t n_layers, n_embd, n_vocab, n_context;
    const uint32_t *n_ff, *n_heads, *n_kv_heads; /* [n_layers] */
    uint32_t k_dim, v_dim;                       /* of one head */
    float eps;
    float attn_scale; /* of the scores */
    float attn_cap, final_cap;
    uint32_t window;      /* tokens that a local layer sees; 0: every layer is global */
    const bool *is_local; /* [n_layers] */
    uint32_t pooling;     /* serverd_pooling, of encoders */
    uint32_t n_scores;    /* of encoders that judge pairs of texts; 0: the output is an embedding */

    uint32_t n_rot;
    double rope_base, rope_base_local;
    enum { ROPE_SCALING_NONE, ROPE_SCALING_LINEAR, ROPE_SCALING_YARN, ROPE_SCALING_LONG } scaling;
    double rope_factor, rope_attn_factor, yarn_beta_fast, yarn_beta_slow, yarn_log_multiplier;
    uint32_t rope_original_context;
    float temperature_scale; /* of queries by position; 0: none */
};

/* Frequency constants that layers share, made for the first of them. */
struct arch_rope {
    bool is_made;
    uint32_t inv_freq, alt_inv_freq; /* values; the second may be NO_VALUE */
    float mscale;
};

/* What is being built. After the first failure every call is ignored, so that a graph reads as
 * a plain sequence; arch_build reports it. */
struct arch {
    struct source *source;
    struct program *program;
    struct graph_builder *graph;
    const struct arch_row *row;
    struct arch_params params;
    bool narrows_f32; /* weights of linear layers become BF16 */
    uint32_t layer;   /* UINT32_MAX outside the layers */
    uint32_t token_table;
    struct arch_rope rope[2];    /* of global and of local layers */
    serverd_kv_layer *kv_layers; /* in the program's arena */
    uint32_t n_kv_layers;
    bool has_failed;
    serverd_error err;
};

struct arch_row {
    const char *name;                 /* general.architecture */
    uint32_t (*build)(struct arch *); /* returns the output value */
    bool is_encoder;
    bool is_neox;          /* rotates halves instead of neighbours */
    bool has_local_rope;   /* local layers have a base of their own and no scaling */
    uint32_t local_period; /* one layer in so many is global; 0: no local layers */
    uint32_t
        wide_n_layers; /* with so many layers scores are scaled by the width n_embd / n_heads */
    float attn_cap, final_cap; /* defaults */
};

/* Fills the program's config, graph and KV layers. */
serverd_status arch_build(const struct compile_options *options, struct source *source,
                          struct program *program, serverd_error *err);

/* Whether GGUF files of the architecture have the rows of Q and K for rope on halves. */
bool arch_rotates_halves(const char *architecture);

/* arch/NAME.c */
uint32_t build_llama(struct arch *arch);
uint32_t build_mistral3(struct arch *arch);
uint32_t build_qwen2(struct arch *arch);
uint32_t build_qwen3(struct arch *arch);
uint32_t build_gemma2(struct arch *arch);
uint32_t build_gemma3(struct arch *arch);
uint32_t build_phi3(struct arch *arch);
uint32_t build_bert(struct arch *arch);

#endif
