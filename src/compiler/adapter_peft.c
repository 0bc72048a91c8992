/* Adapters in PEFT's folders: adapter_config.json and adapter_model.safetensors, whose tensors are
 * base_model.model.MODULE.lora_A.weight [rank][n_in] and lora_B.weight [n_out][rank]. The scale of
 * a module is alpha / rank, or alpha / sqrt(rank) with use_rslora, both by pattern if one fits.
 * fan_in_fan_out is about the base's matrix alone: A and B stand the same way. Rows of Q and K
 * stand for rope on halves.
 *
 * What changes the result and is not done here is refused by name: DoRA, biases, modules that are
 * saved whole, methods that change the base, members of later versions that say something. */
#include "compiler/adapter_internal.h"

#include "base/error.h"
#include "base/limits.h"
#include "compiler/hf_names.h"
#include "compiler/json_file.h"
#include "compiler/safetensors.h"
#include "program/dtype.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

enum { PATH_BYTES = 4096, MODULE_BYTES = 512, MATCH_STEPS = 10000, MATCH_DEPTH = 1000 };

/* Expressions held against names in all: more are no adapter that anybody made. */
enum { MAX_MATCHES = 65536 };

struct peft {
    const char *folder;
    struct json_place config;
    const struct program *base;
    double rank, alpha;
    bool is_rs;
    uint32_t n_matches;
    struct adapter_source *out;
};

/* ---- the configuration ------------------------------------------------------------------------
 */

/* Members that are read here, or say nothing about the result. */
static const char *const known_members[] = {"peft_type",
                                            "r",
                                            "lora_alpha",
                                            "use_rslora",
                                            "rank_pattern",
                                            "alpha_pattern",
                                            "layers_to_transform",
                                            "bias",
                                            "init_lora_weights",
                                            "fan_in_fan_out",
                                            "layers_pattern",
                                            "target_modules",
                                            "exclude_modules",
                                            "lora_dropout",
                                            "base_model_name_or_path",
                                            "revision",
                                            "task_type",
                                            "inference_mode",
                                            "auto_mapping",
                                            "peft_version",
                                            "megatron_config",
                                            "megatron_core",
                                            "loftq_config",
                                            "eva_config",
                                            "corda_config",
                                            "lora_ga_config",
                                            "runtime_config",
                                            "qalora_group_size",
                                            "ensure_weight_tying"};

static bool is_known(const char *name)
{
    for (size_t i = 0; i < sizeof known_members / sizeof *known_members; i++)
        if (strcmp(known_members[i], name) == 0)
            return true;
    return false;
}

static bool says_nothing(const json_t *value)
{
    return json_is_null(value) || json_is_false(value) ||
           (json_is_array(value) && json_array_size(value) == 0) ||
           (json_is_object(value) && json_object_size(value) == 0);
}

static serverd_status check_members(const struct peft *peft, serverd_error *err)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)peft->config.object, name, value)
    {
        if (!is_known(name) && !says_nothing(value))
            return fail(err, SERVERD_UNSUPPORTED, "%s: %.100s: not supported", peft->config.file,
                        name);
    }
    return SERVERD_OK;
}

/* Some ways to begin take something off the base's matrices, which the adapter then belongs to. */
static serverd_status check_beginning(const struct peft *peft, serverd_error *err)
{
    static const char *const harmless[] = {"gaussian", "eva", "orthogonal", "default"};
    const json_t *value = json_place_get(&peft->config, "init_lora_weights");
    const char *text = json_string_value(value);
    if (!value || json_is_boolean(value))
        return SERVERD_OK;
    for (size_t i = 0; text && i < sizeof harmless / sizeof *harmless; i++)
        if (strcmp(text, harmless[i]) == 0)
            return SERVERD_OK;
    return fail(err, SERVERD_UNSUPPORTED,
                "%s: init_lora_weights: \"%.64s\" changes the base; convert the adapter to plain "
                "LoRA when it is saved",
                peft->config.file, text ? text : "");
}

