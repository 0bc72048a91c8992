#include "tools/grammar/mask_times.h"

#include "base/error.h"
#include "base/limits.h"
#include "compiler/compile.h"
#include "program/sdp_file.h"
#include "program/sdp_program.h"

#include <stdlib.h>
#include <time.h>

#define CACHE_BYTES (64 * MIB)
#define TIMES_MAX   (1u << 22)
#define TOKENS_MAX  (1u << 22)

struct mask_times {
    struct program *program;
    struct tokenizer *tokenizer;
    struct token_trie *trie;
    struct mask_cache *cache;
    uint64_t *mask;
    uint32_t *ns; /* [n] */
    uint32_t n, cap;
    uint64_t accept_ns; /* of all tokens that were accepted */
    uint32_t n_accepted;
};

serverd_status mask_times_create(const char *model, struct mask_times **out, serverd_error *err)
{
    struct mask_times *times = calloc(1, sizeof *times);
    const struct compile_options options = {.path = model, .vocabulary_only = true};
    if (!times)
        return fail(err, SERVERD_NOMEM, "no memory");
    serverd_status status = sdp_is_program_file(model)
                                ? sdp_open(model, &times->program, err)
                                : compile_model(&options, &times->program, err);
    if (status == SERVERD_OK)
        status = tokenizer_create(&times->program->vocabulary, &times->tokenizer, err);
    if (status == SERVERD_OK)
        status = token_trie_of_tokenizer(times->tokenizer, &times->trie, err);
    if (status == SERVERD_OK) {
        times->cache = mask_cache_create(times->trie, CACHE_BYTES);
        times->mask = calloc(token_mask_words(times->trie), sizeof *times->mask);
        if (!times->cache || !times->mask)
            status = fail(err, SERVERD_NOMEM, "no memory");
    }
    if (status == SERVERD_OK)
        *out = times;
    else
        mask_times_destroy(times);
    return status;
}

void mask_times_destroy(struct mask_times *times)
{
    if (!times)
        return;
    mask_cache_destroy(times->cache);
    token_trie_destroy(times->trie);
    tokenizer_destroy(times->tokenizer);
    program_unref(times->program);
    free(times->mask);
    free(times->ns);
    free(times);
}

static bool add_time(struct mask_times *times, uint64_t ns)
{
    if (times->n == times->cap) {
        uint32_t cap = times->cap ? times->cap * 2 : 4096;
        uint32_t *larger = cap <= TIMES_MAX ? realloc(times->ns, cap * sizeof *larger) : NULL;
        if (!larger)
            return false;
        times->ns = larger;
        times->cap = cap;
    }
    times->ns[times->n++] = ns < UINT32_MAX ? (uint32_t)ns : UINT32_MAX;
    return true;
}

static bool is_in_mask(const struct mask_times *times, uint32_t id)
{
    return times->mask[id / 64] >> (id % 64) & 1;
}

static serverd_status compare(struct mask_times *times, struct matcher *matcher, uint32_t id,
                              serverd_error *err)
{
    struct text_of_token text = token_trie_text(times->trie, id);
    bool is_legal = matcher_allows_token(matcher, times->trie, id);
    if (is_legal == is_in_mask(times, id) || text.n > TOKEN_PIECE_MAX)
        return SERVERD_OK;
    return fail(err, SERVERD_INTERNAL, "token %u \"%.*s\" is %s, the mask says otherwise", id,
                (int)text.n, text.bytes, is_legal ? "legal" : "not legal");
}

/* The processor's time: what others do on the machine is not measured. */
static uint64_t thread_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static serverd_status go_over(struct mask_times *times, struct matcher *matcher,
                              const struct token_list *tokens, bool checks_all, uint32_t *n_tokens,
                              serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    *n_tokens = 0;
    for (uint32_t i = 0; i <= tokens->n && status == SERVERD_OK; i++) {
        uint64_t begin = thread_ns();
        matcher_mask(matcher, times->cache, times->mask);
        if (!add_time(times, thread_ns() - begin))
            return fail(err, SERVERD_NOMEM, "more than %u masks", TIMES_MAX);
        for (uint32_t id = 0; checks_all && id < times->trie->n_tokens && status == SERVERD_OK;
             id++)
            status = compare(times, matcher, id, err);
        if (i == tokens->n || status != SERVERD_OK)
            break;
        uint32_t id = (uint32_t)tokens->id[i];
        status = compare(times, matcher, id, err);
        begin = thread_ns();
        if (status == SERVERD_OK && !matcher_accept_token(matcher, times->trie, id))
            break;
        times->accept_ns += thread_ns() - begin;
        times->n_accepted++;
        *n_tokens += 1;
    }
    return status;
}

serverd_status mask_times_add(struct mask_times *times, struct grammar *grammar, const char *text,
                              size_t n, bool checks_all, uint32_t *n_tokens, serverd_error *err)
{
    struct token_list tokens;
    struct matcher *matcher = matcher_create(grammar);
    token_list_init(&tokens, TOKENS_MAX);
    serverd_status status = matcher ? tokenizer_encode(times->tokenizer, text, n, 0, &tokens, err)
                                    : fail(err, SERVERD_NOMEM, "no memory");
    if (status == SERVERD_OK)
        status = go_over(times, matcher, &tokens, checks_all, n_tokens, err);
    token_list_deinit(&tokens);
    matcher_destroy(matcher);
    return status;
}

static int compare_times(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

void mask_times_report(struct mask_times *times, struct buffer *out)
{
    if (times->n == 0)
        return;
    qsort(times->ns, times->n, sizeof *times->ns, compare_times);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < times->n; i++)
        sum += times->ns[i];
    buffer_printf(out,
                  "%u masks of %u tokens, processor time: mean %.1f us, p50 %.1f us, p99 %.1f us, "
                  "longest %.1f us\n",
                  times->n, times->trie->n_tokens, (double)sum / times->n / 1e3,
                  times->ns[times->n / 2] / 1e3, times->ns[(uint64_t)times->n * 99 / 100] / 1e3,
                  times->ns[times->n - 1] / 1e3);
    if (times->n_accepted > 0)
        buffer_printf(out, "accepting a token: mean %.2f us\n",
                      (double)times->accept_ns / times->n_accepted / 1e3);
}
