/* Which device gets which nodes. Delegates here are the CPU back-end's table with other claims,
 * memory and names. */
#include "base/buffer.h"
#include "kernels/builtin.h"
#include "program/op.h"
#include "runtime/placement.h"
#include "support/synthetic_program.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static serverd_error err;
static struct program *program; /* two layers */
static const serverd_host host = {.struct_bytes = sizeof host, .n_workers = 1};

/* ---- delegates ------------------------------------------------------------------------------- */

/* What the delegates of a test say; set by the test. */
struct offer {
    uint64_t free_bytes;
    float slowness;    /* times what the CPU back-end says; 0: unknown */
    uint32_t only_op;  /* takes nothing else; SERVERD_OP_COUNT: everything */
    uint32_t never_op; /* SERVERD_OP_COUNT: none */
    uint32_t group;    /* nodes of a claim at most; 0: 1 */
    uint32_t n_devices;
};

static struct offer offers[3];

static serverd_status say_devices(uint32_t index, serverd_device *out, uint32_t cap, uint32_t *n)
{
    *n = offers[index].n_devices;
    for (uint32_t i = 0; i < cap && i < (*n > 0 ? *n : 1); i++) {
        out[i] = (serverd_device){.struct_bytes = sizeof *out,
                                  .ordinal = index + 100 * i,
                                  .free_bytes = offers[index].free_bytes,
                                  .memory_bytes = offers[index].free_bytes};
        (void)snprintf(out[i].name, sizeof out[i].name, "thing %u", index);
        (void)snprintf(out[i].reason, sizeof out[i].reason, "left at home");
    }
    return SERVERD_OK;
}

static serverd_status say_match(uint32_t index, const serverd_graph *graph, uint32_t node,
                                serverd_claim *out, serverd_error *e)
{
    const struct offer *offer = &offers[index];
    uint32_t op = graph->nodes[node].op;
    serverd_status status = builtin_delegates[0]->match(&host, graph, node, out, e);
    for (int i = 0; i < 3; i++)
        out->seconds[i] *= offer->slowness;
    out->n_nodes = 1;
    if (offer->group > 1)
        out->n_nodes = graph->n_nodes - node < offer->group ? graph->n_nodes - node : offer->group;
    if ((offer->only_op != SERVERD_OP_COUNT && op != offer->only_op) || op == offer->never_op) {
        *out = (serverd_claim){.struct_bytes = sizeof *out, .reason = SERVERD_REASON_SHAPE};
        (void)snprintf(out->text, sizeof out->text, "thing %u dislikes it", index);
    }
    return status;
}

#define DELEGATE(index)                                                                            \
    static serverd_status devices_##index(const serverd_host *h, serverd_device *out,              \
                                          uint32_t cap, uint32_t *n, serverd_error *e)             \
    {                                                                                              \
        (void)h, (void)e;                                                                          \
        return say_devices(index, out, cap, n);                                                    \
    }                                                                                              \
    static serverd_status match_##index(const serverd_host *h, const serverd_graph *graph,         \
                                        uint32_t node, serverd_claim *out, serverd_error *e)       \
    {                                                                                              \
        (void)h;                                                                                   \
        return say_match(index, graph, node, out, e);                                              \
    }
DELEGATE(0)
DELEGATE(1)
DELEGATE(2)

static serverd_delegate tables[3];
static const serverd_delegate *const list[3] = {&tables[0], &tables[1], &tables[2]};

static int set_up(void **state)
{
    (void)state;
    static const char *const names[] = {"ant", "bee", "cat"};
    for (uint32_t i = 0; i < 3; i++) {
        tables[i] = *builtin_delegates[0];
        tables[i].name = names[i];
        tables[i].devices = i == 0 ? devices_0 : i == 1 ? devices_1 : devices_2;
        tables[i].match = i == 0 ? match_0 : i == 1 ? match_1 : match_2;
        offers[i] = (struct offer){.free_bytes = UINT64_C(1) << 40,
                                   .slowness = (float)(i + 1),
                                   .n_devices = 1,
                                   .only_op = SERVERD_OP_COUNT,
                                   .never_op = SERVERD_OP_COUNT};
    }
    program = synthetic_program("llama", "Q8_0");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    program_unref(program);
    return 0;
}

