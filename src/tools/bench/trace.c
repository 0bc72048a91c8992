#include "tools/bench/trace.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "serverd/delegate.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_OUTPUT   1000000u
#define MAX_PRIORITY 1000000

/* ---- life ------------------------------------------------------------------------------------ */

serverd_status trace_init(struct trace *trace, uint32_t block_tokens, serverd_error *err)
{
    *trace = (struct trace){.block_tokens = block_tokens};
    if (block_tokens == 0 || block_tokens % SERVERD_PAGE_TOKENS != 0)
        return fail(err, SERVERD_INVALID, "blocks of %u tokens: they have to be a multiple of %u",
                    block_tokens, SERVERD_PAGE_TOKENS);
    uint32_t none;
    return trace_name(trace, "", &none, err);
}

void trace_deinit(struct trace *trace)
{
    free(trace->requests);
    free(trace->runs);
    free(trace->names.text);
    free(trace->names.slot);
    *trace = (struct trace){0};
}

/* Room for one more of n elements. */
static bool grow(void *array, uint32_t n, uint32_t *cap, size_t size, uint32_t most)
{
    void *old, *grown;
    if (n < *cap)
        return true;
    size_t more = min_size(max_size(64, 2 * (size_t)*cap), most);
    memcpy(&old, array, sizeof old);
    if (more <= n || !(grown = realloc(old, more * size)))
        return false;
    memcpy(array, &grown, sizeof grown);
    *cap = (uint32_t)more;
    return true;
}

/* ---- names ----------------------------------------------------------------------------------- */

static uint32_t *name_slot(const struct trace_names *names, const char *text)
{
    uint32_t at = (uint32_t)hash_bytes(text, strlen(text), 0) & (names->n_slots - 1);
    while (names->slot[at] && strcmp(names->text[names->slot[at]], text) != 0)
        at = (at + 1) & (names->n_slots - 1);
    return &names->slot[at];
}

static bool grow_slots(struct trace_names *names)
{
    if (2 * (names->n + 1) < names->n_slots)
        return true;
    uint32_t n_slots = names->n_slots ? 2 * names->n_slots : 64;
    uint32_t *slot = calloc(n_slots, sizeof *slot);
    if (!slot)
        return false;
    free(names->slot);
    names->slot = slot;
    names->n_slots = n_slots;
    for (uint32_t i = 1; i < names->n; i++)
        *name_slot(names, names->text[i]) = i;
    return true;
}

serverd_status trace_name(struct trace *trace, const char *text, uint32_t *number,
                          serverd_error *err)
{
    struct trace_names *names = &trace->names;
    size_t len = strlen(text);
    if (len == 0 && names->n > 0) {
        *number = 0;
        return SERVERD_OK;
    }
    if (len >= TRACE_NAME_BYTES)
        return fail(err, SERVERD_INVALID, "%zu bytes, at most %u allowed", len,
                    TRACE_NAME_BYTES - 1);
    if (!grow_slots(names))
        return fail(err, SERVERD_NOMEM, "no memory for %u names", names->n);
    uint32_t *slot = name_slot(names, text);
    if (*slot == 0) {
        if (names->n == TRACE_MAX_NAMES)
            return fail(err, SERVERD_INVALID, "more than %u names", TRACE_MAX_NAMES);
        if (!grow(&names->text, names->n, &names->cap, sizeof *names->text, TRACE_MAX_NAMES))
            return fail(err, SERVERD_NOMEM, "no memory for %u names", names->n);
        memcpy(names->text[names->n], text, len + 1);
        *slot = names->n++; /* the first, "", is 0 and leaves its slot empty */
    }
    *number = *slot;
    return SERVERD_OK;
}

/* ---- requests -------------------------------------------------------------------------------- */

/* The run behind the last request's, from which the next one's prompt begins. */
static uint32_t next_first_run(const struct trace *trace)
{
    if (trace->n == 0)
        return 0;
    const struct trace_request *last = &trace->requests[trace->n - 1];
    return last->first_run + last->n_runs;
}

