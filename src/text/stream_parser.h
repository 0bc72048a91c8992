/* What a model writes, cut into content, reasoning and tool calls while its bytes come. The parts
 * do not depend on how the bytes are cut: what may still become a mark is held back, and released
 * unchanged if it was none. White space in front of a call or behind reasoning is no content. */
#ifndef TEXT_STREAM_PARSER_H
#define TEXT_STREAM_PARSER_H

#include "text/call_reader.h"
#include "text/tool_family.h"

struct tokenizer;

/* How one model writes, or the part of it that a request wants: tables and marks, immutable. */
struct stream_format;

/* family NULL: calls are content; reasoning NULL: so is reasoning. The tokenizer (NULL: none) says
 * which marks are control tokens. */
serverd_status stream_format_create(const struct tokenizer *tokenizer,
                                    const struct tool_family *family,
                                    const struct reasoning_format *reasoning,
                                    struct stream_format **out, serverd_error *err);
void stream_format_destroy(struct stream_format *format);

enum stream_part { STREAM_CONTENT, STREAM_REASONING, STREAM_OTHER };

/* Where the parts go. Texts are whole only at the end of the stream; they are not NUL-terminated.
 */
struct stream_sink {
    void (*content)(void *user, const char *text, size_t n);
    void (*reasoning)(void *user, const char *text, size_t n);
    /* A call begins; id "" if the model gives none. */
    void (*call)(void *user, const char *name, const char *id);
    void (*arguments)(void *user, const char *json, size_t n); /* of the last call */
    /* What the next n bytes that were pushed have become, those of control tokens not counted;
     * STREAM_OTHER: marks, calls, dropped white space. NULL: nobody asks. */
    void (*decided)(void *user, enum stream_part part, size_t n);
    void *user;
};

struct stream_parser_options {
    bool shows_control;     /* control tokens that are no marks are text */
    bool is_reasoning_open; /* the prompt ends inside the block (reasoning_is_open) */
    /* Something makes sure that what begins as a call is one (a grammar): arguments are given out
     * as they come. Else a call is given out when it is complete. */
    bool trusts_calls;
    uint32_t max_calls; /* further ones are dropped; 0: no bound but LIMIT_TOOL_CALLS */
    struct tool_types types;
    struct stream_sink sink;
};

struct stream_parser;

/* The format outlives the parser. NULL: no memory. */
struct stream_parser *stream_parser_create(const struct stream_format *format,
                                           const struct stream_parser_options *options);
void stream_parser_destroy(struct stream_parser *parser);

/* The next bytes. is_control: the text of a control token, which is no content. */
void stream_parser_push(struct stream_parser *parser, const char *bytes, size_t n, bool is_control);

/* The end; is_cut: by a limit, so a call that has begun is given out as far as it goes. */
void stream_parser_finish(struct stream_parser *parser, bool is_cut);

/* After the end: the last call was given out, but not all of it. */
bool stream_parser_has_cut_call(const struct stream_parser *parser);

#endif
