/* What serverd-inspect says of a model, as text and as JSON. */
#ifndef TOOLS_INSPECT_REPORT_H
#define TOOLS_INSPECT_REPORT_H

#include "tools/inspect/memory.h"

struct report_parts {
    bool has_tensors, has_plan, has_tokens;
    const struct memory_facts *memory; /* NULL: there is no prediction, and `why` says why */
    const char *why, *kv_dtype;        /* kv_dtype: "bf16" */
};

void report_text(const struct subject *subject, const struct report_parts *parts,
                 struct buffer *out);
void report_json(const struct subject *subject, const struct report_parts *parts,
                 struct buffer *out);

/* report_sections.c: META, TEST and PLAN of a program file, as lines and as members. */
void report_facts_text(const struct subject *subject, struct buffer *out);
void report_facts_json(const struct subject *subject, struct buffer *out);
void report_tests_text(const struct subject *subject, struct buffer *out);
void report_tests_json(const struct subject *subject, struct buffer *out);
void report_stored_plans_text(const struct subject *subject, struct buffer *out);
void report_stored_plans_json(const struct subject *subject, struct buffer *out);

/* What both say of a partition's cost. */
struct partition_cost {
    uint64_t weight_bytes;
    double seconds[3]; /* for 1, 16, 512 rows; 0: unknown */
};
void partition_cost(const struct subject *subject, uint32_t partition, struct partition_cost *out);

/* "blk.0-7" */
void partition_layers(const struct placement *placement, uint32_t partition, char *out,
                      size_t size);

const char *token_type_name(uint32_t type);

#endif
