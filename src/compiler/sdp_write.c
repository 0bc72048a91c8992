#include "compiler/sdp_write.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "compiler/sdp_plan_write.h"
#include "compiler/sdp_segment.h"
#include "compiler/sdp_tables.h"
#include "program/sdp_file.h"
#include "text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Smaller models do not fill a huge page with every tensor. */
#define HUGE_PAGE          (2 * MIB)
#define SMALL_PAGE         (4 * KIB)
#define HUGE_PAGES_FROM    (16 * MIB)
#define SMALL_SECTION_BITS 6
#define SECTION_GAP        (1u << SMALL_SECTION_BITS)

/* Bytes of a small section: far above what the largest vocabulary needs. */
#define SECTION_BYTES (1 * GIB)

enum { MAX_SECTIONS = 16 + SDP_MAX_SEGMENTS };

struct writer {
    const struct program *program;
    const struct sdp_write_options *options;
    const serverd_graph *graph; /* the program's */
    uint8_t (*tensor_hash)[32];
    struct segment segments[SDP_MAX_SEGMENTS]; /* of one delegate each, in the first sections */
    uint32_t n_segments;
    struct string_table strings;
    struct sdp_section sections[MAX_SECTIONS];
    struct buffer bytes[MAX_SECTIONS]; /* of small sections */
    uint32_t n_sections;
    uint32_t segment_alignment;
    struct new_file file;
};

static serverd_status no_memory(serverd_error *err)
{
    return fail(err, SERVERD_NOMEM, "no memory to write a program");
}

static serverd_status check_tensors(struct writer *writer, serverd_error *err)
{
    size_t n = max_size(writer->graph->n_tensors, 1);
    writer->tensor_hash = calloc(n, sizeof *writer->tensor_hash);
    if (!writer->tensor_hash)
        return no_memory(err);
    for (uint32_t i = 0; i < writer->graph->n_tensors; i++)
        if (!writer->graph->tensors[i].data)
            return fail(err, SERVERD_UNSUPPORTED,
                        "tensor %s: the source has it in packed form only",
                        writer->graph->tensors[i].name);
    return SERVERD_OK;
}

/* ---- forms ----------------------------------------------------------------------------------- */

/* The delegate's form. Of the first one, unless it is not made of the tensor's own bits, so that it
 * could not be turned back: then rows, which are packed when the file is opened. */
static serverd_status choose_form(const struct segment *segment, bool is_first, uint32_t tensor,
                                  serverd_form *out, serverd_error *err)
{
    const serverd_tensor *t = &segment->graph->tensors[tensor];
    *out = (serverd_form){.struct_bytes = sizeof *out};
    serverd_status status = segment->delegate->form(t, out, err);
    if (status != SERVERD_OK)
        return error_context(err, "tensor %s", t->name);
    if (out->layout == SERVERD_LAYOUT_ROWS || (is_first && out->bytes > 2 * t->bytes))
        *out = (serverd_form){.struct_bytes = sizeof *out,
                              .layout = SERVERD_LAYOUT_ROWS,
                              .bytes = t->bytes,
                              .alignment = 1};
    return SERVERD_OK;
}

/* Whether an earlier delegate's form of the tensor is the same. */
static bool is_there(const struct writer *writer, uint32_t n_segments,
                     const struct segment_form *form)
{
    for (uint32_t s = 0; s < n_segments; s++)
        for (uint32_t i = 0; i < writer->segments[s].n_forms; i++)
            if (writer->segments[s].forms[i].tensor == form->tensor &&
                writer->segments[s].forms[i].form.layout == form->form.layout)
                return true;
    return false;
}

static void forget_tensor(void *context, uint32_t tensor)
{
    const struct writer *writer = context;
    program_forget_tensor(writer->program, tensor);
}

static void report_progress(void *context, double share)
{
    const struct sdp_write_options *options = ((const struct writer *)context)->options;
    if (options->progress)
        options->progress(options->progress_context, share);
}

