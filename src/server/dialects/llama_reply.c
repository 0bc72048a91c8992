#include "server/dialects/llama_reply.h"

#include "base/clock.h"
#include "base/numeric.h"
#include "server/dialects/llama_settings.h"
#include "server/dialects/timings.h"
#include "server/request/stop_fields.h"
#include "text/detokenizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT_REPLY_TEXT (256 * MIB)

struct choice {
    struct detokenizer detokenizer;
    /* Of a stream what has not been sent, else all: text, list items. */
    struct buffer text, ids, probabilities;
    struct event finish;
    bool is_finished, is_done; /* is_done: its last event has been sent */
    uint32_t n_output;
};

struct prompt {
    struct buffer settings;
    uint32_t n, n_cached;
    struct request_times times; /* at its end */
    uint32_t n_drafts, n_drafts_right;
    bool has_ended;
};

struct llama_reply {
    const struct served_model *model;
    const struct clock *clock;
    uint64_t begin_ns;
    struct api_fields fields;
    struct prompt *prompts;
    struct choice *choices; /* [n_prompts * n_choices] */
    uint32_t n_prompts, n_choices;
};

/* ---- life ---- */

static void destroy(void *state)
{
    struct llama_reply *r = state;
    for (uint32_t i = 0; r->prompts && i < r->n_prompts; i++)
        buffer_deinit(&r->prompts[i].settings);
    for (uint32_t i = 0; r->choices && i < r->n_prompts * r->n_choices; i++) {
        struct choice *c = &r->choices[i];
        detokenizer_deinit(&c->detokenizer);
        buffer_deinit(&c->text);
        buffer_deinit(&c->ids);
        buffer_deinit(&c->probabilities);
    }
    free(r->prompts);
    free(r->choices);
    if (r->fields.root)
        api_fields_release(&r->fields);
    free(r);
}

struct llama_reply *llama_reply_create(const struct llama_reply_setup *setup)
{
    struct llama_reply *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->model = exchange_model(setup->exchange);
    r->clock = exchange_context(setup->exchange)->clock;
    r->begin_ns = exchange_arrival_ns(setup->exchange);
    r->n_prompts = setup->n_requests;
    r->n_choices = setup->requests[0]->n_choices;
    const size_t n = (size_t)r->n_prompts * r->n_choices;
    r->prompts = calloc(r->n_prompts, sizeof *r->prompts);
    r->choices = calloc(n, sizeof *r->choices);
    if (!r->prompts || !r->choices) {
        destroy(r);
        return NULL;
    }
    for (uint32_t i = 0; i < r->n_prompts; i++) {
        struct prompt *p = &r->prompts[i];
        p->n = setup->requests[i]->n_prompt;
        buffer_init(&p->settings, LIMIT_REQUEST_BYTES);
        llama_settings_write(setup->exchange, setup->fields, setup->requests[i], false,
                             &p->settings);
    }
    for (size_t i = 0; i < n; i++) {
        struct choice *c = &r->choices[i];
        detokenizer_init(&c->detokenizer, r->model->tokenizer, true);
        buffer_init(&c->text, LIMIT_REPLY_TEXT);
        buffer_init(&c->ids, LIMIT_REPLY_TEXT);
        buffer_init(&c->probabilities, LIMIT_REPLY_TEXT);
    }
    r->fields = *setup->fields;
    setup->fields->root = NULL;
    return r;
}

/* ---- probabilities ---- */

/* {"id","token","bytes","logprob"..., or "prob" of what was left to draw from. */
static void write_token(const struct llama_reply *r, struct token_logprob l, struct buffer *out)
{
    uint32_t n;
    const char *bytes = tokenizer_piece(r->model->tokenizer, l.token, &n);
    buffer_printf(out, "{\"id\":%d,\"token\":", l.token);
    buffer_append_json_string(out, bytes, n);
    buffer_append_str(out, ",\"bytes\":[");
    for (uint32_t i = 0; i < n; i++)
        buffer_printf(out, "%s%u", i ? "," : "", (uint8_t)bytes[i]);
    if (r->fields.post_sampling_probs) {
        buffer_append_str(out, "],\"prob\":");
        buffer_append_f32(out, expf(l.logprob));
    } else {
        buffer_append_str(out, "],\"logprob\":");
        buffer_append_f32(out, l.logprob);
    }
}

static void add_probabilities(const struct llama_reply *r, struct choice *c,
                              const struct logprobs *l)
{
    struct buffer *out = &c->probabilities;
    bool is_processed = r->fields.post_sampling_probs, is_first = true;
    buffer_append_str(out, out->len > 0 ? "," : "");
    write_token(r, l->chosen, out);
    buffer_append_str(out, is_processed ? ",\"top_probs\":[" : ",\"top_logprobs\":[");
    for (uint32_t i = 0; i < l->n_top; i++) {
        if (is_processed && l->top[i].logprob <= -9999.0f)
            continue; /* it could not be drawn */
        buffer_append_str(out, is_first ? "" : ",");
        write_token(r, l->top[i], out);
        buffer_append_char(out, '}');
        is_first = false;
    }
    buffer_append_str(out, "]}");
}

