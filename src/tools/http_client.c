#include "tools/http_client.h"

#include "base/buffer.h"
#include "base/limits.h"

#include <string.h>

char *http_client_base_url(const char *url)
{
    size_t n = strlen(url);
    while (n > 0 && url[n - 1] == '/')
        n--;
    if (n > 3 && memcmp(url + n - 3, "/v1", 3) == 0)
        n -= 3;
    return strndup(url, n);
}

static bool add_header(struct curl_slist **headers, const char *header)
{
    struct curl_slist *longer = curl_slist_append(*headers, header);
    if (longer)
        *headers = longer;
    return longer != NULL;
}

bool http_client_add_headers(struct curl_slist **headers, const char *api_key)
{
    struct buffer key;
    buffer_init(&key, LIMIT_OPTION_BYTES + 32);
    if (api_key)
        buffer_printf(&key, "Authorization: Bearer %s", api_key);
    /* no "Expect: 100-continue", which would cost long prompts a round trip */
    const bool is_added = !key.is_failed && add_header(headers, "Content-Type: application/json") &&
                          add_header(headers, "Expect:") &&
                          (!api_key || add_header(headers, buffer_str(&key)));
    buffer_deinit(&key);
    return is_added;
}