/* Of the first delegate every tensor has a form; of the others, what is not there already. */
static serverd_status choose_forms(struct writer *writer, const serverd_delegate *delegate,
                                   serverd_error *err)
{
    const uint32_t index = writer->n_segments;
    if (index == SDP_MAX_SEGMENTS)
        return fail(err, SERVERD_INVALID, "forms of more than %u back-ends", SDP_MAX_SEGMENTS);
    struct segment *segment = &writer->segments[writer->n_segments++];
    *segment = (struct segment){
        .graph = writer->graph,
        .delegate = delegate,
        .pool = writer->options->pool,
        .file = &writer->file,
        .forms = calloc(max_size(writer->graph->n_tensors, 1), sizeof *segment->forms),
        .forget = forget_tensor,
        .progress = report_progress,
        .context = writer};
    if (!segment->forms)
        return no_memory(err);
    for (uint32_t i = 0; i < writer->graph->n_tensors; i++) {
        struct segment_form *form = &segment->forms[segment->n_forms];
        form->tensor = i;
        serverd_status status = choose_form(segment, index == 0, i, &form->form, err);
        if (status != SERVERD_OK)
            return status;
        segment->n_forms += !is_there(writer, index, form);
    }
    if (segment->n_forms == 0 && index > 0) { /* it reads what others do */
        free(segment->forms);
        writer->n_segments--;
    }
    return SERVERD_OK;
}

static serverd_status choose_all_forms(struct writer *writer, serverd_error *err)
{
    const struct sdp_write_options *options = writer->options;
    serverd_status status = choose_forms(writer, options->delegate, err);
    for (uint32_t i = 0; i < options->n_others && status == SERVERD_OK; i++)
        status = choose_forms(writer, options->others[i], err);
    return status;
}

/* ---- sections -------------------------------------------------------------------------------- */

/* A section whose bytes the caller appends. */
static struct buffer *add_section(struct writer *writer, uint32_t type, uint16_t flags)
{
    uint32_t i = writer->n_sections++;
    writer->sections[i] = (struct sdp_section){.type = type,
                                               .version = 1,
                                               .flags = flags | SDP_IN_PLACE,
                                               .target = SDP_ANY_TARGET,
                                               .alignment = SMALL_SECTION_BITS};
    buffer_init(&writer->bytes[i], SECTION_BYTES);
    return &writer->bytes[i];
}

static void set_items(struct writer *writer, uint32_t type, uint64_t n)
{
    for (uint32_t i = 0; i < writer->n_sections; i++)
        if (writer->sections[i].type == type)
            writer->sections[i].n_items = n;
}

static void put_target(const serverd_delegate *delegate, const char *name, uint64_t isa,
                       struct buffer *out)
{
    struct sdp_target target = {.least_abi = delegate->abi, .contract = 2, .isa = isa};
    (void)snprintf(target.name, sizeof target.name, "%s", name);
    (void)snprintf(target.delegate, sizeof target.delegate, "%s", delegate->name);
    buffer_append(out, &target, sizeof target);
}

/* The first three run the same packed weights; they differ in what their processors have. */
static uint32_t put_targets(const struct writer *writer, struct buffer *out)
{
    static const uint64_t avx2 = SDP_ISA_AVX2 | SDP_ISA_FMA | SDP_ISA_F16C;
    static const struct {
        const char *name;
        uint64_t isa;
    } targets[] = {{"cpu-avx512vnni", avx2 | SDP_ISA_AVX512 | SDP_ISA_AVX512_VNNI},
                   {"cpu-avx2", avx2},
                   {"cpu-portable", 0}};
    const uint32_t n = sizeof targets / sizeof *targets;
    for (uint32_t i = 0; i < n; i++)
        put_target(writer->options->delegate, targets[i].name, targets[i].isa, out);
    for (uint32_t i = 0; i < writer->options->n_others; i++)
        put_target(writer->options->others[i], writer->options->others[i]->name, 0, out);
    return n + writer->options->n_others;
}

static serverd_status put_plan(struct writer *writer, serverd_error *err)
{
    struct buffer plan;
    uint32_t n_partitions = 0;
    buffer_init(&plan, SECTION_BYTES);
    serverd_status status = sdp_put_plan(writer->program, writer->options->delegate,
                                         &writer->options->limits, &plan, &n_partitions, err);
    if (status == SERVERD_OK && n_partitions > 0) {
        struct buffer *out = add_section(writer, SDP_PLAN, 0);
        buffer_append(out, plan.data, plan.len);
        out->is_failed |= plan.is_failed;
        set_items(writer, SDP_PLAN, n_partitions);
    }
    buffer_deinit(&plan);
    return status;
}

