#include "server/data/upload.h"

#include "base/limits.h"
#include "base/numeric.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

/* The library's, for heads of parts; longer ones are refused. */
#define PARSER_BYTES (4 * KIB)

enum field { FIELD_PURPOSE, FIELD_ANCHOR, FIELD_SECONDS, N_FIELDS };

static const char *const field_names[N_FIELDS] = {
    [FIELD_PURPOSE] = "purpose",
    [FIELD_ANCHOR] = "expires_after[anchor]",
    [FIELD_SECONDS] = "expires_after[seconds]",
};

/* What OpenAI knows, but for output, which only batches make. */
static const char *const purposes[] = {"batch",     "user_data", "assistants",
                                       "fine-tune", "vision",    "evals"};

struct upload {
    struct MHD_PostProcessor *parser;
    struct new_content content;
    uint64_t max_file, n_body;
    bool has_file;
    char *filename;
    struct buffer fields[N_FIELDS];
    struct api_error fault; /* http_status 0: none */
};

void store_error(struct api_error *e, const serverd_error *err)
{
    if (err->code == SERVERD_BUSY)
        api_error_set(e, "insufficient_storage", NULL, "%s", err->text);
    else if (err->code == SERVERD_NOMEM)
        api_error_set(e, "insufficient_storage", NULL, "The server's disk is full.");
    else
        api_error_set(e, "internal_error", NULL, "The server made an error; its log says more.");
}

/* ---- parts of the form -------------------------------------------------------------------------
 */

static enum MHD_Result refuse(struct upload *upload, const char *code, const char *param,
                              const char *message)
{
    if (upload->fault.http_status == 0)
        api_error_set(&upload->fault, code, param, "%s", message);
    return MHD_NO;
}

static enum MHD_Result begin_file(struct upload *upload, const char *filename)
{
    serverd_error err;
    const size_t n = filename ? strlen(filename) : 0;
    if (n == 0 || n > LIMIT_FILE_NAME)
        return refuse(upload, "invalid_value", "file", "The file needs a name of up to 255 bytes.");
    upload->has_file = true;
    upload->filename = strdup(filename);
    if (!upload->filename)
        return refuse(upload, "model_unavailable", NULL, "The server is out of memory.");
    struct file_store *store = upload->content.store;
    if (new_content_create(store, &upload->content, &err) == SERVERD_OK)
        return MHD_YES;
    store_error(&upload->fault, &err);
    return MHD_NO;
}

static enum MHD_Result take_file(struct upload *upload, const char *filename, const char *bytes,
                                 uint64_t offset, size_t n)
{
    serverd_error err;
    if (!upload->has_file && begin_file(upload, filename) == MHD_NO)
        return MHD_NO;
    if (offset != upload->content.bytes)
        return refuse(upload, "invalid_value", "file", "There may be one file.");
    if (n > upload->max_file - min_size(upload->max_file, upload->content.bytes))
        return refuse(upload, "request_too_large", "file", "The file is larger than is allowed.");
    if (new_content_append(&upload->content, bytes, n, &err) == SERVERD_OK)
        return MHD_YES;
    store_error(&upload->fault, &err);
    return MHD_NO;
}

/* The library calls it for each piece of each part. */
static enum MHD_Result take_part(void *context, enum MHD_ValueKind kind, const char *key,
                                 const char *filename, const char *content_type,
                                 const char *transfer_encoding, const char *bytes, uint64_t offset,
                                 size_t n)
{
    (void)kind, (void)content_type;
    struct upload *upload = context;
    if (!key)
        return refuse(upload, "invalid_value", NULL, "A part of the form has no name.");
    if (transfer_encoding && strcmp(transfer_encoding, "binary") != 0 &&
        strcmp(transfer_encoding, "8bit") != 0 && strcmp(transfer_encoding, "7bit") != 0)
        return refuse(upload, "invalid_value", key, "A part is encoded; send it as it is.");
    if (strcmp(key, "file") == 0)
        return take_file(upload, filename, bytes, offset, n);
    for (size_t i = 0; i < N_FIELDS; i++) {
        if (strcmp(key, field_names[i]) != 0)
            continue;
        if (offset != upload->fields[i].len)
            return refuse(upload, "invalid_value", key, "A field stands twice.");
        buffer_append(&upload->fields[i], bytes, n);
        if (upload->fields[i].is_failed)
            return refuse(upload, "invalid_value", key, "A field is too long.");
    }
    return MHD_YES; /* unknown fields are not kept */
}

/* ---- life --------------------------------------------------------------------------------------
 */

