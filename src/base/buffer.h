/* A growing, bounded run of bytes. After a failed append (limit or memory) the buffer is
 * `is_failed` and ignores further appends, so a writer checks once at the end. The bytes are
 * always followed by a NUL that does not count. */
#ifndef BASE_BUFFER_H
#define BASE_BUFFER_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer {
    char *data; /* NULL while empty and never grown */
    size_t len, cap, limit;
    bool is_failed;
};

void buffer_init(struct buffer *b, size_t limit);
void buffer_deinit(struct buffer *b);
void buffer_reset(struct buffer *b); /* empty and usable again, memory kept */

/* Room for n more bytes at once, where their number is known before they come. */
void buffer_reserve(struct buffer *b, size_t n);
void buffer_append(struct buffer *b, const void *bytes, size_t n);
void buffer_append_str(struct buffer *b, const char *s);
void buffer_append_char(struct buffer *b, char c);
void buffer_printf(struct buffer *b, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* bytes[0..n-1] as the inside of a JSON string (no quotes): ", \, controls escaped, valid UTF-8
 * kept as it is, invalid bytes replaced by U+FFFD. */
void buffer_append_json(struct buffer *b, const char *bytes, size_t n);

/* The same with its quotes: a whole string. */
void buffer_append_json_string(struct buffer *b, const char *bytes, size_t n);

/* A text inside HTML or the value of an attribute. */
void buffer_append_html(struct buffer *b, const char *text);

void buffer_append_u64(struct buffer *b, uint64_t x);

/* Shortest decimal that reads back to the same float / double; never NaN or infinity (0). */
void buffer_append_f32(struct buffer *b, float x);
void buffer_append_f64(struct buffer *b, double x);

/* Drop the first n bytes. */
void buffer_consume(struct buffer *b, size_t n);

/* Hand the bytes over (NUL-terminated, free() them); the buffer is empty then. NULL if failed. */
char *buffer_take(struct buffer *b, size_t *len);

/* Contents, "" while empty. */
const char *buffer_str(const struct buffer *b);

#endif
