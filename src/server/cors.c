#include "server/server_internal.h"

#include <string.h>

bool cors_is_configured(const struct server *server)
{
    const char *list = server->context.options->cors_origins;
    return list && *list;
}

static bool is_allowed_origin(const char *list, const char *origin)
{
    size_t n = strlen(origin);
    for (const char *at = list; *at;) {
        at += strspn(at, ", ");
        size_t len = strcspn(at, ", ");
        if ((len == 1 && *at == '*') || (len == n && memcmp(at, origin, n) == 0))
            return true;
        at += len;
    }
    return false;
}

bool cors_is_allowed(const struct exchange *x)
{
    const char *origin = exchange_header(x, "origin");
    return origin && cors_is_configured(x->server) &&
           is_allowed_origin(x->server->context.options->cors_origins, origin);
}

bool cors_add_headers(const struct exchange *x, struct MHD_Response *response)
{
    if (!cors_is_allowed(x))
        return false;
    const char *origin = exchange_header(x, "origin");
    (void)MHD_add_response_header(response, "Access-Control-Allow-Origin", origin);
    (void)MHD_add_response_header(response, "Vary", "Origin");
    (void)MHD_add_response_header(response, "Access-Control-Allow-Methods",
                                  "GET, HEAD, POST, DELETE, OPTIONS");
    (void)MHD_add_response_header(response, "Access-Control-Allow-Headers",
                                  "Authorization, Content-Type, X-Api-Key, Api-Key, X-Request-Id");
    (void)MHD_add_response_header(response, "Access-Control-Expose-Headers",
                                  "X-Request-Id, Request-Id, Retry-After, Retry-After-Ms, "
                                  "X-Should-Retry, OpenAI-Processing-Ms");
    return true;
}
