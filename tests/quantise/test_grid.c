/* Groups of weights: against golden blocks (tests/tools/make_quantise_golden.py), against a search
 * over all codes, levels against each other. */
#include "base/file.h"
#include "base/hash.h"
#include "quantise/grid.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *folder;

static const uint32_t formats[] = {FORMAT_I8S, FORMAT_I8A, FORMAT_I4S, FORMAT_I4A,
                                   FORMAT_I4Z, FORMAT_NF4, FORMAT_F8,  DTYPE_MXFP4};
enum { N_FORMATS = sizeof formats / sizeof *formats };
static const uint32_t groups[] = {32, 64, 128};
static const float ones[GRID_MAX_GROUP] = {[0 ... GRID_MAX_GROUP - 1] = 1};

/* Multiples of 2^-23 in [-1, 1). */
static float random_float(uint64_t i)
{
    return (float)(int64_t)(hash_mix(i) >> 40) * 0x1p-23f - 1.0f;
}

/* Groups of every kind in turn, as the maker of the golden data has them. */
static void fill_group(float *x, size_t n, uint64_t index)
{
    for (size_t i = 0; i < n; i++)
        x[i] = random_float(index * 1000 + i);
    for (size_t i = 0; i < n; i++)
        switch (index % 8) {
        case 1:
            x[i] = 0;
            break;
        case 2:
            x[i] = x[0];
            break;
        case 3:
            x[i] *= 0x1p-20f;
            break;
        case 4:
            x[i] *= 0x1p14f;
            break;
        case 5:
            x[i] = x[i] * 0.25f + 3.0f;
            break;
        case 6:
            x[i] = x[i] * 0.25f - 3.0f;
            break;
        case 7:
            x[i] *= i % 31 == 5 ? 16.0f : 0.5f;
            break;
        default:
            break;
        }
}

static struct grid grid_of(size_t format, uint32_t group, bool has_f32)
{
    return (struct grid){formats[format], formats[format] == DTYPE_MXFP4 ? 32 : group, has_f32};
}

