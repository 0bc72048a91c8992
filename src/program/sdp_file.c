#include "program/sdp_file.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/limits.h"
#include "base/numeric.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* What this reader understands of sdp_header.required. */
#define KNOWN_FEATURES                                                                             \
    ((uint64_t)(SDP_NEEDS_CODEBOOKS | SDP_NEEDS_FP8 | SDP_NEEDS_WINDOWS | SDP_NEEDS_ENCODER |      \
                SDP_NEEDS_TENSOR_SHARDS))

#define HEADER_CHECKED offsetof(struct sdp_header, checksum)

const char *sdp_feature_name(unsigned bit)
{
    static const char *const names[] = {
        "external weights", "codebooks",    "fp8 or mxfp4",  "experts",    "windows", "encoder",
        "kv scales",        "pipeline cut", "tensor shards", "custom ops", "adapter"};
    return bit < sizeof names / sizeof names[0] ? names[bit] : NULL;
}

void sdp_type_name(uint32_t type, char out[5])
{
    for (int i = 0; i < 4; i++) {
        char c = (char)(type >> 8 * i);
        out[i] = (char)(c > ' ' && c < 0x7f ? c : '?');
    }
    out[4] = '\0';
}

bool sdp_is_program_file(const char *path)
{
    struct file file;
    serverd_error err;
    uint8_t magic[8];
    if (file_open(path, &file, &err) != SERVERD_OK)
        return false;
    bool is_one = file_read_at(&file, 0, magic, sizeof magic, &err) == SERVERD_OK &&
                  memcmp(magic, SDP_MAGIC, sizeof magic) == 0;
    file_close(&file);
    return is_one;
}

/* ---- hashes ---------------------------------------------------------------------------------- */

static size_t table_bytes(const struct sdp_header *header)
{
    return header->n_sections * sizeof(struct sdp_section);
}

uint64_t sdp_compute_checksum(const struct sdp_header *header, const struct sdp_section *sections)
{
    return checksum64_of_two(header, HEADER_CHECKED, sections, table_bytes(header));
}

void sdp_compute_ids(const struct sdp_header *header, const struct sdp_section *sections,
                     uint8_t program_id[32], uint8_t file_root[32])
{
    struct sha256 h;
    sha256_init(&h);
    for (uint32_t i = 0; i < header->n_sections; i++)
        if (sections[i].flags & SDP_IDENTITY)
            sha256_update(&h, sections[i].hash, sizeof sections[i].hash);
    sha256_final(&h, program_id);
    struct sdp_header hashed = *header;
    memcpy(hashed.program_id, program_id, 32); /* byte 64..95 */
    sha256_init(&h);
    sha256_update(&h, &hashed, offsetof(struct sdp_header, file_root));
    sha256_update(&h, (const char *)&hashed + offsetof(struct sdp_header, source_hash),
                  HEADER_CHECKED - offsetof(struct sdp_header, source_hash));
    sha256_update(&h, sections, table_bytes(header));
    sha256_final(&h, file_root);
}

/* ---- opening --------------------------------------------------------------------------------- */

/* Bits in `required` that nothing here understands. */
static serverd_status check_features(const struct sdp_header *header, serverd_error *err)
{
    uint64_t known = header->kind == SDP_KIND_ADAPTER ? SDP_NEEDS_ADAPTER : KNOWN_FEATURES;
    uint64_t unknown = header->required & ~known;
    if (unknown == 0)
        return SERVERD_OK;
    unsigned bit = (unsigned)__builtin_ctzll(unknown);
    const char *name = sdp_feature_name(bit);
    return fail(err, SERVERD_VERSION, "header.required: bit %u (%s) is not known here", bit,
                name ? name : "of a later version");
}

