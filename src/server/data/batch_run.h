/* Batches that are under way: their input is checked, their lines are run, several at once, and
 * what comes of them becomes a file.
 *
 *   validating -> in_progress -> finalizing -> completed
 *        |             |  \-> (the window is over) finalizing -> expired
 *        |             \----> (cancel) cancelling -> cancelled
 *        \-> failed           failed, from everywhere, if the disk is full or the input is gone
 *
 * A line's result is committed to the index before anything relies on it; the two output files are
 * written from the results when all are there, in the order of lines, and come into being in the
 * same transaction that ends the batch. So a process that is killed at any moment loses no line and
 * has none twice in the output: a line without a committed result is run again.
 *
 * Lines of all open batches take turns. A reply of 429 or 503 is no result: the line is run again
 * later. All calls on the data thread but batches_line_ended. */
#ifndef SERVER_DATA_BATCH_RUN_H
#define SERVER_DATA_BATCH_RUN_H

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "server/data/file_store.h"

struct batches;
struct batch_slot;

/* A line that is to be run. */
struct batch_call {
    const char *path;
    const char *body; /* valid during the call */
    size_t n_body;
    uint64_t tenant;
    struct batch_slot *slot; /* for batches_line_ended */
};

/* Who runs lines. */
struct batch_runner {
    bool (*is_open)(void *context); /* takes lines at present */
    /* The call's number; 0: there was no memory, and nothing will end. */
    uint64_t (*submit)(void *context, const struct batch_call *call);
    void (*cancel)(void *context, uint64_t number);
    void (*wake)(void *context); /* any thread: batches_advance is wanted */
    void *context;
};

struct batches_setup {
    struct file_store *files;
    const struct clock *clock;
    struct log *log;
    struct metrics *metrics;
    struct batch_runner runner;
    uint32_t max_running; /* lines */
    size_t max_line;      /* bytes */
};

/* Goes on with what the index has. */
serverd_status batches_create(const struct batches_setup *setup, struct batches **out,
                              serverd_error *err);
/* Lines that still run are forgotten, and run again the next time; the runner calls nothing any
 * more. */
void batches_destroy(struct batches *batches);

/* Does what there is to do, a bounded piece of it; returns after how many milliseconds it wants to
 * be called at the latest. */
uint32_t batches_advance(struct batches *batches);

/* What a client's request changes. The row has everything but its number; its texts are copied. */
serverd_status batches_add(struct batches *batches, struct batch_row *row, serverd_error *err);
/* Begins to cancel; a batch that ends or has ended stays as it is. The row is the batch's then. */
serverd_status batches_cancel(struct batches *batches, struct batch_row *row, serverd_error *err);
/* As the batch is now, which the index may not know yet if the disk is full; NULL: as the index
 * says.
 */
const struct batch_row *batches_find(const struct batches *batches, const char *id);

/* The line's reply, once for each call; any thread. status 0: it was cancelled. The text is copied.
 */
struct batch_reply {
    int status;
    const char *bytes;
    size_t n;
    const char *request_id;
    uint32_t retry_after_ms;
};
void batches_line_ended(struct batch_slot *slot, const struct batch_reply *reply);

#endif
