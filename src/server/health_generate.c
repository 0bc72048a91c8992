/* The probe that asks an engine for a real token. One at a time: while it is under way others are
 * answered by the heartbeat, as by /health, so that probes never become load. Nor do they load a
 * model: nobody who asks has shown a key. */
#include "server/endpoints.h"
#include "server/server_internal.h"

#include <stdlib.h>

#define LONGEST_PROBE_NS UINT64_C(20000000000)

static void on_end(void *state, struct buffer *out)
{
    (void)state;
    buffer_append_str(out, "{\"status\":\"ok\"}");
}

/* The next one may go. */
static void destroy(void *state)
{
    struct server *server = state;
    atomic_store(&server->is_probing, false);
}

static const struct reply_encoder encoder = {.on_end = on_end, .destroy = destroy};

/* The request, in a list of one; NULL: no memory. */
static struct request **make_probe(struct exchange *x)
{
    const struct served_model *model = exchange_model(x);
    const int32_t begin = tokenizer_vocabulary(model->tokenizer)->bos;
    struct request **list = calloc(1, sizeof(struct request *));
    struct request *request = request_create();
    int32_t *prompt = request ? arena_array(request->arena, 1, sizeof *prompt) : NULL;
    if (!list || !prompt) {
        if (request)
            request_destroy(request);
        free(list);
        return NULL;
    }
    prompt[0] = begin >= 0 ? begin : 0;
    request->prompt = prompt;
    request->n_prompt = 1;
    request->wants_embedding = model->program->config.is_encoder;
    request->max_new_tokens = request->wants_embedding ? 0 : 1;
    request->priority = INT32_MAX; /* its time is for the engine, not for the queue */
    request->deadline_ns = exchange_arrival_ns(x) + LONGEST_PROBE_NS;
    list[0] = request;
    return list;
}

void endpoint_health_generate(struct exchange *x)
{
    struct api_error e;
    if (atomic_exchange(&x->server->is_probing, true)) {
        endpoint_health(x);
        return;
    }
    if (!exchange_look_at_model(x)) {
        atomic_store(&x->server->is_probing, false);
        endpoint_health(x);
        return;
    }
    struct request **probe = make_probe(x);
    if (probe) {
        exchange_generate(x, probe, 1, &encoder, x->server, false);
        return;
    }
    atomic_store(&x->server->is_probing, false);
    (void)api_error_no_memory(&e);
    exchange_fail(x, &e);
}
