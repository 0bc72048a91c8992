/* Documents by how well they answer a query: the dialects of Cohere and Jina, and that of
 * text-embeddings-inference, whose documents are called texts and whose reply is a bare list. */
#include "server/dialects/pair_scores.h"
#include "server/endpoints.h"

#include <stdlib.h>
#include <string.h>

struct rerank {
    struct api_fields fields;
    struct pair_scores scores;
    struct text_list query, documents;
    bool is_bare; /* with `texts` */
    bool returns_text, is_raw;
};

struct ranked {
    float score;
    uint32_t index;
};

static void destroy(void *state)
{
    struct rerank *s = state;
    pair_scores_deinit(&s->scores);
    text_list_deinit(&s->query);
    text_list_deinit(&s->documents);
    api_fields_release(&s->fields);
    free(s);
}

/* ---- the reply ------------------------------------------------------------------------------- */

static void on_event(void *state, struct event *event, struct buffer *out)
{
    struct rerank *s = state;
    (void)out;
    pair_scores_event(&s->scores, event);
}

static int compare(const void *a, const void *b)
{
    const struct ranked *p = a, *q = b;
    if (p->score != q->score)
        return p->score > q->score ? -1 : 1;
    return (p->index > q->index) - (p->index < q->index);
}

static void write_text(const struct rerank *s, uint32_t index, struct buffer *out)
{
    const struct api_text *text = &s->documents.text[index];
    buffer_append_str(out, s->is_bare ? ",\"text\":\"" : ",\"document\":{\"text\":\"");
    buffer_append_json(out, text->bytes, text->n);
    buffer_append_str(out, s->is_bare ? "\"" : "\"}");
}

static void write_list(const struct rerank *s, struct buffer *out)
{
    uint32_t n = s->scores.n_pairs;
    struct ranked *ranked = calloc(n, sizeof *ranked);
    if (!ranked) {
        out->is_failed = true;
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        ranked[i] = (struct ranked){pair_scores_of(&s->scores, i, s->is_raw), i};
    qsort(ranked, n, sizeof *ranked, compare);
    if (!s->is_bare && s->fields.top_n != API_UNSET && s->fields.top_n < n)
        n = (uint32_t)s->fields.top_n;
    buffer_append_char(out, '[');
    for (uint32_t i = 0; i < n; i++) {
        buffer_printf(out, "%s{\"index\":%u,\"%s\":", i ? "," : "", ranked[i].index,
                      s->is_bare ? "score" : "relevance_score");
        buffer_append_f32(out, ranked[i].score);
        if (s->returns_text)
            write_text(s, ranked[i].index, out);
        buffer_append_char(out, '}');
    }
    buffer_append_char(out, ']');
    free(ranked);
}

static void on_end(void *state, struct buffer *out)
{
    const struct rerank *s = state;
    char id[64];
    if (s->is_bare) {
        write_list(s, out);
        return;
    }
    api_make_id("rerank-", id);
    buffer_printf(out, "{\"id\":\"%s\",\"model\":\"", id);
    buffer_append_json(out, s->scores.model->name, strlen(s->scores.model->name));
    buffer_append_str(out, "\",\"results\":");
    write_list(s, out);
    buffer_printf(out,
                  ",\"usage\":{\"prompt_tokens\":%llu,\"total_tokens\":%llu},"
                  "\"meta\":{\"billed_units\":{\"search_units\":1}}}",
                  (unsigned long long)s->scores.n_tokens, (unsigned long long)s->scores.n_tokens);
}

static const struct reply_encoder encoder = {
    .on_event = on_event, .on_end = on_end, .destroy = destroy};

/* ---- the request ----------------------------------------------------------------------------- */

static bool read_texts(struct rerank *s, struct api_error *e)
{
    const struct api_fields *f = &s->fields;
    s->is_bare = f->texts && !f->documents;
    s->is_raw = s->is_bare && f->raw_scores;
    if (json_is_array(f->query)) {
        api_error_set(e, "invalid_type", "query", "query has to be a string.");
        return false;
    }
    if (!text_list_read(f->query, "query", false, &s->query, e))
        return false;
    const char *param = s->is_bare ? "texts" : "documents";
    const json_t *documents = s->is_bare ? f->texts : f->documents;
    if (documents && !json_is_array(documents)) {
        api_error_set(e, "invalid_type", param, "%s has to be a list.", param);
        return false;
    }
    return text_list_read(documents, param, !s->is_bare, &s->documents, e);
}

/* With the default of return_documents. */
static void rerank(struct exchange *x, bool returns_text)
{
    struct api_error e;
    struct request **requests = NULL;
    uint32_t n = 0;
    struct rerank *s = calloc(1, sizeof *s);
    if (!s) {
        (void)api_error_no_memory(&e);
        exchange_fail(x, &e);
        return;
    }
    if (!api_fields_read(x, API_RERANK, &s->fields, &e)) {
        free(s);
        exchange_fail(x, &e);
        return;
    }
    if (read_texts(s, &e))
        requests = pair_scores_begin(x, &s->fields, &s->query, &s->documents, &s->scores, &n, &e);
    if (!requests) {
        destroy(s);
        exchange_fail(x, &e);
        return;
    }
    if (json_body_get(s->fields.root, "return_documents"))
        returns_text = s->fields.return_documents;
    s->returns_text = s->is_bare ? s->fields.return_text : returns_text;
    exchange_generate(x, requests, n, &encoder, s, false);
}

void endpoint_rerank(struct exchange *x)
{
    rerank(x, true);
}

void endpoint_rerank_v2(struct exchange *x)
{
    rerank(x, false);
}
