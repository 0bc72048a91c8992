#include "base/arena.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "frontend_dsl/dsl_json.h"
#include "frontend_dsl/gen_internal.h"

#include <stddef.h>
#include <string.h>

enum option_kind {
    OPTION_TEXT,
    OPTION_JSON,
    OPTION_BOOL,
    OPTION_U32,
    OPTION_I32,
    OPTION_FLOAT,
    OPTION_SEED,
    OPTION_LOGPROBS
};

struct option {
    const char *name;
    enum option_kind kind;
    size_t offset;
    bool is_of_call; /* makes no sense as a default */
};

#define OPTION(name, kind, field, is_of_call)                                                      \
    {                                                                                              \
        name, kind, offsetof(struct gen_options, field), is_of_call                                \
    }
static const struct option options[] = {
    OPTION("name", OPTION_TEXT, name, true),
    OPTION("stream", OPTION_BOOL, stream, false),
    OPTION("max_tokens", OPTION_U32, max_tokens, false),
    OPTION("min_tokens", OPTION_U32, sampling.min_tokens, false),
    OPTION("ignore_eos", OPTION_BOOL, sampling.ignore_eos, false),
    OPTION("n", OPTION_U32, n, true),
    OPTION("stop", OPTION_JSON, stop, false),
    OPTION("stop_regex", OPTION_JSON, stop_regex, false),
    OPTION("stop_token_ids", OPTION_JSON, stop_token_ids, false),
    OPTION("keep_stop", OPTION_BOOL, keep_stop, false),
    OPTION("regex", OPTION_TEXT, regex, true),
    OPTION("json_schema", OPTION_JSON, json_schema, true),
    OPTION("ebnf", OPTION_TEXT, ebnf, true),
    OPTION("choices", OPTION_JSON, choices, true),
    OPTION("method", OPTION_TEXT, method, true),
    OPTION("dtype", OPTION_TEXT, dtype, true),
    OPTION("temperature", OPTION_FLOAT, sampling.temperature, false),
    OPTION("top_p", OPTION_FLOAT, sampling.top_p, false),
    OPTION("top_k", OPTION_I32, sampling.top_k, false),
    OPTION("min_p", OPTION_FLOAT, sampling.min_p, false),
    OPTION("presence_penalty", OPTION_FLOAT, sampling.presence_penalty, false),
    OPTION("frequency_penalty", OPTION_FLOAT, sampling.frequency_penalty, false),
    OPTION("repetition_penalty", OPTION_FLOAT, sampling.repetition_penalty, false),
    OPTION("logit_bias", OPTION_JSON, logit_bias, false),
    OPTION("seed", OPTION_SEED, seed, true),
    OPTION("logprobs", OPTION_LOGPROBS, logprobs, false),
    OPTION("reasoning", OPTION_TEXT, reasoning, false),
    OPTION("tools", OPTION_JSON, tools, true),
    OPTION("tool_choice", OPTION_JSON, tool_choice, true),
};

static const struct option *find(const char *name)
{
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        if (strcmp(options[i].name, name) == 0)
            return &options[i];
    return NULL;
}

static int refuse(lua_State *L, const char *name, const char *what)
{
    dsl_raise(L, "invalid_option", "%s has to be %s", name, what);
}

/* An integer, or a float that is one. */
static bool as_integer(const json_t *value, int64_t *out)
{
    const double d = json_real_value(value);
    *out = json_is_integer(value) ? json_integer_value(value) : 0;
    if (json_is_integer(value))
        return true;
    if (!json_is_real(value) || d < -9007199254740992.0 || d > 9007199254740992.0 ||
        d != (double)(int64_t)d)
        return false;
    *out = (int64_t)d;
    return true;
}

