/* What one run may use. The server's options are the upper bounds; a program's `limits` table and
 * a request's `limits` object may lower each. The names are those of the API and of the options
 * (`--programs-NAME`). */
#ifndef FRONTEND_DSL_DSL_LIMITS_H
#define FRONTEND_DSL_DSL_LIMITS_H

#include "serverd/status.h"

#include <jansson.h>
#include <stdint.h>

/* X(type, name, default, least) */
#define DSL_LIMITS(X)                                                                              \
    X(uint64_t, instructions, 50000000, 1000)                                                      \
    X(uint32_t, cpu_ms, 5000, 1)                                                                   \
    X(uint32_t, deadline_s, 300, 1) /* without waits for tools */                                  \
    X(uint32_t, tool_wait_s, 600, 1)                                                               \
    X(uint32_t, tool_pin_s, 30, 0)                                                                 \
    X(uint32_t, memory_mb, 32, 1)                                                                  \
    X(uint32_t, max_args_kb, 1024, 1)                                                              \
    X(uint32_t, max_result_kb, 1024, 1)                                                            \
    X(uint32_t, max_log_kb, 64, 0)                                                                 \
    X(uint32_t, max_branches, 256, 0)                                                              \
    X(uint32_t, max_gens, 2000, 0)                                                                 \
    X(uint32_t, max_call_depth, 8, 0)                                                              \
    X(uint32_t, default_max_tokens, 256, 1)                                                        \
    X(uint64_t, max_total_tokens, 262144, 1) /* distinct literal and generated ones */

struct dsl_limits {
#define DSL_LIMIT_FIELD(type, name, value, least) type name;
    DSL_LIMITS(DSL_LIMIT_FIELD)
#undef DSL_LIMIT_FIELD
};

struct dsl_limits dsl_limits_default(void);

/* Lowers *limits by an object {name: integer}; NULL: nothing. SERVERD_INVALID for a name that is no
 * limit, a value that is no integer or below the least: *limits is then as it was. A value above
 * the present one changes nothing. */
serverd_status dsl_limits_lower(struct dsl_limits *limits, const json_t *lower, serverd_error *err);

#endif
