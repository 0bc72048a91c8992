/* A model that a tool looks at: a program file, or anything that compiles, which is compiled in
 * memory then. Nothing is packed and no device is opened, so that looking costs milliseconds. One
 * thread. */
#ifndef TOOLS_INSPECT_SUBJECT_H
#define TOOLS_INSPECT_SUBJECT_H

#include "program/program.h"
#include "program/sdp_file.h"
#include "runtime/delegate_file.h"
#include "runtime/placement.h"
#include "runtime/worker_pool.h"

struct subject {
    const char *path; /* the caller's */
    struct program *program;
    bool is_program_file;
    struct sdp_file file; /* of a program file; zeros otherwise */
    struct worker_pool *pool;
    struct delegate_list delegates; /* those that a daemon would have */
    serverd_host host;
    struct placement *placement; /* NULL until subject_place, and of files without a graph */
};

/* `delegates`: as serverd's option --delegate, NULL: none but those that are built in or installed.
 * threads 0: as many as the process may use. On failure, too, *subject is to be closed. */
serverd_status subject_open(struct subject *subject, const char *path, const char *delegates,
                            uint32_t threads, serverd_error *err);
void subject_close(struct subject *subject); /* a zeroed one is fine */

/* Who would run which node on this machine: as serverd's options --device and --place. */
serverd_status subject_place(struct subject *subject, const char *device, const char *place,
                             serverd_error *err);

/* Weights that a partition reads, each once: `in_file` as the delegate wants them, `packed` what
 * it has to be made into first. UINT32_MAX: of all partitions. */
struct weight_bytes {
    uint64_t packed, in_file;
};
struct weight_bytes subject_weight_bytes(const struct subject *subject, uint32_t partition);

/* One weight, as the program file or the source has it. */
struct tensor_facts {
    const char *name, *alias_of; /* alias_of: the name of the tensor whose bytes it has, or NULL */
    const char *source;          /* what the compiler made it from; NULL: the tensor of its name */
    serverd_dtype dtype;
    uint32_t rank;
    uint64_t dims[SERVERD_MAX_DIMS];
    uint64_t bytes;      /* of its rows */
    uint64_t form_bytes; /* of all its forms in a program file; 0: none */
    char layouts[48];    /* "rows", "1", "rows 1"; "rows" if it is no program file */
    bool has_hash;
    uint8_t hash[32]; /* SHA-256 tree of its rows */
};

uint32_t subject_n_tensors(const struct subject *subject);
/* Of other than program files the hash is made only if it is wanted: all bytes are read. */
void subject_tensor(const struct subject *subject, uint32_t index, bool wants_hash,
                    struct tensor_facts *out);

/* A target of a program file. */
struct target_facts {
    char name[25], delegate[17];
    bool runs_here;
    char reason[160]; /* why it does not */
};
uint32_t subject_n_targets(const struct subject *subject);
void subject_target(const struct subject *subject, uint32_t index, struct target_facts *out);

/* "[576, 1536]" */
void format_dims(const uint64_t *dims, uint32_t rank, char *out, size_t size);

/* "Q4_K", or the number of a type that is not known. */
const char *dtype_name(serverd_dtype dtype, char scratch[24]);

/* 12 -> "12 B", 96600000 -> "96.6 MB": powers of ten. */
void format_bytes(uint64_t bytes, char *out, size_t size);

/* 2n digits and a NUL. */
void format_hex(const uint8_t *bytes, size_t n, char *out);

/* The name of the first constant that a node reads, "" if there is none. */
const char *node_weights(const serverd_graph *graph, uint32_t node);

#endif