static struct placement *place(const char *device, const char *wishes)
{
    const struct placement_options options = {
        .delegates = list, .n_delegates = 3, .device = device, .place = wishes, .host = &host};
    struct placement *placement;
    return placement_create(&program->graph, &options, &placement, &err) == SERVERD_OK ? placement
                                                                                       : NULL;
}

static struct placement *place_well(const char *device, const char *wishes)
{
    struct placement *placement = place(device, wishes);
    if (!placement)
        fail_msg("%s: %s", device, err.text);
    return placement;
}

/* ---- properties of any placement ------------------------------------------------------------- */

static void check_explanation(const struct placement *placement);

static bool is_listed(const uint32_t *values, uint32_t n, uint32_t value)
{
    for (uint32_t i = 0; i < n; i++)
        if (values[i] == value)
            return true;
    return false;
}

/* Partitions follow each other and list exactly what passes between them. */
static void check(const struct placement *placement)
{
    const serverd_graph *graph = placement->graph;
    uint32_t node = 0;
    for (uint32_t p = 0; p < placement->n_partitions; p++) {
        const serverd_partition *view = &placement->partitions[p].view;
        assert_int_equal(view->first_node, node);
        assert_true(view->n_nodes > 0);
        if (p > 0)
            assert_int_not_equal(placement->partitions[p].device,
                                 placement->partitions[p - 1].device);
        node += view->n_nodes;
        for (uint32_t i = 1; i < view->n_inputs; i++)
            assert_true(view->inputs[i - 1] < view->inputs[i]);
        for (uint32_t i = 1; i < view->n_outputs; i++)
            assert_true(view->outputs[i - 1] < view->outputs[i]);
        for (uint32_t v = 0; v < graph->n_values; v++) {
            const serverd_value *value = &graph->values[v];
            if (value->kind != SERVERD_VALUE_ACTIVATION)
                continue;
            bool is_made = value->producer >= view->first_node &&
                           value->producer < view->first_node + view->n_nodes;
            bool is_read = false, is_read_outside = v == graph->output;
            for (uint32_t n = 0; n < graph->n_nodes; n++)
                for (uint32_t i = 0; i < graph->nodes[n].n_inputs; i++)
                    if (graph->operands[graph->nodes[n].first_operand + i] == v)
                        *(n >= view->first_node && n < view->first_node + view->n_nodes
                              ? &is_read
                              : &is_read_outside) = true;
            assert_int_equal(is_listed(view->inputs, view->n_inputs, v), !is_made && is_read);
            assert_int_equal(is_listed(view->outputs, view->n_outputs, v),
                             is_made && is_read_outside);
        }
    }
    assert_int_equal(node, graph->n_nodes);
    check_explanation(placement);
}

static uint32_t device_of_layer(const struct placement *placement, uint32_t layer)
{
    for (uint32_t n = 0; n < placement->graph->n_nodes; n++)
        if (placement->graph->nodes[n].layer == layer)
            return placement->chosen[n];
    fail_msg("no layer %u", layer);
    return 0;
}

/* The explanation's lines cover every node, in order, and every device has a reason or a part. */
static void check_explanation(const struct placement *placement)
{
    struct buffer text;
    buffer_init(&text, 1 << 20);
    placement_explain(placement, &text);
    unsigned next = 0, first, last;
    for (const char *at = buffer_str(&text); (at = strstr(at, "nodes ")); at++) {
        if (at != buffer_str(&text) && at[-1] != '\n')
            continue;
        assert_int_equal(sscanf(at, "nodes %u-%u", &first, &last), 2);
        assert_int_equal(first, next);
        next = last + 1;
    }
    assert_int_equal(next, placement->graph->n_nodes);
    for (uint32_t d = 0; d < placement->n_devices; d++)
        assert_non_null(strstr(buffer_str(&text), placement->devices[d].name));
    buffer_deinit(&text);
}

static void expect_text(const struct placement *placement, const char *word)
{
    struct buffer text;
    buffer_init(&text, 1 << 20);
    placement_explain(placement, &text);
    if (!strstr(buffer_str(&text), word))
        fail_msg("\"%s\" is not in\n%s", word, buffer_str(&text));
    buffer_deinit(&text);
}

/* ---- choices --------------------------------------------------------------------------------- */

