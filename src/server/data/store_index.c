#include "server/data/store_index.h"

#include "base/error.h"
#include "base/hash.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SCHEMA_VERSION 1

/* Each commit reaches the disk (FULL); the log of changes makes that one write. EXCLUSIVE keeps
 * other processes out and needs no shared memory. Pages of removed results go back to the disk. */
static const char settings[] = "PRAGMA auto_vacuum=INCREMENTAL;"
                               "PRAGMA locking_mode=EXCLUSIVE;"
                               "PRAGMA journal_mode=WAL;"
                               "PRAGMA synchronous=FULL;";

#define TEXT_COLUMN(name)   #name " TEXT,"
#define NUMBER_COLUMN(name) #name " INTEGER NOT NULL,"

/* A result's key is its batch's number and its line, so that they lie in this order. */
static const char schema[] =
    "BEGIN IMMEDIATE;"
    "CREATE TABLE file(number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,"
    " tenant INTEGER NOT NULL, purpose TEXT NOT NULL, filename TEXT NOT NULL,"
    " bytes INTEGER NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL,"
    " is_deleted INTEGER NOT NULL);"
    "CREATE INDEX file_by_tenant ON file(tenant, number);"
    "CREATE TABLE batch(number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,"
    " tenant INTEGER NOT NULL," BATCH_TEXTS(TEXT_COLUMN) BATCH_NUMBERS(NUMBER_COLUMN) //
    " CHECK(n_completed >= 0));"
    "CREATE INDEX batch_by_tenant ON batch(tenant, number);"
    "CREATE INDEX batch_by_input ON batch(input_file_id);"
    "CREATE INDEX open_batch ON batch(number) WHERE status < 4;"
    "CREATE TABLE result(key INTEGER PRIMARY KEY, is_error INTEGER NOT NULL, text BLOB NOT NULL);"
    "PRAGMA user_version=1;"
    "COMMIT;";

/* Results of batches that have ended go piece by piece; a crash leaves the rest. */
static const char leftovers[] =
    "DELETE FROM result WHERE NOT EXISTS"
    " (SELECT 1 FROM batch WHERE number = key / 16777216 AND status < 4);";

_Static_assert(STORE_MAX_LINES == 16777216, "the script has this number");
_Static_assert(BATCH_COMPLETED == 4, "the index open_batch has this number");

/* ---- statements -------------------------------------------------------------------------------
 */

#define FILE_COLUMNS "id, tenant, purpose, filename, bytes, created_at, expires_at, is_deleted"
#define NAME(name)   ", " #name
#define SET(name)    #name " = ?, "
#define ASK(name)    ", ?"
#define BATCH_NAMES  BATCH_TEXTS(NAME) BATCH_NUMBERS(NAME)
#define BATCH_ROW    "SELECT number, id, tenant" BATCH_NAMES " FROM batch "
/* ?1 tenant, ?2 the id that the page begins behind or NULL, ?3 rows; files: ?4 purpose or NULL */
#define PAGE(table, less, how, more)                                                               \
    "WHERE tenant = ?1 AND (?2 IS NULL OR number " less " (SELECT number FROM " table              \
    " WHERE id = ?2)) " more "ORDER BY number " how " LIMIT ?3"
#define OF_PURPOSE "AND is_deleted = 0 AND (?4 IS NULL OR purpose = ?4) "

