/* Which model a request means, before anything that depends on it is looked at. */
#include "server/json_body.h"
#include "server/server_internal.h"

/* Bodies that are no JSON are refused here. */
static bool parse_body(struct exchange *x, struct api_error *e)
{
    if (!(x->route->flags & JSON_BODY) || x->json ||
        (x->body.len == 0 && (x->route->flags & MAY_BE_EMPTY)))
        return true;
    return json_body_parse(buffer_str(&x->body), x->body.len, &x->json, e);
}

enum model_choice exchange_choose_model(struct exchange *x)
{
    struct api_error e;
    if (!(x->route->flags & NEEDS_MODEL))
        return MODEL_CHOSEN;
    if (!parse_body(x, &e)) {
        exchange_fail(x, &e);
        return MODEL_REFUSED;
    }
    x->model = atomic_load(&x->server->model);
    return MODEL_CHOSEN;
}
