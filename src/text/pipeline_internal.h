/* The steps between a text and a model's look-ups, as tokenizer.json states them: normalisers, then
 * pre-tokenisers, each over the fragments of the one before. They lie in the image's steps part;
 * expressions are compiled when a tokenizer is made, and then it is immutable. */
#ifndef TEXT_PIPELINE_INTERNAL_H
#define TEXT_PIPELINE_INTERNAL_H

#include "base/buffer.h"
#include "program/tokenizer_image.h"
#include "text/pretokenizer.h"

struct pipeline;

/* From a checked image; SERVERD_CORRUPT: an expression that does not compile. */
serverd_status pipeline_create(const struct tokenizer_image *image, struct pipeline **out,
                               serverd_error *err);
void pipeline_destroy(struct pipeline *pipeline);

/* A text in pieces: fragments behind each other, what is dropped is not in it. */
struct piece_text {
    struct buffer text;
    struct fragment_list fragments;
};

/* text[0..n-1], valid UTF-8, into out; `spare` is reused. is_first: it begins the whole text. */
serverd_status pipeline_run(const struct pipeline *pipeline, const char *text, size_t n,
                            bool is_first, struct piece_text *out, struct piece_text *spare,
                            serverd_error *err);

/* The two halves of that: what comes first is one fragment. */
serverd_status pipeline_normalise(const struct pipeline *pipeline, const char *text, size_t n,
                                  struct piece_text *out, struct piece_text *spare,
                                  serverd_error *err);
serverd_status pipeline_pretokenise(const struct pipeline *pipeline, const char *text, size_t n,
                                    bool is_first, struct piece_text *out, struct piece_text *spare,
                                    serverd_error *err);

/* Adds to flags[n_tokens] what is particular to special tokens: STEP_STRIPS_LEFT ..
 * STEP_IS_APART. */
void pipeline_mark_flags(const struct pipeline *pipeline, uint32_t n_tokens, uint8_t *flags);

/* ---- steps.c: normalisers, each appends to `out` ------------------------------------------------
 */

void step_unicode(enum vocabulary_step_kind kind, const char *text, size_t n, struct buffer *out);
void step_lowercase(const char *text, size_t n, struct buffer *out);
void step_strip_accents(const char *text, size_t n, struct buffer *out);
void step_strip(uint32_t flags, const char *text, size_t n, struct buffer *out);
void step_bert(uint32_t flags, const char *text, size_t n, struct buffer *out);
bool step_is_space(uint32_t code);

/* ---- charsmap.c: SentencePiece's table of replacements ------------------------------------------
 */

/* map[0..n_map-1]: u32 size of a double array, the array, texts that end in NUL; any bytes. */
void step_charsmap(const char *map, size_t n_map, const char *text, size_t n, struct buffer *out);

#endif
