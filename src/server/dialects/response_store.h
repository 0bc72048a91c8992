/* Responses that may be continued or looked at again, for a while: id -> texts. In memory, bounded
 * by number and bytes: the oldest go. Any thread. */
#ifndef SERVER_DIALECTS_RESPONSE_STORE_H
#define SERVER_DIALECTS_RESPONSE_STORE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* JSON texts, NUL-terminated, of the heap. */
struct stored_response {
    char *object;   /* as it was replied */
    char *items;    /* what went in: a list of items */
    char *messages; /* the conversation with the answer: a list of chat messages */
};

struct response_entry;

struct response_store {
    pthread_mutex_t lock;
    struct response_entry *first, *last; /* oldest first */
    size_t n, n_bytes;
};

void response_store_init(struct response_store *store);
void response_store_deinit(struct response_store *store);

/* Takes the texts over. tenant: who may see it. False: no memory; the texts are freed. */
bool response_store_put(struct response_store *store, const char *id, uint64_t tenant,
                        uint64_t expires_ns, struct stored_response *response, uint64_t now_ns);

/* Copies of the texts, stored_response_free them. False: there is none, or another's. */
bool response_store_get(struct response_store *store, const char *id, uint64_t tenant,
                        uint64_t now_ns, struct stored_response *out);
/* The texts of a response that may have an item with this id, went in or came out. */
bool response_store_find_item(struct response_store *store, const char *item_id, uint64_t tenant,
                              uint64_t now_ns, struct stored_response *out);
bool response_store_delete(struct response_store *store, const char *id, uint64_t tenant,
                           uint64_t now_ns);
void stored_response_free(struct stored_response *response);

#endif
