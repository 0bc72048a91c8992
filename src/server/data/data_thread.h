/* The thread that has --data-path: files (file_store.h), batches (batch_run.h) and their index. It
 * does what endpoints ask of them, one job at a time and in order; in between it takes batches on,
 * whose lines it hands over as detached requests (detached.h), and tidies up. */
#ifndef SERVER_DATA_DATA_THREAD_H
#define SERVER_DATA_DATA_THREAD_H

#include "server/api_error.h"
#include "server/data/file_store.h"

struct exchange;
struct server;

struct data_thread;

/* Opens the folder and starts the thread. */
serverd_status data_thread_create(struct server *server, const char *folder,
                                  struct data_thread **out, serverd_error *err);

/* A job of the thread for an exchange that has a part in it: one EVENT_END comes of it. False: too
 * many wait, or the thread ends. Any thread. */
bool data_thread_put(struct data_thread *data, struct exchange *x,
                     bool (*run)(void *state, struct data_thread *data, struct api_error *e));

/* What a job has. */
struct file_store *data_thread_files(struct data_thread *data);
struct batches *data_thread_batches(struct data_thread *data);
const struct clock *data_thread_clock(const struct data_thread *data);
/* An error of the store as a reply; what is the server's fault is logged. */
void data_thread_error(struct data_thread *data, const serverd_error *err, struct api_error *e);

/* Ends after the present job; those behind it fail. NULL is fine, here and below. */
void data_thread_stop(struct data_thread *data);
void data_thread_destroy(struct data_thread *data);

#endif
