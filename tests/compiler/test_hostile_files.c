/* Damaged models: whatever the bytes are, compiling ends in a program or in an error with text,
 * without touching memory that is not its own (run it with the address sanitizer). */
#include "tiny_model.h"

#include "base/hash.h"
#include "base/limits.h"
#include "support/synthetic_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_FLIPS = 20000, N_MODEL_FLIPS = 1000, SEED = 20261123 };

static serverd_status compile_and_drop(const void *bytes, size_t n)
{
    serverd_error err = {0};
    struct program *program = NULL;
    serverd_status status = compile_bytes(bytes, n, &program, &err);
    if (status != SERVERD_OK) {
        assert_null(program);
        assert_int_equal(status, err.code);
        assert_true(err.text[0] != '\0');
    }
    program_unref(program);
    return status;
}

static void tiny_bytes(struct buffer *out)
{
    struct gguf_writer w;
    buffer_init(out, 1 * MIB);
    tiny_model_write(&w, NULL);
    gguf_writer_finish(&w, out);
    gguf_writer_deinit(&w);
}

static void a_file_cut_anywhere_is_refused(void **state)
{
    (void)state;
    struct buffer bytes;
    tiny_bytes(&bytes);
    assert_int_equal(compile_and_drop(bytes.data, bytes.len), SERVERD_OK);
    for (size_t n = 0; n < bytes.len; n++)
        if (compile_and_drop(bytes.data, n) == SERVERD_OK)
            fail_msg("the first %zu of %zu bytes are taken for a model", n, bytes.len);
    buffer_deinit(&bytes);
}

/* Changes one to four bytes, to anything, to the extremes or by one bit. */
static void damage(char *bytes, size_t n, uint64_t *random)
{
    static const unsigned char extremes[] = {0x00, 0xff, 0x7f, 0x80};
    uint64_t n_changes = 1 + hash_mix(++*random) % 4;
    for (uint64_t i = 0; i < n_changes; i++) {
        uint64_t r = hash_mix(++*random), at = hash_mix(++*random) % n;
        if (r % 3 == 0)
            bytes[at] = (char)(r >> 8);
        else if (r % 3 == 1)
            bytes[at] = (char)extremes[(r >> 8) % 4];
        else
            bytes[at] = (char)(bytes[at] ^ 1 << (r >> 8) % 8);
    }
}

static void compile_damaged(const struct buffer *good, size_t n_header, int n_tries)
{
    char *bytes = malloc(good->len);
    assert_non_null(bytes);
    uint64_t random = SEED;
    print_message("seed %d, %d tries\n", SEED, n_tries);
    for (int i = 0; i < n_tries; i++) {
        memcpy(bytes, good->data, good->len);
        damage(bytes, n_header < good->len ? n_header : good->len, &random);
        (void)compile_and_drop(bytes, good->len); /* either is right */
    }
    free(bytes);
}

static void random_damage_ends_in_an_error_or_a_program(void **state)
{
    (void)state;
    struct buffer bytes;
    tiny_bytes(&bytes);
    compile_damaged(&bytes, bytes.len, N_FLIPS);
    buffer_deinit(&bytes);
}

static void damage_to_any_architecture_ends_in_an_error_or_a_program(void **state)
{
    (void)state;
    static const char *const names[] = {"mistral3", "gemma3", "phi3", "bert"};
    for (size_t i = 0; i < 4; i++) {
        struct buffer bytes;
        serverd_error err;
        buffer_init(&bytes, 16 * MIB);
        assert_int_equal(synthetic_model(names[i], "Q8_0", &bytes, &err), SERVERD_OK);
        compile_damaged(&bytes, 4096, N_MODEL_FLIPS);
        buffer_deinit(&bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_cut_anywhere_is_refused),
        cmocka_unit_test(random_damage_ends_in_an_error_or_a_program),
        cmocka_unit_test(damage_to_any_architecture_ends_in_an_error_or_a_program),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
