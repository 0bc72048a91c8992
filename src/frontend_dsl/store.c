#include "frontend_dsl/store.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/limits.h"
#include "base/numeric.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A file that was changed so recently may be changed again within the same tick of its clock. */
#define FRESH_SECONDS 2

enum origin { ORIGIN_FILE, ORIGIN_UPLOAD };

/* Under the lock, but for what dsl_store_scan alone uses. */
struct entry {
    struct entry *next; /* by name, uploads first */
    char name[DSL_NAME_BYTES];
    enum origin origin;
    struct dsl_program *program; /* NULL: no version could be read */
    json_t *load_error;          /* NULL: none */
    /* of the scan */
    bool is_there;
    struct stat stat;
    uint8_t digest[32]; /* of what was read last */
    bool has_digest;
};

struct dsl_store {
    struct dsl_store_options options;
    char *folder;
    bool has_complained; /* that the folder cannot be read */

    pthread_mutex_t lock;
    struct entry *entries;
    uint32_t n;
};

serverd_status dsl_store_create(const struct dsl_store_options *options, struct dsl_store **out,
                                serverd_error *err)
{
    struct dsl_store *store = calloc(1, sizeof *store);
    if (store)
        store->folder = options->folder ? strdup(options->folder) : NULL;
    if (!store || (options->folder && !store->folder)) {
        free(store);
        return fail(err, SERVERD_NOMEM, "programs: no memory");
    }
    store->options = *options;
    (void)pthread_mutex_init(&store->lock, NULL);
    *out = store;
    return SERVERD_OK;
}

static void free_entry(struct entry *entry)
{
    dsl_program_unref(entry->program);
    json_decref(entry->load_error);
    free(entry);
}

void dsl_store_destroy(struct dsl_store *store)
{
    if (!store)
        return;
    while (store->entries) {
        struct entry *next = store->entries->next;
        free_entry(store->entries);
        store->entries = next;
    }
    (void)pthread_mutex_destroy(&store->lock);
    free(store->folder);
    free(store);
}

/* ---- entries, under the lock -------------------------------------------------------------------
 */

static struct entry *find(struct dsl_store *store, const char *name, enum origin origin)
{
    struct entry *entry = store->entries;
    while (entry && (entry->origin != origin || strcmp(entry->name, name) != 0))
        entry = entry->next;
    return entry;
}

/* What the name means: an upload goes before a file. */
static struct entry *find_any(struct dsl_store *store, const char *name)
{
    struct entry *entry = find(store, name, ORIGIN_UPLOAD);
    return entry ? entry : find(store, name, ORIGIN_FILE);
}

/* NULL: there is no room. */
static struct entry *add(struct dsl_store *store, const char *name, enum origin origin)
{
    struct entry *entry = store->n < LIMIT_DSL_PROGRAMS ? calloc(1, sizeof *entry) : NULL;
    if (!entry)
        return NULL;
    memcpy(entry->name, name, strlen(name) + 1);
    entry->origin = origin;
    struct entry **at = &store->entries;
    while (*at && strcmp((*at)->name, name) < 0)
        at = &(*at)->next;
    entry->next = *at;
    *at = entry;
    store->n++;
    return entry;
}

static void take_out(struct dsl_store *store, struct entry *entry)
{
    struct entry **at = &store->entries;
    while (*at != entry)
        at = &(*at)->next;
    *at = entry->next;
    store->n--;
}

/* A new version, or why there is none; takes both over. */
static void update(struct dsl_store *store, struct entry *entry, struct dsl_program *program,
                   json_t *load_error)
{
    (void)pthread_mutex_lock(&store->lock);
    struct dsl_program *old = program ? entry->program : NULL;
    json_t *old_error = entry->load_error;
    if (program)
        entry->program = program;
    entry->load_error = load_error;
    (void)pthread_mutex_unlock(&store->lock);
    dsl_program_unref(old);
    json_decref(old_error);
}

/* ---- the folder --------------------------------------------------------------------------------
 */

static bool is_unchanged(const struct entry *entry, const struct stat *now)
{
    struct timespec time = {0};
    const struct stat *then = &entry->stat;
    (void)clock_gettime(CLOCK_REALTIME, &time);
    return entry->has_digest && then->st_ino == now->st_ino && then->st_size == now->st_size &&
           then->st_mtim.tv_sec == now->st_mtim.tv_sec &&
           then->st_mtim.tv_nsec == now->st_mtim.tv_nsec &&
           time.tv_sec > now->st_mtim.tv_sec + FRESH_SECONDS;
}

