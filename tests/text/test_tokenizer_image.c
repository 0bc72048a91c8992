/* Tokenizer images: their bytes are as program/tokenizer_image.h says and always the same, and no
 * bytes make a tokenizer crash. Arguments: the folder with the golden images, which are the seeds
 * of fuzz_tokenizer_image; `write` behind it makes them anew. */
#include "base/file.h"
#include "base/hash.h"
#include "base/limits.h"
#include "program/tokenizer_image.h"
#include "text/small_vocabulary.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *folder;
static serverd_error err;

static const struct {
    const char *name;
    int kind;
} golden[] = {{"bpe", SMALL_BPE_GPT2},
              {"bpe-utf8", SMALL_BPE_UTF8},
              {"spm", SMALL_SPM},
              {"wordpiece", SMALL_WORDPIECE}};

enum { N_GOLDEN = sizeof golden / sizeof *golden };

/* An image in memory of its own size, so that a sanitizer sees reads past its end. */
struct image {
    struct tokenizer_image *header;
    size_t bytes;
};

static struct image build(const struct vocabulary *vocabulary)
{
    struct buffer buffer;
    buffer_init(&buffer, LIMIT_TOKENIZER_BYTES);
    if (tokenizer_image_build(vocabulary, &buffer, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    struct image image = {malloc(buffer.len), buffer.len};
    assert_non_null(image.header);
    memcpy(image.header, buffer.data, buffer.len);
    buffer_deinit(&buffer);
    return image;
}

static struct image build_small(int kind)
{
    static struct small_vocabulary small;
    small_vocabulary_init(&small, kind);
    return build(&small.vocabulary);
}

static const void *part(const struct image *image, enum tokenizer_image_part id, uint32_t *n,
                        size_t record)
{
    *n = (uint32_t)(image->header->part[id].bytes / record);
    return (const char *)image->header + image->header->part[id].offset;
}

static void golden_path(size_t i, char path[512])
{
    (void)snprintf(path, 512, "%s/%s", folder, golden[i].name);
}

static void write_golden(void)
{
    for (size_t i = 0; i < N_GOLDEN; i++) {
        char path[512];
        struct image image = build_small(golden[i].kind);
        golden_path(i, path);
        if (file_write_atomic(path, image.header, image.bytes, &err) != SERVERD_OK)
            (void)fprintf(stderr, "%s\n", err.text);
        free(image.header);
    }
}

/* ---- bytes ----------------------------------------------------------------------------------- */

static void images_are_the_golden_bytes(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_GOLDEN; i++) {
        char path[512], *bytes;
        size_t n;
        struct image image = build_small(golden[i].kind);
        golden_path(i, path);
        if (file_read(path, 1 << 20, &bytes, &n, &err) != SERVERD_OK)
            fail_msg("%s", err.text);
        assert_int_equal(n, image.bytes);
        assert_memory_equal(bytes, image.header, n);
        free(bytes);
        free(image.header);
    }
}

static void equal_vocabularies_give_equal_bytes(void **state)
{
    (void)state;
    for (int kind = 0; kind < SMALL_N_KINDS; kind++) {
        struct small_vocabulary *again = malloc(sizeof *again); /* texts elsewhere in memory */
        assert_non_null(again);
        memset(again, 0xa5, sizeof *again);
        small_vocabulary_init(again, kind);
        struct image a = build_small(kind), b = build(&again->vocabulary);
        free(again);
        struct vocabulary view;
        assert_int_equal(tokenizer_image_open(a.header, a.bytes, &view, &err), SERVERD_OK);
        struct image copy = build(&view);
        assert_int_equal(a.bytes, b.bytes);
        assert_int_equal(a.bytes, copy.bytes);
        assert_memory_equal(a.header, b.header, a.bytes);
        assert_memory_equal(a.header, copy.header, a.bytes);
        free(a.header);
        free(b.header);
        free(copy.header);
    }
}

static void a_view_reads_as_the_vocabulary(void **state)
{
    (void)state;
    static struct small_vocabulary small;
    for (int kind = 0; kind < SMALL_N_KINDS; kind++) {
        small_vocabulary_init(&small, kind);
        const struct vocabulary *v = &small.vocabulary;
        struct image image = build(v);
        struct vocabulary view;
        assert_int_equal(tokenizer_image_open(image.header, image.bytes, &view, &err), SERVERD_OK);
        assert_int_equal(view.kind, v->kind);
        assert_int_equal(view.n_tokens, v->n_tokens);
        assert_string_equal(view.pre, v->pre);
#define ID(field) assert_int_equal(view.field, v->field);
        VOCABULARY_IDS(ID)
#undef ID
        assert_int_equal(view.adds_bos, v->adds_bos);
        assert_int_equal(view.adds_eos, v->adds_eos);
        assert_int_equal(view.adds_space_prefix, v->adds_space_prefix);
        assert_int_equal(view.lowercases, v->lowercases);
        assert_int_equal(view.strips_accents, v->strips_accents);
        assert_int_equal(view.ignores_merges, kind == SMALL_BPE_LLAMA || kind == SMALL_BPE_TEKKEN);
        for (uint32_t i = 0; i < v->n_tokens; i++) {
            uint32_t len;
            const char *text = vocabulary_text(&view, i, &len);
            assert_int_equal(len, v->token[i].len);
            assert_memory_equal(text, v->token[i].bytes, len);
            const bool is_end = len == 4 && memcmp(text, "</s>", 4) == 0;
            assert_int_equal(vocabulary_type(&view, i),
                             is_end ? TOKEN_CONTROL : vocabulary_type(v, i));
        }
        free(image.header);
    }
}

/* ---- a reader of its own, from the words of the header alone ----------------------------------
 */

static bool is_text_of(const struct image *image, uint32_t symbol, const char *text, size_t len)
{
    uint32_t n, n_bytes;
    const uint32_t *offsets = part(image, TOKENIZER_TEXT_OFFSETS, &n, 4);
    const char *bytes = part(image, TOKENIZER_TEXT_BYTES, &n_bytes, 1);
    return offsets[symbol + 1] - offsets[symbol] == len &&
           memcmp(bytes + offsets[symbol], text, len) == 0;
}

/* Items that lie in the table where one of that hash may. */
static uint32_t read_slots(const struct image *image, enum tokenizer_image_part id, uint64_t hash,
                           uint32_t longest_probe, uint32_t *items)
{
    uint32_t n_slots, n = 0;
    const uint32_t *slots = part(image, id, &n_slots, 4);
    for (uint32_t i = 0; i <= longest_probe; i++) {
        const uint32_t slot = slots[(hash + i) % n_slots];
        if (slot == UINT32_MAX)
            break;
        if (slot / n_slots == (hash >> 32) / n_slots)
            items[n++] = slot % n_slots;
    }
    return n;
}

/* The last token of the text. */
static uint32_t naive_find(const struct vocabulary *v, const char *text, uint32_t len)
{
    for (uint32_t i = v->n_tokens; i-- > 0;)
        if (v->token[i].len == len && memcmp(v->token[i].bytes, text, len) == 0)
            return i;
    return UINT32_MAX;
}

static uint32_t read_text(const struct image *image, const char *text, size_t len)
{
    uint32_t items[LIMIT_HASH_PROBES + 1];
    const uint32_t n = read_slots(image, TOKENIZER_TEXT_SLOTS, checksum64(text, len),
                                  image->header->text_longest_probe, items);
    for (uint32_t i = 0; i < n; i++)
        if (is_text_of(image, items[i], text, len))
            return items[i];
    return UINT32_MAX;
}

static void texts_lead_to_tokens_as_the_header_says(void **state)
{
    (void)state;
    static struct small_vocabulary small;
    for (int kind = 0; kind < SMALL_N_KINDS; kind++) {
        small_vocabulary_init(&small, kind);
        const struct vocabulary *v = &small.vocabulary;
        struct image image = build(v);
        for (uint32_t i = 0; i < v->n_tokens; i++)
            assert_int_equal(read_text(&image, v->token[i].bytes, v->token[i].len),
                             naive_find(v, v->token[i].bytes, v->token[i].len));
        assert_int_equal(read_text(&image, "no token", 8), UINT32_MAX);
        free(image.header);
    }
}

static void pairs_lead_to_ranks_as_the_header_says(void **state)
{
    (void)state;
    static struct small_vocabulary small;
    small_vocabulary_init(&small, SMALL_BPE_UTF8);
    struct image image = build(&small.vocabulary);
    uint32_t n;
    const struct tokenizer_merge *merges = part(&image, TOKENIZER_MERGES, &n, sizeof *merges);
    /* of the ten lines one comes twice and three are no pairs */
    static const char *const texts[][3] = {{"t", "h", "th"},
                                           {"th", "e", "the"},
                                           {"\xe2\x96\x81", "the", "\xe2\x96\x81the"},
                                           {"\xc3\xa9", "t", "\xc3\xa9t"},
                                           {"q", "u", "qu"},
                                           {"qu", "i", "qui"}};
    assert_int_equal(n, 6);
    assert_int_equal(image.header->n_merges, 6);
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(merges[i].left, read_text(&image, texts[i][0], strlen(texts[i][0])));
        assert_int_equal(merges[i].right, read_text(&image, texts[i][1], strlen(texts[i][1])));
        assert_int_equal(merges[i].result, read_text(&image, texts[i][2], strlen(texts[i][2])));
        uint32_t items[LIMIT_HASH_PROBES + 1];
        const uint64_t pair = (uint64_t)merges[i].left << 32 | merges[i].right;
        const uint32_t found = read_slots(&image, TOKENIZER_MERGE_SLOTS, hash_mix(pair),
                                          image.header->merge_longest_probe, items);
        assert_true(found > 0);
        assert_int_equal(items[found - 1], i);
    }
    /* q, u, qu, i and qui are no tokens */
    assert_int_equal(image.header->n_symbols, small.vocabulary.n_tokens + 5);
    free(image.header);
}

