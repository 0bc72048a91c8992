#include "server/openai_reply.h"

#include "base/numeric.h"
#include "base/utf8.h"
#include "server/server_internal.h"
#include "text/detokenizer.h"

#include <stdlib.h>
#include <string.h>

#define LIMIT_REPLY_TEXT (256 * MIB)

/* Log probabilities of tokens that have not been sent, in the endpoint's JSON. */
struct logprob_text {
    struct buffer content;                       /* chat: objects, comma separated */
    struct buffer tokens, values, tops, offsets; /* completions: the four arrays' insides */
    uint32_t n;
};

/* Chat shows the tokens of the content alone. Whether a token is one of them is known once text
 * from its first byte on is released, or never will be: until then its entry is held. */
struct held_entry {
    uint64_t first_byte; /* in the choice's text */
    size_t json_end;     /* in logprobs.content */
};

struct choice {
    struct detokenizer detokenizer;
    struct buffer text; /* not yet sent; of a whole reply: all */
    struct logprob_text logprobs;
    struct buffer held;    /* struct held_entry[] of the last entries of logprobs.content */
    size_t n_ready;        /* bytes of logprobs.content that are not held */
    uint64_t n_text_bytes; /* of all tokens so far */
    bool is_dirty;         /* stands in the list of choices that have something to send */
    struct buffer token_ids;
    uint64_t n_code_points; /* of the text of all tokens so far, for text_offset */
    double logprob;         /* of all tokens together, if the best are to be found; else 0 */
    uint32_t n_tokens;
    bool has_begun, is_finished, has_ended; /* has_ended: the finish has been sent */
    struct event finish;                    /* what EVENT_FINISH said */
};

struct prompt {
    int32_t *ids;
    uint32_t n, n_cached;
    struct buffer text;
    struct logprob_text logprobs;
    uint64_t n_code_points;
};

struct openai_reply {
    const struct served_model *model;
    struct api_fields fields;
    bool is_chat, is_echo, is_stream, include_usage, continuous_usage;
    int32_t n_logprobs;
    uint32_t n_prompts, n_choices, n_shown; /* choices per prompt, of which n_shown are shown */
    char id[64];
    int64_t created;
    struct prompt *prompts;
    struct choice *choices; /* [n_prompts * n_choices] */
    uint32_t *dirty;        /* [n_prompts * n_choices] choices that have something to send */
    uint32_t n_dirty;
    struct buffer head;  /* of each chunk or the whole reply, up to the choices */
    struct buffer piece; /* working memory */
    uint64_t n_prompt_tokens, n_cached, n_output;
};

/* ---- life --------------------------------------------------------------------------------------
 */

static void logprob_text_init(struct logprob_text *l)
{
    buffer_init(&l->content, LIMIT_REPLY_TEXT);
    buffer_init(&l->tokens, LIMIT_REPLY_TEXT);
    buffer_init(&l->values, LIMIT_REPLY_TEXT);
    buffer_init(&l->tops, LIMIT_REPLY_TEXT);
    buffer_init(&l->offsets, LIMIT_REPLY_TEXT);
}

static void logprob_text_deinit(struct logprob_text *l)
{
    buffer_deinit(&l->content);
    buffer_deinit(&l->tokens);
    buffer_deinit(&l->values);
    buffer_deinit(&l->tops);
    buffer_deinit(&l->offsets);
}

static void logprob_text_reset(struct logprob_text *l)
{
    buffer_reset(&l->content);
    buffer_reset(&l->tokens);
    buffer_reset(&l->values);
    buffer_reset(&l->tops);
    buffer_reset(&l->offsets);
    l->n = 0;
}

