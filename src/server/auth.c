#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "server/server_internal.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define LIMIT_KEY_FILE (1 * MIB)

/* ---- the key file -------------------------------------------------------------------------------
 */

static bool is_key_char(char c)
{
    return c > 0x20 && c < 0x7f;
}

/* The next line's key; false at the end. Comments and empty lines have len 0. */
static bool next_line(const char **at, const char **key, size_t *len)
{
    if (**at == '\0')
        return false;
    const char *line = *at;
    size_t n = strcspn(line, "\n");
    *at = line + n + (line[n] == '\n');
    while (n > 0 && (line[n - 1] == '\r' || line[n - 1] == ' ' || line[n - 1] == '\t'))
        n--;
    while (n > 0 && (*line == ' ' || *line == '\t')) {
        line++;
        n--;
    }
    *key = line;
    *len = n > 0 && line[0] == '#' ? 0 : n;
    return true;
}

serverd_status key_set_read(const char *path, struct key_set **out, serverd_error *err)
{
    char *text;
    size_t len;
    serverd_status status = file_read(path, LIMIT_KEY_FILE, &text, &len, err);
    if (status != SERVERD_OK)
        return error_context(err, "api-key-file");
    uint32_t n = 0, line = 0;
    const char *at = text, *key;
    size_t key_len;
    while (next_line(&at, &key, &key_len))
        n += key_len > 0;
    struct key_set *keys = malloc(sizeof *keys + (size_t)n * sizeof keys->digest[0]);
    if (!keys)
        status = fail(err, SERVERD_NOMEM, "api-key-file: no memory for %u keys", n);
    else if (n == 0)
        status = fail(err, SERVERD_INVALID, "api-key-file: %s holds no key", path);
    if (keys) {
        atomic_init(&keys->references, 1);
        keys->n = 0;
    }
    for (at = text; status == SERVERD_OK && next_line(&at, &key, &key_len);) {
        line++;
        for (size_t i = 0; i < key_len; i++)
            if (!is_key_char(key[i]))
                status = fail(err, SERVERD_INVALID,
                              "api-key-file: %s:%u: a key is one word of ASCII", path, line);
        if (key_len > 0 && status == SERVERD_OK)
            sha256_bytes(key, key_len, keys->digest[keys->n++]);
    }
    explicit_bzero(text, len);
    free(text);
    if (status != SERVERD_OK)
        free(keys);
    else
        *out = keys;
    return status;
}

void key_set_unref(struct key_set *keys)
{
    if (keys && atomic_fetch_sub(&keys->references, 1) == 1)
        free(keys);
}

static struct key_set *current_keys(struct server *server)
{
    (void)pthread_mutex_lock(&server->lock);
    struct key_set *keys = server->keys;
    if (keys)
        atomic_fetch_add(&keys->references, 1);
    (void)pthread_mutex_unlock(&server->lock);
    return keys;
}

/* ---- requests -----------------------------------------------------------------------------------
 */

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

/* Digests are compared, all of them, so that time tells neither key nor length. */
static bool is_known(const struct key_set *keys, const uint8_t digest[32])
{
    unsigned matches = 0;
    for (uint32_t i = 0; i < keys->n; i++)
        matches |= equal_constant_time(digest, keys->digest[i], sizeof keys->digest[i]);
    return matches != 0;
}

bool auth_check(struct exchange *x)
{
    if (x->route->scope == SCOPE_PUBLIC)
        return true;
    struct key_set *keys = current_keys(x->server);
    if (!keys)
        return true;
    bool is_ambiguous = false;
    const char *key = credential(x, &is_ambiguous);
    uint8_t digest[32] = {0};
    if (key)
        sha256_bytes(key, strlen(key), digest);
    bool is_allowed = key && !is_ambiguous && is_known(keys, digest);
    key_set_unref(keys);
    if (is_allowed) {
        memcpy(&x->tenant, digest, sizeof x->tenant);
        return true;
    }
    if (is_ambiguous) {
        api_error_set(&x->refusal, "bad_request", NULL, "Two different API keys were sent.");
        return false;
    }
    metrics_add(x->server->context.metrics, METRIC_AUTH_FAILURES, 1);
    api_error_set(&x->refusal, "invalid_api_key", NULL, "%s",
                  key ? "Incorrect API key provided."
                      : "You didn't provide an API key: send it as Authorization: Bearer KEY.");
    return false;
}
