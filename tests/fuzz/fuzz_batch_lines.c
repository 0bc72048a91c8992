/* A batch's input: lines, and what they ask for. What a line asks for is read back as the same. */
#include "server/data/batch_lines.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define URL "/v1/completions"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_again(const struct batch_item *item)
{
    struct batch_item again;
    struct batch_fault fault;
    struct buffer line;
    buffer_init(&line, SIZE_MAX / 2);
    buffer_append_str(&line, "{\"custom_id\":");
    buffer_append_json_string(&line, item->custom_id, strlen(item->custom_id));
    buffer_printf(&line, ",\"method\":\"POST\",\"url\":\"%s\",\"body\":%s}", URL, item->body);
    if (!batch_item_read(buffer_str(&line), line.len, URL, &again, &fault) ||
        strcmp(again.custom_id, item->custom_id) != 0 || strcmp(again.body, item->body) != 0)
        abort();
    batch_item_release(&again);
    buffer_deinit(&line);
}

static void look_at(const struct batch_line *line)
{
    struct batch_item item;
    struct batch_fault fault;
    if (line->is_too_long)
        return;
    if (batch_item_read(line->text, line->n, URL, &item, &fault))
        check_again(&item);
    batch_item_release(&item);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct line_reader reader;
    struct batch_line line;
    struct file file;
    serverd_error err;
    bool is_end = false;
    char path[64];
    int fd = memfd_create("lines", MFD_CLOEXEC);
    if (fd < 0 || write(fd, data, n) != (ssize_t)n)
        abort();
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (file_open(path, &file, &err) || line_reader_init(&reader, &file, 4096, &err))
        abort();
    while (line_reader_next(&reader, &line, &is_end, &err) == SERVERD_OK && !is_end)
        look_at(&line);
    if (!is_end)
        abort();
    line_reader_deinit(&reader);
    (void)close(fd);
    return 0;
}
