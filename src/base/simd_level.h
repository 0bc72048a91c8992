/* The instruction sets of the processor that code outside the CPU back-end is compiled for. A level
 * is here only with all below it, so a table by level, read downwards from the best, has all that
 * are here. Any thread. */
#ifndef BASE_SIMD_LEVEL_H
#define BASE_SIMD_LEVEL_H

enum simd_level {
    SIMD_GENERIC, /* what the build asks for */
    SIMD_AVX2,
    SIMD_AVX512, /* F, BW, VL, DQ */
    SIMD_LEVELS
};

/* The best one that the processor and the operating system have. */
enum simd_level simd_level_best(void);

#endif