serverd_status trace_add_tokens(struct trace *trace, uint64_t id, uint32_t n_tokens,
                                serverd_error *err)
{
    bool is_first = trace->n_runs == next_first_run(trace);
    if (!is_first && trace->runs[trace->n_runs - 1].id == id) {
        trace->runs[trace->n_runs - 1].n_tokens += n_tokens;
        return SERVERD_OK;
    }
    if (!grow(&trace->runs, trace->n_runs, &trace->runs_cap, sizeof *trace->runs, TRACE_MAX_RUNS))
        return fail(err, SERVERD_NOMEM, "no memory for more than %u blocks", trace->n_runs);
    trace->runs[trace->n_runs++] = (struct trace_run){id, n_tokens};
    return SERVERD_OK;
}

serverd_status trace_add_request(struct trace *trace, const struct trace_request *request,
                                 serverd_error *err)
{
    struct trace_request added = *request;
    added.first_run = next_first_run(trace);
    added.n_runs = trace->n_runs - added.first_run;
    added.n_prompt = 0;
    for (uint32_t i = added.first_run; i < trace->n_runs; i++)
        added.n_prompt += trace->runs[i].n_tokens;
    if (trace->n == TRACE_MAX_REQUESTS)
        return fail(err, SERVERD_INVALID, "more than %u requests", TRACE_MAX_REQUESTS);
    if (!grow(&trace->requests, trace->n, &trace->cap, sizeof *trace->requests, TRACE_MAX_REQUESTS))
        return fail(err, SERVERD_NOMEM, "no memory for %u requests", trace->n);
    trace->requests[trace->n++] = added;
    return SERVERD_OK;
}

/* ---- reading --------------------------------------------------------------------------------- */

static serverd_status take_integer(const json_t *object, const char *field, int64_t min,
                                   int64_t max, int64_t *out, serverd_error *err)
{
    const json_t *value = json_object_get(object, field);
    if (!value)
        return fail(err, SERVERD_INVALID, "%s: is missing", field);
    if (!json_is_integer(value))
        return fail(err, SERVERD_INVALID, "%s: is not a whole number", field);
    int64_t number = json_integer_value(value);
    if (number < min || number > max)
        return fail(err, SERVERD_INVALID, "%s: found %" PRId64 ", allowed %" PRId64 " to %" PRId64,
                    field, number, min, max);
    *out = number;
    return SERVERD_OK;
}

/* Milliseconds to nanoseconds; 0 if absent and not needed. */
static serverd_status take_time(const json_t *object, const char *field, bool is_needed,
                                uint64_t *out_ns, serverd_error *err)
{
    const json_t *value = json_object_get(object, field);
    *out_ns = 0;
    if (!is_needed && (!value || json_is_null(value)))
        return SERVERD_OK;
    if (!json_is_number(value))
        return fail(err, SERVERD_INVALID, "%s: %s", field,
                    value ? "is not a number" : "is missing");
    double ms = json_number_value(value);
    if (!(ms >= 0 && ms <= TRACE_MAX_MS))
        return fail(err, SERVERD_INVALID, "%s: found %g, allowed 0 to %g", field, ms, TRACE_MAX_MS);
    *out_ns = (uint64_t)llround(ms * 1e6);
    if (!is_needed && *out_ns == 0)
        *out_ns = 1; /* at once; 0 is never */
    return SERVERD_OK;
}

static serverd_status take_name(struct trace *trace, const json_t *object, const char *field,
                                uint32_t *out, serverd_error *err)
{
    const json_t *value = json_object_get(object, field);
    *out = 0;
    if (!value || json_is_null(value))
        return SERVERD_OK;
    if (!json_is_string(value))
        return fail(err, SERVERD_INVALID, "%s: is not a string", field);
    if (trace_name(trace, json_string_value(value), out, err))
        return error_context(err, "%s", field);
    return SERVERD_OK;
}

