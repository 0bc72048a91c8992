#include "text/pipeline_internal.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "base/utf8.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#define MATCH_LIMIT 10000000u
#define HEAP_KIB    20480u

struct step {
    struct vocabulary_step is;
    pcre2_code *code; /* of expressions */
};

struct pipeline {
    uint32_t n, n_normalisers; /* normalisers come first */
    struct step steps[];
};

/* ---- life ------------------------------------------------------------------------------------ */

static bool has_expression(const struct vocabulary_step *step)
{
    return step->kind == STEP_SPLIT ||
           (step->kind == STEP_REPLACE && step->flags & STEP_IS_EXPRESSION);
}

static serverd_status compile(struct step *step, uint32_t index, serverd_error *err)
{
    int code;
    PCRE2_SIZE at;
    if (!has_expression(&step->is))
        return SERVERD_OK;
    step->code = pcre2_compile((PCRE2_SPTR)step->is.text, step->is.len, PCRE2_UTF | PCRE2_UCP,
                               &code, &at, NULL);
    if (step->code)
        return SERVERD_OK;
    char reason[120] = "";
    (void)pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason);
    return fail(err, code == PCRE2_ERROR_NOMEMORY ? SERVERD_NOMEM : SERVERD_UNSUPPORTED,
                "tokenizer: expression of step %u, byte %zu: %s", index, (size_t)at, reason);
}

serverd_status pipeline_create(const struct tokenizer_image *image, struct pipeline **out,
                               serverd_error *err)
{
    struct vocabulary_step steps[VOCABULARY_MAX_STEPS];
    const uint32_t n = tokenizer_image_steps(image, steps);
    struct pipeline *pipeline = calloc(1, sizeof *pipeline + n * sizeof pipeline->steps[0]);
    if (!pipeline)
        return fail(err, SERVERD_NOMEM, "tokenizer: no memory for %u steps", n);
    serverd_status status = SERVERD_OK;
    for (; pipeline->n < n && status == SERVERD_OK; pipeline->n++) {
        struct step *step = &pipeline->steps[pipeline->n];
        step->is = steps[pipeline->n];
        status = compile(step, pipeline->n, err);
    }
    while (pipeline->n_normalisers < pipeline->n &&
           pipeline->steps[pipeline->n_normalisers].is.kind <= STEP_BERT)
        pipeline->n_normalisers++;
    if (status != SERVERD_OK)
        pipeline_destroy(pipeline);
    else
        *out = pipeline;
    return status;
}

void pipeline_destroy(struct pipeline *pipeline)
{
    for (uint32_t i = 0; pipeline && i < pipeline->n; i++)
        pcre2_code_free(pipeline->steps[i].code);
    free(pipeline);
}

void pipeline_mark_flags(const struct pipeline *pipeline, uint32_t n_tokens, uint8_t *flags)
{
    for (uint32_t i = 0; i < pipeline->n; i++) {
        const struct vocabulary_step *step = &pipeline->steps[i].is;
        for (uint32_t k = 0; step->kind == STEP_AROUND_SPECIAL && k + 4 <= step->len; k += 4) {
            uint32_t id;
            memcpy(&id, step->text + k, sizeof id);
            if (id < n_tokens)
                flags[id] |= (uint8_t)step->flags;
        }
    }
}

/* ---- matches --------------------------------------------------------------------------------- */

/* One text at a time that is cut at the matches of an expression. */
struct matcher {
    pcre2_match_data *data;
    pcre2_match_context *limits;
};

static serverd_status matcher_init(struct matcher *m, serverd_error *err)
{
    m->data = pcre2_match_data_create(1, NULL);
    m->limits = pcre2_match_context_create(NULL);
    if (!m->data || !m->limits)
        return fail(err, SERVERD_NOMEM, "no memory to split text");
    (void)pcre2_set_match_limit(m->limits, MATCH_LIMIT);
    (void)pcre2_set_heap_limit(m->limits, HEAP_KIB);
    return SERVERD_OK;
}

static void matcher_deinit(struct matcher *m)
{
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->limits);
}

/* The next match from `at` on, not empty; *begin = n if there is none. */
static serverd_status next_match(const struct matcher *m, const pcre2_code *code, const char *text,
                                 size_t n, size_t at, size_t *begin, size_t *end,
                                 serverd_error *err)
{
    int found = pcre2_match(code, (PCRE2_SPTR)text, n, at, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY,
                            m->data, m->limits);
    if (found == PCRE2_ERROR_NOMATCH) {
        *begin = *end = n;
        return SERVERD_OK;
    }
    if (found < 0)
        return fail(err, SERVERD_INVALID, "the text cannot be split into words (code %d)", found);
    const PCRE2_SIZE *match = pcre2_get_ovector_pointer(m->data);
    *begin = match[0];
    *end = match[1];
    if (*begin < at || *end <= *begin) /* \K can do that */
        return fail(err, SERVERD_INVALID, "the text cannot be split into words");
    return SERVERD_OK;
}

