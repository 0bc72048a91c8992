#include "frontend_dsl/dsl_limits.h"

#include "base/error.h"

#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

struct dsl_limits dsl_limits_default(void)
{
    return (struct dsl_limits){
#define DSL_LIMIT_DEFAULT(type, name, value, least) .name = value,
        DSL_LIMITS(DSL_LIMIT_DEFAULT)
#undef DSL_LIMIT_DEFAULT
    };
}

/* The value of a limit, whatever its type; `least` is the smallest that it may have. False: no
 * limit is called so. */
static bool find(const struct dsl_limits *limits, const char *key, uint64_t *value,
                 uint64_t *smallest)
{
#define DSL_LIMIT_FIND(type, name, standard, least)                                                \
    if (strcmp(key, #name) == 0) {                                                                 \
        *value = limits->name;                                                                     \
        *smallest = least;                                                                         \
        return true;                                                                               \
    }
    DSL_LIMITS(DSL_LIMIT_FIND)
#undef DSL_LIMIT_FIND
    return false;
}

static void set(struct dsl_limits *limits, const char *key, uint64_t value)
{
#define DSL_LIMIT_SET(type, name, standard, least)                                                 \
    if (strcmp(key, #name) == 0)                                                                   \
        limits->name = (type)value;
    DSL_LIMITS(DSL_LIMIT_SET)
#undef DSL_LIMIT_SET
}

/* Also 5e7, which is a real in JSON and in Lua. */
static bool as_integer(const json_t *item, json_int_t *out)
{
    const double real = json_real_value(item);
    const bool is_whole =
        json_is_real(item) && real >= -0x1p53 && real <= 0x1p53 && real == (double)(json_int_t)real;
    *out = is_whole ? (json_int_t)real : json_integer_value(item);
    return is_whole || json_is_integer(item);
}

serverd_status dsl_limits_lower(struct dsl_limits *limits, const json_t *lower, serverd_error *err)
{
    struct dsl_limits lowered = *limits;
    const char *key;
    json_t *item;
    if (!lower)
        return SERVERD_OK;
    if (!json_is_object(lower))
        return fail(err, SERVERD_INVALID, "limits has to be an object of integers");
    json_object_foreach((json_t *)lower, key, item)
    {
        uint64_t present, least;
        if (!find(limits, key, &present, &least))
            return fail(err, SERVERD_INVALID, "limits.%s is no limit of a run", key);
        json_int_t value;
        if (!as_integer(item, &value))
            return fail(err, SERVERD_INVALID, "limits.%s has to be an integer", key);
        if (value < 0 || (uint64_t)value < least)
            return fail(err, SERVERD_INVALID,
                        "limits.%s is %" PRId64 ", at least %" PRIu64 " is needed", key,
                        (int64_t)value, least);
        if ((uint64_t)value < present)
            set(&lowered, key, (uint64_t)value);
    }
    *limits = lowered;
    return SERVERD_OK;
}