static serverd_status check_header(const struct sdp_file *file, serverd_error *err)
{
    const struct sdp_header *header = file->header;
    if (memcmp(header->magic, SDP_MAGIC, sizeof header->magic) != 0)
        return fail(err, SERVERD_CORRUPT, "header.magic: this is no program file");
    if (header->major != SDP_MAJOR)
        return fail(err, SERVERD_VERSION, "header.major: %u, this reader knows %u", header->major,
                    SDP_MAJOR);
    if (header->file_bytes != file->mapping.bytes)
        return fail(err, SERVERD_CORRUPT,
                    "header.file_bytes: %" PRIu64 ", the file has %zu: it is cut or damaged",
                    header->file_bytes, file->mapping.bytes);
    if (header->header_bytes != sizeof *header)
        return fail(err, SERVERD_CORRUPT, "header.header_bytes: %u, %zu is needed",
                    header->header_bytes, sizeof *header);
    if (header->section_bytes != sizeof(struct sdp_section))
        return fail(err, SERVERD_CORRUPT, "header.section_bytes: %u, %zu is needed",
                    header->section_bytes, sizeof(struct sdp_section));
    if (header->n_sections == 0 || header->n_sections > LIMIT_SDP_SECTIONS)
        return fail(err, SERVERD_CORRUPT, "header.n_sections: %u, 1..%u are allowed",
                    header->n_sections, LIMIT_SDP_SECTIONS);
    uint64_t bytes = table_bytes(header);
    if (header->table_offset % 64 != 0 || header->table_offset < sizeof *header ||
        header->table_offset > file->mapping.bytes ||
        bytes > file->mapping.bytes - header->table_offset)
        return fail(err, SERVERD_CORRUPT,
                    "header.table_offset: %" PRIu64 " with %u sections, in a file of %zu bytes",
                    header->table_offset, header->n_sections, file->mapping.bytes);
    return SERVERD_OK;
}

/* After the checksum: what a sound writer of another kind or a later version may have said. */
static serverd_status check_kind(const struct sdp_header *header, uint32_t kind, serverd_error *err)
{
    if (header->kind != kind)
        return fail(err, SERVERD_UNSUPPORTED, "header.kind: %u, %u is needed", header->kind, kind);
    uint32_t alignment = header->segment_alignment;
    if (alignment < 4096 || alignment > 2 * MIB || (alignment & (alignment - 1)) != 0)
        return fail(err, SERVERD_CORRUPT,
                    "header.segment_alignment: %u, a power of two from 4096 to 2 MiB is needed",
                    alignment);
    for (size_t i = 0; i < sizeof header->reserved; i++)
        if (header->reserved[i] != 0)
            return fail(err, SERVERD_CORRUPT, "header.reserved: byte %zu is not 0", i);
    return check_features(header, err);
}

static serverd_status fail_section(const struct sdp_file *file, uint32_t index, const char *field,
                                   const char *reason, serverd_error *err)
{
    char name[5];
    sdp_type_name(file->sections[index].type, name);
    return fail(err, SERVERD_CORRUPT, "%s[%u].%s: %s", name, index, field, reason);
}

/* Types that this reader knows, all in version 1: bits of the kinds of file that may have and must
 * have one; may there be several, may it be lazy. */
#define TYPE_VERSION 1u
#define PROGRAM      (1u << SDP_KIND_PROGRAM)
#define ADAPTER      (1u << SDP_KIND_ADAPTER)
static const struct type_row {
    uint32_t type;
    uint8_t known_to, needed_by;
    bool is_many, is_lazy; /* of programs */
} types[] = {
    {SDP_CONF, PROGRAM | ADAPTER, PROGRAM | ADAPTER, false, false},
    {SDP_STRS, PROGRAM | ADAPTER, PROGRAM | ADAPTER, false, false},
    {SDP_TENS, PROGRAM, PROGRAM, false, false},
    {SDP_GRPH, PROGRAM, PROGRAM, false, false},
    {SDP_TARG, PROGRAM, PROGRAM, false, false},
    {SDP_FORM, PROGRAM, PROGRAM, false, false},
    {SDP_PLAN, PROGRAM, 0, false, false},
    {SDP_WGHT, PROGRAM | ADAPTER, PROGRAM | ADAPTER, true, true},
    {SDP_TOKN, PROGRAM, 0, false, false},
    {SDP_CHAT, PROGRAM, 0, false, false},
    {SDP_TEST, PROGRAM, 0, false, false},
    {SDP_META, PROGRAM, 0, false, false},
    {SDP_REPT, PROGRAM, 0, false, false},
    {SDP_DEBG, PROGRAM, 0, false, false},
    {SDP_SITE, ADAPTER, ADAPTER, false, false},
};

