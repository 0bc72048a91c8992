#include "tools/inspect/memory.h"

#include "base/error.h"

serverd_status memory_predict(const struct subject *subject, const struct memory_options *options,
                              struct memory_facts *out, serverd_error *err)
{
    (void)subject, (void)options, (void)out;
    return fail(err, SERVERD_UNSUPPORTED, "not yet");
}