static serverd_status need_string(const struct peft *peft, const char *member, const char *needed,
                                  const char *or_none, serverd_error *err)
{
    const char *text = or_none;
    serverd_status status = json_place_string(&peft->config, member, &text, err);
    if (status == SERVERD_OK && (!text || strcmp(text, needed) != 0))
        status = fail(err, SERVERD_UNSUPPORTED, "%s: %s: \"%.64s\", \"%s\" is supported",
                      peft->config.file, member, text ? text : "", needed);
    return status;
}

static serverd_status read_config(struct peft *peft, serverd_error *err)
{
    serverd_status status;
    const struct json_place *config = &peft->config;
    if ((status = need_string(peft, "peft_type", "LORA", NULL, err)) != SERVERD_OK ||
        (status = check_members(peft, err)) != SERVERD_OK ||
        (status = need_string(peft, "bias", "none", "none", err)) != SERVERD_OK ||
        (status = check_beginning(peft, err)) != SERVERD_OK ||
        (status = json_place_need(config, "r", err)) != SERVERD_OK ||
        (status = json_place_need(config, "lora_alpha", err)) != SERVERD_OK ||
        (status = json_place_f64(config, "r", 1, LIMIT_ADAPTER_RANK, &peft->rank, err)) !=
            SERVERD_OK ||
        (status = json_place_f64(config, "lora_alpha", -FLT_MAX, FLT_MAX, &peft->alpha, err)) !=
            SERVERD_OK ||
        (status = json_place_bool(config, "use_rslora", &peft->is_rs, err)) != SERVERD_OK)
        return status;
    return SERVERD_OK;
}

/* ---- patterns ---------------------------------------------------------------------------------
 */

/* A key without anything that expressions are made of but points, which stand for themselves as a
 * rule and fit every character: most patterns have a key for each module. */
static bool is_plain(const char *key)
{
    return key[strspn(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.")] ==
           0;
}

static bool fits_plain(const char *key, const char *module)
{
    size_t n = strlen(key), len = strlen(module);
    if (n > len || (n < len && module[len - n - 1] != '.'))
        return false;
    for (size_t i = 0; i < n; i++)
        if (key[i] != '.' && key[i] != module[len - n + i])
            return false;
    return true;
}

/* A key fits the end of a module's path, from its beginning or from behind a point. It is an
 * expression that somebody else wrote: its steps are counted. */
static serverd_status fits(struct peft *peft, const char *key, const char *module, bool *out,
                           serverd_error *err)
{
    if (is_plain(key)) {
        *out = fits_plain(key, module);
        return SERVERD_OK;
    }
    if (peft->n_matches++ == MAX_MATCHES)
        return fail(err, SERVERD_CORRUPT, "%s: too many patterns for so many modules",
                    peft->config.file);
    char expression[MODULE_BYTES + 32];
    int code, n = snprintf(expression, sizeof expression, "^(?:.*\\.)?(?:%s)$", key);
    PCRE2_SIZE at;
    if (n < 0 || (size_t)n >= sizeof expression)
        return fail(err, SERVERD_CORRUPT, "%s: a pattern of %zu bytes, at most %d are possible",
                    peft->config.file, strlen(key), MODULE_BYTES);
    pcre2_code *compiled =
        pcre2_compile((PCRE2_SPTR)expression, PCRE2_ZERO_TERMINATED, 0, &code, &at, NULL);
    if (!compiled)
        return fail(err, SERVERD_CORRUPT, "%s: \"%.100s\" is no pattern", peft->config.file, key);
    pcre2_match_data *data = pcre2_match_data_create(1, NULL);
    pcre2_match_context *limits = pcre2_match_context_create(NULL);
    int found = PCRE2_ERROR_NOMEMORY;
    if (data && limits) {
        (void)pcre2_set_match_limit(limits, MATCH_STEPS);
        (void)pcre2_set_depth_limit(limits, MATCH_DEPTH);
        found = pcre2_match(compiled, (PCRE2_SPTR)module, strlen(module), 0, 0, data, limits);
    }
    pcre2_match_context_free(limits);
    pcre2_match_data_free(data);
    pcre2_code_free(compiled);
    if (found < 0 && found != PCRE2_ERROR_NOMATCH)
        return fail(err, found == PCRE2_ERROR_NOMEMORY ? SERVERD_NOMEM : SERVERD_CORRUPT,
                    "%s: \"%.100s\" cannot be held against a name", peft->config.file, key);
    *out = found >= 0;
    return SERVERD_OK;
}

/* The value of the first key of a pattern that fits the module; *out stays as it is if none does.
 */
static serverd_status read_pattern(struct peft *peft, const char *member, const char *module,
                                   double least, double most, double *out, serverd_error *err)
{
    struct json_place pattern = {.file = peft->config.file, .where = member};
    serverd_status status = json_place_object(&peft->config, member, &pattern, err);
    if (status != SERVERD_OK || !pattern.object)
        return status;
    if (json_object_size(pattern.object) > LIMIT_ADAPTER_PATTERNS)
        return fail(err, SERVERD_CORRUPT, "%s: %s: %zu members, at most %u are possible",
                    peft->config.file, member, json_object_size(pattern.object),
                    LIMIT_ADAPTER_PATTERNS);
    pattern.where = member;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)pattern.object, key, value)
    {
        bool is_fitting = false;
        if ((status = fits(peft, key, module, &is_fitting, err)) != SERVERD_OK)
            return status;
        if (is_fitting)
            return json_place_f64(&pattern, key, least, most, out, err);
    }
    return SERVERD_OK;
}

