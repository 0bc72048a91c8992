#include "compiler/hf_names.h"

#include <stdio.h>
#include <string.h>

struct name_row {
    const char *from, *to;
};

/* A class's names; each list ends with an empty row. */
struct name_table {
    const char *prefixes[6]; /* one of them is in front of a name; the longest that fits */
    const char *layers;      /* what stands before the number of a layer */
    const struct name_row *model, *layer;
    const char *unused[6]; /* beginnings */
};

static const struct name_row decoder_model[] = {
    {"embed_tokens", "token_embd"}, {"norm", "output_norm"}, {"lm_head", "output"}, {0}};

#define DECODER_LAYER                                                                              \
    {"input_layernorm", "attn_norm"}, {"self_attn.q_proj", "attn_q"},                              \
        {"self_attn.k_proj", "attn_k"}, {"self_attn.v_proj", "attn_v"},                            \
        {"self_attn.qkv_proj", "attn_qkv"}, {"self_attn.o_proj", "attn_output"},                   \
        {"self_attn.q_norm", "attn_q_norm"}, {"self_attn.k_norm", "attn_k_norm"},                  \
        {"mlp.gate_proj", "ffn_gate"}, {"mlp.up_proj", "ffn_up"}, {"mlp.gate_up_proj", "ffn_up"},  \
    {                                                                                              \
        "mlp.down_proj", "ffn_down"                                                                \
    }

static const struct name_row pre_norm_layer[] = {
    DECODER_LAYER, {"post_attention_layernorm", "ffn_norm"}, {0}};

static const struct name_row sandwich_layer[] = {
    DECODER_LAYER,
    {"post_attention_layernorm", "post_attention_norm"},
    {"pre_feedforward_layernorm", "ffn_norm"},
    {"post_feedforward_layernorm", "post_ffw_norm"},
    {0}};

#define BERT_MODEL                                                                                 \
    {"embeddings.word_embeddings", "token_embd"},                                                  \
        {"embeddings.position_embeddings", "position_embd"},                                       \
        {"embeddings.token_type_embeddings", "token_types"},                                       \
    {                                                                                              \
        "embeddings.LayerNorm", "token_embd_norm"                                                  \
    }

static const struct name_row bert_model[] = {BERT_MODEL, {0}};
static const struct name_row bert_scores[] = {
    BERT_MODEL, {"pooler.dense", "cls"}, {"classifier", "cls.output"}, {0}};
static const struct name_row roberta_scores[] = {
    BERT_MODEL, {"classifier.dense", "cls"}, {"classifier.out_proj", "cls.output"}, {0}};

static const struct name_row bert_layer[] = {{"attention.self.query", "attn_q"},
                                             {"attention.self.key", "attn_k"},
                                             {"attention.self.value", "attn_v"},
                                             {"attention.output.dense", "attn_output"},
                                             {"attention.output.LayerNorm", "attn_output_norm"},
                                             {"intermediate.dense", "ffn_up"},
                                             {"output.dense", "ffn_down"},
                                             {"output.LayerNorm", "layer_output_norm"},
                                             {0}};

static const struct name_table pre_norm = {
    {"model."}, "layers.", decoder_model, pre_norm_layer, {0}};
static const struct name_table sandwich = {
    {"model."}, "layers.", decoder_model, sandwich_layer, {0}};

/* The text part of a model that sees, too. */
#define TEXT_PREFIXES                                                                              \
    {                                                                                              \
        "model.language_model.", "language_model.model.", "language_model.", "model."              \
    }
#define VISION_PARTS                                                                               \
    {                                                                                              \
        "vision_tower.", "model.vision_tower.", "multi_modal_projector.",                          \
            "model.multi_modal_projector."                                                         \
    }
static const struct name_table pre_norm_of_many = {TEXT_PREFIXES, "layers.", decoder_model,
                                                   pre_norm_layer, VISION_PARTS};
static const struct name_table sandwich_of_many = {TEXT_PREFIXES, "layers.", decoder_model,
                                                   sandwich_layer, VISION_PARTS};