static serverd_status take_numbers(struct trace *trace, const json_t *object,
                                   struct trace_request *out, serverd_error *err)
{
    int64_t n_prompt, n_output, priority = 0;
    if (take_time(object, "timestamp", true, &out->arrival_ns, err) ||
        take_integer(object, "input_length", 1, LIMIT_CONTEXT, &n_prompt, err) ||
        take_integer(object, "output_length", 0, MAX_OUTPUT, &n_output, err) ||
        take_time(object, "cancel_after_ms", false, &out->cancel_after_ns, err) ||
        take_time(object, "deadline_ms", false, &out->deadline_ns, err) ||
        (json_object_get(object, "priority") &&
         take_integer(object, "priority", -MAX_PRIORITY, MAX_PRIORITY, &priority, err)))
        return err->code;
    if (trace->n > 0 && out->arrival_ns < trace->requests[trace->n - 1].arrival_ns)
        return fail(err, SERVERD_INVALID, "timestamp: found %g, the request before it has %g",
                    (double)out->arrival_ns * 1e-6,
                    (double)trace->requests[trace->n - 1].arrival_ns * 1e-6);
    out->n_prompt = (uint32_t)n_prompt;
    out->n_output = (uint32_t)n_output;
    out->priority = (int32_t)priority;
    return SERVERD_OK;
}

static serverd_status take_blocks(struct trace *trace, const json_t *object, uint32_t n_prompt,
                                  serverd_error *err)
{
    const json_t *ids = json_object_get(object, "hash_ids");
    if (!json_is_array(ids))
        return fail(err, SERVERD_INVALID, "hash_ids: %s", ids ? "is not an array" : "is missing");
    uint32_t block = trace->block_tokens;
    size_t n = n_prompt / block + (n_prompt % block != 0);
    if (json_array_size(ids) != n)
        return fail(err, SERVERD_INVALID,
                    "hash_ids: found %zu, input_length %u in blocks of %u tokens needs %zu",
                    json_array_size(ids), n_prompt, block, n);
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id))
            return fail(err, SERVERD_INVALID, "hash_ids: number %zu is not a whole number", i + 1);
        uint32_t n_tokens = (uint32_t)min_size(block, n_prompt - i * block);
        if (trace_add_tokens(trace, (uint64_t)json_integer_value(id), n_tokens, err))
            return err->code;
    }
    return SERVERD_OK;
}

static serverd_status take_request(struct trace *trace, const json_t *object, serverd_error *err)
{
    struct trace_request request = {0};
    if (!json_is_object(object))
        return fail(err, SERVERD_INVALID, "is not a JSON object");
    if (take_numbers(trace, object, &request, err) ||
        take_name(trace, object, "key", &request.key, err) ||
        take_name(trace, object, "class", &request.class, err) ||
        take_blocks(trace, object, request.n_prompt, err))
        return err->code;
    return trace_add_request(trace, &request, err);
}

serverd_status trace_parse_line(struct trace *trace, const char *line, size_t n, serverd_error *err)
{
    json_error_t json_err;
    json_t *object = json_loadb(line, n, JSON_REJECT_DUPLICATES, &json_err);
    if (!object)
        return fail(err, SERVERD_INVALID, "column %d: %s", json_err.column, json_err.text);
    serverd_status status = take_request(trace, object, err);
    if (status != SERVERD_OK)
        trace->n_runs = next_first_run(trace); /* of the prompt that came to nothing */
    json_decref(object);
    return status;
}

/* The next line without its end; *n is 0 at the end of the file. */
static serverd_status next_line(FILE *file, char *line, size_t *n, serverd_error *err)
{
    *n = 0;
    if (!fgets(line, TRACE_MAX_LINE_BYTES, file))
        return ferror(file) ? fail(err, SERVERD_INVALID, "cannot be read: %s", strerror(errno))
                            : SERVERD_OK;
    *n = strlen(line);
    if (*n == 0 || (line[*n - 1] != '\n' && !feof(file)))
        return fail(err, SERVERD_INVALID, "holds a NUL, or more than the allowed %u bytes",
                    TRACE_MAX_LINE_BYTES - 2);
    return SERVERD_OK;
}

static serverd_status read_lines(struct trace *trace, FILE *file, const char *path, char *line,
                                 serverd_error *err)
{
    for (uint64_t number = 1;; number++) {
        size_t n;
        serverd_status status = next_line(file, line, &n, err);
        if (status == SERVERD_OK && n == 0)
            return trace->n > 0 ? SERVERD_OK
                                : fail(err, SERVERD_INVALID, "%s: holds no request", path);
        if (status == SERVERD_OK && line[strspn(line, " \t\r\n")] != '\0')
            status = trace_parse_line(trace, line, n, err);
        if (status != SERVERD_OK)
            return error_context(err, "%s: line %" PRIu64, path, number);
    }
}

