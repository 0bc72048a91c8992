/* Making errors. A failing function ends in `return fail(err, CODE, "what, where, found,
 * allowed")`; a caller on the way up may put in front where it was with error_context, never
 * re-word. */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include "serverd/status.h"

/* Fill *err and return `code`. Long texts are cut at a UTF-8 border. */
serverd_status fail(serverd_error *err, serverd_status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Put "context: " in front of err->text and return err->code. */
serverd_status error_context(serverd_error *err, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* "invalid", "corrupt", ...: for logs and metrics. */
const char *status_name(serverd_status code);

#endif