/* The whole text of a regular file; free(). NULL: *error says why. */
static char *read_source(int fd, uint64_t size, size_t most, size_t *n, struct dsl_error *error)
{
    if (size > most) {
        dsl_error_set(error, "source_too_large", "the file has %llu bytes, at most %zu are allowed",
                      (unsigned long long)size, most);
        return NULL;
    }
    char *text = malloc(most + 1); /* it may grow while it is read */
    *n = 0;
    for (ssize_t got = 1; text && got > 0 && *n <= most; *n += (size_t)got) {
        got = read(fd, text + *n, most + 1 - *n);
        if (got < 0 && errno == EINTR)
            got = 0;
        if (got < 0)
            break;
    }
    if (text && *n <= most)
        return text;
    free(text);
    dsl_error_set(error, "source_too_large", "the file cannot be read whole");
    return NULL;
}

static json_t *describe_error(const struct dsl_error *error)
{
    return json_pack("{s:s, s:s, s:o}", "code", error->code, "message", error->message, "line",
                     error->line > 0 ? json_integer(error->line) : json_null());
}

static void count_reload(struct dsl_store *store, bool is_good)
{
    const char *labels[] = {is_good ? "ok" : "error"};
    metrics_add_labelled(store->options.metrics, METRIC_PROGRAM_RELOAD, labels, 1);
}

/* What is in the file is made the entry's version, if it is another one than before. */
static void read_entry(struct dsl_store *store, struct entry *entry, int fd,
                       const struct stat *stat)
{
    struct dsl_error error;
    struct dsl_program *program = NULL;
    uint8_t digest[32];
    size_t n;
    dsl_error_init(&error);
    memset(digest, 0, sizeof digest);
    char *source = read_source(fd, (uint64_t)stat->st_size, store->options.max_source, &n, &error);
    if (source)
        sha256_bytes(source, n, digest);
    const bool is_same =
        source && entry->has_digest && memcmp(digest, entry->digest, sizeof digest) == 0;
    if (source && !is_same)
        (void)dsl_program_read(entry->name, source, n, &store->options.limits, &program, &error);
    free(source);
    entry->stat = *stat;
    entry->has_digest = true;
    memcpy(entry->digest, digest, sizeof digest);
    if (is_same)
        return;
    count_reload(store, program != NULL);
    if (program)
        log_info(store->options.log, "programs", "%s is read", entry->name);
    else
        log_warn(store->options.log, "programs", "%s.lua: %s", entry->name, error.message);
    update(store, entry, program, program ? NULL : describe_error(&error));
    dsl_error_deinit(&error);
}

