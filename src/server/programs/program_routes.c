/* /v1/programs: named programs, their texts, and runs that begin. */
#include "frontend_dsl/dsl_json.h"
#include "frontend_dsl/dsl_program.h"
#include "server/endpoints.h"
#include "server/programs/programs_internal.h"
#include "server/request/json_body.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INLINE_NAME "inline"

static void fail_with(struct exchange *x, const struct api_error *error)
{
    exchange_fail(x, error);
}

static void fail_not_found(struct exchange *x, const char *name)
{
    struct program_error e;
    program_error_set(&e, "program_not_found", NULL, NULL, NULL,
                      "There is no program %.64s; GET /v1/programs lists those that are.", name);
    program_fail(x, &e);
}

/* Takes the object over. */
static void reply_json(struct exchange *x, int status, json_t *object)
{
    struct buffer body;
    char *text = object ? dsl_json_text(object, NULL) : NULL;
    buffer_init(&body, SIZE_MAX / 2);
    if (text)
        buffer_append_str(&body, text);
    exchange_reply(x, text ? status : 500, "application/json", &body);
    free(text);
    json_decref(object);
}

/* ---- looking -----------------------------------------------------------------------------------
 */

void endpoint_programs_list(struct exchange *x)
{
    json_t *list = dsl_store_list(programs_of(x)->store);
    reply_json(x, 200, json_pack("{s:s, s:o}", "object", "list", "data", list));
}

/* What GET says of a program: its entry, if it has one, and what is declared in it. */
static json_t *describe(const struct exchange *x, const struct dsl_program *program, json_t *entry,
                        const struct served_model *model)
{
    const char *mode = program_template_mode(x, model);
    json_t *object = program ? dsl_program_describe(program) : NULL;
    if (!entry)
        entry =
            json_pack("{s:s, s:s, s:n}", "name", program->name, "origin", "request", "load_error");
    if (object)
        (void)json_object_update_missing(entry, object);
    json_decref(object);
    (void)json_object_set_new(entry, "object", json_string("program"));
    (void)json_object_set_new(entry, "template_mode", mode ? json_string(mode) : json_null());
    return entry;
}

/* The default model, if it is loaded: a look is no use of it. */
static json_t *describe_with_default(struct exchange *x, const struct dsl_program *program,
                                     json_t *entry)
{
    struct model_entry *model = NULL;
    struct model_set *models = &x->server->models;
    if (model_set_look(models, NULL, &model) != MODEL_TAKEN)
        return describe(x, program, entry, NULL);
    json_t *object = describe(x, program, entry, model->served);
    model_set_release(models, model, false);
    return object;
}

void endpoint_programs_get(struct exchange *x)
{
    const char *name = exchange_path_rest(x);
    struct dsl_store *store = programs_of(x)->store;
    json_t *entry = dsl_store_entry(store, name);
    if (!entry) {
        fail_not_found(x, name);
        return;
    }
    struct dsl_program *program = dsl_store_find(store, name);
    reply_json(x, 200, describe_with_default(x, program, entry));
    dsl_program_unref(program);
}

/* ---- texts that come with a request ------------------------------------------------------------
 */

/* The member `source`. False: *e. */
static bool read_source(struct exchange *x, const json_t *root, const char **source, size_t *n,
                        struct api_error *e)
{
    const json_t *value = json_body_get(root, "source");
    const size_t most = (size_t)x->server->context.options->programs_max_source_kb * KIB;
    *source = json_string_value(value);
    *n = json_string_length(value);
    if (!value)
        api_error_set(e, "missing_required_parameter", "source", "source is missing.");
    else if (!*source)
        api_error_set(e, "invalid_type", "source", "source has to be a string.");
    else if (*n > most)
        api_error_set(e, "request_too_large", "source",
                      "The source has %zu bytes, at most %zu are allowed.", *n, most);
    else
        return true;
    return false;
}

/* A text is read on a worker, since it is run for that. */
struct text {
    json_t *root;
    const char *source; /* in root */
    size_t n_source;
    char name[DSL_NAME_BYTES];
    struct run_body body; /* of a run */
    bool is_run;
    struct dsl_job *job;
};

