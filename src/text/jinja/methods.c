/* Methods of strings, dicts, lists, loops and cyclers. What changes a value (append, update, ...)
 * does not exist here, as in an immutable sandbox. */
#include "text/jinja/eval.h"
#include "text/jinja/text_internal.h"

#include <string.h>

typedef const struct arguments args_t;

static struct text empty_text(void)
{
    return (struct text){"", 0};
}

/* ---- arguments ---- */

/* A string argument; NULL with an error if it is absent or something else. */
static struct template_value *string_argument(struct eval *ev, args_t *a, size_t i,
                                              const char *name)
{
    struct template_value *v = argument(a, i, name);
    if (v && v->kind == VALUE_STRING)
        return v;
    return eval_fail(ev, "argument '%s' must be str, not %s", name,
                     v ? value_type_name(v) : "missing");
}

/* An optional integer. */
static bool integer_argument(struct eval *ev, args_t *a, size_t i, const char *name, int64_t *out)
{
    const struct template_value *v = argument(a, i, name);
    if (!v || v->kind == VALUE_NONE)
        return true;
    if (v->kind != VALUE_INT && v->kind != VALUE_BOOL)
        return eval_fail(ev, "argument '%s' must be int, not %s", name, value_type_name(v)) != NULL;
    *out = value_integer(v);
    return true;
}

/* The part of `t` from argument i (start) to i + 1 (end); *skipped is its offset. */
static bool range_argument(struct eval *ev, args_t *a, size_t i, struct text *t, size_t *skipped)
{
    *skipped = 0;
    if (a->n <= i)
        return true;
    const int64_t n = (int64_t)text_length(*t);
    int64_t start = 0, end = n;
    if (!integer_argument(ev, a, i, "start", &start) ||
        !integer_argument(ev, a, i + 1, "end", &end))
        return false;
    start = start < -n ? 0 : start < 0 ? start + n : start;
    end = end < -n ? 0 : end < 0 ? end + n : end > n ? n : end;
    if (start > n || end < start) {
        *t = (struct text){NULL, 0};
        return true;
    }
    const size_t from = text_offset(*t, (size_t)start), to = text_offset(*t, (size_t)end);
    *skipped = from;
    *t = (struct text){t->s + from, to - from};
    return true;
}

/* ---- strings: parts ---- */

static struct template_value *strip(struct eval *ev, struct template_value *v, args_t *a, int sides)
{
    const struct template_value *chars = argument(a, 0, NULL);
    if (chars && chars->kind != VALUE_STRING && chars->kind != VALUE_NONE)
        return eval_fail(ev, "strip arg must be None or str, not %s", value_type_name(chars));
    const struct text t = text_strip(v->text, chars, sides);
    return eval_string(ev, t.s, t.n);
}

static struct template_value *str_strip(struct eval *ev, struct template_value *v, args_t *a)
{
    return strip(ev, v, a, 3);
}

static struct template_value *str_lstrip(struct eval *ev, struct template_value *v, args_t *a)
{
    return strip(ev, v, a, 1);
}

static struct template_value *str_rstrip(struct eval *ev, struct template_value *v, args_t *a)
{
    return strip(ev, v, a, 2);
}

static bool add_text(struct eval *ev, struct template_value *list, const char *s, size_t n)
{
    return eval_add(ev, list, eval_string(ev, s, n));
}

static void reverse(struct template_value *list)
{
    for (size_t i = 0, k = list->n; i + 1 < k; i++) {
        struct template_value *swapped = list->items[i];
        list->items[i] = list->items[--k];
        list->items[k] = swapped;
    }
}

static struct template_value *split_at(struct eval *ev, struct text t, struct text separator,
                                       int64_t max, bool from_end)
{
    struct template_value *out = eval_got(ev, template_list(ev->arena));
    size_t at, len;
    if (separator.n == 0)
        return eval_fail(ev, "empty separator");
    for (; out && max != 0 && text_find(t, separator, from_end, &at, &len); max--) {
        const struct text part =
            from_end ? (struct text){t.s + at + len, t.n - at - len} : (struct text){t.s, at};
        if (!add_text(ev, out, part.s, part.n))
            return NULL;
        t = from_end ? (struct text){t.s, at} : (struct text){t.s + at + len, t.n - at - len};
    }
    if (!out || !add_text(ev, out, t.s, t.n))
        return NULL;
    if (from_end)
        reverse(out);
    return out;
}

