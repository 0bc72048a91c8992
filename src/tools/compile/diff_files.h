/* What two models have and what not, without running them: sections, weights. */
#ifndef TOOLS_COMPILE_DIFF_FILES_H
#define TOOLS_COMPILE_DIFF_FILES_H

#include "tools/inspect/subject.h"

/* Of tensor_difference.what and section_difference.what. */
enum {
    DIFF_ONLY_A = 1,
    DIFF_ONLY_B = 2,
    DIFF_DTYPE = 4,
    DIFF_SHAPE = 8,
    DIFF_BYTES = 16 /* of two of the same type and shape */
};

struct tensor_difference {
    unsigned what;
    struct tensor_facts a, b; /* the one that is not there is zeros */
};

struct section_difference {
    unsigned what; /* 0: the same */
    uint32_t type;
    uint64_t a_bytes, b_bytes;
};

struct diff_files {
    struct tensor_difference *tensors; /* by name; those alone that differ */
    uint32_t n_tensors, n_same;
    struct section_difference *sections; /* all; none unless both are program files */
    uint32_t n_sections;
};

/* Names point into the subjects. On failure, too, *out is to be freed. */
serverd_status diff_files(const struct subject *a, const struct subject *b, struct diff_files *out,
                          serverd_error *err);
void diff_files_free(struct diff_files *files); /* a zeroed one is fine */

#endif
