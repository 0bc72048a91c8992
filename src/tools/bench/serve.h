/* Load on a server: runs a scenario against any OpenAI-compatible address and sums up what the
 * client saw. Used by the sub-commands serve and compare. */
#ifndef TOOLS_BENCH_SERVE_H
#define TOOLS_BENCH_SERVE_H

#include "tools/bench/http_load.h"
#include "tools/bench/report.h"
#include "tools/bench/workload.h"
#include "tools/command.h"

struct serve_options {
    const char *url, *api_key_file, *model, *extra, *label, *jsonl, *html;
    int scenario, endpoint; /* enum scenario; chat, completions */
    uint32_t n, concurrency, prompt_words, prompt_words_max, max_tokens, max_tokens_max;
    uint32_t shared_words, turns, conversations, preambles, questions, long_words, n_long;
    uint32_t seed, warmup;
    double rate, shared_share, timeout_s, slo_ttft_ms, slo_tpot_ms;
};

/* Rows of the table of options for a struct whose first member is a serve_options. */
#define SERVE_AT(field) offsetof(struct serve_options, field)
#define SERVE_ROWS                                                                                 \
    {"url", 'u', COMMAND_STRING,         SERVE_AT(url), "URL", "http://127.0.0.1:8000",            \
     0,     0,   "Address of the server"},                                                         \
        {"api-key-file",                                                                           \
         0,                                                                                        \
         COMMAND_STRING,                                                                           \
         SERVE_AT(api_key_file),                                                                   \
         "FILE",                                                                                   \
         NULL,                                                                                     \
         0,                                                                                        \
         0,                                                                                        \
         "File whose first line is the key to send"},                                              \
        {"model",                                                                                  \
         'm',                                                                                      \
         COMMAND_STRING,                                                                           \
         SERVE_AT(model),                                                                          \
         "NAME",                                                                                   \
         NULL,                                                                                     \
         0,                                                                                        \
         0,                                                                                        \
         "Model to ask for (default: the first that the server lists)"},                           \
        {"endpoint", 0, COMMAND_CHOICE, SERVE_AT(endpoint), "chat|completions", "chat",            \
         0,          0, "What is asked"},                                                          \
        {"scenario",                                                                               \
         's',                                                                                      \
         COMMAND_CHOICE,                                                                           \
         SERVE_AT(scenario),                                                                       \
         SCENARIO_NAMES,                                                                           \
         "closed",                                                                                 \
         0,                                                                                        \
         0,                                                                                        \
         "closed: n prompts, c in flight; poisson: they arrive at a rate; shared: one preamble, "  \
         "n questions; multiturn: conversations that send their history; fewshot: preambles x "    \
         "questions, shuffled; longprefill: long prompts beside c streams; code-edit: source "     \
         "files "                                                                                  \
         "to return with a function renamed"},                                                     \
        {"requests",                                                                               \
         'n',                                                                                      \
         COMMAND_COUNT,                                                                            \
         SERVE_AT(n),                                                                              \
         "N",                                                                                      \
         "16",                                                                                     \
         1,                                                                                        \
         WORKLOAD_MAX_REQUESTS,                                                                    \
         "Requests of closed, poisson and shared"},                                                \
        {"concurrency",                                                                            \
         'c',                                                                                      \
         COMMAND_COUNT,                                                                            \
         SERVE_AT(concurrency),                                                                    \
         "N",                                                                                      \
         "1",                                                                                      \
         1,                                                                                        \
         LOAD_MAX_RUNNING,                                                                         \
         "Requests in flight; of longprefill, streams"},                                           \
        {"rate",         'r',    COMMAND_FLOAT,                                                    \
         SERVE_AT(rate), "R",    "1",                                                              \
         0.001,          100000, "Requests per second of poisson"},                                \
        {"prompt-words",                                                                           \
         0,                                                                                        \
         COMMAND_COUNT,                                                                            \
         SERVE_AT(prompt_words),                                                                   \
         "N",                                                                                      \
         "100",                                                                                    \
         1,                                                                                        \
         1000000,                                                                                  \
         "Words of a prompt; of shared, multiturn and fewshot, of the preamble"},                  \
        {"prompt-words-max",                                                                       \
         0,                                                                                        \
         COMMAND_COUNT,                                                                            \
         SERVE_AT(prompt_words_max),                                                               \
         "N",                                                                                      \
         "0",                                                                                      \
         0,                                                                                        \
         1000000,                                                                                  \
         "Prompts have between prompt-words and this many; 0: all are alike"},                     \
        {"max-tokens", 0, COMMAND_COUNT, SERVE_AT(max_tokens), "N",                                \
         "64",         1, 1000000,       "Tokens of an answer"},                                   \
        {"max-tokens-max",                                                                         \
         0,                                                                                        \
         COMMAND_COUNT,                                                                            \
         SERVE_AT(max_tokens_max),                                                                 \
         "N",                                                                                      \
         "0",                                                                                      \
         0,                                                                                        \
         1000000,                                                                                  \
         "Answers have between max-tokens and this many; 0: all are alike"},                       \
        {"shared-share",                                                                           \
         0,                                                                                        \
         COMMAND_FLOAT,                                                                            \
         SERVE_AT(shared_share),                                                                   \
         "X",                                                                                      \
         "0",                                                                                      \
         0,                                                                                        \
         1,                                                                                        \
         "Share of closed and poisson that has one preamble in front"},                            \
        {"shared-words", 0, COMMAND_COUNT, SERVE_AT(shared_words),  "N",                           \
         "600",          1, 1000000,       "Words of that preamble"},                              \
        {"turns", 0, COMMAND_COUNT, SERVE_AT(turns), "N", "5", 1, 10000, "Turns of multiturn"},    \
        {"conversations",                                                                          \
         0,                                                                                        \
         COMMAND_COUNT,                                                                            \
         SERVE_AT(conversations),                                                                  \
         "N",                                                                                      \
         "0",                                                                                      \
         0,                                                                                        \
         1000000,                                                                                  \
         "Conversations of multiturn; 0: as many as are in flight"},                               \
        {"preambles", 0, COMMAND_COUNT, SERVE_AT(preambles),   "N",                                \
         "24",        1, 1000000,       "Preambles of fewshot"},                                   \
        {"questions",                                                                              \
         0,                                                                                        \
         COMMAND_COUNT,                                                                            \
         SERVE_AT(questions),                                                                      \
         "N",                                                                                      \
         "8",                                                                                      \
         1,                                                                                        \
         1000000,                                                                                  \
         "Questions behind each of them"},                                                         \
        {"long-words",                                                                             \
         0,                                                                                        \
         COMMAND_COUNT,                                                                            \
         SERVE_AT(long_words),                                                                     \
         "N",                                                                                      \
         "3000",                                                                                   \
         1,                                                                                        \
         1000000,                                                                                  \
         "Words of the prompts that longprefill sends"},                                           \
        {"long-prompts",                                                                           \
         0,                                                                                        \
         COMMAND_COUNT,                                                                            \
         SERVE_AT(n_long),                                                                         \
         "N",                                                                                      \
         "1",                                                                                      \
         1,                                                                                        \
         1000,                                                                                     \
         "How many of them, one after the other, beside the streams"},                             \
        {"seed",                                                                                   \
         0,                                                                                        \
         COMMAND_COUNT,                                                                            \
         SERVE_AT(seed),                                                                           \
         "N",                                                                                      \
         "1",                                                                                      \
         0,                                                                                        \
         4294967295.0,                                                                             \
         "The same seed makes the same texts and arrivals"},                                       \
        {"warmup",                                                                                 \
         0,                                                                                        \
         COMMAND_COUNT,                                                                            \
         SERVE_AT(warmup),                                                                         \
         "N",                                                                                      \
         "1",                                                                                      \
         0,                                                                                        \
         1000,                                                                                     \
         "Short requests before the run, not counted"},                                            \
        {"timeout",                                                                                \
         0,                                                                                        \
         COMMAND_FLOAT,                                                                            \
         SERVE_AT(timeout_s),                                                                      \
         "SECONDS",                                                                                \
         "600",                                                                                    \
         0.1,                                                                                      \
         86400,                                                                                    \
         "Longest time of a request; then it counts as an error"},                                 \
        {"slo-ttft-ms",                                                                            \
         0,                                                                                        \
         COMMAND_FLOAT,                                                                            \
         SERVE_AT(slo_ttft_ms),                                                                    \
         "MS",                                                                                     \
         "1000",                                                                                   \
         0,                                                                                        \
         1e9,                                                                                      \
         "Goodput: the first content comes within this time"},                                     \
        {"slo-tpot-ms",                                                                            \
         0,                                                                                        \
         COMMAND_FLOAT,                                                                            \
         SERVE_AT(slo_tpot_ms),                                                                    \
         "MS",                                                                                     \
         "60",                                                                                     \
         0,                                                                                        \
         1e9,                                                                                      \
         "Goodput: and each further token within this time on average"},                           \
        {"extra",                                                                                  \
         0,                                                                                        \
         COMMAND_STRING,                                                                           \
         SERVE_AT(extra),                                                                          \
         "JSON",                                                                                   \
         NULL,                                                                                     \
         0,                                                                                        \
         0,                                                                                        \
         "Object that is merged into every request"},                                              \
        {"label",                                                                                  \
         0,                                                                                        \
         COMMAND_STRING,                                                                           \
         SERVE_AT(label),                                                                          \
         "TEXT",                                                                                   \
         NULL,                                                                                     \
         0,                                                                                        \
         0,                                                                                        \
         "Written into the reports"},                                                              \
    {                                                                                              \
        "jsonl", 'o', COMMAND_STRING, SERVE_AT(jsonl), "FILE", NULL, 0, 0,                         \
            "Append a line of JSON for each request, and one that sums up"                         \
    }

