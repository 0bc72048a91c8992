#include "server/request/fill_prompt.h"

#include "text/fill_in.h"

#include <string.h>

bool fill_prompt_check(struct exchange *x, const char *param, struct api_error *e)
{
    if (fill_in_tokens_of(exchange_model(x)->tokenizer).prefix >= 0)
        return true;
    api_error_set(e, "unsupported_value", param,
                  "%s: this model has no tokens for filling in a gap.", param);
    return false;
}

/* A long prompt is found here, before it is the engine's: `param` is what made it too long. */
static bool add_id(struct token_list *out, int32_t id, const char *param, struct api_error *e)
{
    if (id < 0 || token_list_add(out, id))
        return true;
    if (out->n < out->limit)
        return api_error_no_memory(e);
    api_error_set(e, "invalid_value", param, "%s: the prompt has more than %u tokens.", param,
                  out->limit);
    return false;
}

static bool add_ids(struct token_list *out, const struct token_list *ids, const char *param,
                    struct api_error *e)
{
    for (uint32_t i = 0; i < ids->n; i++)
        if (!add_id(out, ids->id[i], param, e))
            return false;
    return true;
}

static bool add_text(struct exchange *x, struct api_text text, const char *param,
                     struct token_list *out, struct api_error *e)
{
    return text.n == 0 || api_tokenize(x, text.bytes, text.n, 0, param, out, e);
}

/* Files the way repositories are shown to models that know them; for others just their text. The
 * gap's own file is the last one, and its name is not known. */
static bool add_files(struct exchange *x, const struct fill_in_tokens *t,
                      const struct fill_prompt *parts, struct token_list *out, struct api_error *e)
{
    static const struct api_text project = {"myproject\n", 10}, own_name = {"filename\n", 9},
                                 newline = {"\n", 1};
    const bool knows_files = t->repository >= 0 && t->file >= 0;
    const char *param = parts->files_param;
    if (parts->n_files > 0 && knows_files &&
        !(add_id(out, t->repository, param, e) && add_text(x, project, param, out, e)))
        return false;
    for (uint32_t i = 0; i < parts->n_files; i++) {
        const struct fill_file *file = &parts->files[i];
        if (knows_files &&
            !(add_id(out, t->file, param, e) && add_text(x, file->name, param, out, e) &&
              add_text(x, newline, param, out, e)))
            return false;
        if (!add_text(x, file->text, param, out, e) || !add_text(x, newline, param, out, e))
            return false;
    }
    return parts->n_files == 0 || !knows_files ||
           (add_id(out, t->file, param, e) && add_text(x, own_name, param, out, e));
}

/* BOS, if an empty text begins with it. */
bool fill_prompt_begin(struct exchange *x, const char *param, struct token_list *out,
                       struct api_error *e)
{
    struct token_list ids;
    token_list_init(&ids, 2 * VOCABULARY_MAX_FRAME);
    bool is_good = api_tokenize(x, "", 0, TOKENIZER_ADD_SPECIAL, param, &ids, e);
    if (is_good && ids.n > 0 &&
        ids.id[0] == tokenizer_vocabulary(exchange_model(x)->tokenizer)->bos)
        is_good = add_id(out, ids.id[0], param, e);
    token_list_deinit(&ids);
    return is_good;
}

bool fill_prompt_make(struct exchange *x, const struct fill_prompt *parts, struct token_list *out,
                      struct api_error *e)
{
    const struct fill_in_tokens t = fill_in_tokens_of(exchange_model(x)->tokenizer);
    const char *before = parts->before_param, *behind = parts->behind_param;
    return (!parts->adds_special || fill_prompt_begin(x, before, out, e)) &&
           add_files(x, &t, parts, out, e) && add_id(out, t.prefix, before, e) &&
           (parts->before_ids ? add_ids(out, parts->before_ids, before, e)
                              : add_text(x, parts->before, before, out, e)) &&
           add_id(out, t.suffix, behind, e) && add_text(x, parts->behind, behind, out, e) &&
           add_id(out, t.middle, behind, e) &&
           (!parts->begun || add_ids(out, parts->begun, before, e));
}

bool fill_prompt_set_stops(struct exchange *x, struct request *request, struct api_error *e)
{
    const struct tokenizer *tokenizer = exchange_model(x)->tokenizer;
    const struct fill_in_tokens t = fill_in_tokens_of(tokenizer);
    const int32_t ends[] = {t.pad, t.repository, t.file};
    const size_t n_ends = sizeof ends / sizeof *ends;
    int32_t *stops = arena_array(request->arena, request->n_stop_tokens + n_ends, sizeof *stops);
    uint32_t n = request->n_stop_tokens;
    if (!stops)
        return api_error_no_memory(e);
    if (n > 0)
        memcpy(stops, request->stop_tokens, n * sizeof *stops);
    for (size_t i = 0; i < n_ends; i++)
        if (ends[i] >= 0 && !tokenizer_is_end(tokenizer, ends[i]) && n < LIMIT_STOP_TOKEN_IDS)
            stops[n++] = ends[i];
    request->stop_tokens = stops;
    request->n_stop_tokens = n;
    return true;
}