static void the_fastest_gets_all(void **state)
{
    (void)state;
    struct placement *placement = place_well("auto", NULL);
    check(placement);
    assert_int_equal(placement->n_partitions, 1);
    assert_int_equal(placement->partitions[0].device, 0);
    expect_text(placement, "not bee: slower (");
    expect_text(placement, "not cat: slower (");
    placement_destroy(placement);
    offers[2].slowness = 0.01f;
    placement = place_well("auto", NULL);
    assert_int_equal(placement->n_partitions, 1);
    assert_int_equal(placement->partitions[0].device, 2);
    placement_destroy(placement);
    placement = place_well("bee", NULL);
    assert_int_equal(placement->n_devices, 1);
    assert_string_equal(placement->devices[placement->partitions[0].device].name, "bee");
    placement_destroy(placement);
}

/* Of unknown costs the first one's offer is as good as any. */
static void unknown_costs_are_no_advantage(void **state)
{
    (void)state;
    offers[1].slowness = 0;
    struct placement *placement = place_well("auto", NULL);
    assert_int_equal(placement->n_partitions, 1);
    assert_int_equal(placement->partitions[0].device, 0);
    placement_destroy(placement);
}

static void what_one_does_not_take_goes_to_another(void **state)
{
    (void)state;
    offers[0].never_op = SERVERD_OP_GLU;
    struct placement *placement = place_well("auto", NULL);
    check(placement);
    assert_true(placement->n_partitions > 1);
    for (uint32_t n = 0; n < placement->graph->n_nodes; n++)
        if (placement->graph->nodes[n].op == SERVERD_OP_GLU)
            assert_int_equal(placement->chosen[n], 1);
    expect_text(placement, "not ant: unsupported-shape");
    expect_text(placement, "thing 0 dislikes it");
    placement_destroy(placement);
}

/* Query, key, value, what is between and attention of a layer are on one device, although another
 * would be faster for some of it. */
static void attention_stays_together(void **state)
{
    (void)state;
    offers[1].only_op = SERVERD_OP_ROPE;
    offers[1].slowness = 1e-6f;
    offers[0].slowness = 1e6f; /* so that a hand-over costs nothing in comparison */
    offers[2].n_devices = 0;
    struct placement *placement = place_well("auto", NULL);
    for (uint32_t n = 0; n < placement->graph->n_nodes; n++)
        assert_int_equal(placement->chosen[n], 0);
    placement_destroy(placement);
    offers[1].only_op = SERVERD_OP_GLU; /* is in no such group */
    placement = place_well("auto", NULL);
    check(placement);
    for (uint32_t n = 0; n < placement->graph->n_nodes; n++)
        assert_int_equal(placement->chosen[n],
                         placement->graph->nodes[n].op == SERVERD_OP_GLU ? 1 : 0);
    placement_destroy(placement);
    /* where nobody takes all of it, it is cut all the same */
    offers[0].never_op = SERVERD_OP_ROPE;
    offers[1].only_op = SERVERD_OP_ROPE;
    placement = place_well("auto", NULL);
    check(placement);
    placement_destroy(placement);
}

static void claims_of_several_nodes_are_cut_where_the_user_says(void **state)
{
    (void)state;
    offers[0].group = 1000000;
    struct placement *placement = place_well("auto", NULL);
    assert_int_equal(placement->n_partitions, 1);
    placement_destroy(placement);
    placement = place_well("ant", "blk.1=bee");
    check(placement);
    assert_int_equal(placement->n_partitions, 3);
    assert_int_equal(device_of_layer(placement, 0), 0);
    assert_int_equal(device_of_layer(placement, 1), 1);
    placement_destroy(placement);
}