/* Of each the text; prepared when it is first used. */
#define STATEMENTS(X)                                                                              \
    X(BEGIN, "BEGIN IMMEDIATE")                                                                    \
    X(COMMIT, "COMMIT")                                                                            \
    X(ROLLBACK, "ROLLBACK")                                                                        \
    X(ADD_FILE, "INSERT INTO file(" FILE_COLUMNS ") VALUES(?, ?, ?, ?, ?, ?, ?, ?)")               \
    X(GET_FILE,                                                                                    \
      "SELECT " FILE_COLUMNS " FROM file WHERE id = ? AND tenant = ? AND is_deleted = 0")          \
    X(FIND_FILE, "SELECT " FILE_COLUMNS " FROM file WHERE id = ?")                                 \
    X(HIDE_FILE, "UPDATE file SET is_deleted = 1 WHERE id = ?")                                    \
    X(REMOVE_FILE, "DELETE FROM file WHERE id = ?")                                                \
    X(COUNT_FILES, "SELECT count(*), coalesce(sum(bytes), 0) FROM file")                           \
    X(NEWEST_FILES, "SELECT " FILE_COLUMNS " FROM file " PAGE("file", "<", "DESC", OF_PURPOSE))    \
    X(OLDEST_FILES, "SELECT " FILE_COLUMNS " FROM file " PAGE("file", ">", "ASC", OF_PURPOSE))     \
    X(USELESS_FILE, "SELECT " FILE_COLUMNS                                                         \
                    " FROM file WHERE (is_deleted = 1 OR (expires_at > 0 AND expires_at <= ?))"    \
                    " AND NOT EXISTS (SELECT 1 FROM batch WHERE input_file_id = file.id AND"       \
                    " status < 4) LIMIT 1")                                                        \
    X(ADD_BATCH, "INSERT INTO batch(id, tenant" BATCH_NAMES ") VALUES(?, ?" BATCH_TEXTS(ASK)       \
                     BATCH_NUMBERS(ASK) ")")                                                       \
    X(UPDATE_BATCH,                                                                                \
      "UPDATE batch SET " BATCH_TEXTS(SET) BATCH_NUMBERS(SET) "id = id WHERE number = ?")          \
    X(GET_BATCH, BATCH_ROW "WHERE id = ? AND tenant = ?")                                          \
    X(NEWEST_BATCHES, BATCH_ROW PAGE("batch", "<", "DESC", ""))                                    \
    X(OLDEST_BATCHES, BATCH_ROW PAGE("batch", ">", "ASC", ""))                                     \
    X(OPEN_BATCH, BATCH_ROW "WHERE status < 4 AND number > ? ORDER BY number LIMIT 1")             \
    X(COUNT_OPEN, "SELECT count(*), coalesce(sum(tenant = ?), 0) FROM batch WHERE status < 4")     \
    X(FORGET_BATCHES, "DELETE FROM batch WHERE status >= 4 AND"                                    \
                      " max(completed_at, failed_at, expired_at, cancelled_at) < ?")               \
    X(ADD_RESULT, "INSERT OR IGNORE INTO result(key, is_error, text) VALUES(?, ?, ?)")             \
    X(READ_RESULTS, "SELECT key, is_error, text FROM result WHERE key >= ? AND key < ?"            \
                    " ORDER BY key LIMIT ?")                                                       \
    X(REMOVE_RESULTS, "DELETE FROM result WHERE key IN (SELECT key FROM result WHERE key >= ? "    \
                      "AND key < ? LIMIT ?)")                                                      \
    X(VACUUM, "PRAGMA incremental_vacuum")

enum statement {
#define X(name, text) name,
    STATEMENTS(X)
#undef X
        N_STATEMENTS
};

static const char *const texts[N_STATEMENTS] = {
#define X(name, text) text,
    STATEMENTS(X)
#undef X
};

struct store_index {
    sqlite3 *db;
    sqlite3_stmt *statements[N_STATEMENTS];
};

/* A disk that takes no more: one word for it; or, over a quota or a limit of the file size, a write
 * that failed. */
static bool has_no_room(const struct store_index *index, int code)
{
    return code == SQLITE_FULL || code == SQLITE_NOMEM ||
           sqlite3_extended_errcode(index->db) == SQLITE_IOERR_WRITE;
}

static serverd_status fault(struct store_index *index, const char *what, serverd_error *err)
{
    const int code = sqlite3_errcode(index->db) & 0xff;
    serverd_status status = SERVERD_INTERNAL;
    if (has_no_room(index, code))
        status = SERVERD_NOMEM;
    else if (code == SQLITE_BUSY || code == SQLITE_LOCKED)
        status = SERVERD_BUSY;
    else if (code == SQLITE_CORRUPT || code == SQLITE_NOTADB)
        status = SERVERD_CORRUPT;
    return fail(err, status, "index of --data-path: %s: %s", what, sqlite3_errmsg(index->db));
}

