/* The runtime as a library, libserverd_rt: programs that run a model by themselves, without HTTP,
 * tokenizer or scheduler.
 *
 *     serverd_runtime_open     a program file (.sdp), for some limits, on some delegates
 *     serverd_session_create   one sequence of tokens and its keys and values
 *     serverd_session_prefill  a prompt
 *     serverd_session_greedy   the most likely next token, or
 *     serverd_session_logits   all of them
 *     serverd_session_decode   the token that was chosen
 *
 * Memory is taken by serverd_runtime_open alone, as much as serverd_runtime_plan says; nothing that
 * follows allocates, but for the close. Weights are used where they lie in the file, which is
 * shared with every other process that has it open.
 *
 * Delegates: the archive has a CPU back-end, serverd_cpu_delegate. A program that does not name it
 * does not link it, and brings another one (delegate.h).
 *
 * Threads: a runtime and its sessions have one caller at a time; serverd_session_stop is for any
 * thread. Several runtimes are independent.
 *
 * Errors: SERVERD_INVALID says that a call was wrong and that nothing has happened. An error of a
 * step that has begun *poisons* the sessions that were in it: they give the same error again until
 * they are reset. After SERVERD_DEVICE_LOST only the close is left.
 *
 * Results: those of serverd itself, bit for bit; they do not depend on other sessions, on how a
 * prompt is cut into calls, or on the number of threads.
 *
 * Caveats
 * - The file may not be changed while it is open; who replaces it renames another one to its place.
 * - Token ids are the model's; text is the caller's affair.
 * - Each session has memory for keys and values of max_context tokens. On the CPU it is taken from
 *   the system only when tokens come. */
#ifndef SERVERD_RUNTIME_H
#define SERVERD_RUNTIME_H

#include "serverd/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct serverd_delegate; /* delegate.h */

typedef struct serverd_runtime serverd_runtime;
typedef struct serverd_session serverd_session;

/* The CPU back-end with kernels for all instruction sets; the best one is used. */
const struct serverd_delegate *serverd_cpu_delegate(void);

/* ---- opening ---------------------------------------------------------------------------- */

/* How keys and values are kept. */
typedef enum serverd_kv_type {
    SERVERD_KV_BF16 = 0,
    SERVERD_KV_F16,
    SERVERD_KV_INT8,
    SERVERD_KV_F32
} serverd_kv_type;

/* Zero is the default of everything but the delegates. */
typedef struct serverd_runtime_options {
    const struct serverd_delegate *const *delegates; /* [n_delegates] in order of preference */
    uint32_t n_delegates;
    const char *device;    /* "cpu", "NAME:key=value", "hetero:A,B"; NULL: "auto" */
    uint32_t max_context;  /* tokens of a session; 0: what the model was trained for */
    uint32_t max_sessions; /* at once; 0: 1 */
    uint32_t max_rows;     /* tokens of one step, of all its sessions; 0: 256, or, for an encoder,
                              max_context; no less than max_sessions is used */
    uint32_t n_threads;    /* the caller's among them; 0: one for each processor */
    serverd_kv_type kv_type;
    void (*log)(void *context, int level, const char *text); /* warnings; may be NULL */
    void *log_context;
} serverd_runtime_options;

/* Bytes. */
typedef struct serverd_memory {
    uint64_t mapped_bytes;     /* of the file, as far as it is used: shared, and may be dropped */
    uint64_t gathered_bytes;   /* of embedding tables: the rows of tokens that come, no more */
    uint64_t packed_bytes;     /* weights that the file has in no form that a device wants */
    uint64_t activation_bytes; /* of a step; several have one place where lifetimes allow */
    uint64_t unshared_bytes;   /* the same if each had a place of its own: what is saved */
    uint64_t scratch_bytes;    /* what devices need beside */
    uint64_t kv_bytes;         /* all sessions, each full */
    uint64_t table_bytes;      /* the graph, the plans, the sessions, the logits */
    uint64_t peak_bytes;       /* all but gathered_bytes and unshared_bytes */
} serverd_memory;

/* What the same call of serverd_runtime_open takes; loads nothing. */
serverd_status serverd_runtime_plan(const char *path, const serverd_runtime_options *options,
                                    serverd_memory *out, serverd_error *err);

/* Checks the file as if it were hostile. Starts n_threads - 1 threads. The delegates' tables are
 * used until the close. */
serverd_status serverd_runtime_open(const char *path, const serverd_runtime_options *options,
                                    serverd_runtime **out, serverd_error *err);
void serverd_runtime_close(serverd_runtime *runtime); /* its sessions, too; NULL is fine */

/* Texts live as long as the runtime. */
typedef struct serverd_runtime_info {
    uint32_t is_encoder; /* results are embeddings of whole texts */
    uint32_t n_vocab;    /* token ids are 0..n_vocab - 1 */
    uint32_t n_results;  /* of a row: n_vocab logits, or the columns of an embedding */
    uint32_t max_context, max_sessions, max_rows;
    const char *architecture; /* "llama" */
    const char *name;         /* the model's, may be "" */
    const char *device;       /* "cpu (avx512, 2 threads)" */
} serverd_runtime_info;

void serverd_runtime_get_info(const serverd_runtime *runtime, serverd_runtime_info *out);

/* ---- sessions --------------------------------------------------------------------------- */

/* SERVERD_BUSY: there are max_sessions already. */
serverd_status serverd_session_create(serverd_runtime *runtime, serverd_session **out,
                                      serverd_error *err);
void serverd_session_destroy(serverd_session *session); /* NULL is fine */

/* Appends tokens, in as many steps as max_rows asks for. An encoder's text is one call that fits
 * into one step, on an empty session. */
serverd_status serverd_session_prefill(serverd_session *session, const int32_t *tokens,
                                       size_t n_tokens, serverd_error *err);

/* Appends one token. */
serverd_status serverd_session_decode(serverd_session *session, int32_t token, serverd_error *err);

/* Tokens that are appended to a session. */
typedef struct serverd_input {
    serverd_session *session;
    const int32_t *tokens; /* [n_tokens] */
    uint32_t n_tokens;     /* 1 or more */
} serverd_input;

/* Appends to several sessions, each at most once, in one step: at most max_rows tokens together.
 * Fails if one session fails; the others may have gone on (serverd_session_error, _position). */
serverd_status serverd_runtime_step(serverd_runtime *runtime, const serverd_input *inputs,
                                    uint32_t n_inputs, serverd_error *err);

/* What the last step said of the session's last token: logits [n_vocab], or the embedding. Valid
 * until the runtime's next step. NULL: it was not in the last step, or was changed since. */
const float *serverd_session_logits(const serverd_session *session);

/* The token of the highest logit, of equal ones the lowest; -1: there are no logits. */
int32_t serverd_session_greedy(const serverd_session *session);

/* Forgets all tokens but the first n_tokens; more than there are: SERVERD_INVALID. */
serverd_status serverd_session_rollback(serverd_session *session, size_t n_tokens,
                                        serverd_error *err);

/* Empty, as if new: not poisoned, not stopped. */
void serverd_session_reset(serverd_session *session);

/* From any thread: the call that appends now, or else the next one, ends before its next step with
 * SERVERD_TIMEOUT. What it has appended stays: see the position. Then the session goes on. */
void serverd_session_stop(serverd_session *session);

size_t serverd_session_position(const serverd_session *session); /* tokens it has */
size_t serverd_session_capacity(const serverd_session *session); /* tokens it can have */

/* What poisoned it; SERVERD_OK: nothing. */
serverd_status serverd_session_error(const serverd_session *session);

#ifdef __cplusplus
}
#endif
#endif
