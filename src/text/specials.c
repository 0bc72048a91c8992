#include "base/error.h"
#include "base/numeric.h"
#include "text/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

/* Text and kind of one of them. */
struct special {
    const char *bytes;
    uint32_t len;
    int32_t token;
    bool is_control; /* control or unknown, not user-defined */
};

static struct special special_at(const struct tokenizer *tokenizer, uint32_t index)
{
    const uint32_t id = tokenizer->specials.ids[index];
    const uint32_t begin = tokenizer->texts.offsets[id];
    return (struct special){.bytes = tokenizer->texts.bytes + begin,
                            .len = tokenizer->texts.offsets[id + 1] - begin,
                            .token = (int32_t)id,
                            .is_control = tokenizer->types[id] != TOKEN_USER_DEFINED};
}

void specials_init(struct specials *specials)
{
    const struct tokenizer_trie_node *root = &specials->nodes[0];
    for (uint32_t i = 0; i < root->n_children; i++)
        specials->root_child[specials->nodes[root->first_child + i].byte] = root->first_child + i;
}

/* 0: it has none. */
static uint32_t find_child(const struct specials *s, uint32_t node, uint8_t byte)
{
    if (node == 0)
        return s->root_child[byte];
    const struct tokenizer_trie_node *children = &s->nodes[s->nodes[node].first_child];
    for (uint32_t i = 0; i < s->nodes[node].n_children && children[i].byte <= byte; i++)
        if (children[i].byte == byte)
            return s->nodes[node].first_child + i;
    return 0;
}

uint32_t specials_control_at(const struct tokenizer *tokenizer, const char *text, size_t n)
{
    const struct specials *s = &tokenizer->specials;
    uint32_t node = 0, longest = 0;
    for (size_t i = 0; i < n && (node = find_child(s, node, (uint8_t)text[i])); i++) {
        uint32_t special = s->nodes[node].special;
        if (special && special_at(tokenizer, special - 1).is_control)
            longest = (uint32_t)i + 1;
    }
    return longest;
}

/* Marks every special text that occurs anywhere. */
static void mark_present(const struct specials *s, const char *text, size_t n, bool *is_present)
{
    for (size_t begin = 0; begin < n; begin++) {
        uint32_t node = s->root_child[(uint8_t)text[begin]];
        for (size_t i = begin + 1; node; i++) {
            if (s->nodes[node].special)
                is_present[s->nodes[node].special - 1] = true;
            node = i < n ? find_child(s, node, (uint8_t)text[i]) : 0;
        }
    }
}

bool stretch_list_add(struct stretch_list *list, size_t begin, size_t end, int32_t token)
{
    if (begin == end)
        return true;
    if (list->n == list->cap) {
        size_t cap = max_size(16, list->cap * 2), bytes;
        struct stretch *bigger =
            size_mul(cap, sizeof *bigger, &bytes) ? realloc(list->items, bytes) : NULL;
        if (!bigger)
            return false;
        list->items = bigger;
        list->cap = cap;
    }
    list->items[list->n++] = (struct stretch){begin, end, token};
    return true;
}

/* Cuts the plain stretches of `in` at every occurrence of one special text. */
static bool cut(const struct special *special, const char *text, const struct stretch_list *in,
                struct stretch_list *out)
{
    bool fits = true;
    out->n = 0;
    for (size_t i = 0; i < in->n && fits; i++) {
        struct stretch s = in->items[i];
        while (s.token == NO_TOKEN && fits) {
            const char *at = memmem(text + s.begin, s.end - s.begin, special->bytes, special->len);
            if (!at)
                break;
            size_t begin = (size_t)(at - text);
            fits = stretch_list_add(out, s.begin, begin, NO_TOKEN) &&
                   stretch_list_add(out, begin, begin + special->len, special->token);
            s.begin = begin + special->len;
        }
        fits = fits && stretch_list_add(out, s.begin, s.end, s.token);
    }
    return fits;
}

serverd_status specials_split(const struct tokenizer *tokenizer, const char *text, size_t n,
                              bool parses_control, struct stretch_list *out, serverd_error *err)
{
    const struct specials *s = &tokenizer->specials;
    struct stretch_list spare = {0};
    bool *is_present = calloc(max_size(s->n, 1), sizeof *is_present);
    bool fits = is_present && stretch_list_add(out, 0, n, NO_TOKEN);
    if (fits)
        mark_present(s, text, n, is_present);
    for (uint32_t i = 0; i < s->n && fits; i++) {
        const struct special special = special_at(tokenizer, i);
        if (!is_present[i] || (special.is_control && !parses_control))
            continue;
        fits = cut(&special, text, out, &spare);
        struct stretch_list swap = *out;
        *out = spare;
        spare = swap;
    }
    free(spare.items);
    free(is_present);
    return fits ? SERVERD_OK : fail(err, SERVERD_NOMEM, "no memory to split %zu bytes", n);
}
