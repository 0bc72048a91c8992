#include "program/program.h"

#include "base/error.h"
#include "base/limits.h"
#include "program/graph.h"
#include "program/op.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- life ---------------------------------------------------------------------------------- */

struct program *program_create(size_t limit_bytes)
{
    struct arena *arena = arena_create(limit_bytes);
    if (!arena)
        return NULL;
    struct program *program = arena_alloc(arena, sizeof *program);
    if (!program) {
        arena_destroy(arena);
        return NULL;
    }
    program->arena = arena;
    program->references = 1;
    program->graph.struct_bytes = sizeof program->graph;
    program->kv.struct_bytes = sizeof program->kv;
    program->kv.page_tokens = SERVERD_PAGE_TOKENS;
    return program;
}

struct program *program_ref(struct program *program)
{
    /* Relaxed: who takes a reference has one already. */
    __atomic_add_fetch(&program->references, 1, __ATOMIC_RELAXED);
    return program;
}

void program_unref(struct program *program)
{
    /* Release and acquire: every use by other threads comes before the end. */
    if (!program || __atomic_sub_fetch(&program->references, 1, __ATOMIC_ACQ_REL) != 0)
        return;
    for (uint32_t i = 0; i < program->n_mappings; i++)
        mapping_close(&program->mappings[i]);
    arena_destroy(program->arena);
}

uint32_t program_output_width(const struct program_config *config)
{
    if (!config->is_encoder)
        return config->n_vocab;
    return config->n_scores ? config->n_scores : config->n_embd;
}

/* ---- checks -------------------------------------------------------------------------------- */

static serverd_status check_config(const struct program *program, serverd_error *err)
{
    const struct program_config *config = &program->config;
    struct {
        const char *name;
        uint32_t value, max;
    } bounds[] = {
        {"layers", config->n_layers, LIMIT_LAYERS},
        {"embedding length", config->n_embd, LIMIT_EMBD},
        {"vocabulary size", config->n_vocab, LIMIT_VOCAB},
        {"context length", config->context_length, LIMIT_CONTEXT},
    };
    for (size_t i = 0; i < sizeof bounds / sizeof bounds[0]; i++)
        if (bounds[i].value == 0 || bounds[i].value > bounds[i].max)
            return fail(err, SERVERD_CORRUPT, "%s is %u, 1..%u are allowed", bounds[i].name,
                        bounds[i].value, bounds[i].max);
    if (config->n_scores > LIMIT_SCORES || (config->n_scores > 0 && !config->is_encoder))
        return fail(err, SERVERD_CORRUPT, "%u scores of %s, at most %u of an encoder are allowed",
                    config->n_scores, config->is_encoder ? "an encoder" : "a decoder",
                    LIMIT_SCORES);
    return SERVERD_OK;
}

/* Token ids, positions and segments are row numbers of embedding tables. */
static serverd_status check_embed(const struct program *program, const serverd_node *node,
                                  serverd_error *err)
{
    const serverd_value *table = node_input(&program->graph, node, 0);
    uint64_t rows = (uint64_t)table->dims[0], needed = 1;
    if (node->attributes.embed.index == SERVERD_INDEX_TOKEN)
        needed = program->config.n_vocab;
    else if (node->attributes.embed.index == SERVERD_INDEX_POSITION)
        needed = program->config.context_length;
    if (rows < needed)
        return fail(err, SERVERD_CORRUPT, "tensor %s: %llu rows, %llu are needed",
                    program->graph.tensors[table->tensor].name, (unsigned long long)rows,
                    (unsigned long long)needed);
    return SERVERD_OK;
}

static serverd_status check_attn(const struct program *program, const serverd_node *node,
                                 uint32_t *n_kv_layers, serverd_error *err)
{
    const serverd_attn *attn = &node->attributes.attn;
    if (attn->is_causal == program->config.is_encoder)
        return fail(err, SERVERD_CORRUPT, "%s attention in %s",
                    attn->is_causal ? "causal" : "bidirectional",
                    program->config.is_encoder ? "an encoder" : "a decoder");
    if (!attn->is_causal)
        return SERVERD_OK;
    /* In order, so each KV layer belongs to one node. */
    if (attn->kv_layer != *n_kv_layers || attn->kv_layer >= program->kv.n_layers)
        return fail(err, SERVERD_CORRUPT, "KV layer %u, number %u of %u is next", attn->kv_layer,
                    *n_kv_layers, program->kv.n_layers);
    const serverd_kv_layer *layer = &program->kv.layers[attn->kv_layer];
    if (layer->n_kv_heads != attn->n_kv_heads || layer->k_dim != attn->k_dim ||
        layer->v_dim != attn->v_dim || layer->window != attn->window)
        return fail(err, SERVERD_CORRUPT, "KV layer %u has another shape", attn->kv_layer);
    (*n_kv_layers)++;
    return SERVERD_OK;
}

