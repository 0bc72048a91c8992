/* Synthetic models as program files, for tests of what reads these. */
#ifndef TESTS_SUPPORT_PROGRAM_FILE_H
#define TESTS_SUPPORT_PROGRAM_FILE_H

#include "program/program.h"

/* A program file for the CPU with all sections, a plan for few rows and the self-test among them.
 * The exact answers of the test are those of `source`, which is the program itself but where a test
 * wants them to differ. */
serverd_status program_file_write(const struct program *program, const struct program *source,
                                  const char *path, uint32_t n_threads, serverd_error *err);

/* The same with the forms of another back-end, too. */
serverd_status program_file_write_for(const struct program *program, const serverd_delegate *other,
                                      const char *path, serverd_error *err);

/* Compiles a synthetic model (synthetic_model.h) for the CPU into a file of a folder of its own.
 * Fails the test that runs if it cannot. */
struct program_file {
    char folder[64], path[96];
};
struct program_file program_file_create(const char *arch, const char *dtype);
void program_file_remove(const struct program_file *file);

#endif
