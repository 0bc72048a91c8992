/* A draft model: a second, smaller model with the same tokens, which guesses what the engine's own
 * model will say. Here is what is needed to open one; how it is used is the engine's
 * (engine_options.draft_runtime). */
#ifndef SCHEDULER_DRAFT_MODEL_H
#define SCHEDULER_DRAFT_MODEL_H

#include "program/program.h"

/* What the engine will ask of the draft model's runtime. */
serverd_limits draft_model_limits(uint32_t max_running, uint32_t context_size);

/* Whether a token means the same to both, which may have different numbers of unused ones at the
 * end of their vocabularies. SERVERD_UNSUPPORTED, with the first difference; also for encoders. */
serverd_status draft_model_check(const struct program *draft, const struct program *model,
                                 serverd_error *err);

#endif
