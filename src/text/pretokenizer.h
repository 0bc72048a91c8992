/* Pre-tokenizers: how text is cut into fragments before byte-pair merging. A table maps the
 * names that model files state (tokenizer.ggml.pre) to regular expressions. Immutable once
 * made; any thread. */
#ifndef TEXT_PRETOKENIZER_H
#define TEXT_PRETOKENIZER_H

#include "serverd/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pretokenizer;

/* SERVERD_UNSUPPORTED with the known names if there is none of that name; "" is "default". */
serverd_status pretokenizer_create(const char *name, struct pretokenizer **out, serverd_error *err);
void pretokenizer_destroy(struct pretokenizer *pre);

/* Whether models of this pre-tokenizer emit a fragment that is a token whole, whatever the merges
 * say. Errors as pretokenizer_create. */
serverd_status pretokenizer_ignores_merges(const char *name, bool *out, serverd_error *err);
/* Models of this pre-tokenizer begin with BOS unless their file says otherwise. */
bool pretokenizer_adds_bos(const char *name);

/* Lengths of the fragments, in order; they add up to the text. */
struct fragment_list {
    uint32_t *len;
    size_t n, cap;
};
void fragment_list_deinit(struct fragment_list *list);

/* `text` is valid UTF-8. `out` and `spare` are reused from call to call. */
serverd_status pretokenizer_split(const struct pretokenizer *pre, const char *text, size_t n,
                                  struct fragment_list *out, struct fragment_list *spare,
                                  serverd_error *err);

#endif
