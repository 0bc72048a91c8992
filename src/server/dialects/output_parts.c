#include "server/dialects/output_parts.h"

#include "base/hash.h"
#include "base/numeric.h"
#include "server/request/api_request.h"

#include <stdio.h>
#include <string.h>

#define LIMIT_OUTPUT_TEXT (256 * MIB)

struct waiting_control {
    uint64_t at; /* bytes of text before it */
    int32_t token;
};

static struct output_part *last_part(const struct output_parts *o)
{
    size_t n = o->list.len / sizeof(struct output_part);
    return n > 0 ? (struct output_part *)(void *)o->list.data + (n - 1) : NULL;
}

/* Room for n bytes at the end of a part of this kind. */
static void extend(struct output_parts *o, enum output_kind kind, uint32_t call, size_t n)
{
    struct output_part *last = last_part(o);
    if (last && last->kind == kind && kind != OUTPUT_CALL && last->call == call) {
        last->n += n;
        return;
    }
    const struct output_part part = {kind, call, o->text.len, n};
    buffer_append(&o->list, &part, sizeof part);
}

static void put(struct output_parts *o, enum output_kind kind, const char *text, size_t n)
{
    uint32_t call = kind == OUTPUT_ARGUMENTS ? o->n_calls - 1 : 0;
    extend(o, kind, call, n);
    buffer_append(&o->text, text, n);
}

/* Something else comes. */
static void release_reasoning(struct output_parts *o)
{
    if (o->held.len > 0)
        put(o, OUTPUT_REASONING, o->held.data, o->held.len);
    buffer_reset(&o->held);
}

static void on_content(void *user, const char *text, size_t n)
{
    release_reasoning(user);
    put(user, OUTPUT_CONTENT, text, n);
}

static void on_reasoning(void *user, const char *text, size_t n)
{
    struct output_parts *o = user;
    if (o->holds_reasoning)
        buffer_append(&o->held, text, n);
    else
        put(o, OUTPUT_REASONING, text, n);
}

static void on_arguments(void *user, const char *json, size_t n)
{
    put(user, OUTPUT_ARGUMENTS, json, n);
}

/* The model's own id, or one in the form that its template wants back. */
static void make_call_id(const struct output_parts *o, const char *name, const char *own,
                         char out[LIMIT_TOOL_NAME + 64])
{
    char random[64];
    api_make_id("", random);
    if (*own)
        (void)snprintf(out, LIMIT_TOOL_NAME + 64, "%s", own);
    else if (o->id_form == TOOL_ID_SHORT)
        (void)snprintf(out, LIMIT_TOOL_NAME + 64, "%.9s", random);
    else if (o->id_form == TOOL_ID_FUNCTIONS)
        (void)snprintf(out, LIMIT_TOOL_NAME + 64, "functions.%s:%u", name, o->n_calls);
    else
        (void)snprintf(out, LIMIT_TOOL_NAME + 64, "call_%s", random);
}

static void on_call(void *user, const char *name, const char *own)
{
    struct output_parts *o = user;
    char id[LIMIT_TOOL_NAME + 64];
    release_reasoning(o);
    make_call_id(o, name, own, id);
    extend(o, OUTPUT_CALL, o->n_calls, strlen(id) + 1 + strlen(name));
    o->n_calls++;
    buffer_append(&o->text, id, strlen(id) + 1);
    buffer_append(&o->text, name, strlen(name));
    buffer_append_char(&o->text, '\0');
}

static void count_reasoning(struct output_parts *o, enum stream_part part, uint64_t end)
{
    size_t done = 0;
    uint64_t start;
    for (; done < o->starts.len; done += sizeof start) {
        memcpy(&start, o->starts.data + done, sizeof start);
        if (start >= end)
            break;
        o->n_reasoning += part == STREAM_REASONING;
    }
    buffer_consume(&o->starts, done);
}

static void on_decided(void *user, enum stream_part part, size_t n)
{
    struct output_parts *o = user;
    count_reasoning(o, part, o->n_decided + n);
    if (o->decided)
        o->decided(o->user, part, o->n_decided, n);
    o->n_decided += n;
}

bool output_parts_init(struct output_parts *o, const struct output_setup *setup)
{
    *o = (struct output_parts){.shows_control = !setup->skips_special,
                               .holds_reasoning = setup->holds_reasoning,
                               .id_form = setup->id_form,
                               .metrics = setup->metrics,
                               .family = setup->family,
                               .decided = setup->decided,
                               .user = setup->user};
    detokenizer_init(&o->detokenizer, setup->tokenizer, setup->format || setup->skips_special);
    buffer_init(&o->text, LIMIT_OUTPUT_TEXT);
    buffer_init(&o->held, LIMIT_OUTPUT_TEXT);
    buffer_init(&o->list, LIMIT_OUTPUT_TEXT);
    buffer_init(&o->controls, LIMIT_OUTPUT_TEXT);
    buffer_init(&o->piece, LIMIT_OUTPUT_TEXT);
    buffer_init(&o->starts, LIMIT_OUTPUT_TEXT);
    if (!setup->format)
        return true;
    const struct stream_parser_options options = {
        .is_reasoning_open = setup->is_reasoning_open,
        .shows_control = o->shows_control,
        .trusts_calls = setup->trusts_calls,
        .max_calls = setup->max_calls,
        .types = setup->types,
        .sink = {on_content, on_reasoning, on_call, on_arguments, on_decided, o}};
    o->parser = stream_parser_create(setup->format, &options);
    return o->parser != NULL;
}

