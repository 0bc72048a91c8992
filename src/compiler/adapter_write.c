/* An adapter as an adapter file: header | CONF | STRS | SITE | WGHT | section table. */
#include "compiler/adapter_import.h"

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/limits.h"
#include "program/sdp_file.h"

#include <stdio.h>
#include <string.h>

enum { ALIGNMENT = 64, ALIGNMENT_BITS = 6, SEGMENT_ALIGNMENT = 4096, SEGMENT_BITS = 12 };

/* In the order of the file. */
enum { CONF, STRS, SITE, WGHT, N_SECTIONS };

struct writing {
    const struct adapter *adapter;
    struct sdp_section sections[N_SECTIONS];
    struct buffer bytes[N_SECTIONS];
    struct new_file file;
};

static void pad(struct buffer *out)
{
    static const char zeros[ALIGNMENT];
    buffer_append(out, zeros, (ALIGNMENT - out->len % ALIGNMENT) % ALIGNMENT);
}

static void put_config(struct writing *w)
{
    const struct adapter *adapter = w->adapter;
    struct sdp_adapter config = {.n_sites = adapter->n_sites, .max_rank = adapter->max_rank};
    memcpy(config.architecture, adapter->architecture, sizeof config.architecture);
    memcpy(config.name, adapter->name, sizeof config.name);
    memcpy(config.shape_id, adapter->shape_id, sizeof config.shape_id);
    buffer_append(&w->bytes[CONF], &config, sizeof config);
}

/* Offsets in WGHT until the section has its place. */
static void put_sites(struct writing *w)
{
    buffer_append_char(&w->bytes[STRS], '\0');
    for (uint32_t i = 0; i < w->adapter->n_sites; i++) {
        const struct adapter_site *site = &w->adapter->sites[i];
        struct buffer *weights = &w->bytes[WGHT];
        struct sdp_site record = {.tensor = (uint32_t)w->bytes[STRS].len,
                                  .rank = site->rank,
                                  .n_in = site->n_in,
                                  .n_out = site->n_out,
                                  .scale = site->scale};
        buffer_append(&w->bytes[STRS], site->tensor, strlen(site->tensor) + 1);
        record.a_offset = weights->len;
        buffer_append(weights, site->a, (size_t)site->rank * site->n_in * sizeof(float));
        pad(weights);
        record.b_offset = weights->len;
        buffer_append(weights, site->b, (size_t)site->rank * site->n_out * sizeof(float));
        pad(weights);
        buffer_append(&w->bytes[SITE], &record, sizeof record);
    }
}

static void place_sections(struct writing *w, uint64_t *end)
{
    static const uint32_t types[] = {SDP_CONF, SDP_STRS, SDP_SITE, SDP_WGHT};
    uint64_t at = sizeof(struct sdp_header);
    for (int i = 0; i < N_SECTIONS; i++) {
        struct sdp_section *section = &w->sections[i];
        uint64_t alignment = i == WGHT ? SEGMENT_ALIGNMENT : ALIGNMENT;
        at = (at + alignment - 1) / alignment * alignment;
        *section = (struct sdp_section){.type = types[i],
                                        .version = 1,
                                        .flags = SDP_REQUIRED | SDP_IN_PLACE |
                                                 (i == STRS ? 0 : SDP_IDENTITY),
                                        .target = SDP_ANY_TARGET,
                                        .alignment = i == WGHT ? SEGMENT_BITS : ALIGNMENT_BITS,
                                        .offset = at,
                                        .stored_bytes = w->bytes[i].len,
                                        .raw_bytes = w->bytes[i].len};
        at += section->stored_bytes;
    }
    w->sections[SITE].n_items = w->adapter->n_sites;
    *end = (at + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    struct sdp_site *sites = (struct sdp_site *)(void *)w->bytes[SITE].data;
    for (uint32_t i = 0; i < w->adapter->n_sites; i++) {
        sites[i].a_offset += w->sections[WGHT].offset;
        sites[i].b_offset += w->sections[WGHT].offset;
    }
}

static serverd_status write_sections(struct writing *w, serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    for (int i = 0; i < N_SECTIONS && status == SERVERD_OK; i++) {
        struct sdp_section *section = &w->sections[i];
        const char *bytes = buffer_str(&w->bytes[i]);
        section->checksum = checksum64(bytes, section->stored_bytes);
        sha256_tree(bytes, section->stored_bytes, section->hash);
        status = new_file_write_at(&w->file, section->offset, bytes, section->stored_bytes, err);
    }
    return status;
}

static serverd_status write_header(struct writing *w, uint64_t table_offset, serverd_error *err)
{
    struct sdp_header header = {.major = SDP_MAJOR,
                                .minor = SDP_MINOR,
                                .header_bytes = sizeof header,
                                .file_bytes = table_offset + sizeof w->sections,
                                .required = SDP_NEEDS_ADAPTER,
                                .table_offset = table_offset,
                                .n_sections = N_SECTIONS,
                                .section_bytes = sizeof *w->sections,
                                .kind = SDP_KIND_ADAPTER,
                                .segment_alignment = SEGMENT_ALIGNMENT,
                                .producer = "serverd " PROJECT_VERSION};
    memcpy(header.magic, SDP_MAGIC, sizeof header.magic);
    sdp_compute_ids(&header, w->sections, header.program_id, header.file_root);
    header.checksum = sdp_compute_checksum(&header, w->sections);
    serverd_status status =
        new_file_write_at(&w->file, table_offset, w->sections, sizeof w->sections, err);
    return status == SERVERD_OK ? new_file_write_at(&w->file, 0, &header, sizeof header, err)
                                : status;
}

static serverd_status write_all(struct writing *w, serverd_error *err)
{
    uint64_t end = 0;
    put_config(w);
    put_sites(w);
    for (int i = 0; i < N_SECTIONS; i++)
        if (w->bytes[i].is_failed)
            return fail(err, SERVERD_NOMEM, "no memory to write an adapter");
    place_sections(w, &end);
    serverd_status status = write_sections(w, err);
    if (status == SERVERD_OK)
        status = write_header(w, end, err);
    return status == SERVERD_OK ? new_file_commit(&w->file, err) : status;
}

serverd_status adapter_write(const struct adapter *adapter, const char *path, serverd_error *err)
{
    struct writing w = {.adapter = adapter};
    serverd_status status = new_file_create(path, 0666, &w.file, err);
    if (status != SERVERD_OK)
        return status;
    for (int i = 0; i < N_SECTIONS; i++)
        buffer_init(&w.bytes[i], LIMIT_ADAPTER_BYTES);
    status = write_all(&w, err);
    if (status != SERVERD_OK)
        (void)error_context(err, "%s", path);
    new_file_discard(&w.file);
    for (int i = 0; i < N_SECTIONS; i++)
        buffer_deinit(&w.bytes[i]);
    return status;
}
