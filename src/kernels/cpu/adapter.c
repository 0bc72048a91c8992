/* Low-rank adapters: y += scale * B (A x) for the rows of sequences that have one.
 *
 * The rows of a step are sorted by slot, so that rows with the same adapter share its weights. A x
 * of all layers of a phase is a hand-out of its own before the phase (or, where a worker takes a
 * block of rows through a stage, done by it just before the layer). B (A x) is added by whoever has
 * computed the columns, right behind them: y = ((x W^T + bias) + B (A x)) + residual, where the
 * layer writes that sum, too, so that it is the same wherever a graph is cut. Both have one order
 * of sums (adapter_template.h). Rows without an adapter keep their bits.
 *
 * What a step needs is taken at load, for the limits' slots and rank. An adapter's weights are
 * taken when it is put into its slot. */
#include "base/error.h"
#include "base/numeric.h"
#include "kernels/cpu/cpu_internal.h"
#include "program/op.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define NO_SITE UINT32_MAX

/* Rows that one call of a kernel takes. */
#define ROWS_AT_ONCE 16

#define HUGE_PAGE ((size_t)2 << 20)

/* Multiplications that are worth a hand-out to another thread. */
#define GRAIN 32768

/* Rows of one adapter: entries first .. first + n - 1 of the row list. */
struct row_group {
    uint32_t slot, first, n;
};

/* The rows of a kind that have adapters, sorted by slot, then row. */
struct row_list {
    uint32_t *row;
    float *scale; /* of each */
    struct row_group *groups;
    uint32_t n_groups;
};

/* A x of one layer for one group: a part of a hand-out. */
struct down_part {
    uint32_t node;
    const struct row_list *list;
    const struct row_group *group;
    size_t first_unit; /* a unit is CPU_ADAPTER_RANKS ranks */
};

struct cpu_adapters {
    uint32_t n_slots, max_rank; /* max_rank: rounded up to CPU_ADAPTER_RANKS */
    uint32_t n_sites;           /* linear layers */
    uint32_t *site_of;          /* [n_nodes] */
    uint32_t *place_of;         /* [n_nodes] number of the layer among those of its phase */
    uint32_t n_places;          /* of a phase at most */
    struct cpu_low_rank *sites; /* [n_slots][n_sites] */
    void **weights;             /* [n_slots] one block each; NULL: the slot is empty */
    struct row_list lists[3];   /* by kind: -1 - SERVERD_DIM_* */
    struct down_part *parts;    /* [n_places * n_slots] */
    float *sums;                /* [most rows][n_places][max_rank] A x */
    bool is_used;               /* by the present batch */
};

static struct row_list *list_of(struct cpu_adapters *adapters, int64_t kind)
{
    return &adapters->lists[-1 - kind];
}

static const struct row_list *rows_list(const struct cpu_step *step, uint32_t node)
{
    int64_t kind = node_output(step->graph, &step->graph->nodes[node])->dims[0];
    return list_of(step->handle->adapters, kind);
}

static const struct cpu_low_rank *site_at(const struct cpu_adapters *adapters, uint32_t slot,
                                          uint32_t node)
{
    return &adapters->sites[(size_t)slot * adapters->n_sites + adapters->site_of[node]];
}

static float *sums_of(const struct cpu_adapters *adapters, uint32_t node, size_t row)
{
    return adapters->sums +
           (row * adapters->n_places + adapters->place_of[node]) * adapters->max_rank;
}

/* ---- load ------------------------------------------------------------------------------------ */

static void number_sites(serverd_handle *handle, struct cpu_adapters *adapters)
{
    memset(adapters->site_of, 0xff, handle->graph->n_nodes * sizeof *adapters->site_of);
    for (uint32_t p = 0; p < handle->n_phases; p++) {
        const struct cpu_phase *phase = &handle->phases[p];
        if (phase->kind != PHASE_LINEAR)
            continue;
        for (uint32_t i = 0; i < phase->n_actions; i++) {
            uint32_t node = handle->actions[phase->first_action + i].index;
            adapters->site_of[node] = adapters->n_sites++;
            adapters->place_of[node] = i;
        }
        adapters->n_places = (uint32_t)max_size(adapters->n_places, phase->n_actions);
    }
}

