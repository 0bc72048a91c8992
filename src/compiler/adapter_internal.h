/* Between the readers of adapter files (adapter_gguf.c, adapter_peft.c) and what makes an adapter
 * of them (adapter_import.c). Plain data, single-threaded. */
#ifndef COMPILER_ADAPTER_INTERNAL_H
#define COMPILER_ADAPTER_INTERNAL_H

#include "compiler/adapter_import.h"
#include "compiler/source.h"

/* The two matrices of one site as the file has them: A [rank][n_in], B [n_out][rank]. */
struct adapter_pair {
    const char *tensor;                /* canonical: "blk.0.attn_q.weight" */
    const char *module;                /* as the file calls it, for errors */
    const struct source_tensor *a, *b; /* NULL: not come across yet */
    double scale;
};

struct adapter_source {
    struct source source; /* its tensors and what they lie in */
    char name[128];
    bool rotates_halves;        /* rows of Q and K: as source.rotates_halves */
    struct adapter_pair *pairs; /* in the source's arena */
    uint32_t n_pairs;
};

/* The pair of that tensor, made if need be. At most LIMIT_ADAPTER_SITES. */
serverd_status adapter_pair_of(struct adapter_source *from, const char *tensor, const char *module,
                               struct adapter_pair **out, serverd_error *err);

/* Each fills in a zeroed adapter_source, which the caller closes whatever is returned. */
serverd_status adapter_read_gguf(const char *path, const struct program *base,
                                 struct adapter_source *out, serverd_error *err);
serverd_status adapter_read_peft(const char *folder, const struct program *base,
                                 struct adapter_source *out, serverd_error *err);

#endif
