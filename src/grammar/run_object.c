/* Objects, byte by byte. */
#include "grammar/run_internal.h"

#include <string.h>

static const struct machine_object *object_of(const struct run *run, const struct frame *frame)
{
    return &run->machine->objects[frame->object.object];
}

/* ---- what may come --------------------------------------------------------------------------- */

struct seen_list {
    const struct run *run;
    uint32_t head;
};

static bool is_seen(const void *context, uint32_t key)
{
    const struct seen_list *list = context;
    for (uint32_t i = list->head; i; i = list->run->pool.frame[i].parent)
        if (list->run->pool.frame[i].seen.key == key)
            return true;
    return false;
}

static bool can_finish(const struct run *run, const struct machine_object *object,
                       const struct frame *frame)
{
    const struct seen_list list = {run, frame->object.seen};
    return object_can_finish(object, &frame->object.state, run->machine->produces ? NULL : is_seen,
                             &list);
}

static const uint32_t *pending_values(const struct machine_object *object, uint32_t pending)
{
    return pending < object->n_keys
               ? object->key_values + ((size_t)pending << object->n_needs)
               : object->class_values + ((size_t)(pending - object->n_keys) << object->n_needs);
}

/* Whether the object can be finished with some value of what is pending. */
static bool pending_can_finish(const struct run *run, const struct machine_object *object,
                               const struct frame *frame)
{
    const uint32_t *values = pending_values(object, frame->object.pending);
    struct frame next = *frame;
    for (uint32_t mask = 0; mask < 1u << object->n_needs; mask++) {
        next.object.state.needs = frame->object.state.needs | mask;
        if (values[mask] != MACHINE_NOTHING && can_finish(run, object, &next))
            return true;
    }
    return false;
}

static void count_property(const struct machine_object *object, struct object_state *state)
{
    if (object->max != UINT32_MAX || state->count < object->min)
        state->count++;
}

/* The object behind the name of `key`; false if it may not come now. */
static bool add_key(const struct run *run, const struct machine_object *object,
                    const struct frame *frame, uint32_t key, struct frame *out)
{
    const struct machine_key *row = &object->keys[key];
    const struct seen_list list = {run, frame->object.seen};
    *out = *frame;
    out->phase = PHASE_COLON;
    out->spaces = 0;
    out->object.pending = key;
    struct object_state *state = &out->object.state;
    if (!row->is_possible)
        return false;
    if (run->machine->produces) {
        if (row->order < state->position ||
            object->required_before[row->order] != object->required_before[state->position])
            return false;
        state->position = row->order + 1;
    } else {
        if (is_seen(&list, key))
            return false;
        state->n_seen++;
        state->n_required += row->is_required;
    }
    count_property(object, state);
    return pending_can_finish(run, object, out);
}

static bool add_class(const struct run *run, const struct machine_object *object,
                      const struct frame *frame, uint32_t class, struct frame *out)
{
    *out = *frame;
    out->phase = PHASE_COLON;
    out->spaces = 0;
    out->object.pending = object->n_keys + class;
    struct object_state *state = &out->object.state;
    if (run->machine->produces) {
        if (object_required_left(object, state, true) > 0)
            return false;
        state->position = object->n_possible;
    }
    count_property(object, state);
    return pending_can_finish(run, object, out);
}

static bool has_key(const struct run *run, const struct machine_object *object,
                    const struct frame *frame, uint32_t low, uint32_t high)
{
    struct frame next;
    for (uint32_t key = low; key < high; key++)
        if (add_key(run, object, frame, key, &next))
            return true;
    return false;
}

static bool has_any_key(const struct run *run, const struct machine_object *object,
                        const struct frame *frame)
{
    struct frame next;
    uint32_t from = run->machine->produces ? frame->object.state.position : 0;
    for (uint32_t i = from; i < object->n_possible; i++)
        if (add_key(run, object, frame, object->by_order[i], &next))
            return true;
    return false;
}

static bool has_next(const struct run *run, const struct machine_object *object,
                     const struct frame *frame)
{
    struct frame next;
    for (uint32_t c = 0; c < object->n_classes; c++)
        if (add_class(run, object, frame, c, &next))
            return true;
    return has_any_key(run, object, frame);
}

