/* measure_plan FILE CONTEXT SESSIONS: what serverd_runtime_plan says, and by how much the process
 * grows when all sessions are filled, in steps of as many rows as there may be. Prints both in
 * bytes. */
#include "base/hash.h"
#include "serverd/runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CONTEXT = 4096, MAX_SESSIONS = 64, N_DECODE = 8 };

static void must(serverd_status status, const serverd_error *err)
{
    if (status == SERVERD_OK)
        return;
    (void)fprintf(stderr, "measure_plan: %s\n", err->text);
    exit(1);
}

/* Greatest size of the process so far. */
static long long peak_bytes(void)
{
    char line[256];
    long long kib = 0;
    FILE *status = fopen("/proc/self/status", "re");
    while (status && fgets(line, sizeof line, status))
        if (strncmp(line, "VmHWM:", 6) == 0)
            kib = strtoll(line + 6, NULL, 10);
    if (status)
        (void)fclose(status);
    return kib * 1024;
}

static void fill(serverd_runtime *runtime, uint32_t n_sessions, uint32_t context)
{
    static int32_t tokens[MAX_CONTEXT];
    serverd_session *session;
    serverd_runtime_info info;
    serverd_error err;
    serverd_runtime_get_info(runtime, &info);
    for (uint32_t s = 0; s < n_sessions; s++) {
        for (uint32_t i = 0; i < context; i++)
            tokens[i] = (int32_t)(hash_mix(s * MAX_CONTEXT + i) % (uint64_t)info.n_vocab);
        must(serverd_session_create(runtime, &session, &err), &err);
        must(serverd_session_prefill(session, tokens, context - N_DECODE, &err), &err);
        for (uint32_t i = 0; i < N_DECODE; i++)
            must(serverd_session_decode(session, serverd_session_greedy(session), &err), &err);
    }
}

int main(int argc, char **argv)
{
    const struct serverd_delegate *delegates[] = {serverd_cpu_delegate()};
    uint32_t context = argc == 4 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0;
    uint32_t n_sessions = argc == 4 ? (uint32_t)strtoul(argv[3], NULL, 10) : 0;
    if (context <= N_DECODE || context > MAX_CONTEXT || n_sessions == 0 ||
        n_sessions > MAX_SESSIONS)
        return 2;
    const serverd_runtime_options options = {.delegates = delegates,
                                             .n_delegates = 1,
                                             .max_context = context,
                                             .max_sessions = n_sessions,
                                             .n_threads = 2};
    serverd_memory memory;
    serverd_runtime *runtime;
    serverd_error err;
    long long before = peak_bytes();
    must(serverd_runtime_plan(argv[1], &options, &memory, &err), &err);
    must(serverd_runtime_open(argv[1], &options, &runtime, &err), &err);
    fill(runtime, n_sessions, context);
    (void)printf("%llu %lld\n", (unsigned long long)(memory.peak_bytes + memory.gathered_bytes),
                 peak_bytes() - before);
    serverd_runtime_close(runtime);
    return 0;
}
