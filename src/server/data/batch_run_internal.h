#ifndef SERVER_DATA_BATCH_RUN_INTERNAL_H
#define SERVER_DATA_BATCH_RUN_INTERNAL_H

#include "server/data/batch_lines.h"
#include "server/data/batch_run.h"

#include <pthread.h>

/* Done at once before others have their turn. */
#define SLICE_LINES 256u
#define SLICE_BYTES (4 * MIB)

/* A line's place: to run it again. */
struct line_place {
    uint32_t index; /* among the lines that count, from 0 */
    uint64_t offset;
    size_t n;
};

struct line_key {
    uint8_t digest[16]; /* of the custom_id */
    uint32_t number;
};

/* One of the two files that a batch leaves. */
struct batch_output {
    struct new_content content;
    struct file_row row; /* once the content is kept */
    struct buffer text;  /* not written yet */
    bool has_lines;
};

/* A batch that is not at its end, in memory. */
struct active_batch {
    struct active_batch *next;
    struct batch_row row;
    struct line_reader reader;

    /* validating */
    struct line_key *keys;
    uint32_t n_keys, keys_cap, n_errors;
    struct buffer errors; /* items of a JSON list */

    /* in progress */
    uint8_t *done; /* a bit for each line with a result */
    uint32_t n_done, next_index;
    bool is_read; /* every line has been handed out */
    struct line_place *again;
    uint32_t n_again, n_running;
    uint64_t not_before_ns;

    /* ending */
    enum batch_status ends_as;
    struct batch_output outputs[2]; /* results; errors */
    uint32_t next_result;           /* UINT32_MAX: all are written */
    bool is_second_pass;            /* lines without a result are being written */
    bool is_saved;                  /* the index knows that it has ended */
    bool is_tidy;                   /* and has none of its results any more */
    uint64_t save_again_ns;
};

struct batch_slot {
    struct batches *batches;
    struct active_batch *batch; /* NULL: free */
    struct line_place place;
    char custom_id[LIMIT_CUSTOM_ID + 1];
    uint64_t number;

    /* Under the mutex. */
    bool has_ended;
    int status;
    char *bytes; /* NULL: there was no memory for it */
    size_t n;
    char request_id[LIMIT_REQUEST_ID_BYTES + 1];
    uint32_t retry_after_ms;
};

struct batch_usage {
    int64_t input, cached, output, reasoning; /* tokens */
};

/* A reply that is to be committed. */
struct batch_result {
    struct active_batch *batch;
    uint32_t index;
    bool is_error;
    struct buffer text;
    struct batch_usage usage;
};

struct batches {
    struct batches_setup setup;
    struct store_index *index;
    struct active_batch *active; /* oldest first */
    uint32_t n_active;
    int64_t last_number; /* of those that have been taken into the list */
    bool may_have_more;  /* the index has others, perhaps */
    struct active_batch *turn;
    struct batch_slot *slots;     /* [max_running] */
    struct batch_result *results; /* [max_running], n_results of them; none between two turns */
    uint32_t n_results;

    pthread_mutex_t mutex; /* of the slots' replies */
};

int64_t batches_now(const struct batches *batches); /* Unix seconds */

/* batch_run.c: changes of state. Each is saved; what cannot be saved fails the batch. */
void batch_save(struct batches *batches, struct active_batch *batch);
void batch_begin_end(struct batches *batches, struct active_batch *batch, enum batch_status as);
/* errors: items of a JSON list, taken over. */
void batch_fail(struct batches *batches, struct active_batch *batch, struct buffer *errors);
void batch_fail_with(struct batches *batches, struct active_batch *batch, const serverd_error *err);
bool batch_is_done(const struct active_batch *batch, uint32_t index);
void batch_set_done(struct active_batch *batch, uint32_t index);

/* batch_slots.c: takes replies out of slots; gives free slots lines; commits what was taken, all in
 * one transaction: the more come, the fewer writes to the disk each of them takes. */
void batch_slots_collect(struct batches *batches);
void batch_slots_fill(struct batches *batches);
void batch_slots_commit(struct batches *batches);

/* batch_validate.c: a piece of checking the input; at its end the batch is in progress, or failed.
 */
void batch_validate(struct batches *batches, struct active_batch *batch);
void batch_write_error(struct buffer *out, const struct batch_fault *fault, uint32_t number);

/* batch_output.c: a piece of writing the output; at its end the batch has ended. */
void batch_write_output(struct batches *batches, struct active_batch *batch);
void batch_outputs_discard(struct active_batch *batch);
/* The line of a reply; "" without memory. */
void batch_write_result(struct buffer *out, const struct batch_slot *slot);

#endif
