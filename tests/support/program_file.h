/* Synthetic models as program files, for tests of what reads these. */
#ifndef TESTS_SUPPORT_PROGRAM_FILE_H
#define TESTS_SUPPORT_PROGRAM_FILE_H

/* Compiles a synthetic model (synthetic_model.h) for the CPU into a file of a folder of its own.
 * Fails the test that runs if it cannot. */
struct program_file {
    char folder[64], path[96];
};
struct program_file program_file_create(const char *arch, const char *dtype);
void program_file_remove(const struct program_file *file);

#endif
