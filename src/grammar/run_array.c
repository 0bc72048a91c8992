/* Arrays, byte by byte. */
#include "grammar/run_internal.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/limits.h"
#include "grammar/json_tree.h"

#include <string.h>

static bool may_close(const struct machine_array *array, const struct frame *top)
{
    bool may = top->array.index >= array->min && top->array.index <= array->max;
    for (uint32_t i = 0; i < array->n_needs; i++)
        may = may && top->array.hits[i] >= array->need[i].min &&
              top->array.hits[i] <= array->need[i].max;
    return may;
}

/* Counts beyond which nothing changes are one count, so that tops that behave alike are alike. */
static uint32_t most_items(const struct machine_array *array)
{
    if (array->max != UINT32_MAX)
        return array->max;
    if (array->n_needs)
        return array->steps;
    return array->min > array->n_prefix ? array->min : array->n_prefix;
}

/* `top` with one item more that meets the needs of `mask`; false: no such array. */
static bool add_item(const struct machine_array *array, const struct frame *top, uint32_t mask,
                     uint32_t *value, struct frame *out)
{
    uint32_t row = top->array.index < array->n_prefix ? top->array.index : array->n_prefix;
    uint32_t most = most_items(array);
    *value = array->values[(row << array->n_needs) + mask];
    if (*value == MACHINE_NOTHING || top->array.index >= array->max)
        return false;
    *out = *top;
    out->phase = PHASE_AFTER;
    out->spaces = 0;
    out->array.index = top->array.index < most ? top->array.index + 1 : most;
    for (uint32_t i = 0; i < array->n_needs; i++)
        if ((mask >> i & 1) && out->array.hits[i] < array->step[i])
            out->array.hits[i]++;
    return array_can_finish(array, out->array.index, out->array.hits);
}

static bool has_next(const struct machine_array *array, const struct frame *top)
{
    struct frame next;
    uint32_t value;
    for (uint32_t mask = 0; mask < 1u << array->n_needs; mask++)
        if (add_item(array, top, mask, &value, &next))
            return true;
    return false;
}

static void begin_item(struct run *run, const struct machine_array *array, const struct frame *top,
                       uint8_t byte, struct frame_set *out)
{
    struct frame next;
    uint32_t value;
    for (uint32_t mask = 0; mask < 1u << array->n_needs; mask++) {
        if (!add_item(array, top, mask, &value, &next))
            continue;
        if (array->is_unique)
            next.array.start = run->at;
        uint32_t below = run_push(run, &next);
        if (below)
            run_begin_value(run, value, byte, below, out);
    }
}

void run_array(struct run *run, const struct frame *top, uint8_t byte, struct frame_set *out)
{
    const struct machine_array *array = &run->machine->arrays[top->array.array];
    bool is_slot = top->phase == PHASE_NEXT;
    if (run_space(run, top, byte, is_slot, out) || run_lacks_space(run, top, is_slot))
        return;
    if (byte == ']' && top->phase != PHASE_NEXT) {
        if (may_close(array, top))
            run_resume(run, top->parent, run->at + 1, out);
    } else if (top->phase != PHASE_AFTER) {
        begin_item(run, array, top, byte, out);
    } else if (byte == ',' && has_next(array, top)) {
        struct frame next = *top;
        next.phase = PHASE_NEXT;
        next.spaces = 0;
        frame_set_add(out, &next);
    }
}

static const struct json_value *item_at(struct run *run, uint32_t start, uint32_t end)
{
    serverd_error err;
    const struct json_value *value;
    serverd_status status =
        json_tree_parse(run->bytes.data + start, end - start, run->scratch, &value, &err);
    return status == SERVERD_OK ? value : NULL;
}

bool run_item_is_new(struct run *run, struct frame *frame, uint32_t end)
{
    arena_reset(run->scratch);
    const struct json_value *item = item_at(run, frame->array.start, end);
    if (!item) {
        run->is_failed = true;
        return false;
    }
    struct frame seen = frame_make(FRAME_SEEN, frame->array.seen);
    seen.seen.key = MACHINE_NOTHING;
    seen.seen.start = frame->array.start;
    seen.seen.end = end;
    seen.seen.hash = (uint32_t)json_hash(item);
    for (uint32_t i = frame->array.seen; i; i = run->pool.frame[i].parent) {
        const struct frame *other = &run->pool.frame[i];
        const struct json_value *value = NULL;
        if (other->seen.hash == seen.seen.hash)
            value = item_at(run, other->seen.start, other->seen.end);
        if (value && json_value_equal(item, value))
            return false;
    }
    frame->array.seen = run_push(run, &seen);
    frame->array.start = 0;
    return frame->array.seen != NO_FRAME;
}

/* The text that a top reads, and how far it is in it. */
static bool text_of(const struct run *run, const struct frame *top, const struct dfa **dfa,
                    struct dfa_run *state, bool *is_inexhaustible)
{
    const struct machine_text *text;
    if (top->kind != FRAME_STRING && top->kind != FRAME_NUMBER)
        return false;
    bool is_string = top->kind == FRAME_STRING;
    text = &run->machine->texts[is_string ? top->text.text : top->number.text];
    *dfa = text->dfa;
    *state = is_string ? top->text.run : top->number.run;
    *is_inexhaustible = text->is_inexhaustible;
    return true;
}

static const char *const words[] = {"null", "false", "true"};

bool run_item_can_be_new(struct run *run, const struct frame *top)
{
    const struct frame *array = &run->pool.frame[top->parent];
    const struct dfa *dfa = NULL;
    struct dfa_run state = {0, 0};
    bool is_inexhaustible = false, is_word = top->kind == FRAME_WORD;
    if (array->kind != FRAME_ARRAY || !array->array.seen || !run->machine->produces ||
        !run->machine->arrays[array->array.array].is_unique)
        return true;
    if (!is_word && (!text_of(run, top, &dfa, &state, &is_inexhaustible) || is_inexhaustible))
        return true;
    const char *so_far = run->bytes.data + array->array.start;
    uint32_t n_so_far = run->at + 1 - array->array.start, n_used = 0;
    for (uint32_t i = array->array.seen; i; i = run->pool.frame[i].parent) {
        const struct frame *other = &run->pool.frame[i];
        const char *item = run->bytes.data + other->seen.start;
        uint32_t n = other->seen.end - other->seen.start, quotes = top->kind == FRAME_STRING;
        if (is_word && n == strlen(words[top->word.word]) &&
            memcmp(item, words[top->word.word], n) == 0)
            return false;
        n_used += !is_word && n >= n_so_far && memcmp(item, so_far, n_so_far) == 0 &&
                  dfa_accepts(dfa, item + quotes, n - 2 * quotes);
    }
    return n_used == 0 ||
           run_count_texts(dfa, state, n_used + 1, LIMIT_GRAMMAR_NAME_DEPTH) > n_used;
}