static void ids_are_ordered_by_their_bytes(void **state)
{
    (void)state;
    for (int kind = 0; kind < SMALL_N_KINDS; kind++) {
        struct image image = build_small(kind);
        struct tokenizer *tokenizer;
        assert_int_equal(tokenizer_open(image.header, image.bytes, &tokenizer, &err), SERVERD_OK);
        uint32_t n, n_prefixes;
        const uint32_t *order = part(&image, TOKENIZER_ORDER, &n, 4);
        const uint16_t *prefixes = part(&image, TOKENIZER_PREFIXES, &n_prefixes, 2);
        bool is_there[SMALL_MAX_TOKENS] = {false};
        assert_int_equal(n, image.header->n_tokens);
        assert_int_equal(n_prefixes, n);
        assert_int_equal(prefixes[0], 0);
        for (uint32_t i = 0; i < n; i++) {
            assert_false(is_there[order[i]]);
            is_there[order[i]] = true;
            if (i == 0)
                continue;
            uint32_t a_len, b_len, shared = 0;
            const char *a = tokenizer_piece(tokenizer, (int32_t)order[i - 1], &a_len);
            const char *b = tokenizer_piece(tokenizer, (int32_t)order[i], &b_len);
            while (shared < a_len && shared < b_len && a[shared] == b[shared])
                shared++;
            assert_int_equal(prefixes[i], shared);
            if (shared == a_len && shared == b_len)
                assert_true(order[i - 1] < order[i]);
            else if (shared < a_len)
                assert_true(shared < b_len && (uint8_t)a[shared] < (uint8_t)b[shared]);
        }
        tokenizer_destroy(tokenizer);
        free(image.header);
    }
}

