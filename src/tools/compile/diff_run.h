/* Two programs, or one on two back-ends, over the same tokens, node by node.
 *
 * Three runs go side by side, group by group (a group is a layer, or what is before or behind
 * them): A; B; and B again with every node's inputs taken from A. The first two say how far the
 * values are apart; the third how much of it each node adds itself. A node adds too much if its
 * own noise is far above the median of the nodes in its place in other layers, of the same types:
 * the layers before it, or all others if there are not enough of these (diff_judge.h). */
#ifndef TOOLS_COMPILE_DIFF_RUN_H
#define TOOLS_COMPILE_DIFF_RUN_H

#include "tools/compile/diff_files.h"
#include "tools/compile/diff_gap.h"
#include "tools/compile/diff_ids.h"
#include "tools/inspect/subject.h"

/* A node of A with the node of B that does the same. */
struct diff_node {
    uint32_t a, b;
    uint32_t group;
    struct gap whole; /* of the two runs */
    struct gap own;   /* with A's inputs */
    double usual;     /* noise of its like; negative: it has none */
    bool is_own;      /* `own` was measured: all its inputs are A's, too */
    bool is_changed;  /* it reads a weight of the same type and shape, but of other bits */
    bool is_bad;
};

struct diff_group {
    uint32_t layer;   /* UINT32_MAX: outside the layers */
    uint32_t n_nodes; /* of A */
    uint32_t n_alone; /* nodes of A or B that have no counterpart */
    struct gap whole; /* of what the group hands on: the residual, or the output */
    double own_noise; /* of the node that adds most */
};

struct diff_run {
    struct diff_node *nodes;
    uint32_t n_nodes;
    struct diff_group *groups;
    uint32_t n_groups;
    struct logits_gap logits; /* n_rows 0: an encoder */
    uint32_t bad_node;        /* index of the first; UINT32_MAX: none */
};

/* Both are placed. SERVERD_UNSUPPORTED: they are too different to be compared: other layers, other
 * widths. On failure, too, *out is to be freed. */
serverd_status diff_run(const struct subject *a, const struct subject *b,
                        const struct diff_files *files, const struct token_sequences *tokens,
                        struct diff_run *out, serverd_error *err);
void diff_run_free(struct diff_run *run); /* a zeroed one is fine */

#endif
