#include "server/dialects/sglang_reply.h"

#include "base/numeric.h"
#include "server/request/stop_fields.h"
#include "text/detokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT_REPLY_TEXT (256 * MIB)

struct choice {
    struct detokenizer detokenizer;
    struct buffer text, ids;
    struct buffer values, tops; /* of the output's log probabilities: list items */
    bool is_dirty;
    struct event finish;
    bool is_finished;
    uint32_t n_output;
};

struct prompt {
    struct api_fields fields;
    int32_t *ids;
    uint32_t n, score_from, n_cached;
    bool is_scored, is_aborted;
    struct buffer values, tops;
    uint32_t first_choice, n_choices;
};

struct sglang_reply {
    const struct served_model *model;
    const struct clock *clock;
    uint64_t begin_ns;
    bool is_list, is_stream, names_tokens, has_logprobs;
    char id[128];
    struct prompt *prompts;
    uint32_t n_prompts;
    struct choice *choices;
    uint32_t n_choices;
};

/* ---- life ---- */

static void destroy(void *state)
{
    struct sglang_reply *r = state;
    for (uint32_t i = 0; r->prompts && i < r->n_prompts; i++) {
        api_fields_release(&r->prompts[i].fields);
        free(r->prompts[i].ids);
        buffer_deinit(&r->prompts[i].values);
        buffer_deinit(&r->prompts[i].tops);
    }
    for (uint32_t i = 0; r->choices && i < r->n_choices; i++) {
        struct choice *c = &r->choices[i];
        detokenizer_deinit(&c->detokenizer);
        buffer_deinit(&c->text);
        buffer_deinit(&c->ids);
        buffer_deinit(&c->values);
        buffer_deinit(&c->tops);
    }
    free(r->prompts);
    free(r->choices);
    free(r);
}

static bool take_prompt(struct prompt *p, const struct request *request)
{
    buffer_init(&p->values, LIMIT_REPLY_TEXT);
    buffer_init(&p->tops, LIMIT_REPLY_TEXT);
    p->n = request->n_prompt;
    p->score_from = request->score_from;
    p->is_scored = request->wants_prompt_logprobs;
    p->n_choices = request->n_choices;
    p->ids = malloc(max_size(p->n, 1) * sizeof *p->ids);
    if (p->ids)
        memcpy(p->ids, request->prompt, p->n * sizeof *p->ids);
    return p->ids != NULL;
}

struct sglang_reply *sglang_reply_create(const struct sglang_setup *setup)
{
    struct sglang_reply *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->model = exchange_model(setup->exchange);
    r->clock = exchange_context(setup->exchange)->clock;
    r->begin_ns = exchange_arrival_ns(setup->exchange);
    r->is_list = setup->is_list;
    r->is_stream = setup->is_stream;
    r->names_tokens = setup->names_tokens;
    r->has_logprobs = setup->requests[0]->wants_logprobs;
    r->n_prompts = setup->n_requests;
    r->prompts = calloc(r->n_prompts, sizeof *r->prompts);
    for (uint32_t i = 0; r->prompts && i < r->n_prompts; i++) {
        r->prompts[i].first_choice = r->n_choices;
        r->n_choices += setup->requests[i]->n_choices;
    }
    r->choices = calloc(max_size(r->n_choices, 1), sizeof *r->choices);
    bool is_good = r->prompts && r->choices;
    for (uint32_t i = 0; is_good && i < r->n_prompts; i++)
        is_good = take_prompt(&r->prompts[i], setup->requests[i]);
    for (uint32_t i = 0, prompt = 0; r->choices && i < r->n_choices; i++) {
        struct choice *c = &r->choices[i];
        while (prompt + 1 < r->n_prompts && r->prompts[prompt + 1].first_choice <= i)
            prompt++;
        detokenizer_init(&c->detokenizer, r->model->tokenizer,
                         setup->fields[prompt].skip_special_tokens);
        buffer_init(&c->text, LIMIT_REPLY_TEXT);
        buffer_init(&c->ids, LIMIT_REPLY_TEXT);
        buffer_init(&c->values, LIMIT_REPLY_TEXT);
        buffer_init(&c->tops, LIMIT_REPLY_TEXT);
    }
    if (!is_good) {
        destroy(r);
        return NULL;
    }
    if (setup->id)
        (void)snprintf(r->id, sizeof r->id, "%s", setup->id);
    else
        api_make_id("", r->id);
    for (uint32_t i = 0; i < r->n_prompts; i++) {
        r->prompts[i].fields = setup->fields[i];
        setup->fields[i].root = NULL;
    }
    return r;
}

