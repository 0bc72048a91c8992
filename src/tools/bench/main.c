/* serverd-bench: chooses the sub-command. */
#include "tools/bench/commands.h"

#include "base/error.h"
#include "base/hint.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXIT_BENCH_GOOD = 0, EXIT_BENCH_FAILED = 1, EXIT_BENCH_USAGE = 2 };

/* One row for each sub-command. */
static const struct bench_command *const commands[] = {
    &bench_model, &bench_kernels, &bench_serve, &bench_compare, &bench_simulate, &bench_scheduler};

#define N_COMMANDS (sizeof commands / sizeof *commands)

static int print_usage(FILE *to)
{
    (void)fputs("Usage: serverd-bench COMMAND [OPTION]...\n"
                "Measures serverd: its models, its kernels, its server.\n\n",
                to);
    for (size_t i = 0; i < N_COMMANDS; i++)
        (void)fprintf(to, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
    (void)fputs("\nserverd-bench COMMAND --help lists its options.\n", to);
    return to == stdout ? EXIT_BENCH_GOOD : EXIT_BENCH_USAGE;
}

static const struct bench_command *find_command(const char *name)
{
    struct hint hint = hint_for(name);
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
        hint_consider(&hint, commands[i]->name, strlen(commands[i]->name));
    }
    if (hint.best)
        (void)fprintf(stderr, "serverd-bench: there is no command %.100s; did you mean %.*s?\n",
                      name, (int)hint.n_best, hint.best);
    else
        (void)fprintf(stderr, "serverd-bench: there is no command %.100s; --help lists them\n",
                      name);
    return NULL;
}

static int print_help(const struct bench_command *command)
{
    struct buffer text;
    buffer_init(&text, 1 << 16);
    bench_options_help(command, &text);
    bool is_printed = !text.is_failed && fputs(buffer_str(&text), stdout) >= 0;
    buffer_deinit(&text);
    return is_printed ? EXIT_BENCH_GOOD : EXIT_BENCH_FAILED;
}

static int run_command(const struct bench_command *command, int argc, char *const *argv)
{
    serverd_error err;
    bool wants_help;
    void *values = calloc(1, command->values_bytes);
    if (!values) {
        (void)fputs("serverd-bench: no memory\n", stderr);
        return EXIT_BENCH_FAILED;
    }
    int code = EXIT_BENCH_GOOD;
    serverd_status status = bench_options_parse(command, argc, argv, values, &wants_help, &err);
    if (status != SERVERD_OK) {
        code = EXIT_BENCH_USAGE;
    } else if (wants_help) {
        code = print_help(command);
    } else {
        status = command->run(values, &err);
        code = status == SERVERD_OK ? EXIT_BENCH_GOOD : EXIT_BENCH_FAILED;
    }
    if (status != SERVERD_OK)
        (void)fprintf(stderr, "serverd-bench: %s\n", err.text);
    free(values);
    return code;
}

int main(int argc, char **argv)
{
    (void)signal(SIGPIPE, SIG_IGN); /* a server that leaves is an error of its request */
    if (argc < 2)
        return print_usage(stderr);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
        return print_usage(stdout);
    if (strcmp(argv[1], "--version") == 0)
        return puts("serverd-bench " PROJECT_VERSION) < 0 ? EXIT_BENCH_FAILED : EXIT_BENCH_GOOD;
    const struct bench_command *command = find_command(argv[1]);
    return command ? run_command(command, argc - 2, argv + 2) : EXIT_BENCH_USAGE;
}