/* What the op table cannot know: tables against the vocabulary, attention against KV layers. */
static serverd_status check_nodes(const struct program *program, serverd_error *err)
{
    uint32_t n_kv_layers = 0;
    for (uint32_t i = 0; i < program->graph.n_nodes; i++) {
        const serverd_node *node = &program->graph.nodes[i];
        serverd_status status = SERVERD_OK;
        if (node->op == SERVERD_OP_EMBED)
            status = check_embed(program, node, err);
        else if (node->op == SERVERD_OP_ATTN)
            status = check_attn(program, node, &n_kv_layers, err);
        if (status != SERVERD_OK) {
            error_context(err, "node %u (%s)", i, op_info(node->op)->name);
            err->node = i;
            return status;
        }
    }
    if (n_kv_layers != program->kv.n_layers)
        return fail(err, SERVERD_CORRUPT, "%u of %u KV layers are used", n_kv_layers,
                    program->kv.n_layers);
    return SERVERD_OK;
}

static serverd_status check_result(const struct program *program, serverd_error *err)
{
    const serverd_value *output = &program->graph.values[program->graph.output];
    bool is_encoder = program->config.is_encoder;
    int64_t rows = is_encoder ? SERVERD_DIM_SEQS : SERVERD_DIM_SELECTED;
    uint64_t width = program_output_width(&program->config);
    if (output->dims[0] != rows || value_width(output) != width)
        return fail(err, SERVERD_CORRUPT, "the result has %llu columns, %s of %llu are needed",
                    (unsigned long long)value_width(output),
                    program->config.n_scores ? "scores per sequence"
                    : is_encoder             ? "one embedding per sequence"
                                             : "logits of selected rows",
                    (unsigned long long)width);
    return SERVERD_OK;
}

static serverd_status check_special(const struct vocabulary *vocabulary, serverd_error *err)
{
    const struct {
        const char *name;
        int32_t id;
    } ids[] = {
#define ID(field) {#field, vocabulary->field},
        VOCABULARY_IDS(ID)
#undef ID
    };
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++)
        if (ids[i].id < -1 || ids[i].id >= (int64_t)vocabulary->n_tokens)
            return fail(err, SERVERD_CORRUPT, "%s token is %d, there are %u tokens", ids[i].name,
                        ids[i].id, vocabulary->n_tokens);
    if (vocabulary->n_end_tokens > VOCABULARY_MAX_END_TOKENS)
        return fail(err, SERVERD_CORRUPT, "%u end tokens, at most %d are allowed",
                    vocabulary->n_end_tokens, VOCABULARY_MAX_END_TOKENS);
    for (uint32_t i = 0; i < vocabulary->n_end_tokens; i++)
        if (vocabulary->end_token[i] < 0 ||
            vocabulary->end_token[i] >= (int64_t)vocabulary->n_tokens)
            return fail(err, SERVERD_CORRUPT, "end token %u is %d, there are %u tokens", i,
                        vocabulary->end_token[i], vocabulary->n_tokens);
    return SERVERD_OK;
}

static serverd_status check_texts(const struct vocabulary *vocabulary, serverd_error *err)
{
    for (uint32_t i = 0; i < vocabulary->n_tokens; i++) {
        const struct token_text *token = &vocabulary->token[i];
        if (!token->bytes || token->len > LIMIT_TOKEN_BYTES)
            return fail(err, SERVERD_CORRUPT, "token %u has %u bytes, at most %u are allowed", i,
                        token->len, LIMIT_TOKEN_BYTES);
        if (token->type < TOKEN_NORMAL || token->type > TOKEN_BYTE)
            return fail(err, SERVERD_CORRUPT, "token %u has the unknown type %u", i, token->type);
    }
    for (uint32_t i = 0; i < vocabulary->n_merges; i++)
        if (!vocabulary->merge[i].bytes || vocabulary->merge[i].len > 2 * LIMIT_TOKEN_BYTES + 1)
            return fail(err, SERVERD_CORRUPT, "merge %u has %u bytes, at most %u are allowed", i,
                        vocabulary->merge[i].len, 2 * LIMIT_TOKEN_BYTES + 1);
    return SERVERD_OK;
}

