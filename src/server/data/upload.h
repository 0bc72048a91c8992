/* A file that a client sends as multipart/form-data: its bytes go to the disk as they come. HTTP
 * thread of the exchange. */
#ifndef SERVER_DATA_UPLOAD_H
#define SERVER_DATA_UPLOAD_H

#include "server/api_error.h"
#include "server/data/file_store.h"

#include <microhttpd.h>

struct upload;

/* max_file: bytes of its file. NULL: *e is the reply. */
struct upload *upload_create(struct MHD_Connection *mhd, struct file_store *store,
                             uint64_t max_file, struct api_error *e);
void upload_destroy(struct upload *upload); /* NULL is fine; the content goes */

/* A piece of the body. False: *e is the reply, and the rest of the body is to be thrown away. */
bool upload_take(struct upload *upload, const char *bytes, size_t n, struct api_error *e);

/* The body has ended. The content, which passes to the caller, and its row without id, tenant,
 * size and time of creation: expires_at is the number of seconds after that, 0 if there is none.
 * False: *e. */
bool upload_finish(struct upload *upload, struct new_content *content, struct file_row *row,
                   struct api_error *e);

/* What an error of the store (file_store.h) means for who stores something. */
void store_error(struct api_error *e, const serverd_error *err);

#endif
