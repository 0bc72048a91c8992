#include "text/image_builder_internal.h"

#include "base/error.h"
#include "base/limits.h"

#include <stdlib.h>
#include <string.h>

int32_t image_builder_find(const struct image_builder *builder, const char *text)
{
    const int32_t id = text_table_find(&builder->texts.table, text, strlen(text));
    return id < (int32_t)builder->vocabulary->n_tokens ? id : NO_TOKEN;
}

static serverd_status make_scores(struct image_builder *builder, serverd_error *err)
{
    const struct vocabulary *v = builder->vocabulary;
    if (v->kind != VOCABULARY_SPM && v->kind != VOCABULARY_UNIGRAM)
        return SERVERD_OK;
    builder->scores = malloc(v->n_tokens * sizeof *builder->scores);
    if (!builder->scores)
        return fail(err, SERVERD_NOMEM, "tokenizer: no memory for %u tokens", v->n_tokens);
    for (uint32_t i = 0; i < v->n_tokens; i++)
        builder->scores[i] = v->token[i].score;
    return SERVERD_OK;
}

static serverd_status apply_rules(struct image_builder *builder, serverd_error *err)
{
    const struct vocabulary *v = builder->vocabulary;
    if (v->kind < VOCABULARY_BPE || v->kind > VOCABULARY_UNIGRAM || v->n_tokens == 0)
        return fail(err, SERVERD_UNSUPPORTED, "tokenizer.ggml.model: the file has no vocabulary");
    if (v->is_stepwise)
        builder->ignores_merges = v->ignores_merges;
    if (v->is_stepwise || v->kind == VOCABULARY_SPM || v->kind == VOCABULARY_WORDPIECE)
        return SERVERD_OK;
    if (v->kind == VOCABULARY_UNIGRAM)
        return fail(err, SERVERD_UNSUPPORTED, "tokenizer: unigram models need their steps");
    serverd_status status = pretokenizer_ignores_merges(v->pre, &builder->ignores_merges, err);
    if (v->ignores_merges_set)
        builder->ignores_merges = v->ignores_merges;
    return status;
}

/* The one step that is no text of its own is made of ids in this machine's order, which is the
 * file's. */
serverd_status image_make_steps(struct image_builder *builder, serverd_error *err)
{
    const struct vocabulary *v = builder->vocabulary;
    buffer_init(&builder->steps, LIMIT_TOKENIZER_BYTES);
    for (uint32_t i = 0; i < v->n_steps; i++) {
        const struct vocabulary_step *step = &v->step[i];
        const struct tokenizer_step head = {step->kind, step->flags, step->len, step->other_len};
        buffer_append(&builder->steps, &head, sizeof head);
        buffer_append(&builder->steps, step->text, step->len);
        buffer_append(&builder->steps, step->other, step->other_len);
        while (builder->steps.len % 4 != 0 && !builder->steps.is_failed)
            buffer_append_char(&builder->steps, 0);
    }
    return builder->steps.is_failed ? fail(err, SERVERD_NOMEM, "tokenizer: no memory for its steps")
                                    : SERVERD_OK;
}

static serverd_status make_tables(struct image_builder *builder, serverd_error *err)
{
    serverd_status (*const steps[])(struct image_builder * builder, serverd_error * err) = {
        image_make_types,  make_scores,      image_make_end_tokens,
        image_make_merges, image_make_bytes, image_make_specials,
        image_make_pieces, image_make_order, image_make_steps,
    };
    serverd_status status = apply_rules(builder, err);
    if (status == SERVERD_OK)
        status = text_builder_init(&builder->texts, builder->vocabulary, err);
    for (size_t i = 0; i < sizeof steps / sizeof *steps && status == SERVERD_OK; i++)
        status = steps[i](builder, err);
    return status;
}

static void deinit(struct image_builder *builder)
{
    text_builder_deinit(&builder->texts);
    slot_builder_deinit(&builder->merge_slots);
    buffer_deinit(&builder->steps);
    free(builder->merges);
    free(builder->types);
    free(builder->scores);
    free(builder->specials);
    free(builder->trie);
    free(builder->piece_offsets);
    free(builder->piece_bytes);
    free(builder->order);
    free(builder->prefixes);
}

/* ---- writing --------------------------------------------------------------------------------- */

static void make_header(const struct image_builder *builder, struct tokenizer_image *out)
{
    const struct vocabulary *v = builder->vocabulary;
    const struct {
        bool is_set;
        uint32_t flag;
    } flags[] = {
        {v->adds_bos, TOKENIZER_ADDS_BOS},
        {v->adds_eos, TOKENIZER_ADDS_EOS},
        {v->adds_separator, TOKENIZER_ADDS_SEPARATOR},
        {v->adds_space_prefix, TOKENIZER_ADDS_SPACE_PREFIX},
        {v->removes_extra_whitespace, TOKENIZER_REMOVES_EXTRA_WHITESPACE},
        {v->lowercases, TOKENIZER_LOWERCASES},
        {v->strips_accents, TOKENIZER_STRIPS_ACCENTS},
        {builder->ignores_merges, TOKENIZER_IGNORES_MERGES},
        {v->is_stepwise, TOKENIZER_IS_STEPWISE},
        {v->falls_back_to_bytes, TOKENIZER_FALLS_BACK_TO_BYTES},
        {v->fuses_unknown, TOKENIZER_FUSES_UNKNOWN},
    };
    *out = (struct tokenizer_image){
        .magic = "sdptokn",
        .version = TOKENIZER_IMAGE_VERSION,
        .kind = v->kind,
        .n_tokens = v->n_tokens,
        .n_symbols = builder->texts.n,
        .n_merges = builder->n_merges,
        .text_longest_probe = builder->texts.slots.table.longest_probe,
        .merge_longest_probe = builder->merge_slots.table.longest_probe,
    };
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        out->flags |= flags[i].is_set ? flags[i].flag : 0;
    memcpy(out->pre, v->pre, strnlen(v->pre, sizeof out->pre - 1));
    memcpy(out->byte_symbol, builder->byte_symbol, sizeof out->byte_symbol);
    size_t i = 0;
#define ID(field) out->ids[i++] = v->field;
    VOCABULARY_IDS(ID)
#undef ID
}

