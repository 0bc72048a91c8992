/* Tables of byte-pair encodings: what two neighbours become, and the symbols of bytes. */
#include "base/error.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "text/image_builder_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The tables are larger than caches: so many merges go through one step together, and ask for the
 * memory that their next step needs. */
#define MERGES_AT_ONCE 16u

enum { LEFT, RIGHT, BOTH, N_TEXTS };

/* A merge's texts, then what they are. Without texts: such a line never applies. */
struct parts {
    struct {
        const char *bytes;
        uint32_t len;
        uint64_t hash;
    } text[N_TEXTS];
    struct tokenizer_merge merge;
    uint64_t hash;
};

/* "left right", split at the first space after byte 0. *both gets the texts without the space. */
static void split_merge(const struct image_builder *builder, const struct merge_text *merge,
                        char *both, struct parts *out)
{
    *out = (struct parts){0};
    const char *space = merge->len > 1 ? memchr(merge->bytes + 1, ' ', merge->len - 1) : NULL;
    const uint32_t left = space ? (uint32_t)(space - merge->bytes) : 0;
    if (!space || left + 1 == merge->len)
        return;
    const uint32_t right = merge->len - left - 1;
    memcpy(both, merge->bytes, left);
    memcpy(both + left, space + 1, right);
    out->text[LEFT].bytes = merge->bytes;
    out->text[LEFT].len = left;
    out->text[RIGHT].bytes = space + 1;
    out->text[RIGHT].len = right;
    out->text[BOTH].bytes = both;
    out->text[BOTH].len = left + right;
    for (int i = 0; i < N_TEXTS; i++)
        out->text[i].hash =
            text_builder_prefetch(&builder->texts, out->text[i].bytes, out->text[i].len);
}

static serverd_status intern_parts(struct image_builder *builder, struct parts *parts,
                                   serverd_error *err)
{
    uint32_t *const symbol[N_TEXTS] = {&parts->merge.left, &parts->merge.right,
                                       &parts->merge.result};
    for (int i = 0; i < N_TEXTS; i++) {
        serverd_status status =
            text_builder_intern(&builder->texts, parts->text[i].hash, parts->text[i].bytes,
                                parts->text[i].len, symbol[i], err);
        if (status != SERVERD_OK)
            return status;
    }
    parts->hash = merge_hash(parts->merge.left, parts->merge.right);
    slot_table_prefetch(&builder->merge_slots.table, parts->hash);
    return SERVERD_OK;
}

/* The first rank of a pair counts. False: pairs collide. */
static bool add_merge(struct image_builder *builder, const struct parts *parts)
{
    const struct merge_table table = {builder->merge_slots.table, builder->merges};
    if (merge_table_find(&table, parts->merge.left, parts->merge.right) != NO_ITEM)
        return true;
    builder->merges[builder->n_merges] = parts->merge;
    return slot_builder_put(&builder->merge_slots, parts->hash, builder->n_merges++);
}

/* Merges first .. first + n - 1. `both`: MERGES_AT_ONCE times room for the longest. */
static serverd_status add_merges(struct image_builder *builder, uint32_t first, uint32_t n,
                                 char *both, uint32_t longest, serverd_error *err)
{
    struct parts parts[MERGES_AT_ONCE];
    serverd_status status = SERVERD_OK;
    for (uint32_t i = 0; i < n; i++)
        split_merge(builder, &builder->vocabulary->merge[first + i], both + (size_t)i * longest,
                    &parts[i]);
    for (uint32_t i = 0; i < n && status == SERVERD_OK; i++)
        if (parts[i].text[LEFT].bytes)
            status = intern_parts(builder, &parts[i], err);
    for (uint32_t i = 0; i < n && status == SERVERD_OK; i++)
        if (parts[i].text[LEFT].bytes && !add_merge(builder, &parts[i]))
            status = fail(err, SERVERD_UNSUPPORTED, "tokenizer: merge %u collides", first + i);
    return status;
}

/* The table of the merges that are there, when lines that never apply made room for too many. */
static serverd_status shrink(struct image_builder *builder, serverd_error *err)
{
    slot_builder_deinit(&builder->merge_slots);
    if (!slot_builder_init(&builder->merge_slots, builder->n_merges))
        return fail(err, SERVERD_NOMEM, "tokenizer: no memory for %u merges", builder->n_merges);
    for (uint32_t i = 0; i < builder->n_merges; i++)
        if (!slot_builder_put(&builder->merge_slots,
                              merge_hash(builder->merges[i].left, builder->merges[i].right), i))
            return fail(err, SERVERD_UNSUPPORTED, "tokenizer: merge %u collides", i);
    return SERVERD_OK;
}

serverd_status image_make_merges(struct image_builder *builder, serverd_error *err)
{
    const struct vocabulary *v = builder->vocabulary;
    const bool has_merges = v->kind == VOCABULARY_BPE || v->kind == VOCABULARY_BPE_UTF8;
    const uint32_t n = has_merges ? v->n_merges : 0;
    uint32_t longest = 1;
    for (uint32_t i = 0; i < n; i++)
        longest = v->merge[i].len > longest ? v->merge[i].len : longest;
    char *both = malloc((size_t)longest * MERGES_AT_ONCE);
    builder->merges = malloc(max_size(n, 1) * sizeof *builder->merges);
    serverd_status status = SERVERD_OK;
    if (!both || !builder->merges || !slot_builder_init(&builder->merge_slots, n))
        status = fail(err, SERVERD_NOMEM, "tokenizer: no memory for %u merges", n);
    for (uint32_t i = 0; i < n && status == SERVERD_OK; i += MERGES_AT_ONCE)
        status =
            add_merges(builder, i, (uint32_t)min_size(n - i, MERGES_AT_ONCE), both, longest, err);
    free(both);
    if (status == SERVERD_OK &&
        tokenizer_image_slots(builder->n_merges) <= builder->merge_slots.table.mask)
        status = shrink(builder, err);
    return status;
}

/* ---- bytes ----------------------------------------------------------------------------------- */

serverd_status image_make_bytes(struct image_builder *builder, serverd_error *err)
{
    (void)err;
    for (unsigned b = 0; b < 256; b++) {
        char text[8];
        size_t len = builder->vocabulary->kind == VOCABULARY_BPE
                         ? bpe_write_code(bpe_code_of_byte((uint8_t)b), text)
                         : (size_t)snprintf(text, sizeof text, "<0x%02X>", b);
        builder->byte_symbol[b] = builder->vocabulary->kind == VOCABULARY_WORDPIECE
                                      ? NO_TOKEN
                                      : text_table_find(&builder->texts.table, text, len);
    }
    return SERVERD_OK;
}
