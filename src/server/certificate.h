/* The server's certificate and its key, from two PEM files. Connections use the one that was there
 * when they came, so that a new one takes the old one's place while they go on.
 *
 * Immutable and reference-counted; any thread. */
#ifndef SERVER_CERTIFICATE_H
#define SERVER_CERTIFICATE_H

#include "serverd/status.h"

#include <gnutls/gnutls.h>

struct certificate;

/* SERVERD_INVALID names the file, or says that the two do not belong together. Keys with a
 * passphrase are refused. */
serverd_status certificate_read(const char *cert_path, const char *key_path,
                                struct certificate **out, serverd_error *err);
struct certificate *certificate_ref(struct certificate *certificate); /* NULL is fine */
void certificate_unref(struct certificate *certificate);

/* The texts of the files, as long as the certificate lives. */
const char *certificate_pem(const struct certificate *certificate);
const char *certificate_key_pem(const struct certificate *certificate);

/* The session shows this certificate, which has to outlive it. */
void certificate_use(const struct certificate *certificate, gnutls_session_t session);

#endif
