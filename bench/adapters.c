/* What adapters cost: bench_adapters MODEL [N_ADAPTERS [RANK [all|qv [THREADS]]]]
 *
 * Decodes a batch of 16 sequences of a GGUF model, one step with an adapter for each sequence
 * (several sequences share one), the next without, in turn, so that whatever else the machine does
 * hits both. Prints the medians of the steps, their ratio, and how long it takes to put an adapter
 * into its slot. Numbers of the adapters are random and have all the bits of an f32. */
#include "base/clock.h"
#include "base/hash.h"
#include "program/adapter.h"
#include "program/op.h"
#include "tools/bench/model_driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { N_SEQS = 16, PROMPT = 32, N_STEPS = 120, CONTEXT = PROMPT + 2 * N_STEPS };

static void stop(const char *what)
{
    (void)fprintf(stderr, "bench_adapters: %s\n", what);
    exit(1);
}

static const float *random_floats(struct arena *arena, size_t n, uint64_t seed, float size)
{
    float *x = arena_array(arena, n, sizeof *x);
    if (!x)
        stop("no memory");
    for (size_t i = 0; i < n; i++)
        x[i] = size * ((float)(hash_mix(seed ^ i) >> 40) / 0x1p23f - 1.0f);
    return x;
}

static int compare_sites(const void *a, const void *b)
{
    const struct adapter_site *x = a, *y = b;
    return strcmp(x->tensor, y->tensor);
}

/* Of all linear layers in the model's layers, or of Q and V alone. */
static struct adapter *make_adapter(const struct program *base, uint32_t rank, bool is_qv,
                                    uint64_t seed)
{
    const serverd_graph *graph = &base->graph;
    struct adapter *adapter = adapter_create();
    struct adapter_site *sites =
        adapter ? arena_array(adapter->arena, graph->n_nodes, sizeof *sites) : NULL;
    serverd_error err;
    if (!sites)
        stop("no memory");
    for (uint32_t i = 0; i < graph->n_nodes; i++) {
        const serverd_node *node = &graph->nodes[i];
        if (node->op != SERVERD_OP_LINEAR || node->layer == UINT32_MAX)
            continue;
        const serverd_tensor *w = &graph->tensors[node_input(graph, node, 1)->tensor];
        if (is_qv && !strstr(w->name, "attn_q.") && !strstr(w->name, "attn_v."))
            continue;
        const uint32_t n_in = (uint32_t)w->dims[1], n_out = (uint32_t)w->dims[0];
        sites[adapter->n_sites++] = (struct adapter_site){
            .tensor = w->name,
            .rank = rank,
            .n_in = n_in,
            .n_out = n_out,
            .scale = 1,
            .a = random_floats(adapter->arena, (size_t)rank * n_in, seed * 1000 + i, 0.03f),
            .b = random_floats(adapter->arena, (size_t)rank * n_out, seed * 2000 + i, 0.001f)};
    }
    qsort(sites, adapter->n_sites, sizeof *sites, compare_sites);
    adapter->sites = sites;
    adapter->max_rank = rank;
    if (adapter_check(adapter, &err) != SERVERD_OK)
        stop(err.text);
    return adapter;
}

static double milliseconds_since(uint64_t begin_ns)
{
    return (double)(clock_now_ns(&system_clock) - begin_ns) * 1e-6;
}

static double cpu_milliseconds(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int compare_doubles(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static double median(double *x, size_t n)
{
    qsort(x, n, sizeof *x, compare_doubles);
    return x[n / 2];
}

int main(int argc, char **argv)
{
    static double with[N_STEPS], without[N_STEPS], cpu_with[N_STEPS], cpu_without[N_STEPS];
    uint32_t n_adapters = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 8;
    uint32_t rank = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) : 16;
    bool is_qv = argc > 4 && strcmp(argv[4], "qv") == 0;
    struct driver driver;
    serverd_error err;
    if (argc < 2 || n_adapters == 0 || n_adapters > N_SEQS || rank == 0)
        stop("MODEL [N_ADAPTERS [RANK [all|qv]]]");
    const struct driver_options options = {.path = argv[1],
                                           .device = "cpu",
                                           .threads =
                                               argc > 5 ? (uint32_t)strtoul(argv[5], NULL, 10) : 0,
                                           .max_rows = 512,
                                           .max_seqs = N_SEQS,
                                           .max_context = CONTEXT,
                                           .kv_dtype = 30,
                                           .max_adapters = n_adapters,
                                           .max_adapter_rank = rank};
    if (driver_open(&driver, &options, &err) != SERVERD_OK)
        stop(err.text);
    double load_ms = 0;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < n_adapters; i++) {
        struct adapter *adapter = make_adapter(driver.program, rank, is_qv, i + 1);
        uint64_t begin = clock_now_ns(&system_clock);
        if (runtime_adapter_set(driver.runtime, i, adapter, &err) != SERVERD_OK)
            stop(err.text);
        load_ms += milliseconds_since(begin) / n_adapters;
        bytes = arena_used(adapter->arena);
        adapter_destroy(adapter);
    }
    if (driver_prefill(&driver, N_SEQS, 0, PROMPT, 512, &err) != SERVERD_OK)
        stop(err.text);
    for (uint32_t i = 0; i < 2 * N_STEPS; i++) {
        driver.n_adapters = i % 2 ? 0 : n_adapters;
        double cpu = cpu_milliseconds();
        uint64_t begin = clock_now_ns(&system_clock);
        if (driver_decode(&driver, N_SEQS, PROMPT + i, &err) != SERVERD_OK)
            stop(err.text);
        (i % 2 ? without : with)[i / 2] = milliseconds_since(begin);
        (i % 2 ? cpu_without : cpu_with)[i / 2] = cpu_milliseconds() - cpu;
    }
    double a = median(with, N_STEPS), b = median(without, N_STEPS);
    (void)printf(
        "%u adapters of rank %u (%s, %.1f MB each) in a batch of %d: %.2f ms a step, %.2f "
        "without: %.1f %% of the throughput, %.1f %% by processor time; into a slot in %.1f "
        "ms\n",
        n_adapters, rank, is_qv ? "q, v" : "all linear layers", (double)bytes / 1e6, N_SEQS, a, b,
        100 * b / a, 100 * median(cpu_without, N_STEPS) / median(cpu_with, N_STEPS), load_ms);
    driver_close(&driver);
    return 0;
}