/* Bytes of the leading run of characters that are (or are not) white space; from the end with
 * `from_end`. */
static size_t run_length(struct text t, bool spaces, bool from_end)
{
    size_t n = 0;
    while (n < t.n) {
        const struct text rest =
            from_end ? (struct text){t.s, t.n - n} : (struct text){t.s + n, t.n - n};
        const size_t len = from_end ? text_last(rest) : text_offset(rest, 1);
        const char *s = from_end ? rest.s + rest.n - len : rest.s;
        if (text_is_space(s, len) != spaces)
            break;
        n += len;
    }
    return n;
}

static struct template_value *split_words(struct eval *ev, struct text t, int64_t max,
                                          bool from_end)
{
    struct template_value *out = eval_got(ev, template_list(ev->arena));
    while (out) {
        const size_t spaces = run_length(t, true, from_end);
        t = (struct text){from_end ? t.s : t.s + spaces, t.n - spaces};
        if (t.n == 0)
            break;
        size_t n = run_length(t, false, from_end);
        if (max-- == 0) /* the rest, as it stands */
            n = t.n;
        if (!add_text(ev, out, from_end ? t.s + t.n - n : t.s, n))
            return NULL;
        t = (struct text){from_end ? t.s : t.s + n, t.n - n};
        if (max == -1)
            break;
    }
    if (out && from_end)
        reverse(out);
    return out;
}

static struct template_value *split(struct eval *ev, struct text t, args_t *a, bool from_end)
{
    const struct template_value *separator = argument(a, 0, "sep");
    int64_t max = -1;
    if (!integer_argument(ev, a, 1, "maxsplit", &max))
        return NULL;
    if (max < 0)
        max = INT64_MAX;
    if (!separator || separator->kind == VALUE_NONE)
        return split_words(ev, t, max, from_end);
    if (separator->kind != VALUE_STRING)
        return eval_fail(ev, "must be str or None, not %s", value_type_name(separator));
    return split_at(ev, t, separator->text, max, from_end);
}

static struct template_value *str_split(struct eval *ev, struct template_value *v, args_t *a)
{
    return split(ev, v->text, a, false);
}

static struct template_value *str_rsplit(struct eval *ev, struct template_value *v, args_t *a)
{
    return split(ev, v->text, a, true);
}

static struct template_value *partition(struct eval *ev, struct text t, args_t *a, bool from_end)
{
    const struct template_value *separator = string_argument(ev, a, 0, "sep");
    struct template_value *out = eval_got(ev, value_new(ev->arena, VALUE_TUPLE));
    size_t at = 0, len = 0;
    if (!separator || !out)
        return NULL;
    if (separator->text.n == 0)
        return eval_fail(ev, "empty separator");
    const bool is_found = text_find(t, separator->text, from_end, &at, &len);
    if (!is_found) {
        at = from_end ? 0 : t.n;
        len = 0;
    }
    const struct text middle = is_found ? separator->text : empty_text();
    return add_text(ev, out, t.s, at) && add_text(ev, out, middle.s, middle.n) &&
                   add_text(ev, out, t.s + at + len, t.n - at - len)
               ? out
               : NULL;
}

static struct template_value *str_partition(struct eval *ev, struct template_value *v, args_t *a)
{
    return partition(ev, v->text, a, false);
}

static struct template_value *str_rpartition(struct eval *ev, struct template_value *v, args_t *a)
{
    return partition(ev, v->text, a, true);
}

static struct template_value *str_splitlines(struct eval *ev, struct template_value *v, args_t *a)
{
    const struct template_value *keep = argument(a, 0, "keepends");
    const bool keeps = keep && value_is_true(keep);
    struct template_value *out = eval_got(ev, template_list(ev->arena));
    size_t begin = 0;
    for (size_t at = 0; out && at < v->text.n;) {
        const size_t n = text_line_break((struct text){v->text.s + at, v->text.n - at});
        if (n && !add_text(ev, out, v->text.s + begin, at - begin + (keeps ? n : 0)))
            return NULL;
        at += n ? n : 1;
        begin = n ? at : begin;
    }
    if (out && begin < v->text.n && !add_text(ev, out, v->text.s + begin, v->text.n - begin))
        return NULL;
    return out;
}

