#include "text/tokenizer.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "base/utf8.h"
#include "text/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

#define SPACE_MARK "\xe2\x96\x81"

/* ---- lists of ids
 * -------------------------------------------------------------------------------- */

void token_list_init(struct token_list *list, uint32_t limit)
{
    *list = (struct token_list){.limit = limit};
}

void token_list_deinit(struct token_list *list)
{
    free(list->id);
    list->id = NULL;
    list->n = list->cap = 0;
}

bool token_list_add(struct token_list *out, int32_t id)
{
    if (out->n == out->limit)
        return false;
    if (out->n == out->cap) {
        uint32_t cap = (uint32_t)min_size(max_size(64, (size_t)out->cap * 2), out->limit);
        int32_t *bigger = realloc(out->id, cap * sizeof *bigger);
        if (!bigger)
            return false;
        out->id = bigger;
        out->cap = cap;
    }
    out->id[out->n++] = id;
    return true;
}

serverd_status tokenizer_list_error(const struct token_list *out, serverd_error *err)
{
    if (out->n == out->limit)
        return fail(err, SERVERD_INVALID, "the text has more than %u tokens", out->limit);
    return fail(err, SERVERD_NOMEM, "no memory for %u tokens", out->n);
}

/* ---- life ------------------------------------------------------------------------------------ */

static const void *part_of(const struct tokenizer *tokenizer, enum tokenizer_image_part part)
{
    return tokenizer_image_part(tokenizer->vocabulary.image, part);
}

static uint32_t items_of(const struct tokenizer *tokenizer, enum tokenizer_image_part part)
{
    return (uint32_t)(tokenizer->vocabulary.image->part[part].bytes / sizeof(uint32_t));
}

static struct slot_table slots_of(const struct tokenizer *tokenizer, enum tokenizer_image_part part,
                                  uint32_t longest_probe)
{
    return (struct slot_table){part_of(tokenizer, part), items_of(tokenizer, part) - 1,
                               longest_probe};
}

static uint32_t longest_text(const uint32_t *offsets, uint32_t n)
{
    uint32_t longest = 0;
    for (uint32_t i = 0; i < n; i++)
        longest = (uint32_t)max_size(longest, offsets[i + 1] - offsets[i]);
    return longest;
}

static void use_image(struct tokenizer *t)
{
    const struct tokenizer_image *image = t->vocabulary.image;
    t->texts = (struct text_table){
        .slots = slots_of(t, TOKENIZER_TEXT_SLOTS, image->text_longest_probe),
        .offsets = part_of(t, TOKENIZER_TEXT_OFFSETS),
        .bytes = part_of(t, TOKENIZER_TEXT_BYTES),
    };
    t->texts.longest = longest_text(t->texts.offsets, image->n_symbols);
    t->merges = (struct merge_table){
        slots_of(t, TOKENIZER_MERGE_SLOTS, image->merge_longest_probe),
        part_of(t, TOKENIZER_MERGES),
    };
    t->specials = (struct specials){.ids = part_of(t, TOKENIZER_SPECIALS),
                                    .nodes = part_of(t, TOKENIZER_TRIE),
                                    .n = items_of(t, TOKENIZER_SPECIALS)};
    specials_init(&t->specials);
    t->byte_symbol = image->byte_symbol;
    t->types = t->model_types = part_of(t, TOKENIZER_TYPES);
    t->scores = part_of(t, TOKENIZER_SCORES);
    if (image->kind == VOCABULARY_UNIGRAM)
        t->unknown_score = unigram_unknown_score(t->scores, image->n_tokens);
    t->piece_offsets = part_of(t, TOKENIZER_PIECE_OFFSETS);
    t->piece_bytes = part_of(t, TOKENIZER_PIECE_BYTES);
    t->end_tokens = part_of(t, TOKENIZER_END_TOKENS);
    t->n_end_tokens = items_of(t, TOKENIZER_END_TOKENS);
}

