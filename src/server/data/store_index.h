/* The index of --data-path: which files and batches there are, whose they are, and what lines of
 * unfinished batches have come to. A SQLite database, the one file that speaks SQL; every call
 * outside a transaction is one of its own, and what has been committed survives the process and
 * the machine. Opening it locks it against other processes.
 *
 * One thread, the data thread (data_thread.h). Errors: SERVERD_NOMEM says that the disk or the
 * memory is full, SERVERD_CORRUPT that the file is damaged. */
#ifndef SERVER_DATA_STORE_INDEX_H
#define SERVER_DATA_STORE_INDEX_H

#include "serverd/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct store_index;

enum { STORE_ID_BYTES = 40, STORE_PURPOSE_BYTES = 24 };

/* SERVERD_BUSY: another process has it. SERVERD_VERSION: a newer serverd made it. */
serverd_status store_index_open(const char *path, struct store_index **out, serverd_error *err);
void store_index_close(struct store_index *index); /* NULL is fine */

/* Several changes that are made together or not at all. After a failed commit, and if a change in
 * between fails, store_index_rollback. */
serverd_status store_index_begin(struct store_index *index, serverd_error *err);
serverd_status store_index_commit(struct store_index *index, serverd_error *err);
void store_index_rollback(struct store_index *index);

/* "file-" or "batch_" and 24 random hexadecimal digits. */
serverd_status store_make_id(const char *prefix, char out[STORE_ID_BYTES], serverd_error *err);

/* ---- files ---- */

struct file_row {
    char id[STORE_ID_BYTES];
    uint64_t tenant;
    char purpose[STORE_PURPOSE_BYTES];
    char *filename; /* heap; file_row_release */
    uint64_t bytes;
    int64_t created_at, expires_at; /* Unix seconds; 0: never */
    bool is_deleted;                /* nobody sees it; a batch still reads it */
};

void file_row_release(struct file_row *row);

serverd_status store_add_file(struct store_index *index, const struct file_row *row,
                              serverd_error *err);

/* *is_found false: there is none, it is another tenant's, or it is deleted. */
serverd_status store_get_file(struct store_index *index, const char *id, uint64_t tenant,
                              struct file_row *row, bool *is_found, serverd_error *err);
/* Whoever's, deleted ones, too. */
serverd_status store_find_file(struct store_index *index, const char *id, struct file_row *row,
                               bool *is_found, serverd_error *err);
serverd_status store_hide_file(struct store_index *index, const char *id, serverd_error *err);
serverd_status store_remove_file(struct store_index *index, const char *id, serverd_error *err);
serverd_status store_count_files(struct store_index *index, uint64_t *n, uint64_t *bytes,
                                 serverd_error *err);

/* A page of a list. */
struct store_page {
    uint64_t tenant;
    const char *purpose; /* of files; NULL: any */
    const char *after;   /* behind the one of this id; NULL: from the begin */
    uint32_t limit;
    bool is_ascending; /* oldest first */
};

/* Calls `take` for each row of the page, whose text is valid during the call; has_more: there are
 * others behind them. */
serverd_status store_list_files(struct store_index *index, const struct store_page *page,
                                void (*take)(void *context, const struct file_row *row),
                                void *context, bool *has_more, serverd_error *err);

/* The next file that has expired or that is deleted, and that no unfinished batch reads. */
serverd_status store_next_useless_file(struct store_index *index, int64_t now, struct file_row *row,
                                       bool *is_found, serverd_error *err);

/* ---- batches ---- */

enum batch_status {
    BATCH_VALIDATING,
    BATCH_IN_PROGRESS,
    BATCH_FINALIZING,
    BATCH_CANCELLING,
    /* from here on nothing changes */
    BATCH_COMPLETED,
    BATCH_FAILED,
    BATCH_EXPIRED,
    BATCH_CANCELLED
};

