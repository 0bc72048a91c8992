/* What policy.c and policy_yaml.c share. */
#ifndef QUANTISE_POLICY_INTERNAL_H
#define QUANTISE_POLICY_INTERNAL_H

#include "quantise/policy.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

struct policy_rule {
    pcre2_code *match; /* NULL: any name */
    int kind;          /* enum tensor_kind; -1: any */
    struct quantise_choice choice;
};

struct quantise_policy {
    struct policy_rule *rules;
    uint32_t n;
};

serverd_status policy_add(struct quantise_policy *policy, const struct policy_rule *rule,
                          serverd_error *err);

/* One word each. */
serverd_status policy_parse_format(const char *text, size_t n, struct quantise_choice *out,
                                   serverd_error *err);
serverd_status policy_parse_group(const char *text, size_t n, struct quantise_choice *out,
                                  serverd_error *err);
serverd_status policy_parse_methods(const char *text, size_t n, struct quantise_choice *out,
                                    serverd_error *err);
serverd_status policy_parse_kind(const char *text, size_t n, int *out, serverd_error *err);
serverd_status policy_parse_match(const char *text, size_t n, pcre2_code **out, serverd_error *err);
/* What was not said; refuses what does not go together. */
serverd_status policy_complete(struct quantise_choice *choice, serverd_error *err);

/* policy_yaml.c: adds the rules of a text. */
serverd_status policy_read_yaml(const char *yaml, size_t n, const char *path,
                                struct quantise_policy *policy, serverd_error *err);

#endif