/* ---- splitting ------------------------------------------------------------------------------- */

static bool add_fragment(struct piece_text *out, const char *text, size_t n)
{
    struct fragment_list *list = &out->fragments;
    if (n == 0)
        return true;
    if (list->n == list->cap) {
        size_t cap = max_size(64, list->cap * 2), bytes;
        uint32_t *bigger =
            size_mul(cap, sizeof *list->len, &bytes) ? realloc(list->len, bytes) : NULL;
        if (!bigger)
            return false;
        list->len = bigger;
        list->cap = cap;
    }
    list->len[list->n++] = (uint32_t)n;
    buffer_append(&out->text, text, n);
    return true;
}

/* Segments as they come, put together as the behaviour says. */
struct cutter {
    const char *text;
    uint32_t behaviour;
    struct piece_text *out;
    size_t begin, end; /* what is held back; empty: nothing */
    bool was_match, is_full;
};

static void cutter_flush(struct cutter *c)
{
    c->is_full |= !add_fragment(c->out, c->text + c->begin, c->end - c->begin);
    c->begin = c->end;
}

static void cutter_add(struct cutter *c, size_t end, bool is_match)
{
    bool joins = false;
    if (end == c->end)
        return;
    switch (c->behaviour) {
    case STEP_REMOVED:
        cutter_flush(c);
        c->end = end;
        if (is_match)
            c->begin = end;
        return;
    case STEP_MERGED_WITH_PREVIOUS:
        joins = is_match && !c->was_match;
        break;
    case STEP_MERGED_WITH_NEXT:
        joins = !is_match && c->was_match;
        break;
    case STEP_CONTIGUOUS:
        joins = is_match == c->was_match;
        break;
    default:
        break;
    }
    if (!joins)
        cutter_flush(c);
    c->end = end;
    c->was_match = is_match;
}

static serverd_status split(const struct matcher *m, const struct step *step, const char *text,
                            size_t n, struct piece_text *out, serverd_error *err)
{
    const bool inverts = step->is.flags & STEP_INVERTS;
    struct cutter c = {.text = text, .behaviour = step->is.flags & STEP_BEHAVIOUR, .out = out};
    c.was_match = c.behaviour == STEP_MERGED_WITH_PREVIOUS;
    for (size_t at = 0; at < n;) {
        size_t begin = n, end = n;
        serverd_status status = next_match(m, step->code, text, n, at, &begin, &end, err);
        if (status != SERVERD_OK)
            return status;
        cutter_add(&c, begin, inverts);
        cutter_add(&c, end, !inverts);
        at = end;
    }
    cutter_flush(&c);
    return c.is_full ? fail(err, SERVERD_NOMEM, "no memory to split text") : SERVERD_OK;
}

/* ---- replacing ------------------------------------------------------------------------------- */

static void replace_text(const struct vocabulary_step *step, const char *text, size_t n,
                         struct buffer *out)
{
    size_t at = 0;
    while (step->len > 0 && at < n) {
        const char *found = memmem(text + at, n - at, step->text, step->len);
        if (!found)
            break;
        buffer_append(out, text + at, (size_t)(found - text) - at);
        buffer_append(out, step->other, step->other_len);
        at = (size_t)(found - text) + step->len;
    }
    buffer_append(out, text + at, n - at);
}

static serverd_status replace_matches(const struct matcher *m, const struct step *step,
                                      const char *text, size_t n, struct buffer *out,
                                      serverd_error *err)
{
    for (size_t at = 0; at < n;) {
        size_t begin = n, end = n;
        serverd_status status = next_match(m, step->code, text, n, at, &begin, &end, err);
        if (status != SERVERD_OK)
            return status;
        buffer_append(out, text + at, begin - at);
        if (end > begin)
            buffer_append(out, step->is.other, step->is.other_len);
        at = end;
    }
    return SERVERD_OK;
}

static bool begins_with(const char *text, size_t n, const struct vocabulary_step *step)
{
    return n >= step->len && memcmp(text, step->text, step->len) == 0;
}

/* Blanks become marks, and one stands in front. */
static void mark_spaces(const struct vocabulary_step *step, const char *text, size_t n,
                        bool is_first, struct buffer *out)
{
    const bool has_mark = (n > 0 && text[0] == ' ') || begins_with(text, n, step);
    if (!has_mark && (step->flags == STEP_ALWAYS || (step->flags == STEP_FIRST && is_first)))
        buffer_append(out, step->text, step->len);
    const struct vocabulary_step marks = {
        .text = " ", .len = 1, .other = step->text, .other_len = step->len};
    replace_text(&marks, text, n, out);
}

