/* What a run says: a table on standard output, JSON lines in a file, and a line of progress on
 * standard error while it is a terminal. */
#ifndef TOOLS_BENCH_REPORT_H
#define TOOLS_BENCH_REPORT_H

#include "serverd/status.h"
#include "tools/bench/stats.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* ---- tables ---- */

#define TABLE_COLUMNS 16u
#define TABLE_CELLS   4096u /* further ones are dropped */
#define CELL_BYTES    72u   /* longer texts are cut */

struct table {
    size_t n_columns, n_cells;
    const char *header[TABLE_COLUMNS]; /* one that starts with < is of text, aligned left */
    char (*cell)[CELL_BYTES];          /* [TABLE_CELLS], row by row */
};

/* `headers` outlive the table. */
serverd_status table_init(struct table *table, size_t n_columns, const char *const *headers,
                          serverd_error *err);
void table_deinit(struct table *table);
void table_cell(struct table *table, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* As Markdown, columns padded to their widest cell. */
void table_print(const struct table *table, FILE *to);

/* ---- JSON lines ---- */

struct json_lines {
    FILE *file; /* NULL: none are wanted */
    const char *path;
};

/* path NULL: none. An existing file is continued. */
serverd_status json_lines_open(struct json_lines *lines, const char *path, serverd_error *err);
void json_lines_close(struct json_lines *lines);

/* Takes the object over; NULL stands for one that memory was missing for. */
serverd_status json_lines_add(struct json_lines *lines, json_t *object, serverd_error *err);

/* {"mean": ..., "stddev": ..., "min": ..., "max": ..., "n": ...} */
json_t *json_of_samples(const struct samples *samples);

/* ---- progress ---- */

/* Overwrites the line; nothing unless standard error is a terminal. */
void progress_show(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* [#####.....] in front of the text. */
void progress_bar(double share, const char *format, ...) __attribute__((format(printf, 2, 3)));
void progress_clear(void);

#endif