void output_parts_deinit(struct output_parts *o)
{
    detokenizer_deinit(&o->detokenizer);
    stream_parser_destroy(o->parser);
    buffer_deinit(&o->text);
    buffer_deinit(&o->held);
    buffer_deinit(&o->list);
    buffer_deinit(&o->controls);
    buffer_deinit(&o->piece);
    buffer_deinit(&o->starts);
}

void output_parts_push(struct output_parts *o, int32_t token)
{
    const struct tokenizer *tokenizer = o->detokenizer.tokenizer;
    uint32_t n;
    (void)tokenizer_piece(tokenizer, token, &n);
    if (o->detokenizer.skips_special && tokenizer_is_control(tokenizer, token)) {
        const struct waiting_control waiting = {o->n_bytes, token};
        if (o->parser)
            buffer_append(&o->controls, &waiting, sizeof waiting);
        return;
    }
    if (o->parser && n > 0)
        buffer_append(&o->starts, &o->n_bytes, sizeof o->n_bytes);
    detokenizer_push(&o->detokenizer, token);
    o->n_bytes += n;
}

/* Text up to `release`; at the end with what is no whole character. */
static void take(struct output_parts *o, uint64_t release, bool is_end)
{
    struct buffer *out = o->parser ? &o->piece : &o->text;
    size_t before = out->len;
    if (is_end)
        detokenizer_finish(&o->detokenizer, release, out);
    else
        detokenizer_take(&o->detokenizer, release, out);
    size_t n = out->len - before;
    if (o->parser) {
        stream_parser_push(o->parser, buffer_str(out), n, false);
        buffer_reset(out);
    } else if (n > 0) {
        out->len = before; /* the part begins where its text does */
        extend(o, OUTPUT_CONTENT, 0, n);
        out->len += n;
    }
}

static void push_control(struct output_parts *o, int32_t token)
{
    uint32_t n;
    const char *piece = tokenizer_piece(o->detokenizer.tokenizer, token, &n);
    stream_parser_push(o->parser, piece, n, true);
}

static void release_to(struct output_parts *o, uint64_t release, bool is_end)
{
    size_t done = 0;
    struct waiting_control waiting;
    for (; done < o->controls.len; done += sizeof waiting) {
        memcpy(&waiting, o->controls.data + done, sizeof waiting);
        if (waiting.at > release)
            break;
        take(o, waiting.at, true); /* a character that a control token cuts is no character */
        push_control(o, waiting.token);
    }
    buffer_consume(&o->controls, done);
    take(o, release, is_end);
    if (!o->parser && o->decided && release > o->n_decided) {
        uint64_t end = release < o->n_bytes ? release : o->n_bytes;
        if (end > o->n_decided)
            o->decided(o->user, STREAM_CONTENT, o->n_decided, end - o->n_decided);
        o->n_decided = end > o->n_decided ? end : o->n_decided;
    }
}

void output_parts_release(struct output_parts *o, uint64_t release)
{
    release_to(o, release, false);
}

static void count_calls(const struct output_parts *o, const char *result, uint32_t n)
{
    const char *labels[] = {o->family, result};
    if (n > 0)
        metrics_add_labelled(o->metrics, METRIC_TOOL_CALLS, labels, n);
}

void output_parts_finish(struct output_parts *o, uint64_t release, bool is_cut)
{
    release_to(o, release, true);
    if (o->parser) {
        stream_parser_finish(o->parser, is_cut);
        release_reasoning(o);
        o->has_cut_call = stream_parser_has_cut_call(o->parser);
    }
    if (!o->metrics)
        return;
    const uint32_t n_cut = o->has_cut_call && o->n_calls > 0;
    metrics_add(o->metrics, METRIC_REASONING_TOKENS, o->n_reasoning);
    count_calls(o, "ok", o->n_calls - n_cut);
    count_calls(o, "cut", n_cut);
}

const struct output_part *output_parts_list(const struct output_parts *o, size_t *n)
{
    *n = o->list.len / sizeof(struct output_part);
    return (const struct output_part *)(const void *)o->list.data;
}

bool output_parts_has(const struct output_parts *o, enum output_kind kind)
{
    size_t n;
    const struct output_part *list = output_parts_list(o, &n);
    for (size_t i = 0; i < n; i++)
        if (list[i].kind == kind)
            return true;
    return false;
}

void output_parts_taken(struct output_parts *o)
{
    buffer_reset(&o->text);
    buffer_reset(&o->list);
}

const char *output_call_id(const struct output_parts *o, const struct output_part *part)
{
    return o->text.data + part->begin;
}

const char *output_call_name(const struct output_parts *o, const struct output_part *part)
{
    const char *id = o->text.data + part->begin;
    return id + strlen(id) + 1;
}
