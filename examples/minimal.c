/* Loads a program file, reads token ids, and prints the 32 that most likely follow.
 *
 *     serverd-compile model.gguf -o model.sdp
 *     cc minimal.c -o minimal $(pkg-config --cflags --libs serverd_rt) -Wl,--gc-sections
 *     ./minimal model.sdp 504 3575 282 4649 314 */
#include <serverd/runtime.h>
#include <stdio.h>
#include <stdlib.h>

#define N_NEW       32
#define MAX_CONTEXT 512

static int run(const char *path, const int32_t *prompt, size_t n_prompt, serverd_error *err)
{
    const struct serverd_delegate *delegates[] = {serverd_cpu_delegate()};
    const serverd_runtime_options options = {
        .delegates = delegates, .n_delegates = 1, .max_context = MAX_CONTEXT};
    serverd_runtime *runtime;
    serverd_session *session;
    if (serverd_runtime_open(path, &options, &runtime, err))
        return 1;
    int failed = serverd_session_create(runtime, &session, err) ||
                 serverd_session_prefill(session, prompt, n_prompt, err);
    for (int i = 0; i < N_NEW && !failed; i++) {
        int32_t token = serverd_session_greedy(session);
        printf("%d%c", token, i + 1 < N_NEW ? ' ' : '\n');
        failed = serverd_session_decode(session, token, err) != SERVERD_OK;
    }
    serverd_runtime_close(runtime);
    return failed;
}

int main(int argc, char **argv)
{
    int32_t prompt[MAX_CONTEXT];
    size_t n_prompt = 0;
    serverd_error err;
    if (argc < 3 || argc > MAX_CONTEXT - N_NEW) {
        fprintf(stderr, "usage: minimal FILE.sdp ID...\n");
        return 2;
    }
    for (int i = 2; i < argc; i++)
        prompt[n_prompt++] = (int32_t)strtol(argv[i], NULL, 10);
    if (run(argv[1], prompt, n_prompt, &err)) {
        fprintf(stderr, "minimal: %s\n", err.text);
        return 1;
    }
    return 0;
}
