#include "gguf_writer.h"

#include "base/limits.h"
#include "compiler/gguf_reader.h"

#include <string.h>

#define ALIGNMENT 32u

static void append_u32(struct buffer *b, uint32_t x)
{
    buffer_append(b, &x, sizeof x);
}

static void append_u64(struct buffer *b, uint64_t x)
{
    buffer_append(b, &x, sizeof x);
}

void gguf_append_string(struct buffer *b, const char *bytes, size_t n)
{
    append_u64(b, n);
    buffer_append(b, bytes, n);
}

static void append_padding(struct buffer *b)
{
    static const char zeros[ALIGNMENT] = {0};
    buffer_append(b, zeros, (ALIGNMENT - b->len % ALIGNMENT) % ALIGNMENT);
}

static void begin_key(struct gguf_writer *w, const char *key, uint32_t type)
{
    gguf_append_string(&w->keys, key, strlen(key));
    append_u32(&w->keys, type);
    w->n_keys++;
}

void gguf_writer_init(struct gguf_writer *w)
{
    *w = (struct gguf_writer){.version = 3};
    buffer_init(&w->keys, 64 * MIB);
    buffer_init(&w->records, 64 * MIB);
    buffer_init(&w->data, 1 * GIB);
}

void gguf_writer_deinit(struct gguf_writer *w)
{
    buffer_deinit(&w->keys);
    buffer_deinit(&w->records);
    buffer_deinit(&w->data);
}

void gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t x)
{
    begin_key(w, key, SOURCE_U32);
    append_u32(&w->keys, x);
}

void gguf_put_u64(struct gguf_writer *w, const char *key, uint64_t x)
{
    begin_key(w, key, SOURCE_U64);
    append_u64(&w->keys, x);
}

void gguf_put_f32(struct gguf_writer *w, const char *key, float x)
{
    begin_key(w, key, SOURCE_F32);
    buffer_append(&w->keys, &x, sizeof x);
}

void gguf_put_bool(struct gguf_writer *w, const char *key, bool x)
{
    begin_key(w, key, SOURCE_BOOL);
    buffer_append_char(&w->keys, x ? 1 : 0);
}

void gguf_put_string(struct gguf_writer *w, const char *key, const char *x)
{
    begin_key(w, key, SOURCE_STRING);
    gguf_append_string(&w->keys, x, strlen(x));
}

void gguf_put_array(struct gguf_writer *w, const char *key, uint32_t type, uint64_t n,
                    const void *items, size_t bytes)
{
    begin_key(w, key, SOURCE_ARRAY);
    append_u32(&w->keys, type);
    append_u64(&w->keys, n);
    buffer_append(&w->keys, items, bytes);
}

void gguf_put_tensor(struct gguf_writer *w, const char *name, uint32_t dtype, uint32_t rank,
                     const uint64_t *dims, const void *data, size_t bytes)
{
    gguf_append_string(&w->records, name, strlen(name));
    append_u32(&w->records, rank);
    for (uint32_t d = rank; d-- > 0;)
        append_u64(&w->records, dims[d]);
    append_u32(&w->records, dtype);
    append_u64(&w->records, w->data.len);
    buffer_append(&w->data, data, bytes);
    append_padding(&w->data);
    w->n_tensors++;
}

void gguf_writer_finish(struct gguf_writer *w, struct buffer *out)
{
    buffer_append(out, "GGUF", 4);
    append_u32(out, w->version);
    append_u64(out, w->n_tensors);
    append_u64(out, w->n_keys);
    buffer_append(out, w->keys.data, w->keys.len);
    buffer_append(out, w->records.data, w->records.len);
    append_padding(out);
    buffer_append(out, w->data.data, w->data.len);
    if (w->keys.is_failed || w->records.is_failed || w->data.is_failed)
        out->is_failed = true;
}
