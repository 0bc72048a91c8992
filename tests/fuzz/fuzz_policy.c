/* Any bytes as the rules of a policy, and as a policy in one word: refused, or every tensor gets a
 * choice that can be. */
#include "quantise/policy.h"

#include "program/dtype.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct quantise_policy *policy)
{
    static const char *const names[] = {"token_embd.weight", "blk.12.ffn_down.weight", ""};
    for (size_t n = 0; n < sizeof names / sizeof *names; n++)
        for (int kind = 0; kind < KIND_COUNT; kind++) {
            struct quantise_choice c;
            serverd_error err;
            if (policy_choose(policy, names[n], (enum tensor_kind)kind, &c, &err) != SERVERD_OK)
                continue;
            if (c.format != 0 && ((c.group != 32 && c.group != 64 && c.group != 128) ||
                                  (c.format == DTYPE_MXFP4 && c.group != 32) || c.methods == 0))
                abort();
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct quantise_policy *policy = NULL;
    serverd_error err;
    if (policy_parse_rules((const char *)data, size, "rules", &policy, &err) == SERVERD_OK) {
        check(policy);
        policy_destroy(policy);
    }
    char word[64] = {0};
    memcpy(word, data, size < sizeof word - 1 ? size : sizeof word - 1);
    if (strstr(word, ".y")) /* would be a file */
        return 0;
    if (policy_create(word, &policy, &err) == SERVERD_OK) {
        check(policy);
        policy_destroy(policy);
    }
    return 0;
}
