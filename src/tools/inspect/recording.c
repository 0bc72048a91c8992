#include "tools/inspect/recording.h"

#include "base/error.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A line has an event of a dozen members, with the names of some tensors: longer ones are refused.
 */
#define MAX_LINE (1 * MIB)

struct reader {
    struct recording *out;
    uint32_t op_cap;
    uint32_t *step_at; /* [LIMIT_INSPECT_STEPS] index + 1 of a step's number */
};

/* ---- members --------------------------------------------------------------------------------- */

/* Below `end`; false: it is not there, or is not such a number. */
static bool read_count(const json_t *object, const char *key, uint64_t end, uint64_t *out)
{
    const json_t *value = json_object_get(object, key);
    json_int_t n = json_integer_value(value);
    if (!json_is_integer(value) || n < 0 || (uint64_t)n >= end)
        return false;
    *out = (uint64_t)n;
    return true;
}

static bool read_u32(const json_t *object, const char *key, uint64_t end, uint32_t *out)
{
    uint64_t n;
    if (!read_count(object, key, end, &n))
        return false;
    *out = (uint32_t)n;
    return true;
}

/* Microseconds of at most a year. */
static bool read_us(const json_t *object, const char *key, double *out)
{
    const json_t *value = json_object_get(object, key);
    *out = json_number_value(value);
    return json_is_number(value) && *out >= 0 && *out < 3.2e13;
}

static bool read_text(const json_t *object, const char *key, char *out, size_t size)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text && snprintf(out, size, "%s", text) >= 0;
}

/* ---- lines ----------------------------------------------------------------------------------- */

static serverd_status read_head(struct reader *reader, const json_t *root, serverd_error *err)
{
    struct recording *out = reader->out;
    const json_t *about = json_object_get(root, "otherData");
    if (!json_is_object(about) || !read_text(about, "model", out->model, sizeof out->model))
        return fail(err, SERVERD_CORRUPT, "is no trace of serverd");
    if (!json_object_get(about, "nodes"))
        return fail(err, SERVERD_UNSUPPORTED,
                    "has no operations: POST /debug/trace?ops=1 and --trace record them");
    if (!read_u32(about, "workers", LIMIT_WORKERS + 1u, &out->n_workers) || out->n_workers == 0 ||
        !read_u32(about, "nodes", LIMIT_GRAPH_ITEMS + 1u, &out->n_nodes) ||
        !read_count(about, "events_lost", UINT64_MAX, &out->n_lost))
        return fail(err, SERVERD_CORRUPT, "otherData: workers, nodes, events_lost are wrong");
    return SERVERD_OK;
}

static bool add_step(struct reader *reader, const json_t *event)
{
    struct recording *out = reader->out;
    const json_t *args = json_object_get(event, "args"), *keys = json_object_get(args, "keys");
    struct trace_step step = {0};
    double begin, us;
    if (!read_us(event, "ts", &begin) || !read_us(event, "dur", &us) ||
        !read_u32(args, "step", LIMIT_INSPECT_STEPS, &step.step) ||
        !read_u32(args, "rows", 1u << 24, &step.n_rows) ||
        !read_u32(args, "seqs", 1u << 24, &step.n_seqs) ||
        !read_u32(args, "logit_rows", 1u << 24, &step.n_logit_rows) ||
        json_array_size(keys) != TRACE_SPANS || reader->step_at[step.step] != 0 ||
        (out->n_steps > 0 && step.step <= out->steps[out->n_steps - 1].step))
        return false;
    for (size_t i = 0; i < TRACE_SPANS; i++) {
        json_int_t n = json_integer_value(json_array_get(keys, i));
        if (n < 0)
            return false;
        step.n_keys[i] = (uint64_t)n;
    }
    step.begin_ns = (uint64_t)(begin * 1e3);
    step.end_ns = step.begin_ns + (uint64_t)(us * 1e3);
    out->steps[out->n_steps++] = step;
    reader->step_at[step.step] = out->n_steps;
    return true;
}

static bool find_device(struct recording *out, const json_t *args, uint32_t *device)
{
    char name[sizeof out->devices[0]];
    if (!read_text(args, "delegate", name, sizeof name))
        return false;
    for (*device = 0; *device < out->n_devices; ++*device)
        if (strcmp(out->devices[*device], name) == 0)
            return true;
    if (out->n_devices == LIMIT_DEVICES)
        return false;
    memcpy(out->devices[out->n_devices++], name, sizeof name);
    return true;
}

