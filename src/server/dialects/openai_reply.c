#include "server/dialects/openai_reply_internal.h"

#include "base/numeric.h"
#include "server/dialects/timings.h"
#include "server/request/request_class.h"
#include "server/request/stop_fields.h"

#include <stdlib.h>
#include <string.h>

/* ---- life --------------------------------------------------------------------------------------
 */

static bool choice_init(struct choice *choice, const struct openai_reply *reply)
{
    struct output_setup output = reply->output;
    output.decided = reply->shape->decided;
    output.user = choice;
    buffer_init(&choice->token_ids, LIMIT_REPLY_TEXT);
    logprob_text_init(&choice->logprobs);
    return output_parts_init(&choice->parts, &output);
}

bool openai_read_stream_options(const struct api_fields *fields, bool *include_usage,
                                bool *continuous_usage, struct api_error *e)
{
    const json_t *options = fields->stream_options;
    const json_t *usage = json_body_get(options, "include_usage");
    const json_t *continuous = json_body_get(options, "continuous_usage_stats");
    *include_usage = json_is_true(usage);
    *continuous_usage = json_is_true(continuous);
    if (options && (!json_is_object(options) || (usage && !json_is_boolean(usage)) ||
                    (continuous && !json_is_boolean(continuous)))) {
        api_error_set(e, "invalid_type", "stream_options",
                      "stream_options has to be an object of true or false.");
        return false;
    }
    if (options && !fields->stream) {
        api_error_set(e, "invalid_value", "stream_options",
                      "stream_options is for requests with stream: true.");
        return false;
    }
    return true;
}

static void make_head(struct openai_reply *reply)
{
    const struct choice_shape *shape = reply->shape;
    const char *object = reply->is_stream ? shape->chunk_object : shape->object;
    buffer_printf(&reply->head,
                  "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", reply->id, object,
                  (long long)reply->created);
    const char *adapter = api_adapter_name(reply->model, reply->fields.model);
    const char *name = adapter ? adapter : reply->model->name;
    buffer_append_json_string(&reply->head, name, strlen(name));
    const char *tier = request_class_tier(&reply->fields);
    if (tier)
        buffer_printf(&reply->head, ",\"service_tier\":\"%s\"", tier);
    buffer_printf(&reply->head, ",\"system_fingerprint\":\"%s\",\"choices\":[",
                  reply->model->fingerprint);
}

/* Fields, tools and how to read the output, from what was set up. */
static void take_over(struct openai_reply *reply, const struct openai_reply_setup *setup)
{
    if (setup->call) {
        reply->output = chat_call_output(setup->exchange, setup->call);
        reply->fields = setup->call->fields;
        reply->tools = setup->call->tools;
        setup->call->fields.root = NULL;
        setup->call->tools.list = NULL;
        return;
    }
    reply->fields = *setup->fields;
    setup->fields->root = NULL;
    reply->output = (struct output_setup){.tokenizer = reply->model->tokenizer,
                                          .skips_special = reply->fields.skip_special_tokens};
}

