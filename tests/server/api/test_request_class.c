/* A request's place among others, by what its fields say. */
#include "server/request/request_class.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static struct request read(const struct api_fields *fields, uint64_t tenant)
{
    struct request request = {.tenant = tenant};
    struct api_error e;
    assert_true(request_class_read(fields, &request, &e));
    return request;
}

static void a_tier_moves_the_priority(void **state)
{
    (void)state;
    static const struct {
        const char *tier, *used;
        int64_t priority;
        int32_t expected;
    } rows[] = {
        {NULL, NULL, 3, 3},
        {"auto", "default", 3, 3},
        {"default", "default", -3, -3},
        {"flex", "flex", 0, -10},
        {"flex", "flex", 12, 2},
        {"priority", "priority", 0, 10},
        {"priority", "priority", INT32_MAX, INT32_MAX},
        {"flex", "flex", INT32_MIN, INT32_MIN},
        {"standard_only", "default", 1, 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct api_fields fields = {.service_tier = rows[i].tier,
                                          .priority = rows[i].priority};
        assert_int_equal(read(&fields, 0).priority, rows[i].expected);
        const char *used = request_class_tier(&fields);
        assert_true(used == rows[i].used || strcmp(used, rows[i].used) == 0);
    }
}

static void users_share_where_there_are_no_keys(void **state)
{
    (void)state;
    const struct api_fields nobody = {0}, a = {.user = "a"}, b = {.user = "b"},
                            empty = {.user = ""}, safe = {.user = "b", .safety_identifier = "a"};
    const uint64_t key = 77;
    assert_int_equal(read(&nobody, 0).tenant, 0);
    assert_int_equal(read(&empty, 0).tenant, 0);
    assert_true(read(&a, 0).tenant != 0 && read(&a, 0).tenant != read(&b, 0).tenant);
    assert_true(read(&safe, 0).tenant == read(&a, 0).tenant);
    assert_true(read(&a, key).tenant == key && read(&b, key).tenant == key);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tier_moves_the_priority),
        cmocka_unit_test(users_share_where_there_are_no_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