/* ---- strings: search ---- */

static struct template_value *find_text(struct eval *ev, struct template_value *v, args_t *a,
                                        bool from_end, bool must_exist)
{
    const struct template_value *needle = string_argument(ev, a, 0, "sub");
    struct text t = v->text;
    size_t skipped, at, len;
    if (!needle || !range_argument(ev, a, 1, &t, &skipped) || !eval_step(ev, 1 + t.n / 256))
        return NULL;
    if (!t.s || !text_find(t, needle->text, from_end, &at, &len))
        return must_exist ? eval_fail(ev, "substring not found") : eval_int(ev, -1);
    return eval_int(ev, (int64_t)text_length((struct text){v->text.s, skipped + at}));
}

static struct template_value *str_find(struct eval *ev, struct template_value *v, args_t *a)
{
    return find_text(ev, v, a, false, false);
}

static struct template_value *str_rfind(struct eval *ev, struct template_value *v, args_t *a)
{
    return find_text(ev, v, a, true, false);
}

static struct template_value *str_index(struct eval *ev, struct template_value *v, args_t *a)
{
    return find_text(ev, v, a, false, true);
}

static struct template_value *str_rindex(struct eval *ev, struct template_value *v, args_t *a)
{
    return find_text(ev, v, a, true, true);
}

static struct template_value *str_count(struct eval *ev, struct template_value *v, args_t *a)
{
    const struct template_value *needle = string_argument(ev, a, 0, "sub");
    struct text t = v->text;
    size_t skipped, at, len;
    int64_t count = 0;
    if (!needle || !range_argument(ev, a, 1, &t, &skipped) || !eval_step(ev, 1 + t.n / 256))
        return NULL;
    if (t.s && needle->text.n == 0)
        return eval_int(ev, (int64_t)text_length(t) + 1);
    for (; t.s && text_find(t, needle->text, false, &at, &len); count++)
        t = (struct text){t.s + at + len, t.n - at - len};
    return eval_int(ev, count);
}

static bool has_affix(struct text t, struct text affix, bool at_end)
{
    size_t len;
    return t.s && (at_end ? text_ends_with(t, affix, &len) : text_begins_with(t, affix, &len));
}

static struct template_value *test_affix(struct eval *ev, struct template_value *v, args_t *a,
                                         bool at_end)
{
    const struct template_value *affix = argument(a, 0, NULL);
    struct text t = v->text;
    size_t skipped;
    if (!range_argument(ev, a, 1, &t, &skipped))
        return NULL;
    if (affix && affix->kind == VALUE_STRING)
        return eval_bool(ev, has_affix(t, affix->text, at_end));
    bool is_found = false;
    for (size_t i = 0; affix && affix->kind == VALUE_TUPLE && i < affix->n; i++) {
        if (affix->items[i]->kind != VALUE_STRING)
            return eval_fail(ev, "tuple for startswith must only contain str");
        is_found = is_found || has_affix(t, affix->items[i]->text, at_end);
    }
    if (!affix || affix->kind != VALUE_TUPLE)
        return eval_fail(ev, "first arg must be str or a tuple of str, not %s",
                         affix ? value_type_name(affix) : "missing");
    return eval_bool(ev, is_found);
}

static struct template_value *str_startswith(struct eval *ev, struct template_value *v, args_t *a)
{
    return test_affix(ev, v, a, false);
}

static struct template_value *str_endswith(struct eval *ev, struct template_value *v, args_t *a)
{
    return test_affix(ev, v, a, true);
}

static struct template_value *str_removeprefix(struct eval *ev, struct template_value *v, args_t *a)
{
    const struct template_value *prefix = string_argument(ev, a, 0, "prefix");
    size_t n;
    if (!prefix || !text_begins_with(v->text, prefix->text, &n))
        return prefix ? v : NULL;
    return eval_string(ev, v->text.s + n, v->text.n - n);
}

