#include "compiler/model_file.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zip.h>

enum { PATH_BYTES = 4096, CHUNK_BYTES = 256 * 1024 };

static const char ending[] = ".zip";

/* ---- paths ----------------------------------------------------------------------------------- */

static bool ends_in_zip(const char *path, size_t n)
{
    return n > sizeof ending - 1 && memcmp(path + n - (sizeof ending - 1), ending, 4) == 0;
}

bool model_file_is_archive(const char *path)
{
    return ends_in_zip(path, strlen(path)) && file_exists(path);
}

/* The part of the path behind an archive's name, which goes to `archive`; NULL: there is none. */
static const char *find_member(const char *path, char archive[PATH_BYTES])
{
    for (const char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
        const size_t n = (size_t)(slash - path);
        if (!ends_in_zip(path, n) || n >= PATH_BYTES)
            continue;
        memcpy(archive, path, n);
        archive[n] = '\0';
        if (file_exists(archive))
            return slash + 1;
    }
    return NULL;
}

/* ---- archives -------------------------------------------------------------------------------- */

struct archive {
    const char *path; /* the caller's */
    zip_t *zip;
    uint64_t bytes, n_entries;
    size_t n_prefix; /* bytes of the directory's name with its slash, of every entry that counts */
    const char *prefix;
};

/* What some systems add beside the files. */
static bool is_litter(const char *name)
{
    return strncmp(name, "__MACOSX/", 9) == 0;
}

/* The first part of all names, if they have the same. */
static void find_prefix(struct archive *archive)
{
    archive->prefix = "";
    archive->n_prefix = 0;
    for (uint64_t i = 0; i < archive->n_entries; i++) {
        const char *name = zip_get_name(archive->zip, i, ZIP_FL_ENC_RAW);
        const char *slash = name ? strchr(name, '/') : NULL;
        if (name && is_litter(name))
            continue;
        const size_t n = slash ? (size_t)(slash - name) + 1 : 0;
        const bool is_same =
            n > 0 && (archive->n_prefix == 0 ||
                      (n == archive->n_prefix && memcmp(name, archive->prefix, n) == 0));
        if (!is_same) {
            archive->n_prefix = 0;
            return;
        }
        archive->prefix = name;
        archive->n_prefix = n;
    }
}

static void archive_close(struct archive *archive)
{
    if (archive->zip)
        zip_discard(archive->zip); /* was read only */
    archive->zip = NULL;
}

/* All members together: several entries may state the same bytes. */
static serverd_status check_sizes(const struct archive *archive, serverd_error *err)
{
    uint64_t sum = 0, most = UINT64_MAX;
    if (archive->bytes < UINT64_MAX / (2 * LIMIT_ZIP_RATIO))
        most = LIMIT_ZIP_BYTES + archive->bytes * LIMIT_ZIP_RATIO;
    for (uint64_t i = 0; i < archive->n_entries; i++) {
        zip_stat_t st;
        zip_stat_init(&st);
        if (zip_stat_index(archive->zip, i, 0, &st) != 0 || !(st.valid & ZIP_STAT_SIZE) ||
            st.size > most - sum)
            return fail(err, SERVERD_CORRUPT,
                        "%s: its files have more than %" PRIu64 " bytes, %u times as many as it",
                        archive->path, most, LIMIT_ZIP_RATIO);
        sum += st.size;
    }
    return SERVERD_OK;
}

static serverd_status archive_open(const char *path, struct archive *out, serverd_error *err)
{
    struct file file;
    int code = 0;
    serverd_status status = file_open(path, &file, err);
    if (status != SERVERD_OK)
        return status;
    *out = (struct archive){.path = path, .bytes = file.bytes};
    file_close(&file);
    out->zip = zip_open(path, ZIP_RDONLY, &code);
    if (!out->zip) {
        zip_error_t error;
        zip_error_init_with_code(&error, code);
        (void)fail(err, code == ZIP_ER_MEMORY ? SERVERD_NOMEM : SERVERD_CORRUPT,
                   "%s: no zip archive: %.100s", path, zip_error_strerror(&error));
        zip_error_fini(&error);
        return err->code;
    }
    const zip_int64_t n = zip_get_num_entries(out->zip, 0);
    if (n < 0 || n > LIMIT_ZIP_ENTRIES) {
        archive_close(out);
        return fail(err, SERVERD_CORRUPT, "%s: %lld files, at most %u are allowed", path,
                    (long long)n, LIMIT_ZIP_ENTRIES);
    }
    out->n_entries = (uint64_t)n;
    find_prefix(out);
    if (check_sizes(out, err) != SERVERD_OK)
        archive_close(out);
    return out->zip ? SERVERD_OK : err->code;
}

/* The name of an entry as a file of the model; NULL: it is none. */
static const char *name_of(const struct archive *archive, uint64_t i)
{
    const char *name = zip_get_name(archive->zip, i, ZIP_FL_ENC_RAW);
    return name && !is_litter(name) ? name + archive->n_prefix : NULL;
}