struct openai_reply *openai_reply_create(const struct openai_reply_setup *setup)
{
    struct openai_reply *reply = calloc(1, sizeof *reply);
    struct api_error ignored; /* the endpoint has checked them */
    if (!reply) {
        if (setup->call)
            chat_call_release(setup->call);
        else
            api_fields_release(setup->fields);
        return NULL;
    }
    reply->model = exchange_model(setup->exchange);
    take_over(reply, setup);
    size_t n = (size_t)setup->n_prompts * (size_t)reply->fields.n;
    reply->shape = setup->call ? &openai_chat_choice : &openai_completion_choice;
    reply->is_echo = setup->is_echo;
    reply->is_stream = reply->fields.stream;
    reply->style = (struct token_style){.tokenizer = reply->model->tokenizer,
                                        .as_ids = reply->fields.return_tokens_as_token_ids,
                                        .skips_special = reply->fields.skip_special_tokens};
    reply->n_logprobs = setup->n_logprobs;
    reply->n_choices = (uint32_t)reply->fields.n;
    reply->n_shown = setup->n_shown;
    reply->n_prompt_tokens = setup->n_prompt_tokens;
    (void)openai_read_stream_options(&reply->fields, &reply->include_usage,
                                     &reply->continuous_usage, &ignored);
    api_make_id(reply->shape->id_prefix, reply->id);
    reply->clock = exchange_context(setup->exchange)->clock;
    reply->times.arrival_ns = exchange_arrival_ns(setup->exchange);
    reply->created = clock_wall_seconds(reply->clock);
    buffer_init(&reply->head, MIB);
    make_head(reply);
    reply->prompts = calloc(setup->n_prompts, sizeof *reply->prompts);
    reply->choices = calloc(n, sizeof *reply->choices);
    reply->dirty = calloc(n, sizeof *reply->dirty);
    if (!reply->prompts || !reply->choices || !reply->dirty || reply->head.is_failed) {
        openai_reply_destroy(reply);
        return NULL;
    }
    for (reply->n_prompts = 0; reply->n_prompts < setup->n_prompts; reply->n_prompts++) {
        struct prompt *prompt = &reply->prompts[reply->n_prompts];
        buffer_init(&prompt->text, LIMIT_REPLY_TEXT);
        buffer_init(&prompt->scores, LIMIT_REPLY_TEXT);
        buffer_append_str(&prompt->scores, "null"); /* of the first nothing is known */
        logprob_text_init(&prompt->logprobs);
    }
    bool is_good = true;
    for (size_t i = 0; i < n; i++)
        is_good = choice_init(&reply->choices[i], reply) && is_good;
    if (is_good)
        return reply;
    openai_reply_destroy(reply);
    return NULL;
}

void openai_reply_destroy(struct openai_reply *reply)
{
    for (uint32_t i = 0; i < reply->n_prompts; i++) {
        free(reply->prompts[i].ids);
        buffer_deinit(&reply->prompts[i].text);
        buffer_deinit(&reply->prompts[i].scores);
        logprob_text_deinit(&reply->prompts[i].logprobs);
    }
    for (size_t i = 0; reply->choices && i < (size_t)reply->n_prompts * reply->n_choices; i++) {
        output_parts_deinit(&reply->choices[i].parts);
        buffer_deinit(&reply->choices[i].token_ids);
        logprob_text_deinit(&reply->choices[i].logprobs);
    }
    free(reply->prompts);
    free(reply->choices);
    free(reply->dirty);
    buffer_deinit(&reply->head);
    tool_use_release(&reply->tools);
    api_fields_release(&reply->fields);
    free(reply);
}

/* ---- parts that whole replies and chunks share ---- */

static void write_head(const struct openai_reply *reply, struct buffer *out)
{
    buffer_append(out, reply->head.data, reply->head.len);
}

static void write_usage(const struct openai_reply *reply, struct buffer *out)
{
    buffer_printf(out,
                  "{\"prompt_tokens\":%llu,\"completion_tokens\":%llu,\"total_tokens\":%llu,"
                  "\"prompt_tokens_details\":{\"cached_tokens\":%llu},"
                  "\"completion_tokens_details\":{\"reasoning_tokens\":%llu,"
                  "\"accepted_prediction_tokens\":0,\"rejected_prediction_tokens\":0}}",
                  (unsigned long long)reply->n_prompt_tokens, (unsigned long long)reply->n_output,
                  (unsigned long long)(reply->n_prompt_tokens + reply->n_output),
                  (unsigned long long)reply->n_cached, (unsigned long long)reply->n_reasoning);
}

/* A stop string, the id of a stop token, or null; `names_end` shows the model's own end too. */
static void write_stop(const struct openai_reply *reply, const struct event *finish, bool names_end,
                       struct buffer *out)
{
    const json_t *match = stop_fields_find(&reply->fields, finish->stop_index);
    if (match) {
        buffer_append_json_string(out, json_string_value(match), json_string_length(match));
    } else if (finish->stop_token >= 0 && (names_end || !finish->is_end_token)) {
        buffer_printf(out, "%d", finish->stop_token);
    } else {
        buffer_append_str(out, "null");
    }
}

