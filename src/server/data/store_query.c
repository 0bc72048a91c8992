#include "server/data/store_query.h"

#include "server/exchange.h"

#include <stdio.h>
#include <string.h>

#define ID_CHARACTERS "abcdefghijklmnopqrstuvwxyz0123456789_-"

bool store_query_id(const char *text, size_t n, char out[STORE_ID_BYTES])
{
    if (n == 0 || n >= STORE_ID_BYTES || strspn(text, ID_CHARACTERS) < n)
        return false;
    memcpy(out, text, n);
    out[n] = '\0';
    return true;
}

/* A parameter of at most cap - 1 harmless characters; "" if there is none. */
static bool read_word(const struct exchange *x, const char *name, char *out, size_t cap,
                      struct api_error *e)
{
    if (exchange_query_text(x, name, out, cap) && out[strspn(out, ID_CHARACTERS)] == '\0')
        return true;
    api_error_set(e, "invalid_value", name, "%s has no such value.", name);
    return false;
}

bool store_query_read(const struct exchange *x, uint32_t preset, uint32_t most,
                      struct store_query *out, struct api_error *e)
{
    char order[8];
    *out = (struct store_query){.limit = preset};
    if (!exchange_query_u32(x, "limit", 1, most, &out->limit, e) ||
        !read_word(x, "after", out->after, sizeof out->after, e) ||
        !read_word(x, "purpose", out->purpose, sizeof out->purpose, e) ||
        !read_word(x, "order", order, sizeof order, e))
        return false;
    out->is_ascending = strcmp(order, "asc") == 0;
    if (out->is_ascending || *order == '\0' || strcmp(order, "desc") == 0)
        return true;
    api_error_set(e, "invalid_value", "order", "order has to be asc or desc.");
    return false;
}

struct store_page store_query_page(const struct store_query *query, uint64_t tenant)
{
    return (struct store_page){.tenant = tenant,
                               .purpose = *query->purpose ? query->purpose : NULL,
                               .after = *query->after ? query->after : NULL,
                               .limit = query->limit,
                               .is_ascending = query->is_ascending};
}

void store_query_begin_list(struct store_query *query, struct buffer *out)
{
    query->n_items = 0;
    buffer_append_str(out, "{\"object\":\"list\",\"data\":[");
}

void store_query_begin_item(struct store_query *query, const char *id, struct buffer *out)
{
    if (query->n_items++ == 0)
        (void)snprintf(query->first_id, sizeof query->first_id, "%s", id);
    else
        buffer_append_char(out, ',');
    (void)snprintf(query->last_id, sizeof query->last_id, "%s", id);
}

static void write_id(const char *name, const char *id, struct buffer *out)
{
    if (*id)
        buffer_printf(out, ",\"%s\":\"%s\"", name, id);
    else
        buffer_printf(out, ",\"%s\":null", name);
}

void store_query_end_list(const struct store_query *query, bool has_more, struct buffer *out)
{
    buffer_append_char(out, ']');
    write_id("first_id", query->first_id, out);
    write_id("last_id", query->last_id, out);
    buffer_printf(out, ",\"has_more\":%s}", has_more ? "true" : "false");
}
