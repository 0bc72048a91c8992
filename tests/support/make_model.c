/* make_model ARCH OUT.gguf TYPE: writes a synthetic model. */
#include "base/file.h"
#include "support/synthetic_model.h"

#include <stdio.h>

int main(int argc, char **argv)
{
    serverd_error err;
    struct buffer bytes;
    buffer_init(&bytes, 1 << 25);
    if (argc != 4) {
        (void)fprintf(stderr, "usage: make_model ARCH OUT.gguf TYPE\n");
        return 2;
    }
    serverd_status status = synthetic_model(argv[1], argv[3], &bytes, &err);
    if (status == SERVERD_OK)
        status = file_write_atomic(argv[2], bytes.data, bytes.len, &err);
    if (status != SERVERD_OK)
        (void)fprintf(stderr, "make_model: %s\n", err.text);
    buffer_deinit(&bytes);
    return status != SERVERD_OK;
}
