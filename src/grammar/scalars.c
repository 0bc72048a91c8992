/* Null, booleans, numbers and strings: sets that are closed under everything a schema can say, so
 * that here nothing branches. */
#include "grammar/format.h"
#include "grammar/normal_internal.h"

#include "grammar/regex.h"

#include <string.h>

/* ---- algebra --------------------------------------------------------------------------------- */

struct scalar_set scalars_all(struct normal *n)
{
    struct number_part *number = normal_array(n, 1, sizeof *number);
    if (!number)
        return (struct scalar_set){0};
    *number = (struct number_part){number_set_all(), SPELLED_ANYHOW};
    return (struct scalar_set){.words = WORD_ALL,
                               .numbers = number,
                               .n_numbers = 1,
                               .strings = &n->any_string,
                               .n_strings = 1};
}

static bool is_any_number(const struct number_part *part)
{
    const struct number_set *set = &part->set;
    return part->spelling == SPELLED_ANYHOW && set->low_bound == BOUND_NONE &&
           set->high_bound == BOUND_NONE && set->multiple.coefficient == 0 && set->n_excluded == 0;
}

static bool is_any_string(const struct string_set *set)
{
    return set->min == 0 && set->max == UNBOUNDED && automaton_is_anything(set->automaton);
}

static bool check(struct normal *n, serverd_status status)
{
    if (status != SERVERD_OK)
        normal_failed(n, status, NULL);
    return normal_ok(n);
}

static bool is_within_unions(struct normal *n, size_t count)
{
    if (count > LIMIT_GRAMMAR_UNION)
        normal_refuse(n, SERVERD_TIMEOUT, NULL, "a set that is a union of %zu, at most %u", count,
                      LIMIT_GRAMMAR_UNION);
    return normal_ok(n);
}

/* Whether all of a lies above all of b; above itself is an interval that is empty. */
static bool is_above(const struct number_set *a, const struct number_set *b)
{
    if (a->low_bound == BOUND_NONE || b->high_bound == BOUND_NONE)
        return false;
    int order = decimal_compare(&a->low, &b->high);
    bool touches = a->low_bound == BOUND_INCLUSIVE && b->high_bound == BOUND_INCLUSIVE;
    return order > 0 || (order == 0 && !touches);
}

static bool is_interval(const struct number_set *set)
{
    return set->multiple.coefficient == 0 && set->n_excluded == 0;
}

/* Sets are cut in great numbers where `const` is negated: intervals without memory. */
static serverd_status intersect(struct normal *n, const struct number_set *a,
                                const struct number_set *b, struct number_set *out, bool *is_empty)
{
    if (!is_interval(a) || !is_interval(b)) {
        serverd_status status = number_set_intersect(n->budget, a, b, out, n->err);
        return status ? status : number_set_is_empty(n->budget, out, is_empty, n->err);
    }
    *out = *a;
    int low = a->low_bound && b->low_bound ? decimal_compare(&b->low, &a->low) : 0;
    if (b->low_bound && (!a->low_bound || low > 0 || (low == 0 && b->low_bound > a->low_bound))) {
        out->low = b->low;
        out->low_bound = b->low_bound;
    }
    int high = a->high_bound && b->high_bound ? decimal_compare(&a->high, &b->high) : 0;
    if (b->high_bound &&
        (!a->high_bound || high > 0 || (high == 0 && b->high_bound > a->high_bound))) {
        out->high = b->high;
        out->high_bound = b->high_bound;
    }
    *is_empty = is_above(out, out);
    return SERVERD_OK;
}

