#include "server/request_policy.h"

#include "base/numeric.h"

#include <string.h>
#include <strings.h>

/* A body that nobody wants is read and dropped up to here; above, the connection ends. */
#define SWALLOWED_BODY (64 * KIB)

/* RFC 9110, 5.6.2 */
static bool is_token_char(unsigned char c)
{
    return c > 0x20 && c < 0x7f && !strchr("\"(),/:;<=>?@[\\]{}", c);
}

static bool is_token(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!is_token_char((unsigned char)s[i]))
            return false;
    return n > 0;
}

static bool is_clean_value(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (((unsigned char)s[i] < 0x20 && s[i] != '\t') || s[i] == 0x7f)
            return false;
    return true;
}

/* ---- method, version, target
 * --------------------------------------------------------------------- */

static bool is_known_method(const char *method)
{
    static const char *const known[] = {"GET",   "HEAD",    "POST",  "PUT",    "DELETE",
                                        "PATCH", "OPTIONS", "TRACE", "CONNECT"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i], method) == 0)
            return true;
    return false;
}

static bool is_hex(char c)
{
    return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f');
}

static const char *target_fault(const struct exchange *x, const char *method)
{
    const char *t = x->target;
    if (x->target_len == 1 && t[0] == '*' && strcmp(method, "OPTIONS") == 0)
        return NULL;
    if (t[0] != '/')
        return "The request target does not begin with a slash.";
    for (size_t i = 0; i < x->target_len; i++) {
        if ((unsigned char)t[i] <= 0x20 || t[i] == 0x7f)
            return "The request target holds a control character or a space.";
        if (t[i] != '%')
            continue;
        if (!is_hex(t[i + 1]) || !is_hex(t[i + 2]))
            return "The request target holds a bad escape.";
        if (t[i + 1] == '0' && t[i + 2] == '0')
            return "The request target holds %00.";
    }
    return NULL;
}

static bool refuse_line(struct exchange *x, const char *method, const char *version)
{
    if (!is_token(method, strlen(method))) {
        api_error_set(&x->refusal, "bad_request", NULL, "The method is no token.");
    } else if (!is_known_method(method)) {
        api_error_set(&x->refusal, "not_implemented", NULL, "The method is not known here.");
    } else if (strcmp(version, "HTTP/1.1") != 0 && strcmp(version, "HTTP/1.0") != 0) {
        api_error_set(&x->refusal, "http_version_not_supported", NULL,
                      "HTTP/1.0 and HTTP/1.1 are spoken here.");
    } else if (x->target_len > LIMIT_TARGET_BYTES) {
        api_error_set(&x->refusal, "uri_too_long", NULL,
                      "The request target has %zu bytes, at most %u are allowed.", x->target_len,
                      LIMIT_TARGET_BYTES);
    } else {
        const char *fault = target_fault(x, method);
        if (!fault)
            return false;
        api_error_set(&x->refusal, "bad_request", NULL, "%s", fault);
    }
    return true;
}

/* ---- headers
 * --------------------------------------------------------------------------------------- */

/* Headers that may stand once. */
enum once {
    ONCE_HOST,
    ONCE_CONTENT_LENGTH,
    ONCE_TRANSFER_ENCODING,
    ONCE_AUTHORIZATION,
    ONCE_X_API_KEY,
    ONCE_API_KEY,
    ONCE_CONTENT_TYPE,
    ONCE_CONTENT_ENCODING,
    ONCE_EXPECT,
    ONCE_ORIGIN,
    ONCE_IDEMPOTENCY_KEY,
    N_ONCE
};

static const char *const once_names[N_ONCE] = {
    "host",      "content-length", "transfer-encoding", "authorization",
    "x-api-key", "api-key",        "content-type",      "content-encoding",
    "expect",    "origin",         "idempotency-key",
};

/* A walk over the headers in their order. In this version of the library names and values stay
 * where the parser found them, so the distance between one and the next shows what it skipped. */
struct head_walk {
    struct exchange *x;
    const char *next_name; /* where the next header's name has to stand; NULL: not checked */
    const char *fault;
    uint32_t n_headers;
    uint32_t n_once[N_ONCE];
};