static void choice_init(struct choice *choice, const struct openai_reply *reply)
{
    detokenizer_init(&choice->detokenizer, reply->model->tokenizer,
                     reply->fields.skip_special_tokens);
    buffer_init(&choice->text, LIMIT_REPLY_TEXT);
    buffer_init(&choice->token_ids, LIMIT_REPLY_TEXT);
    buffer_init(&choice->held, LIMIT_REPLY_TEXT);
    logprob_text_init(&choice->logprobs);
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

static void write_text(struct buffer *out, const char *bytes, size_t n)
{
    buffer_append_char(out, '"');
    buffer_append_json(out, bytes, n);
    buffer_append_char(out, '"');
}

static void make_head(struct openai_reply *reply)
{
    const char *object = reply->is_chat
                             ? reply->is_stream ? "chat.completion.chunk" : "chat.completion"
                             : "text_completion";
    buffer_printf(&reply->head,
                  "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", reply->id, object,
                  (long long)reply->created);
    const char *adapter = api_adapter_name(reply->model, reply->fields.model);
    const char *name = adapter ? adapter : reply->model->name;
    write_text(&reply->head, name, strlen(name));
    buffer_printf(&reply->head, ",\"system_fingerprint\":\"%s\",\"choices\":[",
                  reply->model->fingerprint);
}

struct openai_reply *openai_reply_create(const struct openai_reply_setup *setup)
{
    struct openai_reply *reply = calloc(1, sizeof *reply);
    struct api_error ignored; /* the endpoint has checked them */
    size_t n = (size_t)setup->n_prompts * (size_t)setup->fields->n;
    if (!reply) {
        api_fields_release(setup->fields);
        return NULL;
    }
    reply->fields = *setup->fields;
    setup->fields->root = NULL;
    reply->model = exchange_model(setup->exchange);
    reply->is_chat = setup->is_chat;
    reply->is_echo = setup->is_echo;
    reply->is_stream = reply->fields.stream;
    reply->n_logprobs = setup->n_logprobs;
    reply->n_choices = (uint32_t)reply->fields.n;
    reply->n_shown = setup->n_shown;
    reply->n_prompt_tokens = setup->n_prompt_tokens;
    (void)openai_read_stream_options(&reply->fields, &reply->include_usage,
                                     &reply->continuous_usage, &ignored);
    api_make_id(setup->is_chat ? "chatcmpl-" : "cmpl-", reply->id);
    reply->created = clock_wall_seconds(exchange_context(setup->exchange)->clock);
    buffer_init(&reply->piece, MIB);
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
        logprob_text_init(&prompt->logprobs);
    }
    for (size_t i = 0; i < n; i++)
        choice_init(&reply->choices[i], reply);
    return reply;
}

void openai_reply_destroy(struct openai_reply *reply)
{
    for (uint32_t i = 0; i < reply->n_prompts; i++) {
        free(reply->prompts[i].ids);
        buffer_deinit(&reply->prompts[i].text);
        logprob_text_deinit(&reply->prompts[i].logprobs);
    }
    for (size_t i = 0; reply->choices && i < (size_t)reply->n_prompts * reply->n_choices; i++) {
        detokenizer_deinit(&reply->choices[i].detokenizer);
        buffer_deinit(&reply->choices[i].text);
        buffer_deinit(&reply->choices[i].token_ids);
        buffer_deinit(&reply->choices[i].held);
        logprob_text_deinit(&reply->choices[i].logprobs);
    }
    free(reply->prompts);
    free(reply->choices);
    free(reply->dirty);
    buffer_deinit(&reply->piece);
    buffer_deinit(&reply->head);
    api_fields_release(&reply->fields);
    free(reply);
}

/* ---- pieces of JSON
 * ------------------------------------------------------------------------------ */

static void write_logprob(struct buffer *out, float logprob)
{
    buffer_append_f32(out, logprob > -9999.0f ? logprob : -9999.0f);
}

/* How a completion's logprobs name a token: its text, token_id:N if asked for, and bytes:\xe2
 * where the text is a part of a character. */
static void name_token(struct openai_reply *reply, int32_t token, struct buffer *out)
{
    uint32_t n;
    const char *bytes = tokenizer_piece(reply->model->tokenizer, token, &n);
    buffer_reset(out);
    if (reply->fields.return_tokens_as_token_ids) {
        buffer_printf(out, "token_id:%d", token);
    } else if (utf8_valid_run(bytes, n) == n) {
        buffer_append(out, bytes, n);
    } else {
        buffer_append_str(out, "bytes:");
        for (uint32_t i = 0; i < n; i++)
            buffer_printf(out, "\\x%02x", (uint8_t)bytes[i]);
    }
}