/* ---- log probabilities ---- */

static void write_entry(const struct sglang_reply *r, const float *logprob, int32_t token,
                        struct buffer *out)
{
    buffer_append_char(out, '[');
    if (logprob)
        buffer_append_f32(out, *logprob > -9999.0f ? *logprob : -9999.0f);
    else
        buffer_append_str(out, "null");
    buffer_printf(out, ",%d,", token);
    if (r->names_tokens) {
        uint32_t n;
        const char *text = tokenizer_piece(r->model->tokenizer, token, &n);
        buffer_append_char(out, '"');
        buffer_append_json(out, text, n);
        buffer_append_char(out, '"');
    } else {
        buffer_append_str(out, "null");
    }
    buffer_append_char(out, ']');
}

/* l NULL: nothing is known of the token. */
static void add_logprobs(const struct sglang_reply *r, const struct logprobs *l, int32_t token,
                         struct buffer *values, struct buffer *tops)
{
    const char *comma = values->len > 0 ? "," : "";
    buffer_append_str(values, comma);
    buffer_append_str(tops, comma);
    write_entry(r, l ? &l->chosen.logprob : NULL, token, values);
    if (!l || l->n_top == 0) {
        buffer_append_str(tops, "null");
        return;
    }
    buffer_append_char(tops, '[');
    for (uint32_t i = 0; i < l->n_top; i++) {
        if (i > 0)
            buffer_append_char(tops, ',');
        write_entry(r, &l->top[i].logprob, l->top[i].token, tops);
    }
    buffer_append_char(tops, ']');
}

/* Of the first token that is shown nothing is known. */
static void begin_scores(const struct sglang_reply *r, struct prompt *p)
{
    if (p->is_scored && p->values.len == 0)
        add_logprobs(r, NULL, p->ids[p->score_from - 1], &p->values, &p->tops);
}

/* ---- objects ---- */

static void write_list(const char *name, const struct buffer *items, struct buffer *out)
{
    buffer_printf(out, ",\"%s\":[", name);
    buffer_append(out, buffer_str(items), items->len);
    buffer_append_char(out, ']');
}

static void write_matched(const struct prompt *p, const struct event *finish, struct buffer *out)
{
    const json_t *match = stop_fields_find(&p->fields, finish->stop_index);
    if (match) {
        buffer_append_json_string(out, json_string_value(match), json_string_length(match));
    } else if (finish->stop_token >= 0) {
        buffer_printf(out, "%d", finish->stop_token);
    } else {
        buffer_append_str(out, "null");
    }
}

static void write_finish(const struct prompt *p, const struct choice *c, struct buffer *out)
{
    if (!c->is_finished && p->is_aborted) {
        buffer_append_str(out, "{\"type\":\"abort\",\"message\":\"The request was aborted.\"}");
    } else if (!c->is_finished) {
        buffer_append_str(out, "null");
    } else if (c->finish.finish == FINISH_LENGTH) {
        buffer_printf(out, "{\"type\":\"length\",\"length\":%u}", c->n_output);
    } else {
        buffer_append_str(out, "{\"type\":\"stop\",\"matched\":");
        write_matched(p, &c->finish, out);
        buffer_append_char(out, '}');
    }
}

