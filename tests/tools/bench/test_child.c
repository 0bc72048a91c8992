#include "base/clock.h"
#include "base/file.h"
#include "tools/bench/child.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static serverd_error err;

static void assert_words(const char *command, const char *const *expected)
{
    char **words;
    if (child_split(command, &words, &err) != SERVERD_OK)
        fail_msg("%s: %s", command, err.text);
    size_t i = 0;
    for (; expected[i]; i++)
        assert_string_equal(words[i], expected[i]);
    assert_null(words[i]);
    free(words);
}

static void words_are_split_as_a_shell_does(void **state)
{
    (void)state;
    assert_words("a", (const char *const[]){"a", NULL});
    assert_words("  a  b\tc\n", (const char *const[]){"a", "b", "c", NULL});
    assert_words("a 'b c' \"d e\" f\\ g", (const char *const[]){"a", "b c", "d e", "f g", NULL});
    assert_words("x='1 2'\"3\"4 ''", (const char *const[]){"x=1 234", "", NULL});
    assert_words("'a\\b' \"a\\\"b\" \"it's\"", (const char *const[]){"a\\b", "a\"b", "it's", NULL});
}

static void commands_that_are_none_are_refused(void **state)
{
    (void)state;
    char **words;
    assert_int_equal(child_split("", &words, &err), SERVERD_INVALID);
    assert_int_equal(child_split(" \t", &words, &err), SERVERD_INVALID);
    assert_int_equal(child_split("a 'b", &words, &err), SERVERD_INVALID);
    char many[2 * CHILD_MAX_WORDS + 3];
    for (size_t i = 0; i <= CHILD_MAX_WORDS; i++)
        memcpy(many + 2 * i, "a ", 2);
    many[2 * CHILD_MAX_WORDS + 2] = '\0';
    assert_int_equal(child_split(many, &words, &err), SERVERD_INVALID);
}

static void wait_for_end(struct child *child)
{
    const struct timespec nap = {.tv_nsec = 1000000};
    for (int i = 0; i < 10000 && child_is_running(child); i++)
        (void)nanosleep(&nap, NULL);
    assert_false(child_is_running(child));
}

static void variables_and_output_reach_the_child(void **state)
{
    (void)state;
    char path[] = "/tmp/serverd-child-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    struct child child;
    assert_int_equal(child_start(&child, "VALUE='a b' sh -c 'echo $VALUE; exit 3'", path, &err),
                     SERVERD_OK);
    wait_for_end(&child);
    assert_true(WIFEXITED(child.exit_status) && WEXITSTATUS(child.exit_status) == 3);
    char *text;
    size_t len;
    assert_int_equal(file_read(path, 4096, &text, &len, &err), SERVERD_OK);
    assert_string_equal(text, "a b\n");
    free(text);
    (void)close(fd);
    (void)unlink(path);
}

static void a_command_that_is_not_there_ends_with_127(void **state)
{
    (void)state;
    struct child child;
    assert_int_equal(child_start(&child, "/no/such/command", NULL, &err), SERVERD_OK);
    wait_for_end(&child);
    assert_int_equal(WEXITSTATUS(child.exit_status), 127);
}

static void stop_asks_first_and_then_kills(void **state)
{
    (void)state;
    struct child polite, stubborn;
    assert_int_equal(child_start(&polite, "sleep 1000", NULL, &err), SERVERD_OK);
    child_stop(&polite, 30);
    assert_true(WIFSIGNALED(polite.exit_status) && WTERMSIG(polite.exit_status) == SIGTERM);
    assert_int_equal(polite.pid, 0);
    child_stop(&polite, 0); /* again does nothing */

    char path[] = "/tmp/serverd-child-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(child_start(&stubborn,
                                 "sh -c 'trap : TERM; echo x; while :; do sleep 0.01; done'", path,
                                 &err),
                     SERVERD_OK);
    char byte;
    const struct timespec nap = {.tv_nsec = 1000000};
    for (int i = 0; i < 10000 && pread(fd, &byte, 1, 0) != 1; i++) /* until the trap is set */
        (void)nanosleep(&nap, NULL);
    child_stop(&stubborn, 0.05);
    assert_true(WIFSIGNALED(stubborn.exit_status) && WTERMSIG(stubborn.exit_status) == SIGKILL);
    (void)close(fd);
    (void)unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_are_split_as_a_shell_does),
        cmocka_unit_test(commands_that_are_none_are_refused),
        cmocka_unit_test(variables_and_output_reach_the_child),
        cmocka_unit_test(a_command_that_is_not_there_ends_with_127),
        cmocka_unit_test(stop_asks_first_and_then_kills),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
