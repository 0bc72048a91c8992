/* Output under a grammar, as a sequence sees it: when it begins, what it lets pass, what it forces.
 */
#include "grammar/grammar.h"
#include "grammar/token_trie.h"
#include "scheduler/constraint_internal.h"
#include "text/reasoning.h"
#include "text/small_vocabulary.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

struct world {
    struct small_vocabulary small;
    struct tokenizer *tokenizer;
    struct token_trie *trie;
    struct constraint_memory memory;
    struct reasoning_marks marks;
    struct request *request;
    struct constraint *constraint;
};

static struct world world;

/* The token of one byte. */
static int32_t token(char c)
{
    struct token_list ids;
    serverd_error err;
    token_list_init(&ids, 4);
    assert_int_equal(tokenizer_encode(world.tokenizer, &c, 1, 0, &ids, &err), SERVERD_OK);
    assert_int_equal(ids.n, 1);
    int32_t id = ids.id[0];
    token_list_deinit(&ids);
    return id;
}

static const struct reasoning_format format = {.name = "angles", .open = "<a>", .close = "<a><b>"};

enum { NO_BLOCK, OPEN_BLOCK, ANY_BLOCK }; /* that a prompt leaves */

/* text NULL: no grammar. */
static void begin_form(enum grammar_form form, const char *text, int block, uint32_t budget)
{
    const char *code;
    serverd_error err;
    small_vocabulary_init(&world.small, SMALL_BPE_GPT2);
    assert_int_equal(tokenizer_create(&world.small.vocabulary, &world.tokenizer, &err), SERVERD_OK);
    assert_int_equal(token_trie_of_tokenizer(world.tokenizer, &world.trie, &err), SERVERD_OK);
    world.memory = (struct constraint_memory){.n_vocab = world.small.vocabulary.n_tokens + 70};
    world.request = request_create();
    assert_non_null(world.request);
    const struct grammar_options options = {.tokenizer = world.tokenizer};
    if (text)
        assert_int_equal(grammar_compile(form, text, strlen(text), &options,
                                         &world.request->grammar, &code, &err),
                         SERVERD_OK);
    assert_int_equal(reasoning_marks_init(&world.marks, world.tokenizer,
                                          block == NO_BLOCK ? NULL : &format, &err),
                     SERVERD_OK);
    if (block == ANY_BLOCK) /* as if one token were the mark */
        world.marks.open_token = token('<');
    world.request->trie = world.trie;
    world.request->reasoning = block == NO_BLOCK ? NULL : &world.marks;
    world.request->is_reasoning_open = block == OPEN_BLOCK;
    world.request->may_reason = block == ANY_BLOCK;
    world.request->reasoning_budget = budget;
    world.constraint = constraint_create(&world.memory, world.request);
    assert_non_null(world.constraint);
}

static void begin(const char *regex, int block, uint32_t budget)
{
    begin_form(GRAMMAR_REGEX, regex, block, budget);
}

static void end(void)
{
    constraint_destroy(world.constraint);
    constraint_memory_deinit(&world.memory);
    request_destroy(world.request);
    token_trie_destroy(world.trie);
    tokenizer_destroy(world.tokenizer);
}

static bool is_ruled(void)
{
    struct token_filter filter;
    return constraint_filter(world.constraint, &filter);
}

static bool say(const char *text)
{
    for (; *text; text++)
        if (!constraint_accept(world.constraint, world.tokenizer, token(*text)))
            return false;
    return true;
}

static void a_filter_lets_pass_what_is_legal(void **state)
{
    (void)state;
    begin("ab?c", NO_BLOCK, 0);
    struct token_filter filter;
    assert_true(constraint_filter(world.constraint, &filter));
    assert_true(filter.allows(filter.user, token('a')));
    assert_false(filter.allows(filter.user, token('b')));
    assert_false(filter.allows(filter.user, (int32_t)world.small.vocabulary.n_tokens + 5));
    const uint64_t *mask = filter.mask(filter.user);
    assert_non_null(mask);
    for (uint32_t i = 0; i < world.memory.n_vocab; i++) /* the row is longer than the vocabulary */
        assert_int_equal(mask[i / 64] >> (i % 64) & 1, filter.allows(filter.user, (int32_t)i));
    assert_true(say("ac"));
    assert_true(constraint_is_complete(world.constraint));
    end();
}

