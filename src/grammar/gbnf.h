/* Grammars in GBNF (the form of llama.cpp's grammars): `name ::= expression`, with "literals",
 * [classes], ., groups, |, *, +, ?, {m,n} and # comments; it begins with `root`. Left recursion is
 * refused. What is regular becomes one automaton, across rules. */
#ifndef GRAMMAR_GBNF_H
#define GRAMMAR_GBNF_H

#include "grammar/machine_build.h"

/* Adds the grammar's code; *out is the instruction to call. SERVERD_INVALID with line and column,
 * SERVERD_TIMEOUT if it is too complex. */
serverd_status gbnf_compile(struct machine_builder *builder, const char *text, size_t n,
                            uint32_t *out, serverd_error *err);

#endif
