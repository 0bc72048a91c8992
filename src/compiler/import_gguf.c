#include "compiler/import_gguf.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "compiler/gguf_model.h"
#include "text/pretokenizer.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

static serverd_status fail_memory(const struct source_keys *keys, const char *what,
                                  serverd_error *err)
{
    return fail(err, SERVERD_NOMEM, "%s: no memory for its %s", keys->path, what);
}

/* Copies text into a field of `size` bytes, cut at a UTF-8 border. */
static void import_text(struct source_string text, char *out, size_t size)
{
    size_t n = min_size(text.len, size - 1);
    while (n < text.len && n > 0 && ((unsigned char)text.bytes[n] & 0xc0u) == 0x80u)
        n--;
    memcpy(out, text.bytes, n);
    out[n] = '\0';
}

/* ---- the kind of tokenizer and what it implies --------------------------------------------- */

/* Values of a kind before the file's keys are read. */
struct kind_row {
    const char *model; /* tokenizer.ggml.model */
    enum vocabulary_kind kind;
    int32_t bos, eos, unknown, separator, padding, mask;
    bool adds_bos, adds_separator, adds_space_prefix, lowercases;
};

static const struct kind_row kinds[] = {
    {.model = "gpt2",
     .kind = VOCABULARY_BPE,
     .bos = 11,
     .eos = 11,
     .unknown = -1,
     .separator = -1,
     .padding = -1,
     .mask = -1},
    {.model = "gemma4",
     .kind = VOCABULARY_BPE_UTF8,
     .bos = 2,
     .eos = 1,
     .unknown = 3,
     .separator = -1,
     .padding = 0,
     .mask = -1,
     .adds_bos = true},
    {.model = "llama",
     .kind = VOCABULARY_SPM,
     .bos = 1,
     .eos = 2,
     .unknown = 0,
     .separator = -1,
     .padding = -1,
     .mask = -1,
     .adds_bos = true,
     .adds_space_prefix = true},
    {.model = "bert",
     .kind = VOCABULARY_WORDPIECE,
     .bos = 101,
     .eos = -1,
     .unknown = 100,
     .separator = 102,
     .padding = 0,
     .mask = 103,
     .adds_bos = true,
     .adds_separator = true,
     .lowercases = true},
};

static const struct kind_row *find_kind(struct source_string model)
{
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(kinds[i].model, model.bytes) == 0)
            return &kinds[i];
    return NULL;
}

static void apply_kind(const struct kind_row *row, struct vocabulary *v)
{
    v->kind = row->kind;
    v->bos = row->bos;
    v->eos = row->eos;
    v->unknown = row->unknown;
    v->separator = row->separator;
    v->padding = row->padding;
    v->mask = row->mask;
    v->adds_bos = row->adds_bos;
    v->adds_separator = row->adds_separator;
    v->adds_space_prefix = row->adds_space_prefix;
    v->lowercases = row->lowercases;
    if (row->kind == VOCABULARY_BPE && pretokenizer_adds_bos(v->pre))
        v->adds_bos = true;
}

/* ---- texts --------------------------------------------------------------------------------- */

/* All strings of a key in one run of bytes in the program's arena. */
static serverd_status copy_texts(const struct source_keys *keys, const struct source_key *key,
                                 uint32_t max_len, struct arena *arena, char **out,
                                 serverd_error *err)
{
    const struct source_string *texts = key->items;
    size_t total = 1;
    for (uint64_t i = 0; i < key->n_items; i++) {
        if (texts[i].len > max_len)
            return fail(err, SERVERD_CORRUPT,
                        "%s: key %s: item %" PRIu64 " has %u bytes, at most %u are allowed",
                        keys->path, key->name, i, texts[i].len, max_len);
        if (!size_add(total, texts[i].len, &total))
            return fail_memory(keys, "vocabulary", err);
    }
    char *bytes = arena_alloc(arena, total);
    if (!bytes)
        return fail_memory(keys, "vocabulary", err);
    *out = bytes;
    for (uint64_t i = 0; i < key->n_items; i++) {
        memcpy(bytes, texts[i].bytes, texts[i].len);
        bytes += texts[i].len;
    }
    return SERVERD_OK;
}

