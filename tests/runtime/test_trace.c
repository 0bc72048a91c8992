/* Rings of events, and what the CPU back-end tells of the steps of a small model. */
#include "runtime/trace.h"

#include "base/clock.h"
#include "base/limits.h"
#include "kernels/builtin.h"
#include "program/dtype.h"
#include "runtime/runtime.h"
#include "support/synthetic_program.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_ROWS = 300, CONTEXT = 512, MAX_PAGES = CONTEXT / SERVERD_PAGE_TOKENS, SEQS = 4 };

static serverd_error err;
static struct worker_pool *pool;

/* A clock that counts who looks. */
static _Atomic uint64_t n_looks;

static uint64_t counted_now_ns(void *context)
{
    (void)context;
    n_looks++;
    return clock_now_ns(&system_clock);
}

static const struct clock counting_clock = {.now_ns = counted_now_ns};

static int set_up(void **state)
{
    (void)state;
    return worker_pool_create(2, &pool, &err) == SERVERD_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    worker_pool_destroy(pool);
    return 0;
}

/* ---- a model --------------------------------------------------------------------------------- */

struct bench {
    struct program *program;
    struct runtime *runtime;
    struct trace *trace;
    float *out;
};

static struct bench open_bench(const char *arch, const char *device, uint32_t n_events)
{
    struct bench bench = {.program = synthetic_program(arch, "Q8_0")};
    const struct runtime_options options = {.delegates = builtin_delegates,
                                            .n_delegates = n_builtin_delegates,
                                            .device = device,
                                            .pool = pool,
                                            .clock = &counting_clock,
                                            .limits = {.struct_bytes = sizeof(serverd_limits),
                                                       .max_rows = MAX_ROWS,
                                                       .max_logit_rows = SEQS,
                                                       .max_seqs = SEQS,
                                                       .max_context = CONTEXT},
                                            .kv_dtype = DTYPE_BF16};
    if (runtime_open(bench.program, &options, &bench.runtime, &err) ||
        runtime_create_trace(bench.runtime, n_events, 20, &bench.trace, &err))
        fail_msg("%s", err.text);
    bench.out = calloc((size_t)SEQS * runtime_output_width(bench.runtime), sizeof *bench.out);
    assert_non_null(bench.out);
    return bench;
}

static void close_bench(struct bench *bench)
{
    runtime_close(bench->runtime);
    trace_destroy(bench->trace);
    program_unref(bench->program);
    free(bench->out);
}

/* n rows of each of n_seqs sequences, from `begin` on. */
static void step(const struct bench *bench, uint32_t n_seqs, uint32_t begin, uint32_t n)
{
    static int32_t token[MAX_ROWS], position[MAX_ROWS];
    static uint32_t row_seq[MAX_ROWS], pages[SEQS * MAX_PAGES], logit_row[SEQS];
    bool is_encoder = bench->program->config.is_encoder;
    for (uint32_t s = 0; s < n_seqs; s++) {
        for (uint32_t i = 0; i < n; i++) {
            token[s * n + i] = (int32_t)((begin + i * 7 + s) % 50);
            position[s * n + i] = (int32_t)(begin + i);
            row_seq[s * n + i] = s;
        }
        for (uint32_t p = 0; p < MAX_PAGES; p++)
            pages[s * MAX_PAGES + p] = s * MAX_PAGES + p;
        logit_row[s] = s * n + n - 1;
    }
    const serverd_batch batch = {.struct_bytes = sizeof batch,
                                 .n_rows = n_seqs * n,
                                 .n_seqs = n_seqs,
                                 .n_logit_rows = is_encoder ? 0 : n_seqs,
                                 .token = token,
                                 .position = position,
                                 .row_seq = row_seq,
                                 .page_table = is_encoder ? NULL : pages,
                                 .max_pages = is_encoder ? 0 : MAX_PAGES,
                                 .logit_row = logit_row};
    if (runtime_execute(bench->runtime, &batch, bench->out, &err))
        fail_msg("%s", err.text);
}

static const struct trace_step *step_of(const struct trace *trace, const struct trace_event *event)
{
    for (uint32_t i = 0; i < trace_n_steps(trace); i++)
        if (trace_step_at(trace, i)->step == event->step)
            return trace_step_at(trace, i);
    return NULL;
}

