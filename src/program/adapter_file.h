/* An adapter file: a program file of kind 2 (sdp_format.h), mapped and used in place. */
#ifndef PROGRAM_ADAPTER_FILE_H
#define PROGRAM_ADAPTER_FILE_H

#include "program/adapter.h"

/* Opens and checks the file, every byte of it; *out is the caller's. Errors name path, section and
 * field. Whether it fits a base is adapter_fits's to say. */
serverd_status adapter_file_open(const char *path, struct adapter **out, serverd_error *err);

#endif
