#include "program/tokenizer_image.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"

#include <math.h>
#include <string.h>

static const char *const part_names[TOKENIZER_N_PARTS] = {
    [TOKENIZER_TEXT_OFFSETS] = "text offsets",
    [TOKENIZER_TEXT_BYTES] = "text bytes",
    [TOKENIZER_TEXT_SLOTS] = "text slots",
    [TOKENIZER_TYPES] = "types",
    [TOKENIZER_SCORES] = "scores",
    [TOKENIZER_MERGES] = "merges",
    [TOKENIZER_MERGE_SLOTS] = "merge slots",
    [TOKENIZER_SPECIALS] = "special tokens",
    [TOKENIZER_TRIE] = "trie",
    [TOKENIZER_PIECE_OFFSETS] = "piece offsets",
    [TOKENIZER_PIECE_BYTES] = "piece bytes",
    [TOKENIZER_END_TOKENS] = "end tokens",
    [TOKENIZER_ORDER] = "order",
    [TOKENIZER_PREFIXES] = "prefixes",
    [TOKENIZER_STEPS] = "steps",
    [TOKENIZER_SINGLE_FRAME] = "frame of a text",
    [TOKENIZER_PAIR_FRAME] = "frame of a pair",
    [TOKENIZER_RESERVED_17] = "reserved",
};

/* ---- reading --------------------------------------------------------------------------------- */

const char *vocabulary_text(const struct vocabulary *vocabulary, uint32_t id, uint32_t *len)
{
    if (!vocabulary->image) {
        *len = vocabulary->token[id].len;
        return vocabulary->token[id].bytes;
    }
    const uint32_t *offsets = tokenizer_image_part(vocabulary->image, TOKENIZER_TEXT_OFFSETS);
    const char *bytes = tokenizer_image_part(vocabulary->image, TOKENIZER_TEXT_BYTES);
    *len = offsets[id + 1] - offsets[id];
    return bytes + offsets[id];
}

enum token_type vocabulary_type(const struct vocabulary *vocabulary, uint32_t id)
{
    if (!vocabulary->image)
        return vocabulary->token[id].type;
    const uint8_t *types = tokenizer_image_part(vocabulary->image, TOKENIZER_TYPES);
    return types[id];
}

static void make_view(const struct tokenizer_image *image, struct vocabulary *out)
{
    const uint32_t flags = image->flags;
    *out = (struct vocabulary){
        .kind = image->kind,
        .n_tokens = image->n_tokens,
        .n_merges = image->n_merges,
        .image = image,
        .adds_bos = flags & TOKENIZER_ADDS_BOS,
        .adds_eos = flags & TOKENIZER_ADDS_EOS,
        .adds_separator = flags & TOKENIZER_ADDS_SEPARATOR,
        .adds_space_prefix = flags & TOKENIZER_ADDS_SPACE_PREFIX,
        .removes_extra_whitespace = flags & TOKENIZER_REMOVES_EXTRA_WHITESPACE,
        .lowercases = flags & TOKENIZER_LOWERCASES,
        .strips_accents = flags & TOKENIZER_STRIPS_ACCENTS,
        .ignores_merges_set = true,
        .ignores_merges = flags & TOKENIZER_IGNORES_MERGES,
        .is_stepwise = flags & TOKENIZER_IS_STEPWISE,
        .falls_back_to_bytes = flags & TOKENIZER_FALLS_BACK_TO_BYTES,
        .fuses_unknown = flags & TOKENIZER_FUSES_UNKNOWN,
        .single = tokenizer_image_part(image, TOKENIZER_SINGLE_FRAME),
        .pair = tokenizer_image_part(image, TOKENIZER_PAIR_FRAME),
        .n_single = (uint32_t)(image->part[TOKENIZER_SINGLE_FRAME].bytes / sizeof *out->single),
        .n_pair = (uint32_t)(image->part[TOKENIZER_PAIR_FRAME].bytes / sizeof *out->pair),
    };
    memcpy(out->pre, image->pre, sizeof out->pre);
    size_t i = 0;
#define ID(field) out->field = image->ids[i++];
    VOCABULARY_IDS(ID)
#undef ID
}

/* ---- checks: header and layout --------------------------------------------------------------- */