/* Every worker's events stand in order, within their steps, and none lies over another. */
static void check_events(const struct trace *trace)
{
    const serverd_graph *graph = trace_graph(trace);
    for (uint32_t w = 0; w < trace_n_workers(trace); w++) {
        uint64_t at_ns = 0;
        for (uint32_t i = 0; i < trace_n_events(trace, w); i++) {
            const struct trace_event *event = trace_event_at(trace, w, i);
            const struct trace_step *of = step_of(trace, event);
            assert_non_null(of);
            assert_true(event->start_ns >= at_ns && event->start_ns >= of->begin_ns);
            at_ns = event->start_ns + event->duration_ns;
            assert_true(at_ns <= of->end_ns);
            assert_int_equal(event->worker, w);
            assert_true(event->n_nodes > 0 && event->n_rows > 0 && event->n_rows <= of->n_rows);
            assert_true(event->first_node + event->n_nodes <= graph->n_nodes);
            assert_string_equal(trace_device(trace, event->partition), "cpu");
        }
    }
}

/* Each node is in the last step's events; but additions that linear layers write may be theirs. */
static void check_nodes(const struct trace *trace)
{
    const serverd_graph *graph = trace_graph(trace);
    const struct trace_step *last = trace_step_at(trace, trace_n_steps(trace) - 1);
    for (uint32_t n = 0; n < graph->n_nodes; n++) {
        bool is_there = false;
        for (uint32_t w = 0; w < trace_n_workers(trace); w++)
            for (uint32_t i = 0; i < trace_n_events(trace, w); i++) {
                const struct trace_event *event = trace_event_at(trace, w, i);
                is_there |= event->step == last->step && n >= event->first_node &&
                            n - event->first_node < event->n_nodes;
            }
        if (!is_there && graph->nodes[n].op != SERVERD_OP_ADD)
            fail_msg("node %u, op %u is in no event", n, graph->nodes[n].op);
    }
}

/* Of the caller's time in the step that it explains best. */
static double best_cover(const struct trace *trace)
{
    double best = 0;
    for (uint32_t s = 0; s < trace_n_steps(trace); s++) {
        const struct trace_step *of = trace_step_at(trace, s);
        double sum = 0;
        for (uint32_t i = 0; i < trace_n_events(trace, 0); i++)
            if (trace_event_at(trace, 0, i)->step == of->step)
                sum += trace_event_at(trace, 0, i)->duration_ns;
        double share = sum / (double)(of->end_ns - of->begin_ns);
        best = share > best ? share : best;
    }
    return best;
}

static void a_step_is_told_node_by_node(void **state)
{
    (void)state;
    static const char *const archs[] = {"llama", "gemma3", "qwen2", "bert"};
    for (size_t a = 0; a < sizeof archs / sizeof *archs; a++) {
        struct bench bench = open_bench(archs[a], "cpu", LIMIT_TRACE_ALL_EVENTS);
        runtime_set_trace(bench.runtime, bench.trace);
        step(&bench, 1, 0, MAX_ROWS); /* blocks of rows */
        check_events(bench.trace);
        check_nodes(bench.trace);
        step(&bench, SEQS, 0, 20);
        check_events(bench.trace);
        check_nodes(bench.trace);
        if (!bench.program->config.is_encoder)
            step(&bench, 1, MAX_ROWS, 1);
        step(&bench, SEQS, 20, 1);
        check_events(bench.trace);
        check_nodes(bench.trace);
        assert_int_equal(trace_n_lost(bench.trace), 0);
        assert_int_equal(trace_first_whole_step(bench.trace), 0);
        close_bench(&bench);
    }
}

static void the_events_of_one_worker_are_its_time(void **state)
{
    (void)state;
    struct worker_pool *two = pool;
    assert_int_equal(worker_pool_create(1, &pool, &err), SERVERD_OK);
    struct bench bench = open_bench("llama", "cpu", LIMIT_TRACE_ALL_EVENTS);
    runtime_set_trace(bench.runtime, bench.trace);
    for (int i = 0; i < 12; i++)
        step(&bench, 1, 0, MAX_ROWS);
    check_events(bench.trace);
    assert_true(best_cover(bench.trace) >= 0.97);
    close_bench(&bench);
    worker_pool_destroy(pool);
    pool = two;
}

