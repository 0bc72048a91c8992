#include "server/request/chat_call.h"

#include "base/limits.h"
#include "server/request/chat_prompt.h"
#include "server/request/tool_tags.h"

#include <stdlib.h>
#include <string.h>

/* What is looked for: calls if there are tools, reasoning if the model writes any and the request
 * wants it apart. */
static const struct stream_format *choose_format(const struct served_model *model,
                                                 const struct api_fields *f, bool has_tools)
{
    const char *form = f->reasoning_format;
    bool is_apart =
        model->output.reasoning && f->separate_reasoning && !(form && strcmp(form, "none") == 0);
    return model->output.by_need[has_tools][is_apart];
}

/* What the engine has to know of reasoning. */
static bool set_reasoning(struct exchange *x, struct chat_call *call, const struct buffer *prompt,
                          struct api_error *e)
{
    const struct output_formats *output = &exchange_model(x)->output;
    const int64_t budget = call->fields.reasoning_budget;
    if (!output->reasoning) {
        if (budget >= 0)
            exchange_ignored_field(x, "reasoning_budget");
        return true;
    }
    if (budget >= 0 && output->marks.n_close_tokens == 0) {
        api_error_set(e, "unsupported_value", "reasoning_budget",
                      "reasoning_budget: this model has no tokens that end its reasoning.");
        return false;
    }
    struct request *r = call->request;
    const char *text = buffer_str(prompt);
    r->reasoning = &output->marks;
    r->is_reasoning_open = reasoning_is_open(output->reasoning, text, prompt->len);
    r->may_reason = call->fields.add_generation_prompt && !call->fields.continue_final_message &&
                    !reasoning_is_over(output->reasoning, text, prompt->len);
    r->reasoning_budget = budget >= 0 ? (uint32_t)budget : UINT32_MAX;
    call->is_reasoning_open = r->is_reasoning_open;
    return true;
}

static bool make_request(struct exchange *x, struct chat_call *call, int32_t n_logprobs,
                         struct api_error *e)
{
    struct buffer prompt;
    bool is_good = false;
    struct token_list ids;
    buffer_init(&prompt, LIMIT_TEMPLATE_OUTPUT);
    token_list_init(&ids, LIMIT_CONTEXT);
    if (chat_prompt_render(x, &call->fields, call->tools.list, &prompt, e) &&
        api_tokenize(x, buffer_str(&prompt), prompt.len,
                     TOKENIZER_PARSE_SPECIAL | TOKENIZER_ADD_SPECIAL, "messages", &ids, e)) {
        api_truncate_prompt(x, &call->fields, -1, &ids);
        if (ids.n == 0)
            api_error_set(e, "invalid_value", "messages", "The prompt has no tokens.");
        else
            call->request =
                api_make_request(x, &call->fields, ids.id, ids.n, -1, n_logprobs, "messages", e);
        is_good = call->request && set_reasoning(x, call, &prompt, e);
    }
    token_list_deinit(&ids);
    buffer_deinit(&prompt);
    return is_good;
}

/* Calls are held to their notation, and content to the form that is wanted. */
static bool add_tool_form(struct exchange *x, struct chat_call *call, struct api_error *e)
{
    const struct served_model *model = exchange_model(x);
    const struct tool_tags_setup setup = {.use = &call->tools,
                                          .formats = &model->output,
                                          .tokenizer = model->tokenizer,
                                          .form = &call->form};
    struct tool_tags made;
    if (exchange_context(x)->options->tool_strict)
        call->tools.is_strict = true;
    if (!tool_tags_make(&setup, &made, e))
        return false;
    if (!made.tags) {
        if (!call->tools.list || (call->tools.mode == TOOLS_AUTO && !call->form.is_set))
            return true;
        api_error_set(e, "unsupported_value", "tool_choice",
                      "tool_choice can be auto or none for this model, and its content any text: "
                      "its calls (%s) have no grammar here.",
                      model->output.family->name);
        return false;
    }
    bool is_good = output_form_set_tags(&call->form, made.tags, "tools", e);
    /* each tool is a schema of its own */
    call->form.max_ns =
        LIMIT_GRAMMAR_TIME_NS + json_array_size(call->tools.list) * LIMIT_GRAMMAR_TOOL_NS;
    call->trusts_calls = call->tools.list && is_good;
    call->are_exact = made.are_exact && is_good;
    json_decref(made.tags);
    return is_good;
}

bool chat_call_make(struct exchange *x, struct api_fields *fields, int32_t n_logprobs,
                    struct chat_call *out, struct api_error *e)
{
    *out = (struct chat_call){.fields = *fields};
    fields->root = NULL;
    if (!api_check_generates(x, e) || !tool_use_read(&out->fields, &out->tools, e) ||
        !output_form_read(&out->fields, &out->form, e) || !add_tool_form(x, out, e) ||
        !make_request(x, out, n_logprobs, e)) {
        chat_call_release(out);
        return false;
    }
    out->format = choose_format(exchange_model(x), &out->fields, out->tools.list != NULL);
    if (out->format)
        out->request->skips_special = true; /* the parser shows those that are no marks */
    return true;
}

bool chat_call_make_single(struct exchange *x, struct api_fields *fields, int32_t n_logprobs,
                           struct chat_call *out, struct api_error *e)
{
    if (fields->n == 1)
        return chat_call_make(x, fields, n_logprobs, out, e);
    api_error_set(e, "unsupported_value", "n",
                  "n: a reply of this endpoint holds one answer; /v1/chat/completions makes more.");
    api_fields_release(fields);
    return false;
}

void chat_call_release(struct chat_call *call)
{
    if (call->request)
        request_destroy(call->request);
    call->request = NULL;
    tool_use_release(&call->tools);
    output_form_release(&call->form);
    api_fields_release(&call->fields);
}

void chat_call_generate(struct exchange *x, struct chat_call *call,
                        const struct reply_encoder *encoder, void *state)
{
    struct request **requests = calloc(1, sizeof *requests);
    bool is_stream = call->fields.stream;
    if (requests) {
        requests[0] = call->request;
        call->request = NULL;
        output_form_generate(x, requests, 1, &call->form, encoder, state, is_stream);
        return;
    }
    struct api_error e;
    (void)api_error_no_memory(&e);
    output_form_release(&call->form);
    encoder->destroy(state);
    exchange_fail(x, &e);
}

struct output_setup chat_call_output(const struct exchange *x, const struct chat_call *call)
{
    const struct served_model *model = exchange_model(x);
    return (struct output_setup){
        .tokenizer = model->tokenizer,
        .format = call->format,
        .skips_special = call->fields.skip_special_tokens,
        .is_reasoning_open = call->is_reasoning_open,
        .holds_reasoning = !call->fields.stream_reasoning,
        .trusts_calls = call->trusts_calls,
        .max_calls = call->tools.max_calls,
        .id_form = model->output.family ? model->output.family->id_form : TOOL_ID_CALL,
        .metrics = exchange_context(x)->metrics,
        .family = model->output.family ? model->output.family->name : "",
        .types = {.is_string = tool_parameter_is_string,
                  .is_known = tool_is_known,
                  .user = call->tools.list,
                  .are_exact = call->are_exact},
    };
}
