/* What a grammar for calls lets pass, the reader of that family reads back as calls of known tools
 * whose arguments are valid: random schemas, random walks through the masks, every family, with its
 * marks as control tokens and as text. */
#include "base/hash.h"
#include "grammar/matcher.h"
#include "grammar/token_mask.h"
#include "server/request/tool_tags.h"
#include "text/tokenizer.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { WALK_TOKENS = 3000, FREE_TOKENS = 60 };

static uint64_t random_state;

static uint32_t random_below(uint32_t n)
{
    random_state = hash_mix(random_state);
    return (uint32_t)(random_state % n);
}

static bool one_in(uint32_t n)
{
    return random_below(n) == 0;
}

/* ---- a vocabulary ---------------------------------------------------------------------------- */

static const char *const control_names[] = {"<|channel|>",
                                            "<|message|>",
                                            "<|constrain|>",
                                            "<|start|>",
                                            "<|end|>",
                                            "<|call|>",
                                            "<|return|>",
                                            "<|open|>",
                                            "<|sep|>",
                                            "<|close|>",
                                            "<|end_of_msg|>",
                                            "<|tool_calls_section_begin|>",
                                            "<|tool_calls_section_end|>",
                                            "<|tool_call_begin|>",
                                            "<|tool_call_argument_begin|>",
                                            "<|tool_call_end|>",
                                            "<｜tool▁calls▁begin｜>",
                                            "<｜tool▁call▁begin｜>",
                                            "<｜tool▁sep｜>",
                                            "<｜tool▁call▁end｜>",
                                            "<｜tool▁calls▁end｜>",
                                            "｜DSML｜",
                                            "<|tool_call>",
                                            "<tool_call|>",
                                            "<|\"|>",
                                            "<minimax:tool_call>",
                                            "</minimax:tool_call>",
                                            "<|eom|>",
                                            "<|tool_call_start|>",
                                            "<|tool_call_end|>",
                                            "<|tools_prefix|>",
                                            "<|tools_suffix|>",
                                            "<|START_ACTION|>",
                                            "<|END_ACTION|>",
                                            "<|START_RESPONSE|>",
                                            "<|END_RESPONSE|>",
                                            "<|START_TEXT|>",
                                            "<|END_TEXT|>",
                                            "<|function_call|>",
                                            "[TOOL_CALLS]",
                                            "[CALL_ID]",
                                            "[ARGS]",
                                            "<|python_tag|>",
                                            "<tool_call>",
                                            "</tool_call>"};
enum { N_CONTROLS = sizeof control_names / sizeof *control_names };

static const char *const word_texts[] = {
    "\", \"", "\": ", "\"}", "}}",    "</",   "\n</", "name",   "{\"",  "true", "}\n",   "tool",
    ">\n",    "\"]",  ", ",  "[{",    "\\\"", "get_", "12",     ".5",   "city", "/arg_", "=",
    "__",     "}>",   "<",   "param", "func", "tion", "_value", "\n\n", "]]",   "\">"};
enum { N_WORDS = sizeof word_texts / sizeof *word_texts };

enum { N_TOKENS = 3 + 256 + N_WORDS + N_CONTROLS };

struct toy {
    struct vocabulary vocabulary;
    struct token_text tokens[N_TOKENS];
    char bytes[256][8];
};

static void add(struct toy *toy, uint8_t type, const char *text)
{
    toy->tokens[toy->vocabulary.n_tokens++] =
        (struct token_text){.bytes = text, .len = (uint32_t)strlen(text), .type = type};
}