static void write_choice(struct sglang_reply *r, uint32_t index, struct buffer *out)
{
    const struct choice *c = &r->choices[index];
    uint32_t prompt = 0;
    while (prompt + 1 < r->n_prompts && r->prompts[prompt + 1].first_choice <= index)
        prompt++;
    struct prompt *p = &r->prompts[prompt];
    begin_scores(r, p);
    buffer_append_str(out, "{\"text\":\"");
    buffer_append_json(out, buffer_str(&c->text), c->text.len);
    buffer_append_char(out, '"');
    write_list("output_ids", &c->ids, out);
    buffer_append_str(out, ",\"meta_info\":{\"id\":\"");
    buffer_append_json(out, r->id, strlen(r->id));
    if (r->is_list)
        buffer_printf(out, "-%u", index);
    buffer_append_str(out, "\",\"finish_reason\":");
    write_finish(p, c, out);
    buffer_printf(out, ",\"prompt_tokens\":%u,\"completion_tokens\":%u,\"cached_tokens\":%u", p->n,
                  c->n_output, p->n_cached);
    buffer_append_str(out, ",\"e2e_latency\":");
    buffer_append_f64(out, (double)(clock_now_ns(r->clock) - r->begin_ns) * 1e-9);
    if (r->has_logprobs) {
        write_list("input_token_logprobs", &p->values, out);
        write_list("output_token_logprobs", &c->values, out);
        write_list("input_top_logprobs", &p->tops, out);
        write_list("output_top_logprobs", &c->tops, out);
    }
    buffer_append_char(out, '}');
    if (r->is_list && r->is_stream)
        buffer_printf(out, ",\"index\":%u", index);
    buffer_append_char(out, '}');
}

/* ---- events ---- */

static void on_token(struct sglang_reply *r, struct choice *c, const struct event *event)
{
    c->n_output++;
    if (c->ids.len > 0)
        buffer_append_char(&c->ids, ',');
    buffer_append_u64(&c->ids, (uint64_t)event->token);
    if (event->logprobs)
        add_logprobs(r, event->logprobs, event->token, &c->values, &c->tops);
    if (!event->is_hidden)
        detokenizer_push(&c->detokenizer, event->token);
    detokenizer_take(&c->detokenizer, event->release, &c->text);
    c->is_dirty = true;
}

static void on_event(void *state, struct event *event, struct buffer *out)
{
    struct sglang_reply *r = state;
    struct prompt *p = &r->prompts[event->user_index];
    struct choice *c = &r->choices[p->first_choice + event->choice];
    (void)out;
    p->n_cached = event->n_cached;
    switch (event->kind) {
    case EVENT_PROMPT_LOGPROBS:
        begin_scores(r, p);
        if (event->index < p->n && event->logprobs)
            add_logprobs(r, event->logprobs, p->ids[event->index], &p->values, &p->tops);
        break;
    case EVENT_TOKEN:
        on_token(r, c, event);
        break;
    case EVENT_FINISH:
        c->finish = *event;
        c->is_finished = c->is_dirty = true;
        detokenizer_finish(&c->detokenizer, event->release, &c->text);
        break;
    case EVENT_END:
        p->is_aborted = event->is_cancelled;
        for (uint32_t i = 0; i < p->n_choices; i++) {
            struct choice *open = &r->choices[p->first_choice + i];
            open->is_dirty |= p->is_aborted && !open->is_finished;
        }
        break;
    default:
        break;
    }
}

static void on_flush(void *state, struct buffer *out)
{
    struct sglang_reply *r = state;
    for (uint32_t i = 0; i < r->n_choices; i++) {
        if (!r->choices[i].is_dirty)
            continue;
        r->choices[i].is_dirty = false;
        buffer_append_str(out, "data: ");
        write_choice(r, i, out);
        buffer_append_str(out, "\n\n");
    }
}

static void on_end(void *state, struct buffer *out)
{
    struct sglang_reply *r = state;
    if (r->is_stream) {
        on_flush(r, out);
        buffer_append_str(out, "data: [DONE]\n\n");
        return;
    }
    if (r->is_list)
        buffer_append_char(out, '[');
    for (uint32_t i = 0; i < r->n_choices; i++) {
        if (i > 0)
            buffer_append_char(out, ',');
        write_choice(r, i, out);
    }
    if (r->is_list)
        buffer_append_char(out, ']');
}

static void on_error(void *state, const struct api_error *e, struct buffer *out)
{
    on_flush(state, out);
    buffer_append_str(out, "data: ");
    api_error_write(e, out);
    buffer_append_str(out, "\n\ndata: [DONE]\n\n");
}

const struct reply_encoder sglang_reply_encoder = {.on_event = on_event,
                                                   .on_flush = on_flush,
                                                   .on_end = on_end,
                                                   .on_error = on_error,
                                                   .destroy = destroy,
                                                   .shows_cancel = true,
                                                   .ping = ""}; /* its clients read all lines */