static const struct type_row *find_type(uint32_t kind, uint32_t type)
{
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (types[i].type == type)
            return types[i].known_to >> kind & 1u ? &types[i] : NULL;
    return NULL;
}

static serverd_status check_type(const struct sdp_file *file, uint32_t index, serverd_error *err)
{
    const struct sdp_section *section = &file->sections[index];
    const struct type_row *row = find_type(file->header->kind, section->type);
    char name[5];
    sdp_type_name(section->type, name);
    if (!row && !(section->flags & SDP_REQUIRED))
        return SERVERD_OK; /* of a later version, and not needed */
    if (!row || section->version != TYPE_VERSION)
        return fail(err, SERVERD_VERSION, "%s[%u].version: %u is not known here", name, index,
                    section->version);
    if (section->flags & SDP_ZSTD)
        return fail(err, SERVERD_VERSION, "%s[%u].flags: compressed sections are not known here",
                    name, index);
    if (section->stored_bytes != section->raw_bytes)
        return fail_section(file, index, "raw_bytes", "differs from stored_bytes", err);
    if (section->flags & SDP_LAZY && !(row->is_lazy && file->header->kind == SDP_KIND_PROGRAM))
        return fail_section(file, index, "flags", "this type is checked at open", err);
    for (uint32_t i = 0; i < index && !row->is_many; i++)
        if (file->sections[i].type == section->type)
            return fail_section(file, index, "type", "there are two", err);
    return SERVERD_OK;
}

static serverd_status check_section(const struct sdp_file *file, uint32_t index, uint64_t *end,
                                    serverd_error *err)
{
    const struct sdp_section *section = &file->sections[index];
    uint64_t total = file->mapping.bytes;
    if (section->alignment < 6 || section->alignment > 21 ||
        section->offset % ((uint64_t)1 << section->alignment) != 0)
        return fail_section(file, index, "alignment", "its place is not on it", err);
    if (section->offset > total || section->stored_bytes > total - section->offset)
        return fail_section(file, index, "offset", "it reaches past the end of the file", err);
    if (section->offset < *end)
        return fail_section(file, index, "offset", "it overlaps what comes before", err);
    uint64_t table = file->header->table_offset, table_end = table + table_bytes(file->header);
    if (section->offset < table_end && section->offset + section->stored_bytes > table)
        return fail_section(file, index, "offset", "it overlaps the section table", err);
    if (section->reserved != 0)
        return fail_section(file, index, "reserved", "it is not 0", err);
    *end = section->offset + section->stored_bytes;
    serverd_status status = check_type(file, index, err);
    if (status != SERVERD_OK || section->flags & SDP_LAZY)
        return status;
    if (checksum64(sdp_bytes(file, section), section->stored_bytes) != section->checksum)
        return fail_section(file, index, "checksum", "the bytes are damaged", err);
    return SERVERD_OK;
}

static serverd_status check_sections(const struct sdp_file *file, serverd_error *err)
{
    uint64_t end = sizeof *file->header;
    for (uint32_t i = 0; i < file->header->n_sections; i++) {
        serverd_status status = check_section(file, i, &end, err);
        if (status != SERVERD_OK)
            return status;
    }
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        char name[5];
        sdp_type_name(types[i].type, name);
        if (types[i].needed_by >> file->header->kind & 1u && !sdp_find(file, types[i].type))
            return fail(err, SERVERD_CORRUPT, "%s: the section is missing", name);
    }
    return SERVERD_OK;
}