static struct tokenizer *make_tokenizer(struct toy *toy, bool has_controls)
{
    struct tokenizer *tokenizer;
    serverd_error err;
    memset(toy, 0, sizeof *toy);
    struct vocabulary *v = &toy->vocabulary;
    v->kind = VOCABULARY_SPM;
    v->token = toy->tokens;
    v->bos = 1;
    v->eos = 2;
    v->unknown = 0;
    v->eot = v->eom = v->separator = v->padding = v->cls = v->mask = -1;
    v->fim_prefix = v->fim_suffix = v->fim_middle = -1;
    v->fim_pad = v->fim_repo = v->fim_separator = -1;
    add(toy, TOKEN_UNKNOWN, "<unk>");
    add(toy, TOKEN_CONTROL, "<s>");
    add(toy, TOKEN_CONTROL, "</s>");
    for (unsigned b = 0; b < 256; b++) {
        (void)snprintf(toy->bytes[b], sizeof toy->bytes[b], "<0x%02X>", b);
        add(toy, TOKEN_BYTE, toy->bytes[b]);
    }
    for (size_t i = 0; i < N_WORDS; i++)
        add(toy, TOKEN_NORMAL, word_texts[i]);
    for (size_t i = 0; i < N_CONTROLS && has_controls; i++)
        add(toy, TOKEN_CONTROL, control_names[i]);
    if (tokenizer_create(v, &tokenizer, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    return tokenizer;
}

/* ---- random tools ---------------------------------------------------------------------------- */

static json_t *random_schema(unsigned depth)
{
    static const char *const fixed[] = {
        "{\"type\":\"string\"}",
        "{\"type\":\"string\",\"description\":\"any\"}",
        "{\"type\":\"string\",\"enum\":[\"a\",\"b\\nc\",\"</x>\"]}",
        "{\"enum\":[\"5\",\"true\"]}",
        "{\"type\":\"string\",\"minLength\":2,\"maxLength\":5}",
        "{\"type\":\"string\",\"pattern\":\"^[a-f]+$\"}",
        "{\"type\":\"string\",\"format\":\"date\"}",
        "{\"type\":\"integer\",\"minimum\":-3,\"maximum\":12}",
        "{\"type\":\"number\"}",
        "{\"type\":\"boolean\"}",
        "{\"type\":\"null\"}",
        "{\"const\":\"<b>\"}",
        "{\"enum\":[1,\"x\",null]}",
        "{\"type\":[\"string\",\"integer\"]}",
        "{\"$ref\":\"#/$defs/d\"}",
        "{}",
        "true",
    };
    uint32_t kind = random_below(depth < 2 ? 20 : 16);
    if (kind < 17)
        return json_loads(fixed[kind], JSON_DECODE_ANY, NULL);
    json_t *inner = random_schema(depth + 1);
    if (kind == 17)
        return json_pack("{s:s,s:o,s:i}", "type", "array", "items", inner, "maxItems", 3);
    if (kind == 18)
        return json_pack("{s:[o,{s:s}]}", "anyOf", inner, "type", "boolean");
    return json_pack("{s:s,s:{s:o},s:[s],s:b}", "type", "object", "properties", "k", inner,
                     "required", "k", "additionalProperties", 0);
}

static json_t *random_parameters(void)
{
    static const char *const keys[] = {"city", "b_c", "x-y", "\xc3\xbc", "with space", "a"};
    json_t *properties = json_object(), *required = json_array();
    for (size_t i = 0; i < 6; i++) {
        if (!one_in(3))
            continue;
        (void)json_object_set_new(properties, keys[i], random_schema(0));
        if (one_in(2))
            (void)json_array_append_new(required, json_string(keys[i]));
    }
    if (one_in(8))
        (void)json_array_append_new(required, json_string("other"));
    json_t *schema =
        json_pack("{s:s,s:o,s:o,s:{s:{s:s,s:i}}}", "type", "object", "properties", properties,
                  "required", required, "$defs", "d", "type", "array", "maxItems", 2);
    if (one_in(3) && !json_object_get(properties, "other") && json_array_size(required) == 0)
        (void)json_object_set_new(schema, "additionalProperties", json_false());
    return schema;
}

static json_t *random_tools(void)
{
    static const char *const names[] = {"get_weather", "f", "a.b-c"};
    json_t *list = json_array();
    uint32_t n = 1 + random_below(3);
    for (uint32_t i = 0; i < n; i++)
        (void)json_array_append_new(list,
                                    json_pack("{s:s,s:{s:s,s:o}}", "type", "function", "function",
                                              "name", names[i], "parameters", random_parameters()));
    return list;
}

/* ---- a walk ---------------------------------------------------------------------------------- */

struct walk {
    const struct tokenizer *tokenizer;
    const struct token_trie *trie;
    struct matcher *matcher;
    struct mask_cache *masks;
    uint64_t *mask;
    struct stream_parser *parser;
    struct buffer text; /* for messages */
    const char *closers[64];
    uint32_t n_closers, n_tokens;
};

static void say(struct walk *w, uint32_t id)
{
    uint32_t n;
    const char *piece = tokenizer_piece(w->tokenizer, (int32_t)id, &n);
    bool is_control = tokenizer_is_control(w->tokenizer, (int32_t)id);
    if (!matcher_accept_token(w->matcher, w->trie, id))
        fail_msg("a token of the mask is refused: %.*s behind %s", (int)n, piece,
                 buffer_str(&w->text));
    if (tokenizer_is_end(w->tokenizer, (int32_t)id))
        return;
    buffer_append(&w->text, piece, n);
    stream_parser_push(w->parser, piece, n, is_control);
    w->n_tokens++;
}

/* Says a text that ends something, if it may come here whole. */
static bool say_closer(struct walk *w)
{
    const char *text = w->closers[random_below(w->n_closers)];
    size_t n = strlen(text);
    if (!matcher_allows(w->matcher, text, n))
        return false;
    for (size_t i = 0; i < n; i++)
        say(w, 3 + (uint8_t)text[i]); /* the tokens of single bytes */
    return true;
}

static void random_step(struct walk *w, bool wants_end)
{
    uint32_t n_legal = 0, n_words = (uint32_t)token_mask_words(w->trie), controls[N_CONTROLS];
    uint32_t n_controls = 0;
    matcher_mask(w->matcher, w->masks, w->mask);
    for (uint32_t i = 0; i < n_words; i++)
        n_legal += (uint32_t)__builtin_popcountll(w->mask[i]);
    if (n_legal == 0)
        fail_msg("nothing may follow: %s", buffer_str(&w->text));
    for (uint32_t id = 0; id < w->trie->n_tokens; id++)
        if ((w->mask[id / 64] >> (id % 64) & 1) && n_controls < N_CONTROLS &&
            tokenizer_is_control(w->tokenizer, (int32_t)id) &&
            !tokenizer_is_end(w->tokenizer, (int32_t)id))
            controls[n_controls++] = id;
    if (n_controls > 0 && one_in(wants_end ? 2 : 12)) {
        say(w, controls[random_below(n_controls)]);
        return;
    }
    for (uint32_t nth = random_below(n_legal), id = 0; id < w->trie->n_tokens; id++)
        if ((w->mask[id / 64] >> (id % 64) & 1) && nth-- == 0) {
            if (!tokenizer_is_end(w->tokenizer, (int32_t)id))
                say(w, id);
            return;
        }
}

/* To the end of a text; false: it got too long. */
static bool walk_through(struct walk *w)
{
    while (w->n_tokens < WALK_TOKENS) {
        bool wants_end = w->n_tokens > FREE_TOKENS;
        bool is_whole = matcher_is_complete(w->matcher);
        if (matcher_has_failed(w->matcher))
            fail_msg("failed behind %s", buffer_str(&w->text));
        if (is_whole || (wants_end && matcher_may_end(w->matcher)))
            return true;
        if ((wants_end || one_in(4)) && say_closer(w))
            continue;
        random_step(w, wants_end);
    }
    return false;
}

static void add_closers(struct walk *w, const struct call_writing *writing)
{
    const char *const texts[] = {writing->begin,  writing->call,           writing->between,
                                 writing->end,    writing->member_between, writing->member,
                                 writing->content};
    static const char *const others[] = {"\"", "}", "]", "\"}", "null", "0", "true"};
    w->n_closers = 0;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        w->closers[w->n_closers++] = others[i];
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const char *at = texts[i] ? texts[i] : "";
        for (struct writing_piece p = call_writing_next(w->tokenizer, &at); p.kind != WRITING_END;
             p = call_writing_next(w->tokenizer, &at))
            if (p.kind == WRITING_TEXT && w->n_closers < 64)
                w->closers[w->n_closers++] = strndup(p.text, p.n);
    }
}

static void drop_closers(struct walk *w)
{
    for (uint32_t i = 7; i < w->n_closers; i++)
        free((char *)w->closers[i]);
}

/* ---- what was read --------------------------------------------------------------------------- */

struct read_call {
    char name[64];
    struct buffer arguments;
};

struct reading {
    struct read_call calls[LIMIT_TOOL_CALLS];
    uint32_t n_calls;
    struct buffer content;
};

static void on_content(void *user, const char *text, size_t n)
{
    buffer_append(&((struct reading *)user)->content, text, n);
}

static void on_call(void *user, const char *name, const char *id)
{
    struct reading *r = user;
    (void)id;
    struct read_call *call = &r->calls[r->n_calls++];
    (void)snprintf(call->name, sizeof call->name, "%s", name);
    buffer_init(&call->arguments, 1 << 20);
}

static void on_arguments(void *user, const char *json, size_t n)
{
    struct reading *r = user;
    buffer_append(&r->calls[r->n_calls - 1].arguments, json, n);
}

static const json_t *find_function(const json_t *list, const char *name)
{
    size_t i;
    json_t *tool;
    json_array_foreach((json_t *)list, i, tool)
    {
        const json_t *function = json_object_get(tool, "function");
        if (strcmp(json_string_value(json_object_get(function, "name")), name) == 0)
            return function;
    }
    return NULL;
}

static bool is_valid(const json_t *schema, const struct buffer *text)
{
    struct grammar *grammar;
    const char *code;
    serverd_error err;
    const struct grammar_options options = {.checks = true};
    char *dump = json_dumps(schema, JSON_ENCODE_ANY);
    if (grammar_compile(GRAMMAR_JSON_SCHEMA, dump, strlen(dump), &options, &grammar, &code, &err))
        fail_msg("%s: %s", dump, err.text);
    struct matcher *matcher = matcher_create(grammar);
    bool is = matcher_accept(matcher, text->data, text->len) && matcher_may_end(matcher);
    matcher_destroy(matcher);
    grammar_unref(grammar);
    free(dump);
    return is;
}

static void check_calls(const struct reading *r, const json_t *list, bool is_strict,
                        const struct walk *w)
{
    for (uint32_t i = 0; i < r->n_calls; i++) {
        const struct read_call *call = &r->calls[i];
        const json_t *function = find_function(list, call->name);
        json_t *arguments = json_loadb(call->arguments.data, call->arguments.len,
                                       JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, NULL);
        if (!function || !json_is_object(arguments))
            fail_msg("%s(%s) is no call: %s", call->name, buffer_str(&call->arguments),
                     buffer_str(&w->text));
        if (is_strict && !is_valid(json_object_get(function, "parameters"), &call->arguments)) {
            char *dump = json_dumps(function, 0);
            fail_msg("%s is not valid: %s in %s", buffer_str(&call->arguments), dump,
                     buffer_str(&w->text));
        }
        json_decref(arguments);
    }
}

/* ---- one family ------------------------------------------------------------------------------ */

struct world {
    struct toy toy;
    struct tokenizer *tokenizer;
    struct token_trie *trie;
    struct mask_cache *masks;
    uint64_t *mask;
};

static struct world *world_create(bool has_controls)
{
    struct world *world = calloc(1, sizeof *world);
    serverd_error err;
    world->tokenizer = make_tokenizer(&world->toy, has_controls);
    assert_int_equal(token_trie_of_tokenizer(world->tokenizer, &world->trie, &err), SERVERD_OK);
    world->masks = mask_cache_create(world->trie, 1 << 22);
    world->mask = calloc(token_mask_words(world->trie), sizeof *world->mask);
    return world;
}

static void world_destroy(struct world *world)
{
    free(world->mask);
    mask_cache_destroy(world->masks);
    token_trie_destroy(world->trie);
    tokenizer_destroy(world->tokenizer);
    free(world);
}

/* NULL: the tools cannot be written in this notation. */
static struct grammar *make_grammar(const struct world *world, const struct tool_tags_setup *setup,
                                    bool *are_exact)
{
    struct tool_tags made;
    struct api_error e;
    struct grammar *grammar = NULL;
    const char *code;
    serverd_error err;
    const struct grammar_options options = {.tokenizer = world->tokenizer};
    if (!tool_tags_make(setup, &made, &e))
        return NULL;
    assert_non_null(made.tags);
    char *text = json_dumps(made.tags, 0);
    if (grammar_compile(GRAMMAR_TAGS, text, strlen(text), &options, &grammar, &code, &err))
        fail_msg("%s: %s: %s", code, err.text, text);
    *are_exact = made.are_exact;
    json_decref(made.tags);
    free(text);
    return grammar;
}

static void run_family(const struct world *world, const struct call_writing *writing, uint64_t seed,
                       uint32_t *n_whole)
{
    struct output_formats formats;
    serverd_error err;
    random_state = seed;
    assert_int_equal(output_formats_init(&formats, world->tokenizer,
                                         writing->hint ? writing->hint : "", writing->family, "off",
                                         &err),
                     SERVERD_OK);
    assert_ptr_equal(formats.writing, writing);
    struct tool_use use = {.list = random_tools(),
                           .mode = one_in(2) ? TOOLS_REQUIRED : TOOLS_AUTO,
                           .max_calls = one_in(3) ? 1 : 0};
    use.is_strict = use.mode == TOOLS_REQUIRED || one_in(2);
    struct output_form form = {0};
    const struct tool_tags_setup setup = {&use, &formats, world->tokenizer, &form};
    bool are_exact = false;
    struct grammar *grammar = make_grammar(world, &setup, &are_exact);
    struct reading *reading = calloc(1, sizeof *reading);
    buffer_init(&reading->content, 1 << 20);
    struct walk w = {.tokenizer = world->tokenizer,
                     .trie = world->trie,
                     .masks = world->masks,
                     .mask = world->mask,
                     .matcher = matcher_create(grammar)};
    const struct stream_parser_options options = {
        .trusts_calls = true,
        .max_calls = use.max_calls,
        .types = {.is_string = tool_parameter_is_string,
                  .is_known = tool_is_known,
                  .user = use.list,
                  .are_exact = are_exact},
        .sink = {
            .content = on_content, .call = on_call, .arguments = on_arguments, .user = reading}};
    w.parser = stream_parser_create(formats.by_need[1][0], &options);
    buffer_init(&w.text, 1 << 20);
    add_closers(&w, writing);
    bool is_whole = walk_through(&w);
    stream_parser_finish(w.parser, !is_whole);
    if (is_whole) {
        check_calls(reading, use.list, use.is_strict && are_exact, &w);
        if (use.mode == TOOLS_REQUIRED && (reading->n_calls == 0 || reading->content.len > 0))
            fail_msg("seed %llu, %s: %u calls and \"%s\" in %s", (unsigned long long)seed,
                     writing->family, reading->n_calls, buffer_str(&reading->content),
                     buffer_str(&w.text));
        *n_whole += reading->n_calls > 0;
    }
    drop_closers(&w);
    for (uint32_t i = 0; i < reading->n_calls; i++)
        buffer_deinit(&reading->calls[i].arguments);
    buffer_deinit(&reading->content);
    free(reading);
    buffer_deinit(&w.text);
    stream_parser_destroy(w.parser);
    matcher_destroy(w.matcher);
    grammar_unref(grammar);
    json_decref(use.list);
    output_formats_deinit(&formats);
}

static void run_families(bool has_controls)
{
    const char *from = getenv("SERVERD_TEST_SEED");
    uint64_t first = from ? strtoull(from, NULL, 10) : 1, n = from ? 1 : 16;
    struct world *world = world_create(has_controls);
    const struct call_writing *writing;
    for (size_t i = 0; (writing = call_writing_at(i)); i++) {
        uint32_t n_whole = 0;
        /* its reader looks for the end mark inside of strings, too, unless that is a token */
        if (!has_controls && writing->notation == VALUE_QUOTED)
            continue;
        print_message("%s (%s)\n", writing->family, writing->hint ? writing->hint : "");
        for (uint64_t seed = first; seed < first + n; seed++) {
            print_message("SERVERD_TEST_SEED=%llu\n", (unsigned long long)seed);
            run_family(world, writing, seed, &n_whole);
        }
        print_message("%u of %u with calls\n", n_whole, (unsigned)n);
        assert_true(from || n_whole >= n / 4);
    }
    world_destroy(world);
}

static void calls_in_control_tokens_are_read_back(void **state)
{
    (void)state;
    run_families(true);
}

static void calls_in_text_are_read_back(void **state)
{
    (void)state;
    run_families(false);
}

/* ---- templates ------------------------------------------------------------------------------- */

static const char *data_folder;

static char *read_text(const char *folder, const char *name, const char *ending, size_t *n)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s/%s%s", data_folder, folder, name, ending);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    char *text = calloc(1, 1 << 20);
    *n = fread(text, 1, (1 << 20) - 1, file);
    (void)fclose(file);
    return text;
}

