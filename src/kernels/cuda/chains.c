#include "kernels/cuda/chains.h"

#include "base/numeric.h"
#include "kernels/cuda/kernels.h"

#include <string.h>

enum { SEGMENT_PAGES = GPU_SEGMENT_KEYS / SERVERD_PAGE_TOKENS };

static bool has_same_pages(const serverd_batch *batch, uint32_t seq, uint32_t segment)
{
    const uint32_t *own = batch->page_table + (size_t)seq * batch->max_pages,
                   *last = own - batch->max_pages;
    return memcmp(own + segment * SEGMENT_PAGES, last + segment * SEGMENT_PAGES,
                  SEGMENT_PAGES * sizeof *own) == 0;
}

bool chains_find(const serverd_batch *batch, uint32_t n_segments, uint32_t *chain)
{
    bool is_any = false;
    memset(chain, 0, (size_t)batch->n_seqs * n_segments * sizeof *chain);
    if (!batch->page_table || batch->n_rows != batch->n_seqs)
        return false;
    for (uint32_t seq = 1; seq < batch->n_seqs; seq++) {
        const uint32_t n_keys =
            1 + min_u32((uint32_t)batch->position[seq], (uint32_t)batch->position[seq - 1]);
        const uint32_t n_whole = min_u32(n_keys / GPU_SEGMENT_KEYS, n_segments);
        uint32_t *own = chain + (size_t)seq * n_segments;
        /* a prefix is common up to some page, and not behind it */
        for (uint32_t s = 0; s < n_whole && has_same_pages(batch, seq, s); s++) {
            own[s] = chain[(size_t)(seq - 1) * n_segments + s] + 1;
            is_any = true;
        }
    }
    return is_any;
}