static bool take_list(serverd_handle *handle, struct row_list *list, size_t n_rows)
{
    list->row = cpu_take(handle, n_rows, sizeof *list->row);
    list->scale = cpu_take(handle, n_rows, sizeof *list->scale);
    list->groups = cpu_take(handle, handle->limits.max_adapters, sizeof *list->groups);
    return list->row && list->scale && list->groups;
}

static bool take_memory(serverd_handle *handle, struct cpu_adapters *adapters)
{
    const serverd_limits *limits = &handle->limits;
    size_t most = max_size(limits->max_rows, max_size(limits->max_seqs, limits->max_logit_rows));
    size_t n_sums;
    adapters->sites =
        cpu_take(handle, (size_t)adapters->n_slots * adapters->n_sites, sizeof *adapters->sites);
    adapters->weights = cpu_take(handle, adapters->n_slots, sizeof *adapters->weights);
    adapters->parts =
        cpu_take(handle, (size_t)adapters->n_places * adapters->n_slots, sizeof *adapters->parts);
    return adapters->sites && adapters->weights && adapters->parts &&
           take_list(handle, list_of(adapters, SERVERD_DIM_ROWS), limits->max_rows) &&
           take_list(handle, list_of(adapters, SERVERD_DIM_SEQS), limits->max_seqs) &&
           take_list(handle, list_of(adapters, SERVERD_DIM_SELECTED), limits->max_logit_rows) &&
           size_mul(most, (size_t)adapters->n_places * adapters->max_rank, &n_sums) &&
           size_mul(n_sums, sizeof(float), &n_sums) &&
           (adapters->sums = cpu_take_aligned(handle, n_sums));
}

serverd_status cpu_create_adapters(serverd_handle *handle, serverd_error *err)
{
    const serverd_limits *limits = &handle->limits;
    if (limits->max_adapters == 0)
        return SERVERD_OK;
    struct cpu_adapters *adapters = cpu_take(handle, 1, sizeof *adapters);
    handle->adapters = adapters;
    bool fits = adapters != NULL;
    if (fits) {
        adapters->n_slots = limits->max_adapters;
        adapters->max_rank = (limits->max_adapter_rank + CPU_ADAPTER_RANKS - 1) /
                             CPU_ADAPTER_RANKS * CPU_ADAPTER_RANKS;
        adapters->site_of = cpu_take(handle, handle->graph->n_nodes, sizeof *adapters->site_of);
        adapters->place_of = cpu_take(handle, handle->graph->n_nodes, sizeof *adapters->place_of);
        fits = adapters->site_of && adapters->place_of;
    }
    if (fits) {
        number_sites(handle, adapters);
        fits = take_memory(handle, adapters);
    }
    return fits ? SERVERD_OK
                : fail(err, SERVERD_NOMEM, "cpu: no memory for %u adapters", limits->max_adapters);
}

void cpu_destroy_adapters(struct cpu_adapters *adapters)
{
    if (!adapters)
        return;
    for (uint32_t i = 0; adapters->weights && i < adapters->n_slots; i++)
        free(adapters->weights[i]);
    for (size_t i = 0; i < sizeof adapters->lists / sizeof *adapters->lists; i++) {
        free(adapters->lists[i].row);
        free(adapters->lists[i].scale);
        free(adapters->lists[i].groups);
    }
    free(adapters->site_of);
    free(adapters->place_of);
    free(adapters->sites);
    free(adapters->weights);
    free(adapters->parts);
    free(adapters->sums);
    free(adapters);
}

/* ---- putting one in -------------------------------------------------------------------------- */

