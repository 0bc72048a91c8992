#include "tools/compile/diff_ids.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "text/tokenizer.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static const char paragraph[] =
    "The river rises between two hills and runs east for ninety miles before it meets the sea. "
    "In spring 1874 a bridge of 12 arches was built across it; on Tuesdays there is still a "
    "market on the left bank, where people sell bread, cheese and old books.";

static serverd_status add(struct token_sequences *sequences, uint32_t n, serverd_error *err)
{
    struct token_sequence *grown =
        realloc(sequences->items, (sequences->n + 1u) * sizeof *sequences->items);
    if (!grown)
        return fail(err, SERVERD_NOMEM, "no memory for %u sequences", sequences->n + 1);
    sequences->items = grown;
    grown[sequences->n] = (struct token_sequence){.n = n};
    grown[sequences->n].id = calloc(n, sizeof(int32_t));
    if (!grown[sequences->n].id)
        return fail(err, SERVERD_NOMEM, "no memory for %u tokens", n);
    sequences->n++;
    return SERVERD_OK;
}

void token_sequences_free(struct token_sequences *sequences)
{
    for (uint32_t i = 0; i < sequences->n; i++)
        free(sequences->items[i].id);
    free(sequences->items);
    *sequences = (struct token_sequences){0};
}

/* ---- files ----------------------------------------------------------------------------------- */

static serverd_status add_list(const char *path, const json_t *list, uint32_t n_vocab,
                               struct token_sequences *out, serverd_error *err)
{
    size_t n = json_array_size(list);
    if (n == 0 || n > LIMIT_DIFF_TOKENS)
        return fail(err, SERVERD_INVALID, "%s: list %u has %zu tokens, 1..%u are allowed", path,
                    out->n, n, LIMIT_DIFF_TOKENS);
    serverd_status status = add(out, (uint32_t)n, err);
    for (size_t i = 0; i < n && status == SERVERD_OK; i++) {
        const json_t *id = json_array_get(list, i);
        json_int_t value = json_integer_value(id);
        if (!json_is_integer(id) || value < 0 || value >= (json_int_t)n_vocab)
            return fail(err, SERVERD_INVALID,
                        "%s: token %zu of list %u is no whole number from 0 to %u", path, i,
                        out->n - 1, n_vocab - 1);
        out->items[out->n - 1].id[i] = (int32_t)value;
    }
    return status;
}

static serverd_status add_all(const char *path, const json_t *root, uint32_t n_vocab,
                              struct token_sequences *out, serverd_error *err)
{
    if (!json_is_array(root))
        return fail(err, SERVERD_INVALID, "%s: it is no list of ids, or of lists of ids", path);
    if (!json_is_array(json_array_get(root, 0)))
        return add_list(path, root, n_vocab, out, err);
    if (json_array_size(root) > LIMIT_DIFF_SEQUENCES)
        return fail(err, SERVERD_INVALID, "%s: %zu lists, at most %u are allowed", path,
                    json_array_size(root), LIMIT_DIFF_SEQUENCES);
    serverd_status status = SERVERD_OK;
    for (size_t i = 0; i < json_array_size(root) && status == SERVERD_OK; i++)
        status = add_list(path, json_array_get(root, i), n_vocab, out, err);
    return status;
}

serverd_status token_sequences_read(const char *path, uint32_t n_vocab, struct token_sequences *out,
                                    serverd_error *err)
{
    char *text;
    size_t n;
    json_error_t problem;
    *out = (struct token_sequences){0};
    serverd_status status = file_read(path, LIMIT_DIFF_FILE, &text, &n, err);
    if (status != SERVERD_OK)
        return status;
    json_t *root = json_loadb(text, n, 0, &problem);
    if (root)
        status = add_all(path, root, n_vocab, out, err);
    else
        status =
            fail(err, SERVERD_INVALID, "%s: line %d: %.100s", path, problem.line, problem.text);
    json_decref(root);
    free(text);
    return status;
}

/* ---- made up --------------------------------------------------------------------------------- */

static serverd_status add_text(const struct subject *subject, uint32_t max_tokens,
                               struct token_sequences *out, serverd_error *err)
{
    struct tokenizer *tokenizer;
    struct token_list ids;
    serverd_status status = tokenizer_create(&subject->program->vocabulary, &tokenizer, err);
    if (status != SERVERD_OK)
        return status;
    token_list_init(&ids, sizeof paragraph + 16);
    status = tokenizer_encode(tokenizer, paragraph, sizeof paragraph - 1, TOKENIZER_ADD_SPECIAL,
                              &ids, err);
    if (status == SERVERD_OK && ids.n == 0)
        status = fail(err, SERVERD_UNSUPPORTED, "the tokenizer gives no tokens");
    if (status == SERVERD_OK)
        status = add(out, (uint32_t)min_size(ids.n, max_tokens), err);
    if (status == SERVERD_OK)
        memcpy(out->items[out->n - 1].id, ids.id, out->items[out->n - 1].n * sizeof(int32_t));
    token_list_deinit(&ids);
    tokenizer_destroy(tokenizer);
    return status;
}

serverd_status token_sequences_make(const struct subject *subject, uint32_t max_tokens,
                                    struct token_sequences *out, serverd_error *err)
{
    const struct program_config *config = &subject->program->config;
    max_tokens = (uint32_t)min_size(max_tokens, config->context_length);
    *out = (struct token_sequences){0};
    if (add_text(subject, max_tokens, out, err) == SERVERD_OK || out->n > 0)
        return SERVERD_OK;
    serverd_status status = add(out, max_tokens, err);
    for (uint32_t i = 0; i < max_tokens && status == SERVERD_OK; i++)
        out->items[0].id[i] = (int32_t)(hash_mix(i) % config->n_vocab);
    return status;
}
