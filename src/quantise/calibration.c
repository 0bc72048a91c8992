#include "quantise/calibration_internal.h"

#include "base/error.h"
#include "base/file.h"
#include "base/json_scan.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define HELD_OUT_EACH   5u /* one line in so many */
#define SHORTEST        8u /* tokens of a sequence that is worth it */
#define LINE_JSON_ITEMS 100000u

/* ---- collecting ------------------------------------------------------------------------------ */

static bool takes_held_out(const struct calibration_builder *builder)
{
    return sequences_n_tokens(&builder->out->held_out) < builder->options->n_held_out_tokens;
}

static bool takes_used(const struct calibration_builder *builder)
{
    return builder->out->used.n < builder->options->n_sequences;
}

bool calibration_is_full(const struct calibration_builder *builder)
{
    return !takes_held_out(builder) && !takes_used(builder);
}

static serverd_status append(struct token_sequences *to, const int32_t *ids, uint32_t n,
                             serverd_error *err)
{
    const uint32_t had = sequences_n_tokens(to);
    if (n > LIMIT_CALIBRATION_TOKENS - had)
        return fail(err, SERVERD_INVALID, "more than %u tokens to calibrate on",
                    LIMIT_CALIBRATION_TOKENS);
    int32_t *token = realloc(to->token, ((size_t)had + n) * sizeof *token);
    if (token)
        to->token = token;
    uint32_t *begin = realloc(to->begin, ((size_t)to->n + 2) * sizeof *begin);
    if (begin)
        to->begin = begin;
    if (!token || !begin)
        return fail(err, SERVERD_NOMEM, "no memory for calibration");
    memcpy(token + had, ids, n * sizeof *ids);
    begin[to->n] = had;
    begin[++to->n] = had + n;
    return SERVERD_OK;
}

serverd_status calibration_add(struct calibration_builder *builder, const int32_t *ids, uint32_t n,
                               serverd_error *err)
{
    const bool is_held_out = builder->n_seen++ % HELD_OUT_EACH == HELD_OUT_EACH - 1;
    const uint32_t most = builder->options->sequence_tokens;
    for (uint32_t at = 0; at < n; at += most) {
        const uint32_t len = (uint32_t)min_size(most, n - at);
        if (len < SHORTEST || !(is_held_out ? takes_held_out(builder) : takes_used(builder)))
            break;
        serverd_status status =
            append(is_held_out ? &builder->out->held_out : &builder->out->used, ids + at, len, err);
        if (status != SERVERD_OK)
            return status;
    }
    return SERVERD_OK;
}

/* ---- a file ---------------------------------------------------------------------------------- */

struct reader {
    struct program *program;
    struct calibration_builder *builder;
    struct tokenizer *tokenizer;
    struct chat_template *template; /* NULL: made when the first line needs it */
    struct token_list ids;
};

/* What is made depends on the source alone: for templates it is always the same moment. */
static uint64_t no_time(void *context)
{
    (void)context;
    return 0;
}

static int64_t no_date(void *context)
{
    (void)context;
    return 0;
}

static const struct clock still_clock = {no_time, no_date, NULL};

static bool set_string(struct arena *arena, struct template_value *map, const char *key,
                       const char *text, size_t n)
{
    struct template_value *value = template_string(arena, text, n);
    return value && template_map_set(arena, map, key, strlen(key), value);
}

static bool set_token(const struct reader *r, struct arena *arena, struct template_value *map,
                      const char *key, int32_t id)
{
    uint32_t n = 0;
    const char *text = id >= 0 ? tokenizer_piece(r->tokenizer, id, &n) : "";
    return set_string(arena, map, key, text, n);
}

