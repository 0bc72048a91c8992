#include "tools/bench/workload.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/limits.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_LIMIT  (64 * MIB)
#define TURN_WORDS  30u /* of a question in a conversation */
#define ASK_WORDS   12u /* of a question behind a preamble */
#define FUNCTIONS   8u  /* of a source file */
#define WARM_CHUNKS 16u /* that each stream gets before a long prompt comes */

/* Of random numbers: what they are drawn for. */
enum purpose { FOR_PROMPT = 1, FOR_SHARED, FOR_LENGTH, FOR_TURN, FOR_ORDER, FOR_ARRIVAL, FOR_LONG };

struct conversation {
    json_t *messages; /* the history */
    uint32_t n_done;  /* turns */
    bool is_running, has_failed;
};

struct workload {
    struct workload_options options;
    json_t *extra;
    uint32_t n_requests, n_started, n_ended;
    uint32_t *order;   /* fewshot: [n_requests] */
    double *arrival_s; /* poisson: [n_requests] */
    struct conversation *conversations;
    uint32_t n_conversations, next_conversation;
    /* longprefill */
    uint32_t n_long_started, n_long_ended, n_streams_started, n_streams_ended;
    size_t least_chunks, chunks_at_long;
};

/* ---- random numbers and texts ---- */

static uint64_t state_for(const struct workload_options *options, enum purpose purpose,
                          uint64_t index)
{
    return hash_mix(options->seed ^ hash_mix((uint64_t)purpose << 40 ^ index));
}

/* least .. most, evenly; `most` 0: least. */
static uint32_t length_of(const struct workload_options *options, uint32_t index, uint32_t which,
                          uint32_t least, uint32_t most)
{
    if (most <= least)
        return least;
    uint64_t random = state_for(options, FOR_LENGTH, (uint64_t)which << 32 | index);
    return least + (uint32_t)(random % (most - least + 1));
}

static double unit(uint64_t random) /* 0 < x <= 1 */
{
    return ((double)(random >> 11) + 1) * 0x1p-53;
}

double workload_arrival(const struct workload_options *options, uint32_t index)
{
    double sum = 0;
    for (uint32_t i = 1; i <= index; i++)
        sum -= log(unit(state_for(options, FOR_ARRIVAL, i))) / options->rate;
    return sum;
}

/* A message with a text in front; NULL: no memory. */
static json_t *message(const char *role, const char *before, uint64_t state, uint32_t n_words)
{
    struct buffer text;
    buffer_init(&text, TEXT_LIMIT);
    buffer_append_str(&text, before);
    workload_text(&text, &state, n_words);
    json_t *made = text.is_failed ? NULL
                                  : json_pack("{s:s, s:s#}", "role", role, "content",
                                              buffer_str(&text), (int)text.len);
    buffer_deinit(&text);
    return made;
}

static bool append(json_t *messages, json_t *made)
{
    return made && json_array_append_new(messages, made) == 0;
}

/* "[number] Continue the story." before a text that is the request's own. */
static bool append_distinct(json_t *messages, const struct workload_options *options,
                            enum purpose purpose, uint32_t index, uint32_t n_words)
{
    uint64_t state = state_for(options, purpose, index);
    char before[64];
    (void)snprintf(before, sizeof before, "[%016llx] Continue the story. ",
                   (unsigned long long)hash_mix(state));
    return append(messages, message("user", before, state, n_words));
}

static bool append_question(json_t *messages, const struct workload_options *options,
                            uint32_t index)
{
    char before[32];
    (void)snprintf(before, sizeof before, "Question %u: ", index);
    return append(messages,
                  message("user", before, state_for(options, FOR_PROMPT, index), ASK_WORDS));
}

static bool append_edit(json_t *messages, const struct workload_options *options, uint32_t index)
{
    struct buffer text;
    char name[SOURCE_NAME_BYTES];
    uint64_t state = state_for(options, FOR_PROMPT, index);
    buffer_init(&text, TEXT_LIMIT);
    buffer_append_str(&text, "```python\n");
    workload_source(&text, &state, FUNCTIONS, name);
    buffer_append_str(&text, "```\n\nRename the function ");
    buffer_append_str(&text, name);
    buffer_append_str(&text, " to run_first everywhere, and return the whole file.");
    bool is_made =
        !text.is_failed && append(messages, json_pack("{s:s, s:s#}", "role", "user", "content",
                                                      buffer_str(&text), (int)text.len));
    buffer_deinit(&text);
    return is_made;
}

