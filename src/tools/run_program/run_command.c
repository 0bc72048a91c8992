#include "tools/run_program/run_command.h"

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/numeric.h"
#include "tools/run_program/arguments.h"
#include "tools/run_program/connection.h"
#include "tools/run_program/printing.h"
#include "tools/run_program/tool_command.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define SOURCE_LIMIT (16 * MIB) /* the server's own is smaller */
#define ID_BYTES     128

/* ---- the command line ---- */

struct run_values {
    const char *program, *args_json, *batch, *server, *api_key_env, *model, *seed;
    struct command_names args, tools;
    bool stream, trace, json, check, describe;
};

#define AT(field) offsetof(struct run_values, field)

static const struct command_option options[] = {
    {"program", 0, COMMAND_STRING, AT(program), "FILE.lua|NAME", NULL, 0, 0,
     "A program's file, or the name of one that the server has"},
    {"arg", 'a', COMMAND_NAMES, AT(args), "NAME=VALUE", NULL, 0, 0,
     "An argument, read as the program declares it; @FILE: what is in a file"},
    {"args-json", 0, COMMAND_STRING, AT(args_json), "FILE", NULL, 0, 0,
     "Arguments: an object in a file, - is standard input"},
    {"batch", 'b', COMMAND_STRING, AT(batch), "FILE.jsonl", NULL, 0, 0,
     "Runs once for each line, an object of arguments, or of args, seed and id"},
    {"server", 's', COMMAND_STRING, AT(server), "URL", "http://127.0.0.1:8000", 0, 0, "The server"},
    {"api-key-env", 0, COMMAND_STRING, AT(api_key_env), "VARIABLE", "SERVERD_API_KEY", 0, 0,
     "Variable of the environment that holds the key"},
    {"model", 'm', COMMAND_STRING, AT(model), "NAME", NULL, 0, 0, "A model by its name"},
    {"seed", 0, COMMAND_STRING, AT(seed), "N", NULL, 0, 0, "Seed; the same gives the same"},
    {"tool", 't', COMMAND_NAMES, AT(tools), "NAME=COMMAND", NULL, 0, 0,
     "Runs a tool: its arguments are JSON on standard input, its output standard output"},
    {"stream", 0, COMMAND_FLAG, AT(stream), NULL, NULL, 0, 0,
     "Shows texts as they are generated, on standard error"},
    {"trace", 0, COMMAND_FLAG, AT(trace), NULL, NULL, 0, 0,
     "Shows what each operation computed and took from the cache, on standard error"},
    {"json", 'j', COMMAND_FLAG, AT(json), NULL, NULL, 0, 0,
     "Prints the whole run, not its value; with --stream each event as a line"},
    {"check", 0, COMMAND_FLAG, AT(check), NULL, NULL, 0, 0, "Only checks the program"},
    {"describe", 0, COMMAND_FLAG, AT(describe), NULL, NULL, 0, 0, "Prints arguments and tools"},
};

/* One invocation. */
struct run {
    const struct run_values *values;
    struct connection *connection;
    struct printer printer;
    char *source; /* NULL: a program by name */
    json_t *last; /* the object of the last event that has one: run or batch */
    char id[ID_BYTES];
};

int run_exit_code(serverd_status status)
{
    switch (status) {
    case SERVERD_OK:
        return 0;
    case SERVERD_INVALID:
        return 2;
    case RUN_UNREACHABLE:
        return 3;
    case RUN_INTERRUPTED:
        return 130;
    default:
        return 1;
    }
}

/* ---- which program ---- */

static bool is_name(const char *text)
{
    size_t n = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_-");
    return n > 0 && n <= 64 && text[n] == '\0';
}

