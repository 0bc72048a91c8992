/* The texts of the self-test. */
#include "base/error.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "compiler/self_test_internal.h"
#include "kernels/cpu/packed.h"
#include "program/dtype.h"
#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

/* A model is at its best, and its errors at their most telling, on text such as it has learned. */
static const char text[] =
    "The lighthouse on the northern cape was built in 1871, after three ships had been lost on "
    "the rocks in a single winter. It is forty-two metres high, and its lamp could be seen from "
    "more than twenty miles away. For almost a hundred years a keeper lived there with his "
    "family; they grew potatoes behind the wall, kept two goats, and waited for the boat that "
    "came every second Thursday with letters, oil and flour.\n\n"
    "Today the light works by itself. A small computer switches it on at dusk:\n\n"
    "    def update(sensor, lamp, limit=0.35):\n"
    "        level = sensor.read()\n"
    "        if level < limit and not lamp.is_on:\n"
    "            lamp.turn_on()\n"
    "        return level\n\n"
    "Visitors often ask how far a light of that height can reach. The distance to the horizon is "
    "about 3.57 times the square root of the height in metres, so from 42 m one sees a little "
    "over 23 km. Someone who stands on the deck of a ship, nine metres above the water, adds "
    "another 10.7 km. Fog is a different matter, and that is why the old bell still hangs beside "
    "the door.\n\n"
    "Q: Who rings the bell now?\nA: Nobody does. The wind does, sometimes, and then the gulls rise "
    "from the roof all at once and the whole cape seems to be talking. \xc3\x89t\xc3\xa9 comme "
    "hiver, la mer garde ses secrets.\n";

static const uint32_t lengths[] = {8, 40, 300};

enum { N_LENGTHS = sizeof lengths / sizeof *lengths, N_TOP = 20, N_GREEDY = 16 };

/* Every position of a case up to so many tokens, then one of so many. */
#define ALL_UP_TO 64u
#define STRIDE    16u

/* Nats, of an average position, to exact f32: what activations in eight bits cost is far below, a
 * wrong scale far above. Likewise the cosines of embeddings, where activations stay what they are
 * and where they are in eight bits; a score is one number, in which errors do not even out. */
#define KL_LIMIT           0.02
#define COSINE_LIMIT       0.9999
#define COSINE_LIMIT_CODES 0.999
#define COSINE_LIMIT_SCORE 0.99

static double cosine_limit(const struct program *program)
{
    if (program->config.n_scores > 0)
        return COSINE_LIMIT_SCORE;
    for (uint32_t i = 0; i < program->graph.n_tensors; i++) {
        const serverd_tensor *tensor = &program->graph.tensors[i];
        if (tensor->flags & SERVERD_TENSOR_OF_LINEAR &&
            !packed_is_float(packed_form(tensor->dtype)))
            return COSINE_LIMIT_CODES;
    }
    return COSINE_LIMIT;
}

/* The text's ids, again and again; of a model without a tokenizer any ids. */
static serverd_status fill_tokens(const struct program *program, int32_t *out, uint32_t n,
                                  serverd_error *err)
{
    struct tokenizer *tokenizer;
    struct token_list ids;
    uint32_t n_ids = 0;
    token_list_init(&ids, 2 * sizeof text);
    if (program->vocabulary.kind != VOCABULARY_NONE) {
        serverd_status status = tokenizer_create(&program->vocabulary, &tokenizer, err);
        if (status == SERVERD_OK) {
            status = tokenizer_encode(tokenizer, text, sizeof text - 1, TOKENIZER_ADD_SPECIAL, &ids,
                                      err);
            tokenizer_destroy(tokenizer);
        }
        if (status != SERVERD_OK) {
            token_list_deinit(&ids);
            return status;
        }
        n_ids = ids.n;
    }
    for (uint32_t i = 0; i < n; i++) {
        const int32_t id = n_ids ? ids.id[i % n_ids] : INT32_MAX;
        out[i] = id >= 0 && (uint32_t)id < program->config.n_vocab
                     ? id
                     : (int32_t)(hash_mix(i) % program->config.n_vocab);
    }
    token_list_deinit(&ids);
    return SERVERD_OK;
}

static uint32_t fill_positions(uint32_t n_tokens, uint32_t *out)
{
    uint32_t n = 0;
    const uint32_t stride = n_tokens > ALL_UP_TO ? STRIDE : 1;
    for (uint32_t p = stride - 1; p + 1 < n_tokens; p += stride)
        out[n++] = p;
    out[n++] = n_tokens - 1;
    return n;
}

/* All cases begin as the longest does. */
static void set_cases(const struct program *program, struct sdp_tests *tests,
                      const struct case_memory *memory)
{
    const bool is_encoder = program->config.is_encoder;
    const uint32_t context = program->config.context_length;
    uint32_t *position = memory->position;
    for (uint32_t i = 0; i < N_LENGTHS; i++) {
        struct sdp_case *c = &tests->cases[tests->n_cases];
        const uint32_t n = (uint32_t)min_size(lengths[i], context);
        if (tests->n_cases > 0 && c[-1].n_tokens == n)
            break;
        *c = (struct sdp_case){.n_tokens = n, .token = memory->token};
        if (!is_encoder) {
            c->n_greedy = (uint32_t)min_size(N_GREEDY, context - n + 1);
            c->position = position;
            c->n_positions = fill_positions(n, position);
            position += c->n_positions;
        }
        tests->n_cases++;
    }
}

serverd_status cases_create(const struct program *program, struct sdp_tests *out,
                            struct case_memory *memory, serverd_error *err)
{
    const uint32_t longest = (uint32_t)max_size(lengths[N_LENGTHS - 1], 1);
    *memory = (struct case_memory){calloc(longest, sizeof *memory->token),
                                   calloc((size_t)longest * N_LENGTHS, sizeof *memory->position)};
    if (!memory->token || !memory->position)
        return fail(err, SERVERD_NOMEM, "no memory for a self-test");
    *out = (struct sdp_tests){.n_top = program->config.is_encoder
                                           ? 0
                                           : (uint32_t)min_size(N_TOP, program->config.n_vocab),
                              .contract = SELF_TEST_CONTRACT,
                              .kv_dtype = DTYPE_F16, /* with bf16 some processors multiply in it */
                              .kl_limit = KL_LIMIT,
                              .cosine_limit = cosine_limit(program)};
    set_cases(program, out, memory);
    return fill_tokens(program, memory->token, longest, err);
}

void cases_free(struct case_memory *memory)
{
    free(memory->token);
    free(memory->position);
    *memory = (struct case_memory){0};
}
