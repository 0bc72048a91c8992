#include "tools/run_program/tool_command.h"

#include "base/buffer.h"
#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* The running command: what it is still to read, what it wrote. */
struct tool_process {
    pid_t pid;
    int input, output; /* -1: closed */
    const char *text;  /* not written yet */
    size_t n;
    struct buffer result;
};

const char *tool_command_find(const char *const *pairs, size_t n, const char *name)
{
    size_t n_name = strlen(name);
    for (size_t i = 0; i < n; i++)
        if (strncmp(pairs[i], name, n_name) == 0 && pairs[i][n_name] == '=')
            return pairs[i] + n_name + 1;
    return NULL;
}

static void close_end(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
    *fd = -1;
}

/* In the child: only calls that are safe after a fork. */
static void become(const char *command, int input, int output)
{
    sigset_t none;
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)signal(SIGPIPE, SIG_DFL);
    if (dup2(input, STDIN_FILENO) >= 0 && dup2(output, STDOUT_FILENO) >= 0)
        (void)execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    _exit(127);
}

static serverd_status start(struct tool_process *process, const char *command, serverd_error *err)
{
    int to[2] = {-1, -1}, from[2] = {-1, -1};
    if (pipe2(to, O_CLOEXEC) == 0 && pipe2(from, O_CLOEXEC) == 0)
        process->pid = fork();
    if (process->pid == 0)
        become(command, to[0], from[1]);
    close_end(&to[0]);
    close_end(&from[1]);
    process->input = to[1];
    process->output = from[0];
    if (process->pid < 0)
        return fail(err, SERVERD_NOMEM, "no process: %s", strerror(errno));
    (void)fcntl(process->input, F_SETFL, O_NONBLOCK); /* it may read late */
    return SERVERD_OK;
}

static void write_some(struct tool_process *process)
{
    ssize_t n = process->n > 0 ? write(process->input, process->text, process->n) : 0;
    if (n > 0) {
        process->text += n;
        process->n -= (size_t)n;
    }
    /* a command that does not read its input is fine */
    if (process->n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        close_end(&process->input);
}

static void read_some(struct tool_process *process)
{
    char block[65536];
    ssize_t n = read(process->output, block, sizeof block);
    if (n > 0)
        buffer_append(&process->result, block, (size_t)n);
    if (n == 0 || (n < 0 && errno != EINTR) || process->result.is_failed)
        close_end(&process->output);
}

/* Until its output is closed; true: `stop_fd` came first. */
static bool talk(struct tool_process *process, int stop_fd)
{
    while (process->output >= 0) {
        struct pollfd fds[3] = {{.fd = process->output, .events = POLLIN},
                                {.fd = process->input, .events = POLLOUT},
                                {.fd = stop_fd, .events = POLLIN}};
        if (poll(fds, 3, -1) < 0 && errno != EINTR)
            return false;
        if (fds[2].revents)
            return true;
        if (fds[1].revents)
            write_some(process);
        if (fds[0].revents)
            read_some(process);
    }
    return false;
}

static serverd_status judge(struct tool_process *process, int code, serverd_error *err)
{
    if (process->result.is_failed)
        return fail(err, SERVERD_INVALID, "wrote more than %zu bytes", process->result.limit);
    if (WIFSIGNALED(code))
        return fail(err, SERVERD_INVALID, "ended by signal %d", WTERMSIG(code));
    if (WEXITSTATUS(code) == 0)
        return SERVERD_OK;
    struct buffer *result = &process->result;
    while (result->len > 0 && strchr("\r\n", result->data[result->len - 1]))
        result->data[--result->len] = '\0';
    return fail(err, SERVERD_INVALID, "exit code %d%s%.300s", WEXITSTATUS(code),
                result->len > 0 ? ": " : "", buffer_str(result));
}

static serverd_status read_output(const struct buffer *result, json_t **out, serverd_error *err)
{
    json_error_t at;
    size_t n = result->len;
    *out = json_loadb(buffer_str(result), n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &at);
    if (*out)
        return SERVERD_OK;
    n -= n > 0 && result->data[n - 1] == '\n';
    *out = json_stringn(buffer_str(result), n);
    return *out ? SERVERD_OK : fail(err, SERVERD_INVALID, "its output is not UTF-8");
}

serverd_status tool_command_run(const char *command, const json_t *arguments, int stop_fd,
                                json_t **out, serverd_error *err)
{
    struct tool_process process = {.pid = -1, .input = -1, .output = -1};
    char *text = json_dumps(arguments, JSON_COMPACT | JSON_ENCODE_ANY);
    if (!text)
        return fail(err, SERVERD_NOMEM, "no memory");
    process.text = text;
    process.n = strlen(text);
    buffer_init(&process.result, TOOL_OUTPUT_LIMIT);
    serverd_status status = start(&process, command, err);
    if (status == SERVERD_OK) {
        int code = 0;
        bool is_stopped = talk(&process, stop_fd);
        close_end(&process.input);
        close_end(&process.output);
        if (is_stopped)
            (void)kill(process.pid, SIGTERM); /* it may have ended just now */
        while (waitpid(process.pid, &code, 0) < 0 && errno == EINTR)
            ;
        status =
            is_stopped ? fail(err, SERVERD_TIMEOUT, "interrupted") : judge(&process, code, err);
    }
    if (status == SERVERD_OK)
        status = read_output(&process.result, out, err);
    close_end(&process.input);
    close_end(&process.output);
    buffer_deinit(&process.result);
    free(text);
    return status;
}
