/* Type specs: what arguments, results and parameters of tools are declared with.
 *
 *     "string"                                       short for {type = "string"}
 *     {type = "list", items = "int", min = 1}        also default, doc, enum, pattern, min, max
 *     {type = "object", fields = {name = "string", year = {type = "int", default = 0}}}
 *
 * Types: string int float bool list object image json. Nothing is converted, except that 3.0 is an
 * int and 3 a float. `min` and `max` bound values, bytes of strings and lengths of lists. A field
 * without default is required, one that is not declared is refused.
 *
 * Immutable once made; any thread. */
#ifndef FRONTEND_DSL_TYPE_SPEC_H
#define FRONTEND_DSL_TYPE_SPEC_H

#include "frontend_dsl/dsl_error.h"
#include "serverd/status.h"

#include <jansson.h>
#include <stdint.h>

struct type_spec;

/* A spec from what the program wrote, as JSON (dsl_json_read): an object or a name. `path`
 * ("args.k") begins messages. Patterns are compiled until `deadline_ns` of processor_clock. err:
 * bad_program. */
serverd_status type_spec_read(const json_t *source, const char *path, uint64_t deadline_ns,
                              struct type_spec **out, struct dsl_error *err);

/* The object whose fields are declared by {name: spec, ..}; NULL: it has none. */
serverd_status type_spec_read_fields(const json_t *fields, const char *path, uint64_t deadline_ns,
                                     struct type_spec **out, struct dsl_error *err);

void type_spec_destroy(struct type_spec *spec);

/* Checks a value and gives it back with defaults filled in and numbers of the declared kind: a new
 * reference. NULL is a missing value, for an object as {}. The first breach is the error: `code`,
 * param and message with its path, which begins with `path`. */
serverd_status type_spec_complete(const struct type_spec *spec, const json_t *value,
                                  const char *path, const char *code, json_t **out,
                                  struct dsl_error *err);

/* JSON Schema 2020-12, a new reference; NULL: no memory. */
json_t *type_spec_schema(const struct type_spec *spec);

#endif
