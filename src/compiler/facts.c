#include "compiler/facts.h"

#include "base/limits.h"
#include "base/numeric.h"
#include "program/op.h"

#include <inttypes.h>
#include <string.h>

static void put_string(struct buffer *out, const char *text)
{
    buffer_append_char(out, '"');
    buffer_append_json(out, text, strlen(text));
    buffer_append_char(out, '"');
}

static void put_text(struct buffer *out, const char *key, const char *text)
{
    put_string(out, key);
    buffer_append_char(out, ':');
    put_string(out, text);
    buffer_append_char(out, ',');
}

/* ---- META ------------------------------------------------------------------------------------ */

/* A word stays what it is; a file is called FILE, since bytes do not depend on where one lies. */
static void put_option(struct buffer *out, const char *name, const char *or_null)
{
    if (or_null)
        buffer_printf(out, "%s--%s %s", out->len ? " " : "", name,
                      strpbrk(or_null, "/.") ? "FILE" : or_null);
}

static void put_number(struct buffer *out, const char *name, uint64_t number, uint64_t otherwise)
{
    if (number != 0 && number != otherwise)
        buffer_printf(out, "%s--%s %" PRIu64, out->len ? " " : "", name, number);
}

/* As the command line has them, those that are not as always. */
static void describe_options(const struct compile_file_options *options, struct buffer *out)
{
    put_option(out, "quantize", options->quantise);
    put_option(out, "calibrate", options->calibration);
    if (options->target_bits > 0)
        buffer_printf(out, "%s--target-bits %.6g", out->len ? " " : "", options->target_bits);
    put_number(out, "target-size", options->target_bytes, 0);
    put_option(out, "without", options->source.passes.off);
    put_number(out, "max-rows", options->limits.max_rows, COMPILE_MAX_ROWS);
    put_number(out, "max-logit-rows", options->limits.max_logit_rows, COMPILE_MAX_LOGIT_ROWS);
    put_number(out, "max-seqs", options->limits.max_seqs, COMPILE_MAX_SEQS);
    put_number(out, "max-context", options->limits.max_context, 0);
}

void facts_put_meta(const struct program *program, const struct compile_file_options *options,
                    struct buffer *out)
{
    const struct program_config *config = &program->config;
    struct buffer text;
    buffer_init(&text, 64 * KIB);
    describe_options(options, &text);
    buffer_append_char(out, '{');
    put_text(out, "architecture", config->architecture);
    put_text(out, "name", config->name);
    put_text(out, "quantisation", config->quantisation);
    buffer_printf(out, "\"parameters\":%" PRIu64 ",\"weight_bytes\":%" PRIu64 ",",
                  config->n_parameters, config->weight_bytes);
    if (program->license)
        put_text(out, "license", program->license);
    put_text(out, "options", buffer_str(&text));
    put_text(out, "serverd", PROJECT_VERSION);
    buffer_printf(out, "\"compiler\":%u}", COMPILER_VERSION);
    out->is_failed |= text.is_failed;
    buffer_deinit(&text);
}

/* ---- DEBG ------------------------------------------------------------------------------------ */

void pass_history_add(void *history, const struct compile_pass *pass, const struct program *program)
{
    struct pass_history *h = history;
    buffer_printf(&h->passes, "%s{\"name\":\"%s\",\"nodes\":%u,\"tensors\":%u}",
                  h->passes.len ? "," : "", pass->name, program->graph.n_nodes,
                  program->graph.n_tensors);
    if (h->after)
        h->after(h->context, pass, program);
}

static void put_sources(const serverd_graph *graph, const serverd_node *node, struct buffer *out)
{
    const char *separator = "";
    buffer_append_char(out, '[');
    for (uint32_t i = 0; i < node->n_inputs; i++) {
        const serverd_value *value = node_input(graph, node, i);
        if (value->kind != SERVERD_VALUE_CONSTANT)
            continue;
        buffer_append_str(out, separator);
        put_string(out, graph->tensors[value->tensor].name);
        separator = ",";
    }
    buffer_append_char(out, ']');
}

void facts_put_debug(const struct program *program, const struct pass_history *history,
                     struct buffer *out)
{
    const serverd_graph *graph = &program->graph;
    buffer_append_str(out, "{\"passes\":[");
    buffer_append(out, history->passes.data, history->passes.len);
    buffer_append_str(out, "],\"sources\":[");
    for (uint32_t n = 0; n < graph->n_nodes; n++) {
        if (n > 0)
            buffer_append_char(out, ',');
        put_sources(graph, &graph->nodes[n], out);
    }
    buffer_append_str(out, "]}");
    out->is_failed |= history->passes.is_failed;
}