static serverd_status check_file(struct sdp_file *file, uint32_t kind, serverd_error *err)
{
    if (file->mapping.bytes < sizeof *file->header)
        return fail(err, SERVERD_CORRUPT, "header: the file has %zu bytes, the header %zu",
                    file->mapping.bytes, sizeof *file->header);
    file->header = file->mapping.data;
    serverd_status status = check_header(file, err);
    if (status != SERVERD_OK)
        return status;
    file->sections = (const void *)((const char *)file->mapping.data + file->header->table_offset);
    if (sdp_compute_checksum(file->header, file->sections) != file->header->checksum)
        return fail(err, SERVERD_CORRUPT, "header.checksum: header or section table are damaged");
    if ((status = check_kind(file->header, kind, err)) != SERVERD_OK)
        return status;
    return check_sections(file, err);
}

serverd_status sdp_file_open_kind(const char *path, uint32_t kind, struct sdp_file *out,
                                  serverd_error *err)
{
    struct file on_disk;
    struct sdp_file file = {.path = path};
    serverd_status status = file_open(path, &on_disk, err);
    if (status != SERVERD_OK)
        return status;
    status = file_map(&on_disk, &file.mapping, err);
    file_close(&on_disk);
    if (status == SERVERD_OK)
        status = check_file(&file, kind, err);
    if (status == SERVERD_OK) {
        *out = file;
        return SERVERD_OK;
    }
    sdp_file_close(&file);
    return error_context(err, "%s: sdp", path);
}

serverd_status sdp_file_open(const char *path, struct sdp_file *out, serverd_error *err)
{
    return sdp_file_open_kind(path, SDP_KIND_PROGRAM, out, err);
}

void sdp_file_close(struct sdp_file *file)
{
    mapping_close(&file->mapping);
    *file = (struct sdp_file){0};
}

const struct sdp_section *sdp_find(const struct sdp_file *file, uint32_t type)
{
    for (uint32_t i = 0; i < file->header->n_sections; i++)
        if (file->sections[i].type == type)
            return &file->sections[i];
    return NULL;
}

/* ---- verifying ------------------------------------------------------------------------------- */

static serverd_status verify_gap(const struct sdp_file *file, uint64_t from, uint64_t to,
                                 serverd_error *err)
{
    const char *bytes = file->mapping.data;
    for (uint64_t i = from; i < to; i++)
        if (bytes[i] != 0)
            return fail(err, SERVERD_CORRUPT, "byte %" PRIu64 " lies between sections and is not 0",
                        i);
    return SERVERD_OK;
}

static serverd_status verify_forms(const struct sdp_file *file, serverd_error *err)
{
    const struct sdp_section *section = sdp_find(file, SDP_FORM);
    if (!section)
        return SERVERD_OK; /* of an adapter, whose sections have been checked whole */
    const struct sdp_form *forms = sdp_bytes(file, section);
    for (uint64_t i = 0; i < section->stored_bytes / sizeof *forms; i++) {
        const struct sdp_form *form = &forms[i];
        if (form->offset > file->mapping.bytes ||
            form->bytes > file->mapping.bytes - form->offset ||
            checksum64((const char *)file->mapping.data + form->offset, form->bytes) !=
                form->checksum)
            return fail(err, SERVERD_CORRUPT, "FORM[%" PRIu64 "].checksum: the weights are damaged",
                        i);
        mapping_forget(&file->mapping, (const char *)file->mapping.data + form->offset,
                       form->bytes);
    }
    return SERVERD_OK;
}

