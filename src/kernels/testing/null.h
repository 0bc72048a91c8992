/* The null delegate: takes any graph, computes no layer, and answers with the tokens of
 * null_model.h. For tests of everything above the kernels and for measuring what the server
 * itself costs. Options:
 *   step_us=N      each step lasts at least N microseconds (0)
 *   row_us=N       and N more for each row (0)
 *   min_token=N    tokens below N (control tokens) are never the answer (0)
 *   repeat=N       N percent of the tokens follow from the one before them, so texts repeat (0)
 *   waits=N        1: as if a device computed while the thread waits: serverd_host.meanwhile, and
 *                  pages that leave late (0)
 *   unsure=N       of N percent of the rows that are to be drawn from it does not say the token (0)
 */
#ifndef KERNELS_TESTING_NULL_H
#define KERNELS_TESTING_NULL_H

#include "serverd/delegate.h"

extern const serverd_delegate null_delegate;

#endif
