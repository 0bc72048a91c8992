/* serverd-grammar: what structured output makes of a schema, a regex or a grammar. */
#include "tools/grammar/commands.h"

enum { EXIT_REJECTED = 1, EXIT_REFUSED = 2 };

static int exit_code(serverd_status status)
{
    return status == GRAMMAR_REJECTED ? EXIT_REJECTED : EXIT_REFUSED;
}

static const struct tool tool = {.name = "serverd-grammar",
                                 .summary = "Checks instances against schemas and grammars.",
                                 .otherwise = &grammar_check,
                                 .usage_code = EXIT_REFUSED,
                                 .exit_code = exit_code};

int main(int argc, char **argv)
{
    return tool_main(&tool, argc, argv);
}
