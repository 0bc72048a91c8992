/* The one error envelope, and the one table from status to HTTP. */
#ifndef SERVER_API_ERROR_H
#define SERVER_API_ERROR_H

#include "base/buffer.h"
#include "serverd/status.h"

#include <stdbool.h>

struct api_error {
    int http_status;
    const char *type; /* "invalid_request_error" */
    const char *code; /* "invalid_value", NULL: null */
    char param[128];  /* "messages[2].content", "": null */
    char message[512];
    uint32_t retry_after_ms; /* 429, 503: > 0 */
    /* context_length_exceeded adds both to the envelope */
    uint32_t n_prompt_tokens, n_ctx;
};

/* 400 and the like; `code` is one of the contract's words, which also fixes status and type. */
void api_error_set(struct api_error *e, const char *code, const char *param, const char *format,
                   ...) __attribute__((format(printf, 4, 5)));

/* 503: an allocation has failed. False, for who returns it. */
bool api_error_no_memory(struct api_error *e);

/* 404: no model has that name. */
void api_error_unknown_model(struct api_error *e, const char *name);

/* From an error of the rooms below. */
void api_error_from(struct api_error *e, const serverd_error *err);

/* {"error":{"message","type","param","code"}} */
void api_error_write(const struct api_error *e, struct buffer *out);

/* {"type":"error","error":{"type","message"},"request_id"} */
void api_error_write_anthropic(const struct api_error *e, const char *request_id,
                               struct buffer *out);

#endif
