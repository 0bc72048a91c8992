/* What tools that are clients of a server ask of libcurl alike. */
#ifndef TOOLS_HTTP_CLIENT_H
#define TOOLS_HTTP_CLIENT_H

#include <curl/curl.h>
#include <stdbool.h>

/* The URL without slashes and /v1 at its end; the caller's. NULL: no memory. */
char *http_client_base_url(const char *url);

/* Appends the headers of a request with a JSON body. api_key NULL: none. False: no memory, and some
 * may be there. */
bool http_client_add_headers(struct curl_slist **headers, const char *api_key);

#endif
