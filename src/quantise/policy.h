/* Which tensor becomes what. A policy is a list of rules; the first that fits a tensor decides, and
 * a tensor that none fits is kept. Vectors (norms, biases) are always kept. */
#ifndef QUANTISE_POLICY_H
#define QUANTISE_POLICY_H

#include "program/program.h"

enum tensor_kind {
    KIND_EMBED,
    KIND_HEAD, /* makes logits; a table that is embedding and head is a head */
    KIND_ATTN_Q,
    KIND_ATTN_K,
    KIND_ATTN_V,
    KIND_ATTN_QKV,
    KIND_ATTN_OUTPUT,
    KIND_FFN_GATE,
    KIND_FFN_UP,
    KIND_FFN_DOWN,
    KIND_OTHER, /* a matrix that is none of these */
    KIND_COUNT
};

const char *tensor_kind_name(enum tensor_kind kind);

enum quantise_method {
    METHOD_MINMAX = 1,
    METHOD_PLAIN = 2,
    METHOD_AWQ = 4, /* these three need calibration */
    METHOD_GPTQ = 8,
    METHOD_SCALE = 16,
    METHOD_CALIBRATED = METHOD_AWQ | METHOD_GPTQ | METHOD_SCALE
};

/* What a rule makes of a tensor. */
struct quantise_choice {
    uint32_t format;  /* FORMAT_* or DTYPE_MXFP4; 0: kept */
    uint32_t group;   /* 32, 64, 128 */
    bool one_scale;   /* group "row": all groups of a row have one scale */
    unsigned methods; /* enum quantise_method */
};

struct quantise_policy;

/* "keep", FORMAT[:gN][:METHOD+METHOD], a preset, or the path of a YAML file (its name ends in .yaml
 * or .yml). Typos are SERVERD_INVALID with the nearest known word; errors of a file name it and the
 * line. */
serverd_status policy_create(const char *text, struct quantise_policy **out, serverd_error *err);
/* The same from the text of such a file; errors name `path`. */
serverd_status policy_parse_rules(const char *yaml, size_t n, const char *path,
                                  struct quantise_policy **out, serverd_error *err);
void policy_destroy(struct quantise_policy *policy); /* NULL is fine */

bool policy_keeps_all(const struct quantise_policy *policy);
bool policy_needs_calibration(const struct quantise_policy *policy);

/* Of a matrix with that name and kind. */
serverd_status policy_choose(const struct quantise_policy *policy, const char *name,
                             enum tensor_kind kind, struct quantise_choice *out,
                             serverd_error *err);

/* The kind of each tensor of a graph, [n_tensors]; KIND_COUNT: no matrix that can be quantised. */
void find_tensor_kinds(const serverd_graph *graph, uint8_t *kind);

#endif
