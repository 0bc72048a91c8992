#include "text/stream_parser.h"

#include "base/error.h"
#include "base/limits.h"

#include <stdlib.h>
#include <string.h>

enum mark_action { MARK_REASONING_OPEN, MARK_REASONING_CLOSE, MARK_DROP, MARK_CALL };
enum mark_when { WHEN_ALWAYS, WHEN_AT_START, WHEN_AFTER_CALL };

enum {
    FORMAT_MARKS = 2 * TOOL_FAMILY_DROPPED + TOOL_FAMILY_PATTERNS + 3,
    HELD_SPACE = 4096, /* white space held back in front of a call; more of it is content */
};

struct stream_mark {
    struct mark mark;
    enum mark_action action;
    enum mark_when when;
};

struct stream_format {
    const struct tool_family *family;
    struct call_pattern patterns[TOOL_FAMILY_PATTERNS], parameter;
    uint32_t n_patterns;
    struct stream_mark content[FORMAT_MARKS]; /* outside reasoning */
    uint32_t n_content;
    struct stream_mark close; /* inside; of no length without reasoning */
    bool begins_mark[256];
    bool holds_space; /* a call may follow white space */
};

enum parser_state { IN_CONTENT, IN_REASONING, IN_CALL };

struct window_byte {
    char byte;
    bool is_control; /* of a control token's text */
};

struct stream_parser {
    const struct stream_format *format;
    struct stream_parser_options options;
    enum parser_state state;
    struct window_byte window[MARK_BYTES + 2]; /* may begin a mark, or wait for it to be decided */
    uint32_t n_window;
    struct buffer out;   /* of the present part, not yet given out */
    struct buffer space; /* white space behind it that may turn out to be none of it */
    bool skips_space;    /* at the beginning of a part */
    bool is_at_start;    /* no content yet, or none since the last call */
    bool is_after_call;
    struct buffer raw; /* what has been read of a call, to be given back if it is none */
    struct call_reader *readers[TOOL_FAMILY_PATTERNS];
    uint32_t n_calls;     /* given out before this opening */
    uint32_t n_shown;     /* of the readers' list: begun in the sink */
    size_t n_shown_bytes; /* of the last one's arguments */
    bool has_cut_call;
};

/* ---- formats ---- */

static bool has_mark(const struct stream_format *f, const char *text)
{
    for (uint32_t i = 0; i < f->n_content; i++)
        if (strlen(text) == f->content[i].mark.n &&
            memcmp(f->content[i].mark.text, text, f->content[i].mark.n) == 0)
            return true;
    return false;
}

static void add_mark(struct stream_format *f, const struct tokenizer *tokenizer, const char *text,
                     size_t n, enum mark_action action, enum mark_when when)
{
    struct mark mark = mark_make(tokenizer, text, n);
    f->content[f->n_content++] = (struct stream_mark){mark, action, when};
}

static void add_dropped(struct stream_format *f, const struct tokenizer *tokenizer,
                        const char *const *texts)
{
    for (uint32_t i = 0; i < TOOL_FAMILY_DROPPED && texts[i]; i++) {
        /* a word is a frame only where a message begins */
        bool is_word = texts[i][0] >= 'a' && texts[i][0] <= 'z';
        if (!has_mark(f, texts[i]))
            add_mark(f, tokenizer, texts[i], strlen(texts[i]), MARK_DROP,
                     is_word ? WHEN_AT_START : WHEN_ALWAYS);
    }
}

