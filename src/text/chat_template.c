#include "text/chat_template.h"

#include "base/error.h"
#include "base/limits.h"
#include "text/jinja/eval.h"

#include <stdlib.h>

struct chat_template {
    struct arena *arena; /* source, tokens, tree */
    struct node *body;
};

void chat_template_destroy(struct chat_template *tmpl)
{
    if (tmpl)
        arena_destroy(tmpl->arena);
    free(tmpl);
}

serverd_status chat_template_compile(const char *source, size_t n, struct chat_template **out,
                                     serverd_error *err)
{
    struct jinja_tokens tokens = {0};
    struct chat_template *tmpl = calloc(1, sizeof *tmpl);
    if (tmpl)
        tmpl->arena = arena_create(LIMIT_TEMPLATE_MEMORY);
    serverd_status status = tmpl && tmpl->arena
                                ? jinja_lex(tmpl->arena, source, n, &tokens, err)
                                : fail(err, SERVERD_NOMEM, "chat template: out of memory");
    if (!status)
        status = jinja_parse(tmpl->arena, &tokens, &tmpl->body, err);
    if (status)
        chat_template_destroy(tmpl);
    else
        *out = tmpl;
    return status;
}

struct template_budget template_budget_default(void)
{
    return (struct template_budget){LIMIT_TEMPLATE_STEPS, LIMIT_TEMPLATE_RECURSION,
                                    LIMIT_TEMPLATE_OUTPUT, 100000000u};
}

serverd_status chat_template_render(const struct chat_template *tmpl, struct arena *arena,
                                    const struct template_value *globals,
                                    const struct template_budget *budget, const struct clock *clock,
                                    struct buffer *out, serverd_error *err)
{
    struct scope top = {.names = template_map(arena)};
    struct eval ev = {.arena = arena,
                      .globals = globals,
                      .budget = budget,
                      .clock = clock,
                      .out = out,
                      .scope = &top,
                      .err = err,
                      .deadline_ns = clock_now_ns(&processor_clock) + budget->max_time_ns};
    int leave = 0;
    if (!top.names)
        return fail(err, SERVERD_NOMEM, "chat template: out of memory");
    (void)eval_body(&ev, tmpl->body, &leave);
    if (out->is_failed)
        (void)eval_fail(&ev, "text longer than %zu bytes", budget->max_output);
    return ev.status;
}