static bool has_text(const struct openai_reply *reply, int32_t token)
{
    return !(reply->fields.skip_special_tokens &&
             tokenizer_is_control(reply->model->tokenizer, token));
}

static uint64_t token_bytes(const struct openai_reply *reply, int32_t token)
{
    uint32_t n;
    (void)tokenizer_piece(reply->model->tokenizer, token, &n);
    return has_text(reply, token) ? n : 0;
}

static uint64_t count_code_points(const char *bytes, size_t n)
{
    uint64_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += ((uint8_t)bytes[i] & 0xc0) != 0x80;
    return count;
}

/* Code points that a token adds to the text. */
static uint64_t token_code_points(const struct openai_reply *reply, int32_t token)
{
    uint32_t n;
    const char *bytes = tokenizer_piece(reply->model->tokenizer, token, &n);
    return has_text(reply, token) ? count_code_points(bytes, n) : 0;
}

/* ---- log probabilities
 * --------------------------------------------------------------------------- */

/* Whether an earlier entry of the map has the same name; with equal texts the larger counts. */
static bool is_named_before(struct openai_reply *reply, const struct logprobs *l, uint32_t index,
                            int32_t token)
{
    uint32_t n, m;
    const char *bytes = tokenizer_piece(reply->model->tokenizer, token, &n);
    if (reply->fields.return_tokens_as_token_ids)
        return false;
    for (uint32_t i = 0; i < index; i++) {
        const char *other = tokenizer_piece(reply->model->tokenizer, l->top[i].token, &m);
        if (m == n && memcmp(bytes, other, n) == 0)
            return true;
    }
    return false;
}

static void write_entry(struct openai_reply *reply, struct buffer *out, int32_t token,
                        float logprob, bool is_first)
{
    name_token(reply, token, &reply->piece);
    if (!is_first)
        buffer_append_char(out, ',');
    write_text(out, buffer_str(&reply->piece), reply->piece.len);
    buffer_append_char(out, ':');
    write_logprob(out, logprob);
}

/* {piece: logprob} of the best, and of the chosen token. */
static void write_top_map(struct openai_reply *reply, const struct logprobs *l, struct buffer *out)
{
    bool is_first = true, has_chosen = false;
    buffer_append_char(out, '{');
    for (uint32_t i = 0; i < l->n_top; i++) {
        has_chosen = has_chosen || l->top[i].token == l->chosen.token;
        if (is_named_before(reply, l, i, l->top[i].token))
            continue;
        write_entry(reply, out, l->top[i].token, l->top[i].logprob, is_first);
        is_first = false;
    }
    if (!has_chosen && !is_named_before(reply, l, l->n_top, l->chosen.token))
        write_entry(reply, out, l->chosen.token, l->chosen.logprob, is_first);
    buffer_append_char(out, '}');
}

/* One token of the completions' four arrays; `l` NULL: nothing is known about the first. */
static void add_completion_logprob(struct openai_reply *reply, struct logprob_text *out,
                                   int32_t token, const struct logprobs *l, uint64_t offset)
{
    const char *comma = out->n++ ? "," : "";
    name_token(reply, token, &reply->piece);
    buffer_append_str(&out->tokens, comma);
    write_text(&out->tokens, buffer_str(&reply->piece), reply->piece.len);
    buffer_printf(&out->offsets, "%s%llu", comma, (unsigned long long)offset);
    buffer_append_str(&out->values, comma);
    buffer_append_str(&out->tops, comma);
    if (!l) {
        buffer_append_str(&out->values, "null");
        buffer_append_str(&out->tops, "null");
        return;
    }
    write_logprob(&out->values, l->chosen.logprob);
    write_top_map(reply, l, &out->tops);
}

/* By hand: with 20 alternatives this is a good part of what a token costs. */
static void write_byte_list(const char *bytes, uint32_t n, struct buffer *out)
{
    buffer_append_str(out, ",\"bytes\":[");
    for (uint32_t i = 0; i < n; i++) {
        uint8_t byte = (uint8_t)bytes[i];
        const char digits[] = {(char)('0' + byte / 100), (char)('0' + byte / 10 % 10),
                               (char)('0' + byte % 10)};
        size_t n_zeros = byte >= 100 ? 0 : byte >= 10 ? 1 : 2;
        if (i > 0)
            buffer_append_char(out, ',');
        buffer_append(out, digits + n_zeros, 3 - n_zeros);
    }
    buffer_append_char(out, ']');
}