static serverd_status add_family(struct stream_format *f, const struct tokenizer *tokenizer,
                                 serverd_error *err)
{
    const struct tool_family *family = f->family;
    f->holds_space = true;
    for (uint32_t i = 0; i < TOOL_FAMILY_PATTERNS && family->patterns[i]; i++) {
        struct call_pattern *pattern = &f->patterns[f->n_patterns++];
        serverd_status status = call_pattern_compile(tokenizer, family->patterns[i], pattern, err);
        if (status != SERVERD_OK)
            return status;
        const struct mark *first = &pattern->elements[0].literal;
        bool is_known = false;
        for (uint32_t m = 0; m < f->n_content; m++)
            is_known = is_known || (f->content[m].mark.n == first->n &&
                                    memcmp(f->content[m].mark.text, first->text, first->n) == 0);
        if (pattern->elements[0].slot == SLOT_LITERAL && !is_known)
            f->content[f->n_content++] = (struct stream_mark){*first, MARK_CALL, WHEN_ALWAYS};
    }
    add_dropped(f, tokenizer, family->dropped);
    if (family->separator)
        add_mark(f, tokenizer, family->separator, strlen(family->separator), MARK_DROP,
                 WHEN_AFTER_CALL);
    return family->parameter
               ? call_pattern_compile(tokenizer, family->parameter, &f->parameter, err)
               : SERVERD_OK;
}

serverd_status stream_format_create(const struct tokenizer *tokenizer,
                                    const struct tool_family *family,
                                    const struct reasoning_format *reasoning,
                                    struct stream_format **out, serverd_error *err)
{
    struct stream_format *f = calloc(1, sizeof *f);
    serverd_status status = SERVERD_OK;
    *out = NULL;
    if (!f)
        return fail(err, SERVERD_NOMEM, "tool family: no memory");
    f->family = family;
    if (family)
        status = add_family(f, tokenizer, err);
    if (reasoning) {
        struct mark open = mark_make(tokenizer, reasoning->open, strlen(reasoning->open));
        /* a text that is no control token may stand in an answer, too */
        f->content[f->n_content++] = (struct stream_mark){
            open, MARK_REASONING_OPEN, open.control ? WHEN_ALWAYS : WHEN_AT_START};
        f->close =
            (struct stream_mark){mark_make(tokenizer, reasoning->close, strlen(reasoning->close)),
                                 MARK_REASONING_CLOSE, WHEN_ALWAYS};
        add_dropped(f, tokenizer, reasoning->dropped);
    }
    for (uint32_t i = 0; i < f->n_content; i++)
        f->begins_mark[(uint8_t)f->content[i].mark.text[0]] = true;
    if (reasoning)
        f->begins_mark[(uint8_t)reasoning->close[0]] = true;
    if (status != SERVERD_OK) {
        stream_format_destroy(f);
        return status;
    }
    *out = f;
    return SERVERD_OK;
}

void stream_format_destroy(struct stream_format *format)
{
    free(format);
}

/* ---- parsers ---- */

struct stream_parser *stream_parser_create(const struct stream_format *format,
                                           const struct stream_parser_options *options)
{
    struct stream_parser *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->format = format;
    p->options = *options;
    p->state = options->is_reasoning_open && format->close.mark.n > 0 ? IN_REASONING : IN_CONTENT;
    p->skips_space = p->state == IN_REASONING;
    p->is_at_start = true;
    buffer_init(&p->out, SIZE_MAX);
    buffer_init(&p->space, HELD_SPACE);
    buffer_init(&p->raw, 2 * LIMIT_TOOL_ARGUMENTS);
    return p;
}

static void drop_readers(struct stream_parser *p)
{
    for (uint32_t i = 0; i < TOOL_FAMILY_PATTERNS; i++) {
        call_reader_destroy(p->readers[i]);
        p->readers[i] = NULL;
    }
}

void stream_parser_destroy(struct stream_parser *p)
{
    if (!p)
        return;
    drop_readers(p);
    buffer_deinit(&p->out);
    buffer_deinit(&p->space);
    buffer_deinit(&p->raw);
    free(p);
}

/* ---- text ---- */

static void decide(struct stream_parser *p, enum stream_part part, size_t n)
{
    if (p->options.sink.decided && n > 0)
        p->options.sink.decided(p->options.sink.user, part, n);
}

