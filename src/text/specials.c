#include "base/error.h"
#include "base/numeric.h"
#include "text/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

/* A trie of all special texts; children of a node are a linked list. */
struct trie_node {
    uint32_t child, sibling; /* 0: none */
    uint32_t special;        /* index + 1 of the text that ends here */
    uint8_t byte;
};

struct special {
    const char *bytes;
    uint32_t len;
    int32_t token;
    bool is_control; /* control or unknown, not user-defined */
};

struct specials {
    struct special *items; /* longest first, then by id */
    size_t n;
    struct trie_node *nodes; /* node 0 is the root */
    size_t n_nodes;
    uint32_t root_child[256];
};

static bool is_special(const struct token_text *token, uint8_t type)
{
    return token->len > 0 &&
           (type == TOKEN_CONTROL || type == TOKEN_USER_DEFINED || type == TOKEN_UNKNOWN);
}

static int compare_specials(const void *a, const void *b)
{
    const struct special *x = a, *y = b;
    if (x->len != y->len)
        return x->len < y->len ? 1 : -1;
    return (x->token > y->token) - (x->token < y->token);
}

static uint32_t find_child(const struct specials *s, uint32_t node, uint8_t byte)
{
    if (node == 0)
        return s->root_child[byte];
    uint32_t child = s->nodes[node].child;
    while (child && s->nodes[child].byte != byte)
        child = s->nodes[child].sibling;
    return child;
}

static void add_text(struct specials *s, uint32_t index)
{
    const struct special *special = &s->items[index];
    uint32_t node = 0;
    for (uint32_t i = 0; i < special->len; i++) {
        uint8_t byte = (uint8_t)special->bytes[i];
        uint32_t child = find_child(s, node, byte);
        if (!child) {
            child = (uint32_t)s->n_nodes++;
            s->nodes[child] = (struct trie_node){.byte = byte};
            if (node == 0) {
                s->root_child[byte] = child;
            } else {
                s->nodes[child].sibling = s->nodes[node].child;
                s->nodes[node].child = child;
            }
        }
        node = child;
    }
    if (!s->nodes[node].special)
        s->nodes[node].special = index + 1;
}

struct specials *specials_create(const struct vocabulary *vocabulary, const uint8_t *type)
{
    size_t n = 0, bytes = 1;
    for (uint32_t i = 0; i < vocabulary->n_tokens; i++) {
        if (is_special(&vocabulary->token[i], type[i])) {
            n++;
            bytes += vocabulary->token[i].len;
        }
    }
    struct specials *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->items = calloc(max_size(n, 1), sizeof *s->items);
    s->nodes = calloc(bytes, sizeof *s->nodes);
    if (!s->items || !s->nodes) {
        specials_destroy(s);
        return NULL;
    }
    for (uint32_t i = 0; i < vocabulary->n_tokens; i++) {
        const struct token_text *token = &vocabulary->token[i];
        if (is_special(token, type[i]))
            s->items[s->n++] = (struct special){.bytes = token->bytes,
                                                .len = token->len,
                                                .token = (int32_t)i,
                                                .is_control = type[i] != TOKEN_USER_DEFINED};
    }
    qsort(s->items, s->n, sizeof *s->items, compare_specials);
    s->n_nodes = 1;
    for (size_t i = 0; i < s->n; i++)
        add_text(s, (uint32_t)i);
    return s;
}

void specials_destroy(struct specials *specials)
{
    if (!specials)
        return;
    free(specials->items);
    free(specials->nodes);
    free(specials);
}

uint32_t specials_control_at(const struct specials *s, const char *text, size_t n)
{
    uint32_t node = 0, longest = 0;
    for (size_t i = 0; i < n && (node = find_child(s, node, (uint8_t)text[i])); i++) {
        uint32_t special = s->nodes[node].special;
        if (special && s->items[special - 1].is_control)
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

static bool add_stretch(struct stretch_list *list, size_t begin, size_t end, int32_t token)
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
            fits = add_stretch(out, s.begin, begin, NO_TOKEN) &&
                   add_stretch(out, begin, begin + special->len, special->token);
            s.begin = begin + special->len;
        }
        fits = fits && add_stretch(out, s.begin, s.end, s.token);
    }
    return fits;
}

serverd_status specials_split(const struct specials *s, const char *text, size_t n,
                              bool parses_control, struct stretch_list *out, serverd_error *err)
{
    struct stretch_list spare = {0};
    bool *is_present = calloc(max_size(s->n, 1), sizeof *is_present);
    bool fits = is_present && add_stretch(out, 0, n, NO_TOKEN);
    if (fits)
        mark_present(s, text, n, is_present);
    for (size_t i = 0; i < s->n && fits; i++) {
        if (!is_present[i] || (s->items[i].is_control && !parses_control))
            continue;
        fits = cut(&s->items[i], text, out, &spare);
        struct stretch_list swap = *out;
        *out = spare;
        spare = swap;
    }
    free(spare.items);
    free(is_present);
    return fits ? SERVERD_OK : fail(err, SERVERD_NOMEM, "no memory to split %zu bytes", n);
}
