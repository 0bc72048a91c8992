/* What the device draws against the sampler of the host: the same token, or none. */
#include "base/hash.h"
#include "on_device.h"
#include "sampling/sample.h"
#include "sampling/vector_internal.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_WIDTH = 160000, MAX_BATCH = 16, MAX_CHANGES = 4096, MAX_BIAS = 24, N_END = 3 };

static uint64_t random_state;

static uint32_t random_below(uint32_t n)
{
    random_state = hash_mix(random_state);
    return (uint32_t)((random_state >> 20) % n);
}

static float random_float(float low, float high)
{
    return low + (high - low) * (float)random_below(1 << 20) * 0x1p-20f;
}

static bool one_in(uint32_t n)
{
    return random_below(n) == 0;
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* Like a model's: most lie far below the best ones. */
static float peaked(uint32_t i)
{
    (void)i;
    return random_float(-4, 4) + random_float(-4, 4) + (one_in(40) ? random_float(0, 14) : 0);
}

static float level(uint32_t i)
{
    (void)i;
    return 2.5f;
}

static float stepped(uint32_t i)
{
    return (float)(hash_mix(i) % 7);
}

static float tiny(uint32_t i)
{
    static const float values[] = {0.0f, -0.0f, FLT_TRUE_MIN, -FLT_TRUE_MIN, FLT_MIN, -FLT_MIN};
    (void)i;
    return values[random_below(6)];
}

static float huge(uint32_t i)
{
    static const float values[] = {FLT_MAX, -FLT_MAX, 1e30f, -1e30f, 88.0f, -88.0f, 0, -INFINITY};
    (void)i;
    return values[random_below(8)];
}

static float half_banned(uint32_t i)
{
    return i % 2 ? -INFINITY : random_float(-6, 6);
}

static float banned(uint32_t i)
{
    (void)i;
    return -INFINITY;
}

static float (*const kinds[])(uint32_t) = {peaked, peaked, peaked,      level, stepped,
                                           tiny,   huge,   half_banned, banned};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static void fill_row(float *row, uint32_t width, float (*kind)(uint32_t))
{
    for (uint32_t i = 0; i < width; i++)
        row[i] = kind(i);
    if (one_in(16))
        row[random_below(width)] = one_in(2) ? NAN : INFINITY;
}

/* ---- a request ------------------------------------------------------------------------------- */

struct wish {
    struct sampling_params params;
    struct logit_bias bias[MAX_BIAS];
    int32_t end[N_END];
    uint64_t *mask; /* NULL: none */
    uint32_t index;
    struct sampler *sampler;
};

static void add_bias(struct wish *wish, uint32_t width)
{
    const uint32_t first = random_below(width), n = 1 + random_below(MAX_BIAS);
    wish->params.bias = wish->bias;
    for (uint32_t i = 0; i < n && i < width; i++)
        wish->bias[wish->params.n_bias++] =
            (struct logit_bias){(int32_t)((first + i) % width), random_float(-20, 20), one_in(3)};
}

static void add_penalties(struct sampling_params *p)
{
    static const float repetitions[] = {1, 1, 0.5f, 1.1f, 1.7f, 10};
    p->repetition_penalty = repetitions[random_below(6)];
    p->frequency_penalty = one_in(2) ? random_float(-2, 2) : 0;
    p->presence_penalty = one_in(2) ? random_float(-2, 2) : 0;
    if (one_in(4)) {
        p->has_penalty_window = true;
        p->penalty_last = (int32_t)random_below(30) - 1;
    }
}

static void add_limits(struct sampling_params *p, uint32_t width)
{
    static const float heads[] = {1e-6f, 0.1f, 0.5f, 0.9f, 0.95f, 0.99f, 0.9999f};
    if (one_in(2))
        p->top_k = one_in(3) ? 1 : (int32_t)random_below(one_in(2) ? 60 : width + 5);
    if (one_in(2))
        p->top_p = heads[random_below(7)];
    if (one_in(3))
        p->min_p = one_in(8) ? 1 : random_float(0, 0.3f);
}

static void accept_some(struct wish *wish, uint32_t width)
{
    wish->index = random_below(40);
    for (uint32_t i = 0; i < wish->index; i++)
        sampler_accept(wish->sampler, (int32_t)random_below(width < 30 ? width : 30));
}

static void make_wish(struct wish *wish, uint32_t width)
{
    static const float temperatures[] = {0, 0.01f, 0.5f, 0.7f, 1, 1, 1.3f, 100};
    *wish = (struct wish){.params = sampling_params_default()};
    struct sampling_params *p = &wish->params;
    p->seed = random_below(1u << 30);
    p->temperature = temperatures[random_below(8)];
    add_limits(p, width);
    if (one_in(3))
        add_bias(wish, width);
    if (one_in(3))
        add_penalties(p);
    p->ignore_eos = one_in(8);
    p->min_tokens = one_in(4) ? random_below(40) : 0;
    for (uint32_t i = 0; i < N_END; i++)
        wish->end[i] = (int32_t)(width < N_END ? 0 : i * (width / N_END));
    int32_t prompt[20];
    for (uint32_t i = 0; i < 20; i++)
        prompt[i] = (int32_t)random_below(width);
    const struct sampler_setup setup = {.params = p,
                                        .n_vocab = width,
                                        .choice = random_below(3),
                                        .prompt = prompt,
                                        .n_prompt = 20,
                                        .end_tokens = wish->end,
                                        .n_end_tokens = N_END,
                                        .stop_tokens = wish->end + 1,
                                        .n_stop_tokens = 1};
    wish->sampler = sampler_create(&setup);
    accept_some(wish, width);
}

/* Of those that a mask comes first for. */
static void add_mask(struct wish *wish, uint32_t width)
{
    const uint32_t n_words = (width + 63) / 64;
    if (!one_in(3) ||
        !(wish->params.temperature == 0 || sampler_is_limited(wish->sampler, wish->index)))
        return;
    wish->mask = calloc(n_words, sizeof *wish->mask);
    for (uint32_t i = 0; i < width; i++)
        if (one_in(one_in(2) ? 2 : 9))
            wish->mask[i / 64] |= UINT64_C(1) << (i % 64);
}

static bool allows(void *user, int32_t token)
{
    const uint64_t *mask = user;
    return mask[token / 64] >> (token % 64) & 1;
}

static const uint64_t *mask_itself(void *user)
{
    return user;
}

/* -1: the host has none. */
static int32_t host_token(struct wish *wish, struct sampling_scratch *scratch, const float *row)
{
    int32_t token;
    const struct token_filter filter = {allows, mask_itself, wish->mask};
    const struct draw_wish how = {.filter = wish->mask ? &filter : NULL};
    return sampler_draw_as(wish->sampler, scratch, row, wish->index, &how, &token, &err) ==
                   SERVERD_OK
               ? token
               : -1;
}

/* ---- steps ----------------------------------------------------------------------------------- */

struct step {
    uint32_t n_rows, width;
    float *logits; /* [n_rows][width] */
    struct wish wish[MAX_BATCH];
    serverd_draw draw[MAX_BATCH];
    struct change_list changes;
    uint64_t *mask;
    uint32_t n_masks;
};

static struct step *step_create(uint32_t n_rows, uint32_t width, float (*const kind)(uint32_t))
{
    struct step *step = calloc(1, sizeof *step);
    const size_t n_words = (width + 63) / 64;
    step->n_rows = n_rows;
    step->width = width;
    step->logits = calloc((size_t)n_rows * width, sizeof *step->logits);
    step->mask = calloc(MAX_BATCH * n_words, sizeof *step->mask);
    step->changes = (struct change_list){.items = calloc(MAX_CHANGES, sizeof *step->changes.items),
                                         .cap = MAX_CHANGES};
    for (uint32_t i = 0; i < n_rows; i++) {
        struct wish *wish = &step->wish[i];
        fill_row(step->logits + (size_t)i * width, width,
                 kind ? kind : kinds[random_below(N_KINDS)]);
        make_wish(wish, width);
        add_mask(wish, width);
        assert_true(
            sampler_describe(wish->sampler, wish->index, 0, &step->changes, &step->draw[i]));
        if (wish->mask) {
            memcpy(step->mask + step->n_masks * n_words, wish->mask, n_words * sizeof(uint64_t));
            step->draw[i].mask = step->n_masks++;
        }
    }
    return step;
}

static void step_destroy(struct step *step)
{
    for (uint32_t i = 0; i < step->n_rows; i++) {
        sampler_destroy(step->wish[i].sampler);
        free(step->wish[i].mask);
    }
    free(step->logits);
    free(step->mask);
    free(step->changes.items);
    free(step);
}

/* What the device says of each row; the logits have to be as before. */
static int32_t *device_tokens(const struct step *step)
{
    const size_t row_bytes = step->width * sizeof *step->logits;
    const size_t mask_bytes = MAX_BATCH * ((step->width + 63) / 64) * sizeof *step->mask;
    void *there[] = {on_device(step->draw, sizeof step->draw),
                     on_device(step->changes.items, MAX_CHANGES * sizeof *step->changes.items),
                     gpu_allocate(gpu, MAX_CHANGES * sizeof(float)),
                     on_device(step->mask, mask_bytes),
                     gpu_allocate(gpu, MAX_BATCH * sizeof(int32_t)),
                     on_device(step->logits, step->n_rows * row_bytes)};
    const struct gpu_draws draws = {there[0], there[1], there[2], there[3], there[4]};
    gpu_draw(gpu, there[5], step->n_rows, step->width, &draws);
    int32_t *tokens = from_device(draws.drawn, step->n_rows * sizeof *tokens);
    float *after = from_device(there[5], step->n_rows * row_bytes);
    assert_memory_equal(after, step->logits, step->n_rows * row_bytes);
    free(after);
    for (size_t i = 0; i < sizeof there / sizeof *there; i++)
        gpu_free(gpu, there[i]);
    return tokens;
}

struct tally {
    uint32_t n, n_unsure, n_impossible;
};

static void check_step(const struct step *step, struct sampling_scratch *scratch, uint64_t seed,
                       struct tally *tally)
{
    int32_t *tokens = device_tokens(step);
    for (uint32_t i = 0; i < step->n_rows; i++) {
        struct wish wish = step->wish[i];
        const int32_t expected = host_token(&wish, scratch, step->logits + (size_t)i * step->width);
        tally->n += expected >= 0;
        tally->n_impossible += expected < 0;
        tally->n_unsure += expected >= 0 && tokens[i] == SERVERD_DRAWN_UNSURE;
        if (tokens[i] != SERVERD_DRAWN_UNSURE && tokens[i] != expected)
            fail_msg("seed %llu, width %u, row %u: %d instead of %d (T %g, top_k %d, top_p %g, "
                     "min_p %g, %u changes)",
                     (unsigned long long)seed, step->width, i, tokens[i], expected,
                     (double)wish.params.temperature, wish.params.top_k, (double)wish.params.top_p,
                     (double)wish.params.min_p, step->draw[i].n_changes);
    }
    free(tokens);
}

static struct tally draw_many(uint32_t n_steps, const uint32_t *widths, size_t n_widths,
                              uint32_t n_rows, float (*const kind)(uint32_t))
{
    struct tally tally = {0};
    for (size_t k = 0; k < n_widths; k++) {
        struct sampling_scratch *scratch = sampling_scratch_create(widths[k]);
        for (uint32_t s = 0; s < n_steps; s++) {
            const uint64_t seed = widths[k] * 1000 + s;
            random_state = seed;
            struct step *step = step_create(n_rows, widths[k], kind);
            check_step(step, scratch, seed, &tally);
            step_destroy(step);
        }
        sampling_scratch_destroy(scratch);
    }
    print_message("%u draws, %u unsure, %u without a token\n", tally.n, tally.n_unsure,
                  tally.n_impossible);
    return tally;
}

static void the_device_draws_the_token_of_the_host_or_none(void **state)
{
    static const uint32_t widths[] = {1, 2, 31, 64, 65, 130, 517, 961, 3000};
    (void)state;
    (void)draw_many(16, widths, sizeof widths / sizeof *widths, MAX_BATCH, NULL);
}

static void rows_like_those_of_a_model_are_seldom_unsure(void **state)
{
    static const uint32_t widths[] = {517, 3000};
    (void)state;
    const struct tally tally = draw_many(16, widths, 2, MAX_BATCH, peaked);
    assert_in_range(tally.n_unsure * 100, 0, 3 * tally.n);
}

static void wide_rows_are_drawn_by_more_threads(void **state)
{
    static const uint32_t widths[] = {8193, 32000, 151936};
    (void)state;
    (void)draw_many(1, widths, sizeof widths / sizeof *widths, 5, peaked);
    (void)draw_many(1, widths, sizeof widths / sizeof *widths, 3, stepped);
}

/* The device's token of one row. */
static int32_t draw_one(const float *row, uint32_t width, const serverd_draw *draw,
                        const serverd_logit_change *changes, uint32_t n_changes)
{
    struct step step = {.n_rows = 1,
                        .width = width,
                        .logits = calloc(width, sizeof *row),
                        .changes.items = calloc(MAX_CHANGES, sizeof *changes),
                        .mask = calloc(MAX_BATCH * (width + 63) / 64, sizeof(uint64_t))};
    memcpy(step.logits, row, width * sizeof *row);
    if (n_changes > 0)
        memcpy(step.changes.items, changes, n_changes * sizeof *changes);
    step.draw[0] = *draw;
    step.draw[0].n_changes = n_changes;
    int32_t *tokens = device_tokens(&step);
    const int32_t token = tokens[0];
    free(tokens);
    free(step.logits);
    free(step.changes.items);
    free(step.mask);
    return token;
}

/* As sample.c has it. */
static float penalised(float z, const serverd_draw *draw, int32_t count)
{
    z = z > 0 ? z / draw->repetition : z * draw->repetition;
    return z - (draw->frequency * (float)count + (count > 0 ? draw->presence : 0.0f));
}

/* Another token has exactly what the penalty leaves: the lower one is the best, and the other one
 * if a bit is wrong. */
static void penalties_have_the_bits_of_the_host(void **state)
{
    (void)state;
    enum { WIDTH = 40 };
    random_state = 5;
    for (uint32_t i = 0; i < 150; i++) {
        float row[WIDTH];
        const int32_t changed = (int32_t)random_below(WIDTH), count = (int32_t)random_below(99);
        const int32_t other = (changed + 1 + (int32_t)random_below(WIDTH - 1)) % WIDTH;
        const serverd_draw draw = {.kind = SERVERD_DRAW_BEST,
                                   .mask = SERVERD_NO_MASK,
                                   .repetition = random_float(0.5f, 3),
                                   .frequency = random_float(-2, 2) / 3,
                                   .presence = random_float(-2, 2) / 3};
        const float bias = one_in(2) ? random_float(-3, 3) : 0;
        for (uint32_t k = 0; k < WIDTH; k++)
            row[k] = -1000;
        row[changed] = random_float(-9, 9);
        row[other] = penalised(row[changed] + bias, &draw, count);
        assert_int_equal(
            draw_one(row, WIDTH, &draw, &(serverd_logit_change){changed, count, bias}, 1),
            changed < other ? changed : other);
    }
}

/* Of two tokens the second has exactly min_p, or a bit less. */
static void weights_have_the_bits_of_the_host(void **state)
{
    (void)state;
    random_state = 6;
    for (uint32_t i = 0; i < 150; i++) {
        float row[BLOCK], weight[BLOCK];
        const float *block = row;
        for (uint32_t k = 0; k < BLOCK; k++)
            row[k] = -INFINITY;
        row[20] = random_float(-30, 30) / 3;
        row[30] = row[20] - random_float(0.1f, 6) / 3;
        serverd_draw draw = {.kind = SERVERD_DRAW_RANDOM,
                             .mask = SERVERD_NO_MASK,
                             .scale = 1 / random_float(0.5f, 3),
                             .top_p = 1};
        (void)row_passes_best()->weigh(&block, 1, row[20], draw.scale, weight, NULL);
        draw.min_p = weight[30];
        draw.u = 1 - (double)weight[30] / 4;
        assert_int_equal(draw_one(row, BLOCK, &draw, NULL, 0), 30);
        draw.min_p = nextafterf(weight[30], 2);
        assert_int_equal(draw_one(row, BLOCK, &draw, NULL, 0), 20);
    }
}

/* Of 64 equal tokens each ends at a whole number of 64ths. */
static void a_draw_near_a_border_is_unsure(void **state)
{
    (void)state;
    enum { WIDTH = 64 };
    static const struct {
        double u; /* in 64ths */
        uint32_t top_k;
        float top_p; /* also, 0: off */
        int32_t token;
    } rows[] = {
        {17.5, 0, 0, 17},
        {17 - 1e-6, 0, 0, SERVERD_DRAWN_UNSURE},
        {17 + 1e-6, 0, 0, SERVERD_DRAWN_UNSURE},
        {17 + 1e-3, 0, 0, 17},
        {17 - 1e-3, 0, 0, 16},
        {64 - 1e-6, 0, 0, SERVERD_DRAWN_UNSURE},
        {17.5, 32, 0, 8},                    /* of the first 32, each two 64ths */
        {17.5, 0, 16, SERVERD_DRAWN_UNSURE}, /* 16 or 17 of them */
        {17.5, 0, 15.5f, 4},                 /* 16 */
    };
    float row[WIDTH];
    for (uint32_t i = 0; i < WIDTH; i++)
        row[i] = 3;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const serverd_draw draw = {.kind = SERVERD_DRAW_RANDOM,
                                   .mask = SERVERD_NO_MASK,
                                   .u = rows[i].u / WIDTH,
                                   .scale = 1,
                                   .top_k = rows[i].top_k,
                                   .top_p = rows[i].top_p > 0 ? rows[i].top_p / WIDTH : 1};
        assert_int_equal(draw_one(row, WIDTH, &draw, NULL, 0), rows[i].token);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_device_draws_the_token_of_the_host_or_none),
        cmocka_unit_test(penalties_have_the_bits_of_the_host),
        cmocka_unit_test(weights_have_the_bits_of_the_host),
        cmocka_unit_test(a_draw_near_a_border_is_unsure),
        cmocka_unit_test(rows_like_those_of_a_model_are_seldom_unsure),
        cmocka_unit_test(wide_rows_are_drawn_by_more_threads),
    };
    return cmocka_run_group_tests(tests, open_gpu, close_gpu);
}