/* {"token","logprob","bytes"...} of the chat's list. */
static void write_chat_token(struct openai_reply *reply, int32_t token, float logprob,
                             struct buffer *out)
{
    uint32_t n;
    const char *bytes = tokenizer_piece(reply->model->tokenizer, token, &n);
    buffer_append_str(out, "{\"token\":");
    if (reply->fields.return_tokens_as_token_ids)
        buffer_printf(out, "\"token_id:%d\"", token);
    else
        write_text(out, bytes, n);
    buffer_append_str(out, ",\"logprob\":");
    write_logprob(out, logprob);
    write_byte_list(bytes, n, out);
}

static void add_chat_logprob(struct openai_reply *reply, struct choice *choice,
                             const struct logprobs *l)
{
    struct logprob_text *out = &choice->logprobs;
    if (out->content.len > 0)
        buffer_append_char(&out->content, ',');
    write_chat_token(reply, l->chosen.token, l->chosen.logprob, &out->content);
    buffer_append_str(&out->content, ",\"top_logprobs\":[");
    for (uint32_t i = 0; i < l->n_top; i++) {
        if (i)
            buffer_append_char(&out->content, ',');
        write_chat_token(reply, l->top[i].token, l->top[i].logprob, &out->content);
        buffer_append_char(&out->content, '}');
    }
    buffer_append_str(&out->content, "]}");
    const struct held_entry entry = {choice->n_text_bytes, out->content.len};
    buffer_append(&choice->held, &entry, sizeof entry);
}

/* Entries of tokens whose text has begun to be released are ready. */
static void release_entries(struct choice *choice, uint64_t release)
{
    size_t done = 0;
    struct held_entry entry;
    for (; done < choice->held.len; done += sizeof entry) {
        memcpy(&entry, choice->held.data + done, sizeof entry);
        if (entry.first_byte >= release)
            break;
        choice->n_ready = entry.json_end;
    }
    buffer_consume(&choice->held, done);
}

/* What is still held at the end is no part of the content. */
static void drop_entries(struct choice *choice)
{
    struct buffer *content = &choice->logprobs.content;
    if (content->len > choice->n_ready) {
        content->len = choice->n_ready;
        content->data[content->len] = '\0';
    }
    buffer_reset(&choice->held);
}

/* The ready entries have been sent; those that are held stay. */
static void consume_entries(struct choice *choice)
{
    struct buffer *content = &choice->logprobs.content;
    size_t done = choice->n_ready;
    if (done < content->len && done > 0)
        done++; /* the comma */
    buffer_consume(content, done);
    for (size_t at = 0; at < choice->held.len; at += sizeof(struct held_entry)) {
        struct held_entry entry;
        memcpy(&entry, choice->held.data + at, sizeof entry);
        entry.json_end -= done;
        memcpy(choice->held.data + at, &entry, sizeof entry);
    }
    choice->n_ready = 0;
}

static void write_joined(struct buffer *out, const char *name, const struct buffer *first,
                         const struct buffer *second)
{
    buffer_printf(out, "\"%s\":[", name);
    if (first)
        buffer_append(out, buffer_str(first), first->len);
    if (first && first->len > 0 && second->len > 0)
        buffer_append_char(out, ',');
    buffer_append(out, buffer_str(second), second->len);
    buffer_append_char(out, ']');
}

