/* A sandbox for tests: texts are run in it, and answer a value or an error. */
#ifndef TESTS_FRONTEND_DSL_LUA_FIXTURE_H
#define TESTS_FRONTEND_DSL_LUA_FIXTURE_H

#include "frontend_dsl/sandbox.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* The usual limits, less processor time. */
struct sandbox_limits usual_limits(void);

/* Runs `source` in a new sandbox, in slices of `slice_ns`, and gives back its first value as a JSON
 * text, or its error as "code: program:line: message"; free(). `err` NULL: dropped, else the
 * caller's, initialised. */
char *run_text(const struct sandbox_limits *limits, const char *source, struct dsl_error *err);
char *run_sliced(const struct sandbox_limits *limits, uint64_t slice_ns, const char *source,
                 struct dsl_error *err);

/* `source` answers this text, or fails with this code. */
void expect_text(const char *source, const char *value);
void expect_error(const char *source, const char *code);

#endif
