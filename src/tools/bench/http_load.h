/* A client that keeps many streaming requests in flight on one thread (libcurl's multi
 * interface). Connections are kept and used again. Proxies of the environment are ignored. */
#ifndef TOOLS_BENCH_HTTP_LOAD_H
#define TOOLS_BENCH_HTTP_LOAD_H

#include "serverd/status.h"
#include "tools/bench/record.h"

struct load_client;

#define LOAD_MAX_RUNNING 4096u /* further requests are refused */

struct load_client_options {
    const char *url;     /* "http://127.0.0.1:8000", with or without /v1 */
    const char *api_key; /* NULL: none */
    double timeout_s;    /* of a whole request */
};

serverd_status load_client_create(const struct load_client_options *options,
                                  struct load_client **out, serverd_error *err);
void load_client_destroy(struct load_client *client); /* drops what runs; NULL is fine */

/* The run begins: zero of the records' times. At first that is create. */
void load_client_begin(struct load_client *client);

/* Posts `body` to `path` ("/v1/chat/completions"). The record is the client's until poll returns
 * it. */
serverd_status load_client_start(struct load_client *client, const char *path, const char *body,
                                 size_t n, struct record *record, serverd_error *err);

uint32_t load_client_n_running(const struct load_client *client);
double load_client_now(const struct load_client *client); /* seconds since the run began */

/* Waits for bytes, at most timeout_s, and moves them. Returns one record that has ended, NULL if
 * there is none; call again at once with 0 while there are. */
serverd_status load_client_poll(struct load_client *client, double timeout_s, struct record **done,
                                serverd_error *err);

/* One GET that is waited for. *http_status 0: no connection. `body` may be NULL. */
serverd_status load_client_get(struct load_client *client, const char *path, double timeout_s,
                               struct buffer *body, long *http_status, serverd_error *err);

/* The same for an address of its own. */
serverd_status load_client_get_url(struct load_client *client, const char *url, double timeout_s,
                                   struct buffer *body, long *http_status, serverd_error *err);

/* The keys' file of a server or client: its first key; free() it. */
serverd_status load_read_key(const char *path, char **out, serverd_error *err);

#endif
