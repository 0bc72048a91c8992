/* Where the random numbers of a run come from: chains of SplitMix64, so that they are functions of
 * the run's seed and the place in the program, whatever else runs.
 *
 *     branch 0        H(S, "branch", 0)
 *     branch 0.1      H(branch 0, "branch", 1)
 *     operation k     H(branch, "op", k)
 *     math.random     H(branch, "lua", k) */
#include "base/hash.h"
#include "frontend_dsl/run_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FNV_BASIS UINT64_C(0xcbf29ce484222325)
#define FNV_PRIME UINT64_C(0x100000001b3)

uint64_t dsl_seed(uint64_t seed, const char *label, uint64_t number)
{
    uint64_t h = FNV_BASIS;
    for (const char *c = label; *c; c++)
        h = (h ^ (uint8_t)*c) * FNV_PRIME;
    return hash_mix(hash_mix(hash_mix(seed) ^ h) ^ number);
}

uint64_t seed_of_operation(const struct dsl_branch *branch, uint64_t number)
{
    return dsl_seed(branch->seed, "op", number);
}

uint64_t seed_of_lua(const struct dsl_branch *branch, uint64_t number)
{
    return dsl_seed(branch->seed, "lua", number);
}

bool branch_init(struct dsl_branch *branch, struct dsl_branch *parent, uint64_t run_seed)
{
    char number[16];
    const char *above = parent ? parent->path : "";
    uint32_t index = parent ? parent->n_children + 1 : 0;
    if (parent && parent->depth == LIMIT_DSL_DEPTH)
        return false;
    int n = snprintf(number, sizeof number, "%s%u", parent ? "." : "", index);
    size_t n_above = strlen(above);
    char *path = malloc(n_above + (size_t)n + 1);
    if (!path)
        return false;
    memcpy(path, above, n_above);
    memcpy(path + n_above, number, (size_t)n + 1);
    *branch = (struct dsl_branch){
        .path = path,
        .seed = dsl_seed(parent ? parent->seed : run_seed, "branch", index),
        .depth = parent ? parent->depth + 1 : 0,
    };
    if (parent)
        parent->n_children = index;
    return true;
}

void branch_deinit(struct dsl_branch *branch)
{
    free(branch->path);
    *branch = (struct dsl_branch){0};
}
