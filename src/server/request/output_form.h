/* The form that a request wants its output in (structured output), from any of the fields that can
 * say so, and its grammar: compiled on the job thread, kept by what it says. */
#ifndef SERVER_REQUEST_OUTPUT_FORM_H
#define SERVER_REQUEST_OUTPUT_FORM_H

#include "grammar/grammar.h"
#include "server/request/api_request.h"

struct output_form {
    bool is_set; /* false: any output will do */
    enum grammar_form form;
    enum json_whitespace whitespace;
    char param[64]; /* the field that says so */
    char *text;     /* heap */
    size_t n;
    uint64_t max_ns; /* of compiling; 0: LIMIT_GRAMMAR_TIME_NS */
};

/* Reads all such fields; two that say something are an error. False: *e. Release in every case. */
bool output_form_read(const struct api_fields *fields, struct output_form *out,
                      struct api_error *e);
void output_form_release(struct output_form *form);

/* Instead of its form that of structural tags; param: the field that asks for it, if there was no
 * form. False: *e. */
bool output_form_set_tags(struct output_form *form, const json_t *tags, const char *param,
                          struct api_error *e);

/* exchange_generate of requests whose output has the form, which is taken over. */
void output_form_generate(struct exchange *x, struct request **requests, uint32_t n,
                          struct output_form *form, const struct reply_encoder *encoder,
                          void *state, bool is_stream);

#endif