static bool is_zero(const void *bytes, size_t n)
{
    const uint8_t *p = bytes;
    uint8_t all = 0;
    for (size_t i = 0; i < n; i++)
        all |= p[i];
    return all == 0;
}

static serverd_status check_form(const struct tokenizer_image *image, size_t n, serverd_error *err)
{
    if ((uintptr_t)image % 8 != 0)
        return fail(err, SERVERD_INVALID, "it has to be aligned to 8 bytes");
    if (n < sizeof *image)
        return fail(err, SERVERD_CORRUPT, "%zu bytes, its header has %zu", n, sizeof *image);
    if (memcmp(image->magic, "sdptokn", 8) != 0)
        return fail(err, SERVERD_CORRUPT, "magic: these bytes are none");
    if (image->version != TOKENIZER_IMAGE_VERSION)
        return fail(err, SERVERD_VERSION, "version: %u, this program reads %u", image->version,
                    TOKENIZER_IMAGE_VERSION);
    if (image->bytes != n)
        return fail(err, SERVERD_CORRUPT, "bytes: %llu, there are %zu",
                    (unsigned long long)image->bytes, n);
    if (!is_zero(image->reserved0, sizeof image->reserved0) ||
        !is_zero(image->reserved1, sizeof image->reserved1) || image->ids[15] != 0)
        return fail(err, SERVERD_CORRUPT, "reserved bytes of the header are not 0");
    return SERVERD_OK;
}

static serverd_status check_numbers(const struct tokenizer_image *image, serverd_error *err)
{
    const bool merges = image->kind == VOCABULARY_BPE || image->kind == VOCABULARY_BPE_UTF8;
    if (image->kind < VOCABULARY_BPE || image->kind > VOCABULARY_UNIGRAM)
        return fail(err, SERVERD_UNSUPPORTED, "kind: %u is none that this version knows",
                    image->kind);
    if (image->flags & ~(uint32_t)TOKENIZER_ALL_FLAGS)
        return fail(err, SERVERD_UNSUPPORTED, "flags: 0x%x, this version knows 0x%x", image->flags,
                    (unsigned)TOKENIZER_ALL_FLAGS);
    if (image->n_tokens == 0 || image->n_tokens > LIMIT_VOCAB)
        return fail(err, SERVERD_CORRUPT, "tokens: %u, 1..%u are allowed", image->n_tokens,
                    LIMIT_VOCAB);
    if (image->n_merges > (merges ? 2 * LIMIT_VOCAB : 0))
        return fail(err, SERVERD_CORRUPT, "merges: %u, at most %u are allowed", image->n_merges,
                    merges ? 2 * LIMIT_VOCAB : 0);
    if (image->n_symbols < image->n_tokens ||
        image->n_symbols - image->n_tokens > 3 * image->n_merges)
        return fail(err, SERVERD_CORRUPT, "symbols: %u, %u..%u are allowed", image->n_symbols,
                    image->n_tokens, image->n_tokens + 3 * image->n_merges);
    if (image->text_longest_probe > LIMIT_HASH_PROBES ||
        image->merge_longest_probe > LIMIT_HASH_PROBES)
        return fail(err, SERVERD_CORRUPT, "longest probes: %u and %u, at most %u are allowed",
                    image->text_longest_probe, image->merge_longest_probe, LIMIT_HASH_PROBES);
    const size_t len = strnlen(image->pre, sizeof image->pre);
    if (len == sizeof image->pre || !is_zero(image->pre + len, sizeof image->pre - len))
        return fail(err, SERVERD_CORRUPT, "pre-tokenizer: its name does not end");
    return SERVERD_OK;
}

