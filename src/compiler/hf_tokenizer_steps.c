/* What stands before the model in tokenizer.json: normaliser and pre-tokeniser. */
#include "base/error.h"
#include "compiler/hf_tokenizer_internal.h"

#include <string.h>

/* ---- steps --------------------------------------------------------------------------------- */

/* Matched texts of pre-tokenisers. White_Space of Unicode, which \s is not quite. */
#define SPACE                                                                                      \
    "[\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}"  \
    "\\x{3000}]"
#define PUNCTUATION     "[!-/:-@\\[-`{-~]|\\p{P}"
#define WORD_CHARACTERS "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{200c}\\x{200d}"
#define WORDS           "[" WORD_CHARACTERS "]+|[^\\s" WORD_CHARACTERS "]+"
#define BYTE_LEVEL                                                                                 \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

static serverd_status add_step(struct hf_tokenizer *t, struct vocabulary_step step,
                               serverd_error *err)
{
    struct vocabulary *v = t->vocabulary;
    if (v->n_steps == VOCABULARY_MAX_STEPS)
        return fail(err, SERVERD_UNSUPPORTED, "%s: more than %d normalisers and pre-tokenisers",
                    t->root.file, VOCABULARY_MAX_STEPS);
    step.text = arena_copy(t->arena, step.text ? step.text : "", step.len);
    step.other = arena_copy(t->arena, step.other ? step.other : "", step.other_len);
    if (!step.text || !step.other)
        return hf_tokenizer_no_memory(t, err);
    t->step[v->n_steps++] = step;
    return SERVERD_OK;
}

static serverd_status add_split(struct hf_tokenizer *t, const char *expression, uint32_t flags,
                                serverd_error *err)
{
    const struct vocabulary_step step = {.kind = STEP_SPLIT,
                                         .flags = flags,
                                         .text = expression,
                                         .len = (uint32_t)strlen(expression)};
    return add_step(t, step, err);
}

