/* Any arrays as a quantised module: a matrix of one of our types, or an error with text. */
#include "base/limits.h"
#include "base/numeric.h"
#include "compiler/hf_quantised.h"
#include "program/dtype.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    const uint8_t *data;
    size_t size;
};

static uint8_t take(struct input *in)
{
    if (in->size == 0)
        return 0;
    in->size--;
    return *in->data++;
}

/* An array of its stated shape in memory of exactly that size; the bytes come again and again. */
static struct hf_array make_array(struct input *in, struct safetensor *tensor)
{
    static const struct {
        const char *name;
        uint32_t bytes;
    } types[] = {{"I32", 4}, {"F16", 2}, {"BF16", 2}, {"F32", 4}, {"F8_E4M3", 1}, {"I64", 8}};
    uint8_t head = take(in);
    if (head >= 0xc0)
        return (struct hf_array){0};
    uint32_t type = head % 8 % 6;
    size_t bytes = types[type].bytes;
    *tensor = (struct safetensor){.name = "a.b", .dtype = types[type].name, .rank = head / 8 % 4};
    for (uint32_t d = 0; d < tensor->rank; d++) {
        tensor->dims[d] = take(in);
        if (tensor->dims[d] >= 128)
            tensor->dims[d] = (tensor->dims[d] - 127) * 32;
        if (bytes * tensor->dims[d] > MIB)
            tensor->dims[d] = 1;
        bytes *= tensor->dims[d];
    }
    uint8_t *copy = malloc(bytes ? bytes : 1);
    if (!copy)
        abort();
    for (size_t i = 0; i < bytes; i++)
        copy[i] = in->size ? in->data[i % in->size] : (uint8_t)i;
    tensor->bytes = bytes;
    return (struct hf_array){tensor, copy};
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    struct safetensor tensors[4];
    struct source_tensor out = {0};
    serverd_error err = {0};
    const struct hf_quantised quantised = {.method = HF_AWQ + take(&in) % 3,
                                           .bits = take(&in) % 2 ? 8 : 4,
                                           .group = take(&in) * 16u,
                                           .zero_offset = take(&in) % 2,
                                           .block_rows = take(&in),
                                           .block_columns = take(&in)};
    struct hf_module module = {.path = "f"};
    struct hf_array *const arrays[] = {&module.codes, &module.scales, &module.zeros, &module.order};
    for (size_t i = 0; i < 4; i++)
        *arrays[i] = make_array(&in, &tensors[i]);
    struct arena *arena = arena_create(64 * MIB);
    if (!arena)
        abort();
    if (module.codes.tensor) {
        if (hf_quantised_convert(&quantised, &module, arena, &out, &err) == SERVERD_OK) {
            uint64_t row_bytes;
            if (out.rank != 2 || !dtype_row_bytes(out.dtype, out.dims[1], &row_bytes) ||
                out.bytes != out.dims[0] * row_bytes)
                abort();
            const struct dtype_info *info = dtype_info(out.dtype);
            float values[128];
            for (uint64_t at = 0; at < out.bytes; at += info->block_bytes)
                info->to_f32((const char *)out.data + at, values, 1);
        } else if (err.text[0] == '\0') {
            abort();
        }
    }
    arena_destroy(arena);
    for (size_t i = 0; i < 4; i++)
        free((void *)arrays[i]->data);
    return 0;
}