static serverd_status read_program(struct run *run, serverd_error *err)
{
    const char *program = run->values->program;
    size_t n = program ? strlen(program) : 0;
    if (!program)
        return fail(err, SERVERD_INVALID, "no program is named: a FILE.lua, or a NAME");
    if (is_name(program))
        return SERVERD_OK;
    if ((n < 4 || strcmp(program + n - 4, ".lua") != 0) && !strchr(program, '/'))
        return fail(err, SERVERD_INVALID,
                    "\"%.100s\" is neither a file, whose name ends with .lua, nor a name of "
                    "a-z, 0-9, _ and -",
                    program);
    if (file_read(program, SOURCE_LIMIT, &run->source, &n, err) != SERVERD_OK)
        return fail(err, SERVERD_INVALID, "%.400s", err->text);
    return SERVERD_OK;
}

/* "/v1/programs/NAME" and `tail`, or what inline sources are posted to. */
static void program_path(const struct run *run, const char *tail, struct buffer *out)
{
    buffer_init(out, 256);
    buffer_append_str(out, "/v1/programs");
    if (!run->source)
        buffer_printf(out, "/%s%s", run->values->program, tail);
}

/* ---- replies that are no success ---- */

static const struct code_row {
    const char *code;
    serverd_status status;
} code_rows[] = {{"syntax_error", RUN_FAILED}, {"bad_program", RUN_FAILED}};

static serverd_status status_of_reply(long http_status, const json_t *error)
{
    const char *code = json_string_value(json_object_get(error, "code"));
    for (size_t i = 0; code && i < sizeof code_rows / sizeof *code_rows; i++)
        if (strcmp(code_rows[i].code, code) == 0)
            return code_rows[i].status;
    if (http_status == 422)
        return RUN_FAILED;
    return http_status == 429 || http_status >= 500 ? RUN_UNREACHABLE : SERVERD_INVALID;
}

/* Takes the reply's body; SERVERD_OK if the status is of a success. */
static serverd_status check_reply(struct run *run, const struct reply *reply, serverd_error *err)
{
    if (reply->http_status >= 200 && reply->http_status < 300)
        return SERVERD_OK;
    const json_t *error = json_object_get(reply->body, "error");
    const char *message = json_string_value(json_object_get(error, "message"));
    serverd_status status = status_of_reply(reply->http_status, error);
    if (json_array_size(json_object_get(error, "traceback")) > 0)
        print_error(&run->printer, NULL, error);
    (void)fail(err, status, "%.300s%s (HTTP %ld)", run->values->program,
               message ? "" : ": the server refuses", reply->http_status);
    if (message)
        (void)fail(err, status, "%.350s (HTTP %ld)", message, reply->http_status);
    return status;
}

/* ---- describe, check ---- */

static serverd_status describe(struct run *run, json_t **out, serverd_error *err)
{
    struct buffer path;
    struct reply reply = {0};
    json_t *body = run->source ? json_pack("{s:s, s:b}", "source", run->source, "run", 0) : NULL;
    program_path(run, "", &path);
    serverd_status status =
        run->source && !body
            ? fail(err, SERVERD_INVALID, "%.300s: is not UTF-8", run->values->program)
            : connection_ask(run->connection, body ? "POST" : "GET", buffer_str(&path), body,
                             &reply, err);
    if (status == SERVERD_OK)
        status = check_reply(run, &reply, err);
    if (status == SERVERD_OK)
        *out = json_incref(reply.body);
    json_decref(reply.body);
    json_decref(body);
    buffer_deinit(&path);
    return status;
}

static serverd_status check_or_describe(struct run *run, serverd_error *err)
{
    json_t *description = NULL;
    serverd_status status = describe(run, &description, err);
    if (status != SERVERD_OK)
        return status;
    const json_t *load_error = json_object_get(description, "load_error");
    const char *message = json_string_value(load_error);
    if (!message)
        message = json_string_value(json_object_get(load_error, "message"));
    if (message)
        status = fail(err, RUN_FAILED, "%.100s: its file cannot be loaded: %.300s",
                      run->values->program, message);
    else if (run->values->json)
        print_json(&run->printer, description);
    else if (run->values->describe)
        print_description(&run->printer, run->values->program, description);
    else
        (void)fprintf(run->printer.out, "%s: ok\n", run->values->program);
    json_decref(description);
    return status;
}

