#include "server/request/request_class.h"

#include "base/hash.h"

#include <string.h>

static const struct tier {
    const char *name, *used;
    int32_t priority; /* is added */
} tiers[] = {
    {"auto", "default", 0},          {"default", "default", 0},
    {"standard_only", "default", 0}, /* Anthropic's */
    {"flex", "flex", -10},           {"priority", "priority", 10},
};

/* NULL: there is none of that name. */
static const struct tier *find_tier(const char *name)
{
    for (size_t i = 0; name && i < sizeof tiers / sizeof *tiers; i++)
        if (strcmp(tiers[i].name, name) == 0)
            return &tiers[i];
    return NULL;
}

const char *request_class_tier(const struct api_fields *f)
{
    const struct tier *tier = find_tier(f->service_tier);
    return tier ? tier->used : NULL;
}

static int32_t clamp(int64_t priority)
{
    return (int32_t)(priority < INT32_MIN   ? INT32_MIN
                     : priority > INT32_MAX ? INT32_MAX
                                            : priority);
}

bool request_class_read(const struct api_fields *f, struct request *request, struct api_error *e)
{
    const struct tier *tier = find_tier(f->service_tier);
    const char *user = f->safety_identifier ? f->safety_identifier : f->user;
    if (f->service_tier && !tier) {
        api_error_set(e, "invalid_value", "service_tier",
                      "service_tier is `%.40s`, allowed are auto, default, flex and priority.",
                      f->service_tier);
        return false;
    }
    request->priority = clamp(f->priority + (tier ? tier->priority : 0));
    if (request->tenant == 0 && user && *user != '\0')
        request->tenant = sha256_number(user, strlen(user));
    return true;
}