/* Between name and value: the colon, then spaces and tabs only. */
static bool is_gap(const char *from, const char *to)
{
    if (to < from || to - from > 4096)
        return false;
    for (; from < to; from++)
        if (*from != ' ' && *from != '\t')
            return false;
    return true;
}

static enum MHD_Result look_at_header(void *context, enum MHD_ValueKind kind, const char *name,
                                      size_t name_len, const char *value, size_t value_len)
{
    (void)kind;
    struct head_walk *walk = context;
    walk->n_headers++;
    if (!value)
        value_len = 0;
    if (!is_token(name, name_len) || strlen(name) != name_len)
        walk->fault = "A header's name is no token.";
    else if (value && (!is_clean_value(value, value_len) || strlen(value) != value_len))
        walk->fault = "A header's value holds a control character.";
    else if (walk->next_name &&
             (name != walk->next_name || !value || !is_gap(name + name_len + 1, value)))
        walk->fault = "A header line is malformed.";
    if (walk->fault)
        return MHD_NO;
    if (walk->next_name)
        walk->next_name = value + value_len + 2;
    for (size_t i = 0; i < N_ONCE; i++)
        walk->n_once[i] += strcasecmp(name, once_names[i]) == 0;
    return MHD_YES;
}

/* The bytes of the head, without gaps: method SP target SP version CRLF headers CRLF. */
static bool bytes_are_in_place(struct head_walk *walk, const char *method, const char *version)
{
    const struct exchange *x = walk->x;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(x->mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    if (x->target_at != method + strlen(method) + 1 || version != x->target_at + x->target_len + 1)
        return false;
    walk->next_name = version + strlen(version) + 2;
    (void)MHD_get_connection_values_n(x->mhd, MHD_HEADER_KIND, look_at_header, walk);
    return !walk->fault && info && walk->next_name + 2 == method + info->header_size;
}

static bool walk_headers(struct head_walk *walk, const char *method, const char *version)
{
    if (walk->x->server->checks_bytes)
        return bytes_are_in_place(walk, method, version);
    (void)MHD_get_connection_values_n(walk->x->mhd, MHD_HEADER_KIND, look_at_header, walk);
    return !walk->fault;
}

static bool is_allowed_host(const struct exchange *x, const char *host)
{
    const char *list = x->server->context.options->allowed_hosts;
    size_t n = host[0] == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":");
    for (const char *at = list; at && *at;) {
        at += strspn(at, ", ");
        size_t len = strcspn(at, ", ");
        if (len == n && strncasecmp(at, host, n) == 0)
            return true;
        at += len;
    }
    return !list;
}

static bool refuse_framing(struct exchange *x, const struct head_walk *walk, const char *version)
{
    const char *coding = exchange_header(x, "transfer-encoding");
    const char *expect = exchange_header(x, "expect");
    const char *length = exchange_header(x, "content-length");
    uint64_t n;
    x->is_chunked = coding != NULL;
    if (coding && (walk->n_once[ONCE_CONTENT_LENGTH] > 0 || strcmp(version, "HTTP/1.0") == 0))
        api_error_set(&x->refusal, "bad_request", NULL,
                      "Transfer-Encoding beside Content-Length or in HTTP/1.0.");
    else if (coding && strcasecmp(coding, "chunked") != 0)
        api_error_set(&x->refusal, "not_implemented", NULL, "Only chunked transfer is known here.");
    else if (length && !parse_u64(length, 0, INT64_MAX, &n))
        api_error_set(&x->refusal, "bad_request", NULL, "Content-Length is no number.");
    else if (expect && strcasecmp(expect, "100-continue") != 0)
        api_error_set(&x->refusal, "expectation_failed", NULL, "Only 100-continue is known here.");
    else
        return false;
    return true;
}

