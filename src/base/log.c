#include "base/log.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "base/utf8.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* A write of up to PIPE_BUF bytes does not block on a pipe that poll calls writable. */
#define WRITE_BYTES 4096u
/* How long log_destroy waits for a reader that does not read. */
#define FLUSH_NS 1000000000u
#define POLL_MS  100

#define PREFIX_BYTES 160u
#define LINE_BYTES   (PREFIX_BYTES + LIMIT_LOG_TEXT_BYTES + 8)
#define FIELD_BYTES  48u /* a number, or quotes and some of the text */

struct log {
    int fd;
    enum log_format format;
    enum log_level level;
    _Atomic uint64_t n_dropped; /* relaxed: a statistic */
    pthread_t writer;

    pthread_mutex_t mutex; /* guards the fields below */
    pthread_cond_t wake;   /* there are bytes, or the end has come */
    uint64_t n_unreported; /* dropped lines since the last report */
    size_t head, used;     /* the oldest byte, and how many there are */
    bool is_ending;
    char ring[LIMIT_LOG_RING_BYTES];
};

struct line {
    size_t len;
    char bytes[LINE_BYTES];
};

static const char *const level_names[] = {"debug", "info", "warn", "error", "off"};

/* ---- one line ---- */

static bool is_bidi_control(uint32_t c)
{
    return c == 0x061c || c == 0x200e || c == 0x200f || (c >= 0x202a && c <= 0x202e) ||
           (c >= 0x2066 && c <= 0x2069);
}

/* Controls could forge lines or drive a terminal; line separators and bidirectional controls
 * could make a line look like another one. */
static bool is_unsafe(uint32_t c)
{
    return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x2028 || c == 0x2029 || is_bidi_control(c);
}

/* How the character at bytes[0..n-1] is shown; returns how many bytes it takes. */
static size_t show_character(const char *bytes, size_t n, enum log_format format, char out[8])
{
    uint32_t c;
    size_t used = utf8_decode(bytes, n, &c);
    if (c == '\n')
        memcpy(out, "\\n", 3);
    else if (is_unsafe(c))
        (void)snprintf(out, 8, "\\u%04x", (unsigned)c); /* at most 2069: fits */
    else if (c == UTF8_REPLACEMENT)
        memcpy(out, "\xef\xbf\xbd", 4);
    else if (format == LOG_JSON && (c == '"' || c == '\\')) {
        out[0] = '\\';
        out[1] = (char)c;
        out[2] = '\0';
    } else {
        memcpy(out, bytes, used);
        out[used] = '\0';
    }
    return used;
}

static void append_shown(struct line *line, size_t end, const char *text, enum log_format format)
{
    size_t n = strlen(text);
    while (n > 0) {
        char shown[8];
        size_t used = show_character(text, n, format, shown), len = strlen(shown);
        if (len > end - line->len)
            return;
        memcpy(line->bytes + line->len, shown, len);
        line->len += len;
        text += used;
        n -= used;
    }
}

__attribute__((format(printf, 2, 3))) static void print(struct line *line, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    size_t room = sizeof line->bytes - line->len;
    int n = vsnprintf(line->bytes + line->len, room, format, args);
    va_end(args);
    if (n > 0)
        line->len += min_size((size_t)n, room - 1);
}

/* UTC with milliseconds: 2026-11-23T12:00:00.123Z. */
static void print_time(struct line *line)
{
    struct timespec now;
    struct tm utc = {0};
    (void)clock_gettime(CLOCK_REALTIME, &now); /* cannot fail for this clock */
    if (!gmtime_r(&now.tv_sec, &utc))
        utc = (struct tm){.tm_year = 70, .tm_mday = 1}; /* a year that does not fit */
    print(line, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", utc.tm_year + 1900, utc.tm_mon + 1,
          utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec, (int)(now.tv_nsec / 1000000));
}

static bool is_plain(const char *text)
{
    return *text != '\0' && text[strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                              "0123456789-_./:+@")] == '\0';
}

