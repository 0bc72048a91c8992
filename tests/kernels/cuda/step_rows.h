/* The rows of a step on the device, for tests of kernels that read a batch. */
#ifndef TESTS_KERNELS_CUDA_STEP_ROWS_H
#define TESTS_KERNELS_CUDA_STEP_ROWS_H

#include "on_device.h"

enum { N_SEQS = 3, MAX_PAGES = 40, N_PAGES = N_SEQS * MAX_PAGES, MAX_ROWS = 384 };

/* Rows begin[s] .. end[s] - 1 of each sequence; pages lie in no order. */
struct rows {
    int32_t position[MAX_ROWS];
    uint32_t seq[MAX_ROWS], first[N_SEQS + 1], table[N_SEQS * MAX_PAGES];
    uint32_t n;
    struct gpu_batch batch;
};

static inline void make_rows(struct rows *rows, const uint32_t *begin, const uint32_t *end)
{
    rows->n = 0;
    for (uint32_t s = 0; s < N_SEQS; s++) {
        rows->first[s] = rows->n;
        for (uint32_t p = begin[s]; p < end[s]; p++, rows->n++) {
            rows->position[rows->n] = (int32_t)p;
            rows->seq[rows->n] = s;
        }
        for (uint32_t p = 0; p < MAX_PAGES; p++)
            rows->table[s * MAX_PAGES + p] = (p * N_SEQS + s) * 7 % N_PAGES;
    }
    rows->first[N_SEQS] = rows->n;
    rows->batch = (struct gpu_batch){
        .n_rows = rows->n,
        .n_seqs = N_SEQS,
        .max_pages = MAX_PAGES,
        .position = on_device(rows->position, sizeof rows->position),
        .row_seq = on_device(rows->seq, sizeof rows->seq),
        .first_row = on_device(rows->first, sizeof rows->first),
        .page_table = on_device(rows->table, sizeof rows->table),
    };
}

static inline void free_const(const void *there)
{
    void *memory;
    memcpy(&memory, &there, sizeof memory);
    gpu_free(gpu, memory);
}

static inline void free_rows(struct rows *rows)
{
    free_const(rows->batch.position);
    free_const(rows->batch.row_seq);
    free_const(rows->batch.first_row);
    free_const(rows->batch.page_table);
}

#endif