/* Everything that is small, the weights' hashes among it. */
static serverd_status make_sections(struct writer *writer, serverd_error *err)
{
    const struct program *program = writer->program;
    const struct sdp_write_options *options = writer->options;
    struct buffer *strings;
    sdp_put_config(program, add_section(writer, SDP_CONF, SDP_REQUIRED | SDP_IDENTITY));
    strings = add_section(writer, SDP_STRS, SDP_REQUIRED);
    sdp_put_tensors(program, &writer->strings, (const uint8_t(*)[32])writer->tensor_hash,
                    add_section(writer, SDP_TENS, SDP_REQUIRED | SDP_IDENTITY));
    set_items(writer, SDP_TENS, writer->graph->n_tensors);
    sdp_put_graph(program, add_section(writer, SDP_GRPH, SDP_REQUIRED | SDP_IDENTITY));
    set_items(writer, SDP_TARG, put_targets(writer, add_section(writer, SDP_TARG, SDP_REQUIRED)));
    set_items(writer, SDP_FORM,
              sdp_put_forms(program, writer->segments, writer->n_segments,
                            add_section(writer, SDP_FORM, SDP_REQUIRED)));
    serverd_status status = options->limits.max_rows > 0 ? put_plan(writer, err) : SERVERD_OK;
    if (status != SERVERD_OK)
        return status;
    sdp_put_chat(program, add_section(writer, SDP_CHAT, 0));
    if (program->vocabulary.kind != VOCABULARY_NONE)
        status = tokenizer_image_build(&program->vocabulary,
                                       add_section(writer, SDP_TOKN, SDP_REQUIRED), err);
    if (options->meta)
        buffer_append_str(add_section(writer, SDP_META, 0), options->meta);
    if (options->report)
        buffer_append_str(add_section(writer, SDP_REPT, 0), options->report);
    if (options->debug)
        buffer_append_str(add_section(writer, SDP_DEBG, 0), options->debug);
    buffer_append(strings, writer->strings.bytes.data, writer->strings.bytes.len);
    return status;
}

/* From `at` on; *end is behind it. */
static serverd_status write_segment(struct writer *writer, uint32_t index, uint64_t at,
                                    uint64_t *end, serverd_error *err)
{
    struct segment *segment = &writer->segments[index];
    struct sdp_section *section = &writer->sections[index];
    uint64_t bytes;
    if (!segment_place(segment, &bytes) || !size_align(at, writer->segment_alignment, &at))
        return no_memory(err);
    section->alignment = writer->segment_alignment == HUGE_PAGE ? 21 : 12;
    section->offset = segment->file_offset = at;
    section->stored_bytes = section->raw_bytes = bytes;
    section->n_items = segment->n_forms;
    *end = at + bytes;
    return segment_write(segment, writer->tensor_hash, section->hash, &section->checksum, err);
}

/* The weights come first: their place does not depend on what their hashes make of the rest. */
static serverd_status write_weights(struct writer *writer, uint64_t *end, serverd_error *err)
{
    uint64_t bytes;
    if (!segment_place(&writer->segments[0], &bytes))
        return no_memory(err);
    writer->segment_alignment = bytes >= HUGE_PAGES_FROM ? HUGE_PAGE : SMALL_PAGE;
    serverd_status status = SERVERD_OK;
    *end = writer->segment_alignment;
    for (uint32_t i = 0; i < writer->n_segments; i++)
        (void)add_section(writer, SDP_WGHT, SDP_REQUIRED | SDP_LAZY);
    for (uint32_t i = 0; i < writer->n_segments && status == SERVERD_OK; i++)
        status = write_segment(writer, i, *end, end, err);
    return status;
}

/* Sections first, first + 1, .. at `at`; *end is where the section table goes. Gaps may have been
 * written before. */
static serverd_status write_sections(struct writer *writer, uint32_t first, uint64_t at,
                                     uint64_t *end, serverd_error *err)
{
    static const char zeros[SECTION_GAP];
    serverd_status status = SERVERD_OK;
    for (uint32_t i = first; i < writer->n_sections && status == SERVERD_OK; i++) {
        struct sdp_section *section = &writer->sections[i];
        const struct buffer *bytes = &writer->bytes[i];
        if (bytes->is_failed)
            return no_memory(err);
        section->offset = at;
        section->stored_bytes = section->raw_bytes = bytes->len;
        section->checksum = checksum64(buffer_str(bytes), bytes->len);
        sha256_tree(buffer_str(bytes), bytes->len, section->hash);
        status = new_file_write_at(&writer->file, at, buffer_str(bytes), bytes->len, err);
        const uint64_t gap = (SECTION_GAP - bytes->len % SECTION_GAP) % SECTION_GAP;
        at += bytes->len + gap;
        if (status == SERVERD_OK)
            status = new_file_write_at(&writer->file, at - gap, zeros, gap, err);
    }
    *end = at;
    return status;
}

