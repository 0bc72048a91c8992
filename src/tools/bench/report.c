#include "tools/bench/report.h"

#include "base/error.h"
#include "base/numeric.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- tables ---- */

serverd_status table_init(struct table *table, size_t n_columns, const char *const *headers,
                          serverd_error *err)
{
    *table = (struct table){.n_columns = min_size(n_columns, TABLE_COLUMNS),
                            .cell = calloc(TABLE_CELLS, CELL_BYTES)};
    if (!table->cell)
        return fail(err, SERVERD_NOMEM, "table: no memory");
    for (size_t i = 0; i < table->n_columns; i++)
        table->header[i] = headers[i];
    return SERVERD_OK;
}

void table_deinit(struct table *table)
{
    free(table->cell);
    *table = (struct table){0};
}

void table_cell(struct table *table, const char *format, ...)
{
    if (table->n_cells == TABLE_CELLS)
        return;
    va_list list;
    va_start(list, format);
    (void)vsnprintf(table->cell[table->n_cells++], CELL_BYTES, format, list);
    va_end(list);
}

/* Columns on a terminal: bytes that do not continue a UTF-8 sequence. */
static size_t width_of(const char *text)
{
    size_t n = 0;
    for (; *text; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

static bool is_left(const struct table *table, size_t column)
{
    return table->header[column][0] == '<';
}

static const char *title(const struct table *table, size_t column)
{
    return table->header[column] + is_left(table, column);
}

static void print_cell(const char *text, size_t width, bool left, FILE *to)
{
    int padding = (int)(width - width_of(text));
    if (left)
        (void)fprintf(to, "| %s%*s ", text, padding, "");
    else
        (void)fprintf(to, "| %*s%s ", padding, "", text);
}

void table_print(const struct table *table, FILE *to)
{
    size_t width[TABLE_COLUMNS] = {0}, n_rows = table->n_cells / table->n_columns;
    for (size_t c = 0; c < table->n_columns; c++) {
        width[c] = max_size(width_of(title(table, c)), 2);
        for (size_t r = 0; r < n_rows; r++)
            width[c] = max_size(width[c], width_of(table->cell[r * table->n_columns + c]));
        print_cell(title(table, c), width[c], is_left(table, c), to);
    }
    (void)fputs("|\n", to);
    for (size_t c = 0; c < table->n_columns; c++) {
        (void)fputs("| ", to);
        for (size_t i = 0; i < width[c]; i++)
            (void)fputc(i + 1 == width[c] && !is_left(table, c) ? ':' : '-', to);
        (void)fputc(' ', to);
    }
    (void)fputs("|\n", to);
    for (size_t r = 0; r < n_rows; r++) {
        for (size_t c = 0; c < table->n_columns; c++)
            print_cell(table->cell[r * table->n_columns + c], width[c], is_left(table, c), to);
        (void)fputs("|\n", to);
    }
    (void)fflush(to);
}

/* ---- JSON lines ---- */

serverd_status json_lines_open(struct json_lines *lines, const char *path, serverd_error *err)
{
    *lines = (struct json_lines){.path = path};
    if (!path)
        return SERVERD_OK;
    lines->file = fopen(path, "ae");
    if (!lines->file)
        return fail(err, SERVERD_INVALID, "%s: cannot be written: %s", path, strerror(errno));
    return SERVERD_OK;
}

void json_lines_close(struct json_lines *lines)
{
    if (lines->file)
        (void)fclose(lines->file); /* every line was flushed and checked */
    lines->file = NULL;
}

serverd_status json_lines_add(struct json_lines *lines, json_t *object, serverd_error *err)
{
    if (!object)
        return fail(err, SERVERD_NOMEM, "JSON lines: no memory");
    bool is_good = true;
    if (lines->file)
        is_good = json_dumpf(object, lines->file, JSON_COMPACT | JSON_REAL_PRECISION(9)) == 0 &&
                  fputc('\n', lines->file) != EOF && fflush(lines->file) == 0;
    json_decref(object);
    return is_good ? SERVERD_OK : fail(err, SERVERD_INTERNAL, "%s: cannot be written", lines->path);
}

json_t *json_of_samples(const struct samples *samples)
{
    return json_pack("{s:f, s:f, s:f, s:f, s:I}", "mean", samples_mean(samples), "stddev",
                     samples_stddev(samples), "min", samples_min(samples), "max",
                     samples_max(samples), "n", (json_int_t)samples->n);
}

/* ---- progress ---- */

static void show(const char *prefix, const char *format, va_list list)
{
    if (!isatty(STDERR_FILENO))
        return;
    char text[160];
    (void)vsnprintf(text, sizeof text, format, list);
    (void)fprintf(stderr, "\r\033[K%s%s", prefix, text);
    (void)fflush(stderr);
}

void progress_show(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    show("", format, list);
    va_end(list);
}

void progress_bar(double share, const char *format, ...)
{
    char bar[] = "[..............................] ";
    for (size_t i = 0; i < 30; i++)
        if ((double)i < share * 30)
            bar[1 + i] = '#';
    va_list list;
    va_start(list, format);
    show(bar, format, list);
    va_end(list);
}

void progress_clear(void)
{
    progress_show("%s", "");
}
