/* What lists of files and of batches have in common: the query string and the form of the reply. */
#ifndef SERVER_DATA_STORE_QUERY_H
#define SERVER_DATA_STORE_QUERY_H

#include "base/buffer.h"
#include "server/api_error.h"
#include "server/data/store_index.h"

struct exchange;

struct store_query {
    char purpose[STORE_PURPOSE_BYTES], after[STORE_ID_BYTES];
    uint32_t limit, n_items;
    bool is_ascending;
    char first_id[STORE_ID_BYTES], last_id[STORE_ID_BYTES];
};

/* `limit` (1..most, else `preset`), `after`, `order`, `purpose`. False: *e. */
bool store_query_read(const struct exchange *x, uint32_t preset, uint32_t most,
                      struct store_query *out, struct api_error *e);
/* Points into the query. */
struct store_page store_query_page(const struct store_query *query, uint64_t tenant);

/* {"object":"list","data":[...],"first_id","last_id","has_more"} */
void store_query_begin_list(struct store_query *query, struct buffer *out);
void store_query_begin_item(struct store_query *query, const char *id, struct buffer *out);
void store_query_end_list(const struct store_query *query, bool has_more, struct buffer *out);

/* An id as the store gives them, n bytes of a path. False: it cannot be one. */
bool store_query_id(const char *text, size_t n, char out[STORE_ID_BYTES]);

#endif