static bool is_shared(const struct workload_options *options, uint32_t index)
{
    return options->shared_share > 0 &&
           unit(state_for(options, FOR_SHARED, (uint64_t)1 << 32 | index)) <= options->shared_share;
}

static bool fill_messages(const struct workload_options *options, const struct record *record,
                          json_t *messages)
{
    uint32_t n_words = options->prompt_words, preamble = record->preamble;
    switch (options->scenario) {
    case SCENARIO_SHARED:
    case SCENARIO_FEWSHOT:
        return append(messages,
                      message("system", "", state_for(options, FOR_SHARED, preamble), n_words)) &&
               append_question(messages, options, record->index);
    case SCENARIO_LONGPREFILL:
        if (record->is_long)
            return append_distinct(messages, options, FOR_LONG, record->index, options->long_words);
        break;
    case SCENARIO_CODE_EDIT:
        return append_edit(messages, options, record->index);
    default:
        break;
    }
    n_words = length_of(options, record->index, 0, n_words, options->prompt_words_max);
    if (is_shared(options, record->index) &&
        !append(messages,
                message("system", "", state_for(options, FOR_SHARED, 0), options->shared_words)))
        return false;
    return append_distinct(messages, options, FOR_PROMPT, record->index, n_words);
}

/* ---- bodies ---- */

/* The texts, for completions: an empty line between them. */
static json_t *prompt_of(const json_t *messages)
{
    struct buffer text;
    buffer_init(&text, TEXT_LIMIT);
    for (size_t i = 0; i < json_array_size(messages); i++) {
        const json_t *content = json_object_get(json_array_get(messages, i), "content");
        if (i > 0)
            buffer_append_str(&text, "\n\n");
        buffer_append(&text, json_string_value(content), json_string_length(content));
    }
    json_t *made = text.is_failed ? NULL : json_stringn(buffer_str(&text), text.len);
    buffer_deinit(&text);
    return made;
}

static uint32_t max_tokens_of(const struct workload_options *options, const struct record *record)
{
    if (record->is_long)
        return 1;
    return length_of(options, record->index, 1, options->max_tokens, options->max_tokens_max);
}

static int append_bytes(const char *bytes, size_t n, void *context)
{
    struct buffer *out = context;
    buffer_append(out, bytes, n);
    return out->is_failed ? -1 : 0;
}

static serverd_status write_body(const struct workload *workload, const struct record *record,
                                 const json_t *messages, struct buffer *out, serverd_error *err)
{
    const struct workload_options *options = &workload->options;
    json_t *body = json_pack("{s:s, s:i, s:f, s:b, s:{s:b}, s:b}", "model", options->model,
                             "max_tokens", (int)max_tokens_of(options, record), "temperature", 0.0,
                             "stream", 1, "stream_options", "include_usage", 1, "ignore_eos", 1);
    bool is_made = body && json_object_set_new(body, options->is_chat ? "messages" : "prompt",
                                               options->is_chat ? json_deep_copy(messages)
                                                                : prompt_of(messages)) == 0;
    if (is_made && workload->extra)
        is_made = json_object_update(body, workload->extra) == 0;
    buffer_reset(out);
    if (is_made)
        is_made = json_dump_callback(body, append_bytes, out, JSON_COMPACT) == 0;
    json_decref(body);
    return is_made ? SERVERD_OK : fail(err, SERVERD_NOMEM, "request: no memory for its body");
}

serverd_status workload_body(struct workload *workload, const struct record *record,
                             struct buffer *out, serverd_error *err)
{
    const struct workload_options *options = &workload->options;
    if (options->scenario == SCENARIO_MULTITURN) {
        struct conversation *c = &workload->conversations[record->conversation];
        uint64_t at = (uint64_t)record->conversation << 32 | record->turn;
        if (!append(c->messages, message("user", "", state_for(options, FOR_TURN, at), TURN_WORDS)))
            return fail(err, SERVERD_NOMEM, "request: no memory for its text");
        return write_body(workload, record, c->messages, out, err);
    }
    json_t *messages = json_array();
    serverd_status status = messages && fill_messages(options, record, messages)
                                ? write_body(workload, record, messages, out, err)
                                : fail(err, SERVERD_NOMEM, "request: no memory for its text");
    json_decref(messages);
    return status;
}

