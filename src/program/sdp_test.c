#include "program/sdp_test.h"

#include "base/error.h"
#include "program/dtype.h"
#include "program/op.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* What is left of the section. */
struct rest {
    const char *at;
    uint64_t bytes;
};

/* The next n numbers of four bytes; NULL: there are not so many. */
static const void *take(struct rest *rest, uint64_t n)
{
    const void *found = rest->at;
    if (n > rest->bytes / 4)
        return NULL;
    rest->at += n * 4;
    rest->bytes -= n * 4;
    return found;
}

static bool are_tokens(const int32_t *ids, uint64_t n, uint32_t n_vocab)
{
    for (uint64_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= n_vocab)
            return false;
    return true;
}

static bool are_finite(const float *numbers, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        if (!isfinite(numbers[i]))
            return false;
    return true;
}

static bool ascend_below(const uint32_t *positions, uint32_t n, uint32_t end)
{
    for (uint32_t i = 0; i < n; i++)
        if (positions[i] >= end || (i > 0 && positions[i] <= positions[i - 1]))
            return false;
    return true;
}

static serverd_status fail_case(serverd_error *err, const char *field, const char *reason)
{
    return fail(err, SERVERD_CORRUPT, "%s: %s", field, reason);
}

/* A decoder answers at positions, an encoder with one output for the whole text. */
static serverd_status check_counts(const struct sdp_case *c, const struct program *program,
                                   serverd_error *err)
{
    const struct program_config *config = &program->config;
    const size_t width = value_width(&program->graph.values[program->graph.output]);
    if (c->n_tokens == 0 || c->n_tokens > config->context_length || c->n_tokens > LIMIT_TEST_TOKENS)
        return fail(err, SERVERD_CORRUPT, "n_tokens: %u, 1..%u are allowed", c->n_tokens,
                    LIMIT_TEST_TOKENS);
    if (config->is_encoder && (c->n_values != width || c->n_positions != 0 || c->n_greedy != 0))
        return fail(err, SERVERD_CORRUPT, "n_values: %u, an encoder's output has %zu", c->n_values,
                    width);
    if (!config->is_encoder && (c->n_positions == 0 || c->n_values != 0))
        return fail_case(err, "n_positions", "a decoder answers at one at least");
    if (c->n_greedy > LIMIT_TEST_TOKENS || c->n_greedy > config->context_length - c->n_tokens + 1)
        return fail_case(err, "n_greedy", "the context has no room for them");
    return SERVERD_OK;
}

static serverd_status read_case(struct rest *rest, const struct program *program, uint32_t n_top,
                                struct sdp_case *out, serverd_error *err)
{
    const struct sdp_test_case *from = (const void *)rest->at;
    if (!take(rest, sizeof *from / 4))
        return fail_case(err, "n_tokens", "the section ends before");
    *out = (struct sdp_case){.n_tokens = from->n_tokens,
                             .n_greedy = from->n_greedy,
                             .n_positions = from->n_positions,
                             .n_values = from->n_values};
    if (from->reserved[0] != 0 || from->reserved[1] != 0)
        return fail_case(err, "reserved", "it is not 0");
    serverd_status status = check_counts(out, program, err);
    if (status != SERVERD_OK)
        return status;
    const uint64_t n_tops = (uint64_t)out->n_positions * n_top;
    if (!(out->checksum = take(rest, 2 * (uint64_t)sdp_case_rows(out))) ||
        !(out->token = take(rest, out->n_tokens)) || !(out->greedy = take(rest, out->n_greedy)) ||
        !(out->position = take(rest, out->n_positions)) || !(out->top = take(rest, n_tops)) ||
        !(out->log_p = take(rest, n_tops)) || !(out->value = take(rest, out->n_values)))
        return fail_case(err, "n_positions", "the section ends before");
    const uint32_t n_vocab = program->config.n_vocab;
    if (!are_tokens(out->token, out->n_tokens, n_vocab))
        return fail_case(err, "token", "one is not in the vocabulary");
    if (!are_tokens(out->greedy, out->n_greedy, n_vocab))
        return fail_case(err, "greedy", "one is not in the vocabulary");
    if (!are_tokens(out->top, n_tops, n_vocab))
        return fail_case(err, "top", "one is not in the vocabulary");
    if (!ascend_below(out->position, out->n_positions, out->n_tokens))
        return fail_case(err, "position", "they do not ascend, or are not in the case");
    if (!are_finite(out->log_p, n_tops))
        return fail_case(err, "log_p", "one is not finite");
    return are_finite(out->value, out->n_values) ? SERVERD_OK
                                                 : fail_case(err, "value", "one is not finite");
}

