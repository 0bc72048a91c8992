/* Turning the body of one dialect into that of another: the first failure stays, so that the steps
 * need not look at each other's. */
#ifndef SERVER_DIALECTS_DIALECT_BODY_H
#define SERVER_DIALECTS_DIALECT_BODY_H

#include "server/exchange.h"

#include <string.h>

struct dialect_body {
    struct exchange *x;
    struct api_error *e;
    const char *param; /* the field that a lack of memory is put down to */
    bool is_failed;
};

/* The message is "param: text". */
static inline void body_refuse(struct dialect_body *body, const char *code, const char *param,
                               const char *text)
{
    if (!body->is_failed)
        api_error_set(body->e, code, param, "%s: %s", param, text);
    body->is_failed = true;
}

/* The status of a jansson call that puts something somewhere. */
static inline void body_own(struct dialect_body *body, int status)
{
    if (status != 0)
        body_refuse(body, "model_unavailable", body->param, "the server is out of memory.");
}

static inline bool is_text(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

#endif