static void numbers_and(struct normal *n, const struct scalar_set *a, const struct scalar_set *b,
                        struct scalar_set *out)
{
    size_t most = (size_t)a->n_numbers * b->n_numbers;
    out->n_numbers = 0;
    if (most == 0)
        return;
    if (a->n_numbers == 1 && is_any_number(a->numbers)) {
        out->numbers = b->numbers;
        out->n_numbers = b->n_numbers;
        return;
    }
    if (b->n_numbers == 1 && is_any_number(b->numbers)) {
        out->numbers = a->numbers;
        out->n_numbers = a->n_numbers;
        return;
    }
    struct number_part *sets = normal_array(n, most, sizeof *sets);
    for (uint32_t i = 0; i < a->n_numbers && normal_ok(n); i++)
        for (uint32_t j = 0; j < b->n_numbers && normal_ok(n); j++) {
            struct number_part *part = &sets[out->n_numbers];
            const struct number_part *x = &a->numbers[i], *y = &b->numbers[j];
            bool is_empty = true;
            if ((x->spelling != y->spelling && x->spelling && y->spelling) ||
                is_above(&x->set, &y->set) || is_above(&y->set, &x->set))
                continue;
            part->spelling = x->spelling ? x->spelling : y->spelling;
            if (!check(n, intersect(n, &x->set, &y->set, &part->set, &is_empty)))
                break;
            out->n_numbers += !is_empty;
            (void)is_within_unions(n, out->n_numbers);
        }
    out->numbers = sets;
}

static void strings_and(struct normal *n, const struct scalar_set *a, const struct scalar_set *b,
                        struct scalar_set *out)
{
    size_t most = (size_t)a->n_strings * b->n_strings;
    out->n_strings = 0;
    if (most == 0)
        return;
    if (a->n_strings == 1 && is_any_string(a->strings)) {
        out->strings = b->strings;
        out->n_strings = b->n_strings;
        return;
    }
    if (b->n_strings == 1 && is_any_string(b->strings)) {
        out->strings = a->strings;
        out->n_strings = a->n_strings;
        return;
    }
    struct string_set *sets = normal_array(n, most, sizeof *sets);
    for (uint32_t i = 0; i < a->n_strings && normal_ok(n); i++)
        for (uint32_t j = 0; j < b->n_strings && normal_ok(n); j++) {
            struct string_set *set = &sets[out->n_strings];
            if (check(n,
                      string_set_intersect(n->budget, &a->strings[i], &b->strings[j], set, n->err)))
                out->n_strings += !string_set_is_empty(set);
            (void)is_within_unions(n, out->n_strings);
        }
    out->strings = sets;
}

struct scalar_set scalars_and(struct normal *n, struct scalar_set a, struct scalar_set b)
{
    struct scalar_set out = {.words = a.words & b.words};
    numbers_and(n, &a, &b, &out);
    strings_and(n, &a, &b, &out);
    return out;
}

/* Adds a set to a union of sets; sets[] has room for it. */
static void add_string(struct normal *n, struct string_set *sets, uint32_t *count,
                       const struct string_set *set)
{
    for (uint32_t i = 0; i < *count && normal_ok(n); i++) {
        bool is_merged = false;
        struct string_set both;
        if (!check(n, string_set_union(n->budget, &sets[i], set, &both, &is_merged, n->err)))
            return;
        if (is_merged) {
            sets[i] = both;
            return;
        }
    }
    sets[(*count)++] = *set;
}

struct scalar_set scalars_or(struct normal *n, struct scalar_set a, struct scalar_set b)
{
    struct scalar_set out = {.words = a.words | b.words};
    struct number_part *numbers =
        normal_array(n, (size_t)a.n_numbers + b.n_numbers, sizeof *numbers);
    struct string_set *strings =
        normal_array(n, (size_t)a.n_strings + b.n_strings, sizeof *strings);
    if (!numbers || !strings)
        return out;
    for (uint32_t i = 0; i < a.n_numbers; i++)
        numbers[out.n_numbers++] = a.numbers[i];
    for (uint32_t i = 0; i < b.n_numbers; i++)
        numbers[out.n_numbers++] = b.numbers[i];
    for (uint32_t i = 0; i < out.n_numbers; i++) /* what holds all others stands for them */
        if (is_any_number(&numbers[i])) {
            numbers[0] = numbers[i];
            out.n_numbers = 1;
        }
    for (uint32_t i = 0; i < a.n_strings && normal_ok(n); i++)
        add_string(n, strings, &out.n_strings, &a.strings[i]);
    for (uint32_t i = 0; i < b.n_strings && normal_ok(n); i++)
        add_string(n, strings, &out.n_strings, &b.strings[i]);
    out.numbers = numbers;
    out.strings = strings;
    (void)(is_within_unions(n, out.n_numbers) && is_within_unions(n, out.n_strings));
    return out;
}