/* ---- the body ---- */

static serverd_status make_arguments(struct run *run, json_t **out, serverd_error *err)
{
    const struct run_values *values = run->values;
    json_t *args = NULL, *description = NULL;
    serverd_status status = SERVERD_OK;
    if (values->args_json)
        status = arguments_read(values->args_json, &args, err);
    else
        args = json_object();
    if (status == SERVERD_OK && values->args.n > 0)
        status = describe(run, &description, err);
    const json_t *schema = json_object_get(description, "args_schema");
    for (uint32_t i = 0; i < values->args.n && status == SERVERD_OK; i++)
        status = argument_add(args, values->args.value[i], schema, err);
    json_decref(description);
    if (status == SERVERD_OK)
        *out = args;
    else
        json_decref(args);
    return status;
}

static serverd_status add_options(struct run *run, json_t *body, serverd_error *err)
{
    const struct run_values *values = run->values;
    uint64_t seed;
    bool is_set = json_object_set_new(body, "stream", json_true()) == 0;
    if (values->seed && !parse_u64(values->seed, 0, INT64_MAX, &seed))
        return fail(err, SERVERD_INVALID, "--seed: \"%.100s\" is not a whole number", values->seed);
    if (run->source)
        is_set = is_set && json_object_set_new(body, "source", json_string(run->source)) == 0;
    if (values->model)
        is_set = is_set && json_object_set_new(body, "model", json_string(values->model)) == 0;
    if (values->seed)
        is_set = is_set && json_object_set_new(body, "seed", json_integer((json_int_t)seed)) == 0;
    if (!values->stream) /* no deltas */
        is_set = is_set && json_object_set_new(body, "stream_vars", json_array()) == 0;
    if (values->trace)
        is_set = is_set && json_object_set_new(body, "include", json_pack("[s]", "trace")) == 0;
    return is_set ? SERVERD_OK
                  : fail(err, SERVERD_INVALID, "%.300s: is not UTF-8", values->program);
}

static serverd_status make_body(struct run *run, json_t **out, serverd_error *err)
{
    const struct run_values *values = run->values;
    json_t *what = NULL;
    if (values->batch && (values->args.n > 0 || values->args_json))
        return fail(err, SERVERD_INVALID, "--batch: its lines are the arguments; no --arg beside");
    serverd_status status = values->batch ? arguments_read_batch(values->batch, &what, err)
                                          : make_arguments(run, &what, err);
    if (status != SERVERD_OK)
        return status;
    json_t *body = json_pack("{s:o}", values->batch ? "items" : "args", what);
    if (!body)
        return fail(err, SERVERD_NOMEM, "no memory");
    status = add_options(run, body, err);
    if (status == SERVERD_OK)
        *out = body;
    else
        json_decref(body);
    return status;
}

/* ---- events ---- */

/* The first id is that of the run, or of the batch: whom to cancel. */
static void keep_id(struct run *run, const json_t *data)
{
    const char *id = json_string_value(json_object_get(data, "run"));
    if (!id)
        id = json_string_value(json_object_get(data, "id"));
    if (id && *id && run->id[0] == '\0' && strlen(id) < sizeof run->id)
        memcpy(run->id, id, strlen(id) + 1);
}

static bool on_event(void *context, const char *name, const json_t *data)
{
    struct run *run = context;
    keep_id(run, data);
    if (json_object_get(data, "object")) {
        json_decref(run->last);
        run->last = json_incref((json_t *)(uintptr_t)data);
    }
    if (run->values->json && run->values->stream)
        print_event_json(&run->printer, name, data);
    else
        print_event(&run->printer, name, data);
    return true;
}

/* ---- tools ---- */