static bool is_number(const json_t *value, unsigned layer)
{
    return json_is_integer(value) && json_integer_value(value) == (json_int_t)layer;
}

/* With layers_to_transform no other layer has tensors. */
static serverd_status check_layer(const struct peft *peft, const char *tensor, const char *module,
                                  serverd_error *err)
{
    const json_t *layers = json_place_get(&peft->config, "layers_to_transform");
    unsigned layer;
    if (!layers || sscanf(tensor, "blk.%u.", &layer) != 1)
        return SERVERD_OK;
    if (!json_is_integer(layers) && !json_is_array(layers))
        return json_place_fail(&peft->config, "layers_to_transform", "a layer, or an array of them",
                               err);
    bool is_listed = is_number(layers, layer);
    for (size_t i = 0; i < json_array_size(layers) && !is_listed; i++)
        is_listed = is_number(json_array_get(layers, i), layer);
    return is_listed || (json_is_array(layers) && json_array_size(layers) == 0)
               ? SERVERD_OK
               : fail(err, SERVERD_CORRUPT, "%s: %s: layer %u is not in layers_to_transform",
                      peft->config.file, module, layer);
}

/* ---- tensors ----------------------------------------------------------------------------------
 */

/* What stands behind a module's path. */
enum part { PART_A, PART_B, PART_REFUSED };
static const struct part_row {
    const char *end;
    enum part part;
    const char *why;
} parts[] = {{".lora_A.weight", PART_A, NULL},
             {".lora_B.weight", PART_B, NULL},
             {".lora_A.default.weight", PART_A, NULL},
             {".lora_B.default.weight", PART_B, NULL},
             {".lora_magnitude_vector", PART_REFUSED, "DoRA"},
             {".lora_magnitude_vector.weight", PART_REFUSED, "DoRA"},
             {".lora_magnitude_vector.default.weight", PART_REFUSED, "DoRA"},
             {".lora_embedding_A", PART_REFUSED, "an adapter of an embedding"},
             {".lora_embedding_B", PART_REFUSED, "an adapter of an embedding"},
             {".lora_A.bias", PART_REFUSED, "a bias"},
             {".lora_B.bias", PART_REFUSED, "a bias"}};

static const struct part_row *find_part(const char *name)
{
    size_t len = strlen(name);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        size_t n = strlen(parts[i].end);
        if (len > n && strcmp(name + len - n, parts[i].end) == 0)
            return &parts[i];
    }
    return NULL;
}