static serverd_status build_and_open(struct tokenizer *tokenizer,
                                     const struct vocabulary *vocabulary, serverd_error *err)
{
    serverd_status status = tokenizer_image_build(vocabulary, &tokenizer->memory, err);
    return status == SERVERD_OK
               ? tokenizer_image_open(tokenizer->memory.data, tokenizer->memory.len,
                                      &tokenizer->vocabulary, err)
               : status;
}

serverd_status tokenizer_create(const struct vocabulary *vocabulary, struct tokenizer **out,
                                serverd_error *err)
{
    struct tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (!tokenizer)
        return fail(err, SERVERD_NOMEM, "tokenizer: no memory");
    buffer_init(&tokenizer->memory, LIMIT_TOKENIZER_BYTES);
    serverd_status status = SERVERD_OK;
    if (vocabulary->image)
        tokenizer->vocabulary = *vocabulary;
    else
        status = build_and_open(tokenizer, vocabulary, err);
    if (status == SERVERD_OK)
        use_image(tokenizer);
    if (status == SERVERD_OK && tokenizer->vocabulary.is_stepwise) {
        status = pipeline_create(tokenizer->vocabulary.image, &tokenizer->pipeline, err);
        if (status == SERVERD_OK)
            status = added_create(tokenizer, &tokenizer->added, err);
        tokenizer->model_types = tokenizer->added.types;
    } else if (status == SERVERD_OK && (tokenizer->vocabulary.kind == VOCABULARY_BPE ||
                                        tokenizer->vocabulary.kind == VOCABULARY_BPE_UTF8)) {
        status = pretokenizer_create(tokenizer->vocabulary.pre, &tokenizer->pre, err);
    }
    if (status != SERVERD_OK)
        tokenizer_destroy(tokenizer);
    else
        *out = tokenizer;
    return status;
}

serverd_status tokenizer_open(const void *image, size_t n, struct tokenizer **out,
                              serverd_error *err)
{
    struct vocabulary vocabulary;
    serverd_status status = tokenizer_image_open(image, n, &vocabulary, err);
    return status == SERVERD_OK ? tokenizer_create(&vocabulary, out, err) : status;
}

void tokenizer_destroy(struct tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    pretokenizer_destroy(tokenizer->pre);
    pipeline_destroy(tokenizer->pipeline);
    added_destroy(&tokenizer->added);
    buffer_deinit(&tokenizer->memory);
    free(tokenizer);
}

/* ---- encoding
 * ------------------------------------------------------------------------------------ */

/* Plain text without guards, with spaces as the vocabulary writes them. */
static void normalise(const struct tokenizer *tokenizer, const char *text, size_t n,
                      bool has_prefix, struct buffer *out)
{
    enum vocabulary_kind kind = tokenizer->vocabulary.kind;
    bool marks_spaces =
        !tokenizer->pipeline && (kind == VOCABULARY_SPM || kind == VOCABULARY_BPE_UTF8);
    buffer_reset(out);
    if (has_prefix)
        buffer_append_str(out, SPACE_MARK);
    for (size_t i = 0; i < n;) {
        size_t run = 0;
        while (i + run < n && text[i + run] != TOKENIZER_GUARD &&
               !(marks_spaces && text[i + run] == ' '))
            run++;
        buffer_append(out, text + i, run);
        i += run;
        if (i < n && text[i++] == ' ')
            buffer_append_str(out, SPACE_MARK);
    }
}

bool tokenizer_emit_unknown(const struct tokenizer *tokenizer, const char *text, size_t n,
                            bool is_alone, struct token_list *out)
{
    const struct vocabulary *v = &tokenizer->vocabulary;
    bool has_bytes = v->falls_back_to_bytes, fits = true;
    for (size_t i = 0; i < n && has_bytes; i++) {
        int32_t id = tokenizer->byte_symbol[(uint8_t)text[i]];
        has_bytes = id >= 0 && id < (int32_t)v->n_tokens;
    }
    for (size_t i = 0; i < n && has_bytes && fits; i++)
        fits = token_list_add(out, tokenizer->byte_symbol[(uint8_t)text[i]]);
    if (has_bytes || v->unknown < 0 || (v->fuses_unknown && !is_alone))
        return fits;
    return token_list_add(out, v->unknown);
}

