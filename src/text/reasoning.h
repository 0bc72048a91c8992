/* Where reasoning begins and ends in what a model writes, token by token: for whoever rules the
 * tokens while they are made (budgets, stop strings, grammars). What the parts of a reply are says
 * stream_parser.h; both look for the same marks in the same way. */
#ifndef TEXT_REASONING_H
#define TEXT_REASONING_H

#include "text/call_pattern.h"
#include "text/tool_family.h"

/* The marks of one model, immutable. */
struct reasoning_marks {
    struct mark open, close; /* of no length: the model writes no reasoning */
    int32_t open_token;      /* the one token that the opening mark is, -1: it is several */
    int32_t close_tokens[MARK_BYTES]; /* as the tokenizer cuts the closing mark */
    uint32_t n_close_tokens;          /* 0: the vocabulary cannot write it */
};

/* format NULL: no marks. */
serverd_status reasoning_marks_init(struct reasoning_marks *marks,
                                    const struct tokenizer *tokenizer,
                                    const struct reasoning_format *format, serverd_error *err);

/* Where one text is. One thread. */
struct reasoning_track {
    bool is_open;      /* in a block */
    bool is_at_start;  /* no text but white space outside of blocks so far */
    uint32_t n_tokens; /* of reasoning so far, closing marks not counted */
    uint32_t n_recent; /* of the last bytes, which may become a mark */
    char recent[MARK_BYTES];
    uint64_t control;            /* bit i: the byte before the i-th last was of a control token */
    uint32_t number[MARK_BYTES]; /* which token they were of */
    uint32_t n_pushed;           /* tokens, those with a mark's end in them not counted */
    uint32_t n_before;           /* of the last opening mark: tokens before the one that ended it */
};

/* is_open: the prompt ends inside of a block. */
void reasoning_track_begin(struct reasoning_track *track, bool is_open);

/* One more token: its text and whether it is a control token. */
void reasoning_track_push(struct reasoning_track *track, const struct reasoning_marks *marks,
                          const char *bytes, size_t n, bool is_control);

#endif