static void a_grammar_begins_behind_the_block(void **state)
{
    (void)state;
    begin("xyz", OPEN_BLOCK, UINT32_MAX);
    assert_false(is_ruled());
    assert_int_equal(constraint_forced(world.constraint, world.tokenizer), -1);
    assert_true(say("anything <a <a><a><b"));
    assert_true(constraint_is_reasoning(world.constraint));
    assert_false(is_ruled());
    assert_true(say(">"));
    assert_true(constraint_is_reasoning(world.constraint)); /* its mark is no text */
    assert_true(is_ruled());
    assert_true(say("x"));
    assert_false(constraint_is_reasoning(world.constraint));
    assert_false(say("q"));
    end();
}

static void a_block_may_come_before_the_grammar(void **state)
{
    (void)state;
    struct token_filter filter;
    begin("xyz", ANY_BLOCK, UINT32_MAX);
    assert_true(constraint_filter(world.constraint, &filter));
    assert_int_equal(constraint_forced(world.constraint, world.tokenizer), -1);
    assert_true(filter.allows(filter.user, token('<')));
    assert_true(filter.allows(filter.user, token('x')));
    assert_false(filter.allows(filter.user, token('y')));
    const uint64_t *mask = filter.mask(filter.user);
    for (uint32_t i = 0; i < world.memory.n_vocab; i++)
        assert_int_equal(mask[i / 64] >> (i % 64) & 1, filter.allows(filter.user, (int32_t)i));
    assert_true(say("x"));
    assert_true(constraint_filter(world.constraint, &filter));
    assert_false(filter.allows(filter.user, token('<')));
    end();
}

static void the_budget_forces_the_closing_mark(void **state)
{
    (void)state;
    int32_t ahead[16];
    for (int is_ruled_too = 0; is_ruled_too < 2; is_ruled_too++) {
        begin(is_ruled_too ? "xyz" : NULL, OPEN_BLOCK, 5);
        assert_true(say("<a><"));
        assert_int_equal(constraint_forced(world.constraint, world.tokenizer), -1);
        assert_true(say("b"));
        uint32_t n = constraint_look_ahead(world.constraint, world.tokenizer, ahead, 16);
        assert_int_equal(n, world.marks.n_close_tokens);
        assert_true(n > 1);
        for (uint32_t i = 0; i < n; i++) {
            assert_int_equal(constraint_forced(world.constraint, world.tokenizer), ahead[i]);
            assert_true(constraint_accept(world.constraint, world.tokenizer, ahead[i]));
        }
        assert_int_equal(is_ruled(), is_ruled_too);
        if (!is_ruled_too)
            assert_int_equal(constraint_forced(world.constraint, world.tokenizer), -1);
        end();
    }
}

static void what_must_come_does_not_depend_on_who_asks(void **state)
{
    (void)state;
    int32_t ahead[16], alone[16];
    uint32_t n_alone = 0;
    begin("0123456789(0|1)", NO_BLOCK, 0);
    uint32_t n = constraint_look_ahead(world.constraint, world.tokenizer, ahead, 16);
    assert_true(n > 4);
    end();
    begin("0123456789(0|1)", NO_BLOCK, 0);
    for (int32_t id; (id = constraint_forced(world.constraint, world.tokenizer)) >= 0;) {
        alone[n_alone++] = id;
        assert_true(constraint_accept(world.constraint, world.tokenizer, id));
    }
    assert_int_equal(n_alone, n);
    assert_memory_equal(alone, ahead, n * sizeof *ahead);
    assert_false(constraint_is_complete(world.constraint));
    end();
}

/* The last token of what must come could be a longer one with what follows, if anything may. */
static void the_last_token_must_come_if_nothing_may_follow(void **state)
{
    (void)state;
    int32_t ahead[16];
    begin("xyz", NO_BLOCK, 0);
    uint32_t n = constraint_look_ahead(world.constraint, world.tokenizer, ahead, 16);
    assert_true(n > 0);
    for (uint32_t i = 0; i < n; i++)
        assert_true(constraint_accept(world.constraint, world.tokenizer, ahead[i]));
    assert_true(constraint_is_complete(world.constraint));
    assert_int_equal(constraint_look_ahead(world.constraint, world.tokenizer, ahead, 16), 0);
    end();
    begin("xyza?", NO_BLOCK, 0);
    n = constraint_look_ahead(world.constraint, world.tokenizer, ahead, 16);
    for (uint32_t i = 0; i < n; i++)
        assert_true(constraint_accept(world.constraint, world.tokenizer, ahead[i]));
    assert_false(constraint_may_end(world.constraint));
    end();
}