static serverd_status check_ids(const struct tokenizer_image *image, serverd_error *err)
{
    static const char *const names[] = {
#define ID(field) #field,
        VOCABULARY_IDS(ID)
#undef ID
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (image->ids[i] < -1 || image->ids[i] >= (int64_t)image->n_tokens)
            return fail(err, SERVERD_CORRUPT, "%s token: %d, there are %u tokens", names[i],
                        image->ids[i], image->n_tokens);
    for (size_t i = 0; i < 256; i++)
        if (image->byte_symbol[i] < -1 || image->byte_symbol[i] >= (int64_t)image->n_symbols)
            return fail(err, SERVERD_CORRUPT, "symbol of byte %zu: %d, there are %u", i,
                        image->byte_symbol[i], image->n_symbols);
    return SERVERD_OK;
}

/* Each part begins where it has to, so none overlaps another and nothing lies between them. */
static serverd_status check_layout(const struct tokenizer_image *image, serverd_error *err)
{
    uint64_t end = sizeof *image;
    for (int i = 0; i < TOKENIZER_MAX_PARTS; i++) {
        const struct tokenizer_image_range *part = &image->part[i];
        const char *name = i < TOKENIZER_N_PARTS ? part_names[i] : "unknown part";
        const uint64_t begin = (end + TOKENIZER_IMAGE_ALIGN - 1) & ~(TOKENIZER_IMAGE_ALIGN - 1ull);
        if (part->bytes == 0 && part->offset == 0)
            continue;
        if (i > TOKENIZER_PAIR_FRAME)
            return fail(err, SERVERD_UNSUPPORTED,
                        "%s (part %d): this version does not know its form", name, i);
        if (part->bytes == 0 || part->offset != begin || begin > image->bytes ||
            part->bytes > image->bytes - begin)
            return fail(err, SERVERD_CORRUPT, "%s: %llu bytes at %llu, it begins at %llu of %llu",
                        name, (unsigned long long)part->bytes, (unsigned long long)part->offset,
                        (unsigned long long)begin, (unsigned long long)image->bytes);
        if (!is_zero((const char *)image + end, begin - end))
            return fail(err, SERVERD_CORRUPT, "%s: the bytes before it are not 0", name);
        end = begin + part->bytes;
    }
    if (end != image->bytes)
        return fail(err, SERVERD_CORRUPT, "its parts end at %llu, it has %llu bytes",
                    (unsigned long long)end, (unsigned long long)image->bytes);
    return SERVERD_OK;
}

static uint32_t count_of(const struct tokenizer_image *image, enum tokenizer_image_part part)
{
    const uint32_t size = part == TOKENIZER_TRIE ? sizeof(struct tokenizer_trie_node) : 4;
    return (uint32_t)(image->part[part].bytes / size);
}

static serverd_status check_sizes(const struct tokenizer_image *image, serverd_error *err)
{
    const uint64_t n = image->n_tokens;
    const bool has_scores = image->kind == VOCABULARY_SPM || image->kind == VOCABULARY_UNIGRAM;
    const struct {
        enum tokenizer_image_part part;
        uint32_t record;
        uint64_t min, max; /* records */
    } rows[] = {
        {TOKENIZER_TEXT_OFFSETS, 4, image->n_symbols + 1ull, image->n_symbols + 1ull},
        {TOKENIZER_TEXT_BYTES, 1, 0, UINT32_MAX},
        {TOKENIZER_TEXT_SLOTS, 4, tokenizer_image_slots(image->n_symbols),
         tokenizer_image_slots(image->n_symbols)},
        {TOKENIZER_TYPES, 1, n, n},
        {TOKENIZER_SCORES, 4, has_scores ? n : 0, has_scores ? n : 0},
        {TOKENIZER_MERGES, sizeof(struct tokenizer_merge), image->n_merges, image->n_merges},
        {TOKENIZER_MERGE_SLOTS, 4, tokenizer_image_slots(image->n_merges),
         tokenizer_image_slots(image->n_merges)},
        {TOKENIZER_SPECIALS, 4, 0, n},
        {TOKENIZER_TRIE, sizeof(struct tokenizer_trie_node), 1, UINT32_MAX / 16},
        {TOKENIZER_PIECE_OFFSETS, 4, n + 1, n + 1},
        {TOKENIZER_PIECE_BYTES, 1, 0, UINT32_MAX},
        {TOKENIZER_END_TOKENS, 4, 0, n},
        {TOKENIZER_ORDER, 4, n, n},
        {TOKENIZER_PREFIXES, 2, n, n},
        {TOKENIZER_SINGLE_FRAME, sizeof(struct frame_item), 0, VOCABULARY_MAX_FRAME},
        {TOKENIZER_PAIR_FRAME, sizeof(struct frame_item), 0, VOCABULARY_MAX_FRAME},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const uint64_t bytes = image->part[rows[i].part].bytes, count = bytes / rows[i].record;
        if (bytes % rows[i].record != 0 || count < rows[i].min || count > rows[i].max)
            return fail(err, SERVERD_CORRUPT, "%s: %llu bytes are not %llu..%llu records of %u",
                        part_names[rows[i].part], (unsigned long long)bytes,
                        (unsigned long long)rows[i].min, (unsigned long long)rows[i].max,
                        rows[i].record);
    }
    return SERVERD_OK;
}

/* ---- checks: contents ------------------------------------------------------------------------ */

/* The loops below look at everything and only then ask, so that they run at the speed of memory. */

static serverd_status fail_part(enum tokenizer_image_part part, const char *reason,
                                serverd_error *err)
{
    return fail(err, SERVERD_CORRUPT, "%s: %s", part_names[part], reason);
}

static serverd_status check_offsets(const struct tokenizer_image *image,
                                    enum tokenizer_image_part part, uint32_t n, serverd_error *err)
{
    const uint32_t *offsets = tokenizer_image_part(image, part);
    const uint64_t bytes = image->part[part + 1].bytes;
    uint32_t falls = 0, longest = 0;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t len = offsets[i + 1] - offsets[i];
        falls |= offsets[i + 1] < offsets[i];
        longest = len > longest ? len : longest;
    }
    if (falls || offsets[0] != 0 || offsets[n] != bytes)
        return fail_part(part, "they do not ascend from 0 to the end of the bytes", err);
    if (longest > 2 * LIMIT_TOKEN_BYTES)
        return fail(err, SERVERD_CORRUPT, "%s: a text of %u bytes, at most %u are allowed",
                    part_names[part], longest, 2 * LIMIT_TOKEN_BYTES);
    return SERVERD_OK;
}