static bool is_exact(const float *x, size_t n, uint16_t (*narrow)(float), float (*widen)(uint16_t))
{
    for (size_t i = 0; i < n; i++)
        if (f32_bits(widen(narrow(x[i]))) != f32_bits(x[i]))
            return false;
    return true;
}

/* The narrowest type that has every number: less to read, the same results. Beside a base that is
 * rounded itself, F16 with a power of two for each matrix (pack_site), whose 11 bits are far finer
 * than the base's: a batch of many adapters is bound by what is read. Beside F32 every bit stays.
 */
static uint32_t choose_type(const serverd_adapter_site *site, size_t n_a, size_t n_b,
                            bool is_rounded)
{
    if (is_exact(site->a, n_a, f32_to_bf16, bf16_to_f32) &&
        is_exact(site->b, n_b, f32_to_bf16, bf16_to_f32))
        return DTYPE_BF16;
    if (is_rounded || (is_exact(site->a, n_a, f32_to_f16, f16_to_f32) &&
                       is_exact(site->b, n_b, f32_to_f16, f16_to_f32)))
        return DTYPE_F16;
    return DTYPE_F32;
}

/* The power of two that brings the greatest number to 2^14..2^15, so that F16 keeps 11 bits of all
 * that are not a quarter of a billion times smaller. */
static int exponent_for_f16(const float *x, size_t n)
{
    uint32_t most = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t magnitude = f32_bits(x[i]) & 0x7fffffffu;
        most = magnitude > most ? magnitude : most;
    }
    int exponent = 0;
    (void)frexpf(f32_from_bits(most), &exponent); /* below 2^exponent */
    return most > 0 ? 15 - exponent : 0;
}

/* As f32_to_f16, of numbers below 2^15, without branches. */
static uint16_t small_to_f16(float x)
{
    uint32_t bits = f32_bits(x), magnitude = bits & 0x7fffffffu;
    uint32_t normal = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
    uint32_t denormal = f32_bits(f32_from_bits(magnitude) + 0.5f) - f32_bits(0.5f);
    return (uint16_t)((magnitude < 113u << 23 ? denormal : normal) | (bits >> 16 & 0x8000u));
}

/* Elements at .. of `out`, in the site's type. */
static void put(const struct cpu_low_rank *site, void *out, size_t at,
                const float x[PACKED_COLUMNS])
{
    if (site->dtype == DTYPE_F32) {
        memcpy((float *)out + at, x, PACKED_COLUMNS * sizeof *x);
        return;
    }
    uint16_t *to = (uint16_t *)out + at;
    for (size_t i = 0; i < PACKED_COLUMNS; i++)
        to[i] = site->dtype == DTYPE_BF16 ? f32_to_bf16(x[i]) : small_to_f16(x[i]);
}

