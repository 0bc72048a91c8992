/* Tokens that the device draws: the same as those that the engine draws itself, from logits that a
 * device hands over which is never sure. */
#include "base/hash.h"
#include "engine_fixture.h"
#include "grammar/grammar.h"
#include "grammar/token_trie.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_PLANS = 48, N_NEW = 24 };

#define READ "\nserverd_read_logit_rows_total "

/* A draw is in doubt, too, where the plain one is near a border, or a grammar refuses its token. */
enum { PENALTIES = 1, LIMITS = 2, BANS = 4, GRAMMAR = 8, HOT = 16 };

static struct plan *make_plan(uint32_t index, uint32_t kind)
{
    static const struct logit_bias bias[] = {{.token = 30, .bias = 18},
                                             {.token = TOKEN_EOS, .is_banned = true}};
    struct plan *plan = plan_of(4 + index % 9, N_NEW, index / 2);
    struct sampling_params *p = &plan->sampling;
    p->seed = index;
    p->temperature = kind & HOT ? 4.0f : index % 2 ? 0.0f : 0.8f;
    p->repetition_penalty = kind & PENALTIES ? 1.5f : 1.0f;
    p->presence_penalty = kind & PENALTIES ? -0.7f : 0.0f;
    p->frequency_penalty = kind & PENALTIES ? 2.0f : 0.0f; /* seldom more than three times */
    p->top_k = kind & LIMITS ? 7 : 0;
    p->top_p = kind & LIMITS && index % 2 ? 0.9f : 1.0f;
    p->min_p = kind & LIMITS && index % 3 ? 0.01f : 0.0f;
    p->bias = bias;
    p->n_bias = kind & BANS ? 2 : 0;
    p->ignore_eos = !(kind & BANS);
    p->min_tokens = 5;
    return plan;
}

static void submit(struct world *world, struct plan *plan, const struct token_trie *trie,
                   bool has_grammar)
{
    static const char regex[] = "(ab|c[a-f]|d[a-e]d[b-d]|hihj)+";
    serverd_error err;
    uint64_t id;
    struct request *request = plan_request(world, plan);
    if (has_grammar) {
        const struct grammar_options options = {.tokenizer = world->tokenizer};
        const char *code;
        assert_int_equal(grammar_compile(GRAMMAR_REGEX, regex, sizeof regex - 1, &options,
                                         &request->grammar, &code, &err),
                         SERVERD_OK);
        request->trie = trie;
        request->ends_on_illegal = plan->sampling.seed % 3 == 0;
    }
    assert_int_equal(engine_submit(world->engine, request, &id, &err), SERVERD_OK);
    plan->id = id;
}

/* What comes of all plans on the device; returns how many rows of logits were read. */
static double answer(const char *device, uint32_t max_draft, struct plan **plans)
{
    serverd_error err;
    struct token_trie *trie;
    struct world *world = world_create(
        &(struct world_options){.device = device, .repeat = 90, .max_draft = max_draft});
    world->tick_ns = 1000;
    assert_int_equal(token_trie_of_tokenizer(world->tokenizer, &trie, &err), SERVERD_OK);
    for (uint32_t i = 0; i < N_PLANS; i++) {
        const uint32_t kind = (uint32_t)hash_mix(i) % 32;
        plans[i] = make_plan(i, kind);
        submit(world, plans[i], trie, kind & GRAMMAR);
    }
    world_run(world);
    const double n_read = world_counter(world, READ);
    if (max_draft > 0)
        assert_true(world_counter(world, "serverd_accepted_tokens_total{kind=\"ngram\"} ") > 0);
    world_destroy(world);
    token_trie_destroy(trie);
    return n_read;
}

static void the_device_draws_what_the_engine_draws(void **state)
{
    (void)state;
    struct plan *never[N_PLANS], *always[N_PLANS], *sometimes[N_PLANS];
    for (uint32_t max_draft = 0; max_draft < 5; max_draft += 4) {
        const double n_never = answer("null:repeat=90,unsure=100", max_draft, never),
                     n_always = answer("null:repeat=90", max_draft, always),
                     n_sometimes = answer("null:repeat=90,unsure=50", max_draft, sometimes);
        assert_true(n_always < n_sometimes && n_sometimes < n_never);
        uint32_t n_tokens = 0;
        for (uint32_t i = 0; i < N_PLANS; i++) {
            assert_int_equal(never[i]->status, SERVERD_OK);
            assert_memory_equal(never[i]->result, always[i]->result, sizeof never[i]->result);
            assert_memory_equal(never[i]->result, sometimes[i]->result, sizeof never[i]->result);
            n_tokens += never[i]->result[0].n;
            free(never[i]);
            free(always[i]);
            free(sometimes[i]);
        }
        print_message("%u tokens, %.0f, %.0f, %.0f rows read\n", n_tokens, n_never, n_sometimes,
                      n_always);
        assert_true(n_always < n_tokens / 4);
    }
}

static void a_row_that_cannot_be_read_ends_its_request(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){
        .device = "fault:inner=null;inner.unsure=100;script=error@read:unsupported"});
    struct plan *first = plan_of(5, 8, 1), *second = plan_of(5, 8, 2);
    plan_must_submit(world, first);
    plan_must_submit(world, second);
    world_run(world);
    assert_int_equal(first->status, SERVERD_UNSUPPORTED);
    plan_finish(world, second);
    free(first);
    world_destroy(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_device_draws_what_the_engine_draws),
        cmocka_unit_test(a_row_that_cannot_be_read_ends_its_request),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