serverd_status trace_read(struct trace *trace, const char *path, serverd_error *err)
{
    char *line = malloc(TRACE_MAX_LINE_BYTES);
    FILE *file = fopen(path, "re");
    serverd_status status;
    if (!line)
        status = fail(err, SERVERD_NOMEM, "%s: no memory", path);
    else if (!file)
        status = fail(err, SERVERD_INVALID, "%s: cannot be opened: %s", path, strerror(errno));
    else
        status = read_lines(trace, file, path, line, err);
    if (file)
        (void)fclose(file); /* was only read */
    free(line);
    return status;
}

/* ---- writing --------------------------------------------------------------------------------- */

static bool write_name(const struct trace *trace, const char *field, uint32_t number, FILE *to)
{
    json_t *text = json_string(trace_name_text(trace, number));
    bool is_good =
        text && fprintf(to, ", \"%s\": ", field) > 0 && json_dumpf(text, to, JSON_ENCODE_ANY) == 0;
    json_decref(text);
    return is_good;
}

static bool write_request(const struct trace *trace, const struct trace_request *r, FILE *to)
{
    bool is_good = fprintf(to,
                           "{\"timestamp\": %.3f, \"input_length\": %u, \"output_length\": %u, "
                           "\"hash_ids\": [",
                           (double)r->arrival_ns * 1e-6, r->n_prompt, r->n_output) > 0;
    const char *comma = "";
    for (uint32_t i = 0; i < r->n_runs; i++) {
        const struct trace_run *run = &trace->runs[r->first_run + i];
        for (uint32_t at = 0; at < run->n_tokens; at += trace->block_tokens, comma = ", ")
            is_good &= fprintf(to, "%s%" PRIu64, comma, run->id) > 0;
    }
    is_good &= fputc(']', to) != EOF;
    if (r->key)
        is_good &= write_name(trace, "key", r->key, to);
    if (r->class)
        is_good &= write_name(trace, "class", r->class, to);
    if (r->priority)
        is_good &= fprintf(to, ", \"priority\": %d", r->priority) > 0;
    if (r->cancel_after_ns)
        is_good &=
            fprintf(to, ", \"cancel_after_ms\": %.3f", (double)r->cancel_after_ns * 1e-6) > 0;
    if (r->deadline_ns)
        is_good &= fprintf(to, ", \"deadline_ms\": %.3f", (double)r->deadline_ns * 1e-6) > 0;
    return is_good && fputs("}\n", to) >= 0;
}

serverd_status trace_write(const struct trace *trace, FILE *to, serverd_error *err)
{
    bool is_good = true;
    for (uint32_t i = 0; i < trace->n && is_good; i++)
        is_good = write_request(trace, &trace->requests[i], to);
    if (!is_good || fflush(to) != 0)
        return fail(err, SERVERD_INTERNAL, "trace: cannot be written: %s", strerror(errno));
    return SERVERD_OK;
}

/* ---- tokens ---------------------------------------------------------------------------------- */

static void make_page(uint64_t id, int32_t page[SERVERD_PAGE_TOKENS])
{
    for (uint32_t i = 0; i < SERVERD_PAGE_TOKENS; i++)
        page[i] = (int32_t)(3 + hash_mix(hash_mix(id) + i) % (TRACE_VOCABULARY - 3));
}

void trace_prompt(const struct trace *trace, const struct trace_request *request, int32_t *tokens)
{
    for (uint32_t i = 0; i < request->n_runs; i++) {
        const struct trace_run *run = &trace->runs[request->first_run + i];
        int32_t page[SERVERD_PAGE_TOKENS];
        make_page(run->id, page);
        for (uint32_t at = 0; at < run->n_tokens; at += SERVERD_PAGE_TOKENS)
            memcpy(tokens + at, page,
                   min_size(SERVERD_PAGE_TOKENS, run->n_tokens - at) * sizeof *tokens);
        tokens += run->n_tokens;
    }
}
