/* Many rows: instead of sharing the columns of each linear layer, workers share the rows. A block
 * of rows goes through all phases of a stage on one worker, which finds in its own caches what it
 * has just written; only keys and values pass from one processor to another, and there is one
 * barrier for a layer (an encoder's has two). Each worker reads all weights, which is little beside
 * the arithmetic on so many rows. */
#include "base/numeric.h"
#include "kernels/cpu/cpu_internal.h"
#include "program/op.h"

/* Rows of a block: enough of them share the weights that are taken apart; few enough that their
 * activations stay in the second cache, and that a thread that is held up delays the others
 * little. */
#define MIN_ROWS 64
#define MAX_ROWS 192

/* Columns that a gated activation takes at a time: one span of its quantised form. */
#define GATED_COLUMNS CPU_SPAN

struct stage_job {
    const struct cpu_step *step;
    uint32_t first_phase, n_phases;
    size_t n_rows, rows_per_block;
    uint32_t n_blocks;
};

/* act(gate) * up of the two linear layers of a phase, and quantising it, as the next phase. */
struct gated {
    const serverd_node *gate, *up, *glu;
    uint32_t value;
};

static bool find_gated(const struct cpu_step *step, const struct cpu_phase *linears,
                       const struct cpu_phase *rows, struct gated *out)
{
    const serverd_graph *graph = step->graph;
    const struct cpu_action *a = step->handle->actions + linears->first_action;
    const struct cpu_action *b = step->handle->actions + rows->first_action;
    if (linears->kind != PHASE_LINEAR || rows->kind != PHASE_ROWS || linears->n_actions != 2 ||
        rows->n_actions != 2 || b[0].kind != ACTION_NODE || b[1].kind != ACTION_QUANTISE)
        return false;
    *out = (struct gated){.glu = &graph->nodes[b[0].index], .value = b[1].index};
    if (out->glu->op != SERVERD_OP_GLU ||
        graph->operands[out->glu->first_operand + 2] != out->value)
        return false;
    for (uint32_t i = 0; i < 2; i++) {
        const serverd_node *node = &graph->nodes[a[i].index];
        uint32_t made = graph->operands[node->first_operand + node->n_inputs];
        if (made == graph->operands[out->glu->first_operand])
            out->gate = node;
        if (made == graph->operands[out->glu->first_operand + 1])
            out->up = node;
    }
    return out->gate && out->up;
}

static void run_gated(const struct cpu_step *step, const struct gated *gated, size_t first,
                      size_t n, uint32_t worker)
{
    struct cpu_linear_call gate, up;
    cpu_bind_linear(step, gated->gate, first, n, worker, &gate);
    cpu_bind_linear(step, gated->up, first, n, worker, &up);
    cpu_adapter_down_rows(step, gate.node, first, n);
    cpu_adapter_down_rows(step, up.node, first, n);
    size_t width = gate.linear.n_out;
    float *out = cpu_value(step, gated->value) + first * width;
    struct cpu_laps laps;
    cpu_laps_start(step, worker, &laps);
    struct cpu_rows to = cpu_quantised(step->handle, gated->value);
    for (size_t at = 0; at < width; at += GATED_COLUMNS) {
        size_t columns = min_size(GATED_COLUMNS, width - at);
        size_t blocks = (columns + PACKED_COLUMNS - 1) / PACKED_COLUMNS;
        cpu_run_linear(step, &gate, at / PACKED_COLUMNS, blocks);
        cpu_laps_add(step, &laps, 0);
        cpu_run_linear(step, &up, at / PACKED_COLUMNS, blocks);
        cpu_laps_add(step, &laps, 1);
        for (size_t row = 0; row < n; row++) {
            float *x = out + row * width + at;
            step->kernels->activate(gated->glu->attributes.activation,
                                    gate.linear.out + row * width + at,
                                    up.linear.out + row * width + at, x, columns);
            step->kernels->quantise(x, columns, &to, first + row);
        }
        to.spans += to.n_max;
        cpu_laps_add(step, &laps, 2);
    }
    const serverd_node *told[] = {gated->gate, gated->up, gated->glu};
    for (uint32_t i = 0; i < 3; i++)
        cpu_laps_tell(step, &laps, i, worker, (uint32_t)(told[i] - step->graph->nodes), n);
}

static void run_linears(const struct cpu_step *step, const struct cpu_phase *phase, size_t first,
                        size_t n, uint32_t worker)
{
    for (uint32_t i = 0; i < phase->n_actions; i++) {
        struct cpu_linear_call call;
        uint32_t index = step->handle->actions[phase->first_action + i].index;
        cpu_bind_linear(step, &step->graph->nodes[index], first, n, worker, &call);
        cpu_adapter_down_rows(step, index, first, n);
        cpu_run_linear(step, &call, 0, (call.linear.n_out + PACKED_COLUMNS - 1) / PACKED_COLUMNS);
        cpu_watch_node(step, worker, index, n);
    }
}

static void run_block(void *arg, uint32_t chunk, uint32_t worker)
{
    const struct stage_job *job = arg;
    const struct cpu_step *step = job->step;
    const struct cpu_phase *phases = step->handle->phases + job->first_phase;
    /* the longest contexts stand last in a prompt: they begin first */
    size_t first = (job->n_blocks - 1 - chunk) * job->rows_per_block;
    size_t n = min_size(job->rows_per_block, job->n_rows - first);
    for (uint32_t i = 0; i < job->n_phases; i++) {
        struct gated gated;
        cpu_watch_start(step, worker);
        if (i + 1 < job->n_phases && find_gated(step, &phases[i], &phases[i + 1], &gated)) {
            run_gated(step, &gated, first, n, worker);
            i++;
        } else if (phases[i].kind == PHASE_LINEAR) {
            run_linears(step, &phases[i], first, n, worker);
        } else if (phases[i].kind == PHASE_ATTENTION) {
            cpu_attend_rows(step, &phases[i], first, n, worker);
        } else {
            cpu_run_actions(step, &phases[i], first, n, worker);
        }
    }
}

bool cpu_run_stage(const struct cpu_step *step, uint32_t first_phase, uint32_t n_phases)
{
    const struct cpu_phase *phase = &step->handle->phases[first_phase];
    size_t n_rows = cpu_rows_of(step, phase->rows), n_workers = step->host->n_workers;
    if (phase->rows != SERVERD_DIM_ROWS || n_rows < n_workers * MIN_ROWS)
        return false;
    size_t rounds = (n_rows + n_workers * MAX_ROWS - 1) / (n_workers * MAX_ROWS);
    size_t rows = (n_rows + rounds * n_workers - 1) / (rounds * n_workers);
    size_t tile = step->kernels->tile_rows;
    struct stage_job job = {.step = step,
                            .first_phase = first_phase,
                            .n_phases = n_phases,
                            .n_rows = n_rows,
                            .rows_per_block = (rows + tile - 1) / tile * tile};
    job.n_blocks = (uint32_t)((n_rows + job.rows_per_block - 1) / job.rows_per_block);
    step->host->parallel_for(step->host->context, job.n_blocks, run_block, &job);
    return true;
}