static serverd_status check_slots(const struct tokenizer_image *image,
                                  enum tokenizer_image_part part, uint32_t n_items,
                                  serverd_error *err)
{
    const uint32_t *slots = tokenizer_image_part(image, part);
    const uint32_t n_slots = count_of(image, part), mask = n_slots - 1;
    uint32_t bad = 0;
    for (uint32_t i = 0; i < n_slots; i++)
        bad |= (slots[i] != TOKENIZER_EMPTY_SLOT) & ((slots[i] & mask) >= n_items);
    return bad ? fail_part(part, "an item beyond the last", err) : SERVERD_OK;
}

static serverd_status check_list(const struct tokenizer_image *image,
                                 enum tokenizer_image_part part, serverd_error *err)
{
    const uint32_t *ids = tokenizer_image_part(image, part);
    const uint32_t n = count_of(image, part);
    uint32_t bad = 0;
    for (uint32_t i = 0; i < n; i++)
        bad |= ids[i] >= image->n_tokens;
    return bad ? fail_part(part, "an id beyond the last token", err) : SERVERD_OK;
}

static serverd_status check_tokens(const struct tokenizer_image *image, serverd_error *err)
{
    const uint8_t *types = tokenizer_image_part(image, TOKENIZER_TYPES);
    const float *scores = tokenizer_image_part(image, TOKENIZER_SCORES);
    const uint32_t n_scores = count_of(image, TOKENIZER_SCORES);
    uint32_t bad = 0;
    for (uint32_t i = 0; i < image->n_tokens; i++)
        bad |= (types[i] < TOKEN_NORMAL) | (types[i] > TOKEN_BYTE);
    if (bad)
        return fail_part(TOKENIZER_TYPES, "an unknown type", err);
    for (uint32_t i = 0; i < n_scores; i++)
        bad |= isnan(scores[i]) != 0;
    return bad ? fail_part(TOKENIZER_SCORES, "one is not a number", err) : SERVERD_OK;
}

static serverd_status check_merges(const struct tokenizer_image *image, serverd_error *err)
{
    const struct tokenizer_merge *merges = tokenizer_image_part(image, TOKENIZER_MERGES);
    uint32_t bad = 0;
    for (uint32_t i = 0; i < image->n_merges; i++)
        bad |= (merges[i].left >= image->n_symbols) | (merges[i].right >= image->n_symbols) |
               (merges[i].result >= image->n_symbols);
    return bad ? fail_part(TOKENIZER_MERGES, "a symbol beyond the last", err) : SERVERD_OK;
}