static void golden_blocks_are_made_bit_by_bit(void **state)
{
    (void)state;
    char path[512], *text, name[32], hex[65];
    size_t len;
    serverd_error err;
    snprintf(path, sizeof path, "%s/min_max.txt", folder);
    if (file_read(path, 1u << 20, &text, &len, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    const char *rest = text;
    unsigned group, is_f32, n;
    int used, n_lines = 0;
    while (sscanf(rest, "%31s %u %u %u %64s%n", name, &group, &is_f32, &n, hex, &used) == 5) {
        struct grid grid = {.group = group, .has_f32 = is_f32};
        assert_true(grid_format_find(name, strlen(name), &grid.format));
        const size_t bytes = dtype_info(grid_dtype(&grid))->block_bytes;
        uint8_t *blocks = calloc(n, bytes), digest[32];
        for (unsigned i = 0; i < n; i++) {
            float x[GRID_MAX_GROUP];
            uint8_t codes[GRID_MAX_GROUP];
            struct grid_numbers numbers;
            fill_group(x, group, i);
            (void)grid_kernels_best()->min_max(&grid, x, ones, &numbers, codes);
            grid_write_block(&grid, numbers, codes, blocks + i * bytes);
        }
        sha256_bytes(blocks, n * bytes, digest);
        char found[65];
        for (size_t i = 0; i < 32; i++)
            snprintf(found + 2 * i, 3, "%02x", digest[i]);
        if (strcmp(found, hex) != 0)
            fail_msg("%s: the blocks have the hash %s, expected %s",
                     dtype_info(grid_dtype(&grid))->name, found, hex);
        free(blocks);
        rest += used;
        n_lines++;
    }
    assert_int_equal(n_lines, 40);
    free(text);
}

/* A block converts to what decode says, bit by bit. */
static void check_block(const struct grid *grid, struct grid_numbers numbers, const uint8_t *codes)
{
    uint8_t block[GRID_MAX_GROUP + 8];
    float values[GRID_MAX_GROUP], converted[GRID_MAX_GROUP];
    grid_write_block(grid, numbers, codes, block);
    grid_kernels_best()->decode(grid, codes, numbers, values);
    dtype_info(grid_dtype(grid))->to_f32(block, converted, 1);
    for (size_t i = 0; i < grid->group; i++)
        if (values[i] != converted[i])
            fail_msg("%s: element %zu is %a in the block, %a was meant",
                     dtype_info(grid_dtype(grid))->name, i, (double)converted[i],
                     (double)values[i]);
}

/* No other code is nearer. */
static void check_nearest(const struct grid *grid, struct grid_numbers numbers, const float *x,
                          const uint8_t *codes)
{
    const uint32_t n_codes = 1u << grid_code_bits(grid->format);
    float values[GRID_MAX_GROUP], value;
    grid_kernels_best()->decode(grid, codes, numbers, values);
    for (size_t i = 0; i < grid->group; i++) {
        const double own = fabs((double)x[i] - (double)values[i]);
        assert_int_equal(grid_nearest(grid, numbers, x[i], &value), codes[i]);
        assert_true(value == values[i]);
        for (uint32_t c = 0; c < n_codes; c++) {
            uint8_t all[GRID_MAX_GROUP] = {0};
            float others[GRID_MAX_GROUP];
            if ((grid->format == FORMAT_F8 && (c & 0x7f) == 0x7f) ||
                (grid->format == FORMAT_I8S && c == 0))
                continue;
            all[0] = (uint8_t)c;
            grid_kernels_best()->decode(grid, all, numbers, others);
            const double other = fabs((double)x[i] - (double)others[0]);
            if (other < own * (1 - 1e-5) - 1e-12 * fabs((double)x[i]))
                fail_msg("%s: %g becomes %g, %g is nearer", dtype_info(grid_dtype(grid))->name,
                         (double)x[i], (double)values[i], (double)others[0]);
        }
    }
}

static void codes_are_the_nearest_and_blocks_say_what_is_meant(void **state)
{
    (void)state;
    for (size_t f = 0; f < N_FORMATS; f++)
        for (uint64_t index = 0; index < 16; index++)
            for (int plain = 0; plain < 2; plain++) {
                const struct grid grid = grid_of(f, groups[index % 3], index % 2);
                float x[GRID_MAX_GROUP];
                uint8_t codes[GRID_MAX_GROUP];
                struct grid_numbers numbers;
                fill_group(x, grid.group, index);
                const struct grid_kernels *k = grid_kernels_best();
                (void)(plain ? k->plain : k->min_max)(&grid, x, ones, &numbers, codes);
                check_block(&grid, numbers, codes);
                check_nearest(&grid, numbers, x, codes);
            }
}

static void plain_is_never_worse_and_often_better(void **state)
{
    (void)state;
    for (size_t f = 0; f < N_FORMATS; f++) {
        double least = 0, fitted = 0;
        for (uint64_t index = 0; index < 200; index++) {
            const struct grid grid = grid_of(f, groups[index % 3], false);
            float x[GRID_MAX_GROUP];
            uint8_t codes[GRID_MAX_GROUP];
            struct grid_numbers numbers;
            for (size_t i = 0; i < grid.group; i++) /* about normal */
                x[i] = random_float(index * 999 + i) + random_float(index * 777 + i + 500) +
                       random_float(index * 555 + i + 900);
            const struct grid_kernels *k = grid_kernels_best();
            const float a = k->min_max(&grid, x, ones, &numbers, codes);
            const float b = k->plain(&grid, x, ones, &numbers, codes);
            assert_true(b <= a);
            least += (double)a;
            fitted += (double)b;
        }
        if (grid_code_bits(formats[f]) == 4)
            assert_true(fitted < 0.95 * least);
    }
}

/* A weight pulls the fit to where it is. */
static void weights_count(void **state)
{
    (void)state;
    const struct grid grid = grid_of(3, 64, false);
    float x[64], weight[64], value;
    uint8_t codes[64];
    struct grid_numbers even, uneven;
    fill_group(x, 64, 7);
    for (size_t i = 0; i < 64; i++)
        weight[i] = i == 9 ? 1e4f : 1.0f;
    (void)grid_kernels_best()->plain(&grid, x, ones, &even, codes);
    (void)grid_nearest(&grid, even, x[9], &value);
    const double before = fabs((double)(x[9] - value));
    (void)grid_kernels_best()->plain(&grid, x, weight, &uneven, codes);
    (void)grid_nearest(&grid, uneven, x[9], &value);
    assert_true(fabs((double)(x[9] - value)) <= before);
}

static void levels_give_the_same_bits(void **state)
{
    (void)state;
    const struct grid_kernels *first = grid_kernels_level(0), *other;
    for (uint32_t level = 1; (other = grid_kernels_level(level)); level++)
        for (size_t f = 0; f < N_FORMATS; f++)
            for (uint64_t index = 0; index < 48; index++) {
                const struct grid grid = grid_of(f, groups[index % 3], index % 5 == 0);
                float x[GRID_MAX_GROUP], a[GRID_MAX_GROUP], b[GRID_MAX_GROUP];
                uint8_t codes[2][GRID_MAX_GROUP];
                struct grid_numbers numbers[2];
                fill_group(x, grid.group, index);
                const float ea = first->plain(&grid, x, ones, &numbers[0], codes[0]);
                const float eb = other->plain(&grid, x, ones, &numbers[1], codes[1]);
                assert_true(ea == eb);
                assert_memory_equal(&numbers[0], &numbers[1], sizeof numbers[0]);
                assert_memory_equal(codes[0], codes[1], grid.group);
                first->decode(&grid, codes[0], numbers[0], a);
                other->decode(&grid, codes[0], numbers[0], b);
                assert_memory_equal(a, b, grid.group * sizeof *a);
                float square[32 * 32], out[2][32];
                for (size_t i = 0; i < 32 * 32; i++)
                    square[i] = random_float(i);
                first->times_square(x, square, 32, 32, out[0]);
                other->times_square(x, square, 32, 32, out[1]);
                assert_memory_equal(out[0], out[1], sizeof out[0]);
                first->add_scaled(a, 0.3f, x, grid.group - 3);
                other->add_scaled(b, 0.3f, x, grid.group - 3);
                assert_memory_equal(a, b, grid.group * sizeof *a);
            }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_blocks_are_made_bit_by_bit),
        cmocka_unit_test(codes_are_the_nearest_and_blocks_say_what_is_meant),
        cmocka_unit_test(plain_is_never_worse_and_often_better),
        cmocka_unit_test(weights_count),
        cmocka_unit_test(levels_give_the_same_bits),
    };
    if (argc != 2) {
        fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    folder = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
