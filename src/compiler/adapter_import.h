/* Adapters (program/adapter.h) from files: GGUF, PEFT folders (adapter_config.json,
 * adapter_model.safetensors), adapter files. The base says where the sites are and in which order
 * the rows of Q and K stand; it may be any quantisation. Any thread; the files are hostile. */
#ifndef COMPILER_ADAPTER_IMPORT_H
#define COMPILER_ADAPTER_IMPORT_H

#include "program/adapter.h"

/* *out is checked, fits the base, and is the caller's. Errors: SERVERD_INVALID: a file cannot be
 * read, or the adapter is not one of this base; SERVERD_CORRUPT; SERVERD_UNSUPPORTED: what would
 * change the result and is not known here, by name. */
serverd_status adapter_import(const char *path, const struct program *base, struct adapter **out,
                              serverd_error *err);

/* Writes an adapter file under a temporary name, then renames it. The bytes depend on the adapter
 * alone. */
serverd_status adapter_write(const struct adapter *adapter, const char *path, serverd_error *err);

#endif
