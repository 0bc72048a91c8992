#include "base/limits.h"
#include "base/metrics_internal.h"
#include "serverd/delegate.h"

#include <stddef.h>

/* ---- what other servers count and this one can tell ---- */

static double ratio(double part, double whole)
{
    return whole > 0 ? part / whole : 0;
}

static double prompt_tokens_asked(struct metrics *m)
{
    return metrics_sum(m, METRIC_CACHED_TOKENS) + metrics_sum(m, METRIC_COMPUTED_TOKENS);
}

static double cache_hit_rate(struct metrics *m)
{
    return ratio(metrics_sum(m, METRIC_CACHED_TOKENS), prompt_tokens_asked(m));
}

static double used_tokens(struct metrics *m)
{
    return (metrics_sum(m, METRIC_KV_PAGES_PRIVATE) + metrics_sum(m, METRIC_KV_PAGES_LOCKED)) *
           SERVERD_PAGE_TOKENS;
}

static double requests(struct metrics *m)
{
    return metrics_count(m, METRIC_E2E);
}

/* Tokens that a sequence got in a step, on the average: guesses that were right come on top. */
static double accept_length(struct metrics *m)
{
    const double n = metrics_sum(m, METRIC_GENERATED_TOKENS);
    return ratio(n, n - metrics_sum(m, METRIC_ACCEPTED_TOKENS));
}

static double prompt_rate(struct metrics *m)
{
    return ratio(metrics_sum(m, METRIC_COMPUTED_TOKENS), metrics_sum(m, METRIC_PREFILL_TIME));
}

static double output_rate(struct metrics *m)
{
    return ratio(metrics_sum(m, METRIC_GENERATED_TOKENS), metrics_sum(m, METRIC_DECODE_TIME));
}

/* ---- the table ---- */

/* One of: another name of a metric, also of a histogram's sum; of a family with another key; or a
 * number that is computed. */
struct alias {
    const char *name;
    enum metric_kind kind;
    enum metric_id source;
    const char *key;
    double (*compute)(struct metrics *m);
};

#define SAME(name, kind, id)                                                                       \
    {                                                                                              \
        name, kind, METRIC_##id, NULL, NULL                                                        \
    }
#define FAMILY(name, id, key)                                                                      \
    {                                                                                              \
        name, COUNTER, METRIC_##id, key, NULL                                                      \
    }
#define COMPUTED(name, kind, fn)                                                                   \
    {                                                                                              \
        name, kind, METRIC_COUNT, NULL, fn                                                         \
    }

