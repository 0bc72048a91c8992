/* make_folder ARCH DIR TYPE N_SHARDS: writes a synthetic model as a Hugging Face folder. */
#include "support/synthetic_folder.h"

#include "base/numeric.h"

#include <stdio.h>

int main(int argc, char **argv)
{
    serverd_error err = {0};
    uint64_t n_shards = 1;
    if (argc != 5 || !parse_u64(argv[4], 1, 100, &n_shards)) {
        (void)fprintf(stderr, "usage: make_folder ARCH DIR TYPE N_SHARDS\n");
        return 2;
    }
    const struct synthetic_folder what = {
        .arch = argv[1], .dtype = argv[3], .n_shards = (uint32_t)n_shards};
    if (synthetic_folder(argv[2], &what, &err) != SERVERD_OK) {
        (void)fprintf(stderr, "make_folder: %s\n", err.text);
        return 1;
    }
    return 0;
}