/* ---- life ---- */

static bool make_conversations(struct workload *workload)
{
    const struct workload_options *options = &workload->options;
    workload->n_conversations =
        options->conversations ? options->conversations : options->concurrency;
    workload->n_requests = workload->n_conversations * options->turns;
    workload->conversations = calloc(workload->n_conversations, sizeof *workload->conversations);
    for (uint32_t i = 0; workload->conversations && i < workload->n_conversations; i++) {
        struct conversation *c = &workload->conversations[i];
        c->messages = json_array();
        if (!c->messages ||
            !append(c->messages, message("system", "", state_for(options, FOR_SHARED, 0),
                                         options->prompt_words)))
            return false;
    }
    return workload->conversations != NULL;
}

/* Fisher-Yates. */
static bool make_order(struct workload *workload)
{
    const struct workload_options *options = &workload->options;
    uint32_t n = workload->n_requests = options->preambles * options->questions;
    workload->order = calloc(n, sizeof *workload->order);
    for (uint32_t i = 0; workload->order && i < n; i++)
        workload->order[i] = i;
    for (uint32_t i = n; workload->order && i > 1; i--) {
        uint32_t j = (uint32_t)(state_for(options, FOR_ORDER, i) % i);
        uint32_t kept = workload->order[i - 1];
        workload->order[i - 1] = workload->order[j];
        workload->order[j] = kept;
    }
    return workload->order != NULL;
}

static bool make_arrivals(struct workload *workload)
{
    const struct workload_options *options = &workload->options;
    workload->arrival_s = calloc(workload->n_requests, sizeof *workload->arrival_s);
    for (uint32_t i = 1; workload->arrival_s && i < workload->n_requests; i++)
        workload->arrival_s[i] = workload->arrival_s[i - 1] -
                                 log(unit(state_for(options, FOR_ARRIVAL, i))) / options->rate;
    return workload->arrival_s != NULL;
}

static bool make_plan(struct workload *workload)
{
    const struct workload_options *options = &workload->options;
    workload->n_requests = options->n;
    switch (options->scenario) {
    case SCENARIO_MULTITURN:
        return make_conversations(workload);
    case SCENARIO_FEWSHOT:
        return make_order(workload);
    case SCENARIO_POISSON:
        return make_arrivals(workload);
    case SCENARIO_LONGPREFILL:
        workload->n_requests = 1 + options->concurrency + options->n_long;
        return true;
    default:
        return true;
    }
}

static serverd_status check_size(const struct workload_options *options, serverd_error *err)
{
    uint64_t n = options->n;
    if (options->scenario == SCENARIO_MULTITURN)
        n = (uint64_t)(options->conversations ? options->conversations : options->concurrency) *
            options->turns;
    if (options->scenario == SCENARIO_FEWSHOT)
        n = (uint64_t)options->preambles * options->questions;
    if (n > WORKLOAD_MAX_REQUESTS)
        return fail(err, SERVERD_INVALID, "%llu requests, at most %u allowed",
                    (unsigned long long)n, WORKLOAD_MAX_REQUESTS);
    return SERVERD_OK;
}

serverd_status workload_create(const struct workload_options *options, struct workload **out,
                               serverd_error *err)
{
    serverd_status status = check_size(options, err);
    if (status != SERVERD_OK)
        return status;
    struct workload *workload = calloc(1, sizeof *workload);
    if (!workload)
        return fail(err, SERVERD_NOMEM, "workload: no memory");
    workload->options = *options;
    json_error_t where;
    if (options->extra && !(workload->extra = json_loads(options->extra, 0, &where)))
        status = fail(err, SERVERD_INVALID, "--extra: no JSON: %s", where.text);
    else if (options->extra && !json_is_object(workload->extra))
        status = fail(err, SERVERD_INVALID, "--extra: is no JSON object");
    else if (!make_plan(workload))
        status = fail(err, SERVERD_NOMEM, "workload: no memory");
    if (status != SERVERD_OK) {
        workload_destroy(workload);
        return status;
    }
    *out = workload;
    return SERVERD_OK;
}

void workload_destroy(struct workload *workload)
{
    if (!workload)
        return;
    for (uint32_t i = 0; workload->conversations && i < workload->n_conversations; i++)
        json_decref(workload->conversations[i].messages);
    free(workload->conversations);
    free(workload->order);
    free(workload->arrival_s);
    json_decref(workload->extra);
    free(workload);
}

