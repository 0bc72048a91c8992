/* serverd-inspect FILE */
#include "tools/inspect/commands.h"

#include "base/error.h"
#include "base/file.h"
#include "base/limits.h"
#include "program/dtype.h"
#include "tools/inspect/drawing.h"
#include "tools/inspect/report.h"

#include <stdio.h>
#include <string.h>

#define OUTPUT_BYTES (512 * MIB) /* tensors and tokens of the largest models are far below it */

struct values {
    const char *file, *device, *place, *delegate, *graph;
    uint32_t context, seqs, prefill_chunk, threads;
    int kv_dtype;
    bool json, tensors, plan, tokens;
};

#define AT(field) offsetof(struct values, field)

static const struct command_option rows[] = {
    {"file", 0, COMMAND_STRING, AT(file), "FILE", NULL, 0, 0,
     "A program file; or a GGUF file or Hugging Face folder, which is compiled in memory"},
    {"json", 0, COMMAND_FLAG, AT(json), NULL, NULL, 0, 0, "The same as JSON"},
    {"tensors", 0, COMMAND_FLAG, AT(tensors), NULL, NULL, 0, 0,
     "List the weights: type, shape, layout, bytes"},
    {"plan", 0, COMMAND_FLAG, AT(plan), NULL, NULL, 0, 0,
     "Say why each node is on its device, and what the memory plan saves"},
    {"tokens", 0, COMMAND_FLAG, AT(tokens), NULL, NULL, 0, 0, "List the vocabulary"},
    {"graph", 0, COMMAND_STRING, AT(graph), "FILE", NULL, 0, 0,
     "Draw the graph into a file: .dot, .svg, or .html, where layers open when clicked"},
    {"device", 0, COMMAND_STRING, AT(device), "NAME", "auto", 0, 0, "As serverd's option"},
    {"place", 0, COMMAND_STRING, AT(place), "LIST", NULL, 0, 0, "As serverd's option"},
    {"delegate", 0, COMMAND_STRING, AT(delegate), "FILES", NULL, 0, 0, "As serverd's option"},
    {"context", 'c', COMMAND_COUNT, AT(context), "TOKENS", "0", 0, 16777216,
     "Predict memory for sequences of so many tokens; 0: what the model was trained for"},
    {"seqs", 's', COMMAND_COUNT, AT(seqs), "N", "16", 1, 4096, "Sequences that run at once"},
    {"prefill-chunk", 0, COMMAND_COUNT, AT(prefill_chunk), "TOKENS", "512", 16, 8192,
     "As serverd's option"},
    {"kv-dtype", 0, COMMAND_CHOICE, AT(kv_dtype), "bf16|f16|int8|f32", "bf16", 0, 0,
     "Type of cached keys and values"},
    {"threads", 't', COMMAND_COUNT, AT(threads), "N", "0", 0, 1024,
     "Threads to plan for; 0: one for each processor that the process may use"},
};

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), tail = strlen(end);
    return n > tail && strcmp(text + n - tail, end) == 0;
}

/* ---- drawing --------------------------------------------------------------------------------- */

static const struct {
    const char *ending;
    void (*draw)(const struct drawing *drawing, struct buffer *out);
} forms[] = {{".dot", draw_dot}, {".svg", draw_svg}, {".html", draw_html}};

static serverd_status write_out(const char *path, const struct buffer *text, serverd_error *err)
{
    struct new_file file;
    serverd_status status = new_file_create(path, 0666, &file, err);
    if (status != SERVERD_OK)
        return status;
    status = new_file_write_at(&file, 0, text->data, text->len, err);
    if (status != SERVERD_OK) {
        new_file_discard(&file);
        return status;
    }
    return new_file_commit(&file, err);
}

static serverd_status draw(const struct subject *subject, const char *path, serverd_error *err)
{
    struct drawing *drawing = NULL;
    struct buffer out;
    size_t form = 0;
    while (form < 3 && !ends_with(path, forms[form].ending))
        form++;
    if (form == 3)
        return fail(err, SERVERD_INVALID, "--graph: %s ends in none of .dot, .svg, .html", path);
    serverd_status status = drawing_create(subject, &drawing, err);
    if (status != SERVERD_OK)
        return status;
    buffer_init(&out, OUTPUT_BYTES);
    forms[form].draw(drawing, &out);
    status = out.is_failed ? fail(err, SERVERD_NOMEM, "no memory to draw %s", path)
                           : write_out(path, &out, err);
    buffer_deinit(&out);
    drawing_destroy(drawing);
    return status;
}

/* ---- the report ------------------------------------------------------------------------------ */

static serverd_status print(const struct buffer *text, serverd_error *err)
{
    if (text->is_failed)
        return fail(err, SERVERD_NOMEM, "no memory for the report");
    if (fwrite(buffer_str(text), 1, text->len, stdout) != text->len || fflush(stdout) != 0)
        return fail(err, SERVERD_INVALID, "cannot write to standard output: %m");
    return SERVERD_OK;
}

static serverd_status report(const struct subject *subject, const struct values *values,
                             serverd_error *err)
{
    static const serverd_dtype kv_dtypes[] = {DTYPE_BF16, DTYPE_F16, DTYPE_I8,
                                              DTYPE_F32}; /* as the option */
    static const char *const kv_names[] = {"bf16", "f16", "int8", "f32"};
    const struct memory_options options = {.device = values->device,
                                           .place = values->place,
                                           .context = values->context,
                                           .seqs = values->seqs,
                                           .prefill_chunk = values->prefill_chunk,
                                           .kv_dtype = kv_dtypes[values->kv_dtype]};
    struct memory_facts memory;
    serverd_error why;
    struct buffer text;
    bool is_known = memory_predict(subject, &options, &memory, &why) == SERVERD_OK;
    const struct report_parts parts = {.has_tensors = values->tensors,
                                       .has_plan = values->plan,
                                       .has_tokens = values->tokens,
                                       .memory = is_known ? &memory : NULL,
                                       .why = is_known ? NULL : why.text,
                                       .kv_dtype = kv_names[values->kv_dtype]};
    buffer_init(&text, OUTPUT_BYTES);
    if (values->json)
        report_json(subject, &parts, &text);
    else
        report_text(subject, &parts, &text);
    serverd_status status = print(&text, err);
    buffer_deinit(&text);
    return status;
}

static serverd_status run(const void *arg, serverd_error *err)
{
    const struct values *values = arg;
    struct subject subject = {0};
    if (!values->file)
        return fail(err, SERVERD_INVALID, "names no file; see --help");
    serverd_status status =
        subject_open(&subject, values->file, values->delegate, values->threads, err);
    if (status == SERVERD_OK)
        status = subject_place(&subject, values->device, values->place, err);
    if (status == SERVERD_OK && values->graph)
        status = draw(&subject, values->graph, err);
    else if (status == SERVERD_OK)
        status = report(&subject, values, err);
    subject_close(&subject);
    return status;
}

const struct command inspect_command = {.name = "",
                                        .summary = "Says what is in a model's file",
                                        .options = rows,
                                        .n_options = sizeof rows / sizeof *rows,
                                        .bare = {"file"},
                                        .run = run,
                                        .values_bytes = sizeof(struct values)};