/* What a template shows as a call may be written, by the schema, too. */
static void check_template(const struct world *world, const json_t *row, json_t *tools)
{
    const char *template_name = json_string_value(json_object_get(row, "template"));
    const json_t *text = json_object_get(row, "text");
    struct output_formats formats;
    serverd_error err;
    size_t n;
    char *source = read_text("chat_templates", template_name, ".jinja", &n);
    assert_int_equal(output_formats_init(&formats, world->tokenizer, source, NULL, NULL, &err),
                     SERVERD_OK);
    assert_string_equal(formats.family->name, json_string_value(json_object_get(row, "family")));
    for (int is_strict = 0; is_strict < 2; is_strict++) {
        struct tool_use use = {.list = tools, .mode = TOOLS_AUTO, .is_strict = is_strict};
        struct output_form form = {0};
        const struct tool_tags_setup setup = {&use, &formats, world->tokenizer, &form};
        bool are_exact;
        struct grammar *grammar = make_grammar(world, &setup, &are_exact);
        struct matcher *matcher = matcher_create(grammar);
        size_t n_read = matcher_read(matcher, json_string_value(text), json_string_length(text));
        if (n_read < json_string_length(text) || !matcher_may_end(matcher))
            fail_msg("%s, strict %d: byte %zu of %s", template_name, is_strict, n_read,
                     json_string_value(text));
        matcher_destroy(matcher);
        grammar_unref(grammar);
    }
    output_formats_deinit(&formats);
    free(source);
}