/* The result of one call, as the server takes it; new. NULL: `err`. */
static json_t *call_result(struct run *run, const json_t *call, serverd_error *err)
{
    const struct run_values *values = run->values;
    const char *name = json_string_value(json_object_get(call, "name"));
    json_t *id = json_object_get(call, "id"), *output = NULL;
    const char *command =
        name ? tool_command_find(values->tools.value, values->tools.n, name) : NULL;
    if (!command) {
        (void)fprintf(run->printer.log, "serverd-run: no command for the tool %s: --tool %s=...\n",
                      name ? name : "?", name ? name : "NAME");
        return json_pack("{s:O, s:s}", "id", id, "error", "the client does not have this tool");
    }
    serverd_status status = tool_command_run(command, json_object_get(call, "arguments"),
                                             connection_signal_fd(run->connection), &output, err);
    if (status == SERVERD_OK)
        return json_pack("{s:O, s:o}", "id", id, "output", output);
    if (status == SERVERD_INVALID) /* the tool's failure, which the program hears of */
        return json_pack("{s:O, s:s}", "id", id, "error", err->text);
    return NULL;
}

static serverd_status call_tools(struct run *run, json_t **results, serverd_error *err)
{
    const json_t *action = json_object_get(run->last, "required_action"),
                 *calls = json_object_get(action, "tool_calls"), *call;
    json_t *list = json_array();
    size_t i;
    if (json_array_size(calls) == 0) {
        json_decref(list);
        return fail(err, RUN_UNREACHABLE, "the server waits for tools but names no call");
    }
    json_array_foreach(calls, i, call)
    {
        err->code = SERVERD_OK;
        json_t *result = call_result(run, call, err);
        if (!result || json_array_append_new(list, result) != 0) {
            json_decref(list);
            return err->code == SERVERD_TIMEOUT || connection_interrupted(run->connection)
                       ? fail(err, RUN_INTERRUPTED, "interrupted")
                       : fail(err, SERVERD_NOMEM, "a tool's result cannot be written");
        }
    }
    *results = list;
    return SERVERD_OK;
}

/* Posts `body` and reads the stream to its end. */
static serverd_status follow(struct run *run, const char *path, const json_t *body,
                             serverd_error *err)
{
    struct reply reply = {0};
    json_decref(run->last);
    run->last = NULL;
    serverd_status status =
        connection_stream(run->connection, path, body, on_event, run, &reply, err);
    if (status == SERVERD_OK)
        status = check_reply(run, &reply, err);
    if (status == SERVERD_OK && reply.body) /* it does not stream this one */
        (void)on_event(run, "", reply.body);
    json_decref(reply.body);
    if (status == SERVERD_OK && !run->last)
        status = fail(err, RUN_UNREACHABLE, "the server's reply holds no run (HTTP %ld)",
                      reply.http_status);
    return status;
}

static bool needs_tools(const struct run *run)
{
    const char *status = json_string_value(json_object_get(run->last, "status"));
    return status && strcmp(status, "requires_action") == 0;
}

/* Runs the calls that are waited for and goes on with the run. */
static serverd_status go_on(struct run *run, serverd_error *err)
{
    struct buffer path;
    json_t *results = NULL;
    serverd_status status = call_tools(run, &results, err);
    if (status != SERVERD_OK)
        return status;
    json_t *body = json_pack("{s:o, s:b}", "results", results, "stream", 1);
    buffer_init(&path, 512);
    buffer_printf(&path, "/v1/program_runs/%s/tool_results", run->id);
    status =
        body ? follow(run, buffer_str(&path), body, err) : fail(err, SERVERD_NOMEM, "no memory");
    json_decref(body);
    buffer_deinit(&path);
    return status;
}

/* ---- the end ---- */

static serverd_status judge(struct run *run, const char *where, const json_t *object,
                            serverd_error *err)
{
    const char *status = json_string_value(json_object_get(object, "status"));
    const json_t *error = json_object_get(object, "error");
    if (status && strcmp(status, "completed") == 0)
        return SERVERD_OK;
    if (json_is_object(error))
        print_error(&run->printer, where, error);
    return fail(err, RUN_FAILED, "%s%s%.100s", where ? where : "", where ? ": " : "the run ",
                status ? status : "has no status");
}

