/* Comparing two models: what the numbers mean, that cutting a graph at every node changes nothing,
 * and that the layer where a tensor was changed is named. */
#include "base/arena.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "program/dtype.h"
#include "support/run_program.h"
#include "support/synthetic_model.h"
#include "support/synthetic_program.h"
#include "tools/compile/diff_probe.h"
#include "tools/compile/diff_report.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_TRIALS = 100, N_TOKENS = 24 };

static serverd_error err;

static void must(serverd_status status)
{
    if (status != SERVERD_OK)
        fail_msg("%s", err.text);
}

/* ---- numbers --------------------------------------------------------------------------------- */

static bool is_near(double x, double y, double most)
{
    return fabs(x - y) <= most;
}

static void gaps_are_what_their_names_say(void **state)
{
    (void)state;
    const float a[] = {1, 2, -2, 4}, b[] = {1, 2.5f, -2, 3};
    struct gap gap = {0};
    gap_add(&gap, a, b, 2); /* in two parts */
    gap_add(&gap, a + 2, b + 2, 2);
    assert_true(is_near(gap_l1(&gap), 0.375, 1e-12));
    assert_true(is_near(gap_mse(&gap), 0.3125, 1e-12));
    assert_true(is_near(gap_noise(&gap), 1.25 / 25, 1e-12));
    assert_true(is_near(noise_db(gap_noise(&gap)), 13.0102999566, 1e-9));
    assert_true(is_near(gap_cosine(&gap), 22 / (5 * sqrt(20.25)), 1e-12));
    const float bad[] = {NAN};
    gap_add(&gap, a, bad, 1);
    assert_true(isinf(gap_noise(&gap)));
    assert_int_equal(gap.n_not_finite, 1);

    const struct gap none = {0};
    assert_true(gap_noise(&none) == 0 && gap_cosine(&none) == 1 && gap_l1(&none) == 0);
}

static void divergence_is_that_of_the_distributions(void **state)
{
    (void)state;
    /* p = 1/2, 1/4, 1/4; q = 1/4, 1/2, 1/4, both shifted */
    const float p[] = {logf(2) + 7, 7, 7}, q[] = {-3, logf(2) - 3, -3};
    struct logits_gap gap = {0};
    logits_gap_add(&gap, p, q, 3);
    assert_true(is_near(gap.kl_sum, 0.25 * log(2), 1e-6));
    logits_gap_add(&gap, p, p, 3);
    assert_true(is_near(gap.kl_max, 0.25 * log(2), 1e-6));
    assert_int_equal(gap.n_rows, 2);
    assert_int_equal(gap.n_agree, 1);
}

/* ---- models ---------------------------------------------------------------------------------- */

struct model {
    struct memory_file file;
    struct buffer bytes;
    struct subject subject;
};

static void open_model(struct model *model, const char *device)
{
    model->file = memory_file_create();
    memory_file_write(&model->file, model->bytes.data, model->bytes.len);
    must(subject_open(&model->subject, model->file.path, NULL, 2, &err));
    must(subject_place(&model->subject, device, NULL, &err));
}

static void make_model(struct model *model, const char *arch, const char *dtype)
{
    buffer_init(&model->bytes, 32u << 20);
    must(synthetic_model(arch, dtype, &model->bytes, &err));
}

static void close_model(struct model *model)
{
    subject_close(&model->subject);
    memory_file_close(&model->file);
    buffer_deinit(&model->bytes);
}

static void make_tokens(const struct subject *subject, struct token_sequences *tokens)
{
    must(token_sequences_make(subject, N_TOKENS, tokens, &err));
    assert_int_equal(tokens->n, 1);
    assert_int_equal(tokens->items[0].n, N_TOKENS);
}

static const char *const archs[] = {"llama",  "mistral3", "qwen2", "qwen3",
                                    "gemma2", "gemma3",   "phi3",  "bert"};