static void long_pieces_are_ordered_too(void **state)
{
    (void)state;
    enum { N = 600, LEN = 40 };
    static char text[N][LEN];
    static struct token_text token[N];
    for (uint32_t i = 0; i < N; i++) {
        token[i] = (struct token_text){text[i], (uint32_t)(hash_mix(i) % LEN), 0, TOKEN_NORMAL};
        for (uint32_t k = 0; k < token[i].len; k++) /* seldom another byte, 0 among them */
            text[i][k] = hash_mix(i * 100u + k) % 8 ? 'a' : (char)(hash_mix(i + k * 1000u) % 3);
    }
    struct vocabulary v = {.kind = VOCABULARY_WORDPIECE, .n_tokens = N, .token = token};
    struct image image = build(&v);
    uint32_t n;
    const uint32_t *order = part(&image, TOKENIZER_ORDER, &n, 4);
    const uint16_t *prefixes = part(&image, TOKENIZER_PREFIXES, &n, 2);
    for (uint32_t i = 1; i < N; i++) {
        const struct token_text *a = &token[order[i - 1]], *b = &token[order[i]];
        const uint32_t len = a->len < b->len ? a->len : b->len;
        const int compared = memcmp(a->bytes, b->bytes, len);
        uint32_t shared = 0;
        while (shared < len && a->bytes[shared] == b->bytes[shared])
            shared++;
        assert_true(compared < 0 || (compared == 0 && a->len < b->len) ||
                    (compared == 0 && a->len == b->len && order[i - 1] < order[i]));
        assert_int_equal(prefixes[i], shared);
    }
    free(image.header);
}

