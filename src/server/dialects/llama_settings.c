#include "server/dialects/llama_settings.h"

#include "server/request/sampling_fields.h"

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

static const struct {
    const char *name;
    size_t offset;
} numbers[] = {
#define NUMBER(name, member)                                                                       \
    {                                                                                              \
        name, offsetof(struct sampling_params, member)                                             \
    }
    NUMBER("temperature", temperature),
    NUMBER("top_p", top_p),
    NUMBER("min_p", min_p),
    NUMBER("top_n_sigma", top_n_sigma),
    NUMBER("xtc_probability", xtc_probability),
    NUMBER("xtc_threshold", xtc_threshold),
    NUMBER("typical_p", typical_p),
    NUMBER("repeat_penalty", repetition_penalty),
    NUMBER("presence_penalty", presence_penalty),
    NUMBER("frequency_penalty", frequency_penalty),
    NUMBER("dry_multiplier", dry_multiplier),
    NUMBER("dry_base", dry_base),
#undef NUMBER
};

static void write_flag(const char *name, bool value, struct buffer *out)
{
    buffer_printf(out, ",\"%s\":%s", name, value ? "true" : "false");
}

static void write_texts(const struct api_fields *f, const struct request *request,
                        struct buffer *out)
{
    const struct sampling_params *p = &request->sampling;
    buffer_append_str(out, ",\"dry_sequence_breakers\":[");
    for (uint32_t i = 0; i < p->n_dry_breakers; i++) {
        buffer_append_str(out, i ? "," : "");
        buffer_append_json_string(out, p->dry_breakers[i].bytes, p->dry_breakers[i].n);
    }
    buffer_append_str(out, "],\"stop\":[");
    for (uint32_t i = 0; i < request->n_stops; i++) {
        buffer_append_str(out, i ? "," : "");
        buffer_append_json_string(out, request->stops[i].bytes, request->stops[i].len);
    }
    buffer_append_str(out, "],\"samplers\":[");
    for (uint32_t i = 0; i < p->n_steps; i++)
        buffer_printf(out, "%s\"%s\"", i ? "," : "", sampling_step_name(p->step[i]));
    const json_t *grammar = json_body_get(f->root, "grammar");
    buffer_append_str(out, "],\"grammar\":");
    buffer_append_json_string(out, grammar ? json_string_value(grammar) : "",
                              json_string_length(grammar));
}

void llama_settings_write(const struct exchange *x, const struct api_fields *f,
                          const struct request *request, bool is_default, struct buffer *out)
{
    const struct sampling_params *p = &request->sampling;
    const int64_t n_predict = f->max_tokens == API_UNSET ? -1 : f->max_tokens;
    const char *name = exchange_model(x)->name;
    buffer_printf(out, "{\"n_ctx\":%u,\"model\":", exchange_model(x)->context_size);
    buffer_append_json_string(out, name, strlen(name));
    buffer_printf(out, ",\"n_predict\":%" PRId64 ",\"max_tokens\":%" PRId64 ",\"seed\":", n_predict,
                  n_predict);
    /* as a request would have to state it */
    buffer_printf(out, "%" PRId64, is_default ? -1 : (int64_t)p->seed);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        buffer_printf(out, ",\"%s\":", numbers[i].name);
        buffer_append_f32(out, *(const float *)(const void *)((const char *)p + numbers[i].offset));
    }
    buffer_printf(out,
                  ",\"top_k\":%d,\"repeat_last_n\":%" PRId64
                  ",\"dry_allowed_length\":%u,\"dry_penalty_last_n\":%d,\"n_probs\":%" PRId64,
                  p->top_k, f->repeat_last_n, p->dry_allowed, p->dry_penalty_last,
                  f->top_logprobs == API_UNSET ? 0 : f->top_logprobs);
    write_flag("ignore_eos", p->ignore_eos, out);
    write_flag("stream", f->stream, out);
    write_flag("timings_per_token", f->timings_per_token, out);
    write_flag("post_sampling_probs", f->post_sampling_probs, out);
    write_texts(f, request, out);
    buffer_append_char(out, '}');
}
