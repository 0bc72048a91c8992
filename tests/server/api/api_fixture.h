/* The dialects without sockets: a synthetic model on the null delegate (or any other), an engine
 * that is stepped by hand, and exchanges that never saw a connection. A call runs a handler to
 * its end and returns the bytes that a client would get. Time stands still, so the same call
 * gives the same reply but for its random id. */
#ifndef TESTS_SERVER_API_FIXTURE_H
#define TESTS_SERVER_API_FIXTURE_H

#include "server/server_internal.h"

enum { API_FIM_PREFIX = 300, API_FIM_SUFFIX, API_FIM_MIDDLE, API_FIM_REPOSITORY, API_FIM_FILE };

struct api_world {
    struct server server;
    struct options options;
    struct metrics *metrics;
    struct program *program;
    struct tokenizer *tokenizer;
    struct chat_template *chat_template;
    struct worker_pool *workers;
    struct runtime *runtime;
    struct engine *engine;
    struct served_model model;
};

/* `arch` as in synthetic_model; chat_template NULL: the model's own. */
struct api_world *api_world_create(const char *arch, const char *chat_template);
/* With a prefix cache, so that a reply depends on those before it. */
struct api_world *api_world_create_with_cache(const char *arch);
/* With tokens for fill-ins: any ids will do. */
struct api_world *api_world_create_for_fill_in(const char *arch, const char *chat_template);
void api_world_destroy(struct api_world *world);

struct api_reply {
    int status;
    char *body; /* free() */
    size_t len;
    char ignored[256]; /* names of ignored fields */
    bool was_aborted;  /* left before its end by max_steps */
};

/* path: of routes.def. */
struct api_reply api_call(struct api_world *world, const char *path, const char *body, size_t n);
struct api_reply api_post(struct api_world *world, const char *path, const char *body);

/* The client leaves after so many steps of the engine. */
struct api_reply api_call_and_leave(struct api_world *world, const char *path, const char *body,
                                    size_t n, uint32_t max_steps);

/* Whatever else runs, nothing is left in the engine. */
void api_world_check_idle(struct api_world *world);

/* Random ids become "ID". */
void api_reply_hide_ids(struct api_reply *reply);

#endif