/* ---- limits ---------------------------------------------------------------------------------- */

static void refuse_to_build(const struct vocabulary *v, const char *reason)
{
    struct buffer out;
    buffer_init(&out, LIMIT_TOKENIZER_BYTES);
    assert_int_equal(tokenizer_image_build(v, &out, &err), SERVERD_UNSUPPORTED);
    if (!strstr(err.text, reason))
        fail_msg("%s: expected %s", err.text, reason);
    assert_int_equal(out.len, 0);
    buffer_deinit(&out);
}

static void texts_made_to_collide_are_refused(void **state)
{
    (void)state;
    enum { N = LIMIT_HASH_PROBES + 76, SLOTS = 4096 };
    static char text[N][12];
    static struct token_text token[N];
    assert_int_equal(tokenizer_image_slots(N), SLOTS);
    uint32_t n = 0;
    for (uint64_t i = 0; n < N; i++) {
        const int len = snprintf(text[n], sizeof text[n], "%llx", (unsigned long long)i);
        if (checksum64(text[n], (size_t)len) % SLOTS == 0) {
            token[n] = (struct token_text){text[n], (uint32_t)len, 0, TOKEN_NORMAL};
            n++;
        }
    }
    struct vocabulary v = {.kind = VOCABULARY_SPM, .n_tokens = N, .token = token};
    refuse_to_build(&v, "collides");
    v.n_tokens = LIMIT_HASH_PROBES / 2 + 1; /* another table, in which they do not */
    struct image image = build(&v);
    assert_true(image.header->text_longest_probe > 100);
    free(image.header);
}

