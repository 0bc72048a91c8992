/* The HTTP edge over a real engine on the null delegate, with its loop on a thread of its own,
 * and a client that speaks bytes. */
#ifndef TESTS_EDGE_FIXTURE_H
#define TESTS_EDGE_FIXTURE_H

#include "base/clock.h"
#include "server/server.h"

#include <pthread.h>
#include <stdatomic.h>

enum { EDGE_CONTEXT = 512, EDGE_MAX_RUNNING = 8, REPLY_BYTES = 1 << 20 };

struct edge_setup {
    const char *device;        /* NULL: a null delegate that takes no time */
    const char *options[8];    /* "name=value" */
    const char *keys;          /* text of the key file; NULL: none */
    const char *chat_template; /* NULL: a model that does not chat */
    bool is_loading;           /* no model is published */
    int log_fd;                /* JSON from level info on; 0: no log */
    /* Of the server, which the test tells to load them; none: `is_loading` or the one model. */
    const struct model_config *models;
    uint32_t n_models;
    struct model_opener opener;
};

struct edge {
    struct options options;
    struct log *log;
    struct metrics *metrics;
    struct clock clock;
    _Atomic uint64_t ahead_ns; /* of the real time */
    struct program *program;
    struct tokenizer *tokenizer;
    struct chat_template *chat_template;
    struct worker_pool *workers;
    struct runtime *runtime;
    struct engine *engine;
    struct served_model model;
    struct server *server;
    char key_path[64];

    pthread_t loop;
    _Atomic bool stops;
};

struct edge *edge_create(const struct edge_setup *setup);
/* As the daemon ends: drain, stop the engine, end the server. */
void edge_destroy(struct edge *edge);
void edge_stop_loop(struct edge *edge); /* events are not handed over any more */
void edge_write_keys(struct edge *edge, const char *text);
void edge_publish(struct edge *edge);
void edge_advance(struct edge *edge, unsigned seconds);
/* Waits until nothing runs or waits in the engine, all pages are back and no request is open. */
void edge_wait_idle(struct edge *edge);
bool edge_waits_for_running(struct edge *edge, uint32_t n_running);
double edge_metric(struct edge *edge, const char *line); /* value behind it; 0: absent */

/* ---- a client; each call ends within ten seconds ---- */

int client_connect(const struct edge *edge);
void client_send(int fd, const char *bytes, size_t n);
void client_send_text(int fd, const char *text);
void client_post(int fd, const char *path, const char *headers, const char *body);
/* Until the other side closes. NUL-terminated, heap. */
char *client_read_all(int fd);
/* One reply with Content-Length or chunks; for a reply without a body say so. NULL: the
 * connection ended or stayed silent before the reply was whole. */
char *client_read_reply(int fd, bool has_body);
/* Until the text has come; false if the connection ends before. */
bool client_wait_for(int fd, const char *text);
bool client_is_closed(int fd, int wait_ms);
int reply_status(const char *reply); /* 0: no reply */

/* Everything that one connection gets for these bytes. */
char *client_talk(const struct edge *edge, const char *bytes, size_t n);
int client_status(const struct edge *edge, const char *text);

#endif