/* Columns, in this order: texts of the heap, NULL is null; numbers, of which times are Unix seconds
 * and 0 is "not yet". */
#define BATCH_TEXTS(X)                                                                             \
    X(endpoint)                                                                                    \
    X(input_file_id)                                                                               \
    X(completion_window)                                                                           \
    X(output_file_id)                                                                              \
    X(error_file_id)                                                                               \
    X(metadata) /* a JSON object */                                                                \
    X(errors)   /* a JSON list */                                                                  \
    X(model)
#define BATCH_NUMBERS(X)                                                                           \
    X(status)                                                                                      \
    X(created_at)                                                                                  \
    X(in_progress_at)                                                                              \
    X(expires_at)                                                                                  \
    X(finalizing_at)                                                                               \
    X(completed_at)                                                                                \
    X(failed_at)                                                                                   \
    X(expired_at)                                                                                  \
    X(cancelling_at)                                                                               \
    X(cancelled_at)                                                                                \
    X(n_total)                                                                                     \
    X(n_completed)                                                                                 \
    X(n_failed)                                                                                    \
    X(input_tokens)                                                                                \
    X(cached_tokens)                                                                               \
    X(output_tokens)                                                                               \
    X(reasoning_tokens)                                                                            \
    X(output_lives) /* seconds that the files with the results do; 0: for ever */

struct batch_row {
    int64_t number; /* in the order of creation; store_add_batch gives it */
    char id[STORE_ID_BYTES];
    uint64_t tenant;
#define X(name) char *name;
    BATCH_TEXTS(X)
#undef X
#define X(name) int64_t name;
    BATCH_NUMBERS(X)
#undef X
};

void batch_row_release(struct batch_row *row);

serverd_status store_add_batch(struct store_index *index, struct batch_row *row,
                               serverd_error *err);
/* Everything but number, id and tenant. */
serverd_status store_update_batch(struct store_index *index, const struct batch_row *row,
                                  serverd_error *err);
serverd_status store_get_batch(struct store_index *index, const char *id, uint64_t tenant,
                               struct batch_row *row, bool *is_found, serverd_error *err);
serverd_status store_list_batches(struct store_index *index, const struct store_page *page,
                                  void (*take)(void *context, const struct batch_row *row),
                                  void *context, bool *has_more, serverd_error *err);
/* The oldest unfinished one whose number is greater. */
serverd_status store_next_open_batch(struct store_index *index, int64_t number,
                                     struct batch_row *row, bool *is_found, serverd_error *err);
serverd_status store_count_open_batches(struct store_index *index, uint64_t tenant, uint64_t *n,
                                        uint64_t *n_of_tenant, serverd_error *err);
/* Batches that ended before `time`. */
serverd_status store_forget_batches(struct store_index *index, int64_t time, serverd_error *err);

/* ---- results: one for each line of an unfinished batch that is done ---- */

enum { STORE_MAX_LINES = 1 << 24 };

struct store_result {
    uint32_t line; /* below STORE_MAX_LINES */
    bool is_error; /* of which of the two files */
    const char *text;
    size_t n;
};

/* *is_new false: the line has one already, which stays. */
serverd_status store_add_result(struct store_index *index, int64_t batch,
                                const struct store_result *result, bool *is_new,
                                serverd_error *err);
/* Up to `limit` results of lines from first_line on, in the order of lines; *next_line: where to go
 * on, UINT32_MAX: there are no more. */
serverd_status store_read_results(struct store_index *index, int64_t batch, uint32_t first_line,
                                  uint32_t limit,
                                  void (*take)(void *context, const struct store_result *result),
                                  void *context, uint32_t *next_line, serverd_error *err);
/* Removes up to `limit` of them and gives their room back to the disk; *is_empty: there are no
 * more.
 */
serverd_status store_remove_results(struct store_index *index, int64_t batch, uint32_t limit,
                                    bool *is_empty, serverd_error *err);

#endif