static bool may_close(const struct run *run, const struct machine_object *object,
                      const struct frame *frame)
{
    const struct object_state *state = &frame->object.state;
    return state->count >= object->min && state->count <= object->max &&
           object_required_left(object, state, run->machine->produces) == 0 &&
           state->needs == (1u << object->n_needs) - 1;
}

/* ---- names ----------------------------------------------------------------------------------- */

static void begin_name(struct run *run, const struct machine_object *object,
                       const struct frame *top, struct frame_set *out)
{
    struct frame next, below = *top;
    below.spaces = 0;
    uint32_t parent = run_push(run, &below);
    if (!parent)
        return;
    if (has_any_key(run, object, top)) {
        struct frame key = frame_make(FRAME_KEY, parent);
        key.key.high = object->n_keys;
        frame_set_add(out, &key);
    }
    for (uint32_t c = 0; c < object->n_classes; c++) {
        const struct machine_text *text = &run->machine->texts[object->classes[c].text];
        struct frame name = frame_make(FRAME_CLASS, parent);
        name.class.index = c;
        name.class.start = run->at + 1;
        name.class.run.state =
            run->machine->produces ? text->dfa->start : text->set->automaton->start;
        if (add_class(run, object, top, c, &next))
            frame_set_add(out, &name);
    }
}

/* Narrows the keys to those whose next byte is `byte`; false if there is none. */
static bool narrow(const struct machine_object *object, struct frame *top, uint8_t byte)
{
    uint32_t low = top->key.low, high = top->key.high, depth = top->key.depth;
    while (low < high &&
           (object->keys[low].n <= depth || (uint8_t)object->keys[low].bytes[depth] < byte))
        low++;
    uint32_t end = low;
    while (end < high && (uint8_t)object->keys[end].bytes[depth] == byte)
        end++;
    top->key.low = low;
    top->key.high = end;
    top->key.depth++;
    return low < end;
}

static void finish_key(struct run *run, const struct machine_object *object,
                       const struct frame *top, const struct frame *below, struct frame_set *out)
{
    struct frame next;
    if (object->keys[top->key.low].n != top->key.depth || top->key.low >= top->key.high ||
        !add_key(run, object, below, top->key.low, &next))
        return;
    if (!run->machine->produces) {
        struct frame seen = frame_make(FRAME_SEEN, below->object.seen);
        seen.seen.key = top->key.low;
        next.object.seen = run_push(run, &seen);
    }
    frame_set_add(out, &next);
}

static size_t utf8_encode(uint32_t c, uint8_t out[4])
{
    if (c < 0x80)
        return out[0] = (uint8_t)c, 1;
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const uint8_t lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = n; i-- > 1; c >>= 6)
        out[i] = (uint8_t)(0x80 | (c & 63));
    out[0] = (uint8_t)(lead[n] | c);
    return n;
}

void run_key(struct run *run, const struct frame *top, uint8_t byte, struct frame_set *out)
{
    struct frame below = run->pool.frame[top->parent], next = *top;
    const struct machine_object *object = object_of(run, &below);
    uint8_t bytes[4] = {byte};
    size_t n = 1;
    if (!run->machine->produces) {
        uint32_t code_point;
        enum json_reader_result result = json_reader_step(&next.key.reader, byte, &code_point);
        if (result == JSON_READER_QUOTE)
            finish_key(run, object, top, &below, out);
        if (result == JSON_READER_MORE)
            frame_set_add(out, &next);
        if (result != JSON_READER_CODE)
            return;
        n = utf8_encode(code_point, bytes);
    }
    for (size_t i = 0; i < n; i++)
        if (!narrow(object, &next, bytes[i])) {
            /* a quote in a name's spelling follows a backslash, so this one ends it */
            if (run->machine->produces && byte == '"')
                finish_key(run, object, top, &below, out);
            return;
        }
    if (has_key(run, object, &below, next.key.low, next.key.high))
        frame_set_add(out, &next);
}

/* ---- other names ----------------------------------------------------------------------------- */

/* The value of a name as it was spelled: the same bytes in production. */
static struct text_piece read_name(struct run *run, uint32_t start, uint32_t end)
{
    const char *text = run->bytes.data + start;
    struct json_reader reader = {0};
    size_t n = 0;
    if (run->machine->produces)
        return (struct text_piece){text, end - start};
    uint8_t *out = arena_alloc(run->scratch, (size_t)end - start + 4);
    if (!out)
        return (struct text_piece){"", 0};
    for (uint32_t i = 0; i < end - start; i++) {
        uint32_t code_point;
        if (json_reader_step(&reader, (uint8_t)text[i], &code_point) == JSON_READER_CODE)
            n += utf8_encode(code_point, out + n);
    }
    return (struct text_piece){(const char *)out, n};
}