/* The path of the module in the base's class; false: it is too long, or no tensor of an adapter. */
static bool module_of(const char *name, const struct part_row *part, char out[MODULE_BYTES])
{
    static const char beginning[] = "base_model.model.";
    size_t skipped = sizeof beginning - 1, n = strlen(name) - strlen(part->end);
    if (strncmp(name, beginning, skipped) != 0 || n <= skipped || n - skipped >= MODULE_BYTES)
        return false;
    memcpy(out, name + skipped, n - skipped);
    out[n - skipped] = '\0';
    return true;
}

/* The canonical name of the module's matrix. */
static serverd_status canonical_name(const struct peft *peft, const char *module,
                                     char out[HF_NAME_BYTES], serverd_error *err)
{
    char name[MODULE_BYTES + 8];
    const struct hf_class *class;
    (void)snprintf(name, sizeof name, "%s.weight", module);
    for (uint32_t i = 0; (class = hf_class_of_arch(peft->base->config.architecture, i)); i++)
        if (hf_canonical_name(class, false, name, out) == HF_NAME_KNOWN)
            return SERVERD_OK;
    return fail(err, SERVERD_UNSUPPORTED, "%s: module %.200s is not known in models of %s",
                peft->out->source.keys.path, module, peft->base->config.architecture);
}

static serverd_status set_scale(struct peft *peft, struct adapter_pair *pair, serverd_error *err)
{
    double rank = peft->rank, alpha = peft->alpha;
    serverd_status status =
        read_pattern(peft, "rank_pattern", pair->module, 1, LIMIT_ADAPTER_RANK, &rank, err);
    if (status == SERVERD_OK)
        status = read_pattern(peft, "alpha_pattern", pair->module, -FLT_MAX, FLT_MAX, &alpha, err);
    if (status != SERVERD_OK)
        return status;
    if (pair->a->rank == 2 && (double)pair->a->dims[0] != rank)
        return fail(err, SERVERD_CORRUPT, "%s: %s: rank %.0f, its A has %llu rows",
                    peft->config.file, pair->module, rank, (unsigned long long)pair->a->dims[0]);
    pair->scale = alpha / (peft->is_rs ? sqrt(rank) : rank);
    return SERVERD_OK;
}

static serverd_status add_tensor(struct peft *peft, const struct source_tensor *tensor,
                                 serverd_error *err)
{
    char module[MODULE_BYTES], name[HF_NAME_BYTES];
    const char *path = peft->out->source.keys.path;
    const struct part_row *part = find_part(tensor->name);
    if (part && part->part == PART_REFUSED)
        return fail(err, SERVERD_UNSUPPORTED, "%s: tensor %.200s: %s is not supported", path,
                    tensor->name, part->why);
    if (!part || !module_of(tensor->name, part, module))
        return fail(err, SERVERD_UNSUPPORTED,
                    "%s: tensor %.200s is not called "
                    "base_model.model.MODULE.lora_A.weight or lora_B.weight",
                    path, tensor->name);
    serverd_status status = canonical_name(peft, module, name, err);
    if (status != SERVERD_OK || (status = check_layer(peft, name, module, err)) != SERVERD_OK)
        return status;
    struct adapter_pair *pair;
    if ((status = adapter_pair_of(peft->out, name, module, &pair, err)) != SERVERD_OK)
        return status;
    const struct source_tensor **at = part->part == PART_A ? &pair->a : &pair->b;
    if (*at)
        return fail(err, SERVERD_CORRUPT, "%s: tensor %.200s: %s is there twice", path,
                    tensor->name, pair->tensor);
    *at = tensor;
    return part->part == PART_A ? set_scale(peft, pair, err) : SERVERD_OK;
}

/* ---- the file ---------------------------------------------------------------------------------
 */

static serverd_status convert_tensor(const char *path, const struct safetensor *from,
                                     const void *data, struct source_tensor *to, serverd_error *err)
{
    static const struct {
        const char *name;
        uint32_t dtype;
    } types[] = {{"F32", DTYPE_F32}, {"F16", DTYPE_F16}, {"BF16", DTYPE_BF16}};
    *to = (struct source_tensor){.name = from->name,
                                 .dtype = UINT32_MAX,
                                 .rank = from->rank,
                                 .data = (const char *)data + from->offset,
                                 .bytes = from->bytes};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(types[i].name, from->dtype) == 0)
            to->dtype = types[i].dtype;
    if (to->dtype == UINT32_MAX)
        return fail(err, SERVERD_UNSUPPORTED,
                    "%s: tensor %.200s: type %s; F32, F16 and BF16 are supported", path, from->name,
                    from->dtype);
    for (uint32_t d = 0; d < from->rank && d < SERVERD_MAX_DIMS; d++)
        to->dims[d] = from->dims[d];
    return SERVERD_OK;
}