static void what_cannot_be_a_tokenizer_is_refused(void **state)
{
    (void)state;
    static char text[LIMIT_SPECIAL_BYTES + 1];
    static struct small_vocabulary small;
    memset(text, 'x', sizeof text);
    small_vocabulary_init(&small, SMALL_SPM);
    small.tokens[7].bytes = text;
    small.tokens[7].len = LIMIT_SPECIAL_BYTES;
    struct image image = build(&small.vocabulary);
    struct tokenizer *tokenizer;
    assert_int_equal(tokenizer_open(image.header, image.bytes, &tokenizer, &err), SERVERD_OK);
    (void)exercise_tokenizer(tokenizer);
    tokenizer_destroy(tokenizer);
    free(image.header);
    small.tokens[7].len++;
    refuse_to_build(&small.vocabulary, "special token 7 has 1025 bytes");
    small_vocabulary_init(&small, SMALL_BPE_GPT2);
    (void)snprintf(small.vocabulary.pre, sizeof small.vocabulary.pre, "unheard-of");
    refuse_to_build(&small.vocabulary, "no pre-tokenizer unheard-of");
    refuse_to_build(&(struct vocabulary){0}, "no vocabulary");
}

static void what_goes_on_behind_other_tokens_gets_no_space_in_front(void **state)
{
    (void)state;
    static struct small_vocabulary small;
    small_vocabulary_init(&small, SMALL_SPM);
    struct tokenizer *tokenizer;
    struct token_list ids;
    uint32_t n;
    assert_int_equal(tokenizer_create(&small.vocabulary, &tokenizer, &err), SERVERD_OK);
    for (int continues = 0; continues < 2; continues++) {
        token_list_init(&ids, 8);
        assert_int_equal(
            tokenizer_encode(tokenizer, "the", 3, continues ? TOKENIZER_CONTINUES : 0, &ids, &err),
            SERVERD_OK);
        const char *piece = tokenizer_piece(tokenizer, ids.id[0], &n);
        assert_int_equal(n > 0 && piece[0] == ' ', !continues);
        token_list_deinit(&ids);
    }
    tokenizer_destroy(tokenizer);
}

/* ---- hostile bytes --------------------------------------------------------------------------- */

static void refuse(struct image *image, serverd_status status, const char *reason)
{
    struct tokenizer *tokenizer;
    const serverd_status found = tokenizer_open(image->header, image->bytes, &tokenizer, &err);
    if (found != status || !strstr(err.text, reason))
        fail_msg("status %d, %s; expected %d, %s", found, err.text, status, reason);
}

static void what_is_unknown_is_refused_by_name(void **state)
{
    (void)state;
    struct image image = build_small(SMALL_SPM);
    struct tokenizer_image *h = image.header, good = *h;
    h->version = 2;
    refuse(&image, SERVERD_VERSION, "version: 2");
    *h = good;
    h->kind = 9;
    refuse(&image, SERVERD_UNSUPPORTED, "kind: 9");
    *h = good;
    h->flags |= 1u << 31;
    refuse(&image, SERVERD_UNSUPPORTED, "flags: 0x");
    *h = good;
    h->part[TOKENIZER_RESERVED_17] = (struct tokenizer_image_range){image.bytes - 64, 64};
    refuse(&image, SERVERD_UNSUPPORTED, "reserved");
    *h = good;
    h->part[TOKENIZER_N_PARTS] = (struct tokenizer_image_range){image.bytes - 64, 64};
    refuse(&image, SERVERD_UNSUPPORTED, "unknown part");
    *h = good;
    h->kind = VOCABULARY_BPE; /* its pre-tokenizer is */
    h->part[TOKENIZER_SCORES] = (struct tokenizer_image_range){0};
    memcpy(h->pre, "next", 5);
    refuse(&image, SERVERD_CORRUPT, "merge slots: "); /* which do not begin where the scores did */
    free(image.header);
    image = build_small(SMALL_BPE_GPT2);
    memcpy(image.header->pre, "next5", 6);
    refuse(&image, SERVERD_UNSUPPORTED, "no pre-tokenizer next5");
    free(image.header);
}

