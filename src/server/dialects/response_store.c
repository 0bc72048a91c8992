#include "server/dialects/response_store.h"

#include "base/limits.h"
#include "base/numeric.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct response_entry {
    struct response_entry *next;
    char id[64];
    uint64_t tenant, expires_ns;
    size_t n_bytes;
    struct stored_response texts;
};

void response_store_init(struct response_store *store)
{
    *store = (struct response_store){0};
    (void)pthread_mutex_init(&store->lock, NULL);
}

void stored_response_free(struct stored_response *response)
{
    free(response->object);
    free(response->items);
    free(response->messages);
    *response = (struct stored_response){0};
}

static void drop_first(struct response_store *store)
{
    struct response_entry *entry = store->first;
    store->first = entry->next;
    if (!store->first)
        store->last = NULL;
    store->n--;
    store->n_bytes -= entry->n_bytes;
    stored_response_free(&entry->texts);
    free(entry);
}

void response_store_deinit(struct response_store *store)
{
    while (store->first)
        drop_first(store);
    (void)pthread_mutex_destroy(&store->lock);
}

/* All have one time to live, so the oldest go first. */
static void drop_expired(struct response_store *store, uint64_t now_ns)
{
    while (store->first &&
           (store->first->expires_ns <= now_ns || store->n > LIMIT_STORED_RESPONSES ||
            store->n_bytes > LIMIT_STORED_RESPONSE_BYTES))
        drop_first(store);
}

static size_t text_bytes(const char *text)
{
    return text ? strlen(text) + 1 : 0;
}

bool response_store_put(struct response_store *store, const char *id, uint64_t tenant,
                        uint64_t expires_ns, struct stored_response *response, uint64_t now_ns)
{
    struct response_entry *entry = calloc(1, sizeof *entry);
    if (!entry || !response->object || !response->items || !response->messages) {
        free(entry);
        stored_response_free(response);
        return false;
    }
    (void)snprintf(entry->id, sizeof entry->id, "%s", id);
    entry->tenant = tenant;
    entry->expires_ns = expires_ns;
    entry->texts = *response;
    entry->n_bytes = sizeof *entry + text_bytes(response->object) + text_bytes(response->items) +
                     text_bytes(response->messages);
    *response = (struct stored_response){0};
    (void)pthread_mutex_lock(&store->lock);
    if (store->last)
        store->last->next = entry;
    else
        store->first = entry;
    store->last = entry;
    store->n++;
    store->n_bytes += entry->n_bytes;
    drop_expired(store, now_ns);
    (void)pthread_mutex_unlock(&store->lock);
    return true;
}

/* Where the entry hangs; under the lock. */
static struct response_entry **find(struct response_store *store, const char *id, uint64_t tenant)
{
    struct response_entry **at = &store->first;
    while (*at && (strcmp((*at)->id, id) != 0 || (*at)->tenant != tenant))
        at = &(*at)->next;
    return at;
}

/* Copies; under the lock. False: there is no entry, or no memory. */
static bool copy(const struct response_entry *entry, struct stored_response *out)
{
    *out = (struct stored_response){0};
    if (entry)
        *out = (struct stored_response){strdup(entry->texts.object), strdup(entry->texts.items),
                                        strdup(entry->texts.messages)};
    if (out->object && out->items && out->messages)
        return true;
    stored_response_free(out);
    return false;
}

bool response_store_get(struct response_store *store, const char *id, uint64_t tenant,
                        uint64_t now_ns, struct stored_response *out)
{
    (void)pthread_mutex_lock(&store->lock);
    drop_expired(store, now_ns);
    bool is_found = copy(*find(store, id, tenant), out);
    (void)pthread_mutex_unlock(&store->lock);
    return is_found;
}

bool response_store_find_item(struct response_store *store, const char *item_id, uint64_t tenant,
                              uint64_t now_ns, struct stored_response *out)
{
    char quoted[96];
    (void)snprintf(quoted, sizeof quoted, "\"%.80s\"", item_id);
    (void)pthread_mutex_lock(&store->lock);
    drop_expired(store, now_ns);
    const struct response_entry *entry = store->first;
    while (entry && (entry->tenant != tenant ||
                     (!strstr(entry->texts.object, quoted) && !strstr(entry->texts.items, quoted))))
        entry = entry->next;
    bool is_found = copy(entry, out);
    (void)pthread_mutex_unlock(&store->lock);
    return is_found;
}

bool response_store_delete(struct response_store *store, const char *id, uint64_t tenant,
                           uint64_t now_ns)
{
    (void)pthread_mutex_lock(&store->lock);
    drop_expired(store, now_ns);
    struct response_entry **at = find(store, id, tenant), *entry = *at;
    if (entry) {
        *at = entry->next;
        if (store->last == entry) {
            store->last = store->first;
            while (store->last && store->last->next)
                store->last = store->last->next;
        }
        store->n--;
        store->n_bytes -= entry->n_bytes;
    }
    (void)pthread_mutex_unlock(&store->lock);
    if (entry) {
        stored_response_free(&entry->texts);
        free(entry);
    }
    return entry != NULL;
}
