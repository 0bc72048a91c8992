#include "quantise/policy_internal.h"

#include "base/error.h"
#include "base/file.h"
#include "base/hint.h"
#include "base/limits.h"
#include "program/op.h"
#include "quantise/grid.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- words ----------------------------------------------------------------------------------- */

static const char *const kind_names[KIND_COUNT] = {"embed",  "head",     "attn_q",      "attn_k",
                                                   "attn_v", "attn_qkv", "attn_output", "ffn_gate",
                                                   "ffn_up", "ffn_down", "other"};

const char *tensor_kind_name(enum tensor_kind kind)
{
    return kind < KIND_COUNT ? kind_names[kind] : "none";
}

static const struct {
    const char *name;
    unsigned method;
} methods[] = {{"minmax", METHOD_MINMAX},
               {"plain", METHOD_PLAIN},
               {"awq", METHOD_AWQ},
               {"gptq", METHOD_GPTQ},
               {"scale", METHOD_SCALE}};

static const struct {
    const char *name, *means;
} presets[] = {{"int8", "i8s:g64:plain"},
               {"int4", "i4a:g64:plain"},
               {"int4-best", "i4a:g64:awq+gptq+scale"},
               {"fp8", "f8:g128:plain"}};

static bool is_word(const char *word, const char *text, size_t n)
{
    return strlen(word) == n && memcmp(word, text, n) == 0;
}

/* The error for a word that is none of those offered to the hint. */
static serverd_status unknown_word(const char *what, const char *text, size_t n,
                                   const struct hint *hint, serverd_error *err)
{
    if (hint->best)
        return fail(err, SERVERD_INVALID, "unknown %s %.*s, is %.*s meant?", what,
                    (int)(n < 64 ? n : 64), text, (int)hint->n_best, hint->best);
    return fail(err, SERVERD_INVALID, "unknown %s %.*s", what, (int)(n < 64 ? n : 64), text);
}

/* A copy with an end, for hints; what is longer than any word is cut. */
static void copy_word(const char *text, size_t n, char out[64])
{
    (void)snprintf(out, 64, "%.*s", (int)(n < 63 ? n : 63), text);
}

serverd_status policy_parse_format(const char *text, size_t n, struct quantise_choice *out,
                                   serverd_error *err)
{
    if (is_word("keep", text, n)) {
        *out = (struct quantise_choice){0};
        return SERVERD_OK;
    }
    if (grid_format_find(text, n, &out->format))
        return SERVERD_OK;
    char word[64];
    copy_word(text, n, word);
    struct hint hint = hint_for(word);
    hint_consider(&hint, "keep", 4);
    for (uint32_t f = FORMAT_I8S; f <= FORMAT_LIMIT; f++) {
        const char *name = grid_format_name(f == FORMAT_LIMIT ? (uint32_t)DTYPE_MXFP4 : f);
        hint_consider(&hint, name, strlen(name));
    }
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++)
        hint_consider(&hint, presets[i].name, strlen(presets[i].name));
    return unknown_word("format", text, n, &hint, err);
}

serverd_status policy_parse_group(const char *text, size_t n, struct quantise_choice *out,
                                  serverd_error *err)
{
    static const struct {
        const char *name;
        uint32_t group;
    } groups[] = {{"32", 32}, {"64", 64}, {"128", 128}, {"row", 128}};
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++)
        if (is_word(groups[i].name, text, n)) {
            out->group = groups[i].group;
            out->one_scale = i == 3;
            return SERVERD_OK;
        }
    return fail(err, SERVERD_INVALID, "group is %.*s, 32, 64, 128 and row are allowed",
                (int)(n < 32 ? n : 32), text);
}

serverd_status policy_parse_methods(const char *text, size_t n, struct quantise_choice *out,
                                    serverd_error *err)
{
    out->methods = 0;
    for (size_t at = 0; at <= n;) {
        const char *plus = memchr(text + at, '+', n - at);
        size_t len = plus ? (size_t)(plus - text) - at : n - at;
        unsigned method = 0;
        for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
            if (is_word(methods[i].name, text + at, len))
                method = methods[i].method;
        if (!method) {
            char word[64];
            copy_word(text + at, len, word);
            struct hint hint = hint_for(word);
            for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
                hint_consider(&hint, methods[i].name, strlen(methods[i].name));
            return unknown_word("method", text + at, len, &hint, err);
        }
        out->methods |= method;
        at += len + 1;
    }
    return SERVERD_OK;
}

serverd_status policy_parse_kind(const char *text, size_t n, int *out, serverd_error *err)
{
    char word[64];
    copy_word(text, n, word);
    struct hint hint = hint_for(word);
    for (int i = 0; i < KIND_COUNT; i++) {
        if (is_word(kind_names[i], text, n)) {
            *out = i;
            return SERVERD_OK;
        }
        hint_consider(&hint, kind_names[i], strlen(kind_names[i]));
    }
    return unknown_word("kind", text, n, &hint, err);
}