/* Times in milliseconds, of requests that went well. */
struct serve_summary {
    struct samples ttft, itl, tpot, e2e;
    /* longprefill: gaps of the streams outside of and during long prefills; first contents of the
     * long prompts alone and beside the streams */
    struct samples itl_quiet, itl_long, ttft_alone, ttft_long;
    /* n_good: within the latency target, of all but the n_long long prompts that went well */
    uint32_t n, n_errors, n_good, n_long;
    uint64_t n_prompt, n_cached, n_output;
    double wall_s, cpu_s; /* cpu_s: of this client */
    double output_tok_s, total_tok_s, goodput;
    char first_error[200];
};

struct serve_result {
    struct record *records;
    uint32_t n;
    struct serve_summary summary;
    char model[128];
};

/* Runs the scenario with `label` in the line of progress. Failed requests are counted, not
 * returned; SERVERD_*: the run itself could not go on. */
serverd_status serve_run(const struct serve_options *options, const char *label,
                         struct serve_result *out, serverd_error *err);
void serve_result_deinit(struct serve_result *result);

/* From records to figures; wall_s and cpu_s are set. */
void serve_summarise(const struct serve_options *options, struct serve_result *result);

const char *serve_scenario_name(const struct serve_options *options);

/* ---- reports ---- */

serverd_status serve_print(const struct serve_options *options, struct serve_result *result,
                           FILE *to, serverd_error *err);
serverd_status serve_write_jsonl(const struct serve_options *options, struct serve_result *result,
                                 struct json_lines *lines, serverd_error *err);
json_t *serve_summary_json(const struct serve_options *options, struct serve_result *result);

/* One HTML file with everything in it: figures, distributions, time line. */
serverd_status html_report_write(const struct serve_options *options, struct serve_result *result,
                                 const char *path, serverd_error *err);

#endif
