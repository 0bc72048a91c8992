/* Keywords: which draft has them, and the forms that several have in common. */
#include "grammar/normal_internal.h"

#include "grammar/regex.h"

#include <string.h>

static const struct {
    const char *word;
    enum schema_draft first, last;
    bool is_unsaid; /* a schema that names no draft has it */
} word_rows[] = {
    {"$dynamicRef", DRAFT_2020, DRAFT_2020, true},
    {"$recursiveRef", DRAFT_2019, DRAFT_2019, false},
    {"additionalItems", DRAFT_4, DRAFT_2019, true},
    {"const", DRAFT_6, DRAFT_2020, true},
    {"contains", DRAFT_6, DRAFT_2020, true},
    {"dependencies", DRAFT_4, DRAFT_7, true},
    {"dependentRequired", DRAFT_2019, DRAFT_2020, true},
    {"dependentSchemas", DRAFT_2019, DRAFT_2020, true},
    {"else", DRAFT_7, DRAFT_2020, true},
    {"if", DRAFT_7, DRAFT_2020, true},
    {"maxContains", DRAFT_2019, DRAFT_2020, true},
    {"minContains", DRAFT_2019, DRAFT_2020, true},
    {"prefixItems", DRAFT_2020, DRAFT_2020, true},
    {"propertyNames", DRAFT_6, DRAFT_2020, true},
    {"then", DRAFT_7, DRAFT_2020, true},
    {"unevaluatedItems", DRAFT_2019, DRAFT_2020, true},
    {"unevaluatedProperties", DRAFT_2019, DRAFT_2020, true},
};

const struct json_value *schema_word(const struct normal *n, const struct json_value *schema,
                                     const char *word)
{
    const struct json_value *value = json_member(schema, word);
    if (!value)
        return NULL;
    enum schema_draft draft = schema_draft_of(n->document, schema);
    for (size_t i = 0; i < sizeof word_rows / sizeof *word_rows; i++)
        if (strcmp(word_rows[i].word, word) == 0) {
            bool is_there = draft == DRAFT_UNSAID
                                ? word_rows[i].is_unsaid
                                : draft >= word_rows[i].first && draft <= word_rows[i].last;
            return is_there ? value : NULL;
        }
    return value;
}

bool schema_reference(struct normal *n, const struct json_value *schema, uint32_t *literal,
                      uint32_t index, bool *is_all)
{
    static const char *const words[] = {"$ref", "$dynamicRef", "$recursiveRef"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        const struct json_value *target;
        if (!schema_word(n, schema, words[i]) || index-- > 0)
            continue;
        serverd_status status = schema_resolve(n->document, schema, words[i], &target, n->err);
        if (status != SERVERD_OK) {
            normal_failed(n, status, schema);
            return false;
        }
        *literal = literal_of_schema(n, target);
        *is_all = i == 0 && schema_draft_of(n->document, schema) <= DRAFT_7;
        return true;
    }
    return false;
}

uint32_t schema_count(struct normal *n, const struct json_value *schema, const char *word,
                      uint32_t otherwise)
{
    const struct json_value *v = schema_word(n, schema, word);
    if (!v)
        return otherwise;
    if (v->kind != JSON_NUMBER || v->number->is_negative || !decimal_is_integer(v->number)) {
        normal_refuse(n, SERVERD_INVALID, v, "%s: no count", word);
        return otherwise;
    }
    uint64_t count = 0;
    for (uint32_t i = 0; i < v->number->n_digits && count < UNBOUNDED; i++)
        count = count * 10 + (uint64_t)(v->number->digits[i] - '0');
    for (int32_t i = 0; i < v->number->exponent && count > 0 && count < UNBOUNDED; i++)
        count *= 10;
    return count < UNBOUNDED - 1 ? (uint32_t)count : UNBOUNDED - 1;
}

const struct string_set *schema_pattern(struct normal *n, const struct json_value *where,
                                        const char *text, size_t n_text)
{
    for (uint32_t i = 0; i < n->n_patterns; i++) {
        const struct json_value *other = n->pattern_texts[i];
        const char *other_text = other->kind == JSON_STRING ? other->text : other->name;
        uint32_t n_other = other->kind == JSON_STRING ? other->n : other->name_n;
        if (n_other == n_text && memcmp(other_text, text, n_text) == 0)
            return n->patterns[i];
    }
    struct string_set *set = normal_array(n, 1, sizeof *set);
    if (!set)
        return NULL;
    serverd_status status = regex_compile(n->budget, text, n_text, REGEX_SEARCH, set, n->err);
    if (status != SERVERD_OK) {
        n->code = status == SERVERD_INVALID && n->status == SERVERD_OK ? "invalid_regex" : n->code;
        normal_failed(n, status, where);
        return NULL;
    }
    if (n->n_patterns == n->cap_patterns) {
        uint32_t cap = n->cap_patterns ? n->cap_patterns * 2 : 16;
        const struct string_set **patterns = normal_array(n, cap, sizeof *patterns);
        const struct json_value **texts = normal_array(n, cap, sizeof *texts);
        if (!patterns || !texts)
            return NULL;
        if (n->n_patterns) {
            memcpy(patterns, n->patterns, n->n_patterns * sizeof *patterns);
            memcpy(texts, n->pattern_texts, n->n_patterns * sizeof *texts);
        }
        n->patterns = patterns;
        n->pattern_texts = texts;
        n->cap_patterns = cap;
    }
    n->patterns[n->n_patterns] = set;
    n->pattern_texts[n->n_patterns++] = where;
    return set;
}