static void the_user_places_what_he_wants(void **state)
{
    (void)state;
    static const struct {
        const char *place, *device_of_embed, *of_0, *of_1, *of_output;
    } rows[] = {
        {"blk.0-1=bee", "ant", "bee", "bee", "ant"},
        {"blk.1=bee", "ant", "ant", "bee", "ant"},
        {"blk.1=bee,blk.0-1=cat", "ant", "cat", "bee", "ant"}, /* the first that fits */
        {"embed=cat,output=bee", "cat", "ant", "ant", "bee"},
        {"node.0=cat", "cat", "ant", "ant", "ant"},
        {"blk.0=ant.1,blk.1=ant.2", "ant", "ant.1", "ant.2", "ant"},
        {"blk.0=ant,output=ant.1", "ant", "ant", "ant", "ant.1"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct placement *placement = place_well("ant", rows[i].place);
        const struct placement_device *devices = placement->devices;
        uint32_t last = placement->graph->n_nodes - 1;
        check(placement);
        assert_string_equal(devices[placement->chosen[0]].name, rows[i].device_of_embed);
        assert_string_equal(devices[device_of_layer(placement, 0)].name, rows[i].of_0);
        assert_string_equal(devices[device_of_layer(placement, 1)].name, rows[i].of_1);
        assert_string_equal(devices[placement->chosen[last]].name, rows[i].of_output);
        placement_destroy(placement);
    }
    struct placement *placement = place_well("ant", "glu=bee");
    expect_text(placement, "not ant: override");
    placement_destroy(placement);
}

static void wishes_that_cannot_be_are_named(void **state)
{
    (void)state;
    offers[2].never_op = SERVERD_OP_GLU;
    static const struct {
        const char *device, *place, *word;
    } rows[] = {
        {"dog", NULL, "there is no dog"},
        {"hetero:ant,dog", NULL, "there is no dog"},
        {"hetero:", NULL, "there is no "},
        {"hetero:ant,ant,ant,ant,ant", NULL, "at most 4"},
        {"ant", "blk.0=dog", "there is no device dog"},
        {"ant", "blk.0=ant.x", "there is no device ant.x"},
        {"ant", "blk.0=ant.99", "there is no device ant.99"},
        {"ant", "blk.0", "is not WHAT=DEVICE"},
        {"ant", "blk.0=", "there is no device "},
        {"ant", "blk.7=bee", "the model has no blk.7"},
        {"ant", "node.100000=bee", "the model has no node.100000"},
        {"ant", "blk.1-0=bee", "blk.1-0"},
        {"ant", "blk.-1=bee", "blk.-1"},
        {"ant", "nonsense=bee", "nonsense"},
        {"ant", "softcap=bee", "the model has no softcap"},
        {"ant", "blk.0=cat", "thing 2 dislikes it"},
        {"cat", NULL, "unsupported-shape"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (place(rows[i].device, rows[i].place))
            fail_msg("%s, %s: was placed", rows[i].device, rows[i].place ? rows[i].place : "");
        if (!strstr(err.text, rows[i].word))
            fail_msg("%s, %s: \"%s\"", rows[i].device, rows[i].place ? rows[i].place : "",
                     err.text);
    }
    offers[1].n_devices = 0;
    assert_null(place("ant", "blk.0=bee"));
    assert_non_null(strstr(err.text, "left at home"));
    assert_null(place("bee", NULL));
    assert_non_null(strstr(err.text, "left at home"));
    struct placement *placement = place_well("auto", NULL);
    expect_text(placement, "not bee: unavailable: device bee: none here: left at home");
    placement_destroy(placement);
    offers[0].n_devices = offers[2].n_devices = 0;
    assert_null(place("auto", NULL));
}

static void a_device_that_failed_is_left_out(void **state)
{
    (void)state;
    struct placement *placement = place_well("auto", "blk.1=bee");
    serverd_error reason = {
        .code = SERVERD_NOMEM, .node = UINT32_MAX, .text = "no room in the hive"};
    assert_int_equal(device_of_layer(placement, 1), 1);
    assert_int_equal(placement_without(placement, 1, &reason, &err), SERVERD_OK);
    check(placement);
    assert_int_equal(device_of_layer(placement, 1), 0);
    expect_text(placement, "not bee: init-failed: no room in the hive");
    assert_int_equal(placement_without(placement, 0, &reason, &err), SERVERD_OK);
    assert_int_equal(device_of_layer(placement, 0), 2);
    assert_int_equal(placement_without(placement, 2, &reason, &err), SERVERD_NOMEM);
    assert_string_equal(err.text, reason.text);
    placement_destroy(placement);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static uint64_t bytes_on(const struct placement *placement, uint32_t device)
{
    uint64_t sum = 0;
    for (uint32_t n = 0; n < placement->graph->n_nodes; n++)
        if (placement->chosen[n] == device)
            sum += placement_claim(placement, device, n)->resident_bytes;
    return sum;
}

/* The fastest device takes as much as it holds, the next one the rest; never more than there is. */
static void layers_go_where_there_is_memory(void **state)
{
    (void)state;
    struct placement *placement = place_well("hetero:ant,bee,cat", NULL);
    assert_int_equal(placement->n_partitions, 1);
    uint64_t all = bytes_on(placement, 0);
    placement_destroy(placement);
    uint32_t n_split = 0;
    for (uint64_t share = 1; share <= 20; share++) {
        offers[0].free_bytes = all * share / 20;
        offers[1].free_bytes = all * 2 / 3;
        placement = place("hetero:ant,bee,cat", NULL);
        assert_non_null(placement); /* the last one has room for all */
        check(placement);
        uint64_t sum = 0;
        for (uint32_t d = 0; d < 3; d++) {
            assert_true(bytes_on(placement, d) <= offers[d].free_bytes);
            sum += bytes_on(placement, d);
        }
        assert_int_equal(sum, all);
        n_split += placement->n_partitions > 1;
        for (uint32_t n = 1; n < placement->graph->n_nodes; n++)
            if (placement->chosen[n] != placement->chosen[n - 1])
                assert_int_not_equal(placement->graph->nodes[n].layer,
                                     placement->graph->nodes[n - 1].layer);
        placement_destroy(placement);
    }
    assert_true(n_split > 5);
    offers[0].free_bytes = offers[1].free_bytes = offers[2].free_bytes = all / 4;
    assert_null(place("hetero:ant,bee,cat", NULL));
    assert_int_equal(err.code, SERVERD_NOMEM);
    assert_non_null(strstr(err.text, "memory"));
    /* alone a device is not asked whether it has room: the kernel may have the last word */
    placement = place_well("ant", NULL);
    placement_destroy(placement);
}

/* A device that cannot run the first layers can still have the last ones. */
static void a_run_may_begin_anywhere(void **state)
{
    (void)state;
    struct placement *placement = place_well("hetero:ant,bee", NULL);
    uint64_t all = bytes_on(placement, 0);
    placement_destroy(placement);
    offers[0].never_op = SERVERD_OP_EMBED;
    offers[0].free_bytes = all - 1;
    offers[1].slowness = 0.5f; /* so it comes first */
    offers[1].free_bytes = all - 1;
    placement = place_well("hetero:ant,bee", NULL);
    check(placement);
    assert_int_equal(placement->chosen[0], 1);
    assert_int_equal(placement->chosen[placement->graph->n_nodes - 1], 0);
    placement_destroy(placement);
}

static void instances_and_ranks_have_devices_of_their_own(void **state)
{
    (void)state;
    offers[0].n_devices = 2;
    struct placement *placement = place_well("ant", "blk.0=ant.1,output=ant.2");
    assert_int_equal(placement->n_devices, 3);
    assert_int_equal(placement->devices[0].device.ordinal, 0);
    assert_int_equal(placement->devices[1].device.ordinal, 100);
    assert_int_equal(placement->devices[2].device.ordinal, 0); /* there is no third one */
    assert_int_equal(placement->devices[0].n_sharing, 1);
    placement_destroy(placement);
    const serverd_collective ranks = {.struct_bytes = sizeof ranks, .rank = 1, .n_ranks = 3};
    serverd_host one_of_three = host;
    one_of_three.collective = &ranks;
    const struct placement_options options = {
        .delegates = list, .n_delegates = 3, .device = "ant", .host = &one_of_three};
    assert_int_equal(placement_create(&program->graph, &options, &placement, &err), SERVERD_OK);
    assert_int_equal(placement->devices[0].device.ordinal, 100);
    assert_int_equal(placement->devices[0].n_sharing, 2);
    placement_destroy(placement);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_fastest_gets_all, set_up, tear_down),
        cmocka_unit_test_setup_teardown(unknown_costs_are_no_advantage, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_one_does_not_take_goes_to_another, set_up, tear_down),
        cmocka_unit_test_setup_teardown(attention_stays_together, set_up, tear_down),
        cmocka_unit_test_setup_teardown(claims_of_several_nodes_are_cut_where_the_user_says, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(the_user_places_what_he_wants, set_up, tear_down),
        cmocka_unit_test_setup_teardown(wishes_that_cannot_be_are_named, set_up, tear_down),
        cmocka_unit_test_setup_teardown(instances_and_ranks_have_devices_of_their_own, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_device_that_failed_is_left_out, set_up, tear_down),
        cmocka_unit_test_setup_teardown(layers_go_where_there_is_memory, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_run_may_begin_anywhere, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