/* Each fragment through the model. */
static serverd_status encode_pieces(const struct tokenizer *tokenizer,
                                    struct encode_scratch *scratch, struct token_list *out,
                                    serverd_error *err)
{
    bool (*encode)(const struct tokenizer *tokenizer, struct encode_scratch *scratch,
                   const char *text, size_t n, struct token_list *out) = bpe_encode_fragment;
    if (tokenizer->vocabulary.kind == VOCABULARY_UNIGRAM)
        encode = unigram_encode_fragment;
    else if (tokenizer->vocabulary.kind == VOCABULARY_WORDPIECE)
        encode = wordpiece_encode_fragment;
    const char *at = buffer_str(&scratch->pieces.text);
    for (size_t i = 0; i < scratch->pieces.fragments.n; at += scratch->pieces.fragments.len[i++])
        if (!encode(tokenizer, scratch, at, scratch->pieces.fragments.len[i], out))
            return tokenizer_list_error(out, err);
    return SERVERD_OK;
}

/* Normalised text with its added tokens. */
static serverd_status encode_normalised(const struct tokenizer *tokenizer,
                                        struct encode_scratch *scratch, const char *text, size_t n,
                                        bool is_first, struct token_list *out, serverd_error *err)
{
    struct stretch_list stretches = {0};
    serverd_status status = SERVERD_OK;
    if (!added_cut(&tokenizer->added, true, &scratch->search, text, n, &stretches))
        status = fail(err, SERVERD_NOMEM, "no memory to split %zu bytes", n);
    for (size_t i = 0; i < stretches.n && status == SERVERD_OK; i++) {
        const struct stretch *s = &stretches.items[i];
        if (s->token != NO_TOKEN) {
            if (!token_list_add(out, s->token))
                status = tokenizer_list_error(out, err);
            continue;
        }
        status = pipeline_pretokenise(tokenizer->pipeline, text + s->begin, s->end - s->begin,
                                      is_first && s->begin == 0, &scratch->pieces,
                                      &scratch->spare_pieces, err);
        if (status == SERVERD_OK)
            status = encode_pieces(tokenizer, scratch, out, err);
    }
    free(stretches.items);
    return status;
}

/* Valid UTF-8 through the steps. */
static serverd_status encode_run(const struct tokenizer *tokenizer, struct encode_scratch *scratch,
                                 const char *text, size_t n, bool is_first, struct token_list *out,
                                 serverd_error *err)
{
    serverd_status status;
    if (tokenizer->added.normalised.n == 0) {
        status = pipeline_run(tokenizer->pipeline, text, n, is_first, &scratch->pieces,
                              &scratch->spare_pieces, err);
        return status == SERVERD_OK ? encode_pieces(tokenizer, scratch, out, err) : status;
    }
    status = pipeline_normalise(tokenizer->pipeline, text, n, &scratch->pieces,
                                &scratch->spare_pieces, err);
    if (status != SERVERD_OK)
        return status;
    struct buffer normalised; /* the pieces are used again for each stretch */
    buffer_init(&normalised, SIZE_MAX / 2);
    buffer_append(&normalised, buffer_str(&scratch->pieces.text), scratch->pieces.text.len);
    status = normalised.is_failed ? fail(err, SERVERD_NOMEM, "no memory to normalise text")
                                  : encode_normalised(tokenizer, scratch, buffer_str(&normalised),
                                                      normalised.len, is_first, out, err);
    buffer_deinit(&normalised);
    return status;
}