/* Everything but one part: other values, or the same in another spelling. */
static void numbers_not(struct normal *n, const struct number_part *part, struct scalar_set *out)
{
    struct number_set *sets;
    size_t n_sets;
    if (!check(n, number_set_complement(n->budget, &part->set, &sets, &n_sets, n->err)))
        return;
    struct number_part *parts = normal_array(n, n_sets + 1, sizeof *parts);
    if (!parts)
        return;
    for (size_t i = 0; i < n_sets; i++)
        parts[i] = (struct number_part){sets[i], SPELLED_ANYHOW};
    if (part->spelling != SPELLED_ANYHOW)
        parts[n_sets++] = (struct number_part){
            part->set, part->spelling == SPELLED_PLAIN ? SPELLED_OTHERWISE : SPELLED_PLAIN};
    out->numbers = parts;
    out->n_numbers = (uint32_t)n_sets;
}

struct scalar_set scalars_not(struct normal *n, struct scalar_set a)
{
    struct scalar_set out = scalars_all(n);
    for (uint32_t i = 0; i < a.n_numbers && normal_ok(n); i++) {
        struct scalar_set rest = {0}, both = {0};
        numbers_not(n, &a.numbers[i], &rest);
        numbers_and(n, &out, &rest, &both);
        out.numbers = both.numbers;
        out.n_numbers = both.n_numbers;
    }
    for (uint32_t i = 0; i < a.n_strings && normal_ok(n); i++) {
        struct string_set *parts = normal_array(n, 3, sizeof *parts);
        size_t n_parts;
        if (!parts ||
            !check(n, string_set_complement(n->budget, &a.strings[i], parts, &n_parts, n->err)))
            break;
        struct scalar_set rest = {.strings = parts, .n_strings = (uint32_t)n_parts}, both = {0};
        strings_and(n, &out, &rest, &both);
        out.strings = both.strings;
        out.n_strings = both.n_strings;
    }
    out.words = WORD_ALL & ~a.words;
    return out;
}

/* ---- constants ------------------------------------------------------------------------------- */

/* The scalars among the members of an `enum`, or the one of a `const`. */
static struct scalar_set constants(struct normal *n, const struct json_value *first, bool is_list)
{
    struct scalar_set out = {0};
    uint32_t count = 0, n_texts = 0;
    for (const struct json_value *v = first; v; v = is_list ? v->next : NULL)
        count++;
    struct number_part *numbers = normal_array(n, count, sizeof *numbers);
    struct text_piece *texts = normal_array(n, count, sizeof *texts);
    struct string_set *strings = normal_array(n, 1, sizeof *strings);
    if (!numbers || !texts || !strings)
        return out;
    for (const struct json_value *v = first; v; v = is_list ? v->next : NULL) {
        if (v->kind <= JSON_TRUE)
            out.words |= v->kind == JSON_NULL    ? WORD_NULL
                         : v->kind == JSON_FALSE ? WORD_FALSE
                                                 : WORD_TRUE;
        if (v->kind == JSON_NUMBER)
            numbers[out.n_numbers++].set = number_set_value(v->number);
        if (v->kind == JSON_STRING)
            texts[n_texts++] = (struct text_piece){v->text, v->n};
    }
    out.numbers = numbers;
    out.strings = strings;
    const struct automaton *automaton;
    if (is_within_unions(n, out.n_numbers) && n_texts > 0 &&
        check(n, automaton_literals(n->budget, texts, n_texts, &automaton, n->err)) &&
        check(n, string_set_make(n->budget, automaton, 0, UNBOUNDED, strings, n->err)))
        out.n_strings = 1;
    return out;
}

/* ---- keywords -------------------------------------------------------------------------------- */