static void without_a_trace_nobody_looks_at_the_clock(void **state)
{
    (void)state;
    struct bench bench = open_bench("llama", "cpu", 4096);
    size_t bytes = SEQS * runtime_output_width(bench.runtime) * sizeof(float);
    step(&bench, SEQS, 0, 20);
    float *before = malloc(bytes);
    assert_non_null(before);
    memcpy(before, bench.out, bytes);
    for (int round = 0; round < 3; round++) {
        uint64_t n = n_looks;
        step(&bench, SEQS, 0, 20);
        step(&bench, 1, 0, MAX_ROWS);
        assert_int_equal(n_looks, n);
        runtime_set_trace(bench.runtime, bench.trace);
        step(&bench, SEQS, 0, 20);
        assert_true(n_looks > n);
        assert_memory_equal(bench.out, before, bytes); /* and it changes nothing */
        runtime_set_trace(bench.runtime, NULL);
        assert_int_equal(trace_n_steps(bench.trace), round + 1);
    }
    free(before);
    close_bench(&bench);
}

static void a_silent_delegate_is_one_event(void **state)
{
    (void)state;
    struct bench bench = open_bench("llama", "null", 64);
    runtime_set_trace(bench.runtime, bench.trace);
    step(&bench, 2, 0, 5);
    assert_int_equal(trace_n_events(bench.trace, 0), 1);
    const struct trace_event *event = trace_event_at(bench.trace, 0, 0);
    assert_int_equal(event->first_node, 0);
    assert_int_equal(event->n_nodes, bench.program->graph.n_nodes);
    assert_int_equal(event->n_rows, 10);
    assert_string_equal(trace_device(bench.trace, event->partition), "null");
    close_bench(&bench);
}

/* ---- rings ----------------------------------------------------------------------------------- */

static serverd_trace_event event_at(uint64_t start_ns, uint32_t node, uint32_t worker,
                                    uint32_t rows)
{
    return (serverd_trace_event){.start_ns = start_ns,
                                 .end_ns = start_ns + 10,
                                 .first_node = node,
                                 .n_nodes = 1,
                                 .worker = worker,
                                 .n_rows = rows};
}

static void begin(struct trace *trace, uint32_t n_rows, int32_t position)
{
    int32_t positions[8];
    uint32_t seqs[8] = {0};
    for (uint32_t i = 0; i < n_rows; i++)
        positions[i] = position + (int32_t)i;
    const serverd_batch batch = {.struct_bytes = sizeof batch,
                                 .n_rows = n_rows,
                                 .n_seqs = 1,
                                 .position = positions,
                                 .row_seq = seqs};
    trace_begin_step(trace, &batch);
    trace_begin_partition(trace, 0);
}

static void full_rings_lose_their_oldest_events(void **state)
{
    (void)state;
    struct bench bench = open_bench("llama", "cpu", 2 * 64);
    struct trace *trace = bench.trace;
    const uint32_t per_step = 10, n_steps = 15;
    for (uint32_t s = 0; s < n_steps; s++) {
        begin(trace, 1, 0);
        for (uint32_t i = 0; i < per_step; i++) {
            const serverd_trace_event event = event_at(1000000 * s + 5000 * i, i, 1, 1);
            trace_add(trace, &event);
        }
        trace_end_partition(trace);
        trace_end_step(trace);
    }
    assert_int_equal(trace_n_events(trace, 0), 0);
    assert_int_equal(trace_n_events(trace, 1), 64);
    assert_int_equal(trace_n_lost(trace), n_steps * per_step - 64);
    uint64_t at_ns = 0;
    for (uint32_t i = 0; i < 64; i++) {
        const struct trace_event *event = trace_event_at(trace, 1, i);
        assert_true(i == 0 || event->start_ns > at_ns);
        assert_int_equal(event->step, (n_steps * per_step - 64 + i) / per_step);
        at_ns = event->start_ns;
    }
    /* the oldest step that is there is not whole */
    assert_int_equal(trace_first_whole_step(trace), (n_steps * per_step - 64) / per_step + 1);
    close_bench(&bench);
}

static void steps_give_way_to_later_ones(void **state)
{
    (void)state;
    struct bench bench = open_bench("llama", "cpu", 64);
    for (uint32_t s = 0; s < 33; s++) {
        begin(bench.trace, 1, 0);
        trace_end_step(bench.trace);
    }
    assert_int_equal(trace_n_steps(bench.trace), 20);
    for (uint32_t i = 0; i < 20; i++)
        assert_int_equal(trace_step_at(bench.trace, i)->step, 13 + i);
    close_bench(&bench);
}