/* The statement, ready to be bound; NULL: *err. */
static sqlite3_stmt *prepare(struct store_index *index, enum statement which, serverd_error *err)
{
    sqlite3_stmt **statement = &index->statements[which];
    if (!*statement && sqlite3_prepare_v3(index->db, texts[which], -1, SQLITE_PREPARE_PERSISTENT,
                                          statement, NULL) != SQLITE_OK)
        (void)fault(index, "a statement", err);
    return *statement;
}

/* Runs what gives no rows, or whose rows nobody wants. */
static serverd_status run(struct store_index *index, sqlite3_stmt *statement, const char *what,
                          serverd_error *err)
{
    int code;
    while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
    }
    const serverd_status status = code == SQLITE_DONE
                                      ? SERVERD_OK
                                      : fault(index, what, err); /* before the reset changes it */
    (void)sqlite3_reset(statement);                              /* says once more what step said */
    (void)sqlite3_clear_bindings(statement);
    return status;
}

static serverd_status run_plain(struct store_index *index, enum statement which, const char *what,
                                serverd_error *err)
{
    sqlite3_stmt *s = prepare(index, which, err);
    return s ? run(index, s, what, err) : err->code;
}

/* The end of a query whose last step gave `code`. */
static serverd_status end_query(struct store_index *index, sqlite3_stmt *statement, int code,
                                const char *what, serverd_error *err)
{
    const serverd_status status =
        code == SQLITE_DONE || code == SQLITE_ROW ? SERVERD_OK : fault(index, what, err);
    (void)sqlite3_reset(statement);
    (void)sqlite3_clear_bindings(statement);
    return status;
}

/* Texts live until the statement is reset: the caller's do. NULL is null. */
static void bind_text(sqlite3_stmt *s, int at, const char *text)
{
    (void)sqlite3_bind_text(s, at, text, -1, SQLITE_STATIC);
}

static void bind_number(sqlite3_stmt *s, int at, int64_t number)
{
    (void)sqlite3_bind_int64(s, at, number);
}

static void copy_text(sqlite3_stmt *s, int at, char *out, size_t cap)
{
    const char *text = (const char *)sqlite3_column_text(s, at);
    (void)snprintf(out, cap, "%s", text ? text : "");
}

/* ---- life --------------------------------------------------------------------------------------
 */

static serverd_status number_of(struct store_index *index, const char *query, int64_t *out,
                                serverd_error *err)
{
    sqlite3_stmt *s = NULL;
    int code = sqlite3_prepare_v2(index->db, query, -1, &s, NULL);
    if (code == SQLITE_OK && (code = sqlite3_step(s)) == SQLITE_ROW)
        *out = sqlite3_column_int64(s, 0);
    const serverd_status status = code == SQLITE_ROW ? SERVERD_OK : fault(index, query, err);
    (void)sqlite3_finalize(s);
    return status;
}

static serverd_status set_up(struct store_index *index, const char *path, serverd_error *err)
{
    int64_t version = 0;
    if (sqlite3_exec(index->db, settings, NULL, NULL, NULL) != SQLITE_OK ||
        number_of(index, "PRAGMA user_version", &version, err)) {
        (void)fault(index, path, err);
        return err->code == SERVERD_BUSY
                   ? fail(err, SERVERD_BUSY, "%s: another serverd has this folder", path)
                   : err->code;
    }
    const char *script = version == 0 ? schema : leftovers;
    if (version <= SCHEMA_VERSION && sqlite3_exec(index->db, script, NULL, NULL, NULL) != SQLITE_OK)
        return fault(index, path, err);
    if (version > SCHEMA_VERSION)
        return fail(err, SERVERD_VERSION,
                    "%s: its version is %lld, this serverd knows those up to %d", path,
                    (long long)version, SCHEMA_VERSION);
    return SERVERD_OK;
}

serverd_status store_index_open(const char *path, struct store_index **out, serverd_error *err)
{
    struct store_index *index = calloc(1, sizeof *index);
    if (!index)
        return fail(err, SERVERD_NOMEM, "%s: no memory", path);
    const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    serverd_status status = sqlite3_open_v2(path, &index->db, flags, NULL) == SQLITE_OK
                                ? set_up(index, path, err)
                                : fault(index, path, err);
    if (status != SERVERD_OK) {
        store_index_close(index);
        return status;
    }
    *out = index;
    return SERVERD_OK;
}