static void prefix_space(const char *text, size_t n, struct buffer *out)
{
    uint32_t code = 0;
    if (n > 0)
        (void)utf8_decode(text, n, &code);
    if (!step_is_space(code))
        buffer_append_char(out, ' ');
    buffer_append(out, text, n);
}

/* ---- running --------------------------------------------------------------------------------- */

/* One fragment through a step that gives one fragment. */
static serverd_status rewrite(const struct matcher *m, const struct step *step, const char *text,
                              size_t n, bool is_first, struct buffer *out, serverd_error *err)
{
    switch (step->is.kind) {
    case STEP_LOWERCASE:
        step_lowercase(text, n, out);
        break;
    case STEP_STRIP_ACCENTS:
        step_strip_accents(text, n, out);
        break;
    case STEP_STRIP:
        step_strip(step->is.flags, text, n, out);
        break;
    case STEP_REPLACE:
        if (step->code)
            return replace_matches(m, step, text, n, out, err);
        replace_text(&step->is, text, n, out);
        break;
    case STEP_PREPEND:
        buffer_append(out, step->is.text, step->is.len);
        buffer_append(out, text, n);
        break;
    case STEP_CHARSMAP:
        step_charsmap(step->is.text, step->is.len, text, n, out);
        break;
    case STEP_BERT:
        step_bert(step->is.flags, text, n, out);
        break;
    case STEP_METASPACE:
        mark_spaces(&step->is, text, n, is_first, out);
        break;
    case STEP_PREFIX_SPACE:
        prefix_space(text, n, out);
        break;
    case STEP_AROUND_SPECIAL:
        buffer_append(out, text, n);
        break;
    default:
        step_unicode(step->is.kind, text, n, out);
    }
    return SERVERD_OK;
}

static serverd_status run_step(const struct matcher *m, const struct step *step, bool is_first,
                               const struct piece_text *in, struct piece_text *out,
                               serverd_error *err)
{
    const char *text = buffer_str(&in->text);
    serverd_status status = SERVERD_OK;
    struct buffer made;
    buffer_reset(&out->text);
    out->fragments.n = 0;
    buffer_init(&made, SIZE_MAX / 2);
    for (size_t i = 0; i < in->fragments.n && status == SERVERD_OK; i++) {
        const size_t n = in->fragments.len[i];
        if (step->is.kind == STEP_SPLIT) {
            status = split(m, step, text, n, out, err);
        } else {
            buffer_reset(&made);
            status = rewrite(m, step, text, n, is_first && i == 0, &made, err);
            if (status == SERVERD_OK &&
                (made.is_failed || !add_fragment(out, buffer_str(&made), made.len)))
                status = fail(err, SERVERD_NOMEM, "no memory to normalise text");
        }
        text += n;
    }
    buffer_deinit(&made);
    if (status == SERVERD_OK && out->text.is_failed)
        status = fail(err, SERVERD_NOMEM, "no memory to normalise text");
    return status;
}

/* Steps first .. end - 1 over one text. */
static serverd_status run_steps(const struct pipeline *pipeline, uint32_t first, uint32_t end,
                                const char *text, size_t n, bool is_first, struct piece_text *out,
                                struct piece_text *spare, serverd_error *err)
{
    struct matcher m = {0};
    serverd_status status = matcher_init(&m, err);
    buffer_reset(&out->text);
    out->fragments.n = 0;
    if (status == SERVERD_OK && !add_fragment(out, text, n))
        status = fail(err, SERVERD_NOMEM, "no memory to split text");
    for (uint32_t i = first; i < end && status == SERVERD_OK; i++) {
        struct piece_text in = *out;
        *out = *spare;
        *spare = in;
        status = run_step(&m, &pipeline->steps[i], is_first, spare, out, err);
    }
    matcher_deinit(&m);
    return status;
}

serverd_status pipeline_run(const struct pipeline *pipeline, const char *text, size_t n,
                            bool is_first, struct piece_text *out, struct piece_text *spare,
                            serverd_error *err)
{
    return run_steps(pipeline, 0, pipeline->n, text, n, is_first, out, spare, err);
}

serverd_status pipeline_normalise(const struct pipeline *pipeline, const char *text, size_t n,
                                  struct piece_text *out, struct piece_text *spare,
                                  serverd_error *err)
{
    return run_steps(pipeline, 0, pipeline->n_normalisers, text, n, false, out, spare, err);
}

serverd_status pipeline_pretokenise(const struct pipeline *pipeline, const char *text, size_t n,
                                    bool is_first, struct piece_text *out, struct piece_text *spare,
                                    serverd_error *err)
{
    return run_steps(pipeline, pipeline->n_normalisers, pipeline->n, text, n, is_first, out, spare,
                     err);
}
