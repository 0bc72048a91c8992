#include "tools/bench/child.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- the command line ---- */

/* Copies one word to *to and moves *from behind it; false: a quote is open. */
static bool take_word(const char **from, char **to)
{
    const char *s = *from;
    char *out = *to, quote = 0;
    for (; *s && (quote || (*s != ' ' && *s != '\t' && *s != '\n')); s++) {
        if (!quote && (*s == '\'' || *s == '"')) {
            quote = *s;
        } else if (*s == quote) {
            quote = 0;
        } else {
            bool is_escape = *s == '\\' && quote != '\'' && s[1] != '\0';
            *out++ = is_escape ? *++s : *s;
        }
    }
    *out++ = '\0';
    *from = s;
    *to = out;
    return quote == 0;
}

serverd_status child_split(const char *command, char ***words, serverd_error *err)
{
    size_t n_bytes = strlen(command) + 1, n = 0;
    char **list = calloc(1, (CHILD_MAX_WORDS + 1) * sizeof *list + 2 * n_bytes);
    if (!list)
        return fail(err, SERVERD_NOMEM, "command: no memory");
    char *to = (char *)(list + CHILD_MAX_WORDS + 1);
    for (const char *s = command;;) {
        s += strspn(s, " \t\n");
        if (*s == '\0')
            break;
        if (n == CHILD_MAX_WORDS) {
            free(list);
            return fail(err, SERVERD_INVALID, "command: more than %u words", CHILD_MAX_WORDS);
        }
        list[n++] = to;
        if (!take_word(&s, &to)) {
            free(list);
            return fail(err, SERVERD_INVALID, "command: a quote is not closed: %.200s", command);
        }
    }
    if (n == 0) {
        free(list);
        return fail(err, SERVERD_INVALID, "command: is empty");
    }
    *words = list;
    return SERVERD_OK;
}

/* That it reads NAME=VALUE. */
static bool is_assignment(const char *word)
{
    size_t n = strspn(word, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789");
    return n > 0 && word[n] == '=' && (word[0] < '0' || word[0] > '9');
}

/* ---- the process ---- */

/* In the child. Only calls that are safe after a fork, but for putenv: the parent's other threads
 * sleep meanwhile and hold no lock. 127: the command could not be run. */
static void become(char **words, int output, pid_t parent)
{
    (void)prctl(PR_SET_PDEATHSIG, SIGTERM); /* a convenience */
    (void)signal(SIGPIPE, SIG_DFL);         /* which this tool ignores */
    if (getppid() != parent)
        _exit(127);
    int input = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (input < 0 || dup2(input, STDIN_FILENO) < 0 || dup2(output, STDOUT_FILENO) < 0 ||
        dup2(output, STDERR_FILENO) < 0)
        _exit(127);
    while (*words && is_assignment(*words))
        if (putenv(*words++) != 0)
            _exit(127);
    if (*words)
        (void)execvp(*words, words);
    _exit(127);
}

serverd_status child_start(struct child *child, const char *command, const char *log_path,
                           serverd_error *err)
{
    char **words;
    serverd_status status = child_split(command, &words, err);
    if (status != SERVERD_OK)
        return status;
    int output = open(log_path ? log_path : "/dev/null",
                      O_WRONLY | O_APPEND | O_CLOEXEC | (log_path ? O_CREAT : 0), 0644);
    if (output < 0) {
        free(words);
        return fail(err, SERVERD_INVALID, "%s: cannot be written: %s", log_path, strerror(errno));
    }
    pid_t parent = getpid(), pid = fork();
    if (pid == 0)
        become(words, output, parent);
    (void)close(output);
    free(words);
    if (pid < 0)
        return fail(err, SERVERD_NOMEM, "no process: %s", strerror(errno));
    *child = (struct child){.pid = pid};
    return SERVERD_OK;
}

bool child_is_running(struct child *child)
{
    if (child->pid > 0 && waitpid(child->pid, &child->exit_status, WNOHANG) != 0)
        child->pid = 0;
    return child->pid > 0;
}

void child_stop(struct child *child, double seconds)
{
    const struct timespec nap = {.tv_nsec = 5000000};
    uint64_t begin = clock_now_ns(&system_clock);
    if (!child_is_running(child))
        return;
    (void)kill(child->pid, SIGTERM); /* it may have ended just now */
    while (child_is_running(child)) {
        if ((double)(clock_now_ns(&system_clock) - begin) * 1e-9 > seconds) {
            (void)kill(child->pid, SIGKILL);
            (void)waitpid(child->pid, &child->exit_status, 0);
            child->pid = 0;
            return;
        }
        (void)nanosleep(&nap, NULL);
    }
}
