#include "support/sequences.h"

#include "base/hash.h"
#include "base/numeric.h"
#include "support/divergence.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#define MAX_PAGES ((SEQUENCE_CONTEXT + SERVERD_PAGE_TOKENS - 1) / SERVERD_PAGE_TOKENS)

serverd_limits sequences_limits(void)
{
    return (serverd_limits){.struct_bytes = sizeof(serverd_limits),
                            .max_rows = SEQUENCE_ROWS,
                            .max_logit_rows = SEQUENCE_ROWS,
                            .max_seqs = N_SEQUENCES,
                            .max_context = SEQUENCE_CONTEXT};
}

static int32_t token_of(const struct program *program, uint32_t sequence, uint32_t position)
{
    return (int32_t)(hash_mix(sequence * 1000u + position) % program->vocabulary.n_tokens);
}

void sequences_step(struct runtime *runtime, const struct program *program, const uint32_t *begin,
                    const uint32_t *end, float *out)
{
    int32_t token[SEQUENCE_ROWS], position[SEQUENCE_ROWS];
    uint32_t row_seq[SEQUENCE_ROWS], logit_row[SEQUENCE_ROWS], table[N_SEQUENCES * MAX_PAGES];
    uint32_t n = 0, n_seqs = 0;
    serverd_error err;
    for (uint32_t s = 0; s < N_SEQUENCES; s++) {
        if (begin[s] == end[s])
            continue;
        for (uint32_t p = 0; p < MAX_PAGES; p++)
            table[n_seqs * MAX_PAGES + p] = p * N_SEQUENCES + (s + p) % N_SEQUENCES;
        for (uint32_t i = begin[s]; i < end[s]; i++, n++) {
            token[n] = token_of(program, s, i);
            position[n] = (int32_t)i;
            row_seq[n] = n_seqs;
            logit_row[n] = n;
        }
        n_seqs++;
    }
    const bool is_windowed = runtime_n_window_pages(runtime) > 0;
    const serverd_batch batch = {.struct_bytes = sizeof batch,
                                 .n_rows = n,
                                 .n_seqs = n_seqs,
                                 .n_logit_rows = n,
                                 .token = token,
                                 .position = position,
                                 .row_seq = row_seq,
                                 .page_table = table,
                                 .max_pages = MAX_PAGES,
                                 .window_table = is_windowed ? table : NULL,
                                 .logit_row = logit_row};
    if (runtime_execute(runtime, &batch, out, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
}

void sequences_alone(struct runtime *runtime, const struct program *program, uint32_t sequence,
                     uint32_t n_tokens, uint32_t chunk, float *out)
{
    for (uint32_t at = 0; at < n_tokens; at += chunk) {
        uint32_t begin[N_SEQUENCES] = {0}, end[N_SEQUENCES] = {0};
        begin[sequence] = at;
        end[sequence] = min_u32(at + chunk, n_tokens);
        sequences_step(runtime, program, begin, end,
                       out + (size_t)at * runtime_output_width(runtime));
    }
}

float *sequences_rows(const struct runtime *runtime)
{
    float *rows = malloc((size_t)SEQUENCE_ROWS * runtime_output_width(runtime) * sizeof *rows);
    assert_non_null(rows);
    return rows;
}

void sequences_check_bits(struct runtime *runtime, const struct program *program, float *alone[],
                          uint32_t n_tokens)
{
    const size_t width = runtime_output_width(runtime);
    float *out = sequences_rows(runtime);
    sequences_alone(runtime, program, 0, n_tokens, 5, out);
    assert_memory_equal(out, alone[0], n_tokens * width * sizeof *out);
    for (uint32_t at = 0; at < n_tokens; at += 9) { /* the second one is one token behind */
        const uint32_t behind = at > 0 ? at - 1 : 0, begin[N_SEQUENCES] = {at, behind},
                       end[N_SEQUENCES] = {min_u32(at + 9, n_tokens), min_u32(at + 8, n_tokens)};
        sequences_step(runtime, program, begin, end, out);
        const size_t n = end[0] - begin[0], m = end[1] - begin[1];
        assert_memory_equal(out, alone[0] + at * width, n * width * sizeof *out);
        assert_memory_equal(out + n * width, alone[1] + behind * width, m * width * sizeof *out);
    }
    free(out);
}

double sequences_divergence(const float *a, const float *b, uint32_t n_rows, size_t width)
{
    double sum = 0;
    for (uint32_t i = 0; i < n_rows; i++)
        sum += divergence(a + i * width, b + i * width, width);
    return sum / n_rows;
}