/* Keys that begin with text[0..n-1] lie side by side; the first that does not come before it. */
static uint32_t first_key(const struct machine_object *object, struct text_piece name)
{
    uint32_t begin = 0, end = object->n_keys;
    while (begin < end) {
        uint32_t middle = begin + (end - begin) / 2;
        const struct machine_key *key = &object->keys[middle];
        size_t shared = key->n < name.n ? key->n : name.n;
        int order = memcmp(key->bytes, name.bytes, shared);
        if (order == 0)
            order = key->n < name.n ? -1 : key->n > name.n;
        if (order < 0)
            begin = middle + 1;
        else
            end = middle;
    }
    return begin;
}

static bool is_key(const struct machine_object *object, struct text_piece name)
{
    uint32_t key = first_key(object, name);
    return key < object->n_keys && object->keys[key].n == name.n &&
           memcmp(object->keys[key].bytes, name.bytes, name.n) == 0;
}

static bool is_used(struct run *run, uint32_t seen, struct text_piece name)
{
    for (; seen; seen = run->pool.frame[seen].parent) {
        const struct frame *other = &run->pool.frame[seen];
        if (other->seen.key != MACHINE_NOTHING)
            continue;
        struct text_piece used = read_name(run, other->seen.start, other->seen.end);
        if (used.n == name.n && memcmp(used.bytes, name.bytes, name.n) == 0)
            return true;
    }
    return false;
}

static void finish_class(struct run *run, const struct machine_object *object,
                         const struct frame *top, const struct frame *below, struct frame_set *out)
{
    struct frame next;
    if (!add_class(run, object, below, top->class.index, &next))
        return;
    arena_reset(run->scratch);
    struct text_piece name = read_name(run, top->class.start, run->at);
    if (is_key(object, name) || is_used(run, below->object.seen, name))
        return;
    struct frame seen = frame_make(FRAME_SEEN, below->object.seen);
    seen.seen.key = MACHINE_NOTHING;
    seen.seen.start = top->class.start;
    seen.seen.end = run->at;
    next.object.seen = run_push(run, &seen);
    frame_set_add(out, &next);
}

uint32_t run_count_texts(const struct dfa *dfa, struct dfa_run run, uint32_t bound, uint32_t depth)
{
    uint32_t count = dfa_is_accepting(dfa, run) ? 1 : 0;
    for (unsigned byte = 0; byte < 256 && count < bound && depth > 0; byte++) {
        struct dfa_run next = run;
        if (dfa_step(dfa, &next, (uint8_t)byte))
            count += run_count_texts(dfa, next, bound - count, depth - 1);
    }
    return count;
}

/* Production: whether a name that begins like this one is left over. */
static bool has_unused_name(struct run *run, const struct machine_object *object,
                            const struct frame *below, const struct frame *top)
{
    const struct dfa *dfa = run->machine->texts[object->classes[top->class.index].text].dfa;
    struct text_piece so_far = read_name(run, top->class.start, run->at + 1);
    uint32_t n_used = 0;
    for (uint32_t i = below->object.seen; i; i = run->pool.frame[i].parent) {
        const struct frame *other = &run->pool.frame[i];
        uint32_t n = other->seen.end - other->seen.start;
        n_used += n >= so_far.n &&
                  memcmp(run->bytes.data + other->seen.start, so_far.bytes, so_far.n) == 0 &&
                  dfa_accepts(dfa, run->bytes.data + other->seen.start, n);
    }
    for (uint32_t i = first_key(object, so_far); i < object->n_keys; i++) {
        const struct machine_key *key = &object->keys[i];
        if (key->n < so_far.n || memcmp(key->bytes, so_far.bytes, so_far.n) != 0)
            break;
        n_used += dfa_accepts(dfa, key->bytes, key->n);
    }
    return n_used == 0 ||
           run_count_texts(dfa, top->class.run, n_used + 1, LIMIT_GRAMMAR_NAME_DEPTH) > n_used;
}