static bool add_op(struct reader *reader, const json_t *event)
{
    struct recording *out = reader->out;
    const json_t *args = json_object_get(event, "args");
    struct recorded_op op;
    double us;
    if (!read_us(event, "dur", &us) || !read_u32(args, "step", LIMIT_INSPECT_STEPS, &op.step) ||
        !read_u32(args, "worker", out->n_workers, &op.worker) ||
        !read_u32(args, "node", out->n_nodes, &op.first_node) ||
        !read_u32(args, "nodes", out->n_nodes + 1u - op.first_node, &op.n_nodes) ||
        op.n_nodes == 0 || !find_device(out, args, &op.device) || reader->step_at[op.step] == 0)
        return false;
    op.step = reader->step_at[op.step] - 1;
    op.us = (float)us;
    if (out->n_ops == reader->op_cap) {
        uint32_t cap = reader->op_cap ? 2 * reader->op_cap : 4096;
        struct recorded_op *ops =
            cap > 2 * LIMIT_TRACE_ALL_EVENTS ? NULL : realloc(out->ops, cap * sizeof *ops);
        if (!ops)
            return false;
        out->ops = ops;
        reader->op_cap = cap;
    }
    out->ops[out->n_ops++] = op;
    return true;
}

static bool add_event(struct reader *reader, const json_t *event)
{
    const char *category = json_string_value(json_object_get(event, "cat"));
    if (!category)
        return json_is_object(event);
    if (strcmp(category, "execute") == 0)
        return add_step(reader, event);
    return strcmp(category, "op") != 0 || add_op(reader, event);
}

/* The first line opens the list of events, and the last one closes it. */
static serverd_status read_line(struct reader *reader, char *line, size_t n, uint64_t number,
                                serverd_error *err)
{
    static const char opening[] = ",\"traceEvents\":[", closing[] = "]}";
    while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == ','))
        n--;
    if (number > 1 && n == strlen(closing) && memcmp(line, closing, n) == 0)
        return SERVERD_OK;
    const size_t n_opening = strlen(opening);
    if (number == 1) {
        if (n < n_opening || memcmp(line + n - n_opening, opening, n_opening) != 0)
            return fail(err, SERVERD_CORRUPT, "is no trace of serverd");
        n -= n_opening - 1;
        line[n - 1] = '}';
    }
    json_t *root = json_loadb(line, n, JSON_REJECT_DUPLICATES, NULL);
    serverd_status status = SERVERD_OK;
    if (number == 1)
        status = read_head(reader, root, err);
    else if (!root || !add_event(reader, root))
        status = fail(err, SERVERD_CORRUPT, "line %llu: is no event of serverd",
                      (unsigned long long)number);
    json_decref(root);
    return status;
}

static serverd_status read_lines(struct reader *reader, FILE *file, serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    char *line = malloc(MAX_LINE);
    uint64_t number = 0;
    if (!line)
        return fail(err, SERVERD_NOMEM, "no memory");
    while (status == SERVERD_OK && fgets(line, (int)MAX_LINE, file)) {
        number++;
        size_t n = strlen(line);
        status = n + 1 < MAX_LINE ? read_line(reader, line, n, number, err)
                                  : fail(err, SERVERD_CORRUPT, "line %llu: is too long",
                                         (unsigned long long)number);
    }
    free(line);
    if (status == SERVERD_OK && number == 0)
        status = fail(err, SERVERD_CORRUPT, "is empty, or cannot be read");
    return status;
}

serverd_status recording_read(const char *path, struct recording *out, serverd_error *err)
{
    struct reader reader = {.out = out};
    *out = (struct recording){0};
    out->steps = calloc(LIMIT_INSPECT_STEPS, sizeof *out->steps);
    reader.step_at = calloc(LIMIT_INSPECT_STEPS, sizeof *reader.step_at);
    serverd_status status = SERVERD_OK;
    FILE *file = fopen(path, "re");
    if (!file)
        status = fail(err, SERVERD_INVALID, "cannot be opened: %m");
    else if (!out->steps || !reader.step_at)
        status = fail(err, SERVERD_NOMEM, "no memory");
    else
        status = read_lines(&reader, file, err);
    if (status == SERVERD_OK && out->n_ops == 0)
        status = fail(err, SERVERD_UNSUPPORTED, "has no step with operations");
    if (file)
        (void)fclose(file);
    free(reader.step_at);
    return status == SERVERD_OK ? status : error_context(err, "%s", path);
}

void recording_free(struct recording *recording)
{
    free(recording->steps);
    free(recording->ops);
    *recording = (struct recording){0};
}