#define TEXT(text)         "{\"type\":\"const_string\",\"value\":\"" text "\"}"
#define TOKEN(name)        "{\"type\":\"token\",\"token\":\"" name "\"}"
#define SEQUENCE(elements) "{\"format\":{\"type\":\"sequence\",\"elements\":[" elements "]}}"

static void control_tokens_are_symbols(void **state)
{
    (void)state;
    struct token_filter filter;
    int32_t ahead[16];
    begin_form(GRAMMAR_TAGS,
               SEQUENCE("{\"type\":\"regex\",\"pattern\":\"[xy]?\"}," TOKEN(
                   "<|im_start|>") "," TEXT("and") "," TOKEN("<|im") "," TEXT("q")),
               NO_BLOCK, 0);
    int32_t start = tokenizer_find(world.tokenizer, "<|im_start|>", 12);
    assert_true(constraint_filter(world.constraint, &filter));
    assert_true(filter.allows(filter.user, start));
    assert_true(filter.allows(filter.user, token('x')));
    assert_false(filter.allows(filter.user, token('<'))); /* its name is not the token */
    assert_false(filter.allows(filter.user, token('\xfe')));
    const uint64_t *mask = filter.mask(filter.user);
    for (uint32_t i = 0; i < world.memory.n_vocab; i++)
        assert_int_equal(mask[i / 64] >> (i % 64) & 1, filter.allows(filter.user, (int32_t)i));
    assert_int_equal(constraint_forced(world.constraint, world.tokenizer), -1);
    assert_true(constraint_accept(world.constraint, world.tokenizer, token('x')));
    /* what must come is cut at tokens, and goes on behind them */
    uint32_t n = constraint_look_ahead(world.constraint, world.tokenizer, ahead, 16);
    assert_int_equal(n, 4);
    assert_int_equal(ahead[0], start);
    assert_int_equal(ahead[1], tokenizer_find(world.tokenizer, "and", 3));
    assert_int_equal(ahead[2], tokenizer_find(world.tokenizer, "<|im", 4));
    assert_int_equal(ahead[3], token('q'));
    for (uint32_t i = 0; i < n; i++)
        assert_true(constraint_accept(world.constraint, world.tokenizer, ahead[i]));
    assert_true(constraint_is_complete(world.constraint));
    end();
}

/* A mark of several tokens is told from text with its last one: what it has cost the grammar is
 * taken back. */
static void a_block_leaves_no_trace_in_the_grammar(void **state)
{
    (void)state;
    begin("[<a>]*xyz", ANY_BLOCK, UINT32_MAX);
    world.marks.open_token = -1;
    assert_true(say("<a"));
    assert_true(is_ruled());
    assert_true(say(">"));
    assert_false(is_ruled());
    assert_true(say("whatever<a>"));
    assert_true(constraint_accept(world.constraint, world.tokenizer,
                                  tokenizer_find(world.tokenizer, "<b>", 3)));
    assert_true(is_ruled());
    assert_true(say("xyz"));
    assert_true(constraint_is_complete(world.constraint));
    end();
    begin("<a(xyz)?", ANY_BLOCK, UINT32_MAX); /* and the grammar is where it was */
    assert_true(say("<a>thought<a>"));
    assert_true(constraint_accept(world.constraint, world.tokenizer,
                                  tokenizer_find(world.tokenizer, "<b>", 3)));
    assert_true(say("<axyz"));
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_filter_lets_pass_what_is_legal),
        cmocka_unit_test(a_grammar_begins_behind_the_block),
        cmocka_unit_test(a_block_may_come_before_the_grammar),
        cmocka_unit_test(the_budget_forces_the_closing_mark),
        cmocka_unit_test(control_tokens_are_symbols),
        cmocka_unit_test(a_block_leaves_no_trace_in_the_grammar),
        cmocka_unit_test(what_must_come_does_not_depend_on_who_asks),
        cmocka_unit_test(the_last_token_must_come_if_nothing_may_follow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
