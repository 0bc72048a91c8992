/* A compiled model: what it is, what it computes, and its text tables. Made by compiler/, read
 * by everyone else; nothing past the compiler knows where a model came from. Immutable after
 * it is checked, reference-counted, any thread.
 *
 * All memory of a program lies in its arena or in the mapped files it keeps; both end with the
 * last reference. */
#ifndef PROGRAM_PROGRAM_H
#define PROGRAM_PROGRAM_H

#include "base/arena.h"
#include "base/file.h"
#include "program/vocabulary.h"
#include "serverd/delegate.h"

#include <stdbool.h>
#include <stdint.h>

struct program_config {
    char architecture[32]; /* "llama" */
    char name[128];        /* general.name, may be "" */
    char quantisation[16]; /* the type most weights have, "Q4_1" */
    uint32_t n_layers, n_embd, n_vocab;
    uint32_t context_length; /* tokens: trained limit */
    bool is_encoder;         /* output is an embedding or scores; no KV state */
    uint32_t pooling;        /* serverd_pooling, of encoders */
    uint32_t n_scores; /* of encoders that judge pairs of texts; 0: the output is an embedding */
    uint64_t n_parameters, weight_bytes;
};

struct program_template {
    const char *name; /* "default", "tool_use", ... */
    const char *source;
    uint32_t len;
};

/* The model's own recommendation; a field is valid if its has_ flag is set. */
struct program_sampling {
    bool has_temperature, has_top_k, has_top_p, has_min_p, has_repetition_penalty;
    float temperature, top_p, min_p, repetition_penalty;
    int32_t top_k;
};

/* A tensor as some back-end wants it, in a mapped program file. */
struct program_form {
    uint32_t tensor, layout; /* as serverd_form's */
    const void *data;
    uint64_t bytes;
};

/* How a delegate of that name shares memory between the values of these nodes, for limits up to
 * these (serverd_plan). */
struct program_plan {
    const char *delegate;
    uint32_t first_node, n_nodes;
    serverd_limits limits;
    serverd_plan plan;
};

struct program {
    struct program_config config;
    const char *license; /* as the source names it; NULL: it does not, or the program is a file's */
    serverd_graph graph; /* n_nodes 0: a vocabulary-only file */
    serverd_kv_spec kv;  /* n_layers 0 for encoders; dtype is filled in by runtime */
    struct vocabulary vocabulary;
    struct program_sampling sampling;
    const struct program_template *templates;
    uint32_t n_templates;

    /* Of programs from a program file; by tensor, then layout. A tensor with the flag
     * SERVERD_TENSOR_PACKED has these and no data. */
    const struct program_form *forms;
    uint32_t n_forms;
    const struct program_plan *plans; /* checked: nothing overlaps */
    uint32_t n_plans;
    bool has_id;
    uint8_t id[32]; /* SHA-256 of what decides the logits */

    struct arena *arena;
    struct mapping *mappings; /* files the tensors point into */
    uint32_t n_mappings;
    uint64_t read_bytes; /* of its own file, all but the weights: read when it is opened */
    uint32_t references; /* atomic */
};

/* An empty program with its arena (at most `limit_bytes`) and one reference; NULL: no memory. */
struct program *program_create(size_t limit_bytes);
struct program *program_ref(struct program *program);
void program_unref(struct program *program); /* NULL is fine */

/* Check everything that execution relies on: operands in range and produced before use, shapes
 * of every node (op.h), head counts, finite constants, tensors inside their bytes. */
serverd_status program_check(const struct program *program, serverd_error *err);

/* Elements of a row of the output: logits, embedding or scores. */
uint32_t program_output_width(const struct program_config *config);

/* The tensor in that layout, NULL if the program has no such form. */
const struct program_form *program_find_form(const struct program *program, uint32_t tensor,
                                             uint32_t layout);

/* The template of that name, NULL if there is none. */
const struct program_template *program_find_template(const struct program *program,
                                                     const char *name);

/* The tensor's bytes leave memory until somebody reads them again, if they lie in a file. */
void program_forget_tensor(const struct program *program, uint32_t tensor);

/* Zeroed memory for tensors of a program that is being made; lives as long as it. Pages that are
 * let go of (program_forget_tensor) come back, and what is never written takes no room. */
serverd_status program_add_store(struct program *program, size_t bytes, uint8_t **out,
                                 serverd_error *err);

/* -1 if there is none. */
int64_t program_find_tensor(const struct program *program, const char *name);

#endif