static const char *finish_reason(const struct openai_reply *reply, const struct choice *choice)
{
    if (choice->finish.finish == FINISH_LENGTH)
        return "length";
    if (choice->parts.n_calls == 0 || choice->parts.has_cut_call)
        return "stop"; /* a stop string in the middle of a call: it cannot be run */
    return reply->tools.is_legacy ? "function_call" : "tool_calls";
}

void openai_write_finish(const struct openai_reply *reply, const struct choice *choice,
                         bool is_last, struct buffer *out)
{
    if (!is_last) {
        buffer_append_str(out, ",\"finish_reason\":null");
        return;
    }
    buffer_printf(out, ",\"finish_reason\":\"%s\",\"stop_reason\":", finish_reason(reply, choice));
    write_stop(reply, &choice->finish, false, out);
    buffer_append_str(out, ",\"matched_stop\":");
    write_stop(reply, &choice->finish, true, out);
}

void openai_write_token_ids(const struct openai_reply *reply, const struct choice *choice,
                            struct buffer *out)
{
    if (reply->fields.return_token_ids)
        buffer_printf(out, ",\"token_ids\":[%s]", buffer_str(&choice->token_ids));
}

void openai_write_prompt_logprobs(const struct openai_reply *reply, const struct prompt *prompt,
                                  struct buffer *out)
{
    if (reply->fields.prompt_logprobs != API_UNSET)
        buffer_printf(out, ",\"prompt_logprobs\":[%s]", buffer_str(&prompt->scores));
}

void openai_write_prompt_ids(const struct openai_reply *reply, const struct prompt *prompt,
                             struct buffer *out)
{
    if (!reply->fields.return_token_ids)
        return;
    buffer_append_str(out, ",\"prompt_token_ids\":[");
    for (uint32_t i = 0; i < prompt->n; i++)
        buffer_printf(out, "%s%d", i > 0 ? "," : "", prompt->ids[i]);
    buffer_append_char(out, ']');
}

static void write_timings(const struct openai_reply *reply, struct buffer *out)
{
    const struct request_times *t = &reply->times;
    const struct timings timings = {.n_prompt = reply->n_prompt_tokens,
                                    .n_cached = reply->n_cached,
                                    .n_output = reply->n_drawn,
                                    .n_drafts = reply->n_drafts,
                                    .n_drafts_right = reply->n_drafts_right,
                                    .begin_ns = t->admitted_ns ? t->admitted_ns : t->arrival_ns,
                                    .first_token_ns = t->first_token_ns,
                                    .end_ns = t->end_ns ? t->end_ns : clock_now_ns(reply->clock)};
    if (!reply->fields.timings_per_token)
        return;
    buffer_append_str(out, ",\"timings\":");
    timings_write(&timings, out);
}

const struct prompt *openai_echoed_prompt(const struct openai_reply *reply, uint32_t index)
{
    return reply->is_echo ? &reply->prompts[index / reply->n_choices] : NULL;
}

/* ---- chunks ---- */

void openai_end_chunk(struct openai_reply *reply, struct buffer *out)
{
    buffer_append_char(out, ']');
    if (reply->shape->has_one_prompt && !reply->has_shown_prompt)
        openai_write_prompt_ids(reply, &reply->prompts[0], out);
    reply->has_shown_prompt = true;
    write_timings(reply, out);
    if (reply->include_usage) {
        buffer_append_str(out, ",\"usage\":");
        if (reply->continuous_usage)
            write_usage(reply, out);
        else
            buffer_append_str(out, "null");
    }
    buffer_append_str(out, "}\n\n");
}

void openai_begin_chunk(const struct openai_reply *reply, uint32_t index, struct buffer *out)
{
    buffer_append_str(out, "data: ");
    write_head(reply, out);
    buffer_append_str(out, "{\"index\":");
    buffer_append_u64(out, index);
}

static void write_dirty(struct openai_reply *reply, struct buffer *out)
{
    for (uint32_t i = 0; i < reply->n_dirty; i++) {
        uint32_t index = reply->dirty[i];
        reply->choices[index].is_dirty = false;
        reply->shape->write_chunks(reply, index, out);
    }
    reply->n_dirty = 0;
}

