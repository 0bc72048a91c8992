#include "grammar/token_trie.h"

#include "base/buffer.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "program/tokenizer_image.h"

#include <stdlib.h>
#include <string.h>

/* What a tree is made from: texts with what stands at their end. */
struct entry {
    const char *bytes;
    uint32_t n;
    struct quoted_token item;
};

static int compare(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    int order = memcmp(x->bytes, y->bytes, min_size(x->n, y->n));
    if (order == 0)
        order = (x->n > y->n) - (x->n < y->n);
    return order ? order : (x->item.id > y->item.id) - (x->item.id < y->item.id);
}

static uint32_t shared_bytes(const struct entry *a, const struct entry *b)
{
    uint32_t n = a->n < b->n ? a->n : b->n, i = 0;
    while (i < n && a->bytes[i] == b->bytes[i])
        i++;
    return i;
}

/* entries[0..n-1] are sorted. The item of entry i is item i. */
static bool build(const struct entry *entries, uint32_t n, struct trie *out)
{
    size_t n_nodes = 1;
    for (uint32_t i = 0; i < n; i++)
        n_nodes += entries[i].n - (i > 0 ? shared_bytes(&entries[i - 1], &entries[i]) : 0);
    struct trie_node *nodes = calloc(n_nodes + 1, sizeof *nodes);
    if (!nodes)
        return false;
    uint32_t open[TOKEN_PIECE_MAX + 1] = {0}, depth = 0, count = 1; /* nodes on the way down */
    for (uint32_t i = 0; i < n; i++) {
        uint32_t shared = i > 0 ? shared_bytes(&entries[i - 1], &entries[i]) : 0;
        for (; depth > shared; depth--)
            nodes[open[depth]].end = count;
        for (; depth < entries[i].n; count++) {
            nodes[count].byte = (uint8_t)entries[i].bytes[depth];
            nodes[count].first_item = i;
            open[++depth] = count;
            nodes[count].depth = (uint8_t)depth;
        }
    }
    for (; depth > 0; depth--)
        nodes[open[depth]].end = count;
    nodes[0].end = count;
    nodes[count].first_item = n;
    *out = (struct trie){nodes, count};
    return true;
}

static uint32_t count_quotes(const struct token_trie *trie)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < trie->offsets[trie->n_tokens]; i++)
        n += trie->bytes[i] == '"';
    return n;
}

static bool is_in_tree(struct text_of_token text)
{
    return text.n > 0 && text.n <= TOKEN_PIECE_MAX;
}

static bool build_pieces(struct token_trie *trie)
{
    struct entry *entries = calloc((size_t)trie->n_tokens + 1, sizeof *entries);
    uint32_t *ids = calloc((size_t)trie->n_tokens + 1, sizeof *ids), n = 0;
    trie->ids = ids;
    for (uint32_t id = 0; id < trie->n_tokens && entries && ids; id++) {
        struct text_of_token text = token_trie_text(trie, id);
        if (!is_in_tree(text))
            continue;
        entries[n++] = (struct entry){text.bytes, text.n, {.id = id}};
        trie->longest = text.n > trie->longest ? text.n : trie->longest;
    }
    bool is_built = entries && ids;
    if (is_built) {
        qsort(entries, n, sizeof *entries, compare);
        for (uint32_t i = 0; i < n; i++)
            ids[i] = entries[i].item.id;
        is_built = build(entries, n, &trie->pieces);
    }
    free(entries);
    return is_built;
}

static bool build_rests(struct token_trie *trie)
{
    uint32_t most = count_quotes(trie), n = 0;
    struct entry *entries = calloc((size_t)most + 1, sizeof *entries);
    struct quoted_token *quoted = calloc((size_t)most + 1, sizeof *quoted);
    trie->quoted = quoted;
    for (uint32_t id = 0; id < trie->n_tokens && entries && quoted; id++) {
        struct text_of_token text = token_trie_text(trie, id);
        for (uint32_t i = 0; i < text.n && is_in_tree(text); i++)
            if (text.bytes[i] == '"')
                entries[n++] = (struct entry){text.bytes + i + 1, text.n - i - 1, {id, i}};
    }
    bool is_built = entries && quoted;
    if (is_built) {
        qsort(entries, n, sizeof *entries, compare);
        for (uint32_t i = 0; i < n; i++)
            quoted[i] = entries[i].item;
        is_built = build(entries, n, &trie->rests);
    }
    free(entries);
    return is_built;
}

/* What masks copy instead of walking: tokens of few ordinary characters. */
static bool find_ordinary(struct token_trie *trie)
{
    size_t n_words = ((size_t)trie->n_tokens + 63) / 64;
    struct trie_node *nodes = (struct trie_node *)trie->pieces.nodes;
    trie->short_tokens = calloc((REACH_MAX + 1) * n_words + 1, sizeof *trie->short_tokens);
    if (!trie->short_tokens)
        return false;
    for (uint32_t i = trie->pieces.n_nodes; i-- > 0;) { /* children lie behind their parents */
        uint8_t most = 0;
        for (uint32_t item = nodes[i].first_item; item < nodes[i + 1].first_item; item++) {
            struct text_of_token text = token_trie_text(trie, trie->ids[item]);
            uint32_t n = ordinary_characters(text.bytes, text.n), id = trie->ids[item];
            most = n > REACH_MAX ? UINT8_MAX : n > most ? (uint8_t)n : most;
            for (uint32_t k = n; k <= REACH_MAX; k++)
                trie->short_tokens[k * n_words + id / 64] |= UINT64_C(1) << (id % 64);
        }
        for (uint32_t child = i + 1; child < nodes[i].end; child = nodes[child].end)
            most = nodes[child].ordinary > most ? nodes[child].ordinary : most;
        nodes[i].ordinary = most;
    }
    return true;
}