static serverd_status read_behaviour(const struct json_place *place, uint32_t *out,
                                     serverd_error *err)
{
    static const char *const names[] = {
        [STEP_REMOVED] = "Removed",
        [STEP_ISOLATED] = "Isolated",
        [STEP_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
        [STEP_MERGED_WITH_NEXT] = "MergedWithNext",
        [STEP_CONTIGUOUS] = "Contiguous",
    };
    const char *name = "Isolated";
    serverd_status status = json_place_string(place, "behavior", &name, err);
    if (status != SERVERD_OK)
        return status;
    for (uint32_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(names[i], name) == 0) {
            *out = i;
            return SERVERD_OK;
        }
    return json_place_fail(place, "behavior", "a way to split", err);
}

/* {"String": text} or {"Regex": expression}. */
static const json_t *read_pattern(const struct json_place *place, bool *is_expression)
{
    const json_t *pattern = json_place_get(place, "pattern");
    const json_t *text = json_object_get(pattern, "String"),
                 *expression = json_object_get(pattern, "Regex");
    *is_expression = json_is_string(expression);
    return json_is_string(text) ? text : *is_expression ? expression : NULL;
}

/* A text as an expression that matches it. */
static serverd_status add_literal_split(struct hf_tokenizer *t, const char *text, uint32_t flags,
                                        serverd_error *err)
{
    char quoted[256];
    size_t n = 0;
    for (const char *c = text; *c; c++) {
        bool is_plain = (unsigned char)*c >= 0x80 || (*c >= '0' && *c <= '9') ||
                        (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z');
        if (n + 3 > sizeof quoted)
            return fail(err, SERVERD_UNSUPPORTED, "%s: pre_tokenizer.pattern: more than %zu bytes",
                        t->root.file, sizeof quoted);
        if (!is_plain)
            quoted[n++] = '\\';
        quoted[n++] = *c;
    }
    quoted[n] = '\0';
    return add_split(t, quoted, flags, err);
}

static serverd_status import_split(struct hf_tokenizer *t, const struct json_place *place,
                                   serverd_error *err)
{
    bool is_expression, inverts = false;
    uint32_t behaviour = STEP_ISOLATED;
    const json_t *pattern = read_pattern(place, &is_expression);
    serverd_status status;
    if (!pattern || strlen(json_string_value(pattern)) != json_string_length(pattern))
        return json_place_fail(place, "pattern", "{String} or {Regex}", err);
    if ((status = read_behaviour(place, &behaviour, err)) != SERVERD_OK ||
        (status = json_place_bool(place, "invert", &inverts, err)) != SERVERD_OK)
        return status;
    uint32_t flags = behaviour | (inverts ? STEP_INVERTS : 0);
    return is_expression ? add_split(t, json_string_value(pattern), flags, err)
                         : add_literal_split(t, json_string_value(pattern), flags, err);
}

static serverd_status import_digits(struct hf_tokenizer *t, const struct json_place *place,
                                    serverd_error *err)
{
    bool is_single = false;
    serverd_status status = json_place_bool(place, "individual_digits", &is_single, err);
    return status == SERVERD_OK ? add_split(t, is_single ? "\\p{N}" : "\\p{N}+", STEP_ISOLATED, err)
                                : status;
}

static serverd_status import_punctuation(struct hf_tokenizer *t, const struct json_place *place,
                                         serverd_error *err)
{
    uint32_t behaviour = STEP_ISOLATED;
    serverd_status status = read_behaviour(place, &behaviour, err);
    return status == SERVERD_OK ? add_split(t, PUNCTUATION, behaviour, err) : status;
}

static serverd_status import_whitespace(struct hf_tokenizer *t, const struct json_place *place,
                                        serverd_error *err)
{
    (void)place;
    return add_split(t, WORDS, STEP_REMOVED | STEP_INVERTS, err);
}

static serverd_status import_whitespace_split(struct hf_tokenizer *t,
                                              const struct json_place *place, serverd_error *err)
{
    (void)place;
    return add_split(t, SPACE, STEP_REMOVED, err);
}

static serverd_status import_bert_pre(struct hf_tokenizer *t, const struct json_place *place,
                                      serverd_error *err)
{
    (void)place;
    serverd_status status = add_split(t, SPACE, STEP_REMOVED, err);
    return status == SERVERD_OK ? add_split(t, PUNCTUATION, STEP_ISOLATED, err) : status;
}

static serverd_status import_byte_level(struct hf_tokenizer *t, const struct json_place *place,
                                        serverd_error *err)
{
    bool has_prefix = true, splits = true;
    serverd_status status;
    if ((status = json_place_bool(place, "add_prefix_space", &has_prefix, err)) != SERVERD_OK ||
        (status = json_place_bool(place, "use_regex", &splits, err)) != SERVERD_OK)
        return status;
    if (t->vocabulary->kind != VOCABULARY_BPE_UTF8)
        return fail(err, SERVERD_UNSUPPORTED, "%s: pre_tokenizer: ByteLevel is supported with BPE",
                    place->file);
    t->vocabulary->kind = VOCABULARY_BPE;
    if (has_prefix && (status = add_step(t, (struct vocabulary_step){.kind = STEP_PREFIX_SPACE},
                                         err)) != SERVERD_OK)
        return status;
    return splits ? add_split(t, BYTE_LEVEL, STEP_ISOLATED, err) : SERVERD_OK;
}

static serverd_status import_metaspace(struct hf_tokenizer *t, const struct json_place *place,
                                       serverd_error *err)
{
    static const char *const schemes[] = {
        [STEP_NEVER] = "never", [STEP_FIRST] = "first", [STEP_ALWAYS] = "always"};
    const char *mark = "\xe2\x96\x81", *name = NULL;
    bool has_prefix = true, splits = true;
    serverd_status status;
    if ((status = json_place_string(place, "replacement", &mark, err)) != SERVERD_OK ||
        (status = json_place_bool(place, "add_prefix_space", &has_prefix, err)) != SERVERD_OK ||
        (status = json_place_string(place, "prepend_scheme", &name, err)) != SERVERD_OK ||
        (status = json_place_bool(place, "split", &splits, err)) != SERVERD_OK)
        return status;
    if (!name)
        name = has_prefix ? "always" : "never";
    struct vocabulary_step step = {.kind = STEP_METASPACE,
                                   .flags = STEP_ALL_FLAGS,
                                   .text = mark,
                                   .len = (uint32_t)strlen(mark)};
    for (uint32_t i = 0; i < sizeof schemes / sizeof schemes[0]; i++)
        if (strcmp(schemes[i], name) == 0)
            step.flags = i;
    if (step.flags == STEP_ALL_FLAGS)
        return json_place_fail(place, "prepend_scheme", "never, first or always", err);
    t->vocabulary->adds_space_prefix = step.flags != STEP_NEVER;
    if ((status = add_step(t, step, err)) != SERVERD_OK)
        return status;
    return splits ? add_literal_split(t, mark, STEP_MERGED_WITH_NEXT, err) : SERVERD_OK;
}

/* ---- normalisers --------------------------------------------------------------------------- */

static serverd_status import_strip(struct hf_tokenizer *t, const struct json_place *place,
                                   serverd_error *err)
{
    bool is_left = true, is_right = true;
    serverd_status status;
    if ((status = json_place_bool(place, "strip_left", &is_left, err)) != SERVERD_OK ||
        (status = json_place_bool(place, "strip_right", &is_right, err)) != SERVERD_OK)
        return status;
    const struct vocabulary_step step = {.kind = STEP_STRIP,
                                         .flags = (is_left ? STEP_STRIPS_LEFT : 0u) |
                                                  (is_right ? STEP_STRIPS_RIGHT : 0u)};
    return add_step(t, step, err);
}

static serverd_status import_replace(struct hf_tokenizer *t, const struct json_place *place,
                                     serverd_error *err)
{
    bool is_expression;
    const json_t *pattern = read_pattern(place, &is_expression),
                 *content = json_place_get(place, "content");
    if (!pattern)
        return json_place_fail(place, "pattern", "{String} or {Regex}", err);
    if (!json_is_string(content))
        return json_place_fail(place, "content", "a string", err);
    const struct vocabulary_step step = {.kind = STEP_REPLACE,
                                         .flags = is_expression ? STEP_IS_EXPRESSION : 0,
                                         .text = json_string_value(pattern),
                                         .len = (uint32_t)json_string_length(pattern),
                                         .other = json_string_value(content),
                                         .other_len = (uint32_t)json_string_length(content)};
    return add_step(t, step, err);
}

static serverd_status import_prepend(struct hf_tokenizer *t, const struct json_place *place,
                                     serverd_error *err)
{
    const char *text = "";
    serverd_status status = json_place_string(place, "prepend", &text, err);
    if (status != SERVERD_OK)
        return status;
    t->vocabulary->adds_space_prefix = true; /* unless a decoder says otherwise */
    const struct vocabulary_step step = {
        .kind = STEP_PREPEND, .text = text, .len = (uint32_t)strlen(text)};
    return add_step(t, step, err);
}

static int base64_digit(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

static serverd_status import_charsmap(struct hf_tokenizer *t, const struct json_place *place,
                                      serverd_error *err)
{
    const json_t *value = json_place_get(place, "precompiled_charsmap");
    if (!json_is_string(value))
        return json_place_fail(place, "precompiled_charsmap", "a string", err);
    const char *text = json_string_value(value);
    size_t n = json_string_length(value), len = 0;
    char *bytes = arena_alloc(t->arena, n / 4 * 3 + 4);
    if (!bytes)
        return hf_tokenizer_no_memory(t, err);
    uint32_t word = 0, bits = 0;
    for (size_t i = 0; i < n && text[i] != '='; i++) {
        int digit = base64_digit(text[i]);
        if (digit < 0)
            return json_place_fail(place, "precompiled_charsmap", "base64", err);
        word = word << 6 | (uint32_t)digit;
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            bytes[len++] = (char)(word >> bits);
        }
    }
    const struct vocabulary_step step = {
        .kind = STEP_CHARSMAP, .text = bytes, .len = (uint32_t)len};
    return add_step(t, step, err);
}

static serverd_status import_bert(struct hf_tokenizer *t, const struct json_place *place,
                                  serverd_error *err)
{
    bool cleans = true, is_apart = true, lowers = true, strips;
    serverd_status status;
    if ((status = json_place_bool(place, "clean_text", &cleans, err)) != SERVERD_OK ||
        (status = json_place_bool(place, "handle_chinese_chars", &is_apart, err)) != SERVERD_OK ||
        (status = json_place_bool(place, "lowercase", &lowers, err)) != SERVERD_OK)
        return status;
    strips = lowers;
    if ((status = json_place_bool(place, "strip_accents", &strips, err)) != SERVERD_OK)
        return status;
    const struct vocabulary_step step = {
        .kind = STEP_BERT,
        .flags = (cleans ? STEP_CLEANS : 0u) | (is_apart ? STEP_SPLITS_IDEOGRAPHS : 0u) |
                 (strips ? STEP_STRIPS_ACCENTS : 0u) | (lowers ? STEP_LOWERCASES : 0u)};
    return add_step(t, step, err);
}

/* ---- tables of types ----------------------------------------------------------------------- */

struct step_row {
    const char *type;
    serverd_status (*import)(struct hf_tokenizer *t, const struct json_place *place,
                             serverd_error *err); /* NULL: `kind` alone */
    uint32_t kind;
};

static const struct step_row normalisers[] = {{"NFC", NULL, STEP_NFC},
                                              {"NFD", NULL, STEP_NFD},
                                              {"NFKC", NULL, STEP_NFKC},
                                              {"NFKD", NULL, STEP_NFKD},
                                              {"Lowercase", NULL, STEP_LOWERCASE},
                                              {"StripAccents", NULL, STEP_STRIP_ACCENTS},
                                              {"Strip", import_strip, 0},
                                              {"Replace", import_replace, 0},
                                              {"Prepend", import_prepend, 0},
                                              {"Precompiled", import_charsmap, 0},
                                              {"BertNormalizer", import_bert, 0},
                                              {0}};

static const struct step_row pre_tokenisers[] = {{"ByteLevel", import_byte_level, 0},
                                                 {"Split", import_split, 0},
                                                 {"Digits", import_digits, 0},
                                                 {"Punctuation", import_punctuation, 0},
                                                 {"Whitespace", import_whitespace, 0},
                                                 {"WhitespaceSplit", import_whitespace_split, 0},
                                                 {"Metaspace", import_metaspace, 0},
                                                 {"BertPreTokenizer", import_bert_pre, 0},
                                                 {0}};

/* One of the table, or a Sequence of such, whose items are in the member `items`. Nests as deeply
 * as JSON may. */
static serverd_status import_step(struct hf_tokenizer *t, const struct json_place *place,
                                  const struct step_row *rows, const char *items,
                                  serverd_error *err)
{
    const char *type;
    serverd_status status = hf_tokenizer_type(place, &type, err);
    if (status != SERVERD_OK)
        return status;
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = json_place_get(place, items);
        if (!json_is_array(list))
            return json_place_fail(place, items, "an array", err);
        for (size_t i = 0; i < json_array_size(list) && status == SERVERD_OK; i++) {
            const struct json_place item = {
                .file = place->file, .where = place->where, .object = json_array_get(list, i)};
            status = import_step(t, &item, rows, items, err);
        }
        return status;
    }
    for (; rows->type; rows++)
        if (strcmp(rows->type, type) == 0)
            return rows->import ? rows->import(t, place, err)
                                : add_step(t, (struct vocabulary_step){.kind = rows->kind}, err);
    return fail(err, SERVERD_UNSUPPORTED, "%s: %s: type \"%.32s\" is not supported", place->file,
                place->where, type);
}

static serverd_status import_steps(struct hf_tokenizer *t, serverd_error *err)
{
    serverd_status status;
    struct json_place normaliser = {.file = t->root.file}, pre = {.file = t->root.file};
    if ((status = json_place_object(&t->root, "normalizer", &normaliser, err)) != SERVERD_OK ||
        (status = json_place_object(&t->root, "pre_tokenizer", &pre, err)) != SERVERD_OK)
        return status;
    if (normaliser.object &&
        (status = import_step(t, &normaliser, normalisers, "normalizers", err)) != SERVERD_OK)
        return status;
    return pre.object ? import_step(t, &pre, pre_tokenisers, "pretokenizers", err) : SERVERD_OK;
}

/* ---- WordPiece as BERT has it, which needs no steps ------------------------------------------ */

static bool is_type(const struct hf_tokenizer *t, const char *name, const char *type)
{
    const char *found = json_string_value(json_object_get(json_place_get(&t->root, name), "type"));
    return found && strcmp(found, type) == 0;
}

/* A member of an added token that is true. */
static bool has_added(const struct hf_tokenizer *t, const char *member)
{
    const json_t *added = json_place_get(&t->root, "added_tokens");
    for (size_t i = 0; i < json_array_size(added); i++)
        if (json_is_true(json_object_get(json_array_get(added, i), member)))
            return true;
    return false;
}

/* True if the fast way of the kind does what the file says. */
static bool is_plain_bert(const struct hf_tokenizer *t)
{
    const json_t *normaliser = json_place_get(&t->root, "normalizer");
    return is_type(t, "normalizer", "BertNormalizer") &&
           is_type(t, "pre_tokenizer", "BertPreTokenizer") &&
           !json_is_false(json_object_get(normaliser, "clean_text")) &&
           !json_is_false(json_object_get(normaliser, "handle_chinese_chars")) &&
           !has_added(t, "normalized") && !has_added(t, "single_word") && !has_added(t, "lstrip") &&
           !has_added(t, "rstrip");
}

static serverd_status import_plain_bert(struct hf_tokenizer *t, serverd_error *err)
{
    struct vocabulary *v = t->vocabulary;
    struct json_place place = {.file = t->root.file};
    serverd_status status;
    v->lowercases = true;
    if ((status = json_place_object(&t->root, "normalizer", &place, err)) != SERVERD_OK ||
        (status = json_place_bool(&place, "lowercase", &v->lowercases, err)) != SERVERD_OK)
        return status;
    v->strips_accents = v->lowercases;
    return json_place_bool(&place, "strip_accents", &v->strips_accents, err);
}

/* ---- what is particular to added tokens ------------------------------------------------------ */

static bool is_true(const struct hf_tokenizer *t, const json_t *item, const char *member)
{
    if (member)
        return json_is_true(json_object_get(item, member));
    json_int_t id = json_integer_value(json_object_get(item, "id"));
    return id >= 0 && id < t->n_tokens && t->is_apart[id];
}

/* The added tokens of which that is true; member NULL: those that are apart. */
static serverd_status import_around(struct hf_tokenizer *t, const char *member, uint32_t flag,
                                    serverd_error *err)
{
    const json_t *added = json_place_get(&t->root, "added_tokens");
    size_t n = json_array_size(added), count = 0;
    int32_t *ids = arena_array(t->arena, n ? n : 1, sizeof *ids);
    if (!ids)
        return hf_tokenizer_no_memory(t, err);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(added, i);
        if (is_true(t, item, member))
            ids[count++] = (int32_t)json_integer_value(json_object_get(item, "id"));
    }
    if (count == 0 || !t->vocabulary->is_stepwise)
        return SERVERD_OK;
    const struct vocabulary_step step = {.kind = STEP_AROUND_SPECIAL,
                                         .flags = flag,
                                         .text = (const char *)ids,
                                         .len = (uint32_t)(count * sizeof *ids)};
    return add_step(t, step, err);
}

serverd_status hf_tokenizer_steps(struct hf_tokenizer *t, serverd_error *err)
{
    serverd_status status;
    t->step = arena_array(t->arena, VOCABULARY_MAX_STEPS, sizeof *t->step);
    if (!t->step)
        return hf_tokenizer_no_memory(t, err);
    t->vocabulary->step = t->step;
    if (t->vocabulary->kind == VOCABULARY_WORDPIECE && is_plain_bert(t)) {
        status = import_plain_bert(t, err);
    } else {
        t->vocabulary->is_stepwise = t->vocabulary->ignores_merges_set = true;
        status = import_steps(t, err);
    }
    if (status != SERVERD_OK ||
        (status = import_around(t, "lstrip", STEP_STRIPS_LEFT, err)) != SERVERD_OK ||
        (status = import_around(t, "rstrip", STEP_STRIPS_RIGHT, err)) != SERVERD_OK ||
        (status = import_around(t, "single_word", STEP_IS_WORD, err)) != SERVERD_OK ||
        (status = import_around(t, NULL, STEP_IS_APART, err)) != SERVERD_OK)
        return status;
    return import_around(t, "normalized", STEP_IS_NORMALISED, err);
}
