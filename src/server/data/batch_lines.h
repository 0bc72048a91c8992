/* The lines of a batch's input: read one after the other, each with a bound, and taken apart.
 *   {"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{...}}
 * Lines end with a newline, the last one may lack it; those of white space alone do not count. */
#ifndef SERVER_DATA_BATCH_LINES_H
#define SERVER_DATA_BATCH_LINES_H

#include "base/buffer.h"
#include "base/file.h"
#include "base/limits.h"

#include <stdbool.h>

struct line_reader {
    struct file file;
    size_t max_line;
    uint64_t offset; /* of the block's end */
    char *block;
    size_t at, n; /* what is left of the block */
    struct buffer text;
    uint32_t n_lines;
};

struct batch_line {
    uint32_t number; /* from 1, as an editor counts */
    uint64_t offset; /* where it begins */
    const char *text;
    size_t n;         /* without the newline; of one that is too long the true length is unknown */
    bool is_too_long; /* more than max_line; the text is not there */
};

/* Takes the file over. */
serverd_status line_reader_init(struct line_reader *reader, struct file *file, size_t max_line,
                                serverd_error *err);
void line_reader_deinit(struct line_reader *reader); /* safe on {.file.fd = -1} */
void line_reader_rewind(struct line_reader *reader);

/* The next line, valid until the next call. *is_end: there is none. */
serverd_status line_reader_next(struct line_reader *reader, struct batch_line *line, bool *is_end,
                                serverd_error *err);

/* What a line asks for. */
struct batch_item {
    char custom_id[LIMIT_CUSTOM_ID + 1];
    char *body; /* JSON, NUL-terminated; batch_item_release */
    size_t n_body;
    char model[LIMIT_CUSTOM_ID + 1]; /* of the body; "": none, or too long a name */
};

struct batch_fault {
    const char *code, *param; /* param NULL: the line as a whole */
    char message[200];        /* never quotes the line */
};

/* endpoint: the only url that is allowed. False: *fault. */
bool batch_item_read(const char *text, size_t n, const char *endpoint, struct batch_item *out,
                     struct batch_fault *fault);
void batch_item_release(struct batch_item *item);

#endif