struct upload *upload_create(struct MHD_Connection *mhd, struct file_store *store,
                             uint64_t max_file, struct api_error *e)
{
    struct upload *upload = calloc(1, sizeof *upload);
    if (!upload) {
        (void)api_error_no_memory(e);
        return NULL;
    }
    upload->content = (struct new_content){.store = store, .file.fd = -1};
    upload->max_file = max_file;
    for (size_t i = 0; i < N_FIELDS; i++)
        buffer_init(&upload->fields[i], LIMIT_FORM_FIELD);
    upload->parser = MHD_create_post_processor(mhd, PARSER_BYTES, take_part, upload);
    if (upload->parser)
        return upload;
    api_error_set(e, "unsupported_media_type", NULL,
                  "Content-Type has to be multipart/form-data with a boundary.");
    upload_destroy(upload);
    return NULL;
}

void upload_destroy(struct upload *upload)
{
    if (!upload)
        return;
    if (upload->parser)
        (void)MHD_destroy_post_processor(upload->parser); /* a form without its end is refused by
                                                             what is missing */
    new_content_discard(&upload->content);
    for (size_t i = 0; i < N_FIELDS; i++)
        buffer_deinit(&upload->fields[i]);
    free(upload->filename);
    free(upload);
}

bool upload_take(struct upload *upload, const char *bytes, size_t n, struct api_error *e)
{
    upload->n_body += n;
    if (upload->n_body > upload->max_file + LIMIT_FORM_BYTES)
        (void)refuse(upload, "request_too_large", "file", "The body is larger than is allowed.");
    else if (MHD_post_process(upload->parser, bytes, n) != MHD_YES)
        (void)refuse(upload, "bad_request", NULL, "The body is no valid multipart/form-data.");
    if (upload->fault.http_status == 0)
        return true;
    *e = upload->fault;
    new_content_discard(&upload->content);
    return false;
}

static bool is_purpose(const char *text)
{
    for (size_t i = 0; i < sizeof purposes / sizeof *purposes; i++)
        if (strcmp(purposes[i], text) == 0)
            return true;
    return false;
}

/* Seconds until it expires. */
static bool read_age(struct upload *upload, const char *purpose, int64_t *out)
{
    const char *anchor = buffer_str(&upload->fields[FIELD_ANCHOR]),
               *text = buffer_str(&upload->fields[FIELD_SECONDS]);
    uint64_t seconds = 0;
    if (*text == '\0' && *anchor == '\0') {
        *out = strcmp(purpose, "batch") == 0 ? LIMIT_FILE_AGE : 0;
        return true;
    }
    if (strcmp(anchor, "created_at") != 0)
        (void)refuse(upload, "invalid_value", field_names[FIELD_ANCHOR],
                     "expires_after[anchor] has to be created_at.");
    else if (!parse_u64(text, LIMIT_LEAST_FILE_AGE, LIMIT_FILE_AGE, &seconds))
        (void)refuse(upload, "invalid_value", field_names[FIELD_SECONDS],
                     "expires_after[seconds] has to be a number from 3600 to 2592000.");
    *out = (int64_t)seconds;
    return upload->fault.http_status == 0;
}

static bool read_form(struct upload *upload, struct file_row *row)
{
    const char *purpose = buffer_str(&upload->fields[FIELD_PURPOSE]);
    if (!upload->has_file)
        (void)refuse(upload, "missing_required_parameter", "file", "file is missing.");
    else if (*purpose == '\0')
        (void)refuse(upload, "missing_required_parameter", "purpose", "purpose is missing.");
    else if (!is_purpose(purpose))
        (void)refuse(upload, "invalid_value", "purpose",
                     "purpose has to be batch, user_data, assistants, fine-tune, vision or evals.");
    else if (utf8_valid_run(upload->filename, strlen(upload->filename)) < strlen(upload->filename))
        (void)refuse(upload, "invalid_value", "file", "The file's name is no UTF-8.");
    else if (read_age(upload, purpose, &row->expires_at))
        memcpy(row->purpose, purpose, strlen(purpose) + 1);
    return upload->fault.http_status == 0;
}

bool upload_finish(struct upload *upload, struct new_content *content, struct file_row *row,
                   struct api_error *e)
{
    *row = (struct file_row){0};
    if (MHD_destroy_post_processor(upload->parser) != MHD_YES)
        (void)refuse(upload, "bad_request", NULL, "The form has no end.");
    upload->parser = NULL;
    if (upload->fault.http_status != 0 || !read_form(upload, row)) {
        *e = upload->fault;
        new_content_discard(&upload->content);
        return false;
    }
    *content = upload->content;
    upload->content = (struct new_content){.file.fd = -1};
    row->filename = upload->filename;
    upload->filename = NULL;
    return true;
}
