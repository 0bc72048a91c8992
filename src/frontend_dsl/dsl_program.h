/* A generation program: a Lua source text that was run once and whose `program{..}` was checked.
 * Runs execute the text again, each in a sandbox of its own.
 *
 * Immutable and reference-counted; any thread. */
#ifndef FRONTEND_DSL_DSL_PROGRAM_H
#define FRONTEND_DSL_DSL_PROGRAM_H

#include "frontend_dsl/dsl_error.h"
#include "frontend_dsl/dsl_limits.h"
#include "frontend_dsl/sandbox.h"
#include "frontend_dsl/type_spec.h"

#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

struct dsl_tool {
    char *name;
    char *doc; /* "" if there is none */
    struct type_spec *params;
    bool is_external; /* no `run`: the client runs it */
};

struct dsl_program {
    _Atomic unsigned n_references;
    char name[DSL_NAME_BYTES];
    char *source;
    size_t n_source;
    char sha256[65];     /* of the source, hex */
    char *version, *doc; /* "" if there is none */
    struct type_spec *args;
    struct type_spec *returns; /* NULL: anything */
    struct dsl_tool *tools;    /* [n_tools], by name */
    size_t n_tools;
    json_t *defaults; /* options of gen, an object; do not change */
    json_t *limits;   /* an object that dsl_limits_lower takes; do not change */
};

/* Runs the text in a sandbox under `limits` and checks what it returns. `name` must be a valid
 * program name. err: syntax_error, bad_program, or what the text failed with; with line, and
 * `program` set. */
serverd_status dsl_program_read(const char *name, const char *source, size_t n,
                                const struct dsl_limits *limits, struct dsl_program **out,
                                struct dsl_error *err);

struct dsl_program *dsl_program_ref(struct dsl_program *program);
void dsl_program_unref(struct dsl_program *program);

/* True if [a-z0-9_-]{1,64}. */
bool dsl_program_name_is_valid(const char *name);

/* Runs the text again in `sandbox`, in slices: go_on until *is_done, or an error; then the
 * program's table is on the main state's stack. Natives are registered before: the text may keep
 * them in locals. */
serverd_status dsl_program_begin(const struct dsl_program *program, struct sandbox *sandbox,
                                 lua_State **task, struct dsl_error *err);
serverd_status dsl_program_go_on(const struct dsl_program *program, struct sandbox *sandbox,
                                 lua_State *task, bool *is_done, struct dsl_error *err);

const struct dsl_tool *dsl_program_tool(const struct dsl_program *program, const char *name);

/* Section GET /v1/programs/NAME: {name, version, doc, sha256, args_schema, returns_schema, tools:
 * [{name, doc, parameters, external}], defaults, limits}; a new reference, NULL: no memory. */
json_t *dsl_program_describe(const struct dsl_program *program);

/* Sets the global `program`. For sandbox_create. */
void dsl_program_open(lua_State *L);

#endif