static void set_integer(lua_State *L, const struct option *option, const json_t *value,
                        struct gen_options *out)
{
    char *field = (char *)out + option->offset;
    int64_t i;
    const bool is_logprobs = option->kind == OPTION_LOGPROBS;
    const int64_t most = is_logprobs ? LIMIT_TOP_LOGPROBS : INT32_MAX;
    if (!as_integer(value, &i))
        refuse(L, option->name, "an integer");
    if (option->kind == OPTION_SEED) {
        out->has_seed = true;
        out->seed = (uint64_t)i;
    } else if (i < 0 && option->kind == OPTION_I32) {
        *(int32_t *)(void *)field = 0; /* as elsewhere: -1 is off */
    } else if (i < 0 || i > most) {
        refuse(L, option->name, is_logprobs ? "0 to 20" : "0 or more");
    } else {
        *(uint32_t *)(void *)field = (uint32_t)i;
        out->wants_logprobs |= is_logprobs;
    }
}

static void set(lua_State *L, const struct option *option, const json_t *value,
                struct gen_options *out)
{
    void *field = (char *)out + option->offset;
    switch (option->kind) {
    case OPTION_TEXT:
        if (!json_is_string(value))
            refuse(L, option->name, "a string");
        *(const char **)field = json_string_value(value);
        break;
    case OPTION_JSON:
        *(const json_t **)field = value;
        break;
    case OPTION_BOOL:
        if (!json_is_boolean(value))
            refuse(L, option->name, "a boolean");
        *(bool *)field = json_is_true(value);
        break;
    case OPTION_FLOAT:
        if (!json_is_number(value))
            refuse(L, option->name, "a number");
        *(float *)field = (float)json_number_value(value);
        break;
    default:
        set_integer(L, option, value, out);
    }
}

static void apply(lua_State *L, const json_t *from, bool is_call, struct gen_options *out)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)from, name, value)
    {
        const struct option *option = find(name);
        if (!option || (option->is_of_call && !is_call))
            dsl_raise(L, "invalid_option", "gen has no option %.64s%s", name,
                      option ? " as a default" : "");
        if (!json_is_null(value))
            set(L, option, value, out);
    }
}

static void check(lua_State *L, const struct gen_options *o)
{
    serverd_error err;
    const struct dsl_run *run = run_of(L);
    const uint32_t n_vocab = tokenizer_vocabulary(run->setup.model.tokenizer)->n_tokens;
    const int n_forms = (o->regex != NULL) + (o->json_schema != NULL) + (o->ebnf != NULL) +
                        (o->choices != NULL) + (o->dtype != NULL);
    if (n_forms > 1)
        dsl_raise(L, "invalid_option",
                  "only one of regex, json_schema, ebnf, choices and dtype may be there");
    if (o->max_tokens == 0)
        refuse(L, "max_tokens", "1 or more");
    if (o->n == 0 || o->n > LIMIT_CHOICES)
        refuse(L, "n", "1 to 128");
    if (o->reasoning && strcmp(o->reasoning, "keep") != 0 && strcmp(o->reasoning, "separate") != 0)
        refuse(L, "reasoning", "\"keep\" or \"separate\"");
    if (sampling_params_check(&o->sampling, n_vocab, &err))
        dsl_raise(L, "invalid_option", "%s", err.text);
}

void gen_options_read(lua_State *L, int index, struct gen_options *out)
{
    struct dsl_run *run = run_of(L);
    const struct dsl_module *module = task_of(L)->module;
    *out = (struct gen_options){
        .stream = true,
        .n = 1,
        .max_tokens = run->limits.default_max_tokens,
        .sampling =
            run->setup.model.sampling ? *run->setup.model.sampling : sampling_params_default(),
    };
    apply(L, run->sampling, false, out);
    apply(L, module->program->defaults, false, out);
    if (lua_isnoneornil(L, index)) {
        lua_pushnil(L);
    } else if (lua_type(L, index) == LUA_TTABLE || lua_type(L, index) == LUA_TUSERDATA) {
        const json_t *call = dsl_json_check(L, index, LIMIT_GRAMMAR_TEXT, "invalid_option");
        if (!json_is_object(call) && json_array_size(call) > 0)
            dsl_raise(L, "invalid_option", "the options have to have names");
        apply(L, call, true, out);
    } else {
        dsl_raise(L, "invalid_option", "the options have to be a table");
    }
    check(L, out);
}
