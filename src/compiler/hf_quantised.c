#include "compiler/hf_quantised.h"

#include "base/error.h"
#include "base/limits.h"

#include <string.h>

/* ---- config.json ----------------------------------------------------------------------------- */

static serverd_status refuse(const struct json_place *place, const char *name, const char *found,
                             const char *supported, serverd_error *err)
{
    return fail(err, SERVERD_UNSUPPORTED, "%s: %s.%s: \"%.64s\" is not supported; %s", place->file,
                place->where, name, found, supported);
}

/* group_size: -1 is the whole row. */
static serverd_status read_group(const struct json_place *place, uint32_t *out, serverd_error *err)
{
    double group = 128;
    serverd_status status;
    if ((status = json_place_f64(place, "q_group_size", -1, LIMIT_FF, &group, err)) != SERVERD_OK ||
        (status = json_place_f64(place, "group_size", -1, LIMIT_FF, &group, err)) != SERVERD_OK)
        return status;
    *out = group > 0 ? (uint32_t)group : 0;
    return SERVERD_OK;
}

static serverd_status read_awq(const struct json_place *place, struct hf_quantised *out,
                               serverd_error *err)
{
    const char *version = "gemm";
    bool has_zeros = true;
    serverd_status status;
    out->bits = 4;
    if ((status = json_place_u32(place, "w_bit", 4, 4, &out->bits, err)) != SERVERD_OK ||
        (status = json_place_u32(place, "bits", 4, 4, &out->bits, err)) != SERVERD_OK ||
        (status = json_place_string(place, "version", &version, err)) != SERVERD_OK ||
        (status = json_place_bool(place, "zero_point", &has_zeros, err)) != SERVERD_OK)
        return status;
    if (strcmp(version, "gemm") != 0 && strcmp(version, "GEMM") != 0)
        return refuse(place, "version", version, "gemm is", err);
    if (!has_zeros)
        return refuse(place, "zero_point", "false", "true is", err);
    return read_group(place, &out->group, err);
}

static serverd_status read_gptq(const struct json_place *place, struct hf_quantised *out,
                                serverd_error *err)
{
    const char *format = "gptq";
    double bits = 4;
    serverd_status status;
    if ((status = json_place_f64(place, "bits", 1, 32, &bits, err)) != SERVERD_OK ||
        (status = json_place_string(place, "checkpoint_format", &format, err)) != SERVERD_OK)
        return status;
    if (bits != 4 && bits != 8)
        return fail(err, SERVERD_UNSUPPORTED, "%s: %s.bits: %g is not supported; 4 and 8 are",
                    place->file, place->where, bits);
    out->bits = (uint32_t)bits;
    out->zero_offset = strcmp(format, "gptq") == 0;
    if (!out->zero_offset && strcmp(format, "gptq_v2") != 0)
        return refuse(place, "checkpoint_format", format, "gptq and gptq_v2 are", err);
    return read_group(place, &out->group, err);
}

static serverd_status read_fp8(const struct json_place *place, struct hf_quantised *out,
                               serverd_error *err)
{
    const char *format = "e4m3";
    const json_t *block = NULL;
    serverd_status status;
    if ((status = json_place_string(place, "fmt", &format, err)) != SERVERD_OK ||
        (status = json_place_array(place, "weight_block_size", &block, err)) != SERVERD_OK)
        return status;
    if (strcmp(format, "e4m3") != 0 && strcmp(format, "float8_e4m3fn") != 0)
        return refuse(place, "fmt", format, "e4m3 is", err);
    if (!block)
        return SERVERD_OK;
    json_int_t rows = json_integer_value(json_array_get(block, 0));
    json_int_t columns = json_integer_value(json_array_get(block, 1));
    if (json_array_size(block) != 2 || rows < 1 || columns < 1 || rows > LIMIT_FF ||
        columns > LIMIT_FF)
        return json_place_fail(place, "weight_block_size", "[rows, columns]", err);
    out->block_rows = (uint32_t)rows;
    out->block_columns = (uint32_t)columns;
    return SERVERD_OK;
}