void run_class(struct run *run, const struct frame *top, uint8_t byte, struct frame_set *out)
{
    struct frame below = run->pool.frame[top->parent], next = *top;
    const struct machine_object *object = object_of(run, &below);
    const struct machine_text *text = &run->machine->texts[object->classes[top->class.index].text];
    if (run->machine->produces) {
        if (dfa_step(text->dfa, &next.class.run, byte)) {
            if (text->is_inexhaustible || has_unused_name(run, object, &below, &next))
                frame_set_add(out, &next);
        } else if (byte == '"' && dfa_is_accepting(text->dfa, top->class.run)) {
            finish_class(run, object, top, &below, out);
        }
        return;
    }
    struct string_run state = {top->class.reader, top->class.run.state, top->class.run.count};
    enum json_reader_result result = string_run_step(text->set, &state, byte);
    next.class.reader = state.reader;
    next.class.run = (struct dfa_run){state.state, state.count};
    if (result == JSON_READER_QUOTE)
        finish_class(run, object, top, &below, out);
    else if (result != JSON_READER_REFUSED)
        frame_set_add(out, &next);
}

uint32_t run_class_text(const struct run *run, const struct frame *top)
{
    const struct frame *below = &run->pool.frame[top->parent];
    return object_of(run, below)->classes[top->class.index].text;
}

bool run_class_is_open(struct run *run, const struct frame *top)
{
    const struct frame *below = &run->pool.frame[top->parent];
    const struct machine_object *object = object_of(run, below);
    if (run->machine->texts[object->classes[top->class.index].text].is_inexhaustible)
        return true;
    struct text_piece so_far = read_name(run, top->class.start, (uint32_t)run->bytes.len);
    uint32_t key = first_key(object, so_far);
    if (key < object->n_keys && object->keys[key].n >= so_far.n &&
        memcmp(object->keys[key].bytes, so_far.bytes, so_far.n) == 0)
        return false;
    for (uint32_t i = below->object.seen; i; i = run->pool.frame[i].parent) {
        const struct frame *other = &run->pool.frame[i];
        if (other->seen.end - other->seen.start >= so_far.n &&
            memcmp(run->bytes.data + other->seen.start, so_far.bytes, so_far.n) == 0)
            return false;
    }
    return true;
}

void run_behind_class(struct run *run, const struct frame *top, struct frame_set *out)
{
    struct frame below = run->pool.frame[top->parent], next;
    if (add_class(run, object_of(run, &below), &below, top->class.index, &next))
        frame_set_add(out, &next);
}

/* ---- the object ------------------------------------------------------------------------------ */

static void begin_property_value(struct run *run, const struct machine_object *object,
                                 const struct frame *top, uint8_t byte, struct frame_set *out)
{
    const uint32_t *values = pending_values(object, top->object.pending);
    for (uint32_t mask = 0; mask < 1u << object->n_needs; mask++) {
        struct frame next = *top;
        next.phase = PHASE_AFTER;
        next.spaces = 0;
        next.object.pending = 0;
        next.object.state.needs |= mask;
        if (values[mask] == MACHINE_NOTHING || (mask & top->object.state.needs) ||
            !can_finish(run, object, &next))
            continue;
        uint32_t below = run_push(run, &next);
        if (below)
            run_begin_value(run, values[mask], byte, below, out);
    }
}

void run_object(struct run *run, const struct frame *top, uint8_t byte, struct frame_set *out)
{
    const struct machine_object *object = object_of(run, top);
    struct frame next = *top;
    next.spaces = 0;
    bool is_slot = top->phase == PHASE_NEXT || top->phase == PHASE_VALUE;
    if (run_space(run, top, byte, is_slot, out) || run_lacks_space(run, top, is_slot))
        return;
    if (top->phase == PHASE_VALUE) {
        begin_property_value(run, object, top, byte, out);
    } else if (top->phase == PHASE_COLON) {
        next.phase = PHASE_VALUE;
        if (byte == ':')
            frame_set_add(out, &next);
    } else if (byte == '"' && top->phase != PHASE_AFTER) {
        begin_name(run, object, top, out);
    } else if (byte == '}' && top->phase != PHASE_NEXT) {
        if (may_close(run, object, top))
            run_resume(run, top->parent, run->at + 1, out);
    } else if (byte == ',' && top->phase == PHASE_AFTER && has_next(run, object, top)) {
        next.phase = PHASE_NEXT;
        frame_set_add(out, &next);
    }
}
