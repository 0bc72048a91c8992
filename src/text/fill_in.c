#include "text/fill_in.h"

#include <string.h>

/* NULL: the family has none. */
struct family {
    const char *prefix, *suffix, *middle, *pad, *repository, *file;
};

static const struct family families[] = {
    /* Qwen, CodeGemma */
    {"<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>", "<|repo_name|>",
     "<|file_sep|>"},
    /* StarCoder, Granite */
    {"<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim_pad>", "<repo_name>", "<file_sep>"},
    /* SantaCoder */
    {"<fim-prefix>", "<fim-suffix>", "<fim-middle>", "<fim-pad>", NULL, NULL},
    /* DeepSeek */
    {"<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", NULL, NULL, NULL},
    /* CodeLlama */
    {"▁<PRE>", "▁<SUF>", "▁<MID>", NULL, NULL, NULL},
    /* GLM */
    {"<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>", NULL, NULL, NULL},
};

struct fill_in_tokens fill_in_find(int32_t (*find)(const void *context, const char *text),
                                   const void *context)
{
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        const struct family *f = &families[i];
        const struct fill_in_tokens found = {
            .prefix = find(context, f->prefix),
            .suffix = find(context, f->suffix),
            .middle = find(context, f->middle),
            .pad = f->pad ? find(context, f->pad) : -1,
            .repository = f->repository ? find(context, f->repository) : -1,
            .file = f->file ? find(context, f->file) : -1,
        };
        if (found.prefix >= 0 && found.suffix >= 0 && found.middle >= 0)
            return found;
    }
    return (struct fill_in_tokens){-1, -1, -1, -1, -1, -1};
}

static int32_t find_token(const void *tokenizer, const char *text)
{
    return tokenizer_find(tokenizer, text, strlen(text));
}

struct fill_in_tokens fill_in_tokens_of(const struct tokenizer *tokenizer)
{
    const struct vocabulary *v = tokenizer_vocabulary(tokenizer);
    if (v->fim_prefix < 0 || v->fim_suffix < 0 || v->fim_middle < 0)
        return fill_in_find(find_token, tokenizer);
    return (struct fill_in_tokens){.prefix = v->fim_prefix,
                                   .suffix = v->fim_suffix,
                                   .middle = v->fim_middle,
                                   .pad = v->fim_pad,
                                   .repository = v->fim_repo,
                                   .file = v->fim_separator};
}