static serverd_status check_specials(const struct tokenizer_image *image, serverd_error *err)
{
    const uint32_t *ids = tokenizer_image_part(image, TOKENIZER_SPECIALS);
    const uint32_t *offsets = tokenizer_image_part(image, TOKENIZER_TEXT_OFFSETS);
    const uint32_t n = count_of(image, TOKENIZER_SPECIALS);
    uint32_t len_before = LIMIT_SPECIAL_BYTES + 1, id_before = 0;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t len = offsets[ids[i] + 1] - offsets[ids[i]];
        if (len == 0 || len > len_before || len > LIMIT_SPECIAL_BYTES ||
            (len == len_before && ids[i] <= id_before))
            return fail(err, SERVERD_CORRUPT,
                        "%s[%u]: token %u of %u bytes; 1..%u are allowed, longest first",
                        part_names[TOKENIZER_SPECIALS], i, ids[i], len, LIMIT_SPECIAL_BYTES);
        len_before = len;
        id_before = ids[i];
    }
    return SERVERD_OK;
}

/* Children begin where those of the node before end: a tree, whose levels follow each other. */
static serverd_status check_trie(const struct tokenizer_image *image, serverd_error *err)
{
    const struct tokenizer_trie_node *nodes = tokenizer_image_part(image, TOKENIZER_TRIE);
    const uint32_t n = count_of(image, TOKENIZER_TRIE);
    const uint32_t n_specials = count_of(image, TOKENIZER_SPECIALS);
    uint32_t next = 1, level_end = 1, depth = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct tokenizer_trie_node *node = &nodes[i];
        if (i == level_end) {
            level_end = next;
            depth++;
        }
        const bool is_last = node->n_children == 0;
        if (node->reserved != 0 || node->special > n_specials || node->n_children > n - next ||
            node->first_child != (is_last ? 0 : next) || depth > LIMIT_SPECIAL_BYTES ||
            i >= level_end || (i == 0 && (node->byte != 0 || node->special != 0)))
            return fail(err, SERVERD_CORRUPT, "%s[%u]: it is not in the tree's order",
                        part_names[TOKENIZER_TRIE], i);
        for (uint32_t k = 1; k < node->n_children; k++)
            if (nodes[next + k].byte <= nodes[next + k - 1].byte)
                return fail(err, SERVERD_CORRUPT, "%s[%u]: its byte is not in order",
                            part_names[TOKENIZER_TRIE], next + k);
        next += node->n_children;
    }
    return next == n ? SERVERD_OK : fail_part(TOKENIZER_TRIE, "nodes without a parent", err);
}

static serverd_status check_order(const struct tokenizer_image *image, serverd_error *err)
{
    const uint32_t *order = tokenizer_image_part(image, TOKENIZER_ORDER);
    const uint16_t *prefixes = tokenizer_image_part(image, TOKENIZER_PREFIXES);
    const uint32_t *offsets = tokenizer_image_part(image, TOKENIZER_PIECE_OFFSETS);
    uint32_t before = 0, bad = 0;
    for (uint32_t i = 0; i < image->n_tokens; i++) {
        const uint32_t len = offsets[order[i] + 1] - offsets[order[i]];
        bad |= (prefixes[i] > len) | (prefixes[i] > before);
        before = len;
    }
    return bad ? fail_part(TOKENIZER_PREFIXES, "one is longer than its pieces", err) : SERVERD_OK;
}

/* One step at bytes[0..n-1]; its whole length, 0: it is damaged. */
static size_t read_step(const char *bytes, size_t n, struct vocabulary_step *out)
{
    struct tokenizer_step head;
    if (n < sizeof head)
        return 0;
    memcpy(&head, bytes, sizeof head);
    const uint64_t used = sizeof head + (uint64_t)head.text_bytes + head.other_bytes;
    const uint64_t whole = (used + 3) & ~3ull;
    if (whole > n || !is_zero(bytes + used, whole - used))
        return 0;
    const char *text = bytes + sizeof head;
    *out = (struct vocabulary_step){.kind = head.kind,
                                    .flags = head.flags,
                                    .text = text,
                                    .len = head.text_bytes,
                                    .other = text + head.text_bytes,
                                    .other_len = head.other_bytes};
    return whole;
}

