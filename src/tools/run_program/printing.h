/* What serverd-run writes: values to standard output; events, logs, tables and errors to standard
 * error. Texts come from a model: control characters but newline and tab are shown as `?`, so that
 * they cannot steer a terminal. */
#ifndef TOOLS_RUN_PROGRAM_PRINTING_H
#define TOOLS_RUN_PROGRAM_PRINTING_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

struct printer {
    FILE *out, *log;
    bool shows_stream; /* deltas, custom events, branches */
    char last[256];    /* whose delta was printed last: "" or "BRANCH NAME" */
    bool is_in_line;   /* the log's cursor is not at a line's beginning */
};

/* One event as the user sees it; those that say nothing to a reader are left out. */
void print_event(struct printer *printer, const char *name, const json_t *data);

/* The event as a line of JSON on `out`. */
void print_event_json(struct printer *printer, const char *name, const json_t *data);

/* A string as it is, everything else as JSON over several lines. */
void print_value(struct printer *printer, const json_t *value);
void print_json(struct printer *printer, const json_t *value);      /* always JSON */
void print_json_line(struct printer *printer, const json_t *value); /* on one line */

/* The table of a run's trace and its usage; nothing if it has none. */
void print_trace(struct printer *printer, const json_t *run);

/* An error object: message and traceback. `where` may be NULL. */
void print_error(struct printer *printer, const char *where, const json_t *error);

/* A program's name, arguments, tools and limits on `out`. `name`: if it says none. */
void print_description(struct printer *printer, const char *name, const json_t *description);

#endif