/* The value of "logprobs"; `before` is the prompt's part, or NULL. */
static void write_logprobs(const struct openai_reply *reply, const struct logprob_text *before,
                           const struct choice *choice, struct buffer *out)
{
    const struct logprob_text *l = &choice->logprobs;
    bool is_empty =
        reply->is_chat ? choice->n_ready == 0 : l->n == 0 && (!before || before->n == 0);
    if (reply->n_logprobs < 0 || (reply->is_stream && is_empty)) {
        buffer_append_str(out, "null");
        return;
    }
    buffer_append_char(out, '{');
    if (reply->is_chat) {
        buffer_append_str(out, "\"content\":[");
        buffer_append(out, buffer_str(&l->content), choice->n_ready);
        buffer_append_str(out, "],\"refusal\":null}");
        return;
    }
    write_joined(out, "tokens", before ? &before->tokens : NULL, &l->tokens);
    buffer_append_char(out, ',');
    write_joined(out, "token_logprobs", before ? &before->values : NULL, &l->values);
    buffer_append_char(out, ',');
    write_joined(out, "top_logprobs", before ? &before->tops : NULL, &l->tops);
    buffer_append_char(out, ',');
    write_joined(out, "text_offset", before ? &before->offsets : NULL, &l->offsets);
    buffer_append_char(out, '}');
}

/* ---- parts that whole replies and chunks share
 * ----------------------------------------------------- */

static void write_head(const struct openai_reply *reply, struct buffer *out)
{
    buffer_append(out, reply->head.data, reply->head.len);
}

static void write_usage(const struct openai_reply *reply, struct buffer *out)
{
    buffer_printf(out,
                  "{\"prompt_tokens\":%llu,\"completion_tokens\":%llu,\"total_tokens\":%llu,"
                  "\"prompt_tokens_details\":{\"cached_tokens\":%llu},"
                  "\"completion_tokens_details\":{\"reasoning_tokens\":0,"
                  "\"accepted_prediction_tokens\":0,\"rejected_prediction_tokens\":0}}",
                  (unsigned long long)reply->n_prompt_tokens, (unsigned long long)reply->n_output,
                  (unsigned long long)(reply->n_prompt_tokens + reply->n_output),
                  (unsigned long long)reply->n_cached);
}

/* A stop string, the id of a stop token, or null; `names_end` shows the model's own end too. */
static void write_stop(const struct openai_reply *reply, const struct event *finish, bool names_end,
                       struct buffer *out)
{
    const json_t *stop = reply->fields.stop;
    if (finish->stop_index >= 0) {
        /* empty elements were left out when the strings were numbered */
        const json_t *match = json_is_array(stop) ? NULL : stop;
        int32_t number = 0;
        for (size_t i = 0; i < json_array_size(stop); i++) {
            const json_t *item = json_array_get(stop, i);
            if (json_string_length(item) > 0 && number++ == finish->stop_index)
                match = item;
        }
        write_text(out, match ? json_string_value(match) : "", json_string_length(match));
    } else if (finish->stop_token >= 0 && (names_end || !finish->is_end_token)) {
        buffer_printf(out, "%d", finish->stop_token);
    } else {
        buffer_append_str(out, "null");
    }
}

static void write_finish(const struct openai_reply *reply, const struct choice *choice,
                         bool is_last, struct buffer *out)
{
    if (!is_last) {
        buffer_append_str(out, ",\"finish_reason\":null");
        return;
    }
    buffer_printf(out, ",\"finish_reason\":\"%s\",\"stop_reason\":",
                  choice->finish.finish == FINISH_STOP ? "stop" : "length");
    write_stop(reply, &choice->finish, false, out);
    buffer_append_str(out, ",\"matched_stop\":");
    write_stop(reply, &choice->finish, true, out);
}

static void write_token_ids(const struct openai_reply *reply, const struct choice *choice,
                            struct buffer *out)
{
    if (reply->fields.return_token_ids)
        buffer_printf(out, ",\"token_ids\":[%s]", buffer_str(&choice->token_ids));
}

static const struct prompt *echoed_prompt(const struct openai_reply *reply, uint32_t index)
{
    return reply->is_echo ? &reply->prompts[index / reply->n_choices] : NULL;
}

/* ---- chunks
 * -------------------------------------------------------------------------------------- */

static void end_chunk(const struct openai_reply *reply, struct buffer *out)
{
    buffer_append_char(out, ']');
    if (reply->include_usage) {
        buffer_append_str(out, ",\"usage\":");
        if (reply->continuous_usage)
            write_usage(reply, out);
        else
            buffer_append_str(out, "null");
    }
    buffer_append_str(out, "}\n\n");
}

