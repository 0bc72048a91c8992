/* config.json of a Hugging Face folder: to the canonical keys (source.h) that arch.c reads, and to
 * what hf_weights.c has to know. A class, activation, rope or quantisation that is not known is
 * refused by name; a member that changes the result is never passed over. Used by import_hf.c. */
#ifndef COMPILER_HF_CONFIG_H
#define COMPILER_HF_CONFIG_H

#include "compiler/hf_quantised.h"
#include "compiler/json_file.h"
#include "compiler/source.h"

/* One row for each class of `architectures`. */
struct hf_class {
    const char *name; /* "LlamaForCausalLM" */
    const char *arch; /* canonical */
    bool is_encoder;
    bool has_text_config; /* sizes are in text_config; other parts of the model are left out */
    bool has_unit_norms;  /* norm weights are stored without their 1 */
    bool has_local_rope;  /* local layers have a base of their own */
    bool has_scores;      /* a head that judges a pair of texts */
    bool pads_positions;  /* the row of position 0 is the one behind that of the padding token */
    /* What a configuration that does not say has. */
    uint32_t n_heads, n_kv_heads, head_dim, context, window; /* 0: none, or by the other sizes */
    uint32_t local_period; /* all layers but one of so many are local; 1: all, 0: none */
    double eps, rope_base, query_scalar, attn_cap, final_cap;
    const char *activation;
};

/* Divisors of rope frequencies that GGUF files keep as tensors; in the source's arena. */
struct hf_rope {
    uint32_t n;                                       /* of each table, n_rot / 2 */
    float *divisors, *short_divisors, *long_divisors; /* NULL: none */
};

struct hf_config {
    const struct hf_class *class;
    bool is_tied;            /* the head is the token table, whatever the files have */
    uint32_t n_context;      /* also of position tables */
    uint32_t first_position; /* row of the position table that position 0 has */
    struct hf_rope rope;
    struct hf_quantised quantised;
};

/* Encoders: how rows become an embedding, and the longest input; see hf_pooling.c. */
struct hf_pooling {
    uint32_t pooling;    /* serverd_pooling; NONE: not stated */
    uint32_t max_tokens; /* 0: not stated */
};

/* The i-th class of a canonical architecture; NULL: there are no more. */
const struct hf_class *hf_class_of_arch(const char *arch, uint32_t i);

/* Fills source->keys; keys, texts and tables lie in the source's arena. */
serverd_status hf_config_import(const struct json_place *config, const struct hf_pooling *pooling,
                                struct source *source, struct hf_config *out, serverd_error *err);

#endif