static enum stream_part part_of(const struct stream_parser *p)
{
    return p->state == IN_REASONING ? STREAM_REASONING : STREAM_CONTENT;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static void flush(struct stream_parser *p)
{
    const struct stream_sink *sink = &p->options.sink;
    if (p->out.len > 0)
        (p->state == IN_REASONING ? sink->reasoning : sink->content)(sink->user, p->out.data,
                                                                     p->out.len);
    buffer_reset(&p->out);
}

static void release_space(struct stream_parser *p)
{
    buffer_append(&p->out, buffer_str(&p->space), p->space.len);
    decide(p, part_of(p), p->space.len);
    buffer_reset(&p->space);
}

static void drop_space(struct stream_parser *p)
{
    decide(p, STREAM_OTHER, p->space.len);
    buffer_reset(&p->space);
}

static void put_text(struct stream_parser *p, char c)
{
    if (is_space(c)) {
        if (p->skips_space) {
            decide(p, STREAM_OTHER, 1);
            return;
        }
        if (p->state == IN_REASONING || p->format->holds_space) {
            if (p->space.len == HELD_SPACE)
                release_space(p);
            buffer_append_char(&p->space, c);
            return;
        }
    } else {
        release_space(p);
        p->skips_space = false;
        p->is_at_start = p->is_at_start && p->state == IN_REASONING;
        p->is_after_call = false;
    }
    buffer_append_char(&p->out, c);
    decide(p, part_of(p), 1);
}

static void enter(struct stream_parser *p, enum parser_state state)
{
    flush(p);
    drop_space(p);
    p->state = state;
    p->skips_space = true;
}

/* ---- the window ---- */

static void window_append(struct stream_parser *p, char c, bool is_control)
{
    p->window[p->n_window++] = (struct window_byte){c, is_control};
}

static void window_consume(struct stream_parser *p, uint32_t n)
{
    p->n_window -= n;
    memmove(p->window, p->window + n, p->n_window * sizeof *p->window);
}

/* Puts a byte in front again: it has just been taken from there, so there is room. */
static void window_give_back(struct stream_parser *p, char c, bool is_control)
{
    memmove(p->window + 1, p->window, p->n_window++ * sizeof *p->window);
    p->window[0] = (struct window_byte){c, is_control};
}

static bool is_allowed(const struct stream_parser *p, const struct stream_mark *mark)
{
    return mark->when == WHEN_ALWAYS || (mark->when == WHEN_AT_START && p->is_at_start) ||
           (mark->when == WHEN_AFTER_CALL && p->is_after_call);
}

/* Bytes of the mark at the window's beginning: all of it, or all of the window, or 0. */
static uint32_t fit(const struct stream_parser *p, const struct mark *mark)
{
    uint32_t n = mark->n < p->n_window ? mark->n : p->n_window;
    for (uint32_t i = 0; i < n; i++)
        if (mark->text[i] != p->window[i].byte ||
            (mark->control >> i & 1 && !p->window[i].is_control))
            return 0;
    return n;
}

/* The longest mark that stands there whole; *may_grow: a longer one may still come. */
static const struct stream_mark *find_mark(const struct stream_parser *p, bool *may_grow)
{
    const struct stream_format *f = p->format;
    bool is_reasoning = p->state == IN_REASONING;
    const struct stream_mark *marks = is_reasoning ? &f->close : f->content, *best = NULL;
    uint32_t n = is_reasoning ? 1 : f->n_content;
    *may_grow = false;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t n_fit = is_allowed(p, &marks[i]) ? fit(p, &marks[i].mark) : 0;
        if (n_fit == marks[i].mark.n && (!best || n_fit > best->mark.n))
            best = &marks[i];
        else if (n_fit > 0 && n_fit < marks[i].mark.n)
            *may_grow = true;
    }
    return best;
}

/* ---- calls ---- */

static void give_arguments(struct stream_parser *p, const struct tool_call *call, size_t n)
{
    const struct stream_sink *sink = &p->options.sink;
    if (n > p->n_shown_bytes)
        sink->arguments(sink->user, call->arguments.data + p->n_shown_bytes, n - p->n_shown_bytes);
    p->n_shown_bytes = n;
}

