#include "server/dialects/timings.h"

#include "base/clock.h"

/* Members "NAME_n", "NAME_ms" and what follows from them. */
static void write_rate(const char *name, uint64_t n, double ms, struct buffer *out)
{
    buffer_printf(out, ",\"%s_n\":%llu,\"%s_ms\":", name, (unsigned long long)n, name);
    buffer_append_f64(out, ms);
    buffer_printf(out, ",\"%s_per_token_ms\":", name);
    buffer_append_f64(out, n > 0 ? ms / (double)n : 0.0);
    buffer_printf(out, ",\"%s_per_second\":", name);
    buffer_append_f64(out, ms > 0 ? (double)n * 1e3 / ms : 0.0);
}

void timings_write(const struct timings *t, struct buffer *out)
{
    const uint64_t first_ns = t->first_token_ns ? t->first_token_ns : t->end_ns;
    buffer_printf(out, "{\"cache_n\":%llu", (unsigned long long)t->n_cached);
    write_rate("prompt", t->n_prompt - t->n_cached, clock_ms_between(t->begin_ns, first_ns), out);
    write_rate("predicted", t->n_output, clock_ms_between(first_ns, t->end_ns), out);
    if (t->n_drafts > 0)
        buffer_printf(out, ",\"draft_n\":%llu,\"draft_n_accepted\":%llu",
                      (unsigned long long)t->n_drafts, (unsigned long long)t->n_drafts_right);
    buffer_append_char(out, '}');
}