/* Sections lie in ascending order; the table among or behind them. */
static serverd_status verify_gaps(const struct sdp_file *file, serverd_error *err)
{
    uint64_t at = sizeof *file->header, table = file->header->table_offset;
    uint64_t table_end = table + table_bytes(file->header);
    bool is_past_table = false;
    for (uint32_t i = 0; i <= file->header->n_sections; i++) {
        bool is_end = i == file->header->n_sections;
        uint64_t begin = is_end ? file->mapping.bytes : file->sections[i].offset;
        serverd_status status = SERVERD_OK;
        if (!is_past_table && begin >= table_end) {
            status = verify_gap(file, at, table, err);
            at = table_end;
            is_past_table = true;
        }
        if (status != SERVERD_OK || (status = verify_gap(file, at, begin, err)) != SERVERD_OK)
            return status;
        at = is_end ? begin : begin + file->sections[i].stored_bytes;
    }
    return SERVERD_OK;
}

/* Both sums of a section in one pass; what has been read leaves memory behind it. False: no memory.
 */
static bool sum_section(const struct sdp_file *file, const struct sdp_section *section,
                        uint8_t hash[32], uint64_t *sum)
{
    enum { LEAVES_AT_ONCE = 8 };
    const char *bytes = sdp_bytes(file, section);
    const size_t n = section->stored_bytes, n_leaves = n / SHA256_LEAF + (n % SHA256_LEAF != 0);
    uint8_t(*leaves)[32] = malloc(max_size(n_leaves, 1) * sizeof *leaves);
    struct checksum *checksum = checksum_create();
    for (size_t i = 0; leaves && checksum && i < n_leaves; i++) {
        const size_t at = i * SHA256_LEAF, size = min_size(SHA256_LEAF, n - at);
        sha256_leaf(bytes + at, size, leaves[i]);
        checksum_update(checksum, bytes + at, size);
        if ((i + 1) % LEAVES_AT_ONCE == 0)
            mapping_forget(&file->mapping, bytes + at + size - LEAVES_AT_ONCE * SHA256_LEAF,
                           LEAVES_AT_ONCE * SHA256_LEAF);
    }
    const bool is_done = leaves && checksum;
    if (is_done) {
        sha256_root((const uint8_t(*)[32])leaves, n_leaves, hash);
        *sum = checksum_final(checksum);
    }
    if (checksum)
        checksum_destroy(checksum);
    free(leaves);
    mapping_forget(&file->mapping, bytes, n);
    return is_done;
}

static serverd_status verify_hashes(const struct sdp_file *file, void (*progress)(void *, double),
                                    void *context, serverd_error *err)
{
    for (uint32_t i = 0; i < file->header->n_sections; i++) {
        const struct sdp_section *section = &file->sections[i];
        uint8_t hash[32];
        uint64_t sum;
        if (!sum_section(file, section, hash, &sum))
            return fail(err, SERVERD_NOMEM, "no memory to verify");
        if (memcmp(hash, section->hash, sizeof hash) != 0)
            return fail_section(file, i, "hash", "the bytes are damaged", err);
        if (sum != section->checksum)
            return fail_section(file, i, "checksum", "the bytes are damaged", err);
        if (progress)
            progress(context, (double)(section->offset + section->stored_bytes) /
                                  (double)file->mapping.bytes);
    }
    return SERVERD_OK;
}

serverd_status sdp_file_verify(const struct sdp_file *file, void (*progress)(void *, double),
                               void *context, serverd_error *err)
{
    uint8_t program_id[32], file_root[32];
    sdp_compute_ids(file->header, file->sections, program_id, file_root);
    serverd_status status = SERVERD_OK;
    if (memcmp(program_id, file->header->program_id, 32) != 0)
        status = fail(err, SERVERD_CORRUPT, "header.program_id: is not that of the sections");
    else if (memcmp(file_root, file->header->file_root, 32) != 0)
        status = fail(err, SERVERD_CORRUPT, "header.file_root: is not that of the sections");
    if (status == SERVERD_OK)
        status = verify_gaps(file, err);
    if (status == SERVERD_OK)
        status = verify_hashes(file, progress, context, err);
    if (status == SERVERD_OK)
        status = verify_forms(file, err);
    return status == SERVERD_OK ? status : error_context(err, "%s: sdp", file->path);
}
