/* The device: over the CUDA runtime, and, emulated, in main memory with nothing left to wait for.
 */
#include "kernels/cuda/device.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __CUDACC__

static void note(struct gpu *gpu, cudaError_t error, const char *where)
{
    if (error == cudaSuccess || gpu->error)
        return;
    gpu->error = error;
    gpu->where = where;
}

/* ---- which there are ------------------------------------------------------------------------- */

extern "C" uint32_t gpu_count(char *reason, size_t reason_bytes)
{
    int n = 0;
    const cudaError_t error = cudaGetDeviceCount(&n);
    (void)cudaGetLastError();
    if (error == cudaSuccess && n > 0)
        return (uint32_t)n;
    if (error == cudaErrorInsufficientDriver) {
        int driver = 0;
        (void)cudaDriverGetVersion(&driver);
        if (driver == 0)
            snprintf(reason, reason_bytes, "no NVIDIA driver is installed (libcuda.so.1)");
        else
            snprintf(reason, reason_bytes,
                     "the NVIDIA driver is for CUDA %d.%d and too old; CUDA %d.%d is needed",
                     driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000,
                     CUDART_VERSION % 1000 / 10);
    } else {
        snprintf(reason, reason_bytes, "%s",
                 error == cudaSuccess ? "no NVIDIA device" : cudaGetErrorString(error));
    }
    return 0;
}

extern "C" bool gpu_describe(uint32_t ordinal, struct gpu_info *out)
{
    cudaDeviceProp properties;
    int memory_khz = 0, bus_bits = 0, clock_khz = 0;
    size_t n_free = 0, n_all = 0;
    *out = {};
    if (cudaGetDeviceProperties(&properties, (int)ordinal) != cudaSuccess ||
        cudaSetDevice((int)ordinal) != cudaSuccess || cudaMemGetInfo(&n_free, &n_all)) {
        (void)cudaGetLastError();
        return false;
    }
    (void)cudaDeviceGetAttribute(&memory_khz, cudaDevAttrMemoryClockRate, (int)ordinal);
    (void)cudaDeviceGetAttribute(&bus_bits, cudaDevAttrGlobalMemoryBusWidth, (int)ordinal);
    (void)cudaDeviceGetAttribute(&clock_khz, cudaDevAttrClockRate, (int)ordinal);
    snprintf(out->name, sizeof out->name, "%.40s, sm_%d%d", properties.name, properties.major,
             properties.minor);
    out->memory_bytes = n_all;
    out->free_bytes = n_free;
    out->bytes_per_second = 2e3 * memory_khz * bus_bits / 8; /* both edges of the clock */
    out->macs_per_second = 1e3 * clock_khz * properties.multiProcessorCount * 1024;
    return true;
}

/* ---- life ------------------------------------------------------------------------------------ */

extern "C" serverd_status gpu_open(uint32_t ordinal, struct gpu **out, serverd_error *err)
{
    struct gpu *gpu = (struct gpu *)calloc(1, sizeof *gpu);
    if (!gpu)
        return set_error(err, SERVERD_NOMEM, "opening a device", "no memory");
    gpu->ordinal = (int)ordinal;
    int n = 0, bytes = 0;
    cudaError_t error = cudaSetDevice(gpu->ordinal);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, gpu->ordinal);
    if (error == cudaSuccess)
        error =
            cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, gpu->ordinal);
    gpu->n_multiprocessors = (unsigned)n;
    gpu->block_bytes = (size_t)bytes;
    if (error == cudaSuccess)
        error = cudaStreamCreateWithFlags(&gpu->stream, cudaStreamNonBlocking);
    if (error == cudaSuccess)
        error = cudaEventCreateWithFlags(&gpu->mark, cudaEventDisableTiming);
    if (error != cudaSuccess) {
        (void)cudaGetLastError();
        if (gpu->stream)
            (void)cudaStreamDestroy(gpu->stream);
        free(gpu);
        return set_error(err, SERVERD_UNSUPPORTED, "opening a device", cudaGetErrorString(error));
    }
    *out = gpu;
    return SERVERD_OK;
}

extern "C" void gpu_close(struct gpu *gpu)
{
    if (!gpu)
        return;
    (void)cudaSetDevice(gpu->ordinal);
    (void)cudaEventDestroy(gpu->mark);
    (void)cudaStreamDestroy(gpu->stream);
    (void)cudaGetLastError();
    free(gpu);
}