/* The first n_whole calls of the list, and `n_settled` bytes of the next. */
static void give_calls(struct stream_parser *p, const struct tool_call_list *list, uint32_t n_whole,
                       size_t n_settled)
{
    const struct stream_sink *sink = &p->options.sink;
    uint32_t most = p->options.max_calls ? p->options.max_calls : LIMIT_TOOL_CALLS;
    for (uint32_t i = p->n_shown > 0 ? p->n_shown - 1 : 0; i < list->n; i++) {
        const struct tool_call *call = &list->calls[i];
        bool is_whole = i < n_whole;
        if ((!is_whole && n_settled == 0) || p->n_calls + i >= most)
            break;
        if (i >= p->n_shown) {
            sink->call(sink->user, buffer_str(&call->name), buffer_str(&call->id));
            p->n_shown = i + 1;
            p->n_shown_bytes = 0;
        }
        give_arguments(p, call, is_whole ? call->arguments.len : n_settled);
    }
}

static void end_call(struct stream_parser *p)
{
    p->n_calls += p->n_shown;
    drop_readers(p);
    drop_space(p);
    decide(p, STREAM_OTHER, p->raw.len);
    buffer_reset(&p->raw);
    p->skips_space = true;
    p->is_at_start = p->is_after_call = true;
    p->state = IN_CONTENT;
}

/* What has been read is content after all. */
static void release_raw(struct stream_parser *p)
{
    p->state = IN_CONTENT;
    drop_readers(p);
    for (size_t i = 0; i < p->raw.len; i++)
        put_text(p, p->raw.data[i]);
    p->is_at_start = p->is_after_call = false;
    buffer_reset(&p->raw);
}

static void open_call(struct stream_parser *p, const struct mark *first)
{
    const struct stream_format *f = p->format;
    const struct call_pattern *parameter = f->family->parameter ? &f->parameter : NULL;
    flush(p);
    p->state = IN_CALL;
    p->n_shown = 0;
    p->n_shown_bytes = 0;
    for (uint32_t i = 0; i < f->n_patterns; i++) {
        const struct call_element *element = &f->patterns[i].elements[0];
        bool is_literal = element->slot == SLOT_LITERAL;
        if (first ? is_literal && element->literal.n == first->n &&
                        memcmp(element->literal.text, first->text, first->n) == 0
                  : !is_literal)
            p->readers[i] =
                call_reader_create(&f->patterns[i], parameter, is_literal, &p->options.types);
    }
}

static uint32_t n_readers(const struct stream_parser *p, struct call_reader **one)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < TOOL_FAMILY_PATTERNS; i++) {
        if (p->readers[i]) {
            *one = p->readers[i];
            n++;
        }
    }
    return n;
}

/* One byte inside a call. */
static void push_call(struct stream_parser *p, char c, bool is_control)
{
    struct call_reader *one = NULL;
    if (!is_control)
        buffer_append_char(&p->raw, c);
    for (uint32_t i = 0; i < TOOL_FAMILY_PATTERNS; i++) {
        struct call_reader *reader = p->readers[i];
        enum call_read read = reader ? call_reader_push(reader, c, is_control) : CALL_FAILED;
        if (read == CALL_DONE || read == CALL_DONE_BEFORE) {
            const struct tool_call_list *list = call_reader_calls(reader);
            give_calls(p, list, list->n, 0);
            if (read == CALL_DONE_BEFORE && !is_control)
                p->raw.len--;
            end_call(p);
            if (read == CALL_DONE_BEFORE)
                window_give_back(p, c, is_control);
            return;
        }
        if (read == CALL_FAILED) {
            call_reader_destroy(reader);
            p->readers[i] = NULL;
        }
    }
    uint32_t n = n_readers(p, &one);
    if (n == 0 && p->n_shown > 0) { /* begun in the sink: what was promised is broken */
        end_call(p);
    } else if (n == 0) {
        bool gives_back = p->raw.len > 1 && !is_control;
        if (gives_back)
            p->raw.data[--p->raw.len] = '\0';
        release_raw(p);
        if (gives_back)
            window_give_back(p, c, is_control);
    } else if (n == 1 && p->options.trusts_calls && call_reader_settled(one) > 0) {
        const struct tool_call_list *list = call_reader_calls(one);
        give_calls(p, list, list->n - 1, call_reader_settled(one));
    }
}

