/* Writes GGUF files for tests: well-formed ones, and, because it checks nothing, others too. */
#ifndef TESTS_COMPILER_GGUF_WRITER_H
#define TESTS_COMPILER_GGUF_WRITER_H

#include "base/buffer.h"

#include <stdbool.h>
#include <stdint.h>

struct gguf_writer {
    struct buffer keys, records, data;
    uint64_t n_keys, n_tensors;
    uint32_t version; /* 3 */
};

void gguf_writer_init(struct gguf_writer *w);
void gguf_writer_deinit(struct gguf_writer *w);

void gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t x);
void gguf_put_u64(struct gguf_writer *w, const char *key, uint64_t x);
void gguf_put_f32(struct gguf_writer *w, const char *key, float x);
void gguf_put_bool(struct gguf_writer *w, const char *key, bool x);
void gguf_put_string(struct gguf_writer *w, const char *key, const char *x);

/* An array whose packed items follow: type is a GGUF value type. */
void gguf_put_array(struct gguf_writer *w, const char *key, uint32_t type, uint64_t n,
                    const void *items, size_t bytes);
/* A string as it stands in the file: length and bytes. */
void gguf_append_string(struct buffer *b, const char *bytes, size_t n);

/* dims outermost first; the data is padded to 32 bytes. */
void gguf_put_tensor(struct gguf_writer *w, const char *name, uint32_t dtype, uint32_t rank,
                     const uint64_t *dims, const void *data, size_t bytes);

/* The whole file, appended to *out; check out->is_failed. */
void gguf_writer_finish(struct gguf_writer *w, struct buffer *out);

#endif
