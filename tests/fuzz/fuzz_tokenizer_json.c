/* Any bytes as tokenizer.json: importing ends in an error or in a vocabulary whose tokenizer, if it
 * can be made, encodes. */
#include "base/limits.h"
#include "compiler/hf_tokenizer.h"
#include "text/tokenizer.h"

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
        (void)snprintf(path, sizeof path, "/tmp/fuzz_tokenizer_json_XXXXXX");
        if (!mkdtemp(path))
            abort();
    }
    return path;
}

static void encode(const struct vocabulary *vocabulary)
{
    static const char text[] =
        "Hello w\xc3\xb6rld, 123  <s> \xe4\xb8\xad\xe6\x96\x87 e\xcc\x81\xff x"
        "tok tok_toktok  <m>\xe2\x80\x83<m> LOW<n>\xe2\x96\x81";
    uint32_t n_first;
    struct buffer decoded;
    struct tokenizer *tokenizer;
    struct token_list ids;
    serverd_error err;
    if (tokenizer_create(vocabulary, &tokenizer, &err) != SERVERD_OK)
        return;
    token_list_init(&ids, 1000);
    if (tokenizer_encode(tokenizer, text, sizeof text - 1, 3, &ids, &err) == SERVERD_OK)
        for (uint32_t i = 0; i < ids.n; i++)
            if (ids.id[i] < 0 || ids.id[i] >= (int32_t)vocabulary->n_tokens)
                abort();
    ids.n = 0;
    if (tokenizer_encode_pair(tokenizer, text, 20, text + 20, sizeof text - 21, &ids, &n_first,
                              &err) == SERVERD_OK &&
        n_first > ids.n)
        abort();
    buffer_init(&decoded, MIB);
    tokenizer_decode(tokenizer, ids.id, ids.n, false, &decoded);
    buffer_deinit(&decoded);
    token_list_deinit(&ids);
    tokenizer_destroy(tokenizer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[96];
    const struct json_place config = {.file = "config.json", .where = ""};
    serverd_error err = {0};
    (void)snprintf(path, sizeof path, "%s/tokenizer.json", folder());
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    (void)close(fd);
    struct program *program = program_create(256 * MIB);
    if (!program)
        return 0;
    if (hf_tokenizer_import(folder(), &config, program, &err) == SERVERD_OK &&
        program_check(program, &err) == SERVERD_OK)
        encode(&program->vocabulary);
    else if (err.text[0] == '\0')
        abort();
    program_unref(program);
    (void)unlink(path);
    return 0;
}
