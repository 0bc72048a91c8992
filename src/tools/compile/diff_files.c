#include "tools/compile/diff_files.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

/* ---- weights --------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    const struct tensor_facts *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static struct tensor_facts *list_tensors(const struct subject *subject, uint32_t *n)
{
    *n = subject_n_tensors(subject);
    struct tensor_facts *list = calloc(*n + 1u, sizeof *list);
    for (uint32_t i = 0; i < *n && list; i++)
        subject_tensor(subject, i, true, &list[i]);
    if (list)
        qsort(list, *n, sizeof *list, by_name);
    return list;
}

static unsigned difference(const struct tensor_facts *a, const struct tensor_facts *b)
{
    unsigned what = a->dtype != b->dtype ? DIFF_DTYPE : 0;
    if (a->rank != b->rank || memcmp(a->dims, b->dims, a->rank * sizeof *a->dims) != 0)
        what |= DIFF_SHAPE;
    if (what == 0 && memcmp(a->hash, b->hash, sizeof a->hash) != 0)
        what = DIFF_BYTES;
    return what;
}

/* Both lists are in the order of their names. */
static void merge(const struct tensor_facts *a, uint32_t n_a, const struct tensor_facts *b,
                  uint32_t n_b, struct diff_files *out)
{
    uint32_t i = 0, j = 0;
    while (i < n_a || j < n_b) {
        int order = i == n_a ? 1 : j == n_b ? -1 : strcmp(a[i].name, b[j].name);
        struct tensor_difference *next = &out->tensors[out->n_tensors];
        *next = (struct tensor_difference){0};
        if (order <= 0)
            next->a = a[i++];
        if (order >= 0)
            next->b = b[j++];
        next->what = order < 0   ? DIFF_ONLY_A
                     : order > 0 ? DIFF_ONLY_B
                                 : difference(&next->a, &next->b);
        if (next->what)
            out->n_tensors++;
        else
            out->n_same++;
    }
}

static serverd_status compare_tensors(const struct subject *a, const struct subject *b,
                                      struct diff_files *out, serverd_error *err)
{
    uint32_t n_a, n_b;
    struct tensor_facts *list_a = list_tensors(a, &n_a), *list_b = list_tensors(b, &n_b);
    out->tensors = calloc((size_t)n_a + n_b + 1, sizeof *out->tensors);
    bool has_memory = list_a && list_b && out->tensors;
    if (has_memory)
        merge(list_a, n_a, list_b, n_b, out);
    free(list_a);
    free(list_b);
    return has_memory ? SERVERD_OK : fail(err, SERVERD_NOMEM, "no memory to compare weights");
}

/* ---- sections -------------------------------------------------------------------------------- */

/* The n-th of its type. */
static const struct sdp_section *find_nth(const struct sdp_file *file, uint32_t type, uint32_t nth)
{
    for (uint32_t i = 0; i < file->header->n_sections; i++)
        if (file->sections[i].type == type && nth-- == 0)
            return &file->sections[i];
    return NULL;
}

static uint32_t number_of(const struct sdp_file *file, uint32_t index)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < index; i++)
        n += file->sections[i].type == file->sections[index].type;
    return n;
}

static void compare_sections(const struct sdp_file *a, const struct sdp_file *b,
                             struct diff_files *out)
{
    for (uint32_t i = 0; i < a->header->n_sections; i++) {
        const struct sdp_section *x = &a->sections[i], *y = find_nth(b, x->type, number_of(a, i));
        bool is_same =
            y && x->raw_bytes == y->raw_bytes && memcmp(x->hash, y->hash, sizeof x->hash) == 0;
        out->sections[out->n_sections++] =
            (struct section_difference){.what = !y        ? DIFF_ONLY_A
                                                : is_same ? 0
                                                          : DIFF_BYTES,
                                        .type = x->type,
                                        .a_bytes = x->stored_bytes,
                                        .b_bytes = y ? y->stored_bytes : 0};
    }
    for (uint32_t i = 0; i < b->header->n_sections; i++)
        if (!find_nth(a, b->sections[i].type, number_of(b, i)))
            out->sections[out->n_sections++] =
                (struct section_difference){.what = DIFF_ONLY_B,
                                            .type = b->sections[i].type,
                                            .b_bytes = b->sections[i].stored_bytes};
}

serverd_status diff_files(const struct subject *a, const struct subject *b, struct diff_files *out,
                          serverd_error *err)
{
    *out = (struct diff_files){0};
    serverd_status status = compare_tensors(a, b, out, err);
    if (status != SERVERD_OK || !a->is_program_file || !b->is_program_file)
        return status;
    size_t n = (size_t)a->file.header->n_sections + b->file.header->n_sections;
    out->sections = calloc(n + 1, sizeof *out->sections);
    if (!out->sections)
        return fail(err, SERVERD_NOMEM, "no memory to compare %zu sections", n);
    compare_sections(&a->file, &b->file, out);
    return SERVERD_OK;
}

void diff_files_free(struct diff_files *files)
{
    free(files->tensors);
    free(files->sections);
    *files = (struct diff_files){0};
}