static serverd_status finish_batch(struct run *run, serverd_error *err)
{
    const json_t *results = json_object_get(run->last, "results"), *item;
    size_t i, n_failed = 0;
    char where[32];
    json_array_foreach(results, i, item)
    {
        serverd_error ignored;
        (void)snprintf(where, sizeof where, "item %zu", i);
        n_failed += judge(run, where, item, &ignored) != SERVERD_OK;
        if (!run->values->json)
            print_json_line(&run->printer, json_object_get(item, "value"));
        if (run->values->trace)
            print_trace(&run->printer, item);
    }
    if (n_failed == 0)
        return SERVERD_OK;
    return fail(err, RUN_FAILED, "%zu of %zu items failed", n_failed, json_array_size(results));
}

static serverd_status finish(struct run *run, serverd_error *err)
{
    bool is_batch = run->values->batch != NULL;
    if (run->values->json && !run->values->stream)
        print_json(&run->printer, run->last);
    if (is_batch)
        return finish_batch(run, err);
    serverd_status status = judge(run, NULL, run->last, err);
    if (status == SERVERD_OK && !run->values->json)
        print_value(&run->printer, json_object_get(run->last, "value"));
    if (run->values->trace)
        print_trace(&run->printer, run->last);
    return status;
}

static serverd_status run_to_end(struct run *run, serverd_error *err)
{
    struct buffer path;
    json_t *body = NULL;
    serverd_status status = make_body(run, &body, err);
    if (status != SERVERD_OK)
        return status;
    program_path(run, run->values->batch ? "/batch" : "/run", &path);
    status = follow(run, buffer_str(&path), body, err);
    buffer_deinit(&path);
    json_decref(body);
    while (status == SERVERD_OK && needs_tools(run))
        status = go_on(run, err);
    return status == SERVERD_OK ? finish(run, err) : status;
}

/* A run that nobody waits for any more. */
static void cancel(struct run *run)
{
    struct buffer path;
    buffer_init(&path, 512);
    buffer_printf(&path, "/v1/program_runs/%s", run->id);
    connection_tell(run->connection, "DELETE", buffer_str(&path));
    buffer_deinit(&path);
}

static serverd_status run_run(const void *given, serverd_error *err)
{
    const struct run_values *values = given;
    struct run run = {.values = values,
                      .printer = {.out = stdout, .log = stderr, .shows_stream = values->stream}};
    for (uint32_t i = 0; i < values->tools.n; i++)
        if (!strchr(values->tools.value[i], '='))
            return fail(err, SERVERD_INVALID, "--tool: \"%.100s\" is not NAME=COMMAND",
                        values->tools.value[i]);
    serverd_status status = read_program(&run, err);
    if (status == SERVERD_OK)
        status = connection_open(values->server, getenv(values->api_key_env), &run.connection, err);
    if (status == SERVERD_OK)
        status = values->check || values->describe ? check_or_describe(&run, err)
                                                   : run_to_end(&run, err);
    if (status != SERVERD_OK && run.id[0] && (status == RUN_INTERRUPTED || status == SERVERD_NOMEM))
        cancel(&run);
    if (fflush(stdout) != 0 && status == SERVERD_OK)
        status = fail(err, RUN_FAILED, "standard output cannot be written");
    if (run.printer.is_in_line)
        (void)fputc('\n', stderr);
    connection_close(run.connection);
    json_decref(run.last);
    free(run.source);
    return status;
}

const struct command run_command = {.name = "",
                                    .summary = "Runs a generation program on a server.",
                                    .options = options,
                                    .n_options = sizeof options / sizeof *options,
                                    .bare = {"program"},
                                    .run = run_run,
                                    .values_bytes = sizeof(struct run_values)};
