/* Unigram: of all ways to cut a fragment into tokens, the one whose scores have the greatest sum
 * (Viterbi). A character that no token covers costs more than the worst token. */
#include "base/error.h"
#include "base/numeric.h"
#include "base/utf8.h"
#include "text/tokenizer_internal.h"

#include <math.h>
#include <stdlib.h>

#define UNKNOWN_PENALTY 10.0

/* The best way to a byte of the fragment. */
struct node {
    double score;
    uint32_t begin; /* of its last token */
    int32_t token;  /* NO_TOKEN: a character that no token covers */
};

static void offer(struct node *node, double score, uint32_t begin, int32_t token)
{
    if (node->score >= score) /* the first of equals stays */
        return;
    *node = (struct node){score, begin, token};
}

static void find_best(const struct tokenizer *tokenizer, const char *text, size_t n,
                      struct node *nodes)
{
    nodes[0] = (struct node){.score = 0.0, .token = NO_TOKEN};
    for (size_t i = 1; i <= n; i++)
        nodes[i] = (struct node){.score = -INFINITY, .token = NO_TOKEN};
    for (size_t at = 0; at < n;) {
        uint32_t code;
        const size_t character = utf8_decode(text + at, n - at, &code);
        const size_t most = min_size(n - at, tokenizer->texts.longest);
        bool is_covered = false;
        for (size_t len = 1; len <= most; len++) {
            int32_t id = plain_token(tokenizer, text_table_find(&tokenizer->texts, text + at, len));
            if (id == NO_TOKEN)
                continue;
            offer(&nodes[at + len], nodes[at].score + (double)tokenizer->scores[id], (uint32_t)at,
                  id);
            is_covered |= len == character;
        }
        if (!is_covered)
            offer(&nodes[at + character], nodes[at].score + tokenizer->unknown_score, (uint32_t)at,
                  NO_TOKEN);
        at += character;
    }
}

double unigram_unknown_score(const float *scores, uint32_t n)
{
    float worst = scores[0];
    for (uint32_t i = 1; i < n; i++)
        worst = scores[i] < worst ? scores[i] : worst;
    return (double)worst - UNKNOWN_PENALTY;
}

bool unigram_encode_fragment(const struct tokenizer *tokenizer, struct encode_scratch *scratch,
                             const char *text, size_t n, struct token_list *out)
{
    struct node *nodes = calloc(n + 1, sizeof *nodes);
    uint32_t *ends = calloc(n + 1, sizeof *ends); /* of the tokens, from the last to the first */
    bool fits = nodes && ends;
    size_t count = 0;
    (void)scratch;
    if (fits)
        find_best(tokenizer, text, n, nodes);
    for (size_t end = n; fits && end > 0; end = nodes[end].begin)
        ends[count++] = (uint32_t)end;
    while (fits && count > 0) {
        const struct node *node = &nodes[ends[--count]];
        if (node->token != NO_TOKEN) {
            fits = token_list_add(out, node->token);
            continue;
        }
        uint32_t begin = node->begin, end = ends[count];
        while (count > 0 && nodes[ends[count - 1]].token == NO_TOKEN)
            end = ends[--count]; /* unknown characters beside each other are one unknown text */
        fits = tokenizer_emit_unknown(tokenizer, text + begin, end - begin, true, out);
    }
    free(nodes);
    free(ends);
    return fits;
}