/* ---- objects ---- */

static void write_timings(const struct llama_reply *r, const struct prompt *p,
                          const struct choice *c, struct buffer *out)
{
    const struct request_times *t = &p->times;
    const struct timings timings = {
        .n_prompt = p->n,
        .n_cached = p->n_cached,
        .n_output = c->n_output,
        .n_drafts = p->n_drafts,
        .n_drafts_right = p->n_drafts_right,
        .begin_ns = t->admitted_ns ? t->admitted_ns : r->begin_ns, /* not known before the end */
        .first_token_ns = t->first_token_ns,
        .end_ns = t->end_ns ? t->end_ns : clock_now_ns(r->clock)};
    buffer_append_str(out, ",\"timings\":");
    timings_write(&timings, out);
}

static void write_probabilities(const struct choice *c, const struct llama_reply *r,
                                struct buffer *out)
{
    if (r->fields.top_logprobs != API_UNSET && r->fields.top_logprobs > 0)
        buffer_printf(out, ",\"completion_probabilities\":[%s]", buffer_str(&c->probabilities));
}

static void write_text(uint32_t index, const struct choice *c, bool has_ids, struct buffer *out)
{
    buffer_printf(out, "{\"index\":%u,\"content\":", index);
    buffer_append_json_string(out, buffer_str(&c->text), c->text.len);
    buffer_printf(out, ",\"tokens\":[%s]", has_ids ? buffer_str(&c->ids) : "");
}

static void write_stop(const struct llama_reply *r, const struct prompt *p, const struct choice *c,
                       struct buffer *out)
{
    const json_t *word = stop_fields_find(&r->fields, c->finish.stop_index);
    const char *type = c->finish.finish == FINISH_LENGTH ? "limit" : word ? "word" : "eos";
    const bool is_full =
        c->finish.finish == FINISH_LENGTH && (uint64_t)p->n + c->n_output >= r->model->context_size;
    buffer_printf(out, ",\"truncated\":%s,\"stop_type\":\"%s\",\"stopping_word\":",
                  is_full ? "true" : "false", type);
    buffer_append_json_string(out, word ? json_string_value(word) : "", json_string_length(word));
}

/* The whole object of a choice whose request has ended. */
static void write_final(const struct llama_reply *r, uint32_t index, struct buffer *out)
{
    const struct choice *c = &r->choices[index];
    const struct prompt *p = &r->prompts[index / r->n_choices];
    const char *adapter = api_adapter_name(r->model, r->fields.model);
    const char *name = adapter ? adapter : r->model->name;
    write_text(index, c, r->fields.return_tokens || r->fields.stream, out);
    buffer_append_str(out, ",\"stop\":true,\"model\":");
    buffer_append_json_string(out, name, strlen(name));
    buffer_printf(out, ",\"tokens_predicted\":%u,\"tokens_evaluated\":%u,\"tokens_cached\":%u",
                  c->n_output, p->n, p->n_cached);
    write_stop(r, p, c, out);
    buffer_printf(out, ",\"generation_settings\":%s", buffer_str(&p->settings));
    write_timings(r, p, c, out);
    write_probabilities(c, r, out);
    buffer_append_char(out, '}');
}

/* The member at "a/b"; NULL: there is none. */
static const json_t *find_member(const json_t *object, const char *path)
{
    while (object && *path != '\0') {
        size_t n = strcspn(path, "/");
        object = json_object_getn(object, path, n);
        path += n + (path[n] == '/');
    }
    return object;
}

/* Of the object in out->data[begin..] the members that the request wants, each by its path. */
static void choose_members(const struct llama_reply *r, size_t begin, struct buffer *out)
{
    const char *comma = "";
    json_t *object = json_loadb(out->data + begin, out->len - begin, JSON_ALLOW_NUL, NULL), *path;
    size_t i;
    if (!object) { /* no memory */
        out->is_failed = true;
        return;
    }
    out->len = begin;
    buffer_append_char(out, '{');
    json_array_foreach(r->fields.response_fields, i, path)
    {
        const json_t *member = find_member(object, json_string_value(path));
        if (!member)
            continue;
        buffer_append_str(out, comma);
        buffer_append_json_string(out, json_string_value(path), json_string_length(path));
        buffer_append_char(out, ':');
        json_body_write(member, JSON_SPELLING_COMPACT, out);
        comma = ",";
    }
    buffer_append_char(out, '}');
    json_decref(object);
}

