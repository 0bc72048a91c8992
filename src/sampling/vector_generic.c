#define WIDTH 4
#include "sampling/vector_template.h"

const struct row_passes row_passes_generic = {"generic", row_max, row_weigh, row_weigh_above};
