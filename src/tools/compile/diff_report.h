/* What serverd-compile diff says, as text and as JSON. */
#ifndef TOOLS_COMPILE_DIFF_REPORT_H
#define TOOLS_COMPILE_DIFF_REPORT_H

#include "tools/compile/diff_files.h"
#include "tools/compile/diff_run.h"

struct diff_report {
    const struct subject *a, *b;
    const struct diff_files *files;
    const struct diff_run *run; /* NULL: they were not run, and `why` says why */
    const char *why;
    uint64_t n_tokens;
    bool has_nodes; /* every node, not layers alone */
    bool has_all;   /* all weights that differ, not some */
};

void diff_report_text(const struct diff_report *report, struct buffer *out);
void diff_report_json(const struct diff_report *report, struct buffer *out);

#endif
