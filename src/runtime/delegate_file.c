#include "runtime/delegate_file.h"

#include "base/error.h"
#include "base/log.h"
#include "base/numeric.h"

#include <ctype.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct delegate_file {
    struct delegate_file *next;
    int fd; /* stays open: the loader knows objects by the path that has its number */
    void *object;
    serverd_delegate table; /* what the file's has of it; the rest is NULL */
};

/* ---- the file -------------------------------------------------------------------------------- */

/* A file that ends too early is a bus error for who loads it. */
static bool is_whole(int fd, uint64_t file_bytes)
{
    ElfW(Ehdr) head;
    if (pread(fd, &head, sizeof head, 0) != (ssize_t)sizeof head ||
        memcmp(head.e_ident, ELFMAG, SELFMAG) != 0 || head.e_phentsize != sizeof(ElfW(Phdr)))
        return false;
    for (uint64_t i = 0; i < head.e_phnum; i++) {
        ElfW(Phdr) part;
        uint64_t at;
        if (__builtin_add_overflow((uint64_t)head.e_phoff, i * sizeof part, &at) ||
            at > INT64_MAX || pread(fd, &part, sizeof part, (off_t)at) != (ssize_t)sizeof part)
            return false;
        if (part.p_type == PT_LOAD &&
            (part.p_offset > file_bytes || part.p_filesz > file_bytes - part.p_offset))
            return false;
    }
    return true;
}

static serverd_status check_file(int fd, serverd_error *err)
{
    struct stat info;
    if (fstat(fd, &info) != 0)
        return fail(err, SERVERD_INVALID, "%s", strerror(errno));
    if (!S_ISREG(info.st_mode))
        return fail(err, SERVERD_INVALID, "is no regular file");
    if (info.st_uid != 0 && info.st_uid != geteuid())
        return fail(err, SERVERD_INVALID, "belongs to user %u; it must be root or user %u",
                    (unsigned)info.st_uid, (unsigned)geteuid());
    if (info.st_mode & (S_IWGRP | S_IWOTH))
        return fail(err, SERVERD_INVALID, "can be written by others (mode %04o)",
                    (unsigned)info.st_mode & 07777u);
    if (!is_whole(fd, (uint64_t)info.st_size))
        return fail(err, SERVERD_CORRUPT, "is no shared object, or cut off");
    return SERVERD_OK;
}

/* The file that was checked, and not one that has taken its place since. */
static serverd_status open_object(struct delegate_file *file, const char *path, serverd_error *err)
{
    file->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file->fd < 0)
        return fail(err, SERVERD_INVALID, "%s", strerror(errno));
    serverd_status status = check_file(file->fd, err);
    if (status != SERVERD_OK)
        return status;
    char checked[64];
    (void)snprintf(checked, sizeof checked, "/proc/self/fd/%d", file->fd);
    file->object = dlopen(checked, RTLD_NOW | RTLD_LOCAL);
    return file->object ? SERVERD_OK : fail(err, SERVERD_INVALID, "%.400s", dlerror());
}

static void close_file(struct delegate_file *file)
{
    if (file->object)
        (void)dlclose(file->object);
    if (file->fd >= 0)
        (void)close(file->fd);
    free(file);
}

/* ---- the table ------------------------------------------------------------------------------- */

/* A name that options can spell. */
static bool is_name(const char *name)
{
    size_t n = name ? strnlen(name, 33) : 0;
    if (n == 0 || n > 32 || strcmp(name, "auto") == 0 || strcmp(name, "hetero") == 0)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)name[i]) && name[i] != '-' && name[i] != '_')
            return false;
    return true;
}

static serverd_status check_table(const serverd_delegate *table, serverd_error *err)
{
    const struct {
        const char *name;
        bool is_there;
    } members[] = {
        {"version", table->version != NULL}, {"devices", table->devices != NULL},
        {"match", table->match != NULL},     {"form", table->form != NULL},
        {"pack", table->pack != NULL},       {"open", table->open != NULL},
        {"load", table->load != NULL},       {"execute", table->execute != NULL},
        {"unload", table->unload != NULL},   {"close", table->close != NULL},
    };
    for (size_t i = 0; i < sizeof members / sizeof *members; i++)
        if (!members[i].is_there)
            return fail(err, SERVERD_INVALID, "delegate %s: its table has no %s", table->name,
                        members[i].name);
    bool all = table->kv_page_bytes && table->kv_create && table->kv_zero && table->kv_copy &&
               table->kv_destroy;
    bool any = table->kv_page_bytes || table->kv_create || table->kv_zero || table->kv_copy ||
               table->kv_destroy;
    if (any && !all)
        return fail(err, SERVERD_INVALID, "delegate %s: its table has some of the kv functions",
                    table->name);
    return SERVERD_OK;
}

