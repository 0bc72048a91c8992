/* Errors of generation programs: what a run, a source text or a request's arguments failed with.
 * Inside Lua an error is a table (sandbox.h, dsl_raise); this is the same for C, HTTP and tools.
 *
 * A plain struct of one owner; `traceback` and `detail` are its references. */
#ifndef FRONTEND_DSL_DSL_ERROR_H
#define FRONTEND_DSL_DSL_ERROR_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#define DSL_CODE_BYTES    32u
#define DSL_NAME_BYTES    65u /* a program's name, [a-z0-9_-]{1,64}, and its end */
#define DSL_BRANCH_BYTES  128u
#define DSL_MESSAGE_BYTES 512u

struct dsl_error {
    char code[DSL_CODE_BYTES];       /* "": none */
    char message[DSL_MESSAGE_BYTES]; /* without the position: dsl_error_text */
    char param[128];                 /* of a request: "args.k", or "" */
    char program[DSL_NAME_BYTES];
    char branch[DSL_BRANCH_BYTES]; /* "0.1.3", or "" */
    int32_t line;                  /* 0: not known */
    json_t *traceback;             /* [{func, program, line}], innermost first; NULL: none */
    json_t *detail;                /* NULL: none */
};

void dsl_error_init(struct dsl_error *err);   /* none; owns nothing */
void dsl_error_deinit(struct dsl_error *err); /* gives its references back, and is none again */

/* Makes *err, which must have been initialised, this error; what it was before is dropped. Long
 * texts are cut at a UTF-8 border. */
void dsl_error_set(struct dsl_error *err, const char *code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Moves `from` to *to, whose former content is dropped; `from` is none then. */
void dsl_error_move(struct dsl_error *to, struct dsl_error *from);
void dsl_error_copy(struct dsl_error *to, const struct dsl_error *from);

/* "react:14: attempt to index a nil value": the position, as far as it is known, and the message;
 * cut to `size` bytes with the end's. */
void dsl_error_text(const struct dsl_error *err, char *out, size_t size);

/* {message (with the position), type "program_error", code, param, line, program, branch, detail,
 * traceback}, null where there is nothing: a new reference; NULL: no memory. */
json_t *dsl_error_json(const struct dsl_error *err);

#endif