static struct scalar_set of_type(struct normal *n, const struct json_value *type)
{
    struct scalar_set out = {0}, all = scalars_all(n);
    struct number_part *integers = normal_array(n, 1, sizeof *integers);
    if (!integers)
        return out;
    integers->set = number_set_integers();
    if (!n->produces && schema_draft_of(n->document, type) == DRAFT_4)
        integers->spelling = SPELLED_PLAIN;
    const struct json_value *v = type->kind == JSON_ARRAY ? type->first : type;
    for (; v; v = type->kind == JSON_ARRAY ? v->next : NULL) {
        if (json_is_text(v, "null")) {
            out.words |= WORD_NULL;
        } else if (json_is_text(v, "boolean")) {
            out.words |= WORD_FALSE | WORD_TRUE;
        } else if (json_is_text(v, "string")) {
            out.strings = all.strings;
            out.n_strings = 1;
        } else if (json_is_text(v, "number")) {
            out.numbers = all.numbers;
            out.n_numbers = 1;
        } else if (json_is_text(v, "integer")) {
            if (out.n_numbers == 0)
                out.numbers = integers;
            out.n_numbers = 1;
        } else if (!json_is_text(v, "array") && !json_is_text(v, "object")) {
            normal_refuse(n, SERVERD_INVALID, type, "type: unknown");
            return out;
        }
    }
    return out;
}

static const struct decimal *number_word(struct normal *n, const struct json_value *schema,
                                         const char *word)
{
    const struct json_value *v = schema_word(n, schema, word);
    if (v && v->kind != JSON_NUMBER) {
        normal_refuse(n, SERVERD_INVALID, v, "%s: no number", word);
        return NULL;
    }
    return v ? v->number : NULL;
}

static void bound_numbers(struct normal *n, struct scalar_set *set, const struct number_set *by)
{
    struct number_part *kept = normal_array(n, 1, sizeof *kept);
    if (!kept)
        return;
    kept->set = *by;
    struct scalar_set other = {.numbers = kept, .n_numbers = 1}, both = {0};
    numbers_and(n, set, &other, &both);
    set->numbers = both.numbers;
    set->n_numbers = both.n_numbers;
}

/* exclusiveMinimum and its like: a number, or up to draft-04 a boolean beside `minimum`. */
static void limit_numbers(struct normal *n, const struct json_value *schema, const char *word,
                          const char *exclusive_word, bool is_low, struct scalar_set *set)
{
    const struct json_value *exclusive = schema_word(n, schema, exclusive_word);
    enum schema_draft draft = schema_draft_of(n->document, schema);
    bool is_flag = exclusive && (exclusive->kind == JSON_TRUE || exclusive->kind == JSON_FALSE) &&
                   (draft == DRAFT_4 || draft == DRAFT_UNSAID);
    const struct decimal *bounds[] = {number_word(n, schema, word),
                                      is_flag ? NULL : number_word(n, schema, exclusive_word)};
    for (int i = 0; i < 2 && normal_ok(n); i++) {
        struct number_set by = number_set_all();
        if (!bounds[i])
            continue;
        bool is_exclusive = i == 1 || (is_flag && exclusive->kind == JSON_TRUE);
        enum number_bound bound = is_exclusive ? BOUND_EXCLUSIVE : BOUND_INCLUSIVE;
        *(is_low ? &by.low : &by.high) = *bounds[i];
        *(is_low ? &by.low_bound : &by.high_bound) = bound;
        bound_numbers(n, set, &by);
    }
}

static void number_words(struct normal *n, const struct json_value *schema, struct scalar_set *set)
{
    limit_numbers(n, schema, "minimum", "exclusiveMinimum", true, set);
    limit_numbers(n, schema, "maximum", "exclusiveMaximum", false, set);
    const struct decimal *multiple = number_word(n, schema, "multipleOf");
    if (!multiple)
        return;
    struct number_set by = number_set_all();
    serverd_status status = number_step_make(multiple, &by.multiple, n->err);
    if (status != SERVERD_OK)
        normal_failed(n, status, schema_word(n, schema, "multipleOf"));
    else
        bound_numbers(n, set, &by);
}

static void bound_strings(struct normal *n, struct scalar_set *set, const struct string_set *by)
{
    struct scalar_set other = {.strings = by, .n_strings = string_set_is_empty(by) ? 0 : 1};
    struct scalar_set both = {0};
    strings_and(n, set, &other, &both);
    set->strings = both.strings;
    set->n_strings = both.n_strings;
}

/* Drafts since 2019-09 say that `format` is an annotation; whoever writes none of them means it. */
static bool enforces_format(const struct normal *n, const struct json_value *schema)
{
    enum schema_draft draft = schema_draft_of(n->document, schema);
    return n->produces || (draft != DRAFT_2019 && draft != DRAFT_2020);
}

