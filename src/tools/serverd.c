/* serverd: options, then the daemon. */
#include "base/options.h"
#include "tools/config_file.h"
#include "tools/daemon.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int print(void (*make)(struct buffer *out))
{
    struct buffer text;
    buffer_init(&text, 1 << 20);
    make(&text);
    bool is_written =
        !text.is_failed && fputs(buffer_str(&text), stdout) >= 0 && fflush(stdout) == 0;
    buffer_deinit(&text);
    return is_written ? EXIT_GOOD : EXIT_BAD_MODEL;
}

static void version(struct buffer *out)
{
    buffer_append_str(out, "serverd " PROJECT_VERSION "\n");
}

static int run_request(enum options_request request)
{
    switch (request) {
    case OPTIONS_HELP:
        return print(options_help);
    case OPTIONS_VERSION:
        return print(version);
    case OPTIONS_MAN:
        return print(options_man);
    case OPTIONS_YAML:
        return print(options_yaml);
    default:
        return print(options_bash_completion);
    }
}

static serverd_status read_options(struct options *options, int argc, char **argv,
                                   enum options_request *request, serverd_error *err)
{
    serverd_status status = options_parse_args(options, argc, argv, request, err);
    if (status != SERVERD_OK || *request != OPTIONS_RUN)
        return status;
    status = options_parse_env(options, environ, err);
    if (status == SERVERD_OK && options->config)
        status = config_file_read(options->config, options, err);
    return status;
}

int main(int argc, char **argv)
{
    struct options options;
    serverd_error err;
    enum options_request request = OPTIONS_RUN;
    if (options_init(&options, &err) != SERVERD_OK) {
        (void)fprintf(stderr, "serverd: %s\n", err.text);
        return EXIT_BAD_MODEL;
    }
    int code;
    if (read_options(&options, argc, argv, &request, &err) != SERVERD_OK) {
        (void)fprintf(stderr, "serverd: %s\n", err.text);
        code = EXIT_BAD_OPTION;
    } else if (request != OPTIONS_RUN) {
        code = run_request(request);
    } else {
        code = daemon_run(&options);
    }
    options_deinit(&options);
    return code;
}
