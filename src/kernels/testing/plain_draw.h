/* serverd_draw (delegate.h) as plainly as it can be done, in double: what other delegates do
 * quickly. Pure. */
#ifndef KERNELS_TESTING_PLAIN_DRAW_H
#define KERNELS_TESTING_PLAIN_DRAW_H

#include "serverd/delegate.h"

/* z [n_vocab]: the row, which is changed; order [n_vocab]: working memory. The batch has the
 * changes and masks. The token, or SERVERD_DRAWN_UNSURE. */
int32_t plain_draw(const serverd_batch *batch, const serverd_draw *draw, float *z, uint32_t *order,
                   uint32_t n_vocab);

#endif
