#include "base/memory_info.h"

#include "base/file.h"
#include "base/limits.h"
#include "base/numeric.h"

#include <stdlib.h>
#include <string.h>

/* The number that stands behind `label` in a small file of the system; UINT64_MAX: there is none.
 */
static uint64_t read_number(const char *path, const char *label)
{
    char *text;
    size_t n;
    serverd_error ignored; /* no such file: nothing is known */
    uint64_t value = UINT64_MAX;
    if (file_read(path, 64 * KIB, &text, &n, &ignored) != SERVERD_OK)
        return value;
    char *at = strstr(text, label);
    if (at) {
        at += strlen(label);
        at += strspn(at, " ");
        at[strcspn(at, " \n")] = '\0';
        if (!parse_u64(at, 0, UINT64_MAX - 1, &value))
            value = UINT64_MAX; /* "max" */
    }
    free(text);
    return value;
}

uint64_t memory_available(void)
{
    const uint64_t kib = read_number("/proc/meminfo", "MemAvailable:");
    const uint64_t most = read_number("/sys/fs/cgroup/memory.max", "");
    const uint64_t free_bytes = kib > UINT64_MAX / KIB ? UINT64_MAX : kib * KIB;
    return free_bytes < most ? free_bytes : most;
}
