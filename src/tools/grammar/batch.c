#include "tools/grammar/commands.h"

#include "base/error.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "grammar/matcher.h"
#include "tools/grammar/sample.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_BYTES (256 * MIB)

struct batch {
    const struct grammar_options *options;
    struct mask_times *times; /* NULL: none are taken */
    struct grammar *grammar;  /* of the last schema; NULL: it was refused */
};

static void answer_schema(struct batch *batch, const char *text, size_t n)
{
    const char *code;
    serverd_error err;
    grammar_unref(batch->grammar);
    batch->grammar = NULL;
    uint64_t begin = clock_now_ns(&system_clock);
    serverd_status status =
        grammar_compile(GRAMMAR_JSON_SCHEMA, text, n, batch->options, &batch->grammar, &code, &err);
    if (status == SERVERD_OK)
        (void)printf("ok %" PRIu64 "\n", (clock_now_ns(&system_clock) - begin) / 1000);
    else
        (void)printf("refused %s: %s\n", code, err.text);
}

static void answer_times(struct batch *batch, const char *text, size_t n)
{
    uint32_t n_tokens;
    serverd_error err;
    if (mask_times_add(batch->times, batch->grammar, text, n, false, &n_tokens, &err) == SERVERD_OK)
        (void)printf("tokens %u\n", n_tokens);
    else
        (void)printf("failed %s\n", err.text);
}

static void answer_instance(struct batch *batch, const char *text, size_t n)
{
    if (batch->times && batch->grammar) {
        answer_times(batch, text, n);
        return;
    }
    struct matcher *matcher = batch->grammar ? matcher_create(batch->grammar) : NULL;
    if (!matcher) {
        (void)printf("none\n");
        return;
    }
    size_t n_read = matcher_read(matcher, text, n);
    if (n_read == n && matcher_may_end(matcher))
        (void)printf("accepted\n");
    else
        (void)printf("rejected %zu\n", n_read);
    matcher_destroy(matcher);
}

static void answer_sample(struct batch *batch, uint64_t seed)
{
    struct matcher *matcher = batch->grammar ? matcher_create(batch->grammar) : NULL;
    struct buffer text;
    serverd_error err;
    if (!matcher) {
        (void)printf("none\n");
        return;
    }
    buffer_init(&text, SAMPLE_BYTES + 1);
    if (sample_text(matcher, seed, &text, &err) == SERVERD_OK)
        (void)printf("text %s\n", buffer_str(&text));
    else
        (void)printf("failed %s\n", err.text);
    buffer_deinit(&text);
    matcher_destroy(matcher);
}

static serverd_status answer(struct batch *batch, const char *line, size_t n, serverd_error *err)
{
    static const char schema[] = "schema ", instance[] = "instance ", sample[] = "sample ";
    size_t n_schema = sizeof schema - 1, n_instance = sizeof instance - 1;
    size_t n_sample = sizeof sample - 1;
    char number[32];
    uint64_t seed;
    if (n >= n_schema && memcmp(line, schema, n_schema) == 0)
        answer_schema(batch, line + n_schema, n - n_schema);
    else if (n >= n_instance && memcmp(line, instance, n_instance) == 0)
        answer_instance(batch, line + n_instance, n - n_instance);
    else if (n > n_sample && n - n_sample < sizeof number && memcmp(line, sample, n_sample) == 0) {
        memcpy(number, line + n_sample, n - n_sample);
        number[n - n_sample] = '\0';
        if (!parse_u64(number, 0, UINT64_MAX, &seed))
            return fail(err, SERVERD_INVALID, "batch: %s is no seed", number);
        answer_sample(batch, seed);
    } else {
        return fail(err, SERVERD_INVALID, "batch: a line is no schema, instance or sample");
    }
    return SERVERD_OK;
}

serverd_status grammar_batch(const char *path, const struct grammar_options *options,
                             struct mask_times *times, serverd_error *err)
{
    struct batch batch = {.options = options, .times = times};
    char *text;
    size_t n;
    serverd_status status = file_read(path, BATCH_BYTES, &text, &n, err);
    if (status != SERVERD_OK)
        return status;
    for (size_t i = 0; i < n && status == SERVERD_OK;) {
        const char *end = memchr(text + i, '\n', n - i);
        size_t length = end ? (size_t)(end - text) - i : n - i;
        if (length > 0)
            status = answer(&batch, text + i, length, err);
        i += length + 1;
    }
    grammar_unref(batch.grammar);
    free(text);
    return status;
}