static const struct name_table bert = {
    {"bert.", "roberta."}, "encoder.layer.", bert_model, bert_layer, {"pooler."}};
static const struct name_table bert_pairs = {
    {"bert."}, "encoder.layer.", bert_scores, bert_layer, {0}};
static const struct name_table roberta_pairs = {
    {"roberta."}, "encoder.layer.", roberta_scores, bert_layer, {"pooler."}};

static const struct name_table *table_of(const struct hf_class *class)
{
    if (class->has_scores)
        return class->pads_positions ? &roberta_pairs : &bert_pairs;
    if (class->is_encoder)
        return &bert;
    if (class->has_text_config)
        return class->has_unit_norms ? &sandwich_of_many : &pre_norm_of_many;
    return class->has_unit_norms ? &sandwich : &pre_norm;
}

static bool begins_with(const char *name, const char *beginning)
{
    return strncmp(name, beginning, strlen(beginning)) == 0;
}

static bool ends_with(const char *name, const char *end)
{
    size_t len = strlen(name), n = strlen(end);
    return len >= n && strcmp(name + len - n, end) == 0;
}

static const char *without_prefix(const struct name_table *table, const char *name)
{
    for (size_t i = 0; table->prefixes[i]; i++)
        if (begins_with(name, table->prefixes[i]))
            return name + strlen(table->prefixes[i]);
    return name;
}

static bool is_unused(const struct name_table *table, bool is_tied, const char *name,
                      const char *bare)
{
    if (ends_with(name, ".position_ids") || ends_with(name, ".inv_freq"))
        return true;
    for (size_t i = 0; table->unused[i]; i++)
        if (begins_with(name, table->unused[i]) || begins_with(bare, table->unused[i]))
            return true;
    return is_tied && strcmp(bare, "lm_head.weight") == 0;
}

/* Skips a layer's number without leading zeros and the dot behind it; NULL: there is none. */
static const char *read_layer(const char *s, unsigned *layer)
{
    unsigned n = 0, digits = 0;
    for (; s[digits] >= '0' && s[digits] <= '9' && digits < 5; digits++)
        n = n * 10 + (unsigned)(s[digits] - '0');
    if (digits == 0 || s[digits] != '.' || (digits > 1 && s[0] == '0'))
        return NULL;
    *layer = n;
    return s + digits + 1;
}

/* "weight" or "bias", also by the names that the first BERT files have. */
static const char *canonical_suffix(const char *suffix)
{
    static const struct name_row rows[] = {
        {"weight", "weight"}, {"bias", "bias"}, {"gamma", "weight"}, {"beta", "bias"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (strcmp(rows[i].from, suffix) == 0)
            return rows[i].to;
    return NULL;
}

static const char *find_module(const struct name_row *rows, const char *module, size_t n)
{
    for (; rows->from; rows++)
        if (strlen(rows->from) == n && strncmp(rows->from, module, n) == 0)
            return rows->to;
    return NULL;
}

enum hf_name hf_canonical_name(const struct hf_class *class, bool is_tied, const char *name,
                               char out[HF_NAME_BYTES])
{
    const struct name_table *table = table_of(class);
    const char *bare = without_prefix(table, name);
    if (is_unused(table, is_tied, name, bare))
        return HF_NAME_UNUSED;
    unsigned layer = 0;
    const char *in_layer = NULL;
    if (begins_with(bare, table->layers))
        in_layer = read_layer(bare + strlen(table->layers), &layer);
    const char *module = in_layer ? in_layer : bare, *point = strrchr(module, '.');
    if (!point)
        return HF_NAME_UNKNOWN;
    const char *suffix = canonical_suffix(point + 1);
    const char *to =
        find_module(in_layer ? table->layer : table->model, module, (size_t)(point - module));
    if (!suffix || !to)
        return HF_NAME_UNKNOWN;
    if (in_layer)
        (void)snprintf(out, HF_NAME_BYTES, "blk.%u.%s.%s", layer, to, suffix);
    else
        (void)snprintf(out, HF_NAME_BYTES, "%s.%s", to, suffix);
    return HF_NAME_KNOWN;
}
