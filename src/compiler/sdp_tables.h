/* The small sections of a program file, as bytes. Everything but the weights. */
#ifndef COMPILER_SDP_TABLES_H
#define COMPILER_SDP_TABLES_H

#include "base/buffer.h"
#include "compiler/sdp_segment.h"
#include "program/program.h"
#include "program/sdp_format.h"

/* Strings that records refer to by offset; offset 0 is "". */
struct string_table {
    struct buffer bytes;
};
void string_table_init(struct string_table *table);
void string_table_deinit(struct string_table *table);
uint32_t string_table_add(struct string_table *table, const char *text);

/* Each appends one section; a buffer that cannot grow is_failed. */
void sdp_put_config(const struct program *program, struct buffer *out);
/* hash[tensor]: of its source bytes. */
void sdp_put_tensors(const struct program *program, struct string_table *strings,
                     const uint8_t (*hash)[32], struct buffer *out);
void sdp_put_graph(const struct program *program, struct buffer *out);
/* Segment i is section i. Returns the number of forms, which stand by tensor, then layout, as they
 * do in each segment. */
#define SDP_MAX_SEGMENTS 4u
uint32_t sdp_put_forms(const struct program *program, const struct segment *segments,
                       uint32_t n_segments, struct buffer *out);
void sdp_put_chat(const struct program *program, struct buffer *out);

/* What a reader must know of to run the program: sdp_header.required. */
uint64_t sdp_required_features(const struct program *program);

#endif