static serverd_status import_scores(const struct source_keys *keys, struct token_text *token,
                                    uint32_t n, serverd_error *err)
{
    serverd_status status;
    const struct source_key *key;
    if ((status = source_get_array(keys, "tokenizer.ggml.scores", SOURCE_F32, &key, err)) !=
        SERVERD_OK)
        return status;
    if (!key)
        return SERVERD_OK;
    if (key->n_items < n)
        return fail(err, SERVERD_CORRUPT, "%s: key %s: %" PRIu64 " items for %u tokens", keys->path,
                    key->name, key->n_items, n);
    for (uint32_t i = 0; i < n; i++) {
        double score = source_item_f64(key, i);
        if (isnan(score))
            return fail(err, SERVERD_CORRUPT, "%s: key %s: item %u is not a number", keys->path,
                        key->name, i);
        token[i].score = (float)score;
    }
    return SERVERD_OK;
}

static serverd_status import_types(const struct source_keys *keys, struct token_text *token,
                                   uint32_t n, serverd_error *err)
{
    for (uint32_t i = 0; i < n; i++)
        token[i].type = TOKEN_NORMAL;
    const struct source_key *key = source_find_key(keys, "tokenizer.ggml.token_type");
    if (!key)
        return SERVERD_OK;
    int64_t type;
    if (!key->is_array || key->n_items < n || (n > 0 && !source_item_i64(key, 0, &type)))
        return fail(err, SERVERD_CORRUPT,
                    "%s: key %s: found %" PRIu64 " %s, needed are %u integers", keys->path,
                    key->name, key->n_items, source_type_name(key->type), n);
    for (uint32_t i = 0; i < n; i++) {
        bool is_integer = source_item_i64(key, i, &type);
        if (!is_integer || type < 0 || type > TOKEN_BYTE)
            return fail(err, SERVERD_CORRUPT,
                        "%s: key %s: token %u has type %" PRId64 ", 0..%d is allowed", keys->path,
                        key->name, i, type, TOKEN_BYTE);
        if (type != 0) /* undefined: normal */
            token[i].type = (uint8_t)type;
    }
    return SERVERD_OK;
}

static serverd_status import_tokens(const struct source_keys *keys, struct program *program,
                                    serverd_error *err)
{
    serverd_status status;
    const struct source_key *key;
    if ((status = source_need(keys, "tokenizer.ggml.tokens", err)) != SERVERD_OK ||
        (status = source_get_array(keys, "tokenizer.ggml.tokens", SOURCE_STRING, &key, err)) !=
            SERVERD_OK)
        return status;
    if (key->n_items == 0 || key->n_items > LIMIT_VOCAB)
        return fail(err, SERVERD_CORRUPT, "%s: key %s: %" PRIu64 " tokens, 1..%u are allowed",
                    keys->path, key->name, key->n_items, LIMIT_VOCAB);
    uint32_t n = (uint32_t)key->n_items;
    struct token_text *token = arena_array(program->arena, n, sizeof *token);
    if (!token)
        return fail_memory(keys, "vocabulary", err);
    char *bytes;
    if ((status = copy_texts(keys, key, LIMIT_TOKEN_BYTES, program->arena, &bytes, err)) !=
        SERVERD_OK)
        return status;
    const struct source_string *texts = key->items;
    for (uint32_t i = 0; i < n; i++) {
        token[i].bytes = bytes;
        token[i].len = texts[i].len;
        bytes += texts[i].len;
    }
    if ((status = import_scores(keys, token, n, err)) != SERVERD_OK ||
        (status = import_types(keys, token, n, err)) != SERVERD_OK)
        return status;
    program->vocabulary.token = token;
    program->vocabulary.n_tokens = n;
    return SERVERD_OK;
}

