/* Times for the host's traces. */
#include "base/numeric.h"
#include "kernels/cpu/cpu_internal.h"

static uint64_t now_ns(const struct cpu_step *step)
{
    return step->host->now_ns(step->host->context);
}

/* A linear layer that writes a sum is two nodes, if the addition follows it. */
static uint32_t count_nodes(const struct cpu_step *step, uint32_t node)
{
    return step->handle->addition[node] == node + 1 ? 2 : 1;
}

static void tell(const struct cpu_step *step, uint32_t worker, uint32_t node, size_t n_rows,
                 uint64_t start_ns, uint64_t end_ns)
{
    const serverd_trace_event event = {.start_ns = start_ns,
                                       .end_ns = end_ns,
                                       .first_node = node,
                                       .n_nodes = count_nodes(step, node),
                                       .worker = worker,
                                       .n_rows = (uint32_t)n_rows};
    step->host->trace(step->host->context, &event);
}

/* Tells the columns that wait for it. */
static void settle(const struct cpu_step *step, uint32_t worker, uint64_t at_ns)
{
    struct cpu_watch *watch = &step->handle->watches[worker];
    if (watch->node != CPU_NO_NODE)
        tell(step, worker, watch->node, watch->n_rows, watch->start_ns,
             watch->is_read ? watch->at_ns : at_ns);
    watch->node = CPU_NO_NODE;
}

void cpu_watch_start(const struct cpu_step *step, uint32_t worker)
{
    if (!step->host->trace)
        return;
    struct cpu_watch *watch = &step->handle->watches[worker];
    uint64_t at_ns = now_ns(step);
    settle(step, worker, at_ns);
    watch->at_ns = at_ns;
    watch->phase = step->phase;
}

void cpu_watch_resume(const struct cpu_step *step, uint32_t worker)
{
    if (step->host->trace && step->handle->watches[worker].phase != step->phase)
        cpu_watch_start(step, worker);
}

void cpu_watch_node(const struct cpu_step *step, uint32_t worker, uint32_t node, size_t n_rows)
{
    if (!step->host->trace)
        return;
    struct cpu_watch *watch = &step->handle->watches[worker];
    uint64_t end_ns = now_ns(step);
    tell(step, worker, node, n_rows, watch->at_ns, end_ns);
    watch->at_ns = end_ns;
}

void cpu_columns_begin(const struct cpu_step *step, uint32_t worker, uint32_t node)
{
    if (!step->host->trace)
        return;
    struct cpu_watch *watch = &step->handle->watches[worker];
    bool is_same_phase = watch->phase == step->phase;
    if (is_same_phase && watch->node == node)
        return;
    if (is_same_phase && watch->is_read)
        settle(step, worker, watch->at_ns);
    else
        cpu_watch_start(step, worker);
    watch->node = node;
    watch->start_ns = watch->at_ns;
}

void cpu_columns_end(const struct cpu_step *step, uint32_t worker, size_t n_rows, bool goes_on)
{
    if (!step->host->trace)
        return;
    struct cpu_watch *watch = &step->handle->watches[worker];
    watch->n_rows = (uint32_t)n_rows;
    watch->is_read = !goes_on;
    if (!goes_on)
        watch->at_ns = now_ns(step);
}

void cpu_watch_end(const struct cpu_step *step)
{
    if (!step->host->trace)
        return;
    uint64_t at_ns = now_ns(step);
    for (uint32_t w = 0; w < step->host->n_workers; w++)
        settle(step, w, at_ns);
}

void cpu_laps_start(const struct cpu_step *step, uint32_t worker, struct cpu_laps *laps)
{
    if (!step->host->trace)
        return;
    *laps = (struct cpu_laps){.begin_ns = now_ns(step)};
    laps->at_ns = laps->begin_ns;
    settle(step, worker, laps->begin_ns);
}

void cpu_laps_add(const struct cpu_step *step, struct cpu_laps *laps, uint32_t lap)
{
    if (!step->host->trace)
        return;
    uint64_t at_ns = now_ns(step);
    laps->ns[min_size(lap, CPU_LAPS - 1)] += at_ns - laps->at_ns;
    laps->at_ns = at_ns;
}

void cpu_laps_tell(const struct cpu_step *step, struct cpu_laps *laps, uint32_t lap,
                   uint32_t worker, uint32_t node, size_t n_rows)
{
    if (!step->host->trace || lap >= CPU_LAPS)
        return;
    uint64_t begin_ns = laps->begin_ns;
    laps->begin_ns += laps->ns[lap];
    tell(step, worker, node, n_rows, begin_ns, laps->begin_ns);
}
