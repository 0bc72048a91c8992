#include "scheduler/cost.h"

#include <math.h>

/* A step that is that many steps old counts e times less. */
#define MEMORY_STEPS 16.0

/* Below that share of a full matrix both unknowns are not told apart, and one stands for both. */
#define LEAST_SPREAD 1e-4

static void fit_learn(struct plane_fit *fit, double u, double v, double y)
{
    const double keep = 1.0 - 1.0 / MEMORY_STEPS;
    fit->uu = keep * fit->uu + u * u;
    fit->uv = keep * fit->uv + u * v;
    fit->vv = keep * fit->vv + v * v;
    fit->uy = keep * fit->uy + u * y;
    fit->vy = keep * fit->vy + v * y;
}

/* Neither is below 0. If one explains everything, or all steps were alike, it is u. */
static void fit_solve(const struct plane_fit *fit, double *a, double *b)
{
    *a = fit->uu > 0 ? fmax(fit->uy, 0) / fit->uu : 0;
    *b = 0;
    double determinant = fit->uu * fit->vv - fit->uv * fit->uv;
    if (determinant <= LEAST_SPREAD * fit->uu * fit->vv)
        return;
    double both_a = (fit->uy * fit->vv - fit->vy * fit->uv) / determinant;
    double both_b = (fit->vy * fit->uu - fit->uy * fit->uv) / determinant;
    if (both_b < 0)
        return;
    *a = fmax(both_a, 0);
    *b = both_a < 0 ? fmax(fit->vy, 0) / fit->vv : both_b;
}

double cost_of_decode(const struct step_cost *cost, uint32_t n_decode)
{
    double base, per_sequence;
    fit_solve(&cost->decode, &base, &per_sequence);
    return base + per_sequence * n_decode;
}

double cost_of_prefill_row(const struct step_cost *cost)
{
    double per_row, per_pair;
    fit_solve(&cost->prefill, &per_row, &per_pair);
    return per_row;
}

double cost_of_prefill(const struct step_cost *cost, uint32_t n_rows, uint32_t n_before)
{
    double per_row, per_pair;
    fit_solve(&cost->prefill, &per_row, &per_pair);
    return n_rows * (per_row + per_pair * (n_before + n_rows / 2.0));
}

void cost_learn(struct step_cost *cost, const struct step_work *work, double seconds)
{
    if (work->n_prefill == 0) {
        if (work->n_decode > 0)
            fit_learn(&cost->decode, 1.0, work->n_decode, seconds);
        return;
    }
    double left = seconds - (work->n_decode > 0 ? cost_of_decode(cost, work->n_decode) : 0);
    if (left > 0)
        fit_learn(&cost->prefill, work->n_prefill, work->prefill_context, left);
}

uint32_t cost_prefill_rows(const struct step_cost *cost, double seconds, uint32_t n_before,
                           uint32_t most)
{
    double per_row, per_pair;
    fit_solve(&cost->prefill, &per_row, &per_pair);
    if (per_row <= 0 && per_pair <= 0)
        return most;
    if (seconds <= 0)
        return 0;
    /* row i attends to n_before + i tokens: per_pair / 2 n^2 + (per_row + per_pair n_before) n */
    double linear = per_row + per_pair * n_before, square = per_pair / 2;
    double n = square > 0 ? 2 * seconds / (linear + sqrt(linear * linear + 4 * square * seconds))
                          : seconds / linear;
    return n < most ? (uint32_t)n : most;
}
