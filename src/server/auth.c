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

/* A line is KEY, or KEY weight=N. */
struct key_line {
    const char *key;
    size_t len; /* 0: comments and empty lines */
    uint32_t weight;
    bool is_valid;
};

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static bool read_weight(const char *word, size_t len, uint32_t *out)
{
    static const char name[] = "weight=";
    if (len <= strlen(name) || len > strlen(name) + 4 || strncmp(word, name, strlen(name)) != 0)
        return false;
    *out = 0;
    for (size_t i = strlen(name); i < len; i++) {
        if (word[i] < '0' || word[i] > '9')
            return false;
        *out = *out * 10 + (uint32_t)(word[i] - '0');
    }
    return *out > 0;
}

/* False at the end. */
static bool next_line(const char **at, struct key_line *out)
{
    if (**at == '\0')
        return false;
    const char *line = *at, *end = line + strcspn(line, "\n");
    *at = end + (*end == '\n');
    while (line < end && is_space(*line))
        line++;
    *out = (struct key_line){.key = line, .weight = 1, .is_valid = true};
    if (line < end && *line == '#')
        return true;
    for (; line < end && !is_space(*line); line++, out->len++)
        out->is_valid = out->is_valid && is_key_char(*line);
    while (line < end && is_space(*line))
        line++;
    while (line < end && is_space(end[-1]))
        end--;
    if (line < end && !read_weight(line, (size_t)(end - line), &out->weight))
        out->is_valid = false;
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
    const char *at = text;
    struct key_line l;
    while (next_line(&at, &l))
        n += l.len > 0;
    struct key_set *keys = malloc(sizeof *keys + (size_t)n * sizeof keys->key[0]);
    if (!keys)
        status = fail(err, SERVERD_NOMEM, "api-key-file: no memory for %u keys", n);
    else if (n == 0)
        status = fail(err, SERVERD_INVALID, "api-key-file: %s holds no key", path);
    if (keys) {
        atomic_init(&keys->references, 1);
        keys->n = 0;
    }
    for (at = text; status == SERVERD_OK && next_line(&at, &l);) {
        line++;
        if (!l.is_valid) {
            status = fail(err, SERVERD_INVALID,
                          "api-key-file: %s:%u: a line is a key, one word of ASCII, and perhaps "
                          "weight=N, 1 to 9999",
                          path, line);
        } else if (l.len > 0) {
            struct key_entry *entry = &keys->key[keys->n++];
            sha256_bytes(l.key, l.len, entry->digest);
            entry->weight = l.weight;
        }
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

/* The weight of the key with that digest; 0: there is none. Digests are compared, all of them, so
 * that time tells neither key nor length. */
static uint32_t weight_of(const struct key_set *keys, const uint8_t digest[32])
{
    uint32_t weight = 0;
    for (uint32_t i = 0; i < keys->n; i++) {
        const struct key_entry *entry = &keys->key[i];
        uint32_t is_it = equal_constant_time(digest, entry->digest, sizeof entry->digest);
        weight |= (0u - is_it) & entry->weight;
    }
    return weight;
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
    uint32_t weight = weight_of(keys, digest);
    key_set_unref(keys);
    if (key && !is_ambiguous && weight > 0) {
        x->weight = weight;
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