static void calls_may_be_written_as_templates_show_them(void **state)
{
    (void)state;
    size_t n, i, n_checked = 0;
    char *text = read_text("tool_calls", "templates", ".json", &n);
    json_t *rows = json_loads(text, 0, NULL), *row;
    json_t *tools = json_loads(
        "[{\"type\":\"function\",\"function\":{\"name\":\"get_weather\",\"parameters\":{\"type\":"
        "\"object\",\"properties\":{\"city\":{\"type\":\"string\"},\"unit\":{\"type\":"
        "\"string\"}}}}},{\"type\":\"function\",\"function\":{\"name\":\"add\",\"parameters\":{"
        "\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"number\"},\"b\":{\"type\":"
        "\"number\"}}}}}]",
        0, NULL);
    struct world *world = world_create(false);
    json_array_foreach(rows, i, row)
    {
        const char *name = json_string_value(json_object_get(row, "template"));
        /* Python has two kinds of quotes, and JSON several spellings, of which one is written */
        if (strncmp(name, "LFM2", 4) == 0 || strcmp(name, "Reka-Edge") == 0)
            continue;
        check_template(world, row, tools);
        n_checked++;
    }
    assert_true(n_checked > 40);
    world_destroy(world);
    json_decref(tools);
    json_decref(rows);
    free(text);
}

int main(int argc, char **argv)
{
    data_folder = argc > 1 ? argv[1] : "tests/data";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_may_be_written_as_templates_show_them),
        cmocka_unit_test(calls_in_control_tokens_are_read_back),
        cmocka_unit_test(calls_in_text_are_read_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
