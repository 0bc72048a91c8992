#include "grammar/json_text.h"

enum phase {
    PHASE_BETWEEN,
    PHASE_UTF8,   /* continuation bytes; n_left of them */
    PHASE_ESCAPE, /* behind a backslash */
    PHASE_HEX,    /* digits of \u; n_left of them */
    PHASE_PAIR,   /* a high surrogate: a backslash must follow */
    PHASE_PAIR_U, /* and a u */
};

static enum json_reader_result complete(struct json_reader *reader, uint32_t value,
                                        uint32_t *code_point)
{
    *reader = (struct json_reader){0};
    *code_point = value;
    return JSON_READER_CODE;
}

static enum json_reader_result begin_character(struct json_reader *reader, uint8_t byte,
                                               uint32_t *code_point)
{
    if (byte == '"')
        return JSON_READER_QUOTE;
    if (byte < 0x20)
        return JSON_READER_REFUSED;
    if (byte == '\\') {
        reader->phase = PHASE_ESCAPE;
        return JSON_READER_MORE;
    }
    if (byte < 0x80)
        return complete(reader, byte, code_point);
    if (byte < 0xc2 || byte > 0xf4)
        return JSON_READER_REFUSED;
    reader->phase = PHASE_UTF8;
    reader->n_left = byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : 3;
    reader->partial = byte & (0x3fu >> reader->n_left);
    return JSON_READER_MORE;
}

static enum json_reader_result continue_utf8(struct json_reader *reader, uint8_t byte,
                                             uint32_t *code_point)
{
    uint32_t partial = reader->partial << 6 | (byte & 0x3f);
    if ((byte & 0xc0) != 0x80)
        return JSON_READER_REFUSED;
    /* The second byte already tells overlong forms, surrogates and what is beyond the last. */
    if (reader->n_left == 2 && reader->partial < 0x10 &&
        (partial < 0x20 || (partial & ~0x1fu) == 0x360))
        return JSON_READER_REFUSED;
    if (reader->n_left == 3 && (partial < 0x10 || partial > 0x10f))
        return JSON_READER_REFUSED;
    reader->partial = partial;
    if (--reader->n_left > 0)
        return JSON_READER_MORE;
    return complete(reader, partial, code_point);
}

static enum json_reader_result continue_escape(struct json_reader *reader, uint8_t byte,
                                               uint32_t *code_point)
{
    switch (byte) {
    case '"':
    case '\\':
    case '/':
        return complete(reader, byte, code_point);
    case 'b':
        return complete(reader, '\b', code_point);
    case 'f':
        return complete(reader, '\f', code_point);
    case 'n':
        return complete(reader, '\n', code_point);
    case 'r':
        return complete(reader, '\r', code_point);
    case 't':
        return complete(reader, '\t', code_point);
    case 'u':
        reader->phase = PHASE_HEX;
        reader->n_left = 4;
        reader->partial = 0;
        return JSON_READER_MORE;
    default:
        return JSON_READER_REFUSED;
    }
}

static enum json_reader_result continue_hex(struct json_reader *reader, uint8_t byte,
                                            uint32_t *code_point)
{
    uint32_t digit = byte >= '0' && byte <= '9'   ? byte - '0'
                     : byte >= 'a' && byte <= 'f' ? byte - 'a' + 10
                     : byte >= 'A' && byte <= 'F' ? byte - 'A' + 10
                                                  : 16;
    if (digit == 16)
        return JSON_READER_REFUSED;
    reader->partial = reader->partial << 4 | digit;
    if (--reader->n_left > 0)
        return JSON_READER_MORE;
    uint32_t value = reader->partial;
    bool is_low = value >= 0xdc00 && value <= 0xdfff;
    if (is_low != (reader->high != 0))
        return JSON_READER_REFUSED;
    if (is_low)
        return complete(reader, 0x10000 + ((reader->high - 0xd800u) << 10) + (value - 0xdc00),
                        code_point);
    if (value < 0xd800 || value > 0xdbff)
        return complete(reader, value, code_point);
    *reader = (struct json_reader){.phase = PHASE_PAIR, .high = (uint16_t)value};
    return JSON_READER_MORE;
}

enum json_reader_result json_reader_step(struct json_reader *reader, uint8_t byte,
                                         uint32_t *code_point)
{
    switch ((enum phase)reader->phase) {
    case PHASE_BETWEEN:
        return begin_character(reader, byte, code_point);
    case PHASE_UTF8:
        return continue_utf8(reader, byte, code_point);
    case PHASE_ESCAPE:
        return continue_escape(reader, byte, code_point);
    case PHASE_HEX:
        return continue_hex(reader, byte, code_point);
    case PHASE_PAIR:
    case PHASE_PAIR_U:
        if (byte != (reader->phase == PHASE_PAIR ? '\\' : 'u'))
            return JSON_READER_REFUSED;
        if (reader->phase == PHASE_PAIR_U) {
            reader->phase = PHASE_HEX;
            reader->n_left = 4;
            reader->partial = 0;
        } else {
            reader->phase = PHASE_PAIR_U;
        }
        return JSON_READER_MORE;
    }
    return JSON_READER_REFUSED;
}

enum json_reader_result string_run_step(const struct string_set *set, struct string_run *run,
                                        uint8_t byte)
{
    const struct automaton *a = set->automaton;
    uint32_t code_point;
    enum json_reader_result result = json_reader_step(&run->reader, byte, &code_point);
    if (result == JSON_READER_QUOTE && (!a->accepts[run->state] || run->count < set->min))
        return JSON_READER_REFUSED;
    if (result != JSON_READER_CODE)
        return result;
    run->state = automaton_step(a, run->state, code_point);
    if (run->count < set->min || set->max != UINT32_MAX)
        run->count++; /* without an upper bound it stops at the lower one */
    bool is_short = run->count < set->min && a->longest[run->state] < set->min - run->count;
    bool is_long = set->max != UINT32_MAX &&
                   (run->count > set->max || a->shortest[run->state] > set->max - run->count);
    return run->state == AUTOMATON_DEAD || is_short || is_long ? JSON_READER_REFUSED : result;
}