static void mark_dirty(struct openai_reply *reply, uint32_t index)
{
    struct choice *choice = &reply->choices[index];
    if (!reply->is_stream || choice->is_dirty)
        return;
    choice->is_dirty = true;
    reply->dirty[reply->n_dirty++] = index;
}

/* ---- events ---- */

/* Output and prompt may be asked for different numbers; the engine knows the larger. */
static void clip_top(const struct openai_reply *reply, const struct event *event)
{
    if (event->logprobs && reply->n_logprobs >= 0)
        event->logprobs->n_top = min_u32(event->logprobs->n_top, (uint32_t)reply->n_logprobs);
}

static void on_prompt_logprobs(struct openai_reply *reply, const struct event *event)
{
    struct prompt *prompt = &reply->prompts[event->user_index];
    int32_t token = event->token;
    if (!event->logprobs)
        return;
    if (reply->fields.prompt_logprobs != API_UNSET)
        prompt_logprob_write(&reply->style, event->logprobs,
                             (uint32_t)reply->fields.prompt_logprobs, &prompt->scores);
    if (!reply->is_echo || event->index >= prompt->n || reply->n_logprobs < 0)
        return;
    clip_top(reply, event);
    logprob_text_add(&prompt->logprobs, &reply->style, token, event->logprobs,
                     prompt->n_code_points);
    prompt->n_code_points += token_code_points(&reply->style, token);
}

/* The first token of a choice with echo continues the prompt's offsets. */
static void begin_offsets(struct openai_reply *reply, uint32_t index)
{
    const struct prompt *prompt = openai_echoed_prompt(reply, index);
    struct choice *choice = &reply->choices[index];
    if (prompt && choice->n_code_points == 0)
        choice->n_code_points = prompt->n_code_points;
}

static void on_token(struct openai_reply *reply, uint32_t index, const struct event *event)
{
    struct choice *choice = &reply->choices[index];
    begin_offsets(reply, index);
    choice->n_tokens++;
    reply->n_drawn++;
    if (reply->times.first_token_ns == 0)
        reply->times.first_token_ns = clock_now_ns(reply->clock);
    if (event->logprobs)
        choice->logprob += event->logprobs->chosen.logprob;
    clip_top(reply, event);
    if (event->logprobs && reply->n_logprobs >= 0)
        reply->shape->add_logprobs(reply, choice, event);
    if (reply->fields.return_token_ids) {
        if (choice->token_ids.len > 0)
            buffer_append_char(&choice->token_ids, ',');
        buffer_append_u64(&choice->token_ids, (uint64_t)event->token);
    }
    if (!event->is_hidden) {
        output_parts_push(&choice->parts, event->token);
        choice->n_code_points += token_code_points(&reply->style, event->token);
    }
    output_parts_release(&choice->parts, event->release);
    mark_dirty(reply, index);
}

static void on_finish(struct openai_reply *reply, uint32_t index, const struct event *event)
{
    struct choice *choice = &reply->choices[index];
    choice->finish = *event;
    choice->is_finished = true;
    output_parts_finish(&choice->parts, event->release, event->finish == FINISH_LENGTH);
    reply->n_reasoning += choice->parts.n_reasoning;
    mark_dirty(reply, index);
}

static void keep_first(uint64_t *first_ns, uint64_t at_ns)
{
    if (at_ns > 0 && (*first_ns == 0 || at_ns < *first_ns))
        *first_ns = at_ns;
}

static void add_times(struct request_times *all, const struct request_times *times)
{
    keep_first(&all->admitted_ns, times->admitted_ns);
    keep_first(&all->first_token_ns, times->first_token_ns);
    if (times->end_ns > all->end_ns)
        all->end_ns = times->end_ns;
}

