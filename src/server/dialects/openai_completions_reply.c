/* A completion's choices: text, behind its prompt if it is echoed, and the log probabilities of
 * every token. */
#include "server/dialects/openai_reply_internal.h"

#include "base/numeric.h"
#include "text/detokenizer.h"

#include <stdlib.h>
#include <string.h>

static void add_logprobs(const struct openai_reply *reply, struct choice *choice,
                         const struct event *event)
{
    logprob_text_add(&choice->logprobs, &reply->style, event->token, event->logprobs,
                     choice->n_code_points);
}

/* `prompt` stands in front of the text, or is NULL. */
static void write_text(const struct prompt *prompt, const struct choice *choice, struct buffer *out)
{
    const struct buffer *text = &choice->parts.text;
    buffer_append_str(out, ",\"text\":\"");
    if (prompt)
        buffer_append_json(out, buffer_str(&prompt->text), prompt->text.len);
    buffer_append_json(out, buffer_str(text), text->len);
    buffer_append_char(out, '"');
}

static void write_logprobs(const struct openai_reply *reply, const struct prompt *prompt,
                           const struct choice *choice, struct buffer *out)
{
    const struct logprob_text *l = &choice->logprobs, *before = prompt ? &prompt->logprobs : NULL;
    bool is_empty = l->n == 0 && (!before || before->n == 0);
    buffer_append_str(out, ",\"logprobs\":");
    if (reply->n_logprobs < 0 || (reply->is_stream && is_empty))
        buffer_append_str(out, "null");
    else
        logprob_text_write_completion(l, before, out);
}

/* All that a choice has to send goes into one frame. */
static void write_chunks(struct openai_reply *reply, uint32_t index, struct buffer *out)
{
    struct choice *choice = &reply->choices[index];
    const struct prompt *prompt = choice->has_begun ? NULL : openai_echoed_prompt(reply, index);
    bool is_last = choice->is_finished;
    if ((choice->parts.text.len == 0 && !is_last) || choice->has_ended)
        return;
    openai_begin_chunk(reply, index, out);
    write_text(prompt, choice, out);
    write_logprobs(reply, prompt, choice, out);
    openai_write_finish(reply, choice, is_last, out);
    openai_write_token_ids(reply, choice, out);
    if (!choice->has_begun)
        openai_write_prompt_ids(reply, &reply->prompts[index / reply->n_choices], out);
    buffer_append_char(out, '}');
    openai_end_chunk(reply, out);
    choice->has_begun = true;
    choice->has_ended = is_last;
    output_parts_taken(&choice->parts);
    buffer_reset(&choice->token_ids);
    logprob_text_reset(&choice->logprobs);
}

static void write_choice(const struct openai_reply *reply, uint32_t index, struct buffer *out)
{
    const struct choice *choice = &reply->choices[index];
    const struct prompt *prompt = openai_echoed_prompt(reply, index);
    write_text(prompt, choice, out);
    write_logprobs(reply, prompt, choice, out);
    openai_write_finish(reply, choice, true, out);
    openai_write_token_ids(reply, choice, out);
    openai_write_prompt_logprobs(reply, &reply->prompts[index / reply->n_choices], out);
    openai_write_prompt_ids(reply, &reply->prompts[index / reply->n_choices], out);
}

const struct choice_shape openai_completion_choice = {.id_prefix = "cmpl-",
                                                      .object = "text_completion",
                                                      .chunk_object = "text_completion",
                                                      .add_logprobs = add_logprobs,
                                                      .write_chunks = write_chunks,
                                                      .write_choice = write_choice};

bool openai_reply_set_prompt(struct openai_reply *reply, uint32_t i, const int32_t *ids, uint32_t n)
{
    struct prompt *prompt = &reply->prompts[i];
    if (!reply->is_echo && !reply->fields.return_token_ids)
        return true;
    prompt->ids = calloc(max_size(n, 1), sizeof *ids);
    if (!prompt->ids)
        return false;
    memcpy(prompt->ids, ids, n * sizeof *ids);
    prompt->n = n;
    if (!reply->is_echo)
        return true;
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
        logprob_text_add(&prompt->logprobs, &reply->style, ids[0], NULL, 0);
        prompt->n_code_points = token_code_points(&reply->style, ids[0]);
    } else {
        prompt->n_code_points = count_code_points(buffer_str(&prompt->text), prompt->text.len);
    }
    return !prompt->text.is_failed;
}
