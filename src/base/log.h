/* Log lines, text or JSON, one line a record. Writers never block: a line goes into a bounded
 * ring that one thread writes out; when the ring is full the line is dropped and counted, and
 * the count is logged once there is room. Only server/ and tools/ log above debug. No prompts,
 * outputs or keys. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include "serverd/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR, LOG_OFF };
enum log_format { LOG_TEXT, LOG_JSON };

struct log;

/* Writes to fd, which stays the caller's. Starts the writer thread. */
serverd_status log_create(int fd, enum log_level level, enum log_format format, struct log **out,
                          serverd_error *err);
void log_destroy(struct log *log); /* writes what is left; NULL is fine */

bool log_is_on(const struct log *log, enum log_level level);
uint64_t log_n_dropped(const struct log *log);

/* `room` names the origin ("server", "engine"). log may be NULL: nothing happens. The text is
 * cut at 4 KiB; control and bidirectional-override characters are escaped. */
void log_write(struct log *log, enum log_level level, const char *room, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* A line with values of its own behind the text: members of the JSON object, or key=value in text
 * form. A field with neither text nor number is left out. */
struct log_field {
    const char *key;  /* a plain word that is none of time, level, room, message */
    const char *text; /* quoted in text form if it is no plain word, too */
    bool is_number;
    double number; /* whole, or shown with three digits behind the point */
};
void log_record(struct log *log, enum log_level level, const char *room,
                const struct log_field *fields, size_t n_fields, const char *text);

#define log_debug(log, room, ...) log_write(log, LOG_DEBUG, room, __VA_ARGS__)
#define log_info(log, room, ...)  log_write(log, LOG_INFO, room, __VA_ARGS__)
#define log_warn(log, room, ...)  log_write(log, LOG_WARN, room, __VA_ARGS__)
#define log_error(log, room, ...) log_write(log, LOG_ERROR, room, __VA_ARGS__)

#endif