/* The finish has a delta of its own, which is empty. */
static void write_chat_delta(const struct choice *choice, bool is_first, bool is_last,
                             struct buffer *out)
{
    buffer_append_str(out, ",\"delta\":{");
    if (is_first)
        buffer_append_str(out, "\"role\":\"assistant\",");
    if (!is_last) {
        buffer_append_str(out, "\"content\":");
        write_text(out, buffer_str(&choice->text), choice->text.len);
    }
    buffer_append_char(out, '}');
}

/* What has gathered of a choice, as one frame; is_last: with its finish. */
static void write_chunk(struct openai_reply *reply, uint32_t index, bool is_last,
                        struct buffer *out)
{
    struct choice *choice = &reply->choices[index];
    bool is_first = !choice->has_begun;
    const struct prompt *prompt = is_first ? echoed_prompt(reply, index) : NULL;
    buffer_append_str(out, "data: ");
    write_head(reply, out);
    buffer_append_str(out, "{\"index\":");
    buffer_append_u64(out, index);
    if (reply->is_chat) {
        write_chat_delta(choice, is_first, is_last, out);
    } else {
        buffer_append_str(out, ",\"text\":\"");
        if (prompt)
            buffer_append_json(out, buffer_str(&prompt->text), prompt->text.len);
        buffer_append_json(out, buffer_str(&choice->text), choice->text.len);
        buffer_append_char(out, '"');
    }
    buffer_append_str(out, ",\"logprobs\":");
    write_logprobs(reply, prompt ? &prompt->logprobs : NULL, choice, out);
    write_finish(reply, choice, is_last, out);
    write_token_ids(reply, choice, out);
    buffer_append_char(out, '}');
    end_chunk(reply, out);
    choice->has_begun = true;
    choice->has_ended = is_last;
    buffer_reset(&choice->text);
    buffer_reset(&choice->token_ids);
    if (reply->is_chat)
        consume_entries(choice);
    else
        logprob_text_reset(&choice->logprobs);
}

/* One frame for each choice that has something to say. Of chat two if it has ended: the finish
 * comes alone. */