/* ---- all of it ---- */

static void act(struct stream_parser *p, const struct stream_mark *stream_mark)
{
    const struct mark *mark = &stream_mark->mark;
    size_t n_text = mark->n - (size_t)__builtin_popcountll(mark->control);
    switch (stream_mark->action) {
    case MARK_REASONING_OPEN:
        enter(p, IN_REASONING);
        break;
    case MARK_REASONING_CLOSE:
        enter(p, IN_CONTENT);
        break;
    case MARK_DROP:
        if (n_text > 0)
            release_space(p); /* what lies before a mark is decided before it */
        break;
    case MARK_CALL:
        open_call(p, mark);
        for (uint32_t i = 0; i < mark->n; i++)
            if (!(mark->control >> i & 1))
                buffer_append_char(&p->raw, mark->text[i]);
        return; /* it is decided with the call */
    }
    decide(p, STREAM_OTHER, n_text);
}

/* Decides about the window's beginning. False: it takes more bytes. */
static bool resolve(struct stream_parser *p, bool is_end)
{
    bool may_grow;
    const struct stream_mark *mark = find_mark(p, &may_grow);
    if (may_grow && !is_end)
        return false;
    if (mark) {
        window_consume(p, mark->mark.n);
        act(p, mark);
        return true;
    }
    const char c = p->window[0].byte;
    const bool is_control = p->window[0].is_control;
    const struct tool_family *family = p->format->family;
    if (p->state == IN_CONTENT && family && family->is_at_start && p->is_at_start && !is_space(c) &&
        !is_control) {
        open_call(p, NULL); /* it reads this byte, too */
        return true;
    }
    window_consume(p, 1);
    if (!is_control) {
        put_text(p, c);
    } else if (p->options.shows_control) {
        release_space(p);
        p->skips_space = false;
        buffer_append_char(&p->out, c);
    }
    return true;
}

static void run(struct stream_parser *p, bool is_end)
{
    while (p->n_window > 0) {
        if (p->state == IN_CALL) {
            const struct window_byte first = p->window[0];
            window_consume(p, 1);
            push_call(p, first.byte, first.is_control);
        } else if (!resolve(p, is_end)) {
            return;
        }
    }
}

void stream_parser_push(struct stream_parser *p, const char *bytes, size_t n, bool is_control)
{
    const struct tool_family *family = p->format->family;
    for (size_t i = 0; i < n; i++) {
        bool may_call = p->is_at_start && family && family->is_at_start;
        if (p->n_window == 0 && p->state != IN_CALL && !is_control && !may_call &&
            !p->format->begins_mark[(uint8_t)bytes[i]]) {
            put_text(p, bytes[i]);
            continue;
        }
        window_append(p, bytes[i], is_control);
        run(p, false);
    }
    if (p->state != IN_CALL)
        flush(p);
}

void stream_parser_finish(struct stream_parser *p, bool is_cut)
{
    run(p, true);
    for (uint32_t i = 0; i < TOOL_FAMILY_PATTERNS && p->state == IN_CALL; i++) {
        struct call_reader *reader = p->readers[i];
        if (!reader)
            continue;
        enum call_read read = call_reader_finish(reader, is_cut);
        struct tool_call_list *list = call_reader_calls(reader);
        if (read != CALL_DONE && list->n == 0)
            continue;
        p->has_cut_call = read != CALL_DONE;
        give_calls(p, list, list->n, 0);
        end_call(p);
    }
    if (p->state == IN_CALL && p->n_shown > 0) {
        p->has_cut_call = true;
        end_call(p);
    }
    if (p->state == IN_CALL)
        release_raw(p);
    if (p->state == IN_CONTENT && p->n_calls == 0)
        release_space(p);
    else
        drop_space(p);
    flush(p);
}

bool stream_parser_has_cut_call(const struct stream_parser *p)
{
    return p->has_cut_call;
}