void store_index_close(struct store_index *index)
{
    if (!index)
        return;
    for (size_t i = 0; i < N_STATEMENTS; i++)
        (void)sqlite3_finalize(index->statements[i]); /* says what its last step said */
    (void)sqlite3_close(index->db);                   /* everything is committed */
    free(index);
}

serverd_status store_index_begin(struct store_index *index, serverd_error *err)
{
    return run_plain(index, BEGIN, "begin", err);
}

serverd_status store_index_commit(struct store_index *index, serverd_error *err)
{
    return run_plain(index, COMMIT, "commit", err);
}

void store_index_rollback(struct store_index *index)
{
    serverd_error ignored; /* some errors have rolled back already */
    if (!sqlite3_get_autocommit(index->db))
        (void)run_plain(index, ROLLBACK, "rollback", &ignored);
}

serverd_status store_make_id(const char *prefix, char out[STORE_ID_BYTES], serverd_error *err)
{
    uint8_t random[12];
    if (random_bytes(random, sizeof random, err))
        return err->code;
    int n = snprintf(out, STORE_ID_BYTES, "%.8s", prefix);
    for (size_t i = 0; i < sizeof random; i++)
        n += snprintf(out + n, (size_t)(STORE_ID_BYTES - n), "%02x", random[i]);
    return SERVERD_OK;
}

/* ---- files -------------------------------------------------------------------------------------
 */

void file_row_release(struct file_row *row)
{
    free(row->filename);
    row->filename = NULL;
}

serverd_status store_add_file(struct store_index *index, const struct file_row *row,
                              serverd_error *err)
{
    sqlite3_stmt *s = prepare(index, ADD_FILE, err);
    if (!s)
        return err->code;
    bind_text(s, 1, row->id);
    bind_number(s, 2, (int64_t)row->tenant);
    bind_text(s, 3, row->purpose);
    bind_text(s, 4, row->filename);
    bind_number(s, 5, (int64_t)row->bytes);
    bind_number(s, 6, row->created_at);
    bind_number(s, 7, row->expires_at);
    bind_number(s, 8, row->is_deleted);
    return run(index, s, "add a file", err);
}

/* The file's name is the statement's. */
static void look_at_file(sqlite3_stmt *s, struct file_row *row)
{
    *row = (struct file_row){
        .tenant = (uint64_t)sqlite3_column_int64(s, 1),
        .filename = (char *)(uintptr_t)sqlite3_column_text(s, 3), /* nobody writes to it */
        .bytes = (uint64_t)sqlite3_column_int64(s, 4),
        .created_at = sqlite3_column_int64(s, 5),
        .expires_at = sqlite3_column_int64(s, 6),
        .is_deleted = sqlite3_column_int64(s, 7) != 0,
    };
    copy_text(s, 0, row->id, sizeof row->id);
    copy_text(s, 2, row->purpose, sizeof row->purpose);
}

static serverd_status one_file(struct store_index *index, sqlite3_stmt *s, struct file_row *row,
                               bool *is_found, serverd_error *err)
{
    struct file_row found = {0};
    const int code = sqlite3_step(s);
    if (code == SQLITE_ROW) {
        look_at_file(s, &found);
        found.filename = strdup(found.filename ? found.filename : "");
    }
    serverd_status status = end_query(index, s, code, "look for a file", err);
    if (status == SERVERD_OK && code == SQLITE_ROW && !found.filename)
        status = fail(err, SERVERD_NOMEM, "a file's name: no memory");
    if (status != SERVERD_OK)
        return status;
    *is_found = code == SQLITE_ROW;
    if (*is_found)
        *row = found;
    return SERVERD_OK;
}

serverd_status store_get_file(struct store_index *index, const char *id, uint64_t tenant,
                              struct file_row *row, bool *is_found, serverd_error *err)
{
    sqlite3_stmt *s = prepare(index, GET_FILE, err);
    if (!s)
        return err->code;
    bind_text(s, 1, id);
    bind_number(s, 2, (int64_t)tenant);
    return one_file(index, s, row, is_found, err);
}