static serverd_status import_merges(const struct source_keys *keys, struct program *program,
                                    serverd_error *err)
{
    serverd_status status;
    const struct source_key *key;
    if ((status = source_get_array(keys, "tokenizer.ggml.merges", SOURCE_STRING, &key, err)) !=
        SERVERD_OK)
        return status;
    if (!key)
        return SERVERD_OK;
    if (key->n_items > 2 * LIMIT_VOCAB)
        return fail(err, SERVERD_CORRUPT, "%s: key %s: %" PRIu64 " merges, at most %u are allowed",
                    keys->path, key->name, key->n_items, 2 * LIMIT_VOCAB);
    uint32_t n = (uint32_t)key->n_items;
    struct merge_text *merge = arena_array(program->arena, n ? n : 1, sizeof *merge);
    if (!merge)
        return fail_memory(keys, "merges", err);
    char *bytes;
    if ((status = copy_texts(keys, key, 2 * LIMIT_TOKEN_BYTES + 1, program->arena, &bytes, err)) !=
        SERVERD_OK)
        return status;
    const struct source_string *texts = key->items;
    for (uint32_t i = 0; i < n; i++) {
        merge[i] = (struct merge_text){.bytes = bytes, .len = texts[i].len};
        bytes += texts[i].len;
    }
    program->vocabulary.merge = merge;
    program->vocabulary.n_merges = n;
    return SERVERD_OK;
}

/* ---- special ids and flags ----------------------------------------------------------------- */

/* -1, signed or not, says that there is none. A default beyond the vocabulary is none too, a
 * stated id there is an error. */
static serverd_status import_id(const struct source_keys *keys, const char *name, uint32_t n_tokens,
                                int32_t *id, serverd_error *err)
{
    serverd_status status;
    const struct source_key *key = source_find_key(keys, name);
    if (!key) {
        if (*id >= (int64_t)n_tokens)
            *id = -1;
        return SERVERD_OK;
    }
    int64_t found;
    if (!key->is_array && source_item_i64(key, 0, &found) &&
        (found == -1 || (key->type == SOURCE_U32 && found == UINT32_MAX))) {
        *id = -1;
        return SERVERD_OK;
    }
    uint64_t x = 0;
    if ((status = source_get_u64(keys, name, 0, n_tokens - 1, &x, err)) != SERVERD_OK)
        return status;
    *id = (int32_t)x;
    return SERVERD_OK;
}

