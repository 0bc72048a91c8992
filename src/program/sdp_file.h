/* A program file as it lies on the disk: header and sections, checked. What the sections say is
 * sdp_program.h's. Immutable once open; any thread. */
#ifndef PROGRAM_SDP_FILE_H
#define PROGRAM_SDP_FILE_H

#include "base/file.h"
#include "program/sdp_format.h"

#include <stdbool.h>
#include <stddef.h>

struct sdp_file {
    const char *path; /* the caller's, for errors */
    struct mapping mapping;
    const struct sdp_header *header;
    const struct sdp_section *sections; /* [header->n_sections] */
};

/* True if the file begins as program files do; false also if it cannot be read. */
bool sdp_is_program_file(const char *path);

/* Maps the file and checks what can be checked without reading the weights: sizes, version,
 * required features, places, and the checksums of everything but LAZY sections. Errors name
 * section, field and reason. */
serverd_status sdp_file_open(const char *path, struct sdp_file *out, serverd_error *err);
/* The same of a file of another kind: SDP_KIND_ADAPTER (adapter_file.h). */
serverd_status sdp_file_open_kind(const char *path, uint32_t kind, struct sdp_file *out,
                                  serverd_error *err);
void sdp_file_close(struct sdp_file *file); /* a zeroed one is fine */

/* The only section of that type, NULL if there is none. */
const struct sdp_section *sdp_find(const struct sdp_file *file, uint32_t type);

/* Where a section's bytes lie. */
static inline const void *sdp_bytes(const struct sdp_file *file, const struct sdp_section *section)
{
    return (const char *)file->mapping.data + section->offset;
}

/* "CONF", into 5 bytes. */
void sdp_type_name(uint32_t type, char out[5]);

/* Names of required features, by bit; NULL: unknown here. */
const char *sdp_feature_name(unsigned bit);

/* Everything that opening leaves out: the hashes of all sections, the checksums of all forms, the
 * gaps between sections. Reads the whole file. `progress` may be NULL. */
serverd_status sdp_file_verify(const struct sdp_file *file, void (*progress)(void *, double),
                               void *context, serverd_error *err);

/* What header.program_id and header.file_root should be. */
void sdp_compute_ids(const struct sdp_header *header, const struct sdp_section *sections,
                     uint8_t program_id[32], uint8_t file_root[32]);
uint64_t sdp_compute_checksum(const struct sdp_header *header, const struct sdp_section *sections);

#endif