/* Cut at every node or nowhere, a delegate gives the same bits. */
static void nodes_one_by_one_give_the_bits_of_a_whole_run(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++) {
        struct model model = {0};
        struct probe probe;
        struct probe_values values = {0};
        struct token_sequences tokens;
        uint32_t rows[N_TOKENS];
        make_model(&model, archs[i], i % 2 ? "Q4_0" : "Q8_0");
        open_model(&model, "cpu");
        make_tokens(&model.subject, &tokens);
        struct program *program = model.subject.program;
        const serverd_graph *graph = &program->graph;
        for (uint32_t r = 0; r < N_TOKENS; r++)
            rows[r] = r;
        must(probe_open(&probe, &model.subject, N_TOKENS, N_TOKENS, &err));
        must(probe_values_init(&values, graph, &err));
        probe_begin(&probe, tokens.items[0].id, N_TOKENS, rows, N_TOKENS);
        for (uint32_t n = 0; n < graph->n_nodes; n++)
            must(probe_run(&probe, n, &values, &values, &err));
        float *whole = run_program(program, "cpu", tokens.items[0].id, N_TOKENS);
        size_t n = run_program_floats(program, N_TOKENS);
        assert_int_equal(n, probe_floats(&probe, graph->output));
        if (memcmp(whole, values.rows[graph->output], n * sizeof *whole) != 0)
            fail_msg("%s: other bits", archs[i]);
        free(whole);
        probe_values_deinit(&values);
        probe_close(&probe);
        token_sequences_free(&tokens);
        close_model(&model);
    }
}

static void a_model_equals_itself(void **state)
{
    (void)state;
    struct model a = {0}, b = {0};
    struct token_sequences tokens;
    struct diff_run run;
    struct diff_files files;
    make_model(&a, "gemma3", "F16");
    make_model(&b, "gemma3", "F16");
    open_model(&a, "cpu");
    open_model(&b, "cpu");
    make_tokens(&a.subject, &tokens);
    must(diff_files(&a.subject, &b.subject, &files, &err));
    assert_int_equal(files.n_tensors, 0);
    assert_int_equal(files.n_same, a.subject.program->graph.n_tensors);
    must(diff_run(&a.subject, &b.subject, &files, &tokens, &run, &err));
    assert_int_equal(run.bad_node, UINT32_MAX);
    assert_int_equal(run.n_groups, 7 + 2);
    assert_int_equal(run.n_nodes, a.subject.program->graph.n_nodes);
    for (uint32_t g = 0; g < run.n_groups; g++) {
        assert_true(gap_noise(&run.groups[g].whole) == 0);
        assert_true(run.groups[g].whole.n > 0);
        assert_int_equal(run.groups[g].n_alone, 0);
    }
    assert_true(run.logits.kl_max == 0);
    assert_int_equal(run.logits.n_agree, N_TOKENS);
    diff_run_free(&run);
    diff_files_free(&files);
    token_sequences_free(&tokens);
    close_model(&a);
    close_model(&b);
}

/* ---- the layer that was changed -------------------------------------------------------------- */

static uint64_t random_state;

static double random_unit(void) /* -1..1 */
{
    random_state = hash_mix(random_state);
    return (double)(int64_t)random_state / 0x1p63;
}

static uint32_t random_below(uint32_t n)
{
    random_state = hash_mix(random_state);
    return (uint32_t)(random_state >> 32) % n;
}

/* Noise on every number: a tenth of F32 and F16 ones, some steps of quantised ones. */
static void disturb(char *bytes, const serverd_tensor *tensor)
{
    if (tensor->dtype == DTYPE_F32) {
        for (uint64_t i = 0; i + sizeof(float) <= tensor->bytes; i += sizeof(float)) {
            float x;
            memcpy(&x, bytes + i, sizeof x);
            x *= (float)(1 + 0.15 * random_unit());
            memcpy(bytes + i, &x, sizeof x);
        }
    } else if (tensor->dtype == DTYPE_Q8_0) {
        for (uint64_t i = 0; i < tensor->bytes; i++)
            if (i % 34 >= 2) {
                int q = (int8_t)bytes[i] + (int)(12 * random_unit());
                bytes[i] = (char)(q > 127 ? 127 : q < -127 ? -127 : q);
            }
    } else {
        fail_msg("tensor %s of type %u", tensor->name, tensor->dtype);
    }
}

