/* Who asks: the key of a request, and whether its route, and one more request, are for it. */
#include "base/hash.h"
#include "server/server_internal.h"

#include <string.h>
#include <strings.h>

static struct key_set *current_keys(struct server *server)
{
    (void)pthread_mutex_lock(&server->lock);
    struct key_set *keys = server->keys;
    if (keys)
        atomic_fetch_add(&keys->references, 1);
    (void)pthread_mutex_unlock(&server->lock);
    return keys;
}

static const char *credential(const struct exchange *x, bool *is_ambiguous)
{
    const char *found = NULL,
               *candidates[3] = {exchange_header(x, "authorization"),
                                 exchange_header(x, "x-api-key"), exchange_header(x, "api-key")};
    if (candidates[0]) {
        bool is_bearer = strncasecmp(candidates[0], "bearer ", 7) == 0;
        candidates[0] = is_bearer ? candidates[0] + 7 + strspn(candidates[0] + 7, " ") : NULL;
    }
    for (size_t i = 0; i < 3; i++) {
        if (found && candidates[i] && strcmp(found, candidates[i]) != 0)
            *is_ambiguous = true;
        if (!found)
            found = candidates[i];
    }
    return found;
}

/* Digests are compared, all of them, so that time tells neither key nor length. NULL: unknown. */
static const struct api_key *find_key(const struct key_set *keys, const uint8_t digest[32])
{
    const struct api_key *found = NULL;
    for (uint32_t i = 0; i < keys->n; i++)
        if (equal_constant_time(digest, keys->keys[i].digest, sizeof keys->keys[i].digest))
            found = &keys->keys[i];
    return found;
}

static bool refuse_scope(struct exchange *x, const char *why)
{
    api_error_set(&x->refusal, "insufficient_scope", NULL, "%s", why);
    return false;
}

static bool check_scope(struct exchange *x, unsigned scopes)
{
    static const char *const reasons[] = {
        [SCOPE_INFER] = "This API key is not one for inference.",
        [SCOPE_EMBED] = "This API key is not one for embeddings and scores.",
        [SCOPE_BATCH] = "This API key is not one for batches.",
        [SCOPE_PROGRAMS] = "This API key is not one for programs.",
        [SCOPE_PROGRAMS_WRITE] = "This API key is not one to change programs.",
        [SCOPE_METRICS] = "This API key is not one for metrics.",
        [SCOPE_ADMIN] = "This API key is not one of an administrator."};
    const enum route_scope scope = x->route->scope;
    return scope == SCOPE_ANY_KEY || (scopes & 1u << scope) || refuse_scope(x, reasons[scope]);
}

/* Without keys, whoever reaches loopback is an administrator; a web page that is open in a browser
 * there is not. Browsers say where a request comes from. */
static bool is_foreign_page(const struct exchange *x)
{
    const char *site = exchange_header(x, "sec-fetch-site");
    if (cors_is_allowed(x))
        return false;
    return exchange_header(x, "origin") ||
           (site && strcmp(site, "none") != 0 && strcmp(site, "same-origin") != 0);
}

static bool check_without_keys(struct exchange *x)
{
    x->is_admin = x->server->is_local && !is_foreign_page(x);
    if (x->route->scope == SCOPE_PROGRAMS_WRITE) /* as inline programs: from wherever */
        return !is_foreign_page(x) ||
               refuse_scope(x, "Without API keys this is not for web pages.");
    if (x->route->scope != SCOPE_ADMIN)
        return true;
    if (!x->server->is_local)
        return refuse_scope(x, "Without API keys this is for servers on loopback only.");
    return x->is_admin || refuse_scope(x, "Without API keys this is not for web pages.");
}

void auth_refuse_rate(struct exchange *x, enum rate rate, uint32_t wait_ms, struct api_error *e)
{
    const char *labels[] = {x->key_name, rate == RATE_REQUESTS ? "requests" : "tokens"};
    metrics_add_labelled(x->server->context.metrics, METRIC_KEY_LIMITED, labels, 1);
    rate_limit_error(rate, wait_ms, e);
}

/* One more request, of those that cost something. */
static bool check_rate(struct exchange *x)
{
    const unsigned counted =
        1u << SCOPE_INFER | 1u << SCOPE_EMBED | 1u << SCOPE_BATCH | 1u << SCOPE_PROGRAMS;
    uint32_t wait_ms;
    uint64_t taken;
    if (!x->limit || !(x->route->flags & JSON_BODY) || !(counted & 1u << x->route->scope) ||
        rate_limit_take(x->limit, RATE_REQUESTS, 1, clock_now_ns(x->server->context.clock), &taken,
                        &wait_ms))
        return true;
    auth_refuse_rate(x, RATE_REQUESTS, wait_ms, &x->refusal);
    return false;
}

static void use_key(struct exchange *x, const struct api_key *key)
{
    memcpy(&x->tenant, key->digest, sizeof x->tenant);
    memcpy(x->key_name, key->name, sizeof x->key_name);
    x->weight = key->weight;
    x->limit = rate_limit_ref(key->limit);
}

bool auth_check_owner(struct exchange *x, uint64_t tenant, bool is_counted)
{
    struct key_set *keys = current_keys(x->server);
    bool is_known = !keys && tenant == 0;
    for (uint32_t i = 0; keys && i < keys->n && !is_known; i++) {
        is_known = memcmp(&tenant, keys->keys[i].digest, sizeof tenant) == 0;
        if (is_known)
            use_key(x, &keys->keys[i]);
    }
    key_set_unref(keys);
    if (is_known)
        return is_counted || check_rate(x);
    api_error_set(&x->refusal, "invalid_api_key", NULL,
                  "The API key that this was asked for with is not valid any more.");
    return false;
}

bool auth_check(struct exchange *x)
{
    bool is_ambiguous = false;
    unsigned scopes = 0;
    if (x->route->scope == SCOPE_PUBLIC)
        return true;
    struct key_set *keys = current_keys(x->server);
    if (!keys)
        return check_without_keys(x);
    const char *text = credential(x, &is_ambiguous);
    uint8_t digest[32] = {0};
    if (text)
        sha256_bytes(text, strlen(text), digest);
    const struct api_key *key = text && !is_ambiguous ? find_key(keys, digest) : NULL;
    if (key) {
        use_key(x, key);
        scopes = key->scopes;
        x->is_admin = scopes & 1u << SCOPE_ADMIN;
    }
    key_set_unref(keys);
    if (key)
        return check_scope(x, scopes) && check_rate(x);
    if (is_ambiguous) {
        api_error_set(&x->refusal, "bad_request", NULL, "Two different API keys were sent.");
        return false;
    }
    metrics_add(x->server->context.metrics, METRIC_AUTH_FAILURES, 1);
    api_error_set(&x->refusal, "invalid_api_key", NULL, "%s",
                  text ? "Incorrect API key provided."
                       : "You didn't provide an API key: send it as Authorization: Bearer KEY.");
    return false;
}