/* `end`: where the line's own end needs its room. Keys are ours and short. */
static void append_field(struct line *line, size_t end, enum log_format format,
                         const struct log_field *field)
{
    const bool is_json = format == LOG_JSON;
    if (!field->text && !field->is_number)
        return;
    if (line->len + strlen(field->key) + FIELD_BYTES > end)
        return;
    print(line, is_json ? ",\"%s\":" : " %s=", field->key);
    if (field->is_number) {
        print(line, field->number == floor(field->number) ? "%.0f" : "%.3f", field->number);
        return;
    }
    /* in quotes the text form escapes as JSON does, so that a value cannot look like a field */
    const char *quote = is_json || !is_plain(field->text) ? "\"" : "";
    print(line, "%s", quote);
    append_shown(line, end - 1, field->text, LOG_JSON);
    print(line, "%s", quote);
}

static void make_line(struct line *line, enum log_format format, enum log_level level,
                      const char *room, const char *text, const struct log_field *fields,
                      size_t n_fields)
{
    line->len = 0;
    if (format == LOG_JSON)
        print(line, "{\"time\":\"");
    print_time(line);
    print(line, format == LOG_JSON ? "\",\"level\":\"%s\",\"room\":\"" : " %-5s ",
          level_names[level]);
    append_shown(line, PREFIX_BYTES - 16, room, format);
    print(line, format == LOG_JSON ? "\",\"message\":\"" : ": ");
    append_shown(line, PREFIX_BYTES + LIMIT_LOG_TEXT_BYTES, text, format);
    if (format == LOG_JSON)
        print(line, "\"");
    for (size_t i = 0; i < n_fields; i++)
        append_field(line, PREFIX_BYTES + LIMIT_LOG_TEXT_BYTES, format, &fields[i]);
    print(line, format == LOG_JSON ? "}\n" : "\n");
}

/* ---- the ring; the mutex is held ---- */

static bool push(struct log *log, const struct line *line)
{
    if (line->len > sizeof log->ring - log->used)
        return false;
    size_t tail = (log->head + log->used) % sizeof log->ring;
    size_t first = min_size(line->len, sizeof log->ring - tail);
    memcpy(log->ring + tail, line->bytes, first);
    memcpy(log->ring, line->bytes + first, line->len - first);
    log->used += line->len;
    return true;
}

static void count_dropped(struct log *log, uint64_t n)
{
    log->n_unreported += n;
    atomic_fetch_add_explicit(&log->n_dropped, n, memory_order_relaxed);
}

/* After there is room again: how much is missing, at the place where it is missing. */
static void report_dropped(struct log *log)
{
    if (log->n_unreported == 0)
        return;
    char text[96];
    struct line line;
    (void)snprintf(text, sizeof text, "%llu lines dropped: the log was not read in time",
                   (unsigned long long)log->n_unreported); /* fits */
    make_line(&line, log->format, LOG_WARN, "log", text, NULL, 0);
    if (push(log, &line))
        log->n_unreported = 0;
}

/* ---- the writer thread ---- */

/* Up to WRITE_BYTES, or -1: EAGAIN if the reader is not reading, else the fd is useless. */
static ssize_t write_some(int fd, const char *bytes, size_t n)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int ready = poll(&p, 1, POLL_MS);
    if (ready == 0)
        errno = EAGAIN;
    if (ready <= 0)
        return -1;
    return write(fd, bytes, min_size(n, WRITE_BYTES));
}

static uint64_t count_lines(const char *bytes, size_t n)
{
    uint64_t n_lines = 0;
    for (size_t i = 0; i < n; i++)
        n_lines += bytes[i] == '\n';
    return n_lines;
}

