#include "text/pretokenizer.h"

#include "base/error.h"
#include "base/numeric.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_EXPRESSIONS = 5 };

/* Work of one match, and memory of the matcher: far above what the expressions below need. */
#define MATCH_LIMIT 10000000u
#define HEAP_KIB    20480u

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define SPACES       "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define GPT2         "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)"
#define LLAMA3(numbers)                                                                            \
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" numbers "| "                                    \
                 "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define TEKKEN(suffix, numbers)                                                                    \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" suffix "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER  \
    "*" suffix "|" numbers "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES

/* The names of one family, the expressions applied one after the other: each cuts the fragments
 * of the one before; what lies between matches is a fragment too. */
static const struct family {
    const char *names; /* separated by spaces */
    bool ignores_merges, adds_bos;
    const char *expressions[MAX_EXPRESSIONS];
} families[] = {
    {"gpt-2 gpt2 phi-2 jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-en jina-v2-code "
     "gigachat roberta-bpe modern-bert exaone4 olmo mpt trillion granite-docling mellum",
     false,
     false,
     {GPT2}},
    {"smollm starcoder refact command-r codeshell exaone minerva-7b",
     false,
     false,
     {"\\p{N}", GPT2}},
    {"llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
     true,
     true,
     {LLAMA3("\\p{N}{1,3}")}},
    {"dbrx smaug-bpe", false, false, {LLAMA3("\\p{N}{1,3}")}},
    {"glm4 chatglm-bpe youtu minicpm5", true, false, {LLAMA3("\\p{N}{1,3}")}},
    {"qwen2 deepseek-r1-qwen megrez hunyuan stablelm2 grok-2 solar-open kormo",
     false,
     false,
     {LLAMA3("\\p{N}")}},
    {"qwen35",
     false,
     false,
     {CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+"
                   "[\\r\\n]*|" SPACES}},
    {"tekken", true, true, {TEKKEN("", "\\p{N}")}},
    {"gpt-4o llama4 kanana2 minimax-m2", false, false, {TEKKEN(CONTRACTIONS "?", "\\p{N}{1,3}")}},
    {"deepseek-llm",
     false,
     false,
     {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+",
      "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}"
      "\\x{ac00}-\\x{d7ff}]+",
      "\\p{N}+"}},
    {"deepseek-coder",
     false,
     false,
     {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+",
      "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+", "\\p{N}"}},
    {"deepseek-v3 hunyuan-dense joyai-llm",
     false,
     false,
     {"\\p{N}{1,3}", "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+",
      "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?"
      "[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACES}},
    {"falcon", false, false, {"[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]"}},
    {"seed-coder",
     false,
     false,
     {CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|" SPACES}},
    {"bailingmoe bailingmoe2 llada-moe",
     false,
     false,
     {"'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
      "\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"}},
    {"bloom poro-chat gpt3-finnish",
     false,
     false,
     {" ?[^(\\s|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}\\x{60c})]+"}},
    {"gemma4", false, false, {"[^\\n]+|[\\n]+"}},
    {"default", false, false, {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
};

struct pretokenizer {
    pcre2_code *code[MAX_EXPRESSIONS];
    size_t n;
};

/* ---- the table ---------------------------------------------------------------------------------
 */

static bool is_listed(const char *names, const char *name)
{
    size_t len = strlen(name);
    for (const char *at = names; (at = strstr(at, name)); at += len)
        if ((at == names || at[-1] == ' ') && (at[len] == ' ' || at[len] == '\0'))
            return true;
    return false;
}

static const struct family *find_family(const char *name)
{
    if (name[0] == '\0')
        name = "default";
    if (strchr(name, ' '))
        return NULL;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (is_listed(families[i].names, name))
            return &families[i];
    return NULL;
}

static serverd_status compile(struct pretokenizer *pre, const char *expression, serverd_error *err)
{
    int code;
    PCRE2_SIZE at;
    pcre2_code *compiled = pcre2_compile((PCRE2_SPTR)expression, PCRE2_ZERO_TERMINATED,
                                         PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
    if (!compiled)
        return fail(err, code == PCRE2_ERROR_NOMEMORY ? SERVERD_NOMEM : SERVERD_INTERNAL,
                    "pre-tokenizer: expression %zu fails at byte %zu with code %d", pre->n,
                    (size_t)at, code);
    pre->code[pre->n++] = compiled;
    return SERVERD_OK;
}

static serverd_status need_family(const char *name, const struct family **out, serverd_error *err)
{
    *out = find_family(name);
    return *out ? SERVERD_OK
                : fail(err, SERVERD_UNSUPPORTED,
                       "tokenizer.ggml.pre: there is no pre-tokenizer %.63s; its text would be cut "
                       "wrongly",
                       name);
}

serverd_status pretokenizer_create(const char *name, struct pretokenizer **out, serverd_error *err)
{
    const struct family *family;
    serverd_status status = need_family(name, &family, err);
    if (status != SERVERD_OK)
        return status;
    struct pretokenizer *pre = calloc(1, sizeof *pre);
    if (!pre)
        return fail(err, SERVERD_NOMEM, "no memory for a pre-tokenizer");
    for (size_t i = 0; i < MAX_EXPRESSIONS && family->expressions[i] && status == SERVERD_OK; i++)
        status = compile(pre, family->expressions[i], err);
    if (status != SERVERD_OK)
        pretokenizer_destroy(pre);
    else
        *out = pre;
    return status;
}

void pretokenizer_destroy(struct pretokenizer *pre)
{
    if (!pre)
        return;
    for (size_t i = 0; i < pre->n; i++)
        pcre2_code_free(pre->code[i]);
    free(pre);
}

serverd_status pretokenizer_ignores_merges(const char *name, bool *out, serverd_error *err)
{
    const struct family *family;
    serverd_status status = need_family(name, &family, err);
    if (status == SERVERD_OK)
        *out = family->ignores_merges;
    return status;
}

bool pretokenizer_adds_bos(const char *name)
{
    const struct family *family = find_family(name);
    return family && family->adds_bos;
}

/* ---- splitting ---------------------------------------------------------------------------------
 */

void fragment_list_deinit(struct fragment_list *list)
{
    free(list->len);
    *list = (struct fragment_list){0};
}

static serverd_status add_fragment(struct fragment_list *list, size_t len, serverd_error *err)
{
    if (len == 0)
        return SERVERD_OK;
    if (list->n == list->cap) {
        size_t cap = max_size(256, list->cap * 2), bytes;
        uint32_t *bigger =
            size_mul(cap, sizeof *list->len, &bytes) ? realloc(list->len, bytes) : NULL;
        if (!bigger)
            return fail(err, SERVERD_NOMEM, "no memory for %zu text fragments", cap);
        list->len = bigger;
        list->cap = cap;
    }
    list->len[list->n++] = (uint32_t)len;
    return SERVERD_OK;
}

/* Cuts one fragment at the matches of an expression. */
static serverd_status split_fragment(const pcre2_code *code, pcre2_match_data *data,
                                     pcre2_match_context *limits, const char *text, size_t n,
                                     struct fragment_list *out, serverd_error *err)
{
    size_t at = 0;
    while (at < n) {
        int found = pcre2_match(code, (PCRE2_SPTR)text, n, at, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY,
                                data, limits);
        if (found == PCRE2_ERROR_NOMATCH)
            break;
        if (found < 0)
            return fail(err, SERVERD_INVALID, "the text cannot be split into words (code %d)",
                        found);
        const PCRE2_SIZE *match = pcre2_get_ovector_pointer(data);
        serverd_status status = add_fragment(out, match[0] - at, err);
        if (status == SERVERD_OK)
            status = add_fragment(out, match[1] - match[0], err);
        if (status != SERVERD_OK)
            return status;
        at = match[1];
    }
    return add_fragment(out, n - at, err);
}

static serverd_status split_all(const pcre2_code *code, pcre2_match_data *data,
                                pcre2_match_context *limits, const char *text,
                                const struct fragment_list *in, struct fragment_list *out,
                                serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    out->n = 0;
    for (size_t i = 0; i < in->n && status == SERVERD_OK; i++) {
        status = split_fragment(code, data, limits, text, in->len[i], out, err);
        text += in->len[i];
    }
    return status;
}

serverd_status pretokenizer_split(const struct pretokenizer *pre, const char *text, size_t n,
                                  struct fragment_list *out, struct fragment_list *spare,
                                  serverd_error *err)
{
    pcre2_match_data *data = pcre2_match_data_create(1, NULL);
    pcre2_match_context *limits = pcre2_match_context_create(NULL);
    serverd_status status = SERVERD_OK;
    if (!data || !limits) {
        status = fail(err, SERVERD_NOMEM, "no memory to split text");
    } else {
        (void)pcre2_set_match_limit(limits, MATCH_LIMIT);
        (void)pcre2_set_heap_limit(limits, HEAP_KIB);
        out->n = 0;
        status = add_fragment(out, n, err);
    }
    for (size_t i = 0; i < pre->n && status == SERVERD_OK; i++) {
        struct fragment_list in = *out;
        *out = *spare;
        *spare = in;
        status = split_all(pre->code[i], data, limits, text, spare, out, err);
    }
    pcre2_match_data_free(data);
    pcre2_match_context_free(limits);
    return status;
}
