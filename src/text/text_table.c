#include "base/error.h"
#include "base/hash.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "text/image_builder_internal.h"
#include "text/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- looking up ------------------------------------------------------------------------------ */

static bool is_text(const struct text_table *table, uint32_t symbol, const char *bytes, size_t len)
{
    const uint32_t begin = table->offsets[symbol];
    return table->offsets[symbol + 1] - begin == len &&
           memcmp(table->bytes + begin, bytes, len) == 0;
}

/* *probe is then the one after the text's. */
static int32_t find(const struct text_table *table, uint64_t hash, const char *bytes, size_t len,
                    uint32_t *probe)
{
    uint32_t symbol;
    *probe = 0;
    while ((symbol = slot_table_next(&table->slots, hash, probe)) != NO_ITEM)
        if (is_text(table, symbol, bytes, len))
            return (int32_t)symbol;
    return NO_TOKEN;
}

int32_t text_table_find(const struct text_table *table, const char *bytes, size_t len)
{
    uint32_t probe;
    return len > table->longest ? NO_TOKEN
                                : find(table, checksum64(bytes, len), bytes, len, &probe);
}

/* ---- making ---------------------------------------------------------------------------------- */

/* The table is larger than caches: so many texts ask for their places before they go there. */
#define TEXTS_AT_ONCE 16u

static void refresh(struct text_builder *builder)
{
    builder->table.slots = builder->slots.table;
    builder->table.offsets = builder->offsets;
    builder->table.bytes = builder->bytes;
}

/* False: no memory, or more bytes than an offset counts. */
static bool reserve(struct text_builder *builder, uint32_t n_symbols, size_t n_bytes)
{
    if (n_bytes > UINT32_MAX)
        return false;
    if (n_symbols >= builder->offset_cap) {
        const size_t cap = max_size((size_t)n_symbols + 1, (size_t)builder->offset_cap * 2);
        uint32_t *bigger = realloc(builder->offsets, cap * sizeof *bigger);
        if (!bigger)
            return false;
        builder->offsets = bigger;
        builder->offset_cap = (uint32_t)cap;
    }
    if (n_bytes > builder->byte_cap) {
        const size_t cap = max_size(n_bytes, builder->byte_cap * 2);
        char *bigger = realloc(builder->bytes, cap);
        if (!bigger)
            return false;
        builder->bytes = bigger;
        builder->byte_cap = cap;
    }
    return true;
}

/* The text's symbol becomes `symbol`. False: texts collide. */
static bool put(struct text_builder *builder, uint64_t hash, uint32_t symbol)
{
    const uint32_t begin = builder->offsets[symbol];
    const uint32_t len = builder->offsets[symbol + 1] - begin;
    uint32_t probe;
    if (len == 0)
        return true;
    if (find(&builder->table, hash, builder->bytes + begin, len, &probe) != NO_TOKEN) {
        slot_builder_replace(&builder->slots, hash, probe, symbol);
        return true;
    }
    const bool fits = slot_builder_put(&builder->slots, hash, symbol);
    refresh(builder);
    return fits;
}

/* All symbols so far into an empty table with room for n_items. */
static serverd_status fill_slots(struct text_builder *builder, uint32_t n_items, serverd_error *err)
{
    slot_builder_deinit(&builder->slots);
    if (!slot_builder_init(&builder->slots, n_items))
        return fail(err, SERVERD_NOMEM, "tokenizer: no memory for %u texts", n_items);
    refresh(builder);
    for (uint32_t first = 0; first < builder->n; first += TEXTS_AT_ONCE) {
        const uint32_t n = (uint32_t)min_size(builder->n - first, TEXTS_AT_ONCE);
        uint64_t hash[TEXTS_AT_ONCE];
        for (uint32_t i = 0; i < n; i++) {
            const uint32_t begin = builder->offsets[first + i];
            hash[i] = checksum64(builder->bytes + begin, builder->offsets[first + i + 1] - begin);
            slot_table_prefetch(&builder->slots.table, hash[i]);
        }
        for (uint32_t i = 0; i < n; i++)
            if (!put(builder, hash[i], first + i))
                return fail(err, SERVERD_UNSUPPORTED, "tokenizer: the text of token %u collides",
                            first + i);
    }
    return SERVERD_OK;
}

serverd_status text_builder_init(struct text_builder *builder, const struct vocabulary *vocabulary,
                                 serverd_error *err)
{
    size_t n_bytes = 1;
    *builder = (struct text_builder){0};
    for (uint32_t i = 0; i < vocabulary->n_tokens; i++)
        n_bytes += vocabulary->token[i].len;
    if (!reserve(builder, vocabulary->n_tokens, n_bytes))
        return fail(err, SERVERD_NOMEM, "tokenizer: no memory for %u tokens", vocabulary->n_tokens);
    uint32_t end = 0;
    builder->offsets[0] = 0;
    for (uint32_t i = 0; i < vocabulary->n_tokens; i++) {
        const struct token_text *token = &vocabulary->token[i];
        if (token->len > 0)
            memcpy(builder->bytes + end, token->bytes, token->len);
        end += token->len;
        builder->offsets[i + 1] = end;
        builder->table.longest =
            token->len > builder->table.longest ? token->len : builder->table.longest;
    }
    builder->n = vocabulary->n_tokens;
    return fill_slots(builder, builder->n, err);
}

void text_builder_deinit(struct text_builder *builder)
{
    free(builder->offsets);
    free(builder->bytes);
    slot_builder_deinit(&builder->slots);
}

uint64_t text_builder_prefetch(const struct text_builder *builder, const char *bytes, size_t len)
{
    const uint64_t hash = checksum64(bytes, len);
    slot_table_prefetch(&builder->table.slots, hash);
    return hash;
}

serverd_status text_builder_intern(struct text_builder *builder, uint64_t hash, const char *bytes,
                                   uint32_t len, uint32_t *symbol, serverd_error *err)
{
    uint32_t probe;
    const int32_t found = find(&builder->table, hash, bytes, len, &probe);
    *symbol = found == NO_TOKEN ? builder->n : (uint32_t)found;
    if (found != NO_TOKEN)
        return SERVERD_OK;
    const uint32_t begin = builder->offsets[builder->n];
    if (!reserve(builder, builder->n + 1, (size_t)begin + len))
        return fail(err, SERVERD_NOMEM, "tokenizer: no memory for %u texts", builder->n + 1);
    memcpy(builder->bytes + begin, bytes, len);
    builder->offsets[++builder->n] = begin + len;
    builder->table.longest = len > builder->table.longest ? len : builder->table.longest;
    refresh(builder);
    if (tokenizer_image_slots(builder->n) > builder->slots.table.mask + 1)
        return fill_slots(builder, builder->n, err);
    return put(builder, hash, *symbol) ? SERVERD_OK
                                       : fail(err, SERVERD_UNSUPPORTED,
                                              "tokenizer: the text of symbol %u collides", *symbol);
}