static void copy_hash(uint8_t to[32], const uint8_t *or_null)
{
    if (or_null)
        memcpy(to, or_null, 32);
}

static serverd_status write_header(struct writer *writer, uint64_t table_offset, serverd_error *err)
{
    uint64_t table_bytes = writer->n_sections * sizeof *writer->sections;
    struct sdp_header header = {.major = SDP_MAJOR,
                                .minor = SDP_MINOR,
                                .header_bytes = sizeof header,
                                .file_bytes = table_offset + table_bytes,
                                .required = sdp_required_features(writer->program),
                                .table_offset = table_offset,
                                .n_sections = writer->n_sections,
                                .section_bytes = sizeof *writer->sections,
                                .kind = SDP_KIND_PROGRAM,
                                .segment_alignment = writer->segment_alignment,
                                .producer = "serverd " PROJECT_VERSION};
    memcpy(header.magic, SDP_MAGIC, sizeof header.magic);
    copy_hash(header.source_hash, writer->options->source_hash);
    copy_hash(header.options_hash, writer->options->options_hash);
    sdp_compute_ids(&header, writer->sections, header.program_id, header.file_root);
    header.checksum = sdp_compute_checksum(&header, writer->sections);
    serverd_status status =
        new_file_write_at(&writer->file, table_offset, writer->sections, table_bytes, err);
    if (status != SERVERD_OK)
        return status;
    return new_file_write_at(&writer->file, 0, &header, sizeof header, err);
}

/* ---- all ------------------------------------------------------------------------------------- */

/* The tests are made of the file itself: they come behind everything else. */
static serverd_status add_tests(struct writer *writer, uint64_t at, serverd_error *err)
{
    const struct sdp_write_options *options = writer->options;
    if (!options->make_tests || writer->graph->n_nodes == 0)
        return SERVERD_OK;
    const uint32_t index = writer->n_sections;
    serverd_status status = options->make_tests(options->tests_context, writer->file.temporary,
                                                add_section(writer, SDP_TEST, 0), err);
    if (status == SERVERD_OK)
        status = write_sections(writer, index, at, &at, err);
    return status == SERVERD_OK ? write_header(writer, at, err) : status;
}

static serverd_status write_all(struct writer *writer, serverd_error *err)
{
    serverd_status status = check_tensors(writer, err);
    if (status != SERVERD_OK)
        return status;
    uint64_t end;
    if ((status = choose_all_forms(writer, err)) != SERVERD_OK ||
        (status = write_weights(writer, &end, err)) != SERVERD_OK)
        return status;
    end = (end + SECTION_GAP - 1) / SECTION_GAP * SECTION_GAP;
    if ((status = make_sections(writer, err)) != SERVERD_OK ||
        (status = write_sections(writer, writer->n_segments, end, &end, err)) != SERVERD_OK ||
        (status = write_header(writer, end, err)) != SERVERD_OK)
        return status;
    return add_tests(writer, end, err);
}

serverd_status sdp_write(const struct program *program, const struct sdp_write_options *options,
                         serverd_error *err)
{
    struct writer writer = {.program = program, .options = options, .graph = &program->graph};
    serverd_status status = new_file_create(options->path, 0666, &writer.file, err);
    if (status != SERVERD_OK)
        return status;
    string_table_init(&writer.strings);
    status = write_all(&writer, err);
    if (status == SERVERD_OK)
        status = new_file_commit(&writer.file, err);
    else
        (void)error_context(err, "%s", options->path);
    new_file_discard(&writer.file);
    for (uint32_t i = 0; i < writer.n_sections; i++)
        buffer_deinit(&writer.bytes[i]);
    string_table_deinit(&writer.strings);
    free(writer.tensor_hash);
    for (uint32_t i = 0; i < writer.n_segments; i++)
        free(writer.segments[i].forms);
    return status;
}
