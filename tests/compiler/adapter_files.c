#include "compiler/adapter_files.h"

#include "base/hash.h"
#include "compiler/gguf_writer.h"
#include "program/op.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALPHA 8

/* Linear layers inside the model's layers. */
static const serverd_tensor *matrix_of(const struct program *base, uint32_t node)
{
    const serverd_graph *graph = &base->graph;
    const serverd_node *n = &graph->nodes[node];
    if (n->op != SERVERD_OP_LINEAR || n->layer == UINT32_MAX)
        return NULL;
    return &graph->tensors[node_input(graph, n, 1)->tensor];
}

static float *numbers(const char *name, char which, size_t n, uint64_t seed)
{
    float *x = malloc(n * sizeof *x);
    if (!x)
        abort();
    uint64_t begin = hash_bytes(name, strlen(name), seed * 2 + (which == 'a'));
    for (size_t i = 0; i < n; i++)
        x[i] = ((float)(hash_mix(begin + i) >> 40) / 0x1p23f - 1.0f) * 0.2f;
    return x;
}

void adapter_files_gguf(const struct program *base, uint32_t rank, uint64_t seed,
                        struct buffer *out)
{
    struct gguf_writer w;
    gguf_writer_init(&w);
    gguf_put_string(&w, "general.architecture", base->config.architecture);
    gguf_put_string(&w, "general.type", "adapter");
    gguf_put_string(&w, "adapter.type", "lora");
    gguf_put_f32(&w, "adapter.lora.alpha", ALPHA);
    for (uint32_t i = 0; i < base->graph.n_nodes; i++) {
        const serverd_tensor *t = matrix_of(base, i);
        if (!t)
            continue;
        for (char which = 'a'; which <= 'b'; which++) {
            char name[160];
            const uint64_t dims[] = {which == 'a' ? rank : t->dims[0],
                                     which == 'a' ? t->dims[1] : rank};
            float *x = numbers(t->name, which, dims[0] * dims[1], seed);
            (void)snprintf(name, sizeof name, "%s.lora_%c", t->name, which);
            gguf_put_tensor(&w, name, 0, 2, dims, x, dims[0] * dims[1] * sizeof *x);
            free(x);
        }
    }
    gguf_writer_finish(&w, out);
    gguf_writer_deinit(&w);
}

/* ---- PEFT ------------------------------------------------------------------------------------ */

static void module_of(const char *tensor, char out[96])
{
    static const char *const names[][2] = {
        {"attn_q", "self_attn.q_proj"}, {"attn_k", "self_attn.k_proj"},
        {"attn_v", "self_attn.v_proj"}, {"attn_output", "self_attn.o_proj"},
        {"ffn_gate", "mlp.gate_proj"},  {"ffn_up", "mlp.up_proj"},
        {"ffn_down", "mlp.down_proj"}};
    unsigned layer = 0;
    char part[32] = "";
    if (sscanf(tensor, "blk.%u.%31[^.]", &layer, part) != 2)
        abort();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i][0], part) == 0)
            (void)snprintf(out, 96, "base_model.model.model.layers.%u.%s", layer, names[i][1]);
}

/* Row 2i + j of a head of the GGUF file is row j * d/2 + i of the folder. */
static void into_halves(const struct program *base, const char *tensor, float *b, size_t n_rows,
                        size_t rank)
{
    size_t d = base->kv.layers[0].k_dim;
    if (!strstr(tensor, "attn_q.") && !strstr(tensor, "attn_k."))
        return;
    float *copy = malloc(n_rows * rank * sizeof *copy);
    if (!copy)
        abort();
    memcpy(copy, b, n_rows * rank * sizeof *copy);
    for (size_t row = 0; row < n_rows; row++) {
        size_t head = row / d * d, in = row % d;
        memcpy(b + (head + in % 2 * (d / 2) + in / 2) * rank, copy + row * rank,
               rank * sizeof *copy);
    }
    free(copy);
}

void adapter_files_peft(const struct program *base, uint32_t rank, uint64_t seed,
                        struct buffer *config, struct buffer *weights)
{
    struct buffer header, data;
    buffer_init(&header, 1 << 24);
    buffer_init(&data, 1 << 24);
    buffer_printf(config,
                  "{\"peft_type\": \"LORA\", \"r\": %u, \"lora_alpha\": %d, \"bias\": "
                  "\"none\", \"target_modules\": [\"q_proj\"]}",
                  rank, ALPHA);
    for (uint32_t i = 0; i < base->graph.n_nodes; i++) {
        const serverd_tensor *t = matrix_of(base, i);
        if (!t)
            continue;
        for (char which = 'a'; which <= 'b'; which++) {
            char module[96] = "";
            const size_t rows = which == 'a' ? rank : (size_t)t->dims[0],
                         columns = which == 'a' ? (size_t)t->dims[1] : rank;
            float *x = numbers(t->name, which, rows * columns, seed);
            module_of(t->name, module);
            if (which == 'b')
                into_halves(base, t->name, x, rows, rank);
            buffer_printf(&header,
                          "%s\"%s.lora_%c.weight\":{\"dtype\":\"F32\",\"shape\":[%zu,%zu],"
                          "\"data_offsets\":[%zu,%zu]}",
                          header.len ? "," : "{", module, which - 'a' + 'A', rows, columns,
                          data.len, data.len + rows * columns * sizeof *x);
            buffer_append(&data, x, rows * columns * sizeof *x);
            free(x);
        }
    }
    buffer_append_str(&header, "}");
    uint64_t n = header.len;
    buffer_append(weights, &n, sizeof n);
    buffer_append(weights, header.data, header.len);
    buffer_append(weights, data.data, data.len);
    buffer_deinit(&header);
    buffer_deinit(&data);
}