static struct template_value *str_removesuffix(struct eval *ev, struct template_value *v, args_t *a)
{
    const struct template_value *suffix = string_argument(ev, a, 0, "suffix");
    size_t n;
    if (!suffix || !text_ends_with(v->text, suffix->text, &n))
        return suffix ? v : NULL;
    return eval_string(ev, v->text.s, v->text.n - n);
}

static struct template_value *str_replace(struct eval *ev, struct template_value *v, args_t *a)
{
    const struct template_value *old = string_argument(ev, a, 0, "old");
    const struct template_value *new = old ? string_argument(ev, a, 1, "new") : NULL;
    int64_t max = -1;
    if (!new || !integer_argument(ev, a, 2, "count", &max))
        return NULL;
    struct text t = v->text;
    struct buffer b;
    eval_buffer(ev, &b);
    for (; max != 0 && !b.is_failed && eval_step(ev, 1); max--) {
        size_t at = 0, len = 0;
        if (!text_find(t, old->text, false, &at, &len))
            break;
        buffer_append(&b, t.s, at);
        buffer_append(&b, new->text.s, new->text.n);
        if (len == 0) { /* an empty needle stands before each character and at the end */
            if (t.n == 0)
                break;
            len = text_offset(t, 1);
            buffer_append(&b, t.s, len);
            t = (struct text){t.s + len, t.n - len};
            continue;
        }
        t = (struct text){t.s + at + len, t.n - at - len};
    }
    buffer_append(&b, t.s, t.n);
    return eval_take(ev, &b);
}

static struct template_value *str_join(struct eval *ev, struct template_value *v, args_t *a)
{
    struct template_value *list = a->n == 1 ? eval_list_of(ev, a->items[0])
                                            : eval_fail(ev, "join() takes exactly one argument");
    struct buffer b;
    eval_buffer(ev, &b);
    for (size_t i = 0; list && i < list->n; i++) {
        if (list->items[i]->kind != VALUE_STRING) {
            (void)eval_fail(ev, "sequence item %zu: expected str instance, %s found", i,
                            value_type_name(list->items[i]));
            break;
        }
        if (i > 0)
            buffer_append(&b, v->text.s, v->text.n);
        buffer_append(&b, list->items[i]->text.s, list->items[i]->text.n);
    }
    return eval_take(ev, &b);
}

/* ---- strings: case and layout ---- */

static struct template_value *str_upper(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)a;
    return text_recased(ev, v->text, CASE_UPPER);
}

static struct template_value *str_lower(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)a;
    return text_recased(ev, v->text, CASE_LOWER);
}

static struct template_value *str_title(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)a;
    return text_recased(ev, v->text, CASE_TITLE);
}

static struct template_value *str_capitalize(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)a;
    return text_recased(ev, v->text, CASE_CAPITALIZED);
}

static struct template_value *str_swapcase(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)a;
    return text_recased(ev, v->text, CASE_SWAPPED);
}

/* left and right say on which sides the padding goes. */
static struct template_value *justify(struct eval *ev, struct template_value *v, args_t *a,
                                      bool left, bool right)
{
    int64_t width = 0;
    const struct template_value *fill = argument(a, 1, "fillchar");
    if (!integer_argument(ev, a, 0, "width", &width))
        return NULL;
    if (fill && (fill->kind != VALUE_STRING || text_length(fill->text) != 1))
        return eval_fail(ev, "The fill character must be exactly one character long");
    const int64_t n = (int64_t)text_length(v->text), room = width > n ? width - n : 0;
    int64_t before = 0;
    if (left && right)
        before = room / 2 + (room & width & 1); /* as CPython rounds */
    else if (left)
        before = room;
    struct buffer b;
    eval_buffer(ev, &b);
    for (int64_t i = 0; i <= room && !b.is_failed; i++) {
        if (i == before)
            buffer_append(&b, v->text.s, v->text.n);
        if (i < room)
            buffer_append(&b, fill ? fill->text.s : " ", fill ? fill->text.n : 1);
    }
    return eval_take(ev, &b);
}

static struct template_value *str_ljust(struct eval *ev, struct template_value *v, args_t *a)
{
    return justify(ev, v, a, false, true);
}

static struct template_value *str_rjust(struct eval *ev, struct template_value *v, args_t *a)
{
    return justify(ev, v, a, true, false);
}

