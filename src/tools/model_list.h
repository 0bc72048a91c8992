/* The models that the options name: --model-path, --models and --models-path, with their aliases
 * and adapters. */
#ifndef TOOLS_MODEL_LIST_H
#define TOOLS_MODEL_LIST_H

#include "base/options.h"
#include "server/model_set.h"

/* The default first; names differ. Owns the texts of its items. */
struct model_list {
    struct model_config *items; /* [LIMIT_MODELS] */
    uint32_t n;
};

/* Looks at the folder, but into no file. The metrics are those of the process; engines get theirs
 * of it. SERVERD_INVALID: an option makes no sense, or there is no model. */
serverd_status model_list_create(const struct options *options, struct metrics *metrics,
                                 struct model_list *out, serverd_error *err);
/* Looks at the folder once more and adds what is new behind the others, which stay where they are.
 */
serverd_status model_list_rescan(struct model_list *list, const struct options *options,
                                 struct metrics *metrics, serverd_error *err);
void model_list_destroy(struct model_list *list);

#endif
