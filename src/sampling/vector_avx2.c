#define WIDTH 8
#include "sampling/vector_template.h"

const struct row_passes row_passes_avx2 = {"avx2", row_max, row_weigh, row_weigh_above};