static serverd_status import_ids(const struct source_keys *keys, struct vocabulary *v,
                                 serverd_error *err)
{
    serverd_status status;
    v->eot = v->eom = v->cls = -1;
    v->fim_prefix = v->fim_suffix = v->fim_middle = -1;
    v->fim_pad = v->fim_repo = v->fim_separator = -1;
    struct {
        const char *name;
        int32_t *id;
    } rows[] = {
        {"tokenizer.ggml.bos_token_id", &v->bos},
        {"tokenizer.ggml.eos_token_id", &v->eos},
        {"tokenizer.ggml.eot_token_id", &v->eot},
        {"tokenizer.ggml.eom_token_id", &v->eom},
        {"tokenizer.ggml.unknown_token_id", &v->unknown},
        {"tokenizer.ggml.seperator_token_id", &v->separator}, /* spelled so in the format */
        {"tokenizer.ggml.padding_token_id", &v->padding},
        {"tokenizer.ggml.cls_token_id", &v->cls},
        {"tokenizer.ggml.mask_token_id", &v->mask},
        {"tokenizer.ggml.fim_pre_token_id", &v->fim_prefix},
        {"tokenizer.ggml.fim_suf_token_id", &v->fim_suffix},
        {"tokenizer.ggml.fim_mid_token_id", &v->fim_middle},
        {"tokenizer.ggml.fim_pad_token_id", &v->fim_pad},
        {"tokenizer.ggml.fim_rep_token_id", &v->fim_repo},
        {"tokenizer.ggml.fim_sep_token_id", &v->fim_separator},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if ((status = import_id(keys, rows[i].name, v->n_tokens, rows[i].id, err)) != SERVERD_OK)
            return status;
    if (v->kind == VOCABULARY_WORDPIECE) { /* one token under two names; either may be stated */
        if (v->cls < 0)
            v->cls = v->bos;
        else if (!source_find_key(keys, "tokenizer.ggml.bos_token_id"))
            v->bos = v->cls;
    }
    return SERVERD_OK;
}

static serverd_status import_flags(const struct source_keys *keys, struct vocabulary *v,
                                   serverd_error *err)
{
    serverd_status status;
    struct {
        const char *name;
        bool *flag;
    } rows[] = {
        {"tokenizer.ggml.add_bos_token", &v->adds_bos},
        {"tokenizer.ggml.add_eos_token", &v->adds_eos},
        {"tokenizer.ggml.add_sep_token", &v->adds_separator},
        {"tokenizer.ggml.add_space_prefix", &v->adds_space_prefix},
        {"tokenizer.ggml.remove_extra_whitespaces", &v->removes_extra_whitespace},
        {"tokenizer.ggml.normalizer.lowercase", &v->lowercases},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if ((status = source_get_bool(keys, rows[i].name, rows[i].flag, err)) != SERVERD_OK)
            return status;
    v->strips_accents = v->lowercases;
    return source_get_bool(keys, "tokenizer.ggml.normalizer.strip_accents", &v->strips_accents,
                           err);
}

static void forget_ids(struct vocabulary *v)
{
    v->bos = v->eos = v->eot = v->eom = v->unknown = v->separator = v->padding = v->cls = v->mask =
        -1;
    v->fim_prefix = v->fim_suffix = v->fim_middle = v->fim_pad = v->fim_repo = v->fim_separator =
        -1;
}

static serverd_status import_vocabulary(const struct source_keys *keys, struct program *program,
                                        serverd_error *err)
{
    serverd_status status;
    struct vocabulary *v = &program->vocabulary;
    struct source_string model = {.bytes = "none", .len = 4}, pre = {.bytes = ""};
    if ((status = source_get_string(keys, "tokenizer.ggml.model", &model, err)) != SERVERD_OK ||
        (status = source_get_string(keys, "tokenizer.ggml.pre", &pre, err)) != SERVERD_OK)
        return status;
    forget_ids(v);
    if (strcmp(model.bytes, "none") == 0)
        return SERVERD_OK;
    const struct kind_row *row = find_kind(model);
    if (!row)
        return fail(err, SERVERD_UNSUPPORTED,
                    "%s: key tokenizer.ggml.model: unknown tokenizer \"%.64s\"; gpt2, llama, bert, "
                    "gemma4 and none are supported",
                    keys->path, model.bytes);
    if (pre.len >= sizeof v->pre)
        return fail(err, SERVERD_CORRUPT,
                    "%s: key tokenizer.ggml.pre: %u bytes, at most %zu are allowed", keys->path,
                    pre.len, sizeof v->pre - 1);
    import_text(pre, v->pre, sizeof v->pre);
    apply_kind(row, v);
    if ((status = import_tokens(keys, program, err)) != SERVERD_OK ||
        (status = import_merges(keys, program, err)) != SERVERD_OK ||
        (status = import_ids(keys, v, err)) != SERVERD_OK)
        return status;
    return import_flags(keys, v, err);
}

/* ---- chat templates ------------------------------------------------------------------------ */

#define TEMPLATE_KEY "tokenizer.chat_template"

/* The template's name if the key is one: "default", NAME of tokenizer.chat_template.NAME. */
static const char *template_name(const struct source_key *key)
{
    size_t n = sizeof TEMPLATE_KEY - 1;
    if (strncmp(key->name, TEMPLATE_KEY, n) != 0)
        return NULL;
    if (key->name[n] == '\0')
        return "default";
    return key->name[n] == '.' && key->name[n + 1] != '\0' ? key->name + n + 1 : NULL;
}

static serverd_status import_template(const struct source_keys *keys, const struct source_key *key,
                                      struct arena *arena, struct program_template *out,
                                      serverd_error *err)
{
    serverd_status status;
    struct source_string source = {.bytes = ""};
    if ((status = source_get_string(keys, key->name, &source, err)) != SERVERD_OK)
        return status;
    if (source.len > LIMIT_TEMPLATE_SOURCE)
        return fail(err, SERVERD_CORRUPT, "%s: key %.200s: %u bytes, at most %zu are allowed",
                    keys->path, key->name, source.len, LIMIT_TEMPLATE_SOURCE);
    const char *name = template_name(key);
    *out = (struct program_template){.name = arena_copy(arena, name, strlen(name)),
                                     .source = arena_copy(arena, source.bytes, source.len),
                                     .len = source.len};
    return out->name && out->source ? SERVERD_OK : fail_memory(keys, "chat template", err);
}

static serverd_status import_templates(const struct source_keys *keys, struct program *program,
                                       serverd_error *err)
{
    serverd_status status;
    uint32_t n = 0;
    for (uint32_t i = 0; i < keys->n_keys; i++)
        n += template_name(&keys->keys[i]) != NULL;
    struct program_template *templates = arena_array(program->arena, n ? n : 1, sizeof *templates);
    if (!templates)
        return fail_memory(keys, "chat templates", err);
    n = 0;
    for (uint32_t i = 0; i < keys->n_keys; i++)
        if (template_name(&keys->keys[i]))
            if ((status = import_template(keys, &keys->keys[i], program->arena, &templates[n++],
                                          err)) != SERVERD_OK)
                return status;
    program->templates = templates;
    program->n_templates = n;
    return SERVERD_OK;
}

/* ---- sampling ------------------------------------------------------------------------------ */

static serverd_status import_sampling(const struct source_keys *keys, struct program_sampling *out,
                                      serverd_error *err)
{
    serverd_status status;
    struct program_sampling made = {0};
    struct {
        const char *name;
        bool *has;
        float *value;
        double min, max;
    } rows[] = {
        {"general.sampling.temp", &made.has_temperature, &made.temperature, 0, 100},
        {"general.sampling.top_p", &made.has_top_p, &made.top_p, 0, 1},
        {"general.sampling.min_p", &made.has_min_p, &made.min_p, 0, 1},
        {"general.sampling.penalty_repeat", &made.has_repetition_penalty, &made.repetition_penalty,
         0, 100},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        double x = 0;
        if ((status = source_get_f64(keys, rows[i].name, rows[i].min, rows[i].max, &x, err)) !=
            SERVERD_OK)
            return status;
        *rows[i].has = source_find_key(keys, rows[i].name) != NULL;
        *rows[i].value = (float)x;
    }
    uint32_t top_k = 0;
    if ((status = source_get_u32(keys, "general.sampling.top_k", 0, INT32_MAX, &top_k, err)) !=
        SERVERD_OK)
        return status;
    made.has_top_k = source_find_key(keys, "general.sampling.top_k") != NULL;
    made.top_k = (int32_t)top_k;
    *out = made;
    return SERVERD_OK;
}

/* ---- the whole file ------------------------------------------------------------------------ */

static serverd_status import_names(const struct source_keys *keys, struct program_config *config,
                                   serverd_error *err)
{
    struct source_string architecture = {.bytes = ""}, name = {.bytes = ""},
                         type = {.bytes = "model"};
    serverd_status status;
    if ((status = source_get_string(keys, "general.architecture", &architecture, err)) !=
            SERVERD_OK ||
        (status = source_get_string(keys, "general.name", &name, err)) != SERVERD_OK ||
        (status = source_get_string(keys, "general.type", &type, err)) != SERVERD_OK)
        return status;
    if (strcmp(type.bytes, "model") != 0)
        return fail(err, SERVERD_UNSUPPORTED, "%s: key general.type: \"%.64s\", model is needed",
                    keys->path, type.bytes);
    import_text(architecture, config->architecture, sizeof config->architecture);
    import_text(name, config->name, sizeof config->name);
    return SERVERD_OK;
}

serverd_status import_gguf(const struct compile_options *options, struct source *source,
                           struct program *program, serverd_error *err)
{
    struct source made = {0};
    serverd_status status = options->vocabulary_only
                                ? gguf_model_open_keys(options->path, &made, err)
                                : gguf_model_open(options->path, &made, err);
    if (status != SERVERD_OK)
        return status;
    const struct source_keys *keys = &made.keys;
    if ((status = import_names(keys, &program->config, err)) != SERVERD_OK ||
        (status = import_vocabulary(keys, program, err)) != SERVERD_OK ||
        (status = import_templates(keys, program, err)) != SERVERD_OK ||
        (status = import_sampling(keys, &program->sampling, err)) != SERVERD_OK)
        source_close(&made);
    else
        *source = made;
    return status;
}
