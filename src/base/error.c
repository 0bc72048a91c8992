#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* A text that filled the buffer may end inside a UTF-8 sequence: drop the unfinished one. */
static void cut_at_character(char *text)
{
    size_t n = strlen(text), start = n;
    while (start > 0 && n - start < 3 && ((unsigned char)text[start - 1] & 0xc0u) == 0x80u)
        start--;
    if (start == 0)
        return;
    unsigned char lead = (unsigned char)text[start - 1];
    size_t need = lead >= 0xf0u ? 4 : lead >= 0xe0u ? 3 : lead >= 0xc0u ? 2 : 1;
    if (need > n - (start - 1))
        text[start - 1] = '\0';
}

/* Arguments may point into err->text, so the text is made aside. */
static void set_text(serverd_error *err, const char *text, int n)
{
    size_t len = strlen(text);
    memcpy(err->text, text, len + 1);
    if (n < 0 || (size_t)n > len)
        cut_at_character(err->text);
}

serverd_status fail(serverd_error *err, serverd_status code, const char *format, ...)
{
    char text[SERVERD_ERROR_TEXT] = "";
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    err->code = code;
    err->node = UINT32_MAX;
    set_text(err, text, n);
    return code;
}

serverd_status error_context(serverd_error *err, const char *format, ...)
{
    char context[SERVERD_ERROR_TEXT] = "", text[SERVERD_ERROR_TEXT];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(context, sizeof context, format, args); /* cut again below */
    va_end(args);
    size_t n_context = strlen(context), n_text = strlen(err->text);
    size_t room = sizeof text - 1;
    memcpy(text, context, n_context);
    size_t n = n_context;
    for (const char *s = ": "; *s && n < room; s++)
        text[n++] = *s;
    size_t n_tail = n_text < room - n ? n_text : room - n;
    memcpy(text + n, err->text, n_tail);
    text[n + n_tail] = '\0';
    set_text(err, text, n_tail < n_text || n == room ? -1 : 0);
    return err->code;
}

const char *status_name(serverd_status code)
{
    static const char *const names[] = {
        [SERVERD_OK] = "ok",
        [SERVERD_UNSUPPORTED] = "unsupported",
        [SERVERD_INVALID] = "invalid",
        [SERVERD_NOMEM] = "nomem",
        [SERVERD_BUSY] = "busy",
        [SERVERD_TIMEOUT] = "timeout",
        [SERVERD_NUMERIC] = "numeric",
        [SERVERD_CORRUPT] = "corrupt",
        [SERVERD_VERSION] = "version",
        [SERVERD_DEVICE_LOST] = "device_lost",
        [SERVERD_INTERNAL] = "internal",
    };
    size_t i = (size_t)code;
    return i < sizeof names / sizeof names[0] ? names[i] : "unknown";
}
