#include "program/adapter_file.h"

#include "base/error.h"
#include "base/limits.h"
#include "program/sdp_file.h"

#include <inttypes.h>
#include <string.h>

struct reading {
    const struct sdp_file *file;
    const struct sdp_section *sites, *strings, *weights;
    struct adapter *adapter;
};

static serverd_status fail_site(uint32_t i, const char *field, const char *reason,
                                serverd_error *err)
{
    return fail(err, SERVERD_CORRUPT, "SITE[%u].%s: %s", i, field, reason);
}

/* Fixed texts end inside their field. */
static bool is_text(const char *field, size_t size)
{
    return memchr(field, '\0', size) != NULL;
}

static serverd_status read_config(const struct reading *r, serverd_error *err)
{
    const struct sdp_section *section = sdp_find(r->file, SDP_CONF);
    const struct sdp_adapter *config = sdp_bytes(r->file, section);
    if (section->stored_bytes != sizeof *config)
        return fail(err, SERVERD_CORRUPT, "CONF.stored_bytes: %" PRIu64 ", %zu is needed",
                    section->stored_bytes, sizeof *config);
    if (!is_text(config->architecture, sizeof config->architecture) ||
        !is_text(config->name, sizeof config->name))
        return fail(err, SERVERD_CORRUPT, "CONF.name: a text without an end");
    for (size_t i = 0; i < sizeof config->reserved; i++)
        if (config->reserved[i] != 0)
            return fail(err, SERVERD_CORRUPT, "CONF.reserved: byte %zu is not 0", i);
    if (config->n_sites != r->sites->n_items)
        return fail(err, SERVERD_CORRUPT, "CONF.n_sites: %u, SITE has %" PRIu64, config->n_sites,
                    r->sites->n_items);
    struct adapter *adapter = r->adapter;
    memcpy(adapter->architecture, config->architecture, sizeof adapter->architecture);
    memcpy(adapter->name, config->name, sizeof adapter->name);
    memcpy(adapter->shape_id, config->shape_id, sizeof adapter->shape_id);
    adapter->n_sites = config->n_sites;
    adapter->max_rank = config->max_rank;
    return SERVERD_OK;
}

/* NULL: the floats are not in WGHT. */
static const float *read_matrix(const struct reading *r, uint64_t offset, uint64_t n)
{
    const struct sdp_section *weights = r->weights;
    if (offset % 64 != 0 || offset < weights->offset ||
        offset - weights->offset > weights->stored_bytes ||
        n > (weights->stored_bytes - (offset - weights->offset)) / sizeof(float))
        return NULL;
    return (const void *)((const char *)r->file->mapping.data + offset);
}

static serverd_status read_site(const struct reading *r, uint32_t i, struct adapter_site *out,
                                serverd_error *err)
{
    const struct sdp_site *from = (const struct sdp_site *)sdp_bytes(r->file, r->sites) + i;
    const char *strings = sdp_bytes(r->file, r->strings);
    uint64_t n_strings = r->strings->stored_bytes;
    if (from->flags != 0)
        return fail(err, SERVERD_VERSION, "SITE[%u].flags: 0x%x is not known here", i, from->flags);
    for (size_t k = 0; k < sizeof from->reserved / sizeof *from->reserved; k++)
        if (from->reserved[k] != 0)
            return fail_site(i, "reserved", "it is not 0", err);
    if (from->tensor >= n_strings ||
        !memchr(strings + from->tensor, '\0', n_strings - from->tensor))
        return fail_site(i, "tensor", "no text of STRS", err);
    *out = (struct adapter_site){.tensor = strings + from->tensor,
                                 .rank = from->rank,
                                 .n_in = from->n_in,
                                 .n_out = from->n_out,
                                 .scale = from->scale};
    if (out->rank > LIMIT_ADAPTER_RANK || out->n_in > LIMIT_ADAPTER_DIM ||
        out->n_out > LIMIT_ADAPTER_DIM)
        return fail_site(i, "rank", "its matrices are too large", err);
    out->a = read_matrix(r, from->a_offset, (uint64_t)out->rank * out->n_in);
    out->b = read_matrix(r, from->b_offset, (uint64_t)out->rank * out->n_out);
    if (!out->a || !out->b)
        return fail_site(i, out->a ? "b_offset" : "a_offset", "its numbers do not lie in WGHT",
                         err);
    return SERVERD_OK;
}

static serverd_status read_sites(const struct reading *r, serverd_error *err)
{
    uint32_t n = r->adapter->n_sites;
    if (n > LIMIT_ADAPTER_SITES || r->sites->stored_bytes != n * sizeof(struct sdp_site))
        return fail(err, SERVERD_CORRUPT, "SITE.n_items: %u in %" PRIu64 " bytes, at most %u", n,
                    r->sites->stored_bytes, LIMIT_ADAPTER_SITES);
    struct adapter_site *sites = arena_array(r->adapter->arena, n ? n : 1, sizeof *sites);
    if (!sites)
        return fail(err, SERVERD_NOMEM, "no memory for %u sites", n);
    serverd_status status = SERVERD_OK;
    for (uint32_t i = 0; i < n && status == SERVERD_OK; i++)
        status = read_site(r, i, &sites[i], err);
    r->adapter->sites = sites;
    return status;
}

static serverd_status read_all(struct sdp_file *file, struct adapter *adapter, serverd_error *err)
{
    struct reading r = {.file = file,
                        .sites = sdp_find(file, SDP_SITE),
                        .strings = sdp_find(file, SDP_STRS),
                        .weights = sdp_find(file, SDP_WGHT),
                        .adapter = adapter};
    serverd_status status = read_config(&r, err);
    if (status == SERVERD_OK)
        status = read_sites(&r, err);
    if (status == SERVERD_OK)
        status = adapter_check(adapter, err);
    if (status != SERVERD_OK)
        return error_context(err, "%s: sdp", file->path);
    adapter_compute_id(adapter);
    adapter->mapping = file->mapping; /* the adapter's from now on */
    file->mapping = (struct mapping){0};
    return SERVERD_OK;
}

serverd_status adapter_file_open(const char *path, struct adapter **out, serverd_error *err)
{
    struct sdp_file file;
    struct adapter *adapter = adapter_create();
    if (!adapter)
        return fail(err, SERVERD_NOMEM, "%s: no memory", path);
    serverd_status status = sdp_file_open_kind(path, SDP_KIND_ADAPTER, &file, err);
    if (status == SERVERD_OK) {
        status = read_all(&file, adapter, err);
        sdp_file_close(&file);
    }
    if (status == SERVERD_OK)
        *out = adapter;
    else
        adapter_destroy(adapter);
    return status;
}
