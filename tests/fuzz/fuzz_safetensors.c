/* Any bytes as a safetensors file: its header is read or refused, tensors lie in the file. */
#include "base/limits.h"
#include "compiler/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    struct file file;
    struct safetensors table;
    serverd_error err = {0};
    int fd = memfd_create("weights", MFD_CLOEXEC);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    struct arena *arena = arena_create(64 * MIB);
    if (!arena || file_open(path, &file, &err) != SERVERD_OK)
        abort();
    if (safetensors_read(path, &file, arena, &table, &err) == SERVERD_OK) {
        for (uint32_t i = 0; i < table.n_tensors; i++)
            if (table.tensors[i].offset > size ||
                table.tensors[i].bytes > size - table.tensors[i].offset)
                abort();
    } else if (err.text[0] == '\0') {
        abort();
    }
    file_close(&file);
    arena_destroy(arena);
    (void)close(fd);
    return 0;
}
