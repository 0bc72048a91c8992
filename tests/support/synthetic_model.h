/* Tiny models of every architecture with random weights and a real, small vocabulary: for tests
 * that need a model file and no download. The same arguments give the same bytes. */
#ifndef TESTS_SUPPORT_SYNTHETIC_MODEL_H
#define TESTS_SUPPORT_SYNTHETIC_MODEL_H

#include "base/buffer.h"
#include "serverd/status.h"

/* The bytes of a GGUF file. arch as in general.architecture; dtype of the matrices: F32, F16,
 * BF16, Q8_0 or Q4_0; Q4_K and Q6_K, whose models are wider. */
serverd_status synthetic_model(const char *arch, const char *dtype, struct buffer *out,
                               serverd_error *err);

#endif
