/* What a daemon that serves a model takes of memory at most, when all its sequences are as long as
 * their context allows. */
#ifndef TOOLS_INSPECT_MEMORY_H
#define TOOLS_INSPECT_MEMORY_H

#include "tools/inspect/subject.h"

/* As serverd's options of the same names. */
struct memory_options {
    const char *device, *place;
    uint32_t context, seqs, prefill_chunk; /* context 0: what the model was trained for */
    serverd_dtype kv_dtype;
};

struct memory_facts {
    uint32_t context, seqs;
    bool is_whole;       /* the KV pages hold all contexts at once */
    uint64_t mapped;     /* of the program file, as far as it is read */
    uint64_t packed;     /* weights in forms that the file has not */
    uint64_t activation; /* of a step, where several values have one place after the other */
    uint64_t unshared;   /* the same, if each had a place of its own: not in the peak */
    uint64_t scratch;    /* what else the delegates take, and what passes between partitions */
    uint64_t kv;         /* all pages */
    uint64_t engine;     /* the program's own tables, the scheduler's, the prefix cache's; logits */
    uint64_t process;    /* code, libraries, threads, requests */
    uint64_t peak;
};

/* Nothing is packed or loaded. SERVERD_NOMEM: not one context fits. */
serverd_status memory_predict(const struct subject *subject, const struct memory_options *options,
                              struct memory_facts *out, serverd_error *err);

#endif