static void reply_on_event(void *state, struct event *event, struct buffer *out)
{
    struct openai_reply *reply = state;
    (void)out; /* frames are made of several events: see reply_on_flush */
    uint32_t index = event->user_index * reply->n_choices + event->choice;
    struct prompt *prompt = &reply->prompts[event->user_index];
    reply->n_cached += event->n_cached - prompt->n_cached; /* it may grow */
    prompt->n_cached = event->n_cached;
    switch (event->kind) {
    case EVENT_PROMPT_LOGPROBS:
        on_prompt_logprobs(reply, event);
        break;
    case EVENT_TOKEN:
        if (reply->continuous_usage)
            reply->n_output++;
        on_token(reply, index, event);
        break;
    case EVENT_FINISH:
        on_finish(reply, index, event);
        break;
    case EVENT_END:
        if (!reply->continuous_usage)
            reply->n_output += event->n_output;
        add_times(&reply->times, &event->times);
        reply->n_drafts += event->n_drafts;
        reply->n_drafts_right += event->n_drafts_right;
        break;
    default:
        break;
    }
}

/* ---- the end ---- */

/* Choice `index`, as the one of that number in the reply. */
static void write_choice(const struct openai_reply *reply, uint32_t index, uint32_t number,
                         struct buffer *out)
{
    buffer_printf(out, "%s{\"index\":%u", number ? "," : "", number);
    reply->shape->write_choice(reply, index, out);
    buffer_append_char(out, '}');
}

/* Mean log probability of a token. */
static double mean_logprob(const struct choice *choice)
{
    return choice->n_tokens > 0 ? choice->logprob / choice->n_tokens : 0;
}

/* How many choices of the same prompt are better; of equal ones the first is. */
static uint32_t rank_of(const struct openai_reply *reply, uint32_t index)
{
    const uint32_t first = index - index % reply->n_choices;
    const double mine = mean_logprob(&reply->choices[index]);
    uint32_t rank = 0;
    for (uint32_t i = first; i < first + reply->n_choices; i++) {
        double other = mean_logprob(&reply->choices[i]);
        rank += other > mine || (other == mine && i < index);
    }
    return rank;
}

/* Which choice is number `number` of the reply: all as they were made, or of each prompt the best
 * ones, the best one first. */
static uint32_t choice_of(const struct openai_reply *reply, uint32_t number)
{
    const uint32_t first = number / reply->n_shown * reply->n_choices;
    const uint32_t rank = number % reply->n_shown;
    uint32_t index = first + rank;
    if (reply->n_shown < reply->n_choices)
        for (index = first; rank_of(reply, index) != rank; index++)
            ;
    return index;
}

static void reply_on_flush(void *state, struct buffer *out)
{
    write_dirty(state, out);
}

static void reply_on_end(void *state, struct buffer *out)
{
    struct openai_reply *reply = state;
    if (reply->is_stream) {
        write_dirty(reply, out);
        if (reply->include_usage) {
            buffer_append_str(out, "data: ");
            write_head(reply, out);
            buffer_append_str(out, "],\"usage\":");
            write_usage(reply, out);
            buffer_append_str(out, "}\n\n");
        }
        buffer_append_str(out, "data: [DONE]\n\n");
        return;
    }
    write_head(reply, out);
    for (uint32_t i = 0; i < reply->n_prompts * reply->n_shown; i++)
        write_choice(reply, choice_of(reply, i), i, out);
    buffer_append_char(out, ']');
    if (reply->shape->write_tail)
        reply->shape->write_tail(reply, out);
    buffer_append_str(out, ",\"usage\":");
    write_usage(reply, out);
    write_timings(reply, out);
    buffer_append_char(out, '}');
}

static void reply_on_error(void *state, const struct api_error *e, struct buffer *out)
{
    write_dirty(state, out);
    buffer_append_str(out, "data: ");
    api_error_write(e, out);
    buffer_append_str(out, "\n\ndata: [DONE]\n\n");
}

static void reply_destroy(void *state)
{
    openai_reply_destroy(state);
}

const struct reply_encoder openai_reply_encoder = {.on_event = reply_on_event,
                                                   .on_flush = reply_on_flush,
                                                   .on_end = reply_on_end,
                                                   .on_error = reply_on_error,
                                                   .destroy = reply_destroy};