static serverd_status check_vocabulary(const struct program *program, serverd_error *err)
{
    const struct vocabulary *vocabulary = &program->vocabulary;
    if (vocabulary->kind == VOCABULARY_NONE)
        return SERVERD_OK;
    if (vocabulary->n_tokens == 0 || vocabulary->n_tokens > LIMIT_VOCAB)
        return fail(err, SERVERD_CORRUPT, "%u tokens, 1..%u are allowed", vocabulary->n_tokens,
                    LIMIT_VOCAB);
    if (program->graph.n_nodes > 0 && vocabulary->n_tokens > program->config.n_vocab)
        return fail(err, SERVERD_CORRUPT, "%u tokens, the model knows %u", vocabulary->n_tokens,
                    program->config.n_vocab);
    if (vocabulary->image) /* checked when it was opened */
        return SERVERD_OK;
    serverd_status status = check_texts(vocabulary, err);
    return status == SERVERD_OK ? check_special(vocabulary, err) : status;
}

serverd_status program_check(const struct program *program, serverd_error *err)
{
    serverd_status status = check_vocabulary(program, err);
    if (status != SERVERD_OK)
        return error_context(err, "vocabulary");
    if (program->graph.n_nodes == 0)
        return SERVERD_OK;
    if ((status = check_config(program, err)) != SERVERD_OK ||
        (status = graph_check(&program->graph, err)) != SERVERD_OK ||
        (status = check_nodes(program, err)) != SERVERD_OK)
        return status;
    return check_result(program, err);
}

/* ---- look-ups ------------------------------------------------------------------------------ */

const struct program_form *program_find_form(const struct program *program, uint32_t tensor,
                                             uint32_t layout)
{
    size_t low = 0, high = program->n_forms;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct program_form *form = &program->forms[middle];
        if (form->tensor == tensor && form->layout == layout)
            return form;
        if (form->tensor < tensor || (form->tensor == tensor && form->layout < layout))
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

const struct program_template *program_find_template(const struct program *program,
                                                     const char *name)
{
    for (uint32_t i = 0; i < program->n_templates; i++)
        if (strcmp(program->templates[i].name, name) == 0)
            return &program->templates[i];
    return NULL;
}

void program_forget_tensor(const struct program *program, uint32_t tensor)
{
    const serverd_tensor *t = &program->graph.tensors[tensor];
    for (uint32_t i = 0; i < program->n_mappings; i++)
        mapping_forget(&program->mappings[i], t->data, t->bytes);
}

/* A file in memory without a name. */
static void *map_nameless(size_t bytes)
{
    void *data = MAP_FAILED;
    int fd = memfd_create("tensors", MFD_CLOEXEC);
    if (fd >= 0 && ftruncate(fd, (off_t)bytes) == 0)
        data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0)
        (void)close(fd);
    return data == MAP_FAILED ? NULL : data;
}

serverd_status program_add_store(struct program *program, size_t bytes, uint8_t **out,
                                 serverd_error *err)
{
    struct mapping *mappings =
        arena_array(program->arena, program->n_mappings + 1u, sizeof *mappings);
    void *data = mappings ? map_nameless(bytes) : NULL;
    if (!data)
        return fail(err, SERVERD_NOMEM, "no memory for %zu bytes of tensors", bytes);
    if (program->n_mappings > 0)
        memcpy(mappings, program->mappings, program->n_mappings * sizeof *mappings);
    mappings[program->n_mappings++] = (struct mapping){data, bytes};
    program->mappings = mappings;
    *out = data;
    return SERVERD_OK;
}

int64_t program_find_tensor(const struct program *program, const char *name)
{
    for (uint32_t i = 0; i < program->graph.n_tensors; i++)
        if (strcmp(program->graph.tensors[i].name, name) == 0)
            return i;
    return -1;
}
