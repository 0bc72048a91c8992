/* serverd-inspect trace FILE --program MODEL */
#include "base/error.h"
#include "tools/inspect/commands.h"
#include "tools/inspect/subject.h"
#include "tools/inspect/trace_report.h"

#include <stdio.h>

#define OUTPUT_BYTES      (64 * MIB)
#define CALIBRATION_BYTES (512 * MIB)

struct values {
    const char *file, *program;
    double read_gbps, int8_gmacs, fp32_gmacs;
    uint32_t nodes;
    bool json, limits;
};

/* Measured here and now, but for those that are given. */
static serverd_status find_limits(const struct values *values, uint32_t n_workers,
                                  struct machine_limits *out, serverd_error *err)
{
    struct worker_pool *pool = NULL;
    struct calibrator *calibrator = NULL;
    serverd_status status = SERVERD_OK;
    *out = (struct machine_limits){.read_gbps = values->read_gbps,
                                   .int8_gmacs = values->int8_gmacs,
                                   .fp32_gmacs = values->fp32_gmacs};
    bool is_given = out->read_gbps > 0 && out->int8_gmacs > 0 && out->fp32_gmacs > 0;
    if (!values->limits || is_given)
        return SERVERD_OK;
    status = worker_pool_create(n_workers, &pool, err);
    if (status == SERVERD_OK)
        status = calibrator_create(pool, CALIBRATION_BYTES, &calibrator, err);
    if (status == SERVERD_OK) {
        const struct machine_limits measured = calibrator_run(calibrator);
        out->read_gbps = out->read_gbps > 0 ? out->read_gbps : measured.read_gbps;
        out->int8_gmacs = out->int8_gmacs > 0 ? out->int8_gmacs : measured.int8_gmacs;
        out->fp32_gmacs = out->fp32_gmacs > 0 ? out->fp32_gmacs : measured.fp32_gmacs;
    }
    calibrator_destroy(calibrator);
    worker_pool_destroy(pool);
    return status;
}

static serverd_status report(const struct values *values, const struct recording *recording,
                             const struct subject *subject, serverd_error *err)
{
    struct trace_report_options options = {
        .recording = recording, .graph = &subject->program->graph, .n_nodes = values->nodes};
    struct buffer text;
    serverd_status status = find_limits(values, recording->n_workers, &options.limits, err);
    buffer_init(&text, OUTPUT_BYTES);
    if (status == SERVERD_OK)
        status = trace_report(&options, values->json, &text, err);
    if (status == SERVERD_OK && text.is_failed)
        status = fail(err, SERVERD_NOMEM, "no memory for the report");
    if (status == SERVERD_OK &&
        (fwrite(buffer_str(&text), 1, text.len, stdout) != text.len || fflush(stdout) != 0))
        status = fail(err, SERVERD_INVALID, "cannot write to standard output: %m");
    buffer_deinit(&text);
    return status;
}

static serverd_status run(const void *arg, serverd_error *err)
{
    const struct values *values = arg;
    struct recording recording = {0};
    struct subject subject = {0};
    if (!values->file || !values->program)
        return fail(err, SERVERD_INVALID, "%s; see --help",
                    values->file ? "--program: names the model that ran" : "names no trace");
    serverd_status status = recording_read(values->file, &recording, err);
    if (status == SERVERD_OK)
        status = subject_open(&subject, values->program, NULL, 0, err);
    if (status == SERVERD_OK)
        status = report(values, &recording, &subject, err);
    subject_close(&subject);
    recording_free(&recording);
    return status;
}

#define AT(field) offsetof(struct values, field)

static const struct command_option rows[] = {
    {"file", 0, COMMAND_STRING, AT(file), "FILE", NULL, 0, 0,
     "The trace: what serverd --trace wrote, or POST /debug/trace?ops=1 answered"},
    {"program", 'p', COMMAND_STRING, AT(program), "MODEL", NULL, 0, 0,
     "The model that ran: a program file, or what it is compiled from"},
    {"nodes", 'n', COMMAND_COUNT, AT(nodes), "N", "20", 0, 1000000,
     "Nodes that are listed with their weights, the slowest first"},
    {"limits", 0, COMMAND_FLAG, AT(limits), NULL, "true", 0, 0,
     "Measure what this machine can do, for shares of it (--no-limits: do not)"},
    {"read-gbps", 0, COMMAND_FLOAT, AT(read_gbps), "GB/S", "0", 0, 1e9,
     "What the machine of the trace reads; 0: measured here"},
    {"int8-gmacs", 0, COMMAND_FLOAT, AT(int8_gmacs), "GMAC/S", "0", 0, 1e9,
     "Its integer multiply-adds; 0: measured here"},
    {"fp32-gmacs", 0, COMMAND_FLOAT, AT(fp32_gmacs), "GMAC/S", "0", 0, 1e9,
     "Its floating-point multiply-adds; 0: measured here"},
    {"json", 0, COMMAND_FLAG, AT(json), NULL, NULL, 0, 0, "JSON instead of tables"},
};

const struct command inspect_trace = {.name = "trace",
                                      .summary = "Says where the time of a trace went",
                                      .options = rows,
                                      .n_options = sizeof rows / sizeof *rows,
                                      .bare = {"file"},
                                      .run = run,
                                      .values_bytes = sizeof(struct values)};
