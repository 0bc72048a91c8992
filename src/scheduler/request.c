#include "scheduler/request.h"

#include "base/arena.h"
#include "base/limits.h"
#include "grammar/grammar.h"

struct request *request_create(void)
{
    struct arena *arena = arena_create(LIMIT_REQUEST_BYTES);
    if (!arena)
        return NULL;
    struct request *request = arena_alloc(arena, sizeof *request);
    if (!request) {
        arena_destroy(arena);
        return NULL;
    }
    *request = (struct request){
        .n_choices = 1,
        .score_from = 1,
        .sampling = sampling_params_default(),
        .skips_special = true,
        .reasoning_budget = UINT32_MAX,
        .arena = arena,
    };
    return request;
}

void request_destroy(struct request *request)
{
    if (!request)
        return;
    grammar_unref(request->grammar);
    arena_destroy(request->arena);
}
