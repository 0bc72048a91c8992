/* What serverd-inspect says and draws: texts of unknown origin, boxes that do not overlap, JSON
 * that parses. The whole tool is tested by tests/e2e/test_inspect.py. */
#include "support/synthetic_model.h"
#include "support/synthetic_program.h"
#include "tools/inspect/drawing.h"
#include "tools/inspect/json.h"
#include "tools/inspect/report.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static serverd_error err;

static void must(serverd_status status)
{
    if (status != SERVERD_OK)
        fail_msg("%s", err.text);
}

struct model {
    struct memory_file file;
    struct subject subject;
};

static void open_model(struct model *model, const char *arch)
{
    struct buffer bytes;
    buffer_init(&bytes, 32u << 20);
    must(synthetic_model(arch, "Q8_0", &bytes, &err));
    model->file = memory_file_create();
    memory_file_write(&model->file, bytes.data, bytes.len);
    buffer_deinit(&bytes);
    must(subject_open(&model->subject, model->file.path, NULL, 2, &err));
    must(subject_place(&model->subject, "auto", NULL, &err));
}

static void close_model(struct model *model)
{
    subject_close(&model->subject);
    memory_file_close(&model->file);
}

static const char *const archs[] = {"llama",  "mistral3", "qwen2", "qwen3",
                                    "gemma2", "gemma3",   "phi3",  "bert"};

/* ---- texts ----------------------------------------------------------------------------------- */

static void bytes_are_said_in_three_digits(void **state)
{
    (void)state;
    static const struct {
        uint64_t bytes;
        const char *text;
    } rows[] = {{0, "0 B"},
                {999, "999 B"},
                {1000, "1.00 kB"},
                {9994, "9.99 kB"},
                {9995, "10.0 kB"},
                {96576896, "96.6 MB"},
                {999949999, "999.9 MB"},
                {999950000, "1.00 GB"},
                {3020000000, "3.02 GB"},
                {UINT64_MAX, "18446744.1 TB"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[24];
        format_bytes(rows[i].bytes, text, sizeof text);
        assert_string_equal(text, rows[i].text);
    }
}

static void json_has_its_commas(void **state)
{
    (void)state;
    struct buffer out;
    buffer_init(&out, 4096);
    json_begin(&out, '{');
    json_text(&out, "a", "[");
    json_text(&out, "none", NULL);
    json_begin_in(&out, "list", '[');
    json_item_count(&out, 1);
    json_item_text(&out, "\"\n\xff");
    json_begin(&out, '{');
    json_end(&out, '}');
    json_begin(&out, '{');
    json_number(&out, "x", 0.5);
    json_number(&out, "bad", INFINITY);
    json_flag(&out, "flag", true);
    json_end(&out, '}');
    json_end(&out, ']');
    json_hex(&out, "hash", (const uint8_t *)"\x01\xfe", 2);
    json_end(&out, '}');
    json_error_t problem;
    json_t *root = json_loads(buffer_str(&out), 0, &problem);
    if (!root)
        fail_msg("%s: %s", problem.text, buffer_str(&out));
    assert_int_equal(json_array_size(json_object_get(root, "list")), 4);
    assert_string_equal(json_string_value(json_object_get(root, "hash")), "01fe");
    assert_true(json_is_null(json_object_get(root, "none")));
    json_decref(root);
    buffer_deinit(&out);
}

/* ---- drawings -------------------------------------------------------------------------------- */

static bool is_apart(const struct drawing_place *a, const struct drawing_place *b)
{
    return a->group != b->group || a->x + BOX_WIDTH < b->x || b->x + BOX_WIDTH < a->x ||
           a->y + BOX_HEIGHT < b->y || b->y + BOX_HEIGHT < a->y;
}

static void boxes_stand_apart_below_what_they_read(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++) {
        struct model model;
        struct drawing *drawing;
        open_model(&model, archs[i]);
        must(drawing_create(&model.subject, &drawing, &err));
        const serverd_graph *graph = &model.subject.program->graph;
        assert_int_equal(drawing->n_groups, model.subject.program->config.n_layers + 2);
        for (uint32_t n = 0; n < graph->n_nodes; n++) {
            const struct drawing_place *place = &drawing->places[n];
            const struct drawing_group *group = &drawing->groups[place->group];
            assert_true(n >= group->first_node && n < group->first_node + group->n_nodes);
            assert_true(place->x >= 0 && place->x + BOX_WIDTH <= group->width);
            assert_true(place->y >= 0 && place->y + BOX_HEIGHT <= group->height);
            for (uint32_t m = 0; m < n; m++)
                assert_true(is_apart(place, &drawing->places[m]));
            for (uint32_t k = 0; k < graph->nodes[n].n_inputs; k++) {
                uint32_t producer = drawing_producer(drawing, n, k);
                if (producer == UINT32_MAX)
                    continue;
                const struct drawing_place *from = &drawing->places[producer];
                assert_true(from->group < place->group ||
                            (from->group == place->group && from->y + BOX_HEIGHT < place->y));
                assert_true(from->group == place->group || from->reader != 0);
            }
        }
        drawing_destroy(drawing);
        close_model(&model);
    }
}

