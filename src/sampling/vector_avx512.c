#define WIDTH 16
#include "sampling/vector_template.h"

const struct row_passes row_passes_avx512 = {"avx512", row_max, row_weigh, row_weigh_above};
