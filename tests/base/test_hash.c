#include "base/hash.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void assert_digest(const uint8_t digest[32], const char *hex)
{
    char text[65];
    for (size_t i = 0; i < 32; i++)
        (void)snprintf(text + 2 * i, 3, "%02x", digest[i]);
    assert_string_equal(text, hex);
}

/* The examples of FIPS 180-4 and one that crosses many blocks in odd pieces. */
static void sha256_gives_the_standard_s_digests(void **state)
{
    (void)state;
    uint8_t digest[32];
    sha256_bytes("", 0, digest);
    assert_digest(digest, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    sha256_bytes("abc", 3, digest);
    assert_digest(digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    const char *two = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    sha256_bytes(two, strlen(two), digest);
    assert_digest(digest, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    struct sha256 h;
    sha256_init(&h);
    char a[997];
    memset(a, 'a', sizeof a);
    for (size_t done = 0; done < 1000000;) {
        size_t n = 1000000 - done < sizeof a ? 1000000 - done : sizeof a;
        sha256_update(&h, a, n);
        done += n;
    }
    sha256_final(&h, digest);
    assert_digest(digest, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

/* A leaf is made with the processor's instructions, where it has them. */
static void sha256_is_the_same_in_both_ways(void **state)
{
    (void)state;
    uint8_t bytes[517], digests[2][32];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)hash_mix(i);
    for (size_t n = 0; n <= sizeof bytes; n += 11) {
        struct sha256 h;
        sha256_leaf(bytes, n, digests[0]);
        sha256_init(&h);
        sha256_update(&h, &(uint8_t){0}, 1);
        sha256_update(&h, bytes, n / 3);
        sha256_update(&h, bytes + n / 3, n - n / 3);
        sha256_final(&h, digests[1]);
        assert_memory_equal(digests[0], digests[1], 32);
    }
}

static void the_tree_is_the_root_of_its_leaves(void **state)
{
    (void)state;
    size_t n = 2 * SHA256_LEAF + 5;
    uint8_t *bytes = malloc(n), leaves[3][32], root[32], tree[32];
    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)(i * 7 + i / 1000);
    for (size_t i = 0; i < 3; i++)
        sha256_leaf(bytes + i * SHA256_LEAF, i < 2 ? SHA256_LEAF : 5, leaves[i]);
    sha256_root((const uint8_t(*)[32])leaves, 3, root);
    sha256_tree(bytes, n, tree);
    assert_memory_equal(root, tree, 32);
    sha256_tree(bytes, n - 1, tree);
    assert_memory_not_equal(root, tree, 32);
    free(bytes);
}

static void a_checksum_in_pieces_is_that_of_the_whole(void **state)
{
    (void)state;
    char bytes[1000];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (char)(i * i);
    struct checksum *checksum = checksum_create();
    assert_non_null(checksum);
    for (size_t i = 0; i < sizeof bytes; i += 125)
        checksum_update(checksum, bytes + i, 125);
    assert_true(checksum_final(checksum) == checksum64(bytes, sizeof bytes));
    checksum_destroy(checksum);
}

static void a_hash_depends_on_every_byte_length_and_seed(void **state)
{
    (void)state;
    char bytes[64] = {0};
    uint64_t zero = hash_bytes(bytes, sizeof bytes, 1);
    assert_int_equal(hash_bytes(bytes, sizeof bytes, 1), zero);
    assert_int_not_equal(hash_bytes(bytes, sizeof bytes, 2), zero);
    assert_int_not_equal(hash_bytes(bytes, sizeof bytes - 1, 1), zero);
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = 1;
        assert_int_not_equal(hash_bytes(bytes, sizeof bytes, 1), zero);
        bytes[i] = 0;
    }
}

static void equality_in_constant_time_is_equality(void **state)
{
    (void)state;
    char a[33], b[33];
    for (size_t i = 0; i < sizeof a; i++)
        a[i] = b[i] = (char)i;
    assert_true(equal_constant_time(a, b, sizeof a));
    for (size_t i = 0; i < sizeof a; i++) {
        b[i] ^= 0x40;
        assert_false(equal_constant_time(a, b, sizeof a));
        assert_true(equal_constant_time(a, b, i));
        b[i] ^= 0x40;
    }
}

static void random_bytes_differ(void **state)
{
    (void)state;
    uint8_t a[32], b[32];
    serverd_error err;
    assert_int_equal(random_bytes(a, sizeof a, &err), SERVERD_OK);
    assert_int_equal(random_bytes(b, sizeof b, &err), SERVERD_OK);
    assert_memory_not_equal(a, b, sizeof a);
}

/* Files keep them: they may never change. */
static void checksums_are_those_of_xxh3(void **state)
{
    (void)state;
    static const uint8_t empty[16] = {0x99, 0xaa, 0x06, 0xd3, 0x01, 0x47, 0x98, 0xd8,
                                      0x60, 0x01, 0xc3, 0x24, 0x46, 0x8d, 0x49, 0x7f};
    uint8_t sum[16];
    assert_true(checksum64("", 0) == 0x2d06800538d394c2u);
    checksum128("", 0, sum);
    assert_memory_equal(sum, empty, sizeof sum);
    assert_true(checksum64("page", 4) != checksum64("pagf", 4));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sha256_gives_the_standard_s_digests),
        cmocka_unit_test(sha256_is_the_same_in_both_ways),
        cmocka_unit_test(the_tree_is_the_root_of_its_leaves),
        cmocka_unit_test(a_checksum_in_pieces_is_that_of_the_whole),
        cmocka_unit_test(a_hash_depends_on_every_byte_length_and_seed),
        cmocka_unit_test(equality_in_constant_time_is_equality),
        cmocka_unit_test(random_bytes_differ),
        cmocka_unit_test(checksums_are_those_of_xxh3),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