static serverd_status encode_stepwise(const struct tokenizer *tokenizer,
                                      struct encode_scratch *scratch, const char *text, size_t n,
                                      bool is_first, struct token_list *out, serverd_error *err)
{
    for (size_t at = 0; at < n;) {
        size_t run = utf8_valid_run(text + at, n - at);
        serverd_status status =
            encode_run(tokenizer, scratch, text + at, run, is_first && at == 0, out, err);
        if (status != SERVERD_OK)
            return status;
        at += run;
        if (at < n && !tokenizer_emit_unknown(tokenizer, text + at, 1, true, out))
            return tokenizer_list_error(out, err);
        at += at < n;
    }
    return SERVERD_OK;
}

static serverd_status encode_plain(const struct tokenizer *tokenizer,
                                   struct encode_scratch *scratch, const struct buffer *text,
                                   bool is_first, struct token_list *out, serverd_error *err)
{
    if (tokenizer->pipeline)
        return encode_stepwise(tokenizer, scratch, buffer_str(text), text->len, is_first, out, err);
    switch (tokenizer->vocabulary.kind) {
    case VOCABULARY_SPM:
        return spm_encode(tokenizer, scratch, buffer_str(text), text->len, out, err);
    case VOCABULARY_WORDPIECE:
        return wordpiece_encode(tokenizer, scratch, buffer_str(text), text->len, out, err);
    default:
        return bpe_encode(tokenizer, scratch, buffer_str(text), text->len, out, err);
    }
}

static serverd_status encode_stretches(const struct tokenizer *tokenizer, const char *text,
                                       const struct stretch_list *stretches, bool continues,
                                       struct encode_scratch *scratch, struct token_list *out,
                                       serverd_error *err)
{
    const struct vocabulary *v = &tokenizer->vocabulary;
    struct buffer plain;
    buffer_init(&plain, SIZE_MAX / 2);
    bool follows_special = !continues;
    serverd_status status = SERVERD_OK;
    for (size_t i = 0; i < stretches->n && status == SERVERD_OK; i++) {
        const struct stretch *s = &stretches->items[i];
        if (s->token != NO_TOKEN) {
            if (!token_list_add(out, s->token))
                status = tokenizer_list_error(out, err);
            follows_special = true;
            continue;
        }
        bool has_prefix = follows_special && !tokenizer->pipeline && v->kind == VOCABULARY_SPM &&
                          v->adds_space_prefix;
        normalise(tokenizer, text + s->begin, s->end - s->begin, has_prefix, &plain);
        status = plain.is_failed ? fail(err, SERVERD_NOMEM, "no memory to tokenise")
                                 : encode_plain(tokenizer, scratch, &plain,
                                                s->begin == 0 && !continues, out, err);
        follows_special = false;
    }
    buffer_deinit(&plain);
    return status;
}

serverd_status tokenizer_encode_text(const struct tokenizer *tokenizer, const char *text, size_t n,
                                     unsigned flags, struct token_list *out, serverd_error *err)
{
    const bool parses = flags & TOKENIZER_PARSE_SPECIAL;
    if (n > INT32_MAX / 4)
        return fail(err, SERVERD_INVALID, "a text of %zu bytes is too long", n);
    struct encode_scratch scratch = {0};
    struct stretch_list stretches = {0};
    buffer_init(&scratch.text, SIZE_MAX / 2);
    buffer_init(&scratch.pieces.text, SIZE_MAX / 2);
    buffer_init(&scratch.spare_pieces.text, SIZE_MAX / 2);
    serverd_status status = SERVERD_OK;
    scratch.search =
        (struct added_search){parses, n > 0 && memchr(text, (uint8_t)TOKENIZER_GUARD, n)};
    if (!tokenizer->pipeline)
        status = specials_split(tokenizer, text, n, parses, &stretches, err);
    else if (!added_cut(&tokenizer->added, false, &scratch.search, text, n, &stretches))
        status = fail(err, SERVERD_NOMEM, "no memory to split %zu bytes", n);
    if (status == SERVERD_OK)
        status = encode_stretches(tokenizer, text, &stretches, flags & TOKENIZER_CONTINUES,
                                  &scratch, out, err);
    free(stretches.items);
    free(scratch.symbols);
    free(scratch.heap);
    fragment_list_deinit(&scratch.fragments);
    fragment_list_deinit(&scratch.spare);
    fragment_list_deinit(&scratch.pieces.fragments);
    fragment_list_deinit(&scratch.spare_pieces.fragments);
    buffer_deinit(&scratch.pieces.text);
    buffer_deinit(&scratch.spare_pieces.text);
    buffer_deinit(&scratch.text);
    return status;
}