static const struct string_set *known_format(struct normal *n, const struct json_value *name,
                                             bool is_inside_not)
{
    for (uint32_t i = 0; i < n->n_formats; i++)
        if (n->formats[i].is_inside_not == is_inside_not &&
            json_value_equal(n->formats[i].name, name))
            return &n->formats[i].set;
    enum format_use use = n->produces && !is_inside_not ? FORMAT_PRODUCE : FORMAT_CHECK;
    struct string_set *set = normal_array(n, 1, sizeof *set);
    if (!set || !check(n, format_set(n->budget, name->text, name->n, use, set, n->err)))
        return NULL;
    if (n->n_formats < sizeof n->formats / sizeof *n->formats)
        n->formats[n->n_formats++] = (struct known_format){name, is_inside_not, *set};
    return set;
}

static void string_words(struct normal *n, const struct json_value *schema, bool is_inside_not,
                         struct scalar_set *set)
{
    uint32_t min = schema_count(n, schema, "minLength", 0);
    uint32_t max = schema_count(n, schema, "maxLength", UNBOUNDED);
    const struct json_value *pattern = schema_word(n, schema, "pattern");
    const struct json_value *format = schema_word(n, schema, "format");
    if (pattern && pattern->kind != JSON_STRING)
        normal_refuse(n, SERVERD_INVALID, pattern, "pattern: no string");
    if (!normal_ok(n) || set->n_strings == 0)
        return;
    if (min > 0 || max != UNBOUNDED) {
        struct string_set *by = normal_array(n, 1, sizeof *by);
        if (by &&
            check(n, string_set_make(n->budget, n->any_string.automaton, min, max, by, n->err)))
            bound_strings(n, set, by);
    }
    if (pattern && normal_ok(n)) {
        const struct string_set *by = schema_pattern(n, pattern, pattern->text, pattern->n);
        if (by)
            bound_strings(n, set, by);
    }
    if (format && format->kind == JSON_STRING && enforces_format(n, schema) &&
        format_is_known(format->text, format->n) && normal_ok(n)) {
        const struct string_set *by = known_format(n, format, is_inside_not);
        if (by)
            bound_strings(n, set, by);
    }
}

/* Of each schema in a list; `word` is anyOf, oneOf or allOf. */
static void list_words(struct normal *n, const struct json_value *list, const char *word,
                       bool is_inside_not, struct scalar_set *set)
{
    struct scalar_set sum = {0};
    if (list->kind != JSON_ARRAY || list->n == 0) {
        normal_refuse(n, SERVERD_INVALID, list, "%s: no list of schemas", word);
        return;
    }
    for (const struct json_value *v = list->first; v && normal_ok(n); v = v->next) {
        struct scalar_set one = scalars_of(n, literal_of_schema(n, v), is_inside_not);
        if (word[0] == 'a' && word[1] == 'l') { /* allOf */
            *set = scalars_and(n, *set, one);
            continue;
        }
        for (const struct json_value *other = list->first;
             word[0] == 'o' && other && normal_ok(n) && !scalars_are_empty(&one);
             other = other->next)
            if (other != v)
                one = scalars_and(
                    n, one,
                    scalars_not(n, scalars_of(n, literal_of_schema(n, other), !is_inside_not)));
        sum = scalars_or(n, sum, one);
    }
    if (strcmp(word, "allOf") != 0)
        *set = scalars_and(n, *set, sum);
}