serverd_status store_find_file(struct store_index *index, const char *id, struct file_row *row,
                               bool *is_found, serverd_error *err)
{
    sqlite3_stmt *s = prepare(index, FIND_FILE, err);
    if (!s)
        return err->code;
    bind_text(s, 1, id);
    return one_file(index, s, row, is_found, err);
}

serverd_status store_next_useless_file(struct store_index *index, int64_t now, struct file_row *row,
                                       bool *is_found, serverd_error *err)
{
    sqlite3_stmt *s = prepare(index, USELESS_FILE, err);
    if (!s)
        return err->code;
    bind_number(s, 1, now);
    return one_file(index, s, row, is_found, err);
}

static serverd_status change_file(struct store_index *index, enum statement how, const char *id,
                                  serverd_error *err)
{
    sqlite3_stmt *s = prepare(index, how, err);
    if (!s)
        return err->code;
    bind_text(s, 1, id);
    return run(index, s, "delete a file", err);
}

serverd_status store_hide_file(struct store_index *index, const char *id, serverd_error *err)
{
    return change_file(index, HIDE_FILE, id, err);
}

serverd_status store_remove_file(struct store_index *index, const char *id, serverd_error *err)
{
    return change_file(index, REMOVE_FILE, id, err);
}

/* A query's row of two counts. */
static serverd_status two_counts(struct store_index *index, sqlite3_stmt *s, uint64_t *first,
                                 uint64_t *second, serverd_error *err)
{
    const int code = sqlite3_step(s);
    if (code == SQLITE_ROW) {
        *first = (uint64_t)sqlite3_column_int64(s, 0);
        *second = (uint64_t)sqlite3_column_int64(s, 1);
    }
    return end_query(index, s, code, "count", err);
}

serverd_status store_count_files(struct store_index *index, uint64_t *n, uint64_t *bytes,
                                 serverd_error *err)
{
    sqlite3_stmt *s = prepare(index, COUNT_FILES, err);
    return s ? two_counts(index, s, n, bytes, err) : err->code;
}

static void bind_page(sqlite3_stmt *s, const struct store_page *page)
{
    bind_number(s, 1, (int64_t)page->tenant);
    bind_text(s, 2, page->after);
    bind_number(s, 3, (int64_t)page->limit + 1); /* the last one says that there are more */
}

serverd_status store_list_files(struct store_index *index, const struct store_page *page,
                                void (*take)(void *context, const struct file_row *row),
                                void *context, bool *has_more, serverd_error *err)
{
    sqlite3_stmt *s = prepare(index, page->is_ascending ? OLDEST_FILES : NEWEST_FILES, err);
    int code;
    uint32_t n = 0;
    if (!s)
        return err->code;
    bind_page(s, page);
    bind_text(s, 4, page->purpose);
    while ((code = sqlite3_step(s)) == SQLITE_ROW && n < page->limit) {
        struct file_row row;
        look_at_file(s, &row);
        take(context, &row);
        n++;
    }
    *has_more = code == SQLITE_ROW;
    return end_query(index, s, code, "list files", err);
}

/* ---- batches -----------------------------------------------------------------------------------
 */

static const size_t batch_texts[] = {
#define X(name) offsetof(struct batch_row, name),
    BATCH_TEXTS(X)
#undef X
};
static const size_t batch_numbers[] = {
#define X(name) offsetof(struct batch_row, name),
    BATCH_NUMBERS(X)
#undef X
};

enum {
    N_BATCH_TEXTS = sizeof batch_texts / sizeof *batch_texts,
    N_BATCH_NUMBERS = sizeof batch_numbers / sizeof *batch_numbers
};

static char **text_of(const struct batch_row *row, size_t i)
{
    return (char **)((char *)(uintptr_t)row + batch_texts[i]);
}

static int64_t *number_in(const struct batch_row *row, size_t i)
{
    return (int64_t *)((char *)(uintptr_t)row + batch_numbers[i]);
}