/* {"config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float", ...}}}} */
static serverd_status read_compressed(const struct json_place *place, struct hf_quantised *out,
                                      serverd_error *err)
{
    serverd_status status;
    struct json_place groups = {.file = place->file};
    const char *name;
    json_t *value;
    if ((status = json_place_need(place, "config_groups", err)) != SERVERD_OK ||
        (status = json_place_object(place, "config_groups", &groups, err)) != SERVERD_OK)
        return status;
    json_object_foreach((json_t *)groups.object, name, value)
    {
        const struct json_place group = {
            .file = place->file, .where = place->where, .object = value};
        struct json_place weights = {.file = place->file, .where = place->where};
        const char *type = "int";
        const json_t *block = NULL;
        uint32_t bits = 8;
        if ((status = json_place_object(&group, "weights", &weights, err)) != SERVERD_OK ||
            (status = json_place_u32(&weights, "num_bits", 1, 64, &bits, err)) != SERVERD_OK ||
            (status = json_place_string(&weights, "type", &type, err)) != SERVERD_OK ||
            (status = json_place_array(&weights, "block_structure", &block, err)) != SERVERD_OK)
            return status;
        if (bits != 8 || strcmp(type, "float") != 0)
            return fail(
                err, SERVERD_UNSUPPORTED,
                "%s: %s.config_groups.%.64s: weights of type \"%.32s\" with %u bits are not "
                "supported; float with 8 is",
                place->file, place->where, name, type, bits);
        if (json_array_size(block) == 2) {
            out->block_rows = (uint32_t)json_integer_value(json_array_get(block, 0));
            out->block_columns = (uint32_t)json_integer_value(json_array_get(block, 1));
        }
    }
    return SERVERD_OK;
}

serverd_status hf_quantised_read(const struct json_place *config, struct hf_quantised *out,
                                 serverd_error *err)
{
    static const struct {
        const char *name;
        enum hf_method method;
        serverd_status (*read)(const struct json_place *place, struct hf_quantised *out,
                               serverd_error *err);
    } rows[] = {{"awq", HF_AWQ, read_awq},
                {"gptq", HF_GPTQ, read_gptq},
                {"fp8", HF_FP8, read_fp8},
                {"compressed-tensors", HF_FP8, read_compressed}};
    struct hf_quantised made = {.block_rows = 128, .block_columns = 128};
    struct json_place place = {.file = config->file};
    const char *method = "", *where = "quantization_config";
    serverd_status status = json_place_object(config, where, &place, err);
    if (status == SERVERD_OK && !place.object)
        status = json_place_object(config, where = "compression_config", &place, err);
    place.where = where;
    if (status == SERVERD_OK && place.object)
        status = json_place_string(&place, "quant_method", &method, err);
    if (status != SERVERD_OK)
        return status;
    if (!place.object) {
        *out = (struct hf_quantised){.method = HF_PLAIN};
        return SERVERD_OK;
    }
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (strcmp(rows[i].name, method) != 0)
            continue;
        made.method = rows[i].method;
        if ((status = rows[i].read(&place, &made, err)) == SERVERD_OK)
            *out = made;
        return status;
    }
    return refuse(&place, "quant_method", method, "awq, gptq, fp8 and compressed-tensors are", err);
}

/* ---- names ----------------------------------------------------------------------------------- */

enum hf_role hf_quantised_role(enum hf_method method, const struct safetensor *tensor,
                               size_t *module)
{
    static const struct {
        const char *suffix;
        bool is_of_words, is_of_fp8;
        enum hf_role role;
    } rows[] = {{"qweight", true, false, HF_ROLE_CODES},
                {"qzeros", true, false, HF_ROLE_BESIDE},
                {"scales", true, false, HF_ROLE_BESIDE},
                {"g_idx", true, false, HF_ROLE_BESIDE},
                {"weight_scale", false, true, HF_ROLE_BESIDE},
                {"weight_scale_inv", false, true, HF_ROLE_BESIDE},
                {"input_scale", false, true, HF_ROLE_UNUSED},
                {"activation_scale", false, true, HF_ROLE_UNUSED},
                {"output_scale", false, true, HF_ROLE_UNUSED},
                {"q_scale", false, true, HF_ROLE_UNUSED},
                {"k_scale", false, true, HF_ROLE_UNUSED},
                {"v_scale", false, true, HF_ROLE_UNUSED}};
    const char *point = strrchr(tensor->name, '.');
    if (method == HF_PLAIN || !point)
        return HF_ROLE_PLAIN;
    *module = (size_t)(point - tensor->name);
    if (method == HF_FP8 && strcmp(point + 1, "weight") == 0 &&
        strcmp(tensor->dtype, "F8_E4M3") == 0)
        return HF_ROLE_CODES;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (strcmp(rows[i].suffix, point + 1) == 0 &&
            (method == HF_FP8 ? rows[i].is_of_fp8 : rows[i].is_of_words))
            return rows[i].role;
    return HF_ROLE_PLAIN;
}
