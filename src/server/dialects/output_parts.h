/* What one choice says, in the parts that dialects show: content, reasoning, tool calls. Tokens go
 * in as they come; parts come out in order, as far as the scheduler has released the text. One HTTP
 * thread at a time. */
#ifndef SERVER_DIALECTS_OUTPUT_PARTS_H
#define SERVER_DIALECTS_OUTPUT_PARTS_H

#include "base/metrics.h"
#include "text/detokenizer.h"
#include "text/stream_parser.h"

enum output_kind { OUTPUT_CONTENT, OUTPUT_REASONING, OUTPUT_CALL, OUTPUT_ARGUMENTS };

/* A run of one part; neighbours differ. */
struct output_part {
    enum output_kind kind;
    uint32_t call; /* which, from 0; of OUTPUT_CALL and OUTPUT_ARGUMENTS */
    size_t begin;  /* in `text`; of OUTPUT_CALL its id, a NUL, its name */
    size_t n;
};

struct output_parts {
    struct detokenizer detokenizer;
    struct stream_parser *parser; /* NULL: all is content */
    bool shows_control;           /* control tokens that are no marks are content */
    bool holds_reasoning;         /* until its block is over */
    struct buffer held;           /* such reasoning */
    struct buffer text;           /* of the parts below */
    struct buffer list;           /* struct output_part[] that have not been taken */
    struct buffer controls;       /* of control tokens that wait for the text before them */
    struct buffer piece;          /* released text on its way to the parser */
    struct buffer starts;         /* uint64_t[]: where tokens begin that are not decided */
    uint64_t n_bytes;             /* text of all tokens so far */
    uint64_t n_decided;
    uint32_t n_calls;
    bool has_cut_call;    /* at the end: the last one is not whole */
    uint32_t n_reasoning; /* tokens that are reasoning */
    enum tool_id_form id_form;
    struct metrics *metrics;
    const char *family;
    /* From the byte `begin` of the choice's text on `n` bytes are this part. NULL: nobody asks. */
    void (*decided)(void *user, enum stream_part part, uint64_t begin, uint64_t n);
    void *user;
};

struct output_setup {
    const struct tokenizer *tokenizer;
    const struct stream_format *format; /* NULL: all is content */
    bool skips_special;
    bool is_reasoning_open;
    bool holds_reasoning; /* a block of reasoning is given out when it is over */
    bool trusts_calls;    /* as in stream_parser_options */
    uint32_t max_calls;   /* 0: any number */
    enum tool_id_form id_form;
    struct tool_types types;
    struct metrics *metrics; /* counts reasoning and calls; NULL: nobody does */
    const char *family;      /* of calls, for them */
    void (*decided)(void *user, enum stream_part part, uint64_t begin, uint64_t n);
    void *user;
};

/* What setup points to outlives the parts, which do not move. False: no memory. */
bool output_parts_init(struct output_parts *parts, const struct output_setup *setup);
void output_parts_deinit(struct output_parts *parts);

/* A token whose text is shown. */
void output_parts_push(struct output_parts *parts, int32_t token);

/* Text before byte `release` can be given out; at the end all of it before `release`. is_cut: a
 * limit ended it. */
void output_parts_release(struct output_parts *parts, uint64_t release);
void output_parts_finish(struct output_parts *parts, uint64_t release, bool is_cut);

/* The parts that have gathered, n of them, and the text they point into; taken: gone. */
const struct output_part *output_parts_list(const struct output_parts *parts, size_t *n);
bool output_parts_has(const struct output_parts *parts, enum output_kind kind);
void output_parts_taken(struct output_parts *parts);

/* Of a call's part. */
const char *output_call_id(const struct output_parts *parts, const struct output_part *part);
const char *output_call_name(const struct output_parts *parts, const struct output_part *part);

#endif