void batch_row_release(struct batch_row *row)
{
    for (size_t i = 0; i < N_BATCH_TEXTS; i++)
        free(*text_of(row, i));
    *row = (struct batch_row){0};
}

/* The columns from `at` on; returns the place behind them. */
static int bind_batch(sqlite3_stmt *s, int at, const struct batch_row *row)
{
    for (size_t i = 0; i < N_BATCH_TEXTS; i++)
        bind_text(s, at++, *text_of(row, i));
    for (size_t i = 0; i < N_BATCH_NUMBERS; i++)
        bind_number(s, at++, *number_in(row, i));
    return at;
}

/* Texts are the statement's. */
static void look_at_batch(sqlite3_stmt *s, struct batch_row *row)
{
    int at = 3;
    *row = (struct batch_row){.number = sqlite3_column_int64(s, 0),
                              .tenant = (uint64_t)sqlite3_column_int64(s, 2)};
    copy_text(s, 1, row->id, sizeof row->id);
    for (size_t i = 0; i < N_BATCH_TEXTS; i++)
        *text_of(row, i) = (char *)(uintptr_t)sqlite3_column_text(s, at++); /* only read */
    for (size_t i = 0; i < N_BATCH_NUMBERS; i++)
        *number_in(row, i) = sqlite3_column_int64(s, at++);
}

/* Texts that outlive the statement. False: no memory; those that there are belong to the row. */
static bool own_texts(struct batch_row *row)
{
    bool is_whole = true;
    for (size_t i = 0; i < N_BATCH_TEXTS; i++) {
        char **text = text_of(row, i);
        char *copy = *text ? strdup(*text) : NULL;
        is_whole &= copy || !*text;
        *text = copy;
    }
    return is_whole;
}

serverd_status store_add_batch(struct store_index *index, struct batch_row *row, serverd_error *err)
{
    sqlite3_stmt *s = prepare(index, ADD_BATCH, err);
    if (!s)
        return err->code;
    bind_text(s, 1, row->id);
    bind_number(s, 2, (int64_t)row->tenant);
    (void)bind_batch(s, 3, row);
    const serverd_status status = run(index, s, "add a batch", err);
    if (status == SERVERD_OK)
        row->number = sqlite3_last_insert_rowid(index->db);
    return status;
}

serverd_status store_update_batch(struct store_index *index, const struct batch_row *row,
                                  serverd_error *err)
{
    sqlite3_stmt *s = prepare(index, UPDATE_BATCH, err);
    if (!s)
        return err->code;
    bind_number(s, bind_batch(s, 1, row), row->number);
    return run(index, s, "change a batch", err);
}

static serverd_status one_batch(struct store_index *index, sqlite3_stmt *s, struct batch_row *row,
                                bool *is_found, serverd_error *err)
{
    struct batch_row found = {0};
    bool is_whole = true;
    const int code = sqlite3_step(s);
    if (code == SQLITE_ROW) {
        look_at_batch(s, &found);
        is_whole = own_texts(&found);
    }
    serverd_status status = end_query(index, s, code, "look for a batch", err);
    if (status == SERVERD_OK && !is_whole)
        status = fail(err, SERVERD_NOMEM, "a batch: no memory");
    if (status != SERVERD_OK) {
        batch_row_release(&found);
        return status;
    }
    *is_found = code == SQLITE_ROW;
    if (*is_found)
        *row = found;
    return SERVERD_OK;
}

serverd_status store_get_batch(struct store_index *index, const char *id, uint64_t tenant,
                               struct batch_row *row, bool *is_found, serverd_error *err)
{
    sqlite3_stmt *s = prepare(index, GET_BATCH, err);
    if (!s)
        return err->code;
    bind_text(s, 1, id);
    bind_number(s, 2, (int64_t)tenant);
    return one_batch(index, s, row, is_found, err);
}

serverd_status store_next_open_batch(struct store_index *index, int64_t number,
                                     struct batch_row *row, bool *is_found, serverd_error *err)
{
    sqlite3_stmt *s = prepare(index, OPEN_BATCH, err);
    if (!s)
        return err->code;
    bind_number(s, 1, number);
    return one_batch(index, s, row, is_found, err);
}