static struct template_value *str_center(struct eval *ev, struct template_value *v, args_t *a)
{
    return justify(ev, v, a, true, true);
}

static struct template_value *str_zfill(struct eval *ev, struct template_value *v, args_t *a)
{
    int64_t width = 0;
    if (!integer_argument(ev, a, 0, "width", &width))
        return NULL;
    const size_t sign = v->text.n > 0 && (v->text.s[0] == '-' || v->text.s[0] == '+');
    struct buffer b;
    eval_buffer(ev, &b);
    buffer_append(&b, v->text.s, sign);
    for (int64_t i = (int64_t)text_length(v->text); i < width && !b.is_failed; i++)
        buffer_append_char(&b, '0');
    buffer_append(&b, v->text.s + sign, v->text.n - sign);
    return eval_take(ev, &b);
}

static struct template_value *str_expandtabs(struct eval *ev, struct template_value *v, args_t *a)
{
    int64_t size = 8, column = 0;
    if (!integer_argument(ev, a, 0, "tabsize", &size))
        return NULL;
    struct buffer b;
    eval_buffer(ev, &b);
    for (size_t at = 0; at < v->text.n && !b.is_failed;) {
        const size_t n = text_offset((struct text){v->text.s + at, v->text.n - at}, 1);
        const char c = v->text.s[at];
        if (c == '\t') {
            for (int64_t k = size > 0 ? size - column % size : 0; k > 0 && !b.is_failed; k--)
                buffer_append_char(&b, ' '), column++;
        } else {
            buffer_append(&b, v->text.s + at, n);
            column = c == '\n' || c == '\r' ? 0 : column + 1;
        }
        at += n;
    }
    return eval_take(ev, &b);
}

static struct template_value *str_format(struct eval *ev, struct template_value *v, args_t *a)
{
    return format_braces(ev, v, a);
}

static struct template_value *str_format_map(struct eval *ev, struct template_value *v, args_t *a)
{
    if (a->n != 1 || a->items[0]->kind != VALUE_MAP)
        return eval_fail(ev, "format_map() takes a mapping");
    const struct arguments args = {NULL, 0, a->items[0]};
    return format_braces(ev, v, &args);
}

/* ---- strings: character classes ---- */

static struct template_value *str_isalnum(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)a;
    return eval_bool(ev, text_is_all(v->text, CLASS_ALNUM));
}

static struct template_value *str_isalpha(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)a;
    return eval_bool(ev, text_is_all(v->text, CLASS_ALPHA));
}

static struct template_value *str_isascii(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)a;
    return eval_bool(ev, v->text.n == 0 || text_is_all(v->text, CLASS_ASCII));
}

static struct template_value *str_isdigit(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)a;
    return eval_bool(ev, text_is_all(v->text, CLASS_DIGIT));
}

static struct template_value *str_isdecimal(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)a;
    return eval_bool(ev, text_is_all(v->text, CLASS_DECIMAL));
}

static struct template_value *str_isnumeric(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)a;
    return eval_bool(ev, text_is_all(v->text, CLASS_NUMERIC));
}

static struct template_value *str_isspace(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)a;
    return eval_bool(ev, text_is_all(v->text, CLASS_SPACE));
}

static struct template_value *str_isprintable(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)a;
    return eval_bool(ev, v->text.n == 0 || text_is_all(v->text, CLASS_PRINTABLE));
}

static struct template_value *str_isidentifier(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)a;
    return eval_bool(ev, text_is_all(v->text, CLASS_WORD) &&
                             !(v->text.s[0] >= '0' && v->text.s[0] <= '9'));
}

static struct template_value *str_islower(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)a;
    return eval_bool(ev, text_is_cased(v->text, CASE_LOWER));
}

static struct template_value *str_isupper(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)a;
    return eval_bool(ev, text_is_cased(v->text, CASE_UPPER));
}

static struct template_value *str_istitle(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)a;
    return eval_bool(ev, text_is_cased(v->text, CASE_TITLE));
}

/* ---- dicts ---- */

enum map_part { MAP_KEYS = 1, MAP_VALUES = 2, MAP_ITEMS = 3 };

