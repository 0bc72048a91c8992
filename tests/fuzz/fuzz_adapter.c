/* Any bytes as an adapter: a GGUF or adapter file as they are; behind the byte 'P' a PEFT folder,
 * its adapter_config.json up to the first NUL, adapter_model.safetensors behind it. Importing ends
 * in an adapter that can be written, or in an error. */
#include "base/file.h"
#include "compiler/adapter_files.h"
#include "compiler/adapter_import.h"
#include "support/synthetic_program.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct program *base;
static char folder[] = "/tmp/serverd-fuzz-XXXXXX";

static void must(bool holds)
{
    if (!holds)
        abort();
}

static void prepare(void)
{
    base = synthetic_program("llama", "F32");
    must(base && mkdtemp(folder) != NULL);
}

static void import(const char *path)
{
    struct adapter *adapter;
    serverd_error err = {0};
    if (adapter_import(path, base, &adapter, &err) == SERVERD_OK) {
        must(adapter_check(adapter, &err) == SERVERD_OK);
        must(adapter_fits(adapter, base, &err) == SERVERD_OK);
        adapter_destroy(adapter);
    } else {
        must(err.text[0] != '\0');
    }
}

static void write_member(const char *name, const void *bytes, size_t n)
{
    char path[128];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "we");
    must(file && fwrite(bytes, 1, n, file) == n);
    must(fclose(file) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!base)
        prepare();
    if (size > 0 && data[0] == 'P') {
        const uint8_t *end = memchr(data + 1, '\0', size - 1);
        size_t n = end ? (size_t)(end - data - 1) : size - 1;
        write_member("adapter_config.json", data + 1, n);
        write_member("adapter_model.safetensors", end ? end + 1 : data, end ? size - n - 2 : 0);
        import(folder);
        return 0;
    }
    struct memory_file file = memory_file_create();
    memory_file_write(&file, data, size);
    import(file.path);
    memory_file_close(&file);
    return 0;
}