static const struct alias aliases[] = {
    SAME("vllm:time_to_first_token_seconds", HISTOGRAM, TTFT),
    SAME("vllm:inter_token_latency_seconds", HISTOGRAM, ITL),
    SAME("vllm:e2e_request_latency_seconds", HISTOGRAM, E2E),
    SAME("vllm:time_per_output_token_seconds", HISTOGRAM, TPOT),
    SAME("vllm:request_queue_time_seconds", HISTOGRAM, QUEUE_TIME),
    SAME("vllm:request_prefill_time_seconds", HISTOGRAM, PREFILL_TIME),
    SAME("vllm:request_decode_time_seconds", HISTOGRAM, DECODE_TIME),
    SAME("vllm:request_prompt_tokens", HISTOGRAM, PROMPT_LENGTH),
    SAME("vllm:request_generation_tokens", HISTOGRAM, OUTPUT_LENGTH),
    SAME("vllm:num_requests_running", GAUGE, REQUESTS_RUNNING),
    SAME("vllm:num_requests_waiting", GAUGE, REQUESTS_WAITING),
    SAME("vllm:kv_cache_usage_perc", GAUGE, KV_USAGE),
    COMPUTED("vllm:prefix_cache_queries_total", COUNTER, prompt_tokens_asked),
    SAME("vllm:prefix_cache_hits_total", COUNTER, CACHED_TOKENS),
    SAME("vllm:prompt_tokens_total", COUNTER, PROMPT_TOKENS),
    SAME("vllm:generation_tokens_total", COUNTER, GENERATED_TOKENS),
    SAME("vllm:num_preemptions_total", COUNTER, PREEMPTIONS),
    FAMILY("vllm:request_success_total", FINISH, "finished_reason"),
    SAME("sglang:time_to_first_token_seconds", HISTOGRAM, TTFT),
    SAME("sglang:inter_token_latency_seconds", HISTOGRAM, ITL),
    SAME("sglang:e2e_request_latency_seconds", HISTOGRAM, E2E),
    SAME("sglang:queue_time_seconds", HISTOGRAM, QUEUE_TIME),
    SAME("sglang:num_running_reqs", GAUGE, REQUESTS_RUNNING),
    SAME("sglang:num_queue_reqs", GAUGE, REQUESTS_WAITING),
    SAME("sglang:token_usage", GAUGE, KV_USAGE),
    COMPUTED("sglang:num_used_tokens", GAUGE, used_tokens),
    SAME("sglang:gen_throughput", GAUGE, TOKEN_RATE),
    COMPUTED("sglang:cache_hit_rate", GAUGE, cache_hit_rate),
    COMPUTED("sglang:spec_accept_length", GAUGE, accept_length),
    SAME("sglang:prompt_tokens_total", COUNTER, PROMPT_TOKENS),
    SAME("sglang:generation_tokens_total", COUNTER, GENERATED_TOKENS),
    SAME("sglang:cached_tokens_total", COUNTER, CACHED_TOKENS),
    COMPUTED("sglang:num_requests_total", COUNTER, requests),
    SAME("sglang:num_aborted_requests_total", COUNTER, CANCELLED),
    SAME("llamacpp:prompt_tokens_total", COUNTER, COMPUTED_TOKENS),
    SAME("llamacpp:tokens_predicted_total", COUNTER, GENERATED_TOKENS),
    SAME("llamacpp:prompt_seconds_total", COUNTER, PREFILL_TIME),
    SAME("llamacpp:tokens_predicted_seconds_total", COUNTER, DECODE_TIME),
    COMPUTED("llamacpp:prompt_tokens_seconds", GAUGE, prompt_rate),
    COMPUTED("llamacpp:predicted_tokens_seconds", GAUGE, output_rate),
    SAME("llamacpp:requests_processing", GAUGE, REQUESTS_RUNNING),
    SAME("llamacpp:requests_deferred", GAUGE, REQUESTS_WAITING),
};

/* ---- rendering ---- */

static void append_alias(const struct alias *alias, struct metrics *m, const char *labels,
                         struct buffer *out)
{
    if (alias->kind == HISTOGRAM) {
        metrics_append_histogram(out, alias->name, labels, m, alias->source);
    } else if (alias->key) {
        metrics_append_family(out, alias->name, labels, alias->key, m, alias->source);
    } else {
        buffer_printf(out, "%s{%s} ", alias->name, labels);
        metrics_append_number(out,
                              alias->compute ? alias->compute(m) : metrics_sum(m, alias->source));
        buffer_append_char(out, '\n');
    }
}

/* model_name="...": of one of several models its own. */
static void make_labels(const struct metrics *m, const char *model, struct buffer *out)
{
    size_t n;
    const char *own = metrics_model(m, &n);
    buffer_reset(out);
    if (own)
        buffer_printf(out, "model_name=\"%.*s\"", (int)n, own);
    else
        metrics_append_label(out, "model_name", model);
}

void metrics_render_compat(struct metrics *metrics, const char *model, struct buffer *out)
{
    static const char *const kinds[] = {"counter", "gauge", "histogram"};
    struct buffer labels;
    if (!metrics)
        return;
    buffer_init(&labels, 4 * KIB);
    for (size_t i = 0; i < sizeof aliases / sizeof *aliases; i++) {
        buffer_printf(out, "# TYPE %s %s\n", aliases[i].name, kinds[aliases[i].kind]);
        struct metrics *m = NULL;
        while ((m = metrics_next_of_models(metrics, m))) {
            make_labels(m, model, &labels);
            append_alias(&aliases[i], m, buffer_str(&labels), out);
        }
    }
    out->is_failed |= labels.is_failed;
    buffer_deinit(&labels);
}