/* How many entries have that name; *index is one of them. */
static uint32_t count_members(const struct archive *archive, const char *member, uint64_t *index)
{
    uint32_t n = 0;
    const size_t len = strlen(member);
    for (uint64_t i = 0; i < archive->n_entries && len > 0 && member[len - 1] != '/'; i++) {
        const char *name = name_of(archive, i);
        if (!name || strcmp(name, member) != 0)
            continue;
        *index = i;
        n++;
    }
    return n;
}

/* ---- one member ------------------------------------------------------------------------------ */

struct member {
    struct archive archive;
    zip_file_t *file;
    uint64_t bytes;
};

static void member_close(struct member *m)
{
    if (m->file)
        (void)zip_fclose(m->file); /* was read only */
    archive_close(&m->archive);
}

static serverd_status check_stat(const char *path, const zip_stat_t *st, serverd_error *err)
{
    const uint64_t needed = ZIP_STAT_SIZE | ZIP_STAT_COMP_METHOD | ZIP_STAT_ENCRYPTION_METHOD;
    if ((st->valid & needed) != needed)
        return fail(err, SERVERD_CORRUPT, "%s: its size or method is not stated", path);
    if (st->encryption_method != ZIP_EM_NONE)
        return fail(err, SERVERD_UNSUPPORTED, "%s: it is encrypted", path);
    if (st->comp_method != ZIP_CM_STORE && st->comp_method != ZIP_CM_DEFLATE)
        return fail(err, SERVERD_UNSUPPORTED,
                    "%s: compression method %u; stored and deflated files are supported", path,
                    st->comp_method);
    return SERVERD_OK;
}

static serverd_status find(struct member *m, const char *path, const char *name, serverd_error *err)
{
    uint64_t index = 0;
    zip_stat_t st;
    const uint32_t n = count_members(&m->archive, name, &index);
    if (n == 0)
        return fail(err, SERVERD_INVALID, "%s: there is no such file", path);
    if (n > 1)
        return fail(err, SERVERD_CORRUPT, "%s: it is there %u times", path, n);
    zip_stat_init(&st);
    if (zip_stat_index(m->archive.zip, index, 0, &st) != 0)
        return fail(err, SERVERD_CORRUPT, "%s: %.100s", path, zip_strerror(m->archive.zip));
    serverd_status status = check_stat(path, &st, err);
    if (status != SERVERD_OK)
        return status;
    m->bytes = st.size;
    m->file = zip_fopen_index(m->archive.zip, index, 0);
    return m->file ? SERVERD_OK
                   : fail(err, SERVERD_CORRUPT, "%s: %.100s", path, zip_strerror(m->archive.zip));
}

static serverd_status member_open(const char *path, const char *archive, const char *name,
                                  struct member *out, serverd_error *err)
{
    *out = (struct member){0};
    serverd_status status = archive_open(archive, &out->archive, err);
    if (status == SERVERD_OK)
        status = find(out, path, name, err);
    if (status != SERVERD_OK)
        member_close(out);
    return status;
}

/* Exactly n bytes. */
static serverd_status read_bytes(struct member *m, const char *path, char *out, size_t n,
                                 serverd_error *err)
{
    for (size_t done = 0; done < n;) {
        zip_int64_t got = zip_fread(m->file, out + done, n - done);
        if (got <= 0)
            return fail(err, SERVERD_CORRUPT, "%s: %.100s", path,
                        got < 0 ? zip_file_strerror(m->file) : "it ends too early");
        done += (size_t)got;
    }
    return SERVERD_OK;
}

/* The checksum is compared where the end is read. */
static serverd_status read_end(struct member *m, const char *path, serverd_error *err)
{
    char more;
    zip_int64_t got = zip_fread(m->file, &more, 1);
    return got == 0 ? SERVERD_OK
                    : fail(err, SERVERD_CORRUPT, "%s: %.100s", path,
                           got < 0 ? zip_file_strerror(m->file) : "it is longer than stated");
}

static serverd_status member_read(struct member *m, const char *path, size_t limit, char **out,
                                  size_t *len, serverd_error *err)
{
    if (m->bytes > limit)
        return fail(err, SERVERD_INVALID, "%s: %" PRIu64 " bytes, at most %zu allowed", path,
                    m->bytes, limit);
    char *text = malloc(m->bytes + 1);
    if (!text)
        return fail(err, SERVERD_NOMEM, "%s: no memory for %" PRIu64 " bytes", path, m->bytes);
    serverd_status status = read_bytes(m, path, text, m->bytes, err);
    if (status == SERVERD_OK)
        status = read_end(m, path, err);
    if (status != SERVERD_OK) {
        free(text);
        return status;
    }
    text[m->bytes] = '\0';
    *out = text;
    *len = m->bytes;
    return SERVERD_OK;
}

