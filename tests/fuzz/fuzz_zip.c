/* Any bytes as a zip archive: its files are listed, read and unpacked, or refused with a text. */
#include "base/limits.h"
#include "compiler/model_file.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *folder(void)
{
    static char path[64];
    if (!path[0]) {
        (void)snprintf(path, sizeof path, "/tmp/fuzz_zip_XXXXXX");
        if (!mkdtemp(path))
            abort();
    }
    return path;
}

static serverd_status see_name(void *arg, const char *name, serverd_error *err)
{
    (void)arg, (void)err;
    if (name[0] == '\0' || strchr(name, '/'))
        abort();
    return SERVERD_OK;
}

static void use(const char *archive, const char *name)
{
    char path[160];
    char *text = NULL;
    size_t n;
    struct file file;
    serverd_error err = {0};
    (void)snprintf(path, sizeof path, "%s/%s", archive, name);
    (void)model_file_exists(path);
    if (model_file_read(path, MIB, &text, &n, &err) == SERVERD_OK)
        free(text);
    else if (err.text[0] == '\0')
        abort();
    if (model_file_open(path, &file, &err) == SERVERD_OK)
        file_close(&file);
    (void)model_file_list(path, see_name, NULL, &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[96];
    (void)snprintf(path, sizeof path, "%s/m.zip", folder());
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    (void)close(fd);
    if (!model_file_is_archive(path))
        abort();
    use(path, "config.json");
    use(path, "t");
    use(path, "../x");
    use(path, "");
    (void)unlink(path);
    (void)rmdir(folder());
    (void)mkdir(folder(), 0700);
    return 0;
}
