/* The pieces that architectures are put together from. Each adds nodes to the graph and returns
 * the value that comes out; names are tensor names without "blk.N." and ".weight".
 *
 * A tensor that is missing or has another shape than the hyper-parameters say ends the build
 * with an error that names file, tensor, found and needed. */
#ifndef COMPILER_BLOCKS_H
#define COMPILER_BLOCKS_H

#include "compiler/arch.h"

/* Tensors from now on are those of this layer. */
void begin_layer(struct arch *arch, uint32_t layer);
void end_layers(struct arch *arch);

/* token_embd row of each token, times `scale`. */
uint32_t embed_tokens(struct arch *arch, float scale);
/* Row of another table, which has `n_rows` rows; 0: any number. */
uint32_t embed(struct arch *arch, const char *name, serverd_embed_index index, uint32_t n_rows);
bool has_weight(const struct arch *arch, const char *name);

uint32_t rms_norm(struct arch *arch, uint32_t x, const char *name);
uint32_t layer_norm(struct arch *arch, uint32_t x, const char *name);

/* With the bias NAME.bias if the file has it. */
uint32_t linear(struct arch *arch, uint32_t x, const char *name, uint32_t n_in, uint32_t n_out);
uint32_t add(struct arch *arch, uint32_t a, uint32_t b);
uint32_t activate(struct arch *arch, uint32_t x, serverd_activation activation);

/* attn_q, attn_k, attn_v or attn_qkv -> head norms where the architecture has them -> rope ->
 * attention -> attn_output. Encoders: no rope, no mask. In a decoder's last layer the result has
 * the selected rows only (SERVERD_OP_SELECT). */
enum head_norms { HEAD_NORMS_NONE, HEAD_NORMS_RMS };
uint32_t attention(struct arch *arch, uint32_t x, enum head_norms norms);

/* ffn_down(act(ffn_gate x) * ffn_up x); without ffn_gate, ffn_up holds gate and up. */
uint32_t gated_mlp(struct arch *arch, uint32_t x, serverd_activation activation);

/* Of selected rows: output_norm -> output, or token_embd if tied -> softcap. */
uint32_t decoder_head(struct arch *arch, uint32_t x);

/* One row per sequence, of length 1. */
uint32_t pooled(struct arch *arch, uint32_t x);

/* n_scores per sequence: pool -> cls and tanh, where the model has it -> cls.output. */
uint32_t scored(struct arch *arch, uint32_t x);

/* Whole decoders of the two common shapes.
 *   pre-norm:  x += attention(norm x);             x += mlp(norm x)
 *   sandwich:  x += norm(attention(norm x));       x += norm(mlp(norm x)) */
uint32_t pre_norm_decoder(struct arch *arch, enum head_norms norms);
uint32_t sandwich_decoder(struct arch *arch, enum head_norms norms);

#endif
