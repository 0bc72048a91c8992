#include "text/stop_matcher.h"

#include "base/limits.h"
#include "base/numeric.h"

#include <stdlib.h>
#include <string.h>

/* The tail of the text, as long as the longest string: enough to see every match. */
struct stop_matcher {
    const struct stop_string *strings;
    uint32_t n, longest;
    uint64_t n_bytes; /* of the whole text */
    uint32_t tail_len;
    char tail[]; /* [2 * longest]: the last bytes of the text */
};

struct stop_matcher *stop_matcher_create(const struct stop_string *strings, uint32_t n)
{
    uint32_t longest = 1;
    for (uint32_t i = 0; i < n; i++)
        longest = (uint32_t)max_size(longest, strings[i].len);
    struct stop_matcher *matcher = calloc(1, sizeof *matcher + 2 * (size_t)longest);
    if (!matcher)
        return NULL;
    matcher->strings = strings;
    matcher->n = n;
    matcher->longest = longest;
    return matcher;
}

void stop_matcher_destroy(struct stop_matcher *matcher)
{
    free(matcher);
}

/* Whether a string ends with the tail's last byte. */
static bool ends_here(const struct stop_matcher *m, const struct stop_string *s)
{
    return s->len > 0 && s->len <= m->tail_len &&
           memcmp(m->tail + m->tail_len - s->len, s->bytes, s->len) == 0;
}

static void add_byte(struct stop_matcher *m, char byte)
{
    if (m->tail_len == 2 * m->longest) {
        memmove(m->tail, m->tail + m->longest, m->longest);
        m->tail_len = m->longest;
    }
    m->tail[m->tail_len++] = byte;
    m->n_bytes++;
}

bool stop_matcher_push(struct stop_matcher *m, const char *bytes, uint32_t len, uint32_t *index,
                       uint64_t *begin, uint64_t *end)
{
    bool is_found = false;
    for (uint32_t i = 0; i < len; i++) {
        add_byte(m, bytes[i]);
        for (uint32_t s = 0; s < m->n; s++) {
            if (!ends_here(m, &m->strings[s]))
                continue;
            uint64_t start = m->n_bytes - m->strings[s].len;
            /* earliest, then longest; a match that began before the present one may end later,
             * inside the same token */
            if (!is_found || start < *begin || (start == *begin && m->n_bytes > *end)) {
                *index = s;
                *begin = start;
                *end = m->n_bytes;
                is_found = true;
            }
        }
    }
    return is_found;
}

void stop_matcher_skip(struct stop_matcher *m, uint32_t len)
{
    m->n_bytes += len;
    m->tail_len = 0;
}

/* The longest end of the text that is the start of a string. */
static uint32_t possible_start(const struct stop_matcher *m, const struct stop_string *s)
{
    uint32_t len = (uint32_t)min_size(m->tail_len, s->len > 0 ? s->len - 1 : 0);
    while (len > 0 && memcmp(m->tail + m->tail_len - len, s->bytes, len) != 0)
        len--;
    return len;
}

uint64_t stop_matcher_safe(const struct stop_matcher *m)
{
    uint32_t held = 0;
    for (uint32_t s = 0; s < m->n; s++)
        held = (uint32_t)max_size(held, possible_start(m, &m->strings[s]));
    return m->n_bytes - held;
}