serverd_status token_trie_create(const struct text_of_token *texts, uint32_t n_tokens,
                                 const int32_t *end_tokens, uint32_t n_end_tokens,
                                 struct token_trie **out, serverd_error *err)
{
    size_t n_bytes = 0;
    if (n_tokens > LIMIT_VOCAB)
        return fail(err, SERVERD_INVALID, "tokens: %u, at most %u allowed", n_tokens, LIMIT_VOCAB);
    for (uint32_t i = 0; i < n_tokens; i++)
        n_bytes += texts[i].n;
    struct token_trie *trie = calloc(1, sizeof *trie);
    char *bytes = malloc(n_bytes + 1);
    uint32_t *offsets = calloc((size_t)n_tokens + 1, sizeof *offsets);
    uint32_t *ends = calloc((size_t)n_end_tokens + 1, sizeof *ends);
    if (!trie || !bytes || !offsets || !ends || n_bytes > UINT32_MAX) {
        free(trie);
        free(bytes);
        free(offsets);
        free(ends);
        return fail(err, SERVERD_NOMEM, "tokens: no memory for %zu bytes", n_bytes);
    }
    *trie = (struct token_trie){.n_tokens = n_tokens,
                                .bytes = bytes,
                                .offsets = offsets,
                                .end_tokens = ends,
                                .n_end_tokens = n_end_tokens};
    for (uint32_t i = 0; i < n_tokens; i++) {
        if (texts[i].n)
            memcpy(bytes + offsets[i], texts[i].bytes, texts[i].n);
        offsets[i + 1] = offsets[i] + texts[i].n;
    }
    for (uint32_t i = 0; i < n_end_tokens; i++)
        ends[i] = (uint32_t)end_tokens[i];
    if (!build_pieces(trie) || !build_rests(trie) || !find_ordinary(trie)) {
        token_trie_destroy(trie);
        return fail(err, SERVERD_NOMEM, "tokens: no memory for their tree");
    }
    *out = trie;
    return SERVERD_OK;
}

/* What a token stands for in the texts of grammars. Marks go into `marks`, which has room. */
static struct text_of_token text_of(const struct tokenizer *tokenizer, int32_t id,
                                    struct buffer *marks)
{
    struct text_of_token text = {0};
    text.bytes = tokenizer_piece(tokenizer, id, &text.n);
    if (!tokenizer_is_control(tokenizer, id)) {
        bool has_mark = memchr(text.bytes, (uint8_t)TOKEN_MARK_BEGIN, text.n) ||
                        memchr(text.bytes, (uint8_t)TOKEN_MARK_END, text.n);
        return has_mark ? (struct text_of_token){0} : text; /* single bytes are tokens, too */
    }
    if (tokenizer_is_end(tokenizer, id) || text.n == 0)
        return (struct text_of_token){0};
    size_t begin = marks->len;
    buffer_append_char(marks, TOKEN_MARK_BEGIN);
    buffer_append(marks, text.bytes, text.n);
    buffer_append_char(marks, TOKEN_MARK_END);
    return (struct text_of_token){marks->data + begin, text.n + 2};
}

static size_t bytes_of_marks(const struct tokenizer *tokenizer, uint32_t n_tokens)
{
    size_t bytes = 1;
    uint32_t n;
    for (uint32_t id = 0; id < n_tokens; id++) {
        if (tokenizer_is_control(tokenizer, (int32_t)id)) {
            (void)tokenizer_piece(tokenizer, (int32_t)id, &n);
            bytes += (size_t)n + 2;
        }
    }
    return bytes;
}

serverd_status token_trie_of_tokenizer(const struct tokenizer *tokenizer, struct token_trie **out,
                                       serverd_error *err)
{
    uint32_t n_tokens = tokenizer_vocabulary(tokenizer)->n_tokens, n_ends;
    const int32_t *ends = tokenizer_end_tokens(tokenizer, &n_ends);
    struct text_of_token *texts = calloc((size_t)n_tokens + 1, sizeof *texts);
    struct buffer marks;
    buffer_init(&marks, SIZE_MAX / 2);
    serverd_status status = SERVERD_OK;
    buffer_reserve(&marks, bytes_of_marks(tokenizer, n_tokens)); /* so that they do not move */
    if (!texts || marks.is_failed)
        status = fail(err, SERVERD_NOMEM, "tokens: no memory");
    for (uint32_t id = 0; id < n_tokens && status == SERVERD_OK; id++)
        texts[id] = text_of(tokenizer, (int32_t)id, &marks);
    if (status == SERVERD_OK)
        status = token_trie_create(texts, n_tokens, ends, n_ends, out, err);
    buffer_deinit(&marks);
    free(texts);
    return status;
}

void token_trie_destroy(struct token_trie *trie)
{
    if (!trie)
        return;
    free((void *)trie->pieces.nodes);
    free((void *)trie->rests.nodes);
    free((void *)trie->ids);
    free(trie->short_tokens);
    free((void *)trie->quoted);
    free((void *)trie->bytes);
    free((void *)trie->offsets);
    free((void *)trie->end_tokens);
    free(trie);
}
