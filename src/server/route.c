#include "server/endpoints.h"
#include "server/server_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct route routes[] = {
#define GET                                        "GET"
#define DELETE                                     "DELETE"
#define PUT                                        "PUT"
#define POST                                       "POST"
#define ROUTE(method, path, handler, scope, flags) {method, path, handler, SCOPE_##scope, flags},
#include "server/routes.def"
#undef ROUTE
#undef GET
#undef DELETE
#undef PUT
#undef POST
};

enum { N_ROUTES = sizeof routes / sizeof *routes };

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

size_t route_decode(const char *from, size_t n, char *out)
{
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        if (from[i] == '%' && n - i > 2) {
            out[len++] = (char)(hex_value(from[i + 1]) << 4 | hex_value(from[i + 2]));
            i += 2;
        } else {
            out[len++] = from[i];
        }
    }
    return len;
}

/* The path with each segment decoded once. False: it holds `.`, `..`, or a separator that was
 * escaped outside of a model id. */
static bool decode_path(const char *raw, size_t n, char *out, size_t *id_from)
{
    size_t len = 0;
    *id_from = SIZE_MAX;
    for (size_t at = 0; at < n;) {
        at++; /* the slash */
        size_t segment = 0;
        while (at + segment < n && raw[at + segment] != '/')
            segment++;
        out[len++] = '/';
        size_t decoded = route_decode(raw + at, segment, out + len);
        bool is_dots = (decoded == 1 && out[len] == '.') ||
                       (decoded == 2 && out[len] == '.' && out[len + 1] == '.');
        if (is_dots || memchr(out + len, '\\', decoded))
            return false;
        if (memchr(out + len, '/', decoded) && *id_from == SIZE_MAX)
            *id_from = len; /* legal only if a model id begins here or before */
        len += decoded;
        at += segment;
    }
    while (len > 1 && out[len - 1] == '/')
        len--;
    out[len] = '\0';
    return true;
}

/* Path of the table against a request's; *rest is what stands for {id}, NULL if there is none. */
static bool matches(const char *pattern, const char *path, const char **rest)
{
    *rest = NULL;
    size_t len = strlen(pattern);
    if (len > 4 && strcmp(pattern + len - 4, "{id}") == 0) {
        if (strncmp(path, pattern, len - 4) != 0 || path[len - 4] == '\0')
            return false;
        *rest = path + len - 4;
        return true;
    }
    return strcmp(pattern, path) == 0;
}

/* Also without /v1, and below /v3. */
static bool matches_any(const struct route *route, const char *path, const char **rest)
{
    if (matches(route->path, path, rest))
        return true;
    if (strncmp(route->path, "/v1/", 4) != 0)
        return false;
    if (matches(route->path + 3, path, rest))
        return true;
    return strncmp(path, "/v3/", 4) == 0 && matches(route->path + 3, path + 3, rest);
}

static void refuse_method(struct exchange *x, const char *path)
{
    char allowed[64] = "";
    const char *rest;
    for (size_t i = 0; i < N_ROUTES; i++)
        if (matches_any(&routes[i], path, &rest) && !strstr(allowed, routes[i].method))
            (void)snprintf(allowed + strlen(allowed), sizeof allowed - strlen(allowed), "%s%s",
                           *allowed ? ", " : "", routes[i].method);
    if (!*allowed) {
        api_error_set(&x->refusal, "not_found", NULL, "There is no %.200s here.", path);
        return;
    }
    if (strstr(allowed, "GET"))
        (void)snprintf(allowed + strlen(allowed), sizeof allowed - strlen(allowed), ", HEAD");
    api_error_set(&x->refusal, "method_not_allowed", NULL, "Allowed methods: %s.", allowed);
    (void)snprintf(x->allow, sizeof x->allow, "%s, OPTIONS", allowed);
}

bool route_find(struct exchange *x, const char *method)
{
    size_t n = strcspn(x->target, "?#");
    char *path = malloc(n + 2);
    size_t id_from;
    if (!path)
        return api_error_no_memory(&x->refusal);
    if (!decode_path(x->target, n, path, &id_from)) {
        api_error_set(&x->refusal, "not_found", NULL, "The path is not one of this server.");
        free(path);
        return false;
    }
    const char *wanted = strcmp(method, "HEAD") == 0 ? "GET" : method, *rest = NULL;
    for (size_t i = 0; i < N_ROUTES && !x->route; i++)
        if (strcmp(routes[i].method, wanted) == 0 && matches_any(&routes[i], path, &rest) &&
            (id_from == SIZE_MAX || (rest && rest <= path + id_from)))
            x->route = &routes[i];
    if (x->route && rest)
        x->path_rest = strdup(rest);
    if (x->route && rest && !x->path_rest)
        (void)api_error_no_memory(&x->refusal);
    else if (!x->route && id_from != SIZE_MAX)
        api_error_set(&x->refusal, "not_found", NULL, "The path is not one of this server.");
    else if (!x->route)
        refuse_method(x, path);
    free(path);
    return x->refusal.http_status == 0;
}
