/* Checkpoints whose matrices are quantised already, as our own types: what config.json says of
 * them, and the conversion, which changes no value. Used by hf_config.c and hf_weights.c.
 *
 *   AWQ   qweight [K][N/8], qzeros [K/G][N/8], scales [K/G][N]: words of eight columns
 *   GPTQ  qweight [K*bits/32][N]: words of rows; qzeros [K/G][N*bits/32], scales [K/G][N], g_idx
 * [K] FP8   weight [N][K] in E4M3; weight_scale(_inv): one, [N][1], or one for each block
 *
 * become i4z (4 bits), i8a (8 bits) or f8 with N rows of K. A group is split where ours is smaller.
 * Anything else is refused by name. Pure but for the arena. */
#ifndef COMPILER_HF_QUANTISED_H
#define COMPILER_HF_QUANTISED_H

#include "base/arena.h"
#include "compiler/json_file.h"
#include "compiler/safetensors.h"
#include "compiler/source.h"

enum hf_method { HF_PLAIN, HF_AWQ, HF_GPTQ, HF_FP8 };

struct hf_quantised {
    enum hf_method method;
    uint32_t bits;                      /* of AWQ and GPTQ: 4 or 8 */
    uint32_t group;                     /* of AWQ and GPTQ: elements of K; 0: all of it */
    uint32_t zero_offset;               /* of GPTQ: stored zero points are less by this */
    uint32_t block_rows, block_columns; /* of FP8, where scales are of blocks */
};

/* quantization_config or compression_config of config.json; HF_PLAIN if there is none. */
serverd_status hf_quantised_read(const struct json_place *config, struct hf_quantised *out,
                                 serverd_error *err);

/* What a tensor of such a checkpoint is, by its name: `module` bytes of it are the module's name.
 */
enum hf_role {
    HF_ROLE_PLAIN,  /* none of the below */
    HF_ROLE_CODES,  /* becomes the matrix */
    HF_ROLE_BESIDE, /* belongs to the codes of its module */
    HF_ROLE_UNUSED  /* of activations */
};
enum hf_role hf_quantised_role(enum hf_method method, const struct safetensor *tensor,
                               size_t *module);

/* A tensor and its data, at any address; tensor NULL: it is not there. */
struct hf_array {
    const struct safetensor *tensor;
    const void *data;
};

/* The arrays of one module. */
struct hf_module {
    const char *path; /* of the codes' file, for errors */
    struct hf_array codes, scales, zeros, order;
};

/* Fills in type, shape, data and bytes; the data lie in `made`. */
serverd_status hf_quantised_convert(const struct hf_quantised *quantised,
                                    const struct hf_module *module, struct arena *made,
                                    struct source_tensor *out, serverd_error *err);

#endif