serverd_status policy_parse_match(const char *text, size_t n, pcre2_code **out, serverd_error *err)
{
    int code;
    PCRE2_SIZE offset;
    *out = pcre2_compile((PCRE2_SPTR)text, n, PCRE2_NEVER_BACKSLASH_C, &code, &offset, NULL);
    if (*out)
        return SERVERD_OK;
    PCRE2_UCHAR message[128] = {0};
    (void)pcre2_get_error_message(code, message, sizeof message);
    return fail(err, SERVERD_INVALID, "match: %s at character %zu", (const char *)message,
                (size_t)offset + 1);
}

serverd_status policy_complete(struct quantise_choice *choice, serverd_error *err)
{
    if (choice->format == 0) {
        *choice = (struct quantise_choice){0};
        return SERVERD_OK;
    }
    if (choice->format == DTYPE_MXFP4) {
        if (choice->one_scale || (choice->group != 0 && choice->group != 32))
            return fail(err, SERVERD_INVALID, "mxfp4 has groups of 32");
        choice->group = 32;
    }
    if (choice->group == 0)
        choice->group = choice->format == FORMAT_F8 ? 128 : 64;
    if (!(choice->methods & (METHOD_MINMAX | METHOD_PLAIN)))
        choice->methods |= METHOD_PLAIN;
    if ((choice->methods & METHOD_MINMAX) && (choice->methods & METHOD_PLAIN))
        return fail(err, SERVERD_INVALID, "minmax and plain exclude each other");
    if (choice->one_scale && (choice->methods & METHOD_SCALE))
        return fail(err, SERVERD_INVALID,
                    "scale gives each group a scale of its own, not each row");
    return SERVERD_OK;
}

/* FORMAT[:gN][:METHOD+METHOD] */
static serverd_status parse_choice(const char *text, struct quantise_choice *out,
                                   serverd_error *err)
{
    size_t n = strcspn(text, ":");
    *out = (struct quantise_choice){0};
    serverd_status status = policy_parse_format(text, n, out, err);
    bool has_group = false, has_methods = false;
    while (status == SERVERD_OK && text[n] == ':') {
        text += n + 1;
        n = strcspn(text, ":");
        if (!has_group && !has_methods && (text[0] == 'g' || is_word("row", text, n)) &&
            (n < 2 || text[1] != 'p')) {
            size_t skip = text[0] == 'g';
            status = policy_parse_group(text + skip, n - skip, out, err);
            has_group = true;
        } else if (!has_methods) {
            status = policy_parse_methods(text, n, out, err);
            has_methods = true;
        } else {
            return fail(err, SERVERD_INVALID, "%.*s is too much", (int)(n < 64 ? n : 64), text);
        }
    }
    return status == SERVERD_OK ? policy_complete(out, err) : status;
}

/* ---- the policy ------------------------------------------------------------------------------ */

serverd_status policy_add(struct quantise_policy *policy, const struct policy_rule *rule,
                          serverd_error *err)
{
    if (policy->n >= LIMIT_QUANTISE_RULES)
        return fail(err, SERVERD_INVALID, "more than %u rules", LIMIT_QUANTISE_RULES);
    struct policy_rule *grown = realloc(policy->rules, (policy->n + 1) * sizeof *grown);
    if (!grown)
        return fail(err, SERVERD_NOMEM, "no memory for a rule");
    policy->rules = grown;
    policy->rules[policy->n++] = *rule;
    return SERVERD_OK;
}

/* Embedding and head in 8 bits, all other matrices as said. */
static serverd_status add_simple(struct quantise_policy *policy, const char *text,
                                 serverd_error *err)
{
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++)
        if (strcmp(presets[i].name, text) == 0)
            text = presets[i].means;
    struct policy_rule all = {.kind = -1};
    serverd_status status = parse_choice(text, &all.choice, err);
    const struct quantise_choice wide = {
        .format = FORMAT_I8S, .group = 64, .methods = METHOD_PLAIN};
    if (status != SERVERD_OK || all.choice.format == 0)
        return status;
    for (int kind = KIND_EMBED; kind <= KIND_HEAD && status == SERVERD_OK; kind++) {
        const struct policy_rule rule = {.kind = kind, .choice = wide};
        status = policy_add(policy, &rule, err);
    }
    return status == SERVERD_OK ? policy_add(policy, &all, err) : status;
}

static bool has_end(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n > m && strcmp(text + n - m, end) == 0;
}

serverd_status policy_parse_rules(const char *yaml, size_t n, const char *path,
                                  struct quantise_policy **out, serverd_error *err)
{
    struct quantise_policy *policy = calloc(1, sizeof *policy);
    if (!policy)
        return fail(err, SERVERD_NOMEM, "no memory for a policy");
    serverd_status status = policy_read_yaml(yaml, n, path, policy, err);
    if (status == SERVERD_OK)
        *out = policy;
    else
        policy_destroy(policy);
    return status;
}

static serverd_status read_rules_file(const char *path, struct quantise_policy **out,
                                      serverd_error *err)
{
    char *text;
    size_t n;
    serverd_status status = file_read(path, LIMIT_CONFIG_BYTES, &text, &n, err);
    if (status != SERVERD_OK)
        return status;
    status = policy_parse_rules(text, n, path, out, err);
    free(text);
    return status;
}

