/* Shared by hf_config.c and hf_rope.c: keys under construction. */
#ifndef COMPILER_HF_CONFIG_INTERNAL_H
#define COMPILER_HF_CONFIG_INTERNAL_H

#include "compiler/hf_config.h"

/* After a failed call (no memory, or too many keys) the list ignores further ones. */
struct key_list {
    struct source *source;
    const char *arch; /* put in front of the names */
    bool is_failed;
};

void put_u32(struct key_list *list, const char *name, uint32_t value);
void put_f64(struct key_list *list, const char *name, double value);
void put_bool(struct key_list *list, const char *name, bool value);
void put_string(struct key_list *list, const char *name, const char *value);

/* rope_theta, rope_scaling, rope_parameters: keys and tables of divisors. n_rot is of heads. */
serverd_status hf_rope_import(const struct json_place *config, const struct hf_class *class,
                              uint32_t head_dim, uint32_t n_context, struct key_list *list,
                              struct hf_rope *out, serverd_error *err);

#endif
