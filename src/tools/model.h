/* A model that is ready to serve: everything between a file and an engine, in one place. */
#ifndef TOOLS_MODEL_H
#define TOOLS_MODEL_H

#include "server/server.h"

struct model;

struct model_setup {
    const struct options *options;
    const struct clock *clock;
    struct log *log;
    struct metrics *metrics;
    struct event_sink sink;
    const struct model_config *config; /* outlives the model */
    struct model_load *load;
    bool is_default; /* options of a single model are its own */
};

/* Compiles, opens and starts the model; takes seconds. The server's thread for that. */
serverd_status model_open(const struct model_setup *setup, struct model **out, serverd_error *err);

const struct served_model *model_served(const struct model *model);

/* Ends what runs first: then the last events are in the sink. NULL is fine. */
void model_close(struct model *model);

#endif
