/* Any bytes as a model file: compiling ends in a program or an error. */
#include "compiler/compile.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int fd = memfd_create("model", MFD_CLOEXEC);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    for (int i = 0; i < 2; i++) {
        struct compile_options options = {.path = path, .vocabulary_only = i == 1};
        struct program *program;
        serverd_error err;
        if (compile_model(&options, &program, &err) == SERVERD_OK)
            program_unref(program);
        else if (err.text[0] == '\0')
            abort();
    }
    (void)close(fd);
    return 0;
}