static void drop_text(void *state)
{
    struct text *text = state;
    if (text->is_run)
        run_body_release(&text->body);
    else
        json_decref(text->root);
    free(text);
}

static struct text *new_text(struct exchange *x, json_t *root, const char *name)
{
    struct text *text = calloc(1, sizeof *text);
    if (text) {
        text->root = root;
        (void)snprintf(text->name, sizeof text->name, "%s", name);
        return text;
    }
    struct api_error e;
    api_error_set(&e, "model_unavailable", NULL, "The server is out of memory.");
    fail_with(x, &e);
    json_decref(root);
    return NULL;
}

/* The reply of an errand that begins no run. Takes the object over. */
static void say_object(struct program_error *e, int status, json_t *object)
{
    char *text = object ? dsl_json_text(object, NULL) : NULL;
    *e = (struct program_error){.status = text ? status : 500};
    buffer_init(&e->body, SIZE_MAX / 2);
    buffer_append_str(&e->body, text ? text : "{}");
    free(text);
    json_decref(object);
}

/* ---- uploads -----------------------------------------------------------------------------------
 */

static struct dsl_job *upload(void *state, struct exchange *x, struct program_error *e)
{
    struct text *text = state;
    struct dsl_store *store = programs_of(x)->store;
    struct dsl_error error;
    struct api_error full;
    dsl_error_init(&error);
    switch (dsl_store_put(store, text->name, text->source, text->n_source, &error)) {
    case DSL_PUT_NEW:
    case DSL_PUT_REPLACED: {
        struct dsl_program *program = dsl_store_find(store, text->name);
        json_t *entry = dsl_store_entry(store, text->name);
        say_object(e, 200, entry ? describe_with_default(x, program, entry) : NULL);
        dsl_program_unref(program);
        break;
    }
    case DSL_PUT_BROKEN:
        program_error_from(e, &error, text->name);
        break;
    case DSL_PUT_FULL:
        api_error_set(&full, "insufficient_storage", NULL,
                      "There are %u programs, more are not kept.", LIMIT_DSL_PROGRAMS);
        program_error_of_server(e, &full);
        break;
    default:
        api_error_set(&full, "model_unavailable", NULL, "The server is out of memory.");
        program_error_of_server(e, &full);
    }
    dsl_error_deinit(&error);
    return NULL;
}

void endpoint_programs_put(struct exchange *x)
{
    const char *name = exchange_path_rest(x);
    json_t *root = NULL;
    struct api_error e;
    struct text *text;
    if (!dsl_program_name_is_valid(name)) {
        api_error_set(&e, "invalid_value", "name",
                      "A program's name has 1 to 64 letters, a to z, digits, - and _.");
        fail_with(x, &e);
        return;
    }
    if (!exchange_take_json(x, &root, &e)) {
        fail_with(x, &e);
        return;
    }
    text = new_text(x, root, name);
    if (!text)
        return;
    if (!read_source(x, root, &text->source, &text->n_source, &e)) {
        drop_text(text);
        fail_with(x, &e);
        return;
    }
    const struct run_errand errand = {.begin = upload, .drop = drop_text, .state = text};
    run_reply_after(x, &errand, &(struct run_reply_options){0});
}

void endpoint_programs_delete(struct exchange *x)
{
    const char *name = exchange_path_rest(x);
    struct api_error e;
    switch (dsl_store_remove(programs_of(x)->store, name)) {
    case DSL_REMOVED:
        reply_json(x, 200,
                   json_pack("{s:s, s:s, s:b}", "name", name, "object", "program", "deleted", 1));
        break;
    case DSL_REMOVAL_IS_FILE:
        api_error_set(&e, "invalid_value", NULL,
                      "The program %.64s is a file of the server's folder: it goes with that.",
                      name);
        fail_with(x, &e);
        break;
    default:
        fail_not_found(x, name);
    }
}

/* ---- runs --------------------------------------------------------------------------------------
 */

static void reply_job(struct exchange *x, struct dsl_job *job, const struct run_body *body)
{
    if (body->is_background && !body->is_stream) {
        run_reply_now(x, job, 202);
        dsl_job_unref(job);
        return;
    }
    run_reply(x, job,
              &(struct run_reply_options){.is_stream = body->is_stream, .is_binding = true});
}