/* Changes a tensor of one layer in `bytes`, the file that the program was compiled from; returns
 * the layer. */
static uint32_t change_one(const struct program *program, struct buffer *bytes, char name[64])
{
    const struct mapping *file = &program->mappings[0];
    for (;;) {
        const serverd_tensor *tensor =
            &program->graph.tensors[random_below(program->graph.n_tensors)];
        size_t at = (size_t)((const char *)tensor->data - (const char *)file->data);
        unsigned layer;
        if (sscanf(tensor->name, "blk.%u.", &layer) != 1 || at + tensor->bytes > file->bytes)
            continue;
        disturb(bytes->data + at, tensor);
        (void)snprintf(name, 64, "%s", tensor->name);
        return layer;
    }
}

struct trial {
    const char *arch, *dtype_a, *dtype_b, *device_a;
};

static bool is_found(const struct trial *trial)
{
    struct model a = {0}, b = {0};
    struct token_sequences tokens;
    struct diff_files files;
    struct diff_run run;
    char name[64];
    make_model(&a, trial->arch, trial->dtype_a);
    make_model(&b, trial->arch, trial->dtype_b);
    open_model(&a, trial->device_a);
    struct program *original;
    must(compile_bytes(b.bytes.data, b.bytes.len, &original, &err));
    uint32_t layer = change_one(original, &b.bytes, name);
    open_model(&b, "cpu");
    program_unref(original);
    make_tokens(&a.subject, &tokens);
    must(diff_files(&a.subject, &b.subject, &files, &err));
    must(diff_run(&a.subject, &b.subject, &files, &tokens, &run, &err));
    uint32_t found = UINT32_MAX;
    if (run.bad_node != UINT32_MAX)
        found = run.groups[run.nodes[run.bad_node].group].layer;
    if (found != layer)
        print_message("%s %s against %s on %s: %s was changed, %d found\n", trial->arch,
                      trial->dtype_a, trial->dtype_b, trial->device_a, name, (int)found);
    diff_run_free(&run);
    diff_files_free(&files);
    token_sequences_free(&tokens);
    close_model(&a);
    close_model(&b);
    return found == layer;
}

static void a_changed_tensor_names_its_layer(void **state)
{
    (void)state;
    static const struct trial trials[] = {{"gemma3", "F32", "F32", "cpu"},
                                          {"gemma3", "F32", "Q8_0", "cpu"},
                                          {"gemma3", "Q8_0", "Q8_0", "cpu-reference"},
                                          {"gemma2", "Q8_0", "Q8_0", "cpu"},
                                          {"llama", "F32", "F32", "cpu-reference"},
                                          {"bert", "F32", "Q8_0", "cpu"}};
    uint32_t n_found = 0;
    random_state = 1;
    for (uint32_t i = 0; i < N_TRIALS; i++)
        n_found += is_found(&trials[i % (sizeof trials / sizeof *trials)]);
    assert_int_equal(n_found, N_TRIALS);
}

/* Noise that all layers have alike, of other types and arithmetic, is nobody's fault. */
static void quantised_models_have_no_bad_layer(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++) {
        struct model a = {0}, b = {0};
        struct token_sequences tokens;
        const struct diff_files none = {0};
        struct diff_run run;
        make_model(&a, archs[i], "F32");
        make_model(&b, archs[i], "Q4_0");
        open_model(&a, "cpu-reference");
        open_model(&b, "cpu");
        make_tokens(&a.subject, &tokens);
        must(diff_run(&a.subject, &b.subject, &none, &tokens, &run, &err));
        if (run.bad_node != UINT32_MAX)
            fail_msg("%s: node %u, noise %g, usual %g", archs[i], run.nodes[run.bad_node].a,
                     gap_noise(&run.nodes[run.bad_node].own), run.nodes[run.bad_node].usual);
        if (!archs[i][0] || (strcmp(archs[i], "bert") != 0 && !(run.logits.kl_max > 0)))
            fail_msg("%s: no divergence", archs[i]);
        diff_run_free(&run);
        token_sequences_free(&tokens);
        close_model(&a);
        close_model(&b);
    }
}

