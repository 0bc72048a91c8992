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

/* A line without its comment, and the space around it. */
struct line {
    const char *at;
    size_t len; /* 0: nothing stands in it */
};

/* The next line; false at the end. */
static bool next_line(const char **at, struct line *line)
{
    if (**at == '\0')
        return false;
    size_t n = strcspn(*at, "\n");
    *line = (struct line){*at, n};
    *at += n + ((*at)[n] == '\n');
    while (line->len > 0 && strchr("\r \t", line->at[line->len - 1]))
        line->len--;
    while (line->len > 0 && strchr(" \t", *line->at)) {
        line->at++;
        line->len--;
    }
    if (line->len > 0 && *line->at == '#')
        line->len = 0;
    return true;
}

/* Takes the first word off; false if there is none. */
static bool next_word(struct line *line, struct line *word)
{
    while (line->len > 0 && (*line->at == ' ' || *line->at == '\t')) {
        line->at++;
        line->len--;
    }
    *word = (struct line){line->at, 0};
    while (line->len > 0 && *line->at != ' ' && *line->at != '\t') {
        line->at++;
        line->len--;
        word->len++;
    }
    return word->len > 0;
}

static bool is_ascii(const struct line *word)
{
    for (size_t i = 0; i < word->len; i++)
        if (word->at[i] <= 0x20 || word->at[i] >= 0x7f)
            return false;
    return true;
}

/* What stands behind `name` in a word; len 0: nothing, or it is another word. */
static struct line value_of(const struct line *word, const char *name)
{
    size_t n = strlen(name);
    if (word->len < n || memcmp(word->at, name, n) != 0)
        return (struct line){NULL, 0};
    return (struct line){word->at + n, word->len - n};
}

/* 1 to 9999 */
static bool read_weight(const struct line *digits, uint32_t *out)
{
    *out = 0;
    for (size_t i = 0; i < digits->len; i++) {
        if (digits->len > 4 || digits->at[i] < '0' || digits->at[i] > '9')
            return false;
        *out = *out * 10 + (uint32_t)(digits->at[i] - '0');
    }
    return *out > 0;
}

/* name=NAME, weight=N or admin. */
static bool read_property(const struct line *word, struct api_key *key)
{
    const struct line name = value_of(word, "name="), weight = value_of(word, "weight=");
    if (word->len == 5 && memcmp(word->at, "admin", 5) == 0) {
        key->is_admin = true;
        return true;
    }
    if (weight.len > 0)
        return read_weight(&weight, &key->weight);
    if (name.len == 0 || name.len > LIMIT_KEY_NAME_BYTES)
        return false;
    memcpy(key->name, name.at, name.len);
    key->name[name.len] = '\0';
    return is_ascii(&name);
}

/* KEY [name=NAME] [weight=N] [admin]. What is wrong is not shown: it may be a part of a key. */
static serverd_status read_key(struct line line, const char *path, uint32_t number,
                               struct api_key *key, serverd_error *err)
{
    struct line word;
    *key = (struct api_key){.weight = 1};
    (void)next_word(&line, &word); /* there is one */
    if (!is_ascii(&word))
        return fail(err, SERVERD_INVALID, "api-key-file: %s:%u: a key is one word of ASCII", path,
                    number);
    sha256_bytes(word.at, word.len, key->digest);
    while (next_word(&line, &word))
        if (!read_property(&word, key))
            return fail(err, SERVERD_INVALID,
                        "api-key-file: %s:%u: behind a key only name=NAME, of up to %u bytes, "
                        "weight=N, 1 to 9999, and admin may stand",
                        path, number, LIMIT_KEY_NAME_BYTES);
    return SERVERD_OK;
}

serverd_status key_set_read(const char *path, struct key_set **out, serverd_error *err)
{
    char *text;
    size_t len;
    serverd_status status = file_read(path, LIMIT_KEY_FILE, &text, &len, err);
    if (status != SERVERD_OK)
        return error_context(err, "api-key-file");
    uint32_t n = 0, number = 0;
    const char *at = text;
    struct line line;
    while (next_line(&at, &line))
        n += line.len > 0;
    struct key_set *keys = malloc(sizeof *keys + (size_t)n * sizeof keys->keys[0]);
    if (!keys)
        status = fail(err, SERVERD_NOMEM, "api-key-file: no memory for %u keys", n);
    else if (n == 0)
        status = fail(err, SERVERD_INVALID, "api-key-file: %s holds no key", path);
    if (keys) {
        atomic_init(&keys->references, 1);
        keys->n = 0;
    }
    for (at = text; status == SERVERD_OK && next_line(&at, &line);) {
        number++;
        if (line.len > 0)
            status = read_key(line, path, number, &keys->keys[keys->n++], err);
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

bool auth_check(struct exchange *x)
{
    bool needs_admin = x->route->scope == SCOPE_ADMIN, is_ambiguous = false, is_admin = false;
    if (x->route->scope == SCOPE_PUBLIC)
        return true;
    struct key_set *keys = current_keys(x->server);
    if (!keys)
        return !needs_admin || x->server->is_local ||
               refuse_scope(x, "Without API keys this is for servers on loopback only.");
    const char *text = credential(x, &is_ambiguous);
    uint8_t digest[32] = {0};
    if (text)
        sha256_bytes(text, strlen(text), digest);
    const struct api_key *key = text && !is_ambiguous ? find_key(keys, digest) : NULL;
    if (key) {
        memcpy(&x->tenant, digest, sizeof x->tenant);
        memcpy(x->key_name, key->name, sizeof x->key_name);
        x->weight = key->weight;
        is_admin = key->is_admin;
    }
    key_set_unref(keys);
    if (key)
        return !needs_admin || is_admin ||
               refuse_scope(x, "This API key is not one of an administrator.");
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