/* The bytes at head are the writer's until it takes them off, so it reads them unlocked. */
static void *write_out(void *context)
{
    struct log *log = context;
    uint64_t deadline_ns = UINT64_MAX; /* set when the end has come */
    (void)pthread_mutex_lock(&log->mutex);
    for (;;) {
        while (log->used == 0 && !log->is_ending)
            (void)pthread_cond_wait(&log->wake, &log->mutex);
        if (log->is_ending && deadline_ns == UINT64_MAX)
            deadline_ns = clock_now_ns(&system_clock) + FLUSH_NS;
        if (log->used == 0 || clock_now_ns(&system_clock) >= deadline_ns)
            break;
        const char *bytes = log->ring + log->head;
        size_t n = min_size(log->used, sizeof log->ring - log->head);
        (void)pthread_mutex_unlock(&log->mutex);
        ssize_t put = write_some(log->fd, bytes, n);
        bool is_slow = put < 0 && (errno == EAGAIN || errno == EINTR);
        size_t done = put >= 0 ? (size_t)put : is_slow ? 0 : n;
        uint64_t n_lost = put < 0 && !is_slow ? count_lines(bytes, n) : 0;
        (void)pthread_mutex_lock(&log->mutex);
        log->head = (log->head + done) % sizeof log->ring;
        log->used -= done;
        if (n_lost > 0)
            count_dropped(log, n_lost);
        else if (done > 0)
            report_dropped(log);
    }
    (void)pthread_mutex_unlock(&log->mutex);
    return NULL;
}

/* Signals are for the other threads; a blocked SIGPIPE becomes EPIPE. */
static int start_writer(struct log *log)
{
    sigset_t all, before;
    (void)sigfillset(&all); /* cannot fail */
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    int reason = pthread_create(&log->writer, NULL, write_out, log);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return reason;
}

/* ---- the door ---- */

serverd_status log_create(int fd, enum log_level level, enum log_format format, struct log **out,
                          serverd_error *err)
{
    struct log *log = malloc(sizeof *log);
    if (!log)
        return fail(err, SERVERD_NOMEM, "log: no memory for %zu bytes", sizeof *log);
    log->fd = fd;
    log->format = format;
    log->level = level;
    atomic_init(&log->n_dropped, 0);
    log->n_unreported = 0;
    log->head = log->used = 0;
    log->is_ending = false;
    (void)pthread_mutex_init(&log->mutex, NULL); /* cannot fail with default attributes */
    (void)pthread_cond_init(&log->wake, NULL);
    int reason = start_writer(log);
    if (reason != 0) {
        (void)pthread_cond_destroy(&log->wake);
        (void)pthread_mutex_destroy(&log->mutex);
        free(log);
        errno = reason;
        return fail(err, SERVERD_NOMEM, "log: cannot start its thread: %m");
    }
    *out = log;
    return SERVERD_OK;
}

void log_destroy(struct log *log)
{
    if (!log)
        return;
    (void)pthread_mutex_lock(&log->mutex);
    log->is_ending = true;
    (void)pthread_cond_signal(&log->wake);
    (void)pthread_mutex_unlock(&log->mutex);
    (void)pthread_join(log->writer, NULL);
    (void)pthread_cond_destroy(&log->wake);
    (void)pthread_mutex_destroy(&log->mutex);
    free(log);
}

bool log_is_on(const struct log *log, enum log_level level)
{
    return log && level < LOG_OFF && level >= log->level;
}

uint64_t log_n_dropped(const struct log *log)
{
    return log ? atomic_load_explicit(&log->n_dropped, memory_order_relaxed) : 0;
}

static void put(struct log *log, const struct line *line)
{
    (void)pthread_mutex_lock(&log->mutex);
    bool was_empty = log->used == 0;
    if (!push(log, line))
        count_dropped(log, 1);
    else if (was_empty)
        (void)pthread_cond_signal(&log->wake);
    (void)pthread_mutex_unlock(&log->mutex);
}

void log_write(struct log *log, enum log_level level, const char *room, const char *format, ...)
{
    if (!log_is_on(log, level))
        return;
    char text[LIMIT_LOG_TEXT_BYTES] = "";
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args); /* a longer text is cut */
    va_end(args);
    struct line line;
    make_line(&line, log->format, level, room, text, NULL, 0);
    put(log, &line);
}

void log_record(struct log *log, enum log_level level, const char *room,
                const struct log_field *fields, size_t n_fields, const char *text)
{
    if (!log_is_on(log, level))
        return;
    struct line line;
    make_line(&line, log->format, level, room, text, fields, n_fields);
    put(log, &line);
}