static serverd_status check_steps(const struct tokenizer_image *image, serverd_error *err)
{
    const char *bytes = tokenizer_image_part(image, TOKENIZER_STEPS);
    uint64_t left = image->part[TOKENIZER_STEPS].bytes;
    struct vocabulary_step step;
    for (uint32_t i = 0; left > 0; i++) {
        const size_t n = read_step(bytes, left, &step);
        if (n == 0 || i == VOCABULARY_MAX_STEPS || !(image->flags & TOKENIZER_IS_STEPWISE))
            return fail_part(TOKENIZER_STEPS, "a step is damaged, or one too many", err);
        if (step.kind < STEP_NFC || step.kind > STEP_AROUND_SPECIAL || step.flags > STEP_ALL_FLAGS)
            return fail(err, SERVERD_UNSUPPORTED,
                        "steps[%u]: kind %u with flags %u: this version does not know it", i,
                        step.kind, step.flags);
        bytes += n;
        left -= n;
    }
    return SERVERD_OK;
}

uint32_t tokenizer_image_steps(const struct tokenizer_image *image,
                               struct vocabulary_step out[VOCABULARY_MAX_STEPS])
{
    const char *bytes = tokenizer_image_part(image, TOKENIZER_STEPS);
    uint64_t left = image->part[TOKENIZER_STEPS].bytes;
    uint32_t count = 0;
    while (left > 0 && count < VOCABULARY_MAX_STEPS) {
        const size_t n = read_step(bytes, left, &out[count]);
        if (n == 0)
            break;
        bytes += n;
        left -= n;
        count++;
    }
    return count;
}

/* Empty, or with its texts in order, tokens that are there, and segments that do not descend. */
static serverd_status check_frame(const struct tokenizer_image *image,
                                  enum tokenizer_image_part part, uint32_t n_texts,
                                  serverd_error *err)
{
    const struct frame_item *frame = tokenizer_image_part(image, part);
    const size_t n = image->part[part].bytes / sizeof *frame;
    uint32_t n_found = 0, segment = 0;
    for (size_t i = 0; i < n; i++) {
        const bool is_text = frame[i].token < 0;
        if ((is_text && frame[i].token != FRAME_FIRST - (int32_t)n_found++) ||
            frame[i].token >= (int64_t)image->n_tokens || frame[i].segment < segment ||
            frame[i].segment >= n_texts)
            return fail(err, SERVERD_CORRUPT, "%s[%zu]: token %d of segment %u", part_names[part],
                        i, frame[i].token, frame[i].segment);
        segment = frame[i].segment;
    }
    return n == 0 || n_found == n_texts ? SERVERD_OK : fail_part(part, "it lacks a text", err);
}

static serverd_status check_contents(const struct tokenizer_image *image, serverd_error *err)
{
    serverd_status status;
    if ((status = check_offsets(image, TOKENIZER_TEXT_OFFSETS, image->n_symbols, err)) ||
        (status = check_offsets(image, TOKENIZER_PIECE_OFFSETS, image->n_tokens, err)) ||
        (status = check_slots(image, TOKENIZER_TEXT_SLOTS, image->n_symbols, err)) ||
        (status = check_slots(image, TOKENIZER_MERGE_SLOTS, image->n_merges, err)) ||
        (status = check_list(image, TOKENIZER_SPECIALS, err)) ||
        (status = check_list(image, TOKENIZER_END_TOKENS, err)) ||
        (status = check_list(image, TOKENIZER_ORDER, err)) || (status = check_tokens(image, err)) ||
        (status = check_merges(image, err)) || (status = check_specials(image, err)) ||
        (status = check_trie(image, err)) || (status = check_steps(image, err)) ||
        (status = check_frame(image, TOKENIZER_SINGLE_FRAME, 1, err)) ||
        (status = check_frame(image, TOKENIZER_PAIR_FRAME, 2, err)))
        return status;
    return check_order(image, err);
}

serverd_status tokenizer_image_open(const void *bytes, size_t n, struct vocabulary *out,
                                    serverd_error *err)
{
    const struct tokenizer_image *image = bytes;
    serverd_status status;
    if ((status = check_form(image, n, err)) || (status = check_numbers(image, err)) ||
        (status = check_ids(image, err)) || (status = check_layout(image, err)) ||
        (status = check_sizes(image, err)) || (status = check_contents(image, err)))
        return error_context(err, "tokenizer image");
    make_view(image, out);
    return SERVERD_OK;
}