/* The cases start on 8 bytes: what lies before each has an even number of numbers. */
static void skip_padding(const struct sdp_section *section, struct rest *rest)
{
    if ((section->stored_bytes - rest->bytes) % 8 != 0 && rest->bytes >= 4)
        (void)take(rest, 1);
}

static serverd_status read_head(const struct sdp_test *head, const struct program *program,
                                struct sdp_tests *out, serverd_error *err)
{
    if (head->n_cases == 0 || head->n_cases > LIMIT_TEST_CASES)
        return fail(err, SERVERD_CORRUPT, "n_cases: %u, 1..%u are allowed", head->n_cases,
                    LIMIT_TEST_CASES);
    if (!program->config.is_encoder &&
        (head->n_top == 0 || head->n_top > program->config.n_vocab || head->n_top > LIMIT_TEST_TOP))
        return fail(err, SERVERD_CORRUPT, "n_top: %u, 1..%u are allowed", head->n_top,
                    LIMIT_TEST_TOP);
    if (!isfinite(head->kl_limit) || head->kl_limit < 0 || !isfinite(head->cosine_limit))
        return fail(err, SERVERD_CORRUPT, "kl_limit or cosine_limit is no limit");
    if (head->kv_dtype != DTYPE_F32 && head->kv_dtype != DTYPE_F16 && head->kv_dtype != DTYPE_BF16)
        return fail(err, SERVERD_VERSION, "kv_dtype: %u is not known here", head->kv_dtype);
    for (size_t i = 0; i < sizeof head->reserved; i++)
        if (head->reserved[i] != 0)
            return fail(err, SERVERD_CORRUPT, "reserved: it is not 0");
    out->n_cases = head->n_cases;
    out->n_top = head->n_top;
    out->contract = head->contract;
    out->kv_dtype = head->kv_dtype;
    out->kl_limit = (double)head->kl_limit;
    out->cosine_limit = (double)head->cosine_limit;
    return SERVERD_OK;
}

serverd_status sdp_tests_read(const struct sdp_file *file, const struct program *program,
                              struct sdp_tests *out, serverd_error *err)
{
    const struct sdp_section *section = sdp_find(file, SDP_TEST);
    struct sdp_tests tests = {.n_cases = 0};
    if (!section) {
        *out = tests;
        return SERVERD_OK;
    }
    struct rest rest = {sdp_bytes(file, section), section->stored_bytes};
    const struct sdp_test *head = (const void *)rest.at;
    if (program->graph.n_nodes == 0 || !take(&rest, sizeof *head / 4))
        return fail(err, SERVERD_CORRUPT, "%s: sdp: TEST: there is no model, or no head",
                    file->path);
    serverd_status status = read_head(head, program, &tests, err);
    if (status != SERVERD_OK)
        return error_context(err, "%s: sdp: TEST", file->path);
    for (uint32_t i = 0; i < tests.n_cases; i++) {
        status = read_case(&rest, program, tests.n_top, &tests.cases[i], err);
        if (status != SERVERD_OK)
            return error_context(err, "%s: sdp: TEST.case[%u]", file->path, i);
        skip_padding(section, &rest);
    }
    if (rest.bytes != 0)
        return fail(err, SERVERD_CORRUPT, "%s: sdp: TEST: %" PRIu64 " bytes too many", file->path,
                    rest.bytes);
    *out = tests;
    return SERVERD_OK;
}