void tokenizer_guard(const struct tokenizer *tokenizer, const char *text, size_t n,
                     struct buffer *out)
{
    size_t copied = 0;
    for (size_t i = 0; i < n; i++) {
        if (specials_control_at(tokenizer, text + i, n - i) == 0)
            continue;
        /* behind the first byte, so that no control token that begins here can match */
        buffer_append(out, text + copied, i + 1 - copied);
        buffer_append_char(out, TOKENIZER_GUARD);
        copied = i + 1;
    }
    buffer_append(out, text + copied, n - copied);
}

size_t tokenizer_unguard(char *text, size_t n)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (text[i] != TOKENIZER_GUARD)
            text[kept++] = text[i];
    return kept;
}

/* ---- tokens
 * -------------------------------------------------------------------------------------- */

const char *tokenizer_piece(const struct tokenizer *tokenizer, int32_t id, uint32_t *len)
{
    if (id < 0 || (uint32_t)id >= tokenizer->vocabulary.n_tokens) {
        *len = 0;
        return "";
    }
    const uint32_t begin = tokenizer->piece_offsets[id];
    *len = tokenizer->piece_offsets[id + 1] - begin;
    return tokenizer->piece_bytes + begin;
}

bool tokenizer_is_control(const struct tokenizer *tokenizer, int32_t id)
{
    if (id < 0 || (uint32_t)id >= tokenizer->vocabulary.n_tokens)
        return false;
    uint8_t type = tokenizer->types[id];
    return type == TOKEN_CONTROL || type == TOKEN_UNKNOWN;
}

bool tokenizer_is_end(const struct tokenizer *tokenizer, int32_t id)
{
    for (uint32_t i = 0; i < tokenizer->n_end_tokens; i++)
        if (tokenizer->end_tokens[i] == (uint32_t)id)
            return true;
    return false;
}

const int32_t *tokenizer_end_tokens(const struct tokenizer *tokenizer, uint32_t *n)
{
    *n = tokenizer->n_end_tokens;
    return (const int32_t *)tokenizer->end_tokens; /* below LIMIT_VOCAB */
}

int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *text, size_t n)
{
    int32_t id = text_table_find(&tokenizer->texts, text, n);
    return id < (int32_t)tokenizer->vocabulary.n_tokens ? id : NO_TOKEN;
}

const struct vocabulary *tokenizer_vocabulary(const struct tokenizer *tokenizer)
{
    return &tokenizer->vocabulary;
}

void tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t n,
                      bool skips_special, struct buffer *out)
{
    const struct vocabulary *v = &tokenizer->vocabulary;
    bool drops_space = v->kind == VOCABULARY_WORDPIECE ||
                       ((v->kind == VOCABULARY_SPM || v->is_stepwise) && v->adds_space_prefix);
    for (size_t i = 0; i < n; i++) {
        uint32_t len;
        const char *bytes = tokenizer_piece(tokenizer, ids[i], &len);
        bool is_control = tokenizer_is_control(tokenizer, ids[i]);
        if (is_control && skips_special)
            continue;
        bool drops = drops_space && !is_control && len > 0 && bytes[0] == ' ';
        if (!is_control)
            drops_space = false;
        buffer_append(out, bytes + drops, len - drops);
    }
}