extern "C" void gpu_enter(struct gpu *gpu)
{
    note(gpu, cudaSetDevice(gpu->ordinal), "choosing a device");
}

/* ---- memory ---------------------------------------------------------------------------------- */

extern "C" void *gpu_allocate(struct gpu *gpu, size_t bytes)
{
    void *memory = NULL;
    (void)cudaSetDevice(gpu->ordinal);
    if (cudaMalloc(&memory, bytes ? bytes : 1) == cudaSuccess)
        return memory;
    (void)cudaGetLastError();
    return NULL;
}

extern "C" void gpu_free(struct gpu *gpu, void *memory)
{
    (void)cudaSetDevice(gpu->ordinal);
    (void)cudaFree(memory);
    (void)cudaGetLastError();
}

extern "C" void *gpu_allocate_pinned(struct gpu *gpu, size_t bytes)
{
    void *memory = NULL;
    (void)cudaSetDevice(gpu->ordinal);
    if (cudaMallocHost(&memory, bytes ? bytes : 1) == cudaSuccess)
        return memory;
    (void)cudaGetLastError();
    return NULL;
}

extern "C" void gpu_free_pinned(struct gpu *gpu, void *memory)
{
    (void)cudaSetDevice(gpu->ordinal);
    (void)cudaFreeHost(memory);
    (void)cudaGetLastError();
}

extern "C" void gpu_zero(struct gpu *gpu, void *to, size_t bytes)
{
    note(gpu, cudaMemsetAsync(to, 0, bytes, gpu->stream), "zeroing memory");
}

extern "C" void gpu_copy(struct gpu *gpu, void *to, const void *from, size_t bytes)
{
    note(gpu, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, gpu->stream),
         "copying memory");
}

extern "C" void gpu_from_host(struct gpu *gpu, void *to, const void *from, size_t bytes)
{
    note(gpu, cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, gpu->stream),
         "copying to the device");
}

extern "C" void gpu_to_host(struct gpu *gpu, void *to, const void *from, size_t bytes)
{
    note(gpu, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, gpu->stream),
         "copying from the device");
}

/* The first one since the last wait. */
static serverd_status tell_error(const struct gpu *gpu, serverd_error *err)
{
    const cudaError_t error = (cudaError_t)gpu->error;
    if (error == cudaSuccess)
        return SERVERD_OK;
    /* Errors of running kernels stay: every later call has them, too. */
    const bool is_memory = error == cudaErrorMemoryAllocation;
    return set_error(err, is_memory ? SERVERD_NOMEM : SERVERD_DEVICE_LOST, gpu->where,
                     cudaGetErrorString(error));
}

extern "C" serverd_status gpu_wait(struct gpu *gpu, serverd_error *err)
{
    note(gpu, cudaStreamSynchronize(gpu->stream), "running a step");
    const serverd_status status = tell_error(gpu, err);
    gpu->error = 0;
    return status;
}

extern "C" void gpu_mark(struct gpu *gpu)
{
    note(gpu, cudaEventRecord(gpu->mark, gpu->stream), "marking a place");
}

extern "C" serverd_status gpu_wait_for_mark(struct gpu *gpu, serverd_error *err)
{
    note(gpu, cudaEventSynchronize(gpu->mark), "moving pages");
    return tell_error(gpu, err);
}

/* ---- graphs ---------------------------------------------------------------------------------- */

extern "C" bool gpu_record_begin(struct gpu *gpu)
{
    (void)cudaSetDevice(gpu->ordinal);
    const cudaError_t error = cudaStreamBeginCapture(gpu->stream, cudaStreamCaptureModeThreadLocal);
    (void)cudaGetLastError();
    return error == cudaSuccess;
}

extern "C" struct gpu_graph *gpu_record_end(struct gpu *gpu)
{
    cudaGraph_t recorded = NULL;
    cudaGraphExec_t graph = NULL;
    if (cudaStreamEndCapture(gpu->stream, &recorded) != cudaSuccess ||
        cudaGraphInstantiate(&graph, recorded, 0) != cudaSuccess)
        graph = NULL;
    if (recorded)
        (void)cudaGraphDestroy(recorded);
    (void)cudaGetLastError();
    return (struct gpu_graph *)graph;
}

extern "C" void gpu_graph_run(struct gpu *gpu, struct gpu_graph *graph)
{
    note(gpu, cudaGraphLaunch((cudaGraphExec_t)graph, gpu->stream), "launching a step");
}