static void combining_words(struct normal *n, const struct json_value *schema, bool is_inside_not,
                            struct scalar_set *set)
{
    static const char *const words[] = {"allOf", "anyOf", "oneOf"};
    for (int i = 0; i < 3 && normal_ok(n); i++) {
        const struct json_value *list = schema_word(n, schema, words[i]);
        if (list)
            list_words(n, list, words[i], is_inside_not, set);
    }
    const struct json_value *negated = schema_word(n, schema, "not");
    if (negated && normal_ok(n))
        *set = scalars_and(
            n, *set, scalars_not(n, scalars_of(n, literal_of_schema(n, negated), !is_inside_not)));
    const struct json_value *condition = schema_word(n, schema, "if");
    const struct json_value *then = schema_word(n, schema, "then");
    const struct json_value *otherwise = schema_word(n, schema, "else");
    if (condition && (then || otherwise) && normal_ok(n)) {
        uint32_t test = literal_of_schema(n, condition);
        struct scalar_set yes = scalars_of(n, test, is_inside_not);
        struct scalar_set no = scalars_not(n, scalars_of(n, test, !is_inside_not));
        if (then)
            yes = scalars_and(n, yes, scalars_of(n, literal_of_schema(n, then), is_inside_not));
        if (otherwise)
            no = scalars_and(n, no, scalars_of(n, literal_of_schema(n, otherwise), is_inside_not));
        *set = scalars_and(n, *set, scalars_or(n, yes, no));
    }
}

static struct scalar_set of_schema(struct normal *n, const struct json_value *schema,
                                   bool is_inside_not)
{
    struct scalar_set set = scalars_all(n);
    uint32_t target;
    bool is_all;
    for (uint32_t i = 0; normal_ok(n) && schema_reference(n, schema, &target, i, &is_all); i++) {
        set = scalars_and(n, set, scalars_of(n, target, is_inside_not));
        if (is_all)
            return set;
    }
    const struct json_value *type = schema_word(n, schema, "type");
    const struct json_value *constant = schema_word(n, schema, "const");
    const struct json_value *members = schema_word(n, schema, "enum");
    if (members && members->kind != JSON_ARRAY)
        normal_refuse(n, SERVERD_INVALID, members, "enum: no list");
    if (!normal_ok(n))
        return set;
    if (type)
        set = scalars_and(n, set, of_type(n, type));
    if (constant)
        set = scalars_and(n, set, constants(n, constant, false));
    if (members)
        set = scalars_and(n, set, constants(n, members->first, true));
    if (normal_ok(n))
        number_words(n, schema, &set);
    if (normal_ok(n))
        string_words(n, schema, is_inside_not, &set);
    if (normal_ok(n))
        combining_words(n, schema, is_inside_not, &set);
    return set;
}

struct scalar_set scalars_of(struct normal *n, uint32_t index, bool is_inside_not)
{
    struct scalar_set out = {0};
    if (index <= LITERAL_FALSE || !normal_ok(n))
        return index == LITERAL_TRUE ? scalars_all(n) : out;
    if (index % 2)
        return scalars_not(n, scalars_of(n, index ^ 1, !is_inside_not));
    struct literal *literal = literal_at(n, index);
    if (literal->scalars_progress[is_inside_not] == PROGRESS_DONE)
        return literal->scalars[is_inside_not];
    if (literal->scalars_progress[is_inside_not] == PROGRESS_RUNNING) {
        if (literal->scalars_level[is_inside_not] < n->level)
            n->is_stuck = true;
        else
            normal_refuse(n, SERVERD_INVALID, literal->json, "$ref: leads to itself");
        return out;
    }
    if (++n->depth > LIMIT_GRAMMAR_DEPTH) {
        normal_refuse(n, SERVERD_TIMEOUT, literal->json, "schemas refer too deeply");
    } else {
        serverd_status status = grammar_budget_spend(n->budget, 1, n->err);
        if (status != SERVERD_OK)
            normal_failed(n, status, NULL);
    }
    const struct json_value *outer = n->place;
    n->place = literal->json ? literal->json : outer;
    literal->scalars_progress[is_inside_not] = PROGRESS_RUNNING;
    literal->scalars_level[is_inside_not] = n->level;
    if (!normal_ok(n))
        ;
    else if (literal->kind == LITERAL_CONSTANT)
        out = constants(n, literal->json, false);
    else if (literal->kind == LITERAL_EITHER)
        out = scalars_or(n, scalars_of(n, literal->either[0], is_inside_not),
                         scalars_of(n, literal->either[1], is_inside_not));
    else
        out = of_schema(n, literal->json, is_inside_not);
    n->depth--;
    n->place = outer;
    literal->scalars[is_inside_not] = out;
    literal->scalars_progress[is_inside_not] = normal_ok(n) ? PROGRESS_DONE : PROGRESS_NONE;
    return out;
}