/* ---- files without a name -------------------------------------------------------------------- */

/* On the archive's disk, on that for large temporary files, or in memory. */
static int open_nameless(const char *archive)
{
    char folder[PATH_BYTES];
    const char *slash = strrchr(archive, '/');
    (void)snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - archive) + 1 : 1,
                   slash ? archive : ".");
    const char *const folders[] = {folder, "/var/tmp"};
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        int fd = open(folders[i], O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        if (fd >= 0)
            return fd;
    }
    return memfd_create("model", MFD_CLOEXEC);
}

static serverd_status write_bytes(int fd, const char *path, const char *bytes, size_t n,
                                  serverd_error *err)
{
    while (n > 0) {
        ssize_t done = write(fd, bytes, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return fail(err, SERVERD_NOMEM, "%s: no room for it unpacked: %m", path);
        bytes += done;
        n -= (size_t)done;
    }
    return SERVERD_OK;
}

static serverd_status member_unpack(struct member *m, const char *path, struct file *out,
                                    serverd_error *err)
{
    char *chunk = malloc(CHUNK_BYTES);
    int fd = chunk ? open_nameless(m->archive.path) : -1;
    serverd_status status =
        fd >= 0 ? SERVERD_OK : fail(err, SERVERD_NOMEM, "%s: no room for it unpacked", path);
    for (uint64_t at = 0; at < m->bytes && status == SERVERD_OK; at += CHUNK_BYTES) {
        const size_t n = min_size(CHUNK_BYTES, m->bytes - at);
        status = read_bytes(m, path, chunk, n, err);
        if (status == SERVERD_OK)
            status = write_bytes(fd, path, chunk, n, err);
    }
    if (status == SERVERD_OK)
        status = read_end(m, path, err);
    free(chunk);
    if (status == SERVERD_OK)
        *out = (struct file){.fd = fd, .bytes = m->bytes};
    else if (fd >= 0)
        (void)close(fd); /* what was written is not wanted */
    return status;
}

/* ---- the door -------------------------------------------------------------------------------- */

bool model_file_exists(const char *path)
{
    char archive_path[PATH_BYTES];
    struct archive archive;
    serverd_error err;
    uint64_t index;
    const char *member = find_member(path, archive_path);
    if (!member)
        return file_exists(path);
    if (archive_open(archive_path, &archive, &err) != SERVERD_OK)
        return false;
    const bool is_there = count_members(&archive, member, &index) > 0;
    archive_close(&archive);
    return is_there;
}

serverd_status model_file_read(const char *path, size_t limit, char **out, size_t *len,
                               serverd_error *err)
{
    char archive[PATH_BYTES];
    struct member m;
    const char *name = find_member(path, archive);
    if (!name)
        return file_read(path, limit, out, len, err);
    serverd_status status = member_open(path, archive, name, &m, err);
    if (status != SERVERD_OK)
        return status;
    status = member_read(&m, path, limit, out, len, err);
    member_close(&m);
    return status;
}

serverd_status model_file_open(const char *path, struct file *out, serverd_error *err)
{
    char archive[PATH_BYTES];
    struct member m;
    const char *name = find_member(path, archive);
    if (!name)
        return file_open(path, out, err);
    serverd_status status = member_open(path, archive, name, &m, err);
    if (status != SERVERD_OK)
        return status;
    status = member_unpack(&m, path, out, err);
    member_close(&m);
    return status;
}

static serverd_status list_folder(const char *folder,
                                  serverd_status (*each)(void *arg, const char *name,
                                                         serverd_error *err),
                                  void *arg, serverd_error *err)
{
    DIR *dir = opendir(folder);
    serverd_status status = SERVERD_OK;
    for (struct dirent *entry; dir && status == SERVERD_OK && (entry = readdir(dir));)
        status = each(arg, entry->d_name, err);
    if (dir)
        (void)closedir(dir); /* was read only */
    return status;
}

serverd_status model_file_list(const char *folder,
                               serverd_status (*each)(void *arg, const char *name,
                                                      serverd_error *err),
                               void *arg, serverd_error *err)
{
    char path[PATH_BYTES];
    struct archive archive;
    const char *member = find_member(folder, path);
    if (!member)
        return list_folder(folder, each, arg, err);
    serverd_status status = archive_open(path, &archive, err);
    if (status != SERVERD_OK)
        return status;
    const size_t n = strlen(member);
    for (uint64_t i = 0; i < archive.n_entries && status == SERVERD_OK; i++) {
        const char *name = name_of(&archive, i);
        if (name && strncmp(name, member, n) == 0 && name[n] == '/' && name[n + 1] != '\0' &&
            !strchr(name + n + 1, '/'))
            status = each(arg, name + n + 1, err);
    }
    archive_close(&archive);
    return status;
}