uint32_t workload_n_requests(const struct workload *workload)
{
    return workload->n_requests;
}

/* ---- what may start ---- */

/* The next conversation that waits, in turn. */
static bool next_turn(struct workload *workload, struct record *record)
{
    for (uint32_t i = 0; i < workload->n_conversations; i++) {
        uint32_t index = (workload->next_conversation + i) % workload->n_conversations;
        struct conversation *c = &workload->conversations[index];
        if (c->is_running || c->has_failed || c->n_done == workload->options.turns)
            continue;
        c->is_running = true;
        record->conversation = index;
        record->turn = c->n_done;
        record->keeps_text = true;
        workload->next_conversation = index + 1;
        return true;
    }
    return false;
}

/* One long prompt alone, all streams, then long prompts while each stream gets content. */
static bool next_of_long(struct workload *workload, struct record *record)
{
    const struct workload_options *options = &workload->options;
    if (workload->n_long_started == 0) {
        record->is_long = record->is_alone = true;
    } else if (workload->n_long_ended == 0) {
        return false;
    } else if (workload->n_streams_started < options->concurrency) {
        workload->n_streams_started++;
        return true;
    } else if (workload->n_long_started > options->n_long ||
               workload->n_long_started > workload->n_long_ended || workload->n_streams_ended > 0 ||
               workload->least_chunks < workload->chunks_at_long + WARM_CHUNKS) {
        return false;
    }
    record->is_long = true;
    workload->n_long_started++;
    return true;
}

static bool may_start(struct workload *workload, double now_s, uint32_t n_running,
                      struct record *record, double *wait_s)
{
    const struct workload_options *options = &workload->options;
    uint32_t next = workload->n_started;
    switch (options->scenario) {
    case SCENARIO_LONGPREFILL:
        return next_of_long(workload, record);
    case SCENARIO_MULTITURN:
        return n_running < options->concurrency && next_turn(workload, record);
    case SCENARIO_POISSON:
        if (workload->arrival_s[next] <= now_s)
            return true;
        *wait_s = workload->arrival_s[next] - now_s;
        return false;
    case SCENARIO_FEWSHOT:
        record->preamble = workload->order[next] / options->questions;
        return n_running < options->concurrency;
    default:
        return n_running < options->concurrency;
    }
}

bool workload_next(struct workload *workload, double now_s, uint32_t n_running,
                   struct record *record, double *wait_s)
{
    *wait_s = 1;
    if (workload->n_started == workload->n_requests ||
        !may_start(workload, now_s, n_running, record, wait_s))
        return false;
    record->index = workload->n_started++;
    return true;
}

serverd_status workload_done(struct workload *workload, const struct record *record,
                             serverd_error *err)
{
    workload->n_ended++;
    if (workload->options.scenario == SCENARIO_LONGPREFILL) {
        workload->n_long_ended += record->is_long;
        workload->n_streams_ended += !record->is_long;
        workload->chunks_at_long = workload->least_chunks;
    }
    if (workload->options.scenario != SCENARIO_MULTITURN)
        return SERVERD_OK;
    struct conversation *c = &workload->conversations[record->conversation];
    c->is_running = false;
    c->n_done++;
    c->has_failed = !record_is_good(record);
    json_t *answer = json_pack("{s:s, s:s#}", "role", "assistant", "content",
                               buffer_str(&record->text), (int)record->text.len);
    if (answer ? append(c->messages, answer) : c->has_failed)
        return SERVERD_OK;
    c->has_failed = true; /* cut characters: its history cannot be sent */
    return fail(err, SERVERD_INVALID, "conversation %u: its answer is no UTF-8 text",
                record->conversation);
}

void workload_progress(struct workload *workload, size_t least_chunks)
{
    workload->least_chunks = least_chunks;
}

bool workload_is_over(const struct workload *workload)
{
    if (workload->n_started > workload->n_ended)
        return false;
    const struct workload_options *options = &workload->options;
    if (options->scenario == SCENARIO_LONGPREFILL)
        return workload->n_streams_ended == options->concurrency;
    for (uint32_t i = 0; i < workload->n_conversations; i++)
        if (!workload->conversations[i].has_failed &&
            workload->conversations[i].n_done < options->turns)
            return false;
    return options->scenario == SCENARIO_MULTITURN || workload->n_ended == workload->n_requests;
}