static void write_chosen_final(const struct llama_reply *r, uint32_t index, struct buffer *out)
{
    const size_t begin = out->len;
    write_final(r, index, out);
    if (json_array_size(r->fields.response_fields) > 0 && !out->is_failed)
        choose_members(r, begin, out);
}

/* ---- events of a stream ---- */

static void write_delta(struct llama_reply *r, uint32_t index, struct buffer *out)
{
    struct choice *c = &r->choices[index];
    const struct prompt *p = &r->prompts[index / r->n_choices];
    buffer_append_str(out, "data: ");
    write_text(index, c, true, out);
    buffer_printf(out, ",\"stop\":false,\"tokens_predicted\":%u,\"tokens_evaluated\":%u",
                  c->n_output, p->n);
    write_probabilities(c, r, out);
    if (r->fields.timings_per_token)
        write_timings(r, p, c, out);
    buffer_append_str(out, "}\n\n");
    buffer_reset(&c->text);
    buffer_reset(&c->ids);
    buffer_reset(&c->probabilities);
}

static void on_flush(void *state, struct buffer *out)
{
    struct llama_reply *r = state;
    for (uint32_t i = 0; i < r->n_prompts * r->n_choices; i++) {
        struct choice *c = &r->choices[i];
        if (c->text.len > 0 || (c->is_finished && c->ids.len > 0))
            write_delta(r, i, out);
        if (!c->is_finished || c->is_done || !r->prompts[i / r->n_choices].has_ended)
            continue;
        buffer_append_str(out, "data: ");
        write_chosen_final(r, i, out);
        buffer_append_str(out, "\n\n");
        c->is_done = true;
    }
}

static void write_progress(struct llama_reply *r, const struct event *event, struct buffer *out)
{
    buffer_printf(out,
                  "data: {\"index\":%u,\"content\":\"\",\"tokens\":[],\"stop\":false,"
                  "\"prompt_progress\":{\"total\":%u,\"cache\":%u,\"processed\":%u,\"time_ms\":",
                  event->user_index * r->n_choices, r->prompts[event->user_index].n,
                  event->n_cached, event->index);
    buffer_append_f64(out, clock_ms_between(r->begin_ns, clock_now_ns(r->clock)));
    buffer_append_str(out, "}}\n\n");
}

/* ---- events ---- */

static void on_token(struct llama_reply *r, struct prompt *p, struct choice *c,
                     const struct event *event)
{
    if (p->times.first_token_ns == 0) /* as seen from here; its end says it exactly */
        p->times.first_token_ns = clock_now_ns(r->clock);
    c->n_output++;
    if (c->ids.len > 0)
        buffer_append_char(&c->ids, ',');
    buffer_append_u64(&c->ids, (uint64_t)event->token);
    if (event->logprobs)
        add_probabilities(r, c, event->logprobs);
    if (!event->is_hidden)
        detokenizer_push(&c->detokenizer, event->token);
    detokenizer_take(&c->detokenizer, event->release, &c->text);
}

static void on_event(void *state, struct event *event, struct buffer *out)
{
    struct llama_reply *r = state;
    struct prompt *p = &r->prompts[event->user_index];
    struct choice *c = &r->choices[event->user_index * r->n_choices + event->choice];
    p->n_cached = event->n_cached;
    switch (event->kind) {
    case EVENT_PROGRESS:
        if (r->fields.stream)
            write_progress(r, event, out);
        break;
    case EVENT_TOKEN:
        on_token(r, p, c, event);
        break;
    case EVENT_FINISH:
        c->finish = *event;
        c->is_finished = true;
        detokenizer_finish(&c->detokenizer, event->release, &c->text);
        break;
    case EVENT_END:
        p->times = event->times;
        p->n_drafts = event->n_drafts;
        p->n_drafts_right = event->n_drafts_right;
        p->has_ended = true;
        break;
    default:
        break;
    }
}

static void on_end(void *state, struct buffer *out)
{
    struct llama_reply *r = state;
    const uint32_t n = r->n_prompts * r->n_choices;
    if (r->fields.stream) {
        on_flush(r, out);
        return;
    }
    buffer_append_str(out, n > 1 ? "[" : "");
    for (uint32_t i = 0; i < n; i++) {
        buffer_append_str(out, i > 0 ? "," : "");
        write_chosen_final(r, i, out);
    }
    buffer_append_str(out, n > 1 ? "]" : "");
}

static void on_error(void *state, const struct api_error *e, struct buffer *out)
{
    on_flush(state, out);
    buffer_append_str(out, "data: ");
    api_error_write(e, out);
    buffer_append_str(out, "\n\n");
}

const struct reply_encoder llama_reply_encoder = {.on_event = on_event,
                                                  .on_flush = on_flush,
                                                  .on_end = on_end,
                                                  .on_error = on_error,
                                                  .destroy = destroy};