static serverd_status make_globals(const struct reader *r, struct arena *arena,
                                   const json_t *messages, struct template_value **out,
                                   serverd_error *err)
{
    const struct vocabulary *v = tokenizer_vocabulary(r->tokenizer);
    struct template_value *globals = template_map(arena), *list = template_list(arena);
    bool is_whole = globals && list;
    size_t i;
    json_t *message;
    json_array_foreach(messages, i, message)
    {
        const char *role = json_string_value(json_object_get(message, "role"));
        const json_t *content = json_object_get(message, "content");
        if (!role || !json_is_string(content))
            return fail(err, SERVERD_INVALID, "messages[%zu]: role and content are texts", i);
        struct template_value *map = template_map(arena);
        is_whole = is_whole && map && set_string(arena, map, "role", role, strlen(role)) &&
                   set_string(arena, map, "content", json_string_value(content),
                              json_string_length(content)) &&
                   template_list_add(arena, list, map);
    }
    is_whole = is_whole && template_map_set(arena, globals, "messages", 8, list) &&
               template_map_set(arena, globals, "tools", 5, template_none(arena)) &&
               template_map_set(arena, globals, "add_generation_prompt", 21,
                                template_bool(arena, false)) &&
               set_token(r, arena, globals, "bos_token", v->bos) &&
               set_token(r, arena, globals, "eos_token", v->eos);
    *out = globals;
    return is_whole ? SERVERD_OK : fail(err, SERVERD_NOMEM, "no memory for a chat");
}

static serverd_status compile_template(struct reader *r, serverd_error *err)
{
    if (r->template)
        return SERVERD_OK;
    const struct program_template *source = program_find_template(r->program, "default");
    if (!source)
        return fail(err, SERVERD_INVALID, "messages: the model has no chat template");
    return chat_template_compile(source->source, source->len, &r->template, err);
}

static serverd_status encode_messages(struct reader *r, const json_t *messages, serverd_error *err)
{
    serverd_status status = compile_template(r, err);
    if (status != SERVERD_OK)
        return status;
    struct arena *arena = arena_create(LIMIT_TEMPLATE_MEMORY);
    struct template_value *globals = NULL;
    struct buffer text;
    buffer_init(&text, LIMIT_TEMPLATE_OUTPUT);
    const struct template_budget budget = template_budget_default();
    status = arena ? make_globals(r, arena, messages, &globals, err)
                   : fail(err, SERVERD_NOMEM, "no memory for a chat");
    if (status == SERVERD_OK)
        status =
            chat_template_render(r->template, arena, globals, &budget, &still_clock, &text, err);
    if (status == SERVERD_OK)
        status = tokenizer_encode(r->tokenizer, buffer_str(&text), text.len,
                                  TOKENIZER_PARSE_SPECIAL, &r->ids, err);
    buffer_deinit(&text);
    arena_destroy(arena);
    return status;
}

static serverd_status take_ids(struct reader *r, const json_t *ids, serverd_error *err)
{
    size_t i;
    json_t *id;
    json_array_foreach(ids, i, id)
    {
        const json_int_t x = json_is_integer(id) ? json_integer_value(id) : -1;
        if (x < 0 || x >= (json_int_t)r->program->config.n_vocab)
            return fail(err, SERVERD_INVALID, "prompt_token_ids[%zu]: 0..%u are allowed", i,
                        r->program->config.n_vocab - 1);
        if (!token_list_add(&r->ids, (int32_t)x))
            return fail(err, SERVERD_INVALID, "prompt_token_ids: more than %u", r->ids.limit);
    }
    return SERVERD_OK;
}

static serverd_status encode_object(struct reader *r, const json_t *object, serverd_error *err)
{
    const json_t *text = json_object_get(object, "text");
    const json_t *messages = json_object_get(object, "messages");
    const json_t *ids = json_object_get(object, "prompt_token_ids");
    r->ids.n = 0;
    if (json_is_array(ids))
        return take_ids(r, ids, err);
    if (!r->tokenizer)
        return fail(err, SERVERD_INVALID,
                    "the model has no vocabulary: prompt_token_ids is needed");
    if (json_is_string(text))
        return tokenizer_encode(r->tokenizer, json_string_value(text), json_string_length(text),
                                TOKENIZER_ADD_SPECIAL, &r->ids, err);
    if (json_is_array(messages))
        return encode_messages(r, messages, err);
    return fail(err, SERVERD_INVALID,
                "needs text (a text), messages (a list) or prompt_token_ids (a list)");
}