/* Copies what the file's table has. */
static serverd_status read_table(void *object, serverd_delegate *out, serverd_error *err)
{
    void *symbol = dlsym(object, SERVERD_DELEGATE_ENTRY);
    if (!symbol)
        return fail(err, SERVERD_INVALID, "has no symbol %s", SERVERD_DELEGATE_ENTRY);
    serverd_delegate_entry_fn entry;
    memcpy(&entry, &symbol, sizeof entry); /* an object pointer that is a function */
    const serverd_delegate *table = entry(SERVERD_DELEGATE_ABI);
    if (!table)
        return fail(err, SERVERD_VERSION, "does not work with ABI %u.%u",
                    SERVERD_DELEGATE_ABI >> 16, SERVERD_DELEGATE_ABI & 0xffffu);
    /* the one thing that never changes place */
    if (table->abi >> 16 != SERVERD_DELEGATE_ABI >> 16)
        return fail(err, SERVERD_VERSION, "is made for ABI %u, this is %u", table->abi >> 16,
                    SERVERD_DELEGATE_ABI >> 16);
    if (table->struct_bytes < offsetof(serverd_delegate, kv_identity))
        return fail(err, SERVERD_INVALID, "has a table of %u bytes, at least %zu are needed",
                    table->struct_bytes, offsetof(serverd_delegate, kv_identity));
    *out = (serverd_delegate){0};
    memcpy(out, table, min_size(table->struct_bytes, sizeof *out));
    out->struct_bytes = sizeof *out;
    if (!is_name(out->name))
        return fail(err, SERVERD_INVALID, "has a delegate without a proper name");
    return check_table(out, err);
}

/* ---- the list -------------------------------------------------------------------------------- */

serverd_status delegate_list_create(struct delegate_list *list,
                                    const serverd_delegate *const *builtin, uint32_t n_builtin,
                                    serverd_error *err)
{
    *list = (struct delegate_list){0};
    if (n_builtin > LIMIT_DELEGATES)
        return fail(err, SERVERD_INTERNAL, "%u delegates, at most %u are allowed", n_builtin,
                    LIMIT_DELEGATES);
    memcpy((void *)list->items, (const void *)builtin, n_builtin * sizeof *builtin);
    list->n = n_builtin;
    return SERVERD_OK;
}

void delegate_list_destroy(struct delegate_list *list)
{
    while (list->files) {
        struct delegate_file *file = list->files;
        list->files = file->next;
        close_file(file);
    }
    *list = (struct delegate_list){0};
}

static serverd_status add_file(struct delegate_list *list, struct delegate_file *file,
                               serverd_error *err)
{
    for (uint32_t i = 0; i < list->n; i++)
        if (strcmp(list->items[i]->name, file->table.name) == 0)
            return fail(err, SERVERD_INVALID, "there is a delegate %s already", file->table.name);
    if (list->n == LIMIT_DELEGATES)
        return fail(err, SERVERD_INVALID, "more than %u delegates", LIMIT_DELEGATES);
    list->items[list->n++] = &file->table;
    file->next = list->files;
    list->files = file;
    return SERVERD_OK;
}

serverd_status delegate_list_load(struct delegate_list *list, const char *path, serverd_error *err)
{
    struct delegate_file *file = calloc(1, sizeof *file);
    if (!file)
        return fail(err, SERVERD_NOMEM, "delegate %s: no memory", path);
    serverd_status status = open_object(file, path, err);
    if (status == SERVERD_OK)
        status = read_table(file->object, &file->table, err);
    if (status == SERVERD_OK)
        status = add_file(list, file, err);
    if (status == SERVERD_OK)
        return SERVERD_OK;
    close_file(file);
    return error_context(err, "delegate %s", path);
}

serverd_status delegate_list_load_all(struct delegate_list *list, const char *paths,
                                      serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    for (const char *text = paths ? paths : ""; *text && status == SERVERD_OK;) {
        char path[4096];
        size_t n = strcspn(text, ",");
        if (n >= sizeof path)
            return fail(err, SERVERD_INVALID, "delegate: a path of %zu bytes", n);
        memcpy(path, text, n);
        path[n] = '\0';
        text += n + (text[n] != '\0');
        status = delegate_list_load(list, path, err);
    }
    return status;
}

static int is_shared_object(const struct dirent *entry)
{
    size_t n = strlen(entry->d_name);
    return n > 3 && strcmp(entry->d_name + n - 3, ".so") == 0;
}

void delegate_list_load_folder(struct delegate_list *list, const char *folder,
                               void (*warn)(void *context, int level, const char *text),
                               void *context)
{
    struct dirent **entries;
    int n = scandir(folder, &entries, is_shared_object, alphasort);
    for (int i = 0; i < n; i++) {
        char path[4096];
        serverd_error err;
        int len = snprintf(path, sizeof path, "%s/%s", folder, entries[i]->d_name);
        free(entries[i]);
        if (len <= 0 || (size_t)len >= sizeof path)
            continue;
        if (delegate_list_load(list, path, &err) != SERVERD_OK && warn)
            warn(context, LOG_WARN, err.text);
    }
    if (n >= 0)
        free((void *)entries);
}
