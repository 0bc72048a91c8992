/* /v1/program_runs: jobs that run, wait or have ended. */
#include "base/numeric.h"
#include "server/endpoints.h"
#include "server/programs/programs_internal.h"
#include "server/request/json_body.h"

#include <stdio.h>
#include <string.h>

/* The job whose id stands before `tail` in the path, a reference. NULL: the reply says why. */
static struct dsl_job *find(struct exchange *x, const char *tail)
{
    const char *rest = exchange_path_rest(x);
    const size_t n = strlen(rest), n_tail = strlen(tail);
    char id[64] = "";
    if (n > n_tail && strcmp(rest + n - n_tail, tail) == 0 && n - n_tail < sizeof id)
        (void)snprintf(id, sizeof id, "%.*s", (int)(n - n_tail), rest);
    struct dsl_job *job = dsl_service_find(programs_of(x)->service, id, x->tenant);
    if (job)
        return job;
    struct program_error e;
    program_error_set(&e, "run_not_found", NULL, NULL, NULL,
                      "There is no run %.64s, or not any more.", *id ? id : rest);
    program_fail(x, &e);
    return NULL;
}

static bool ends_with(const char *text, const char *tail)
{
    const size_t n = strlen(text), n_tail = strlen(tail);
    return n > n_tail && strcmp(text + n - n_tail, tail) == 0;
}

/* ---- looking -----------------------------------------------------------------------------------
 */

/* ?from=N, or behind the event that a browser has had last. */
static bool read_from(struct exchange *x, uint32_t *from, struct api_error *e)
{
    const char *last = exchange_header(x, "last-event-id");
    uint64_t number;
    *from = last && parse_u64(last, 0, UINT32_MAX - 1, &number) ? (uint32_t)number + 1 : 0;
    return exchange_query_u32(x, "from", 0, UINT32_MAX, from, e);
}

void endpoint_program_runs_get(struct exchange *x)
{
    const bool wants_events = ends_with(exchange_path_rest(x), "/events");
    struct api_error e;
    uint32_t from;
    if (wants_events && !read_from(x, &from, &e)) {
        exchange_fail(x, &e);
        return;
    }
    struct dsl_job *job = find(x, wants_events ? "/events" : "");
    if (!job)
        return;
    if (wants_events) {
        run_reply(x, job,
                  &(struct run_reply_options){.is_stream = true, .is_object = true, .from = from});
        return;
    }
    run_reply_now(x, job, 200);
    dsl_job_unref(job);
}

/* The object comes when the run has ended, which is soon. */
void endpoint_program_runs_delete(struct exchange *x)
{
    struct dsl_job *job = find(x, "");
    if (!job)
        return;
    dsl_job_cancel(job);
    run_reply(x, job, &(struct run_reply_options){.is_object = true});
}

/* ---- outputs of tools --------------------------------------------------------------------------
 */

static bool check_result(const struct exchange *x, const json_t *result, size_t index,
                         struct api_error *e)
{
    const size_t most = (size_t)programs_of(x)->limits.max_args_kb * KIB;
    const json_t *output = json_object_get(result, "output"), *id = json_body_get(result, "id"),
                 *error = json_body_get(result, "error");
    char param[64];
    (void)snprintf(param, sizeof param, "results[%zu]", index);
    if (!json_is_object(result) || !json_is_string(id))
        api_error_set(e, "invalid_type", param, "%s has to be an object with an id.", param);
    else if ((output != NULL) == (error != NULL))
        api_error_set(e, "invalid_value", param, "%s has to have either output or error.", param);
    else if (error && !json_is_string(error))
        api_error_set(e, "invalid_type", param, "%s.error has to be a string.", param);
    else if (output && json_dumpb(output, NULL, 0, JSON_COMPACT | JSON_ENCODE_ANY) > most)
        api_error_set(e, "request_too_large", param,
                      "The output has more than the %zu bytes that are allowed.", most);
    else
        return true;
    return false;
}

/* Hands all of them over that are waited for. False: one was not, *e. */
static bool post_results(struct dsl_job *job, const json_t *results, struct program_error *e)
{
    char missing[256] = "";
    size_t i, n_missing = 0;
    const json_t *result;
    json_array_foreach((json_t *)results, i, result)
    {
        const char *id = json_string_value(json_object_get(result, "id"));
        if (dsl_job_post_tool_result(job, id, json_object_get(result, "output"),
                                     json_string_value(json_object_get(result, "error"))))
            continue;
        const size_t len = strlen(missing);
        (void)snprintf(missing + len, sizeof missing - len, "%s%.64s", n_missing++ ? ", " : "", id);
    }
    if (n_missing == 0)
        return true;
    program_error_set(e, "tool_call_not_pending", NULL, dsl_job_program_name(job), dsl_job_id(job),
                      "No tool call waits with the id %s; the others were taken.", missing);
    return false;
}

struct results_body {
    const json_t *results;
    bool is_stream, waits;
};

static bool read_body(const struct exchange *x, const json_t *root, struct results_body *out,
                      struct api_error *e)
{
    const json_t *stream = json_body_get(root, "stream"), *wait = json_body_get(root, "wait");
    *out = (struct results_body){.results = json_body_get(root, "results"),
                                 .is_stream = json_is_true(stream),
                                 .waits = !json_is_false(wait)};
    const char *wrong = stream && !json_is_boolean(stream) ? "stream"
                        : wait && !json_is_boolean(wait)   ? "wait"
                                                           : NULL;
    if (wrong) {
        api_error_set(e, "invalid_type", wrong, "%s has to be true or false.", wrong);
        return false;
    }
    if (!json_is_array(out->results)) {
        api_error_set(e, "invalid_type", "results", "results has to be a list.");
        return false;
    }
    for (size_t i = 0; i < json_array_size(out->results); i++)
        if (!check_result(x, json_array_get(out->results, i), i, e))
            return false;
    return true;
}

/* /v1/program_runs/ID/tool_results */
void endpoint_program_runs_post(struct exchange *x)
{
    struct dsl_job *job = find(x, "/tool_results");
    json_t *root = NULL;
    struct results_body body;
    struct program_error e;
    struct api_error error;
    if (!job)
        return;
    if (!exchange_take_json(x, &root, &error) || !read_body(x, root, &body, &error)) {
        exchange_fail(x, &error);
        dsl_job_unref(job);
        json_decref(root);
        return;
    }
    const uint64_t from = dsl_job_next_event(job); /* what comes of the results is behind it */
    if (body.is_stream)
        dsl_job_keep_events(job);
    if (!post_results(job, body.results, &e)) {
        program_fail(x, &e);
        dsl_job_unref(job);
    } else if (!body.waits && !body.is_stream) {
        run_reply_now(x, job, 202);
        dsl_job_unref(job);
    } else {
        run_reply(x, job,
                  &(struct run_reply_options){
                      .is_stream = body.is_stream, .is_binding = true, .from = from});
    }
    json_decref(root);
}
