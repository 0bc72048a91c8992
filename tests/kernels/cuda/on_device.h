/* What tests of kernels share: the device, arrays that go there and come back. For one file with a
 * main; all functions fail the test that runs. */
#ifndef TESTS_KERNELS_CUDA_ON_DEVICE_H
#define TESTS_KERNELS_CUDA_ON_DEVICE_H

#include "base/hash.h"
#include "base/numeric.h"
#include "kernels/cuda/kernels.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static serverd_error err;
static struct gpu *gpu;

static inline int open_gpu(void **state)
{
    char reason[128] = "";
    (void)state;
    if (gpu_count(reason, sizeof reason) == 0) {
        print_error("%s\n", reason);
        return -1;
    }
    if (gpu_open(0, &gpu, &err) != SERVERD_OK) {
        print_error("%s\n", err.text);
        return -1;
    }
    gpu_enter(gpu);
    return 0;
}

static inline int close_gpu(void **state)
{
    (void)state;
    gpu_close(gpu);
    return 0;
}

/* From -1 to 1. Free them. */
static inline float *random_floats(size_t n, uint64_t seed)
{
    float *x = malloc(n * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(int64_t)(hash_mix(seed * 1000003 + i) >> 40) / (float)(1 << 23) - 1.0f;
    return x;
}

/* As tensor cores read it. */
static inline float rounded(float x)
{
    return bf16_to_f32(f32_to_bf16(x));
}

/* A copy there, for gpu_free; `from` is no longer needed. */
static inline void *on_device(const void *from, size_t bytes)
{
    void *to = gpu_allocate(gpu, bytes);
    assert_non_null(to);
    gpu_from_host(gpu, to, from, bytes);
    assert_int_equal(gpu_wait(gpu, &err), SERVERD_OK);
    return to;
}

/* A copy here, for free. */
static inline void *from_device(const void *from, size_t bytes)
{
    void *to = malloc(bytes);
    assert_non_null(to);
    gpu_to_host(gpu, to, from, bytes);
    assert_int_equal(gpu_wait(gpu, &err), SERVERD_OK);
    return to;
}

#endif
