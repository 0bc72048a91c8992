#include "server/certificate.h"

#include "base/error.h"
#include "base/file.h"
#include "base/limits.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct certificate {
    _Atomic uint32_t references;
    gnutls_certificate_credentials_t credentials; /* NULL: none yet */
    char *pem, *key_pem;
    size_t key_bytes;
};

static void destroy(struct certificate *certificate)
{
    if (certificate->credentials)
        gnutls_certificate_free_credentials(certificate->credentials);
    if (certificate->key_pem)
        explicit_bzero(certificate->key_pem, certificate->key_bytes);
    free(certificate->key_pem);
    free(certificate->pem);
    free(certificate);
}

static serverd_status read_files(struct certificate *certificate, const char *cert_path,
                                 const char *key_path, serverd_error *err)
{
    size_t n;
    if (file_read(cert_path, LIMIT_TLS_FILE, &certificate->pem, &n, err))
        return error_context(err, "tls-cert");
    if (file_read(key_path, LIMIT_TLS_FILE, &certificate->key_pem, &certificate->key_bytes, err))
        return error_context(err, "tls-key");
    const gnutls_datum_t cert = {(unsigned char *)certificate->pem, (unsigned)n},
                         key = {(unsigned char *)certificate->key_pem,
                                (unsigned)certificate->key_bytes};
    int code = gnutls_certificate_allocate_credentials(&certificate->credentials);
    if (code >= 0)
        code = gnutls_certificate_set_x509_key_mem2(certificate->credentials, &cert, &key,
                                                    GNUTLS_X509_FMT_PEM, NULL, 0);
    if (code < 0)
        return fail(err, SERVERD_INVALID, "tls-cert %.200s, tls-key %.200s: %s", cert_path,
                    key_path, gnutls_strerror(code));
    return SERVERD_OK;
}

serverd_status certificate_read(const char *cert_path, const char *key_path,
                                struct certificate **out, serverd_error *err)
{
    struct certificate *certificate = calloc(1, sizeof *certificate);
    if (!certificate)
        return fail(err, SERVERD_NOMEM, "tls-cert: no memory");
    atomic_init(&certificate->references, 1);
    serverd_status status = read_files(certificate, cert_path, key_path, err);
    if (status == SERVERD_OK)
        *out = certificate;
    else
        destroy(certificate);
    return status;
}

struct certificate *certificate_ref(struct certificate *certificate)
{
    if (certificate)
        atomic_fetch_add(&certificate->references, 1);
    return certificate;
}

void certificate_unref(struct certificate *certificate)
{
    if (certificate && atomic_fetch_sub(&certificate->references, 1) == 1)
        destroy(certificate);
}

const char *certificate_pem(const struct certificate *certificate)
{
    return certificate->pem;
}

const char *certificate_key_pem(const struct certificate *certificate)
{
    return certificate->key_pem;
}

void certificate_use(const struct certificate *certificate, gnutls_session_t session)
{
    /* takes the place of the one that the library gave it; the handshake is still to come */
    (void)gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, certificate->credentials);
}