static serverd_status read_line(struct reader *r, const char *line, size_t n, serverd_error *err)
{
    const char *problem = json_scan(line, n, LINE_JSON_ITEMS);
    json_error_t where;
    if (problem)
        return fail(err, SERVERD_INVALID, "JSON that %s", problem);
    json_t *object = json_loadb(line, n, JSON_REJECT_DUPLICATES, &where);
    if (!object)
        return fail(err, SERVERD_INVALID, "no JSON: %s", where.text);
    serverd_status status = encode_object(r, object, err);
    json_decref(object);
    if (status != SERVERD_OK)
        return status;
    return calibration_add(r->builder, r->ids.id, r->ids.n, err);
}

static bool is_blank(const char *line, size_t n)
{
    return strspn(line, " \t\r") >= n;
}

static serverd_status read_lines(struct reader *r, const char *path, serverd_error *err)
{
    char *text;
    size_t n, line = 1;
    serverd_status status = file_read(path, LIMIT_CALIBRATION_BYTES, &text, &n, err);
    if (status != SERVERD_OK)
        return status;
    for (size_t at = 0; at < n && status == SERVERD_OK && !calibration_is_full(r->builder);
         line++) {
        const char *end = memchr(text + at, '\n', n - at);
        size_t len = end ? (size_t)(end - text) - at : n - at;
        if (!is_blank(text + at, len))
            status = read_line(r, text + at, len, err);
        if (status != SERVERD_OK)
            error_context(err, "%s:%zu", path, line);
        at += len + 1;
    }
    free(text);
    return status;
}

static serverd_status add_file(struct program *program, const char *path,
                               struct calibration_builder *builder, serverd_error *err)
{
    struct reader r = {.program = program, .builder = builder};
    serverd_status status = SERVERD_OK;
    token_list_init(&r.ids, LIMIT_CALIBRATION_TOKENS);
    if (program->vocabulary.kind != VOCABULARY_NONE)
        status = tokenizer_create(&program->vocabulary, &r.tokenizer, err);
    if (status == SERVERD_OK)
        status = read_lines(&r, path, err);
    if (r.template)
        chat_template_destroy(r.template);
    if (r.tokenizer)
        tokenizer_destroy(r.tokenizer);
    token_list_deinit(&r.ids);
    return status;
}

/* ---- all of it ------------------------------------------------------------------------------- */

serverd_status calibration_create(struct program *program,
                                  const struct calibration_options *options,
                                  struct worker_pool *pool, struct calibration *out,
                                  serverd_error *err)
{
    *out = (struct calibration){0};
    struct calibration_options fitting = *options;
    fitting.sequence_tokens =
        (uint32_t)min_size(options->sequence_tokens, program->config.context_length);
    struct calibration_builder builder = {.options = &fitting, .out = out};
    serverd_status status = strcmp(options->source, "self") == 0
                                ? add_self_text(program, pool, &builder, err)
                                : add_file(program, options->source, &builder, err);
    if (status == SERVERD_OK && (out->used.n == 0 || out->held_out.n == 0))
        status = fail(err, SERVERD_INVALID,
                      "%s: too little to calibrate on: %u sequences of %u tokens and more, and "
                      "every fifth is held out",
                      options->source, builder.n_seen, SHORTEST);
    if (status != SERVERD_OK)
        calibration_destroy(out);
    return status;
}

void calibration_destroy(struct calibration *calibration)
{
    free(calibration->used.token);
    free(calibration->used.begin);
    free(calibration->held_out.token);
    free(calibration->held_out.begin);
    *calibration = (struct calibration){0};
}