serverd_status store_list_batches(struct store_index *index, const struct store_page *page,
                                  void (*take)(void *context, const struct batch_row *row),
                                  void *context, bool *has_more, serverd_error *err)
{
    sqlite3_stmt *s = prepare(index, page->is_ascending ? OLDEST_BATCHES : NEWEST_BATCHES, err);
    int code;
    uint32_t n = 0;
    if (!s)
        return err->code;
    bind_page(s, page);
    while ((code = sqlite3_step(s)) == SQLITE_ROW && n < page->limit) {
        struct batch_row row;
        look_at_batch(s, &row);
        take(context, &row);
        n++;
    }
    *has_more = code == SQLITE_ROW;
    return end_query(index, s, code, "list batches", err);
}

serverd_status store_count_open_batches(struct store_index *index, uint64_t tenant, uint64_t *n,
                                        uint64_t *n_of_tenant, serverd_error *err)
{
    sqlite3_stmt *s = prepare(index, COUNT_OPEN, err);
    if (!s)
        return err->code;
    bind_number(s, 1, (int64_t)tenant);
    return two_counts(index, s, n, n_of_tenant, err);
}

serverd_status store_forget_batches(struct store_index *index, int64_t time, serverd_error *err)
{
    sqlite3_stmt *s = prepare(index, FORGET_BATCHES, err);
    if (!s)
        return err->code;
    bind_number(s, 1, time);
    return run(index, s, "forget old batches", err);
}

/* ---- results -----------------------------------------------------------------------------------
 */

static int64_t key_of(int64_t batch, uint32_t line)
{
    return batch * STORE_MAX_LINES + line;
}

serverd_status store_add_result(struct store_index *index, int64_t batch,
                                const struct store_result *result, bool *is_new, serverd_error *err)
{
    sqlite3_stmt *s = prepare(index, ADD_RESULT, err);
    if (!s)
        return err->code;
    bind_number(s, 1, key_of(batch, result->line));
    bind_number(s, 2, result->is_error);
    (void)sqlite3_bind_blob64(s, 3, result->text, result->n, SQLITE_STATIC);
    const serverd_status status = run(index, s, "add a result", err);
    if (status == SERVERD_OK)
        *is_new = sqlite3_changes(index->db) > 0;
    return status;
}

serverd_status store_read_results(struct store_index *index, int64_t batch, uint32_t first_line,
                                  uint32_t limit,
                                  void (*take)(void *context, const struct store_result *result),
                                  void *context, uint32_t *next_line, serverd_error *err)
{
    sqlite3_stmt *s = prepare(index, READ_RESULTS, err);
    int code;
    uint32_t n = 0;
    if (!s)
        return err->code;
    bind_number(s, 1, key_of(batch, first_line));
    bind_number(s, 2, key_of(batch + 1, 0));
    bind_number(s, 3, limit);
    for (*next_line = UINT32_MAX; (code = sqlite3_step(s)) == SQLITE_ROW; n++) {
        const struct store_result result = {
            .line = (uint32_t)(sqlite3_column_int64(s, 0) - key_of(batch, 0)),
            .is_error = sqlite3_column_int64(s, 1) != 0,
            .text = sqlite3_column_blob(s, 2),
            .n = (size_t)sqlite3_column_bytes(s, 2),
        };
        take(context, &result);
        *next_line = result.line + 1;
    }
    if (n < limit)
        *next_line = UINT32_MAX;
    return end_query(index, s, code, "read results", err);
}

serverd_status store_remove_results(struct store_index *index, int64_t batch, uint32_t limit,
                                    bool *is_empty, serverd_error *err)
{
    sqlite3_stmt *s = prepare(index, REMOVE_RESULTS, err);
    if (!s)
        return err->code;
    bind_number(s, 1, key_of(batch, 0));
    bind_number(s, 2, key_of(batch + 1, 0));
    bind_number(s, 3, limit);
    const serverd_status status = run(index, s, "remove results", err);
    if (status != SERVERD_OK)
        return status;
    *is_empty = sqlite3_changes(index->db) < (int)limit;
    return run_plain(index, VACUUM, "shrink", err);
}