/* What goes into a part. */
struct part_bytes {
    const void *data;
    size_t bytes;
};

static void list_parts(const struct image_builder *b, struct part_bytes out[TOKENIZER_N_PARTS])
{
    const struct vocabulary *v = b->vocabulary;
    const size_t n = v->n_tokens, n_symbols = b->texts.n;
    const size_t n_text_slots = (size_t)b->texts.slots.table.mask + 1;
    const size_t n_merge_slots = (size_t)b->merge_slots.table.mask + 1;
    const struct part_bytes parts[TOKENIZER_N_PARTS] = {
        [TOKENIZER_TEXT_OFFSETS] = {b->texts.offsets, 4 * (n_symbols + 1)},
        [TOKENIZER_TEXT_BYTES] = {b->texts.bytes, b->texts.offsets[n_symbols]},
        [TOKENIZER_TEXT_SLOTS] = {b->texts.slots.slots, 4 * n_text_slots},
        [TOKENIZER_TYPES] = {b->types, n},
        [TOKENIZER_SCORES] = {b->scores, b->scores ? 4 * n : 0},
        [TOKENIZER_MERGES] = {b->merges, b->n_merges * sizeof *b->merges},
        [TOKENIZER_MERGE_SLOTS] = {b->merge_slots.slots, 4 * n_merge_slots},
        [TOKENIZER_SPECIALS] = {b->specials, 4 * (size_t)b->n_specials},
        [TOKENIZER_TRIE] = {b->trie, b->n_nodes * sizeof *b->trie},
        [TOKENIZER_PIECE_OFFSETS] = {b->piece_offsets, 4 * (n + 1)},
        [TOKENIZER_PIECE_BYTES] = {b->piece_bytes, b->piece_offsets[n]},
        [TOKENIZER_END_TOKENS] = {b->end_tokens, 4 * (size_t)b->n_end_tokens},
        [TOKENIZER_ORDER] = {b->order, 4 * n},
        [TOKENIZER_PREFIXES] = {b->prefixes, 2 * n},
        [TOKENIZER_STEPS] = {b->steps.data, b->steps.len},
        [TOKENIZER_SINGLE_FRAME] = {v->single, v->n_single * sizeof *v->single},
        [TOKENIZER_PAIR_FRAME] = {v->pair, v->n_pair * sizeof *v->pair},
    };
    memcpy(out, parts, sizeof parts);
}

static size_t gap_after(size_t n)
{
    return (TOKENIZER_IMAGE_ALIGN - n % TOKENIZER_IMAGE_ALIGN) % TOKENIZER_IMAGE_ALIGN;
}

static serverd_status write_image(const struct image_builder *builder, struct buffer *out,
                                  serverd_error *err)
{
    static const char zeros[TOKENIZER_IMAGE_ALIGN] = {0};
    struct part_bytes parts[TOKENIZER_N_PARTS];
    struct tokenizer_image header;
    make_header(builder, &header);
    list_parts(builder, parts);
    size_t end = sizeof header;
    for (int i = 0; i < TOKENIZER_N_PARTS; i++) {
        if (parts[i].bytes == 0)
            continue;
        const size_t begin = end + gap_after(end);
        header.part[i] = (struct tokenizer_image_range){begin, parts[i].bytes};
        end = begin + parts[i].bytes;
    }
    header.bytes = end;
    const size_t before = out->len;
    buffer_reserve(out, end);
    buffer_append(out, &header, sizeof header);
    for (int i = 0; i < TOKENIZER_N_PARTS; i++) {
        if (parts[i].bytes == 0)
            continue;
        buffer_append(out, zeros, gap_after(out->len - before));
        buffer_append(out, parts[i].data, parts[i].bytes);
    }
    return out->is_failed ? fail(err, SERVERD_NOMEM, "tokenizer: no memory for %zu bytes", end)
                          : SERVERD_OK;
}

serverd_status tokenizer_image_build(const struct vocabulary *vocabulary, struct buffer *out,
                                     serverd_error *err)
{
    if (vocabulary->image) {
        buffer_append(out, vocabulary->image, vocabulary->image->bytes);
        return out->is_failed ? fail(err, SERVERD_NOMEM, "tokenizer: no memory for its image")
                              : SERVERD_OK;
    }
    struct image_builder builder = {.vocabulary = vocabulary};
    serverd_status status = make_tables(&builder, err);
    if (status == SERVERD_OK)
        status = write_image(&builder, out, err);
    deinit(&builder);
    return status;
}