static void pieces_of_all_rows_become_one(void **state)
{
    (void)state;
    struct bench bench = open_bench("llama", "cpu", 64);
    struct trace *trace = bench.trace;
    begin(trace, 4, 0);
    const serverd_trace_event events[] = {
        event_at(1000, 3, 0, 4), event_at(1020, 3, 0, 4),  /* goes on */
        event_at(1030, 4, 0, 4),                           /* another node */
        event_at(1040, 4, 0, 2), event_at(1050, 4, 0, 2),  /* other rows */
        event_at(9000, 5, 0, 4), event_at(19000, 5, 0, 4), /* something else was between them */
    };
    for (size_t i = 0; i < sizeof events / sizeof *events; i++)
        trace_add(trace, &events[i]);
    assert_int_equal(trace_n_events(trace, 0), 6);
    assert_int_equal(trace_event_at(trace, 0, 0)->duration_ns, 30);
    close_bench(&bench);
}

static void events_of_nobody_are_refused(void **state)
{
    (void)state;
    struct bench bench = open_bench("llama", "cpu", 64);
    uint32_t n_nodes = bench.program->graph.n_nodes;
    serverd_trace_event bad[4];
    for (size_t i = 0; i < 4; i++)
        bad[i] = event_at(1000, 0, 0, 1);
    bad[0].worker = 2;
    bad[1].first_node = n_nodes;
    bad[2].n_nodes = n_nodes + 1;
    bad[3].end_ns = 999;
    begin(bench.trace, 1, 0);
    for (size_t i = 0; i < 4; i++)
        trace_add(bench.trace, &bad[i]);
    assert_int_equal(trace_n_events(bench.trace, 0) + trace_n_events(bench.trace, 1), 0);
    assert_int_equal(trace_n_lost(bench.trace), 4);
    struct trace *none;
    struct trace_options options = {.graph = &bench.program->graph,
                                    .placement = runtime_placement(bench.runtime),
                                    .n_workers = 0,
                                    .n_events = 1,
                                    .clock = &system_clock};
    assert_int_equal(trace_create(&options, &none, &err), SERVERD_INVALID);
    options.n_workers = 1;
    options.n_events = LIMIT_TRACE_EVENTS + 1;
    assert_int_equal(trace_create(&options, &none, &err), SERVERD_INVALID);
    close_bench(&bench);
}

static void keys_are_counted_as_rows_see_them(void **state)
{
    (void)state;
    struct bench bench = open_bench("gemma3", "cpu", 64);
    const serverd_graph *graph = &bench.program->graph;
    struct trace_spans spans;
    trace_find_spans(graph, &spans);
    assert_int_equal(spans.n, 2);
    begin(bench.trace, 8, 30);
    const struct trace_step *of = trace_step_at(bench.trace, 0);
    for (uint32_t s = 0; s < spans.n; s++) {
        uint64_t sum = 0;
        for (uint32_t seen = 31; seen < 39; seen++)
            sum += spans.of[s].window && seen > spans.of[s].window ? spans.of[s].window : seen;
        assert_int_equal(of->n_keys[s], sum);
    }
    double macs = 0;
    for (uint32_t n = 0; n < graph->n_nodes; n++)
        macs += trace_node_macs(graph, n, &spans, of);
    assert_true(macs > 0);
    close_bench(&bench);
    bench = open_bench("bert", "cpu", 64);
    begin(bench.trace, 8, 0);
    assert_int_equal(trace_step_at(bench.trace, 0)->n_keys[0], 64);
    close_bench(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_is_told_node_by_node),
        cmocka_unit_test(the_events_of_one_worker_are_its_time),
        cmocka_unit_test(without_a_trace_nobody_looks_at_the_clock),
        cmocka_unit_test(a_silent_delegate_is_one_event),
        cmocka_unit_test(full_rings_lose_their_oldest_events),
        cmocka_unit_test(steps_give_way_to_later_ones),
        cmocka_unit_test(pieces_of_all_rows_become_one),
        cmocka_unit_test(events_of_nobody_are_refused),
        cmocka_unit_test(keys_are_counted_as_rows_see_them),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