/* ---- files, tokens --------------------------------------------------------------------------- */

static void other_models_are_told_apart(void **state)
{
    (void)state;
    struct model a = {0}, b = {0};
    struct token_sequences tokens;
    struct diff_files files;
    struct diff_run run;
    struct buffer text;
    make_model(&a, "llama", "F32");
    make_model(&b, "gemma3", "Q8_0");
    open_model(&a, "cpu");
    open_model(&b, "cpu");
    make_tokens(&a.subject, &tokens);
    must(diff_files(&a.subject, &b.subject, &files, &err));
    unsigned seen = 0;
    for (uint32_t i = 0; i < files.n_tensors; i++)
        seen |= files.tensors[i].what;
    assert_int_equal(seen & (DIFF_ONLY_A | DIFF_ONLY_B | DIFF_DTYPE),
                     DIFF_ONLY_A | DIFF_ONLY_B | DIFF_DTYPE);
    assert_int_equal(diff_run(&a.subject, &b.subject, &files, &tokens, &run, &err),
                     SERVERD_UNSUPPORTED);
    assert_non_null(strstr(err.text, "2 layers, B has 7"));
    const struct diff_report report = {
        .a = &a.subject, .b = &b.subject, .files = &files, .why = err.text};
    buffer_init(&text, 1u << 20);
    diff_report_text(&report, &text);
    diff_report_json(&report, &text);
    assert_false(text.is_failed);
    assert_non_null(strstr(buffer_str(&text), "only in B"));
    buffer_deinit(&text);
    diff_run_free(&run);
    diff_files_free(&files);
    token_sequences_free(&tokens);
    close_model(&a);
    close_model(&b);
}

static void files_of_ids_are_read_or_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *word; /* NULL: right */
        uint32_t n;
    } rows[] = {{"[1, 2, 99]", NULL, 1},
                {"[[1], [2, 3], [4]]", NULL, 3},
                {"[]", "0 tokens", 0},
                {"[[1], []]", "0 tokens", 0},
                {"[1, 100]", "token 1 of list 0", 0},
                {"[1, -1]", "token 1", 0},
                {"[1, 2.5]", "token 1", 0},
                {"[[1], 2]", "list 1 has 0 tokens", 0},
                {"{\"ids\": [1]}", "no list", 0},
                {"[1, 2", "line 1", 0},
                {"", "line", 0}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct memory_file file = memory_file_create();
        struct token_sequences tokens = {0};
        memory_file_write(&file, rows[i].text, strlen(rows[i].text));
        serverd_status status = token_sequences_read(file.path, 100, &tokens, &err);
        if ((status == SERVERD_OK) != !rows[i].word)
            fail_msg("%s: %s", rows[i].text, status == SERVERD_OK ? "was read" : err.text);
        if (rows[i].word && !strstr(err.text, rows[i].word))
            fail_msg("%s: \"%s\"", rows[i].text, err.text);
        if (!rows[i].word)
            assert_int_equal(tokens.n, rows[i].n);
        token_sequences_free(&tokens);
        memory_file_close(&file);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gaps_are_what_their_names_say),
        cmocka_unit_test(divergence_is_that_of_the_distributions),
        cmocka_unit_test(nodes_one_by_one_give_the_bits_of_a_whole_run),
        cmocka_unit_test(a_model_equals_itself),
        cmocka_unit_test(a_changed_tensor_names_its_layer),
        cmocka_unit_test(quantised_models_have_no_bad_layer),
        cmocka_unit_test(other_models_are_told_apart),
        cmocka_unit_test(files_of_ids_are_read_or_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