static void write_dirty(struct openai_reply *reply, struct buffer *out)
{
    for (uint32_t i = 0; i < reply->n_dirty; i++) {
        uint32_t index = reply->dirty[i];
        struct choice *choice = &reply->choices[index];
        bool is_speaking = choice->text.len > 0;
        choice->is_dirty = false;
        if (reply->is_chat && (is_speaking || (choice->is_finished && !choice->has_begun)))
            write_chunk(reply, index, false, out);
        if (choice->is_finished && !choice->has_ended)
            write_chunk(reply, index, true, out);
        else if (!reply->is_chat && is_speaking)
            write_chunk(reply, index, false, out);
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

/* ---- events
 * -------------------------------------------------------------------------------------- */

static void on_prompt_logprobs(struct openai_reply *reply, const struct event *event)
{
    struct prompt *prompt = &reply->prompts[event->user_index];
    if (event->index >= prompt->n || !event->logprobs)
        return;
    int32_t token = prompt->ids[event->index];
    add_completion_logprob(reply, &prompt->logprobs, token, event->logprobs, prompt->n_code_points);
    prompt->n_code_points += token_code_points(reply, token);
}

/* A token without text of its own is no part of a chat's content. */
static void add_token_logprob(struct openai_reply *reply, struct choice *choice,
                              const struct event *event)
{
    if (!event->logprobs)
        return;
    choice->logprob += event->logprobs->chosen.logprob;
    if (reply->n_logprobs < 0)
        return;
    if (!reply->is_chat)
        add_completion_logprob(reply, &choice->logprobs, event->token, event->logprobs,
                               choice->n_code_points);
    else if (!event->is_hidden && has_text(reply, event->token))
        add_chat_logprob(reply, choice, event->logprobs);
}

/* The first token of a choice with echo continues the prompt's offsets. */
static void begin_offsets(struct openai_reply *reply, uint32_t index)
{
    const struct prompt *prompt = echoed_prompt(reply, index);
    struct choice *choice = &reply->choices[index];
    if (prompt && choice->n_code_points == 0)
        choice->n_code_points = prompt->n_code_points;
}

static void on_token(struct openai_reply *reply, uint32_t index, const struct event *event)
{
    struct choice *choice = &reply->choices[index];
    begin_offsets(reply, index);
    choice->n_tokens++;
    add_token_logprob(reply, choice, event);
    if (reply->fields.return_token_ids) {
        if (choice->token_ids.len > 0)
            buffer_append_char(&choice->token_ids, ',');
        buffer_append_u64(&choice->token_ids, (uint64_t)event->token);
    }
    if (!event->is_hidden) {
        detokenizer_push(&choice->detokenizer, event->token);
        choice->n_code_points += token_code_points(reply, event->token);
        choice->n_text_bytes += token_bytes(reply, event->token);
    }
    detokenizer_take(&choice->detokenizer, event->release, &choice->text);
    release_entries(choice, event->release);
    mark_dirty(reply, index);
}

static void on_finish(struct openai_reply *reply, uint32_t index, const struct event *event)
{
    struct choice *choice = &reply->choices[index];
    choice->finish = *event;
    choice->is_finished = true;
    detokenizer_finish(&choice->detokenizer, event->release, &choice->text);
    release_entries(choice, event->release);
    drop_entries(choice);
    mark_dirty(reply, index);
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
        break;
    default:
        break;
    }
}

/* ---- the end
 * ------------------------------------------------------------------------------------- */

/* Choice `index`, as the one of that number in the reply. */
static void write_choice(const struct openai_reply *reply, uint32_t index, uint32_t number,
                         struct buffer *out)
{
    const struct choice *choice = &reply->choices[index];
    const struct prompt *prompt = echoed_prompt(reply, index);
    buffer_printf(out, "%s{\"index\":%u", number ? "," : "", number);
    if (reply->is_chat) {
        buffer_append_str(out, ",\"message\":{\"role\":\"assistant\",\"content\":");
        write_text(out, buffer_str(&choice->text), choice->text.len);
        buffer_append_str(out, ",\"refusal\":null}");
    } else {
        buffer_append_str(out, ",\"text\":\"");
        if (prompt)
            buffer_append_json(out, buffer_str(&prompt->text), prompt->text.len);
        buffer_append_json(out, buffer_str(&choice->text), choice->text.len);
        buffer_append_char(out, '"');
    }
    buffer_append_str(out, ",\"logprobs\":");
    write_logprobs(reply, prompt ? &prompt->logprobs : NULL, choice, out);
    write_finish(reply, choice, true, out);
    write_token_ids(reply, choice, out);
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
    buffer_append_str(out, "],\"usage\":");
    write_usage(reply, out);
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

bool openai_reply_set_prompt(struct openai_reply *reply, uint32_t i, const int32_t *ids, uint32_t n)
{
    struct prompt *prompt = &reply->prompts[i];
    if (!reply->is_echo)
        return true;
    prompt->ids = calloc(max_size(n, 1), sizeof *ids);
    if (!prompt->ids)
        return false;
    memcpy(prompt->ids, ids, n * sizeof *ids);
    prompt->n = n;
    /* the text as the detokenizer of the answer would show it */
    struct detokenizer detokenizer;
    detokenizer_init(&detokenizer, reply->model->tokenizer, reply->fields.skip_special_tokens);
    for (uint32_t t = 0; t < n; t++) {
        detokenizer_push(&detokenizer, ids[t]);
        detokenizer_take(&detokenizer, UINT64_MAX, &prompt->text);
    }
    detokenizer_finish(&detokenizer, UINT64_MAX, &prompt->text);
    detokenizer_deinit(&detokenizer);
    if (n > 0 && reply->n_logprobs >= 0) { /* of the first nothing is known */
        add_completion_logprob(reply, &prompt->logprobs, ids[0], NULL, 0);
        prompt->n_code_points = token_code_points(reply, ids[0]);
    } else {
        prompt->n_code_points = count_code_points(buffer_str(&prompt->text), prompt->text.len);
    }
    return !prompt->text.is_failed;
}
