#include "server/programs/programs.h"

#include "base/error.h"
#include "server/programs/programs_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SCAN_MS 300 /* a change is seen within a second */

static struct dsl_limits limits_of(const struct options *o)
{
    return (struct dsl_limits){.instructions = (uint64_t)o->programs_instructions,
                               .cpu_ms = (uint32_t)o->programs_cpu_ms,
                               .deadline_s = (uint32_t)o->programs_deadline_s,
                               .tool_wait_s = (uint32_t)o->programs_tool_wait_s,
                               .tool_pin_s = (uint32_t)o->programs_tool_pin_s,
                               .memory_mb = (uint32_t)o->programs_memory_mb,
                               .max_args_kb = (uint32_t)o->programs_max_args_kb,
                               .max_result_kb = (uint32_t)o->programs_max_result_kb,
                               .max_log_kb = (uint32_t)o->programs_max_log_kb,
                               .max_branches = (uint32_t)o->programs_max_branches,
                               .max_gens = (uint32_t)o->programs_max_gens,
                               .max_call_depth = (uint32_t)o->programs_max_call_depth,
                               .default_max_tokens = (uint32_t)o->programs_default_max_tokens,
                               .max_total_tokens = (uint64_t)o->programs_max_total_tokens};
}

static struct dsl_program *find_program(void *context, const char *name)
{
    const struct programs *programs = context;
    return dsl_store_find(programs->store, name);
}

/* ---- the folder's thread -----------------------------------------------------------------------
 */

/* False: it is time to end. */
static bool wait_for_scan(struct programs *programs)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += SCAN_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    (void)pthread_mutex_lock(&programs->lock);
    if (!programs->is_stopping)
        (void)pthread_cond_timedwait(&programs->has_changed, &programs->lock, &until);
    const bool goes_on = !programs->is_stopping;
    (void)pthread_mutex_unlock(&programs->lock);
    return goes_on;
}

static void *scan(void *context)
{
    struct programs *programs = context;
    while (wait_for_scan(programs))
        dsl_store_scan(programs->store);
    return NULL;
}

static serverd_status start_scan(struct programs *programs, serverd_error *err)
{
    const int code = pthread_create(&programs->thread, NULL, scan, programs);
    if (code != 0) {
        errno = code;
        return fail(err, SERVERD_INTERNAL, "programs: thread: %m");
    }
    programs->has_thread = true;
    (void)pthread_setname_np(programs->thread, "programs-dir");
    return SERVERD_OK;
}

/* ---- life --------------------------------------------------------------------------------------
 */

static serverd_status create_store(struct programs *programs, serverd_error *err)
{
    const struct server_context *context = &programs->server->context;
    const char *folder = context->options->programs_dir;
    const bool has_folder = folder && *folder && strcmp(folder, "off") != 0;
    const struct dsl_store_options options = {
        .folder = has_folder ? folder : NULL,
        .max_source = (size_t)context->options->programs_max_source_kb * KIB,
        .limits = programs->limits,
        .log = context->log,
        .metrics = context->metrics};
    serverd_status status = dsl_store_create(&options, &programs->store, err);
    if (status == SERVERD_OK)
        dsl_store_scan(programs->store);
    return status == SERVERD_OK && has_folder ? start_scan(programs, err) : status;
}

static serverd_status create_service(struct programs *programs, serverd_error *err)
{
    const struct server_context *context = &programs->server->context;
    const struct options *o = context->options;
    const struct dsl_service_options options = {
        .n_threads = (uint32_t)o->programs_threads,
        .slice_ns = (uint64_t)o->programs_slice_us * 1000,
        .max_runs = (uint32_t)o->programs_max_runs,
        .max_queue = (uint32_t)o->programs_max_queue,
        .batch_parallel = (uint32_t)o->programs_batch_parallel,
        .finished_ttl_ns = (uint64_t)(o->programs_finished_ttl_s * 1e9),
        .memory_total = (size_t)o->programs_memory_total_mb * MIB,
        .clock = context->clock,
        .log = context->log,
        .metrics = context->metrics,
        .find_program = find_program,
        .program_context = programs};
    return dsl_service_create(&options, &programs->service, err);
}

serverd_status programs_create(struct server *server, struct programs **out, serverd_error *err)
{
    struct programs *programs = calloc(1, sizeof *programs);
    if (!programs)
        return fail(err, SERVERD_NOMEM, "programs: no memory");
    programs->server = server;
    programs->limits = limits_of(server->context.options);
    (void)pthread_mutex_init(&programs->lock, NULL);
    (void)pthread_cond_init(&programs->has_changed, NULL);
    serverd_status status = create_service(programs, err);
    if (status == SERVERD_OK)
        status = create_store(programs, err);
    if (status != SERVERD_OK) {
        programs_destroy(programs);
        return status;
    }
    *out = programs;
    return SERVERD_OK;
}

void programs_stop(struct programs *programs)
{
    if (!programs)
        return;
    (void)pthread_mutex_lock(&programs->lock);
    programs->is_stopping = true;
    (void)pthread_cond_broadcast(&programs->has_changed);
    (void)pthread_mutex_unlock(&programs->lock);
    if (programs->has_thread)
        (void)pthread_join(programs->thread, NULL);
    programs->has_thread = false;
    if (programs->service)
        dsl_service_stop(programs->service);
}

void programs_destroy(struct programs *programs)
{
    if (!programs)
        return;
    programs_stop(programs);
    dsl_service_destroy(programs->service);
    dsl_store_destroy(programs->store);
    (void)pthread_cond_destroy(&programs->has_changed);
    (void)pthread_mutex_destroy(&programs->lock);
    free(programs);
}

void programs_expect(struct programs *programs)
{
    if (programs)
        dsl_service_expect(programs->service);
}

void programs_kick(struct programs *programs)
{
    if (programs)
        dsl_service_kick(programs->service);
}

void programs_tick(struct programs *programs)
{
    if (programs)
        dsl_service_tick(programs->service);
}

uint32_t programs_n_open(struct programs *programs)
{
    return programs ? dsl_service_n_open(programs->service) : 0;
}