static bool refuse_headers(struct exchange *x, const char *method, const char *version)
{
    struct head_walk walk = {.x = x};
    bool is_clean = walk_headers(&walk, method, version);
    const union MHD_ConnectionInfo *head =
        MHD_get_connection_info(x->mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    const char *host = exchange_header(x, "host");
    bool needs_host = strcmp(version, "HTTP/1.1") == 0;
    if (walk.n_headers > LIMIT_HEADERS) {
        api_error_set(&x->refusal, "headers_too_large", NULL, "More than %u headers.",
                      LIMIT_HEADERS);
        return true;
    }
    if (head && head->header_size > LIMIT_HEAD_BYTES) { /* the reply has to have room, too */
        api_error_set(&x->refusal, "headers_too_large", NULL, "The head has %zu bytes of %zu.",
                      head->header_size, (size_t)LIMIT_HEAD_BYTES);
        return true;
    }
    if (!is_clean) {
        api_error_set(&x->refusal, "bad_request", NULL, "%s",
                      walk.fault ? walk.fault : "The request's head is malformed.");
        return true;
    }
    for (size_t i = 0; i < N_ONCE; i++) {
        if (walk.n_once[i] > 1) {
            api_error_set(&x->refusal, "bad_request", NULL, "The header %s stands twice.",
                          once_names[i]);
            return true;
        }
    }
    if (needs_host && !host) {
        api_error_set(&x->refusal, "bad_request", NULL, "The header host is missing.");
        return true;
    }
    if (host && !is_allowed_host(x, host)) {
        api_error_set(&x->refusal, "misdirected_request", NULL, "This host is not served here.");
        return true;
    }
    return refuse_framing(x, &walk, version);
}

bool policy_refuses_head(struct exchange *x, const char *method, const char *version)
{
    return refuse_line(x, method, version) || refuse_headers(x, method, version);
}

/* ---- bodies
 * ---------------------------------------------------------------------------------------- */

/* type/subtype without parameters. */
static bool is_type(const char *content_type, const char *wanted)
{
    size_t n = strcspn(content_type, "; \t");
    return n == strlen(wanted) && strncasecmp(content_type, wanted, n) == 0;
}

bool policy_refuses_body(struct exchange *x)
{
    const char *length_text = exchange_header(x, "content-length");
    const char *type = exchange_header(x, "content-type");
    const char *coding = exchange_header(x, "content-encoding");
    uint64_t length = 0;
    bool has_length = length_text && parse_u64(length_text, 0, INT64_MAX, &length);
    const struct options *options = x->server->context.options;
    bool wants_form = x->route && (x->route->flags & FORM_BODY);
    bool wants_body = wants_form || (x->route && (x->route->flags & JSON_BODY));
    size_t limit = wants_form   ? options->max_file + LIMIT_FORM_BYTES
                   : wants_body ? options->max_body
                                : 0;
    x->max_body = limit;
    if (x->refusal.http_status != 0)
        return length > SWALLOWED_BODY || x->is_chunked;
    if (!wants_body && (length > 0 || x->is_chunked)) {
        api_error_set(&x->refusal, "bad_request", NULL, "This request may not have a body.");
        return true;
    }
    if (!wants_body)
        return false;
    if ((x->route->flags & MAY_BE_EMPTY) && length == 0 && !x->is_chunked)
        return false;
    if (!has_length && !x->is_chunked) {
        api_error_set(&x->refusal, "length_required", NULL, "Content-Length is missing.");
        return true;
    }
    if (length > limit) {
        api_error_set(&x->refusal, "request_too_large", NULL,
                      "The body has %llu bytes, at most %zu are allowed.",
                      (unsigned long long)length, limit);
        return true;
    }
    if (coding && strcasecmp(coding, "identity") != 0)
        api_error_set(&x->refusal, "unsupported_media_type", NULL,
                      "The body is compressed; send it as it is.");
    else if (wants_form && (!type || !is_type(type, "multipart/form-data")))
        api_error_set(&x->refusal, "unsupported_media_type", NULL,
                      "Content-Type has to be multipart/form-data.");
    else if (!wants_form && (!type || !is_type(type, "application/json")))
        api_error_set(&x->refusal, "unsupported_media_type", NULL,
                      "Content-Type has to be application/json.");
    return x->refusal.http_status != 0 && (length > SWALLOWED_BODY || x->is_chunked);
}