static struct template_value *map_list(struct eval *ev, const struct template_value *map, int part)
{
    static const char *const names[] = {
        [MAP_KEYS] = "dict_keys", [MAP_VALUES] = "dict_values", [MAP_ITEMS] = "dict_items"};
    struct template_value *out = eval_got(ev, template_list(ev->arena));
    if (out && !(out->self = eval_got(ev, value_text(ev->arena, names[part], strlen(names[part])))))
        return NULL;
    for (size_t i = 0; out && i < map->n; i++) {
        struct template_value *item = map->map.entries[i].key;
        if (!eval_step(ev, 1))
            return NULL;
        if (part == MAP_VALUES)
            item = map->map.entries[i].value;
        if (part == MAP_ITEMS) {
            item = eval_got(ev, value_new(ev->arena, VALUE_TUPLE));
            if (!eval_add(ev, item, map->map.entries[i].key) ||
                !eval_add(ev, item, map->map.entries[i].value))
                return NULL;
        }
        if (!eval_add(ev, out, item))
            return NULL;
    }
    return out;
}

static struct template_value *dict_keys(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)a;
    return map_list(ev, v, MAP_KEYS);
}

static struct template_value *dict_values(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)a;
    return map_list(ev, v, MAP_VALUES);
}

static struct template_value *dict_items(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)a;
    return map_list(ev, v, MAP_ITEMS);
}

static struct template_value *dict_get(struct eval *ev, struct template_value *v, args_t *a)
{
    if (a->n == 0 || a->keywords->n > 0)
        return eval_fail(ev, "get takes one or two positional arguments");
    if (!value_is_hashable(a->items[0]))
        return eval_fail(ev, "unhashable type: '%s'", value_type_name(a->items[0]));
    struct template_value *got = value_map_get(v, a->items[0]);
    if (!got && a->n > 1)
        got = a->items[1];
    return got ? got : eval_got(ev, template_none(ev->arena));
}

static struct template_value *any_copy(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)ev;
    (void)a;
    return v; /* nothing can change it */
}

/* ---- lists and tuples ---- */

static struct template_value *list_count(struct eval *ev, struct template_value *v, args_t *a)
{
    int64_t count = 0;
    if (a->n != 1)
        return eval_fail(ev, "count() takes exactly one argument (%zu given)", a->n);
    for (size_t i = 0; i < v->n && eval_step(ev, 1); i++)
        count += value_equal(v->items[i], a->items[0]);
    return ev->status ? NULL : eval_int(ev, count);
}

static struct template_value *list_index(struct eval *ev, struct template_value *v, args_t *a)
{
    int64_t i = 0, end = (int64_t)v->n;
    if (a->n < 1 || !integer_argument(ev, a, 1, "start", &i) ||
        !integer_argument(ev, a, 2, "stop", &end))
        return eval_fail(ev, "index expected at least 1 argument");
    i = i < 0 ? i + (int64_t)v->n : i;
    end = end < 0 ? end + (int64_t)v->n : end;
    for (i = i < 0 ? 0 : i; i < end && i < (int64_t)v->n && eval_step(ev, 1); i++)
        if (value_equal(v->items[i], a->items[0]))
            return eval_int(ev, i);
    return eval_fail(ev, "value is not in list");
}

/* ---- loops and cyclers ---- */

static struct template_value *loop_cycle(struct eval *ev, struct template_value *v, args_t *a)
{
    if (a->n == 0)
        return eval_fail(ev, "no items for cycling given");
    return a->items[v->loop->index % a->n];
}

static struct template_value *loop_changed(struct eval *ev, struct template_value *v, args_t *a)
{
    struct template_value *now = eval_got(ev, value_new(ev->arena, VALUE_TUPLE));
    for (size_t i = 0; i < a->n; i++)
        if (!eval_add(ev, now, a->items[i]))
            return NULL;
    if (!now)
        return NULL;
    const bool is_same = v->loop->last_changed && value_equal(v->loop->last_changed, now);
    v->loop->last_changed = now;
    return eval_bool(ev, !is_same);
}

static struct template_value *cycler_next(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)ev;
    (void)a;
    struct template_value *item = v->items[v->self->integer];
    v->self->integer = (v->self->integer + 1) % (int64_t)v->n;
    return item;
}

static struct template_value *cycler_reset(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)a;
    v->self->integer = 0;
    return eval_got(ev, template_none(ev->arena));
}

