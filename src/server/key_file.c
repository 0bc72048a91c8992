/* The file of API keys: its form, and the set of keys that is made from it. */
#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "server/server_internal.h"

#include <stdlib.h>
#include <string.h>

#define LIMIT_KEY_FILE   (1 * MIB)
#define LIMIT_KEY_WEIGHT 9999u
#define LIMIT_KEY_RATE   1000000000u

/* Of a key that names none: all but admin, and but what changes others' programs. */
#define DEFAULT_SCOPES                                                                             \
    (1u << SCOPE_INFER | 1u << SCOPE_EMBED | 1u << SCOPE_BATCH | 1u << SCOPE_PROGRAMS |            \
     1u << SCOPE_METRICS)

/* Administrators may change programs. */
#define ADMIN_SCOPES (1u << SCOPE_ADMIN | 1u << SCOPE_PROGRAMS_WRITE)

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

/* 1 to `most` */
static bool read_number(const struct line *digits, uint32_t most, uint32_t *out)
{
    char text[16];
    uint64_t number;
    if (digits->len >= sizeof text)
        return false;
    memcpy(text, digits->at, digits->len);
    text[digits->len] = '\0';
    if (!parse_u64(text, 1, most, &number))
        return false;
    *out = (uint32_t)number;
    return true;
}

/* The scopes of a name that ends the word or stands before a comma; 0: there is none. */
static unsigned scope_bits(const char *at, size_t len)
{
    static const struct {
        const char *name;
        unsigned bits;
    } scopes[] = {{"infer", 1u << SCOPE_INFER},
                  {"embed", 1u << SCOPE_EMBED},
                  {"batch", 1u << SCOPE_BATCH},
                  {"programs", 1u << SCOPE_PROGRAMS},
                  {"programs:write", 1u << SCOPE_PROGRAMS_WRITE},
                  {"metrics", 1u << SCOPE_METRICS},
                  {"admin", ADMIN_SCOPES}};
    for (size_t i = 0; i < sizeof scopes / sizeof *scopes; i++)
        if (strlen(scopes[i].name) == len && memcmp(scopes[i].name, at, len) == 0)
            return scopes[i].bits;
    return 0;
}

static bool read_scopes(const struct line *list, unsigned *out)
{
    unsigned scopes = 0;
    for (size_t at = 0; at <= list->len;) {
        size_t end = at;
        while (end < list->len && list->at[end] != ',')
            end++;
        const unsigned bits = scope_bits(list->at + at, end - at);
        if (bits == 0)
            return false;
        scopes |= bits;
        at = end + 1;
    }
    *out = scopes;
    return true;
}

static bool read_name(const struct line *name, struct api_key *key)
{
    if (name->len == 0 || name->len > LIMIT_KEY_NAME_BYTES)
        return false;
    memcpy(key->name, name->at, name->len);
    key->name[name->len] = '\0';
    return is_ascii(name);
}

/* What may stand behind a key; one word. */
static bool read_property(const struct line *word, struct api_key *key)
{
    const struct line weight = value_of(word, "weight="), scopes = value_of(word, "scope="),
                      requests = value_of(word, "rpm="), tokens = value_of(word, "tpm="),
                      name = value_of(word, "name=");
    if (word->len == 5 && memcmp(word->at, "admin", 5) == 0) {
        key->scopes |= ADMIN_SCOPES;
        return true;
    }
    if (weight.at)
        return read_number(&weight, LIMIT_KEY_WEIGHT, &key->weight);
    if (scopes.at)
        return read_scopes(&scopes, &key->scopes);
    if (requests.at)
        return read_number(&requests, LIMIT_KEY_RATE, &key->per_minute[RATE_REQUESTS]);
    if (tokens.at)
        return read_number(&tokens, LIMIT_KEY_RATE, &key->per_minute[RATE_TOKENS]);
    return name.at && read_name(&name, key);
}

/* KEY and its properties. What is wrong is not shown: it may be a part of a key. */
static serverd_status read_key(struct line line, const char *path, uint32_t number,
                               struct api_key *key, serverd_error *err)
{
    struct line word;
    *key = (struct api_key){.weight = 1, .scopes = DEFAULT_SCOPES};
    (void)next_word(&line, &word); /* there is one */
    if (!is_ascii(&word))
        return fail(err, SERVERD_INVALID, "api-key-file: %s:%u: a key is one word of ASCII", path,
                    number);
    sha256_bytes(word.at, word.len, key->digest);
    while (next_word(&line, &word))
        if (!read_property(&word, key))
            return fail(err, SERVERD_INVALID,
                        "api-key-file: %s:%u: behind a key only name=NAME, of up to %u bytes, "
                        "weight=N, 1 to %u, rpm=N, tpm=N, 1 to %u, scope=infer,embed,batch,"
                        "programs,programs:write,metrics,admin, and admin may stand",
                        path, number, LIMIT_KEY_NAME_BYTES, LIMIT_KEY_WEIGHT, LIMIT_KEY_RATE);
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

/* The rate limit that a key of the old set has used so far; NULL: none. */
static struct rate_limit *find_limit(const struct key_set *old, const uint8_t digest[32])
{
    for (uint32_t i = 0; old && i < old->n; i++)
        if (old->keys[i].limit &&
            equal_constant_time(digest, old->keys[i].digest, sizeof old->keys[i].digest))
            return rate_limit_ref(old->keys[i].limit);
    return NULL;
}

serverd_status key_set_limit(struct key_set *keys, const struct key_set *old, uint64_t now_ns,
                             serverd_error *err)
{
    for (uint32_t i = 0; i < keys->n; i++) {
        struct api_key *key = &keys->keys[i];
        if (key->per_minute[RATE_REQUESTS] == 0 && key->per_minute[RATE_TOKENS] == 0)
            continue;
        key->limit = find_limit(old, key->digest);
        if (!key->limit)
            key->limit = rate_limit_create();
        if (!key->limit)
            return fail(err, SERVERD_NOMEM, "api-key-file: no memory for the limits of %u keys",
                        keys->n);
    }
    for (uint32_t i = 0; i < keys->n; i++)
        if (keys->keys[i].limit)
            rate_limit_set(keys->keys[i].limit, keys->keys[i].per_minute, now_ns);
    return SERVERD_OK;
}

void key_set_unref(struct key_set *keys)
{
    if (!keys || atomic_fetch_sub(&keys->references, 1) != 1)
        return;
    for (uint32_t i = 0; i < keys->n; i++)
        rate_limit_unref(keys->keys[i].limit);
    free(keys);
}
