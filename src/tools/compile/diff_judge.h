/* Which node of a comparison is not like the others: it adds far more noise than they do, or it
 * reads a weight of the same type but other bits where they read the same bits. The second finds
 * what is smaller than the noise of quantised neighbours. */
#ifndef TOOLS_COMPILE_DIFF_JUDGE_H
#define TOOLS_COMPILE_DIFF_JUDGE_H

#include "tools/compile/diff_files.h"
#include "tools/compile/diff_run.h"

/* Fills in `usual`, `is_changed` and `is_bad` of the nodes and `bad_node` of the run. */
serverd_status diff_judge(struct diff_run *run, const struct diff_files *files,
                          const serverd_graph *a, const serverd_graph *b, serverd_error *err);

#endif
