/* What is said of a program file's META, TEST and PLAN. */
#include "tools/inspect/report.h"

#include "program/sdp_plan.h"
#include "program/sdp_test.h"
#include "tools/inspect/json.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* ---- META ------------------------------------------------------------------------------------ */

/* Anybody's bytes. NULL: there are none, or they are no JSON object. */
static json_t *read_meta(const struct subject *subject)
{
    const struct sdp_section *section =
        subject->is_program_file ? sdp_find(&subject->file, SDP_META) : NULL;
    json_t *meta = section ? json_loadb(sdp_bytes(&subject->file, section), section->stored_bytes,
                                        JSON_REJECT_DUPLICATES, NULL)
                           : NULL;
    if (json_is_object(meta))
        return meta;
    json_decref(meta);
    return NULL;
}

/* What the line about the model does not have. */
void report_facts_text(const struct subject *subject, struct buffer *out)
{
    static const char *const keys[] = {"license", "serverd", "compiler", "options"};
    json_t *meta = read_meta(subject);
    const char *separator = "made     ";
    for (size_t i = 0; i < sizeof keys / sizeof *keys && meta; i++) {
        const json_t *value = json_object_get(meta, keys[i]);
        const bool is_text = json_is_string(value) && json_string_length(value) > 0;
        if (!is_text && !json_is_integer(value))
            continue;
        buffer_printf(out, "%s%s ", separator, keys[i]);
        if (is_text)
            buffer_append_json(out, json_string_value(value), json_string_length(value));
        else
            buffer_printf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        separator = ", ";
    }
    if (*separator == ',')
        buffer_append_char(out, '\n');
    json_decref(meta);
}

void report_facts_json(const struct subject *subject, struct buffer *out)
{
    json_t *meta = read_meta(subject);
    char *text = meta ? json_dumps(meta, JSON_COMPACT) : NULL;
    json_raw(out, "meta", text ? text : "null");
    free(text);
    json_decref(meta);
}

/* ---- TEST ------------------------------------------------------------------------------------ */

static bool read_tests(const struct subject *subject, struct sdp_tests *out, serverd_error *why)
{
    *out = (struct sdp_tests){.n_cases = 0};
    return !subject->is_program_file ||
           sdp_tests_read(&subject->file, subject->program, out, why) == SERVERD_OK;
}

void report_tests_text(const struct subject *subject, struct buffer *out)
{
    struct sdp_tests tests;
    serverd_error why;
    if (!subject->is_program_file || subject->program->graph.n_nodes == 0)
        return;
    if (!read_tests(subject, &tests, &why)) {
        buffer_printf(out, "tests    %s\n", why.text);
        return;
    }
    if (tests.n_cases == 0) {
        buffer_append_str(out, "tests    none\n");
        return;
    }
    uint32_t n_positions = 0;
    buffer_append_str(out, "tests    ");
    for (uint32_t i = 0; i < tests.n_cases; i++) {
        buffer_printf(out, "%s%u", i == 0 ? "" : ", ", tests.cases[i].n_tokens);
        n_positions += tests.cases[i].n_positions;
    }
    if (n_positions == 0)
        buffer_printf(out, " tokens: cosine at least %.4f\n", tests.cosine_limit);
    else
        buffer_printf(out, " tokens and %u behind: top %u at %u positions, KL at most %.3f\n",
                      tests.cases[0].n_greedy, tests.n_top, n_positions, tests.kl_limit);
}

void report_tests_json(const struct subject *subject, struct buffer *out)
{
    struct sdp_tests tests;
    serverd_error why;
    const bool is_sound = read_tests(subject, &tests, &why);
    json_begin_in(out, "tests", '{');
    json_text(out, "error", is_sound ? NULL : why.text);
    json_count(out, "top", tests.n_top);
    json_number(out, "kl_limit", tests.kl_limit);
    json_number(out, "cosine_limit", tests.cosine_limit);
    json_begin_in(out, "cases", '[');
    for (uint32_t i = 0; i < tests.n_cases; i++) {
        const struct sdp_case *c = &tests.cases[i];
        json_begin(out, '{');
        json_count(out, "tokens", c->n_tokens);
        json_count(out, "positions", c->n_positions);
        json_begin_in(out, "greedy", '[');
        for (uint32_t g = 0; g < c->n_greedy; g++)
            json_item_count(out, (uint64_t)c->greedy[g]);
        json_end(out, ']');
        json_end(out, '}');
    }
    json_end(out, ']');
    json_end(out, '}');
}

/* ---- PLAN ------------------------------------------------------------------------------------ */

void report_stored_plans_text(const struct subject *subject, struct buffer *out)
{
    const struct program *program = subject->program;
    if (program->n_plans == 0)
        return;
    const serverd_limits *limits = &program->plans[0].limits;
    buffer_printf(out,
                  "\nSTORED   for %u rows, %u logit rows, %u seqs, context %u\n"
                  "delegate         nodes          buffers      planned        naive\n",
                  limits->max_rows, limits->max_logit_rows, limits->max_seqs, limits->max_context);
    for (uint32_t i = 0; i < program->n_plans; i++) {
        const struct program_plan *plan = &program->plans[i];
        const uint64_t naive = plan_naive_bytes(plan, &program->graph);
        buffer_printf(out, "%-15s  %u-%u %16u %12" PRIu64 " %12" PRIu64 "  1/%.1f\n",
                      plan->delegate, plan->first_node, plan->first_node + plan->n_nodes - 1,
                      plan->plan.n_buffers, plan->plan.arena_bytes, naive,
                      plan->plan.arena_bytes ? (double)naive / (double)plan->plan.arena_bytes
                                             : 0.0);
    }
}

void report_stored_plans_json(const struct subject *subject, struct buffer *out)
{
    const struct program *program = subject->program;
    json_begin_in(out, "stored_plans", '[');
    for (uint32_t i = 0; i < program->n_plans; i++) {
        const struct program_plan *plan = &program->plans[i];
        json_begin(out, '{');
        json_text(out, "delegate", plan->delegate);
        json_count(out, "first_node", plan->first_node);
        json_count(out, "nodes", plan->n_nodes);
        json_count(out, "max_rows", plan->limits.max_rows);
        json_count(out, "max_logit_rows", plan->limits.max_logit_rows);
        json_count(out, "max_seqs", plan->limits.max_seqs);
        json_count(out, "max_context", plan->limits.max_context);
        json_count(out, "planned", plan->plan.arena_bytes);
        json_count(out, "naive", plan_naive_bytes(plan, &program->graph));
        json_begin_in(out, "buffers", '[');
        for (uint32_t b = 0; b < plan->plan.n_buffers; b++) {
            const serverd_buffer *buffer = &plan->plan.buffers[b];
            json_begin(out, '{');
            json_count(out, "value", buffer->value);
            json_count(out, "form", buffer->form);
            json_count(out, "offset", buffer->offset);
            json_count(out, "bytes", plan_buffer_bytes(&plan->limits, &program->graph, buffer));
            json_count(out, "first_use", buffer->first_use);
            json_count(out, "last_use", buffer->last_use);
            json_end(out, '}');
        }
        json_end(out, ']');
        json_end(out, '}');
    }
    json_end(out, ']');
}