extern "C" void gpu_graph_free(struct gpu *gpu, struct gpu_graph *graph)
{
    if (!graph)
        return;
    (void)cudaSetDevice(gpu->ordinal);
    (void)cudaGraphExecDestroy((cudaGraphExec_t)graph);
    (void)cudaGetLastError();
}

#else

enum { N_EMULATED = 4 };

/* Like sm_86 and sm_90: the least, and the most, that a block can have. */
static const size_t EMULATED_BLOCK_BYTES[N_EMULATED] = {99 * 1024, 227 * 1024, 99 * 1024,
                                                        227 * 1024};

extern "C" uint32_t gpu_count(char *reason, size_t reason_bytes)
{
    (void)reason, (void)reason_bytes;
    return N_EMULATED;
}

extern "C" bool gpu_describe(uint32_t ordinal, struct gpu_info *out)
{
    *out = {};
    snprintf(out->name, sizeof out->name, "emulated");
    out->memory_bytes = out->free_bytes = UINT64_C(1) << 30;
    out->bytes_per_second = out->macs_per_second = 1e6;
    return ordinal < N_EMULATED;
}

extern "C" serverd_status gpu_open(uint32_t ordinal, struct gpu **out, serverd_error *err)
{
    *out = (struct gpu *)calloc(1, sizeof **out);
    if (!*out || ordinal >= N_EMULATED)
        return set_error(err, SERVERD_NOMEM, "opening a device", "no memory");
    (*out)->n_multiprocessors = 1;
    (*out)->block_bytes = EMULATED_BLOCK_BYTES[ordinal];
    return SERVERD_OK;
}

extern "C" void gpu_close(struct gpu *gpu)
{
    free(gpu);
}

extern "C" void gpu_enter(struct gpu *gpu)
{
    (void)gpu;
}

/* With noise in it, as the device's has. */
extern "C" void *gpu_allocate(struct gpu *gpu, size_t bytes)
{
    (void)gpu;
    void *memory = NULL;
    if (posix_memalign(&memory, 256, bytes ? bytes : 1))
        return NULL;
    return memset(memory, 0xcd, bytes ? bytes : 1);
}

extern "C" void gpu_free(struct gpu *gpu, void *memory)
{
    (void)gpu;
    free(memory);
}

extern "C" void *gpu_allocate_pinned(struct gpu *gpu, size_t bytes)
{
    return gpu_allocate(gpu, bytes);
}

extern "C" void gpu_free_pinned(struct gpu *gpu, void *memory)
{
    gpu_free(gpu, memory);
}

extern "C" void gpu_zero(struct gpu *gpu, void *to, size_t bytes)
{
    (void)gpu;
    memset(to, 0, bytes);
}

extern "C" void gpu_copy(struct gpu *gpu, void *to, const void *from, size_t bytes)
{
    (void)gpu;
    memmove(to, from, bytes);
}

extern "C" void gpu_from_host(struct gpu *gpu, void *to, const void *from, size_t bytes)
{
    gpu_copy(gpu, to, from, bytes);
}

extern "C" void gpu_to_host(struct gpu *gpu, void *to, const void *from, size_t bytes)
{
    gpu_copy(gpu, to, from, bytes);
}

extern "C" serverd_status gpu_wait(struct gpu *gpu, serverd_error *err)
{
    (void)gpu, (void)err;
    return SERVERD_OK;
}

extern "C" void gpu_mark(struct gpu *gpu)
{
    (void)gpu;
}

extern "C" serverd_status gpu_wait_for_mark(struct gpu *gpu, serverd_error *err)
{
    return gpu_wait(gpu, err);
}

struct gpu_graph {
    std::vector<emulation::recorded_launch> launches;
};

extern "C" bool gpu_record_begin(struct gpu *gpu)
{
    (void)gpu;
    emulation::recording = new std::vector<emulation::recorded_launch>;
    return true;
}

extern "C" struct gpu_graph *gpu_record_end(struct gpu *gpu)
{
    (void)gpu;
    struct gpu_graph *graph = new gpu_graph{std::move(*emulation::recording)};
    delete emulation::recording;
    emulation::recording = NULL;
    return graph;
}

extern "C" void gpu_graph_run(struct gpu *gpu, struct gpu_graph *graph)
{
    (void)gpu;
    for (const emulation::recorded_launch &launch : graph->launches)
        emulation::repeat(launch);
}

extern "C" void gpu_graph_free(struct gpu *gpu, struct gpu_graph *graph)
{
    (void)gpu;
    delete graph;
}

#endif