static serverd_status open_tensors(const char *path, struct source *source, serverd_error *err)
{
    struct file file;
    struct safetensors table;
    serverd_status status = file_open(path, &file, err);
    if (status != SERVERD_OK)
        return status;
    status = safetensors_read(path, &file, source->arena, &table, err);
    source->mappings = arena_array(source->arena, 1, sizeof *source->mappings);
    if (status == SERVERD_OK && !source->mappings)
        status = fail(err, SERVERD_NOMEM, "%s: no memory", path);
    if (status == SERVERD_OK && (status = file_map(&file, source->mappings, err)) == SERVERD_OK)
        source->n_mappings = 1;
    file_close(&file);
    if (status != SERVERD_OK)
        return status;
    source->tensors =
        arena_array(source->arena, (size_t)table.n_tensors + 1, sizeof *source->tensors);
    if (!source->tensors)
        return fail(err, SERVERD_NOMEM, "%s: no memory", path);
    for (uint32_t i = 0; i < table.n_tensors && status == SERVERD_OK; i++)
        status = convert_tensor(path, &table.tensors[i], source->mappings->data,
                                &source->tensors[source->n_tensors++], err);
    return status == SERVERD_OK ? source_sort_tensors(source, err) : status;
}

static serverd_status open_weights(const struct peft *peft, serverd_error *err)
{
    char joined[PATH_BYTES], pickle[PATH_BYTES];
    struct source *source = &peft->out->source;
    serverd_status status =
        join_path(peft->folder, "adapter_model.safetensors", sizeof joined, joined, err);
    if (status != SERVERD_OK)
        return status;
    if (!file_exists(joined) &&
        join_path(peft->folder, "adapter_model.bin", sizeof pickle, pickle, err) == SERVERD_OK &&
        file_exists(pickle))
        return fail(err, SERVERD_UNSUPPORTED,
                    "%s: pickle files can hold code; convert the adapter to safetensors", pickle);
    source->keys.path = arena_copy(source->arena, joined, strlen(joined));
    if (!source->keys.path)
        return fail(err, SERVERD_NOMEM, "%s: no memory", joined);
    return open_tensors(source->keys.path, source, err);
}

static serverd_status read_folder(struct peft *peft, serverd_error *err)
{
    serverd_status status = read_config(peft, err);
    if (status == SERVERD_OK)
        status = open_weights(peft, err);
    const struct source *source = &peft->out->source;
    for (uint32_t i = 0; status == SERVERD_OK && i < source->n_tensors; i++)
        status = add_tensor(peft, &source->tensors[i], err);
    return status;
}

serverd_status adapter_read_peft(const char *folder, const struct program *base,
                                 struct adapter_source *out, serverd_error *err)
{
    char path[PATH_BYTES];
    json_t *root;
    const struct json_bounds bounds = {LIMIT_HF_CONFIG_BYTES, LIMIT_HF_CONFIG_VALUES};
    out->rotates_halves = true;
    out->source.arena = arena_create(LIMIT_GGUF_HEADER_BYTES);
    out->source.keys.path = folder;
    if (!out->source.arena)
        return fail(err, SERVERD_NOMEM, "%s: no memory", folder);
    serverd_status status = join_path(folder, "adapter_config.json", sizeof path, path, err);
    if (status != SERVERD_OK ||
        (status = json_file_read(path, bounds, JSON_OBJECT, &root, err)) != SERVERD_OK)
        return status;
    struct peft peft = {.folder = folder,
                        .config = {.file = path, .where = "", .object = root},
                        .base = base,
                        .out = out};
    status = read_folder(&peft, err);
    json_decref(root);
    return status;
}