serverd_status policy_create(const char *text, struct quantise_policy **out, serverd_error *err)
{
    if (has_end(text, ".yaml") || has_end(text, ".yml"))
        return read_rules_file(text, out, err);
    struct quantise_policy *policy = calloc(1, sizeof *policy);
    if (!policy)
        return fail(err, SERVERD_NOMEM, "no memory for a policy");
    serverd_status status = add_simple(policy, text, err);
    if (status == SERVERD_OK)
        *out = policy;
    else
        policy_destroy(policy);
    return status;
}

void policy_destroy(struct quantise_policy *policy)
{
    if (!policy)
        return;
    for (uint32_t i = 0; i < policy->n; i++)
        pcre2_code_free(policy->rules[i].match);
    free(policy->rules);
    free(policy);
}

bool policy_keeps_all(const struct quantise_policy *policy)
{
    for (uint32_t i = 0; i < policy->n; i++)
        if (policy->rules[i].choice.format != 0)
            return false;
    return true;
}

bool policy_needs_calibration(const struct quantise_policy *policy)
{
    for (uint32_t i = 0; i < policy->n; i++)
        if (policy->rules[i].choice.methods & METHOD_CALIBRATED)
            return true;
    return false;
}

#define MATCH_LIMIT 100000u /* of steps of the expression on one name */

static serverd_status matches(const struct policy_rule *rule, const char *name, bool *out,
                              serverd_error *err)
{
    *out = true;
    if (!rule->match)
        return SERVERD_OK;
    pcre2_match_data *data = pcre2_match_data_create(1, NULL);
    pcre2_match_context *limits = pcre2_match_context_create(NULL);
    int found = PCRE2_ERROR_NOMEMORY;
    if (data && limits) {
        (void)pcre2_set_match_limit(limits, MATCH_LIMIT);
        found = pcre2_match(rule->match, (PCRE2_SPTR)name, strlen(name), 0, 0, data, limits);
    }
    pcre2_match_data_free(data);
    pcre2_match_context_free(limits);
    *out = found >= 0;
    if (found >= 0 || found == PCRE2_ERROR_NOMATCH)
        return SERVERD_OK;
    return fail(err, SERVERD_INVALID, "match: the expression takes too long on %s", name);
}

serverd_status policy_choose(const struct quantise_policy *policy, const char *name,
                             enum tensor_kind kind, struct quantise_choice *out, serverd_error *err)
{
    *out = (struct quantise_choice){0};
    for (uint32_t i = 0; i < policy->n; i++) {
        const struct policy_rule *rule = &policy->rules[i];
        bool fits = false;
        if (rule->kind >= 0 && rule->kind != (int)kind)
            continue;
        serverd_status status = matches(rule, name, &fits, err);
        if (status != SERVERD_OK)
            return status;
        if (fits) {
            *out = rule->choice;
            return SERVERD_OK;
        }
    }
    return SERVERD_OK;
}

/* ---- kinds ----------------------------------------------------------------------------------- */

static enum tensor_kind kind_of_name(const char *name)
{
    const char *at = strncmp(name, "blk.", 4) == 0 ? strchr(name + 4, '.') : NULL;
    at = at ? at + 1 : name;
    size_t n = strcspn(at, ".");
    for (int kind = KIND_ATTN_Q; kind < KIND_OTHER; kind++)
        if (is_word(kind_names[kind], at, n))
            return (enum tensor_kind)kind;
    return KIND_OTHER;
}

/* The linear layer that makes logits, through nodes that change nothing but numbers. */
static uint32_t find_head(const serverd_graph *graph)
{
    uint32_t value = graph->output;
    while (graph->values[value].kind == SERVERD_VALUE_ACTIVATION) {
        const serverd_node *node = &graph->nodes[graph->values[value].producer];
        if (node->op == SERVERD_OP_LINEAR)
            return graph->values[value].producer;
        if (node->op != SERVERD_OP_SOFTCAP && node->op != SERVERD_OP_SCALE)
            break;
        value = graph->operands[node->first_operand];
    }
    return UINT32_MAX;
}

void find_tensor_kinds(const serverd_graph *graph, uint8_t *kind)
{
    const uint32_t head = find_head(graph);
    memset(kind, KIND_COUNT, graph->n_tensors);
    for (uint32_t i = 0; i < graph->n_nodes; i++) {
        const serverd_node *node = &graph->nodes[i];
        if (node->op == SERVERD_OP_EMBED) {
            uint8_t *k = &kind[node_input(graph, node, 0)->tensor];
            *k = *k == KIND_COUNT ? KIND_EMBED : *k;
        } else if (node->op == SERVERD_OP_LINEAR) {
            uint32_t tensor = node_input(graph, node, 1)->tensor;
            kind[tensor] =
                (uint8_t)(i == head ? KIND_HEAD : kind_of_name(graph->tensors[tensor].name));
        }
    }
}
