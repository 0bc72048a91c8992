/* llama-server's own dialect: /completion and /infill. */
#include "base/hash.h"
#include "base/numeric.h"
#include "server/dialects/llama_prompt.h"
#include "server/dialects/llama_reply.h"
#include "server/endpoints.h"
#include "server/request/fill_prompt.h"
#include "server/request/output_form.h"

#include <stdlib.h>
#include <string.h>

#define RANDOM_SEED 4294967295 /* what its clients send besides -1 */

struct call {
    struct api_fields fields;
    struct llama_prompts prompts;
    struct output_form form;
    struct request **requests;
    bool is_infill;
};

/* ---- fields ---- */

/* The one adapter of a list that is switched on becomes the model's name. */
static bool read_lora(struct exchange *x, struct api_fields *f, struct api_error *e)
{
    char names[LIMIT_ADAPTERS][LIMIT_ADAPTER_NAME];
    const uint32_t n = engine_list_adapters(exchange_model(x)->engine, names, LIMIT_ADAPTERS);
    size_t i, n_on = 0;
    json_t *item;
    if (f->lora && !json_is_array(f->lora)) {
        api_error_set(e, "invalid_type", "lora", "lora has to be a list.");
        return false;
    }
    json_array_foreach(f->lora, i, item)
    {
        int64_t id;
        const json_t *scale = json_body_get(item, "scale");
        if (!json_body_integer(json_body_get(item, "id"), &id) || id < 0 || id >= n ||
            !json_is_number(scale)) {
            api_error_set(e, "invalid_value", "lora",
                          "lora: element %zu is no {id, scale} of one of %u adapters.", i, n);
            return false;
        }
        const double value = json_number_value(scale);
        if (value == 0.0)
            continue;
        if (value != 1.0 || n_on++ > 0) {
            api_error_set(e, "unsupported_value", "lora",
                          "lora: one adapter can be used at once, with scale 1.");
            return false;
        }
        if (json_object_set_new(f->root, "model", json_string(names[id])) != 0)
            return api_error_no_memory(e);
        f->model = json_string_value(json_object_get(f->root, "model"));
    }
    return true;
}

static bool check_response_fields(const struct api_fields *f, struct api_error *e)
{
    size_t i, n = json_array_size(f->response_fields);
    json_t *item;
    bool is_good = !f->response_fields || json_is_array(f->response_fields);
    json_array_foreach(f->response_fields, i, item) is_good = is_good && json_is_string(item);
    if (is_good && n <= LIMIT_RESPONSE_FIELDS)
        return true;
    api_error_set(e, is_good ? "invalid_value" : "invalid_type", "response_fields",
                  "response_fields has to be a list of at most %u names.", LIMIT_RESPONSE_FIELDS);
    return false;
}

/* What stands for nothing in this dialect. */
static void drop_neutral(struct api_fields *f)
{
    if (f->seed == -1 || f->seed == RANDOM_SEED)
        f->seed = API_UNSET;
    const json_t *grammar = json_body_get(f->root, "grammar");
    if (json_is_string(grammar) && json_string_length(grammar) == 0)
        (void)json_object_del(f->root, "grammar");
}

/* ---- requests ---- */

/* A namespace that nobody else has. */
static void set_own_cache(struct request *request)
{
    uint64_t number = 0;
    serverd_error ignored; /* without a random number some other requests share it */
    (void)random_bytes(&number, sizeof number, &ignored);
    request->cache_space = hash_mix(request->cache_space ^ number);
}

static bool make_request(struct exchange *x, struct call *call, uint32_t i, struct api_error *e)
{
    const struct api_fields *f = &call->fields;
    const struct token_list *ids = &call->prompts.items[i];
    const int64_t n_probs = f->top_logprobs == API_UNSET ? 0 : f->top_logprobs;
    const char *param = call->is_infill ? "input_prefix" : "prompt";
    if (ids->n == 0) {
        api_error_set(e, "invalid_value", param, "%s has no tokens.", param);
        return false;
    }
    struct request *request =
        api_make_request(x, f, ids->id, ids->n, -1, n_probs > 0 ? (int32_t)n_probs : -1, param, e);
    call->requests[i] = request;
    if (!request)
        return false;
    request->wants_progress = f->return_progress && f->stream;
    if (f->t_max_predict_ms > 0)
        request->decode_ns = (uint64_t)f->t_max_predict_ms * 1000000;
    if (!f->cache_prompt)
        set_own_cache(request);
    return !call->is_infill || fill_prompt_set_stops(x, request, e);
}

static bool make_requests(struct exchange *x, struct call *call, struct api_error *e)
{
    const uint32_t n = call->prompts.n;
    if (n * call->fields.n > LIMIT_PROMPTS) {
        api_error_set(e, "invalid_value", "n_cmpl",
                      "%u prompts of several choices each, at most %u choices are allowed.", n,
                      LIMIT_PROMPTS);
        return false;
    }
    call->requests = calloc(n, sizeof *call->requests);
    if (!call->requests)
        return api_error_no_memory(e);
    for (uint32_t i = 0; i < n; i++)
        if (!make_request(x, call, i, e))
            return false;
    return true;
}

static bool make_call(struct exchange *x, struct call *call, struct api_error *e)
{
    struct api_fields *f = &call->fields;
    drop_neutral(f);
    return api_check_generates(x, e) && check_response_fields(f, e) && read_lora(x, f, e) &&
           output_form_read(f, &call->form, e) &&
           (call->is_infill ? llama_prompts_read_infill(x, f, &call->prompts, e)
                            : llama_prompts_read(x, f, &call->prompts, e)) &&
           make_requests(x, call, e);
}

static void call_release(struct call *call)
{
    for (uint32_t i = 0; call->requests && i < call->prompts.n; i++)
        if (call->requests[i])
            request_destroy(call->requests[i]);
    free(call->requests);
    output_form_release(&call->form);
    if (call->fields.root)
        api_fields_release(&call->fields);
}

static void generate(struct exchange *x, enum api_endpoint endpoint)
{
    struct api_error e;
    struct llama_reply *reply = NULL;
    struct call *call = calloc(1, sizeof *call);
    if (!call) {
        (void)api_error_no_memory(&e);
        exchange_fail(x, &e);
        return;
    }
    call->is_infill = endpoint == API_INFILL;
    if (api_fields_read(x, endpoint, &call->fields, &e) && make_call(x, call, &e)) {
        const struct llama_reply_setup setup = {.exchange = x,
                                                .requests = call->requests,
                                                .n_requests = call->prompts.n,
                                                .fields = &call->fields};
        const bool is_stream = call->fields.stream;
        reply = llama_reply_create(&setup);
        if (reply)
            output_form_generate(x, call->requests, call->prompts.n, &call->form,
                                 &llama_reply_encoder, reply, is_stream);
        else
            (void)api_error_no_memory(&e);
    }
    if (!reply) {
        call_release(call);
        exchange_fail(x, &e);
    }
    llama_prompts_deinit(&call->prompts);
    free(call);
}

void endpoint_llama_completion(struct exchange *x)
{
    generate(x, API_LLAMA);
}

void endpoint_infill(struct exchange *x)
{
    generate(x, API_INFILL);
}
