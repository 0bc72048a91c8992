/* Chat templates: Jinja2 as Hugging Face models use it (trim_blocks and lstrip_blocks on,
 * sandboxed: no host access). A compiled template is immutable and shared; each rendering has
 * its own arena and budget, so a hostile template ends with an error. */
#ifndef TEXT_CHAT_TEMPLATE_H
#define TEXT_CHAT_TEMPLATE_H

#include "base/buffer.h"
#include "base/clock.h"
#include "serverd/status.h"
#include "text/template_value.h"

struct chat_template;

/* Errors name line and column. The source is copied. */
serverd_status chat_template_compile(const char *source, size_t n, struct chat_template **out,
                                     serverd_error *err);
void chat_template_destroy(struct chat_template *tmpl);

struct template_budget {
    uint32_t max_steps, max_recursion;
    size_t max_output;
    uint64_t max_time_ns; /* of the processor */
};
struct template_budget template_budget_default(void); /* base/limits.h, 100 ms */

/* `globals` is a map: messages, tools, add_generation_prompt, bos_token, ... raise_exception,
 * strftime_now, namespace, range, dict, cycler, joiner are built in. strftime_now uses
 * clock->wall_seconds in local time. A raise_exception in the template is SERVERD_INVALID with
 * the template's message; a broken template or a spent budget likewise, saying so. */
serverd_status chat_template_render(const struct chat_template *tmpl, struct arena *arena,
                                    const struct template_value *globals,
                                    const struct template_budget *budget, const struct clock *clock,
                                    struct buffer *out, serverd_error *err);

#endif