/* ---- tables ---- */

#define MANY SIZE_MAX

static const struct jinja_entry str_methods[] = {
    {"capitalize", str_capitalize, 0},
    {"casefold", str_lower, 0},
    {"center", str_center, 2},
    {"count", str_count, 3},
    {"endswith", str_endswith, 3},
    {"expandtabs", str_expandtabs, 1},
    {"find", str_find, 3},
    {"format", str_format, MANY},
    {"format_map", str_format_map, 1},
    {"index", str_index, 3},
    {"isalnum", str_isalnum, 0},
    {"isalpha", str_isalpha, 0},
    {"isascii", str_isascii, 0},
    {"isdecimal", str_isdecimal, 0},
    {"isdigit", str_isdigit, 0},
    {"isidentifier", str_isidentifier, 0},
    {"islower", str_islower, 0},
    {"isnumeric", str_isnumeric, 0},
    {"isprintable", str_isprintable, 0},
    {"isspace", str_isspace, 0},
    {"istitle", str_istitle, 0},
    {"isupper", str_isupper, 0},
    {"join", str_join, 1},
    {"ljust", str_ljust, 2},
    {"lower", str_lower, 0},
    {"lstrip", str_lstrip, 1},
    {"partition", str_partition, 1},
    {"removeprefix", str_removeprefix, 1},
    {"removesuffix", str_removesuffix, 1},
    {"replace", str_replace, 3},
    {"rfind", str_rfind, 3},
    {"rindex", str_rindex, 3},
    {"rjust", str_rjust, 2},
    {"rpartition", str_rpartition, 1},
    {"rsplit", str_rsplit, 2},
    {"rstrip", str_rstrip, 1},
    {"split", str_split, 2},
    {"splitlines", str_splitlines, 1},
    {"startswith", str_startswith, 3},
    {"strip", str_strip, 1},
    {"swapcase", str_swapcase, 0},
    {"title", str_title, 0},
    {"upper", str_upper, 0},
    {"zfill", str_zfill, 1},
    {0},
};

static const struct jinja_entry map_methods[] = {
    {"copy", any_copy, 0},  {"get", dict_get, 2},       {"items", dict_items, 0},
    {"keys", dict_keys, 0}, {"values", dict_values, 0}, {0},
};

static const struct jinja_entry list_methods[] = {
    {"copy", any_copy, 0},
    {"count", list_count, 1},
    {"index", list_index, 3},
    {0},
};

static const struct jinja_entry loop_methods[] = {
    {"changed", loop_changed, MANY},
    {"cycle", loop_cycle, MANY},
    {0},
};

static const struct jinja_entry cycler_methods[] = {
    {"next", cycler_next, 0},
    {"reset", cycler_reset, 0},
    {0},
};

static const struct jinja_entry *find_method(const struct template_value *v, struct text name)
{
    static const struct jinja_entry *const tables[] = {
        [VALUE_STRING] = str_methods, [VALUE_LIST] = list_methods, [VALUE_TUPLE] = list_methods,
        [VALUE_MAP] = map_methods,    [VALUE_LOOP] = loop_methods, [VALUE_CYCLER] = cycler_methods,
        [VALUE_MACRO] = NULL,
    };
    for (const struct jinja_entry *e = tables[v->kind]; e && e->name; e++)
        if (name.n == strlen(e->name) && !memcmp(name.s, e->name, name.n))
            return e;
    return NULL;
}

bool jinja_has_method(const struct template_value *v, struct text name)
{
    return find_method(v, name) != NULL;
}

struct template_value *eval_method(struct eval *ev, struct template_value *self, struct text name,
                                   const struct arguments *args)
{
    const struct jinja_entry *e = find_method(self, name);
    if (!e)
        return eval_fail(ev, "'%s object' has no method '%.*s'", value_type_name(self),
                         (int)(name.n > 80 ? 80 : name.n), name.s);
    if (args->n > e->max_args)
        return eval_fail(ev, "%s() takes at most %zu argument(s)", e->name, e->max_args);
    return eval_step(ev, 1 + (self->kind == VALUE_STRING ? self->text.n / 256 : 0))
               ? e->call(ev, self, args)
               : NULL;
}