static size_t padded(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* Elements of A and B in the order of adapter_template.h; padding is there as zeros. */
static size_t a_elements(size_t rank, size_t n_in)
{
    return padded(rank, CPU_ADAPTER_RANKS) * padded(n_in, PACKED_COLUMNS);
}
static size_t b_elements(size_t rank, size_t n_out)
{
    return rank * padded(n_out, PACKED_COLUMNS);
}

static void pack_a(const struct cpu_low_rank *site, const float *a, float factor, void *out)
{
    const size_t steps = padded(site->n_in, PACKED_COLUMNS) / PACKED_COLUMNS;
    for (size_t r = 0; r < site->rank; r++) {
        size_t begin = r / CPU_ADAPTER_RANKS * steps, in_group = r % CPU_ADAPTER_RANKS;
        for (size_t step = 0; step < steps; step++) {
            float part[PACKED_COLUMNS] = {0};
            size_t first = step * PACKED_COLUMNS;
            for (size_t i = 0; i < min_size(PACKED_COLUMNS, site->n_in - first); i++)
                part[i] = a[r * site->n_in + first + i] * factor;
            put(site, out, ((begin + step) * CPU_ADAPTER_RANKS + in_group) * PACKED_COLUMNS, part);
        }
    }
}

static void pack_b(const struct cpu_low_rank *site, const float *b, float factor, void *out)
{
    for (size_t first = 0; first < site->n_out; first += PACKED_COLUMNS)
        for (size_t r = 0; r < site->rank; r++) {
            float part[PACKED_COLUMNS] = {0};
            for (size_t i = 0; i < min_size(PACKED_COLUMNS, site->n_out - first); i++)
                part[i] = b[(first + i) * site->rank + r] * factor;
            put(site, out, first * site->rank + r * PACKED_COLUMNS, part);
        }
}

static serverd_status check_site(const serverd_handle *handle, const serverd_adapter_site *site,
                                 serverd_error *err)
{
    const struct cpu_adapters *adapters = handle->adapters;
    if (site->node >= handle->graph->n_nodes || adapters->site_of[site->node] == NO_SITE)
        return fail(err, SERVERD_INTERNAL, "cpu: node %u is no linear layer of the partition",
                    site->node);
    if (site->rank == 0 || site->rank > handle->limits.max_adapter_rank)
        return fail(err, SERVERD_UNSUPPORTED, "cpu: an adapter of rank %u, at most %u are possible",
                    site->rank, handle->limits.max_adapter_rank);
    return SERVERD_OK;
}

/* Where each site's weights lie in the slot's block, whose bytes are returned in *bytes. */
static serverd_status place_sites(const serverd_handle *handle, const serverd_adapter *adapter,
                                  struct cpu_low_rank *out, size_t *bytes, serverd_error *err)
{
    *bytes = 0;
    for (uint32_t i = 0; i < adapter->n_sites; i++) {
        const serverd_adapter_site *from = &adapter->sites[i];
        serverd_status status = check_site(handle, from, err);
        if (status != SERVERD_OK)
            return status;
        const serverd_tensor *w =
            cpu_linear_weights(handle->graph, &handle->graph->nodes[from->node]);
        struct cpu_low_rank *site = &out[handle->adapters->site_of[from->node]];
        *site = (struct cpu_low_rank){
            .rank = from->rank, .n_in = w->dims[1], .n_out = w->dims[0], .scale = from->scale};
        site->dtype = choose_type(from, from->rank * site->n_in, from->rank * site->n_out,
                                  w->dtype != DTYPE_F32);
        size_t element = site->dtype == DTYPE_F32 ? 4 : 2;
        *bytes += padded(a_elements(site->rank, site->n_in) * element, 64) +
                  padded(b_elements(site->rank, site->n_out) * element, 64);
    }
    return SERVERD_OK;
}

/* A and B times powers of two, which the site's scale takes off again; returns the bytes taken. */
static size_t pack_site(struct cpu_low_rank *site, const serverd_adapter_site *from, char *block)
{
    size_t n_a = site->rank * site->n_in, n_b = site->rank * site->n_out;
    size_t element = site->dtype == DTYPE_F32 ? 4 : 2;
    size_t a_bytes = padded(a_elements(site->rank, site->n_in) * element, 64);
    bool is_f16 = site->dtype == DTYPE_F16;
    int a_exponent = is_f16 ? exponent_for_f16(from->a, n_a) : 0;
    int b_exponent = is_f16 ? exponent_for_f16(from->b, n_b) : 0;
    site->a = block;
    site->b = block + a_bytes;
    site->scale = ldexpf(from->scale, -a_exponent - b_exponent);
    pack_a(site, from->a, ldexpf(1, a_exponent), block);
    pack_b(site, from->b, ldexpf(1, b_exponent), block + a_bytes);
    return a_bytes + padded(b_elements(site->rank, site->n_out) * element, 64);
}

static void pack_sites(const serverd_handle *handle, const serverd_adapter *adapter,
                       struct cpu_low_rank *out, char *block)
{
    for (uint32_t i = 0; i < adapter->n_sites; i++) {
        const serverd_adapter_site *from = &adapter->sites[i];
        block += pack_site(&out[handle->adapters->site_of[from->node]], from, block);
    }
}

/* Zeroed, in huge pages where that can be: fewer translations for what is read as streams. */
static char *take_block(size_t bytes)
{
    size_t rounded;
    if (!size_align(bytes, HUGE_PAGE, &rounded))
        return NULL;
    char *block = aligned_alloc(HUGE_PAGE, rounded);
    if (!block)
        return NULL;
    (void)madvise(block, rounded, MADV_HUGEPAGE); /* a hint */
    return memset(block, 0, bytes);
}

serverd_status cpu_set_adapter(serverd_handle *handle, uint32_t slot,
                               const serverd_adapter *or_null, serverd_error *err)
{
    struct cpu_adapters *adapters = handle->adapters;
    if (!adapters || slot >= adapters->n_slots)
        return fail(err, SERVERD_INTERNAL, "cpu: adapter slot %u of %u", slot,
                    adapters ? adapters->n_slots : 0);
    struct cpu_low_rank *sites = calloc(max_size(adapters->n_sites, 1), sizeof *sites);
    size_t bytes = 0;
    char *block = NULL;
    serverd_status status = sites ? SERVERD_OK : fail(err, SERVERD_NOMEM, "cpu: no memory");
    if (status == SERVERD_OK && or_null)
        status = place_sites(handle, or_null, sites, &bytes, err);
    if (status == SERVERD_OK && bytes > 0 && !(block = take_block(bytes)))
        status = fail(err, SERVERD_NOMEM, "cpu: no memory for an adapter of %zu bytes", bytes);
    if (status == SERVERD_OK) {
        if (block) {
            pack_sites(handle, or_null, sites, block);
        }
        free(adapters->weights[slot]);
        adapters->weights[slot] = block;
        memcpy(&adapters->sites[(size_t)slot * adapters->n_sites], sites,
               adapters->n_sites * sizeof *sites);
    }
    free(sites);
    return status;
}

/* ---- a step ---------------------------------------------------------------------------------- */

/* Rows of a kind, by slot. `row_of_seq`: rows are rows of the batch, or sequences. */
static void sort_rows(const serverd_batch *batch, const uint32_t *rows, uint32_t n_rows,
                      bool are_seqs, uint32_t n_slots, struct row_list *list)
{
    uint32_t n = 0;
    list->n_groups = 0;
    for (uint32_t slot = 0; slot < n_slots; slot++) {
        uint32_t first = n;
        for (uint32_t i = 0; i < n_rows; i++) {
            uint32_t seq = are_seqs ? i : batch->row_seq[rows ? rows[i] : i];
            if (batch->adapter_slot[seq] != slot)
                continue;
            list->row[n] = i;
            list->scale[n++] = batch->adapter_scale[seq];
        }
        if (n > first)
            list->groups[list->n_groups++] =
                (struct row_group){.slot = slot, .first = first, .n = n - first};
    }
}

serverd_status cpu_plan_adapters(serverd_handle *handle, const serverd_batch *batch,
                                 serverd_error *err)
{
    struct cpu_adapters *adapters = handle->adapters;
    uint32_t n_slots = adapters ? adapters->n_slots : 0;
    bool is_used = false;
    for (uint32_t seq = 0; batch->adapter_slot && seq < batch->n_seqs; seq++) {
        uint32_t slot = batch->adapter_slot[seq];
        if (slot == SERVERD_NO_ADAPTER)
            continue;
        if (slot >= n_slots)
            return fail(err, SERVERD_INTERNAL, "cpu: sequence %u has adapter slot %u of %u", seq,
                        slot, n_slots);
        is_used |= adapters->weights[slot] != NULL;
    }
    if (!adapters)
        return SERVERD_OK;
    adapters->is_used = is_used;
    if (!is_used)
        return SERVERD_OK;
    sort_rows(batch, NULL, batch->n_rows, false, n_slots, list_of(adapters, SERVERD_DIM_ROWS));
    sort_rows(batch, NULL, batch->n_seqs, true, n_slots, list_of(adapters, SERVERD_DIM_SEQS));
    sort_rows(batch, batch->logit_row, batch->n_logit_rows, false, n_slots,
              list_of(adapters, SERVERD_DIM_SELECTED));
    return SERVERD_OK;
}

/* The site's groups of ranks first .. first + n - 1 for entries begin .. end - 1 of the list. */
static void run_down(const struct cpu_step *step, uint32_t node, const struct cpu_low_rank *site,
                     const struct row_list *list, uint32_t begin, uint32_t end, uint32_t first,
                     uint32_t n)
{
    const serverd_graph *graph = step->graph;
    const float *x = cpu_value(step, graph->operands[graph->nodes[node].first_operand]);
    const float *from[ROWS_AT_ONCE];
    float *to[ROWS_AT_ONCE];
    for (uint32_t at = begin; at < end; at += ROWS_AT_ONCE) {
        uint32_t n_rows = (uint32_t)min_size(ROWS_AT_ONCE, end - at);
        for (uint32_t i = 0; i < n_rows; i++) {
            size_t row = list->row[at + i];
            from[i] = x + row * site->n_in;
            to[i] = sums_of(step->handle->adapters, node, row);
        }
        for (uint32_t group = first; group < first + n; group++)
            step->kernels->adapter_down(site, group, from, to, n_rows);
    }
}

static uint32_t n_rank_groups(const struct cpu_low_rank *site)
{
    return (site->rank + CPU_ADAPTER_RANKS - 1) / CPU_ADAPTER_RANKS;
}

struct down_job {
    const struct cpu_step *step;
    const struct down_part *parts;
    uint32_t n_parts;
};

/* Units first .. first + n - 1 of all parts. */
static void down_units(const void *arg, size_t first, size_t n, uint32_t worker)
{
    (void)worker;
    const struct down_job *job = arg;
    size_t end = first + n;
    for (uint32_t i = 0; i < job->n_parts; i++) {
        const struct down_part *part = &job->parts[i];
        const struct cpu_low_rank *site =
            site_at(job->step->handle->adapters, part->group->slot, part->node);
        size_t begin = max_size(first, part->first_unit);
        size_t stop = min_size(end, part->first_unit + n_rank_groups(site));
        if (begin < stop)
            run_down(job->step, part->node, site, part->list, part->group->first,
                     part->group->first + part->group->n, (uint32_t)(begin - part->first_unit),
                     (uint32_t)(stop - begin));
    }
}

void cpu_adapters_down(const struct cpu_step *step, const struct cpu_phase *phase)
{
    struct cpu_adapters *adapters = step->handle->adapters;
    if (!adapters || !adapters->is_used)
        return;
    size_t n_units = 0, work = 1;
    struct down_job job = {.step = step, .parts = adapters->parts};
    for (uint32_t i = 0; i < phase->n_actions; i++) {
        uint32_t node = step->handle->actions[phase->first_action + i].index;
        const struct row_list *list = rows_list(step, node);
        for (uint32_t g = 0; g < list->n_groups; g++) {
            const struct cpu_low_rank *site = site_at(adapters, list->groups[g].slot, node);
            if (!site->a)
                continue;
            adapters->parts[job.n_parts++] = (struct down_part){
                .node = node, .list = list, .group = &list->groups[g], .first_unit = n_units};
            n_units += n_rank_groups(site);
            work = max_size(work, CPU_ADAPTER_RANKS * site->n_in * list->groups[g].n);
        }
    }
    if (n_units > 0)
        cpu_split(step, n_units, max_size(1, GRAIN / work), down_units, &job);
}

/* The first entry of the group whose row is not below `row`. */
static uint32_t find_row(const struct row_list *list, const struct row_group *group, size_t row)
{
    uint32_t low = group->first, high = group->first + group->n;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (list->row[middle] < row)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void cpu_adapter_down_rows(const struct cpu_step *step, uint32_t node, size_t first, size_t n)
{
    const struct cpu_adapters *adapters = step->handle->adapters;
    if (!adapters || !adapters->is_used)
        return;
    const struct row_list *list = rows_list(step, node);
    for (uint32_t g = 0; g < list->n_groups; g++) {
        const struct row_group *group = &list->groups[g];
        const struct cpu_low_rank *site = site_at(adapters, group->slot, node);
        if (site->a)
            run_down(step, node, site, list, find_row(list, group, first),
                     find_row(list, group, first + n), 0, n_rank_groups(site));
    }
}

/* Entries begin .. end - 1 of the list, which have the site's adapter. */
static void run_up(const struct cpu_step *step, const struct cpu_linear_call *call,
                   const struct cpu_low_rank *site, const struct row_list *list, uint32_t begin,
                   uint32_t end, size_t first_block, size_t n_blocks)
{
    const float *sums[ROWS_AT_ONCE];
    float factor[ROWS_AT_ONCE], *out[ROWS_AT_ONCE];
    for (uint32_t at = begin; at < end; at += ROWS_AT_ONCE) {
        uint32_t n_rows = (uint32_t)min_size(ROWS_AT_ONCE, end - at);
        for (uint32_t i = 0; i < n_rows; i++) {
            size_t row = list->row[at + i];
            sums[i] = sums_of(step->handle->adapters, call->node, row);
            factor[i] = site->scale * list->scale[at + i];
            out[i] = call->linear.out + (row - call->first_row) * call->linear.out_stride;
        }
        step->kernels->adapter_up(site, first_block, n_blocks, sums, factor, out, n_rows);
    }
}

bool cpu_has_adapters(const struct cpu_step *step, const struct cpu_linear_call *call)
{
    const struct cpu_adapters *adapters = step->handle->adapters;
    if (!adapters || !adapters->is_used)
        return false;
    const struct row_list *list = rows_list(step, call->node);
    size_t end = call->first_row + call->linear.n_rows;
    for (uint32_t g = 0; g < list->n_groups; g++) {
        const struct row_group *group = &list->groups[g];
        if (site_at(adapters, group->slot, call->node)->a &&
            find_row(list, group, call->first_row) < find_row(list, group, end))
            return true;
    }
    return false;
}

/* The residual, as the kernel would have added it: to every row, last. */
static void add_residual(const struct cpu_step *step, const struct cpu_linear *linear,
                         size_t first_block, size_t n_blocks)
{
    size_t first = first_block * PACKED_COLUMNS;
    size_t n = min_size(n_blocks * PACKED_COLUMNS, linear->n_out - first);
    for (size_t row = 0; row < linear->n_rows; row++) {
        float *out = linear->out + row * linear->out_stride + first;
        step->kernels->add(out, linear->added + row * linear->out_stride + first, out, n);
    }
}

void cpu_adapter_up(const struct cpu_step *step, const struct cpu_linear_call *call,
                    size_t first_block, size_t n_blocks)
{
    const struct cpu_adapters *adapters = step->handle->adapters;
    const struct row_list *list = rows_list(step, call->node);
    size_t end_row = call->first_row + call->linear.n_rows;
    for (uint32_t g = 0; g < list->n_groups; g++) {
        const struct row_group *group = &list->groups[g];
        const struct cpu_low_rank *site = site_at(adapters, group->slot, call->node);
        if (site->a)
            run_up(step, call, site, list, find_row(list, group, call->first_row),
                   find_row(list, group, end_row), first_block, n_blocks);
    }
    if (call->linear.added)
        add_residual(step, &call->linear, first_block, n_blocks);
}
