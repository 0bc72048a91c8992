/* The smallest whole llama model, a few KiB. A test leaves a key or tensor out and puts its own in
 * its place. */
#ifndef TESTS_COMPILER_TINY_MODEL_H
#define TESTS_COMPILER_TINY_MODEL_H

#include "gguf_writer.h"

#include "support/synthetic_program.h"

/* One layer, 8 wide, 4 tokens; the key or tensor called `or_null` is left out. */
void tiny_model_write(struct gguf_writer *w, const char *or_null);

/* F32 zeros; rows 0: a vector. */
void tiny_put_tensor(struct gguf_writer *w, const char *name, uint64_t rows, uint64_t columns);

/* What the writer holds, compiled; ends the writer. The program is not kept. */
serverd_status compile_writer(struct gguf_writer *w, serverd_error *err);

#endif