/* One record each that would lead a reader astray. */
static void every_record_is_checked(void **state)
{
    (void)state;
    const struct {
        enum tokenizer_image_part part;
        uint32_t index, value; /* of u32 */
        const char *reason;
    } rows[] = {
        {TOKENIZER_TEXT_OFFSETS, 0, 1, "text offsets: they do not ascend"},
        {TOKENIZER_TEXT_OFFSETS, 9, 0, "text offsets: they do not ascend"},
        {TOKENIZER_TEXT_OFFSETS, 10, UINT32_MAX, "text offsets: they do not ascend"},
        {TOKENIZER_PIECE_OFFSETS, 10, UINT32_MAX, "piece offsets: they do not ascend"},
        {TOKENIZER_TEXT_SLOTS, 3, 1023, "text slots: an item"},
        {TOKENIZER_MERGE_SLOTS, 3, 31, "merge slots: an item"},
        {TOKENIZER_TYPES, 2, 0, "types: an unknown"},
        {TOKENIZER_TYPES, 2, 0x07070707, "types: an unknown"},
        {TOKENIZER_MERGES, 0, UINT32_MAX, "merges: a symbol"},
        {TOKENIZER_MERGES, 1, UINT32_MAX, "merges: a symbol"},
        {TOKENIZER_MERGES, 2, 100000, "merges: a symbol"},
        {TOKENIZER_SPECIALS, 0, UINT32_MAX, "special tokens: an id"},
        {TOKENIZER_SPECIALS, 0, 0, "special tokens[1]: token 4 of 10 bytes"},
        {TOKENIZER_TRIE, 0, 2, "trie[0]"}, /* first child of the root */
        {TOKENIZER_TRIE, 1, 1, "trie[1]"},
        {TOKENIZER_TRIE, 3, 0, "trie[1]"}, /* first child of its child: itself */
        {TOKENIZER_TRIE, 5, 1000, "trie[1]"},
        {TOKENIZER_END_TOKENS, 0, UINT32_MAX, "end tokens: an id"},
        {TOKENIZER_ORDER, 100, UINT32_MAX, "order: an id"},
        {TOKENIZER_PREFIXES, 0, 1, "prefixes: one is longer"},
        {TOKENIZER_PREFIXES, 9, 0xffff, "prefixes: one is longer"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct image image = build_small(SMALL_BPE_GPT2);
        char *at = (char *)image.header + image.header->part[rows[i].part].offset;
        memcpy(at + 4 * (size_t)rows[i].index, &rows[i].value, 4);
        refuse(&image, SERVERD_CORRUPT, rows[i].reason);
        free(image.header);
    }
    struct image image = build_small(SMALL_SPM);
    memset((char *)image.header + image.header->part[TOKENIZER_SCORES].offset, 0xff, 4);
    refuse(&image, SERVERD_CORRUPT, "scores: one is not a number");
    image.header->byte_symbol[3] = (int32_t)image.header->n_tokens;
    refuse(&image, SERVERD_CORRUPT, "symbol of byte 3");
    image.header->ids[8] = -2;
    refuse(&image, SERVERD_CORRUPT, "mask token: -2");
    free(image.header);
}

/* True: it is an image all the same, and was asked everything. */
static bool survives(const struct image *image)
{
    struct tokenizer *tokenizer;
    if (tokenizer_open(image->header, image->bytes, &tokenizer, &err) != SERVERD_OK)
        return false;
    (void)exercise_tokenizer(tokenizer);
    tokenizer_destroy(tokenizer);
    return true;
}

static void any_flipped_byte_is_refused_or_harmless(void **state)
{
    (void)state;
    uint32_t n_refused = 0, n_bytes = 0;
    for (size_t g = 0; g < N_GOLDEN; g++) {
        struct image image = build_small(golden[g].kind);
        uint8_t *bytes = (uint8_t *)image.header;
        for (size_t i = 0; i < image.bytes; i++) {
            const uint8_t mask = (uint8_t)(1 + hash_mix(i) % 255);
            bytes[i] ^= mask;
            n_refused += !survives(&image);
            n_bytes++;
            bytes[i] ^= mask;
        }
        assert_true(survives(&image));
        free(image.header);
    }
    (void)fprintf(stderr, "%u of %u flipped bytes are refused\n", n_refused, n_bytes);
    assert_true(n_refused > n_bytes / 8);
}

static void shortened_images_are_refused(void **state)
{
    (void)state;
    for (size_t g = 0; g < N_GOLDEN; g++) {
        struct image whole = build_small(golden[g].kind);
        for (size_t n = 0; n < whole.bytes; n++) {
            struct image image = {malloc(n + 1), n};
            assert_non_null(image.header);
            memcpy(image.header, whole.header, n);
            assert_false(survives(&image));
            if (n >= sizeof(struct tokenizer_image)) { /* and says so */
                image.header->bytes = n;
                assert_false(survives(&image));
            }
            free(image.header);
        }
        free(whole.header);
    }
}

static uint32_t random_word(uint64_t random, const struct image *image)
{
    const uint32_t words[] = {0,
                              1,
                              UINT32_MAX,
                              0x7fffffff,
                              0xffff,
                              image->header->n_tokens,
                              (uint32_t)image->bytes,
                              (uint32_t)random,
                              (uint32_t)(random % image->header->n_tokens)};
    return words[hash_mix(random) % (sizeof words / sizeof *words)];
}

static void random_words_are_refused_or_harmless(void **state)
{
    (void)state;
    uint32_t n_survived = 0;
    for (uint64_t seed = 0; seed < 20000; seed++) {
        static struct image whole[N_GOLDEN];
        const size_t g = seed % N_GOLDEN;
        if (!whole[g].header)
            whole[g] = build_small(golden[g].kind);
        struct image image = {malloc(whole[g].bytes), whole[g].bytes};
        assert_non_null(image.header);
        memcpy(image.header, whole[g].header, image.bytes);
        for (uint64_t i = 0; i <= hash_mix(seed) % 4; i++) {
            /* places among the words of a random part, so that small ones are met too */
            const uint64_t random = hash_mix(seed * 16 + i);
            const struct tokenizer_image_range *p = &whole[g].header->part[random % 14];
            if (p->bytes < 4)
                continue;
            const uint32_t word = random_word(hash_mix(random), &whole[g]);
            memcpy((char *)image.header + p->offset + (random >> 8) % (p->bytes / 4) * 4, &word, 4);
        }
        n_survived += survives(&image);
        free(image.header);
        for (size_t i = 0; seed == 19999 && i < N_GOLDEN; i++)
            free(whole[i].header);
    }
    (void)fprintf(stderr, "%u of 20000 opened\n", n_survived);
    assert_true(n_survived > 100);
}

int main(int argc, char **argv)
{
    folder = argc > 1 ? argv[1] : ".";
    if (argc > 2 && strcmp(argv[2], "write") == 0) {
        write_golden();
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(images_are_the_golden_bytes),
        cmocka_unit_test(equal_vocabularies_give_equal_bytes),
        cmocka_unit_test(a_view_reads_as_the_vocabulary),
        cmocka_unit_test(texts_lead_to_tokens_as_the_header_says),
        cmocka_unit_test(pairs_lead_to_ranks_as_the_header_says),
        cmocka_unit_test(ids_are_ordered_by_their_bytes),
        cmocka_unit_test(long_pieces_are_ordered_too),
        cmocka_unit_test(texts_made_to_collide_are_refused),
        cmocka_unit_test(what_cannot_be_a_tokenizer_is_refused),
        cmocka_unit_test(what_goes_on_behind_other_tokens_gets_no_space_in_front),
        cmocka_unit_test(what_is_unknown_is_refused_by_name),
        cmocka_unit_test(every_record_is_checked),
        cmocka_unit_test(any_flipped_byte_is_refused_or_harmless),
        cmocka_unit_test(shortened_images_are_refused),
        cmocka_unit_test(random_words_are_refused_or_harmless),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