static void look_at_file(struct dsl_store *store, int folder, const char *file, const char *name)
{
    struct stat stat;
    const int fd = openat(folder, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return;
    if (fstat(fd, &stat) == 0 && S_ISREG(stat.st_mode)) {
        (void)pthread_mutex_lock(&store->lock);
        struct entry *entry = find(store, name, ORIGIN_FILE);
        if (!entry)
            entry = add(store, name, ORIGIN_FILE);
        (void)pthread_mutex_unlock(&store->lock);
        if (entry)
            entry->is_there = true;
        if (entry && !is_unchanged(entry, &stat))
            read_entry(store, entry, fd, &stat);
    }
    (void)close(fd);
}

/* The name of "NAME.lua"; false: it is another file. */
static bool name_of(const char *file, char name[DSL_NAME_BYTES])
{
    const size_t n = strlen(file);
    if (n < 5 || n - 4 >= DSL_NAME_BYTES || strcmp(file + n - 4, ".lua") != 0)
        return false;
    memcpy(name, file, n - 4);
    name[n - 4] = '\0';
    return dsl_program_name_is_valid(name);
}

/* Only the scan takes files out, so its entries stay while it looks at them. */
static void forget_gone(struct dsl_store *store)
{
    (void)pthread_mutex_lock(&store->lock);
    for (struct entry *entry = store->entries, *next; entry; entry = next) {
        next = entry->next;
        if (entry->origin != ORIGIN_FILE || entry->is_there)
            continue;
        take_out(store, entry);
        log_info(store->options.log, "programs", "%s has gone", entry->name);
        free_entry(entry);
    }
    (void)pthread_mutex_unlock(&store->lock);
}

void dsl_store_scan(struct dsl_store *store)
{
    char name[DSL_NAME_BYTES];
    if (!store->folder)
        return;
    DIR *folder = opendir(store->folder);
    (void)pthread_mutex_lock(&store->lock);
    for (struct entry *entry = store->entries; entry; entry = entry->next)
        entry->is_there = false;
    (void)pthread_mutex_unlock(&store->lock);
    if (!folder && errno != ENOENT && errno != ENOTDIR) {
        if (!store->has_complained)
            log_warn(store->options.log, "programs", "%s: %s", store->folder, strerror(errno));
        store->has_complained = true;
        return; /* what was there may still be */
    }
    for (const struct dirent *file; folder && (file = readdir(folder)) != NULL;)
        if (name_of(file->d_name, name))
            look_at_file(store, dirfd(folder), file->d_name, name);
    if (folder)
        (void)closedir(folder);
    forget_gone(store);
}

/* ---- requests ----------------------------------------------------------------------------------
 */

struct dsl_program *dsl_store_find(struct dsl_store *store, const char *name)
{
    (void)pthread_mutex_lock(&store->lock);
    const struct entry *entry = find_any(store, name);
    struct dsl_program *program = entry && entry->program ? dsl_program_ref(entry->program) : NULL;
    (void)pthread_mutex_unlock(&store->lock);
    return program;
}

enum dsl_put dsl_store_put(struct dsl_store *store, const char *name, const char *source, size_t n,
                           struct dsl_error *error)
{
    struct dsl_program *program = NULL, *old = NULL;
    if (dsl_program_read(name, source, n, &store->options.limits, &program, error) != SERVERD_OK)
        return DSL_PUT_BROKEN;
    (void)pthread_mutex_lock(&store->lock);
    struct entry *entry = find(store, name, ORIGIN_UPLOAD);
    enum dsl_put how = entry ? DSL_PUT_REPLACED : DSL_PUT_NEW;
    if (!entry)
        entry = add(store, name, ORIGIN_UPLOAD);
    if (entry) {
        old = entry->program;
        entry->program = program;
    } else {
        old = program;
        how = store->n >= LIMIT_DSL_PROGRAMS ? DSL_PUT_FULL : DSL_PUT_NO_MEMORY;
    }
    (void)pthread_mutex_unlock(&store->lock);
    dsl_program_unref(old);
    return how;
}

enum dsl_removal dsl_store_remove(struct dsl_store *store, const char *name)
{
    (void)pthread_mutex_lock(&store->lock);
    struct entry *entry = find(store, name, ORIGIN_UPLOAD);
    const bool is_file = !entry && find(store, name, ORIGIN_FILE);
    if (entry)
        take_out(store, entry);
    (void)pthread_mutex_unlock(&store->lock);
    if (entry)
        free_entry(entry);
    return entry ? DSL_REMOVED : is_file ? DSL_REMOVAL_IS_FILE : DSL_REMOVAL_UNKNOWN;
}

static json_t *describe(const struct entry *entry)
{
    const struct dsl_program *p = entry->program;
    return json_pack("{s:s, s:s?, s:s?, s:s?, s:s, s:O?}", "name", entry->name, "version",
                     p && *p->version ? p->version : NULL, "doc", p && *p->doc ? p->doc : NULL,
                     "sha256", p ? p->sha256 : NULL, "origin",
                     entry->origin == ORIGIN_FILE ? "file" : "upload", "load_error",
                     entry->load_error);
}

json_t *dsl_store_list(struct dsl_store *store)
{
    json_t *list = json_array();
    (void)pthread_mutex_lock(&store->lock);
    for (const struct entry *entry = store->entries; list && entry; entry = entry->next)
        if (entry == find_any(store, entry->name))
            (void)json_array_append_new(list, describe(entry));
    (void)pthread_mutex_unlock(&store->lock);
    return list;
}

json_t *dsl_store_entry(struct dsl_store *store, const char *name)
{
    (void)pthread_mutex_lock(&store->lock);
    const struct entry *entry = find_any(store, name);
    json_t *object = entry ? describe(entry) : NULL;
    (void)pthread_mutex_unlock(&store->lock);
    return object;
}