/* /v1/programs/NAME/run or /batch. */
void endpoint_programs_run(struct exchange *x)
{
    const char *rest = exchange_path_rest(x), *slash = strrchr(rest, '/');
    const bool is_batch = slash && strcmp(slash, "/batch") == 0;
    char name[DSL_NAME_BYTES];
    json_t *root = NULL;
    struct api_error error;
    struct program_error e;
    struct run_body body;
    if (!slash || (!is_batch && strcmp(slash, "/run") != 0)) {
        api_error_set(&error, "not_found", NULL,
                      "A program is run with POST /v1/programs/NAME/run or /batch.");
        fail_with(x, &error);
        return;
    }
    (void)snprintf(name, sizeof name, "%.*s", (int)(slash - rest), rest);
    struct dsl_program *program = dsl_store_find(programs_of(x)->store, name);
    if (!program) {
        fail_not_found(x, name);
        return;
    }
    if (!exchange_take_json(x, &root, &error) || !run_body_read(x, root, is_batch, &body, &error)) {
        fail_with(x, &error);
        dsl_program_unref(program);
        return;
    }
    struct dsl_job *job = run_start(x, program, name, &body, &e);
    dsl_program_unref(program);
    if (job)
        reply_job(x, job, &body);
    else
        program_fail(x, &e);
    run_body_release(&body);
}

/* ---- programs that come with their run ---------------------------------------------------------
 */

static bool may_send_programs(struct exchange *x, struct api_error *e)
{
    enum { INLINE_ADMIN, INLINE_ALL, INLINE_OFF };
    const int who = x->server->context.options->programs_inline;
    if (who == INLINE_ALL || (who == INLINE_ADMIN && (x->is_admin || x->tenant == 0)))
        return true;
    api_error_set(e, "insufficient_scope", NULL,
                  who == INLINE_OFF
                      ? "This server runs only programs of its own: see GET /v1/programs."
                      : "Programs in requests are for keys of administrators: see "
                        "GET /v1/programs for those that can be run.");
    return false;
}

static struct dsl_job *begin_inline(void *state, struct exchange *x, struct program_error *e)
{
    struct text *text = state;
    struct dsl_program *program = NULL;
    struct dsl_job *job = NULL;
    struct dsl_error error;
    dsl_error_init(&error);
    if (dsl_program_read(INLINE_NAME, text->source, text->n_source, &programs_of(x)->limits,
                         &program, &error) != SERVERD_OK)
        program_error_from(e, &error, INLINE_NAME);
    else if (!text->is_run)
        say_object(e, 200, describe(x, program, NULL, exchange_model(x)));
    else
        job = run_start(x, program, INLINE_NAME, &text->body, e);
    if (job && text->body.is_background && !text->body.is_stream) {
        *e = (struct program_error){.status = 202};
        buffer_init(&e->body, SIZE_MAX / 2);
        dsl_job_write(job, &e->body);
        dsl_job_unref(job);
        job = NULL;
    }
    dsl_error_deinit(&error);
    dsl_program_unref(program);
    return job;
}

void endpoint_programs_inline(struct exchange *x)
{
    json_t *root = NULL;
    struct api_error e;
    struct text *text;
    if (!may_send_programs(x, &e) || !exchange_take_json(x, &root, &e)) {
        fail_with(x, &e);
        return;
    }
    text = new_text(x, root, INLINE_NAME);
    if (!text)
        return;
    const bool only_checks = json_is_false(json_body_get(root, "run"));
    bool is_good = read_source(x, root, &text->source, &text->n_source, &e);
    if (is_good && !only_checks) { /* it takes root over */
        text->is_run = true;
        is_good = run_body_read(x, root, json_body_get(root, "items") != NULL, &text->body, &e);
    }
    if (!is_good) {
        drop_text(text);
        fail_with(x, &e);
        return;
    }
    const struct run_errand errand = {.begin = begin_inline, .drop = drop_text, .state = text};
    run_reply_after(x, &errand,
                    &(struct run_reply_options){.is_stream = text->is_run && text->body.is_stream,
                                                .is_binding = true});
}