static const char *escape_nothing(char c)
{
    (void)c;
    return NULL;
}

static void ill_formed_text_becomes_well_formed(void **state)
{
    (void)state;
    struct buffer out;
    buffer_init(&out, 4096);
    drawing_put_text(&out,
                     "a\x01"
                     "b\xff\xc3\xa4\xed\xa0\x80\x7f\xef\xbf\xbe",
                     escape_nothing);
    assert_string_equal(buffer_str(&out),
                        "ab\xef\xbf\xbd\xc3\xa4\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
    buffer_deinit(&out);
}

/* Names in a program file may be anything. */
static void names_stay_inside_their_quotes(void **state)
{
    (void)state;
    struct model model;
    struct drawing *drawing;
    open_model(&model, "llama");
    serverd_tensor *tensors = (serverd_tensor *)model.subject.program->graph.tensors;
    for (uint32_t i = 0; i < model.subject.program->graph.n_tensors; i++)
        tensors[i].name = "\"];x[</title><script>\\\n\xff";
    must(drawing_create(&model.subject, &drawing, &err));
    void (*const draw[])(const struct drawing *, struct buffer *) = {draw_svg, draw_html, draw_dot};
    for (int i = 0; i < 3; i++) {
        struct buffer out;
        buffer_init(&out, 1u << 24);
        draw[i](drawing, &out);
        assert_false(out.is_failed);
        assert_null(strstr(buffer_str(&out), i < 2 ? "<script" : "\n\xff"));
        assert_null(strstr(buffer_str(&out), i < 2 ? "\"];x" : "\n\"];x"));
        assert_non_null(strstr(buffer_str(&out), i < 2 ? "&lt;script&gt;" : "\\\"];x"));
        assert_null(strchr(buffer_str(&out), '\xff'));
        buffer_deinit(&out);
    }
    drawing_destroy(drawing);
    close_model(&model);
}

/* ---- reports --------------------------------------------------------------------------------- */

static void reports_of_all_architectures_parse(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++) {
        struct model model;
        struct buffer out;
        json_error_t problem;
        const struct report_parts parts = {
            .has_tensors = true, .has_plan = true, .has_tokens = true, .why = "no \"reason\""};
        open_model(&model, archs[i]);
        buffer_init(&out, 1u << 26);
        report_json(&model.subject, &parts, &out);
        json_t *root = json_loads(buffer_str(&out), JSON_REJECT_DUPLICATES, &problem);
        if (!root)
            fail_msg("%s: %s", archs[i], problem.text);
        const struct program *program = model.subject.program;
        assert_int_equal(json_array_size(json_object_get(root, "tensors")),
                         program->graph.n_tensors);
        assert_int_equal(json_array_size(json_object_get(root, "tokens")),
                         program->vocabulary.n_tokens);
        assert_true(json_array_size(json_object_get(root, "partitions")) > 0);
        assert_string_equal(
            json_string_value(json_object_get(json_object_get(root, "memory"), "error")),
            "no \"reason\"");
        json_decref(root);
        buffer_reset(&out);
        report_text(&model.subject, &parts, &out);
        assert_non_null(strstr(buffer_str(&out), archs[i]));
        assert_non_null(strstr(buffer_str(&out), "blk.0"));
        buffer_deinit(&out);
        close_model(&model);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_are_said_in_three_digits),
        cmocka_unit_test(json_has_its_commas),
        cmocka_unit_test(boxes_stand_apart_below_what_they_read),
        cmocka_unit_test(ill_formed_text_becomes_well_formed),
        cmocka_unit_test(names_stay_inside_their_quotes),
        cmocka_unit_test(reports_of_all_architectures_parse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
