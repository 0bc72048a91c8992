#include "text/call_pattern.h"

#include "base/error.h"
#include "text/tokenizer.h"

#include <string.h>

static const struct {
    const char *name;
    enum call_slot slot;
} slots[] = {
    {"name", SLOT_NAME},     {"index_name", SLOT_INDEX_NAME}, {"id", SLOT_ID},
    {"skip", SLOT_SKIP},     {"recipient", SLOT_RECIPIENT},   {"arguments", SLOT_ARGUMENTS},
    {"call", SLOT_CALL},     {"calls", SLOT_CALLS},           {"named_calls", SLOT_NAMED_CALLS},
    {"python", SLOT_PYTHON}, {"object", SLOT_OBJECT},         {"parameters", SLOT_PARAMETERS},
    {"key", SLOT_KEY},       {"value", SLOT_VALUE},           {"type", SLOT_TYPE},
};

struct mark mark_make(const struct tokenizer *tokenizer, const char *text, size_t n)
{
    struct mark mark = {.text = text, .n = (uint32_t)n};
    for (size_t begin = 0; tokenizer && begin < n; begin++) {
        for (size_t end = n; end > begin; end--) {
            int32_t id = tokenizer_find(tokenizer, text + begin, end - begin);
            if (id < 0 || !tokenizer_is_control(tokenizer, id))
                continue;
            for (size_t i = begin; i < end; i++)
                mark.control |= UINT64_C(1) << i;
            begin = end - 1;
            break;
        }
    }
    return mark;
}

static bool find_slot(const char *text, size_t n, enum call_slot *out)
{
    for (size_t i = 0; i < sizeof slots / sizeof *slots; i++) {
        if (strlen(slots[i].name) == n && memcmp(slots[i].name, text, n) == 0) {
            *out = slots[i].slot;
            return true;
        }
    }
    return false;
}

serverd_status call_pattern_compile(const struct tokenizer *tokenizer, const char *text,
                                    struct call_pattern *out, serverd_error *err)
{
    *out = (struct call_pattern){0};
    for (const char *at = text; *at;) {
        struct call_element *element = &out->elements[out->n_elements];
        const char *end = *at == '{' ? strchr(at, '}') : strchrnul(at, '{');
        /* adjacent marks are literals of their own, so that white space may lie between */
        const char *next = *at == '{' ? NULL : strstr(at + 1, "><");
        if (next && next + 1 < end)
            end = next + 1;
        if (out->n_elements == PATTERN_ELEMENTS || !end || end - at > MARK_BYTES)
            return fail(err, SERVERD_INTERNAL, "tool family: pattern \"%s\" is too long", text);
        if (*at == '{') {
            if (!find_slot(at + 1, (size_t)(end - at - 1), &element->slot))
                return fail(err, SERVERD_INTERNAL, "tool family: pattern \"%s\" has no such slot",
                            text);
            at = end + 1;
        } else {
            element->literal = mark_make(tokenizer, at, (size_t)(end - at));
            at = end;
        }
        out->n_elements++;
    }
    return SERVERD_OK;
}
