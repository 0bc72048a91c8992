/* A program file as a program. */
#ifndef PROGRAM_SDP_PROGRAM_H
#define PROGRAM_SDP_PROGRAM_H

#include "program/program.h"

/* Maps the file; weights, tokenizer and texts are used where they lie in it. Everything that
 * execution relies on is checked (sdp_file.h, program_check), in time that does not depend on the
 * size of the weights. *out has one reference. */
serverd_status sdp_open(const char *path, struct program **out, serverd_error *err);

#endif
