#include "grammar/run_internal.h"

#include "base/limits.h"

#include <string.h>

bool run_init(struct run *run, const struct machine *machine)
{
    *run = (struct run){.machine = machine, .scratch = arena_create(LIMIT_GRAMMAR_OUTPUT)};
    buffer_init(&run->bytes, LIMIT_GRAMMAR_OUTPUT);
    return frame_pool_init(&run->pool) && run->scratch;
}

void run_deinit(struct run *run)
{
    frame_pool_deinit(&run->pool);
    frame_set_deinit(&run->pending);
    frame_set_deinit(&run->todo);
    buffer_deinit(&run->bytes);
    arena_destroy(run->scratch);
    run->scratch = NULL;
}

struct frame frame_make(enum frame_kind kind, uint32_t parent)
{
    struct frame frame;
    memset(&frame, 0, sizeof frame);
    frame.kind = (uint8_t)kind;
    frame.parent = parent;
    return frame;
}

uint32_t run_push(struct run *run, const struct frame *frame)
{
    uint32_t id = frame_pool_put(&run->pool, frame);
    run->is_failed = run->is_failed || id == NO_FRAME;
    return id;
}

/* ---- code ------------------------------------------------------------------------------------ */

/* Code that is to be run goes through a list instead of the stack: returns may follow returns as
 * deep as the text is nested. What was run once is not run again. */
static void add_code(struct run *run, uint32_t at, uint32_t parent)
{
    struct frame frame = frame_make(FRAME_CODE, parent);
    frame.code.at = at;
    frame_set_add(&run->todo, &frame);
}

static bool returns_at_once(const struct machine *machine, uint32_t at)
{
    while (machine->code[at].op == OP_JUMP)
        at = machine->code[at].a;
    return machine->code[at].op == OP_RETURN;
}

/* What lies below has been read: code goes into the list, all else is a top. */
static void go_on(struct run *run, uint32_t parent, uint32_t end, struct frame_set *out)
{
    struct frame frame = run->pool.frame[parent];
    if (frame.kind == FRAME_CODE || frame.kind == FRAME_REPEAT)
        frame_set_add(&run->todo, &frame);
    else if (frame.kind != FRAME_ARRAY || !run->machine->arrays[frame.array.array].is_unique ||
             run_item_is_new(run, &frame, end))
        frame_set_add(out, &frame);
}

/* `repeat`: with so many bodies read. Another one, or what comes behind. */
static void run_repeat(struct run *run, const struct frame *repeat, uint32_t end)
{
    const struct machine_code *code = &run->machine->code[repeat->repeat.at];
    bool was_empty = repeat->repeat.offset == end; /* and so can be all that are still missing */
    if (repeat->repeat.count >= code->min || was_empty)
        add_code(run, repeat->repeat.at + 1, repeat->parent);
    if (repeat->repeat.count >= code->max || was_empty)
        return; /* a body that read nothing is not begun again */
    struct frame next = *repeat;
    next.repeat.offset = end;
    if (code->max != UINT32_MAX || next.repeat.count < code->min)
        next.repeat.count++;
    uint32_t below = run_push(run, &next);
    if (below)
        add_code(run, code->a, below);
}

static void run_code(struct run *run, uint32_t at, uint32_t parent, uint32_t end,
                     struct frame_set *out)
{
    const struct machine *machine = run->machine;
    const struct machine_code *code = &machine->code[at];
    struct frame top, next = frame_make(FRAME_CODE, parent);
    next.code.at = at + 1;
    uint32_t below = parent;
    bool waits = code->op == OP_TEXT || code->op == OP_VALUE || code->op == OP_CALL;
    /* what would only return is not waited for: calls at the end do not pile up */
    if (waits && !returns_at_once(machine, at + 1))
        below = run_push(run, &next);
    if (run->is_failed)
        return;
    switch ((enum machine_op)code->op) {
    case OP_TEXT:
        top = frame_make(FRAME_TEXT, below);
        top.text.text = code->a;
        top.text.run = dfa_begin(machine->texts[code->a].dfa);
        frame_set_add(out, &top);
        return;
    case OP_VALUE:
        top = frame_make(FRAME_VALUE, below);
        top.value.value = code->a;
        frame_set_add(out, &top);
        return;
    case OP_CALL:
        add_code(run, code->a, below);
        return;
    case OP_SPLIT:
        add_code(run, at + 1, parent);
        add_code(run, code->a, parent);
        return;
    case OP_JUMP:
        add_code(run, code->a, parent);
        return;
    case OP_REPEAT:
        top = frame_make(FRAME_REPEAT, parent);
        top.repeat.at = at;
        top.repeat.offset = UINT32_MAX;
        run_repeat(run, &top, end);
        return;
    case OP_RETURN:
        go_on(run, parent, end, out);
        return;
    }
}

static void run_todo(struct run *run, uint32_t end, struct frame_set *out)
{
    for (uint32_t i = 0; i < run->todo.n && !run->is_failed; i++) {
        struct frame frame = run->todo.item[i];
        if (frame.kind == FRAME_CODE)
            run_code(run, frame.code.at, frame.parent, end, out);
        else
            run_repeat(run, &frame, end);
    }
    run->is_failed = run->is_failed || run->todo.is_failed;
    run->todo.n = 0;
}

void run_resume(struct run *run, uint32_t parent, uint32_t end, struct frame_set *out)
{
    go_on(run, parent, end, out);
    run_todo(run, end, out);
}

void run_begin(struct run *run, struct frame_set *out)
{
    struct frame end = frame_make(FRAME_END, NO_FRAME);
    out->n = 0;
    uint32_t below = run_push(run, &end);
    if (below)
        add_code(run, 0, below);
    run_todo(run, 0, out);
}

/* ---- values ---------------------------------------------------------------------------------- */

static bool is_space(uint8_t byte)
{
    return byte == ' ' || byte == '\n' || byte == '\r' || byte == '\t';
}

bool run_space(struct run *run, const struct frame *top, uint8_t byte, bool is_slot,
               struct frame_set *out)
{
    struct frame next = *top;
    if (!is_space(byte))
        return false;
    if (run->machine->produces) {
        enum json_whitespace rule = run->machine->whitespace;
        if (rule == WHITESPACE_COMPACT || (rule == WHITESPACE_SPACED && (!is_slot || byte != ' ')))
            return false;
        if (top->spaces >= (rule == WHITESPACE_SPACED ? 1 : LIMIT_GRAMMAR_SPACES))
            return false;
        next.spaces++;
    }
    frame_set_add(out, &next);
    return true;
}

bool run_lacks_space(const struct run *run, const struct frame *top, bool is_slot)
{
    return is_slot && top->spaces == 0 && run->machine->produces &&
           run->machine->whitespace == WHITESPACE_SPACED;
}

static const char *const words[] = {"null", "false", "true"};

static void begin_number(struct run *run, uint32_t index, uint8_t byte, uint32_t parent,
                         struct frame_set *out)
{
    const struct machine *machine = run->machine;
    const struct machine_value *value = &machine->values[index];
    struct frame top = frame_make(FRAME_NUMBER, parent);
    if (value->number == MACHINE_NOTHING)
        return;
    top.number.start = run->at;
    if (machine->produces) {
        const struct dfa *dfa = machine->texts[value->number].dfa;
        top.number.start = 0; /* nobody looks there: equal numbers are equal tops */
        top.number.text = value->number;
        top.number.run = dfa_begin(dfa);
        if (!dfa_step(dfa, &top.number.run, byte) || !run_item_can_be_new(run, &top))
            return;
    } else {
        top.number.value = index;
        top.number.run.state =
            automaton_step(machine->number_texts, machine->number_texts->start, byte);
        if (top.number.run.state == AUTOMATON_DEAD)
            return;
    }
    frame_set_add(out, &top);
}

void run_begin_value(struct run *run, uint32_t index, uint8_t byte, uint32_t parent,
                     struct frame_set *out)
{
    const struct machine *machine = run->machine;
    const struct machine_value *value = &machine->values[index];
    struct frame top;
    switch (byte) {
    case 'n':
    case 'f':
    case 't':
        top = frame_make(FRAME_WORD, parent);
        top.word.word = byte == 'n' ? 0 : byte == 'f' ? 1 : 2;
        top.word.at = 1;
        if ((value->words >> top.word.word & 1) && run_item_can_be_new(run, &top))
            frame_set_add(out, &top);
        return;
    case '"':
        for (uint32_t i = 0; i < value->n_texts; i++) {
            const struct machine_text *text = &machine->texts[value->texts[i]];
            top = frame_make(FRAME_STRING, parent);
            top.text.text = value->texts[i];
            top.text.run.state = machine->produces ? text->dfa->start : text->set->automaton->start;
            if (run_item_can_be_new(run, &top))
                frame_set_add(out, &top);
        }
        return;
    case '[':
        for (uint32_t i = 0; i < value->n_arrays; i++) {
            top = frame_make(FRAME_ARRAY, parent);
            top.array.array = value->first_array + i;
            frame_set_add(out, &top);
        }
        return;
    case '{':
        for (uint32_t i = 0; i < value->n_objects; i++) {
            top = frame_make(FRAME_OBJECT, parent);
            top.object.object = value->first_object + i;
            frame_set_add(out, &top);
        }
        return;
    default:
        begin_number(run, index, byte, parent, out);
    }
}

static bool number_is_of(struct run *run, const struct frame *top)
{
    const struct machine_value *value = &run->machine->values[top->number.value];
    struct decimal decimal;
    arena_reset(run->scratch);
    if (!decimal_parse(run->scratch, run->bytes.data + top->number.start,
                       run->at - top->number.start, &decimal))
        return false;
    enum number_spelling spelling = SPELLED_PLAIN;
    for (uint32_t i = top->number.start; i < run->at; i++)
        if (strchr(".eE", run->bytes.data[i]))
            spelling = SPELLED_OTHERWISE;
    for (uint32_t i = 0; i < value->n_numbers; i++)
        if ((value->numbers[i].spelling == SPELLED_ANYHOW ||
             value->numbers[i].spelling == spelling) &&
            number_set_has(&value->numbers[i].set, &decimal))
            return true;
    return false;
}

/* Whether what the top reads, and only the next byte can end, may end here. */
static bool is_complete(struct run *run, const struct frame *top)
{
    const struct machine *machine = run->machine;
    if (top->kind == FRAME_TEXT)
        return dfa_is_accepting(machine->texts[top->text.text].dfa, top->text.run);
    if (top->kind != FRAME_NUMBER)
        return false;
    if (machine->produces)
        return dfa_is_accepting(machine->texts[top->number.text].dfa, top->number.run);
    return machine->number_texts->accepts[top->number.run.state] && number_is_of(run, top);
}

static void read_string(struct run *run, const struct frame *top, uint8_t byte,
                        struct frame_set *out)
{
    const struct machine_text *text = &run->machine->texts[top->text.text];
    struct frame next = *top;
    if (run->machine->produces) {
        if (dfa_step(text->dfa, &next.text.run, byte)) {
            if (run_item_can_be_new(run, &next))
                frame_set_add(out, &next);
        } else if (byte == '"' && dfa_is_accepting(text->dfa, top->text.run))
            run_resume(run, top->parent, run->at + 1, out);
        return;
    }
    struct string_run state = {top->text.reader, top->text.run.state, top->text.run.count};
    enum json_reader_result result = string_run_step(text->set, &state, byte);
    next.text.reader = state.reader;
    next.text.run = (struct dfa_run){state.state, state.count};
    if (result == JSON_READER_QUOTE)
        run_resume(run, top->parent, run->at + 1, out);
    else if (result != JSON_READER_REFUSED)
        frame_set_add(out, &next);
}

static void read_byte(struct run *run, const struct frame *top, uint8_t byte, struct frame_set *out)
{
    const struct machine *machine = run->machine;
    struct frame next = *top;
    switch ((enum frame_kind)top->kind) {
    case FRAME_VALUE:
        if (machine->produces || !run_space(run, top, byte, false, out))
            run_begin_value(run, top->value.value, byte, top->parent, out);
        return;
    case FRAME_WORD:
        if (byte != (uint8_t)words[top->word.word][top->word.at])
            return;
        next.word.at++;
        if (words[top->word.word][next.word.at])
            frame_set_add(out, &next);
        else
            run_resume(run, top->parent, run->at + 1, out);
        return;
    case FRAME_NUMBER:
        if (machine->produces) {
            if (!dfa_step(machine->texts[top->number.text].dfa, &next.number.run, byte) ||
                !run_item_can_be_new(run, &next))
                return;
        } else {
            next.number.run.state =
                automaton_step(machine->number_texts, top->number.run.state, byte);
            if (next.number.run.state == AUTOMATON_DEAD)
                return;
        }
        frame_set_add(out, &next);
        return;
    case FRAME_TEXT:
        if (dfa_step(machine->texts[top->text.text].dfa, &next.text.run, byte))
            frame_set_add(out, &next);
        return;
    case FRAME_STRING:
        read_string(run, top, byte, out);
        return;
    case FRAME_ARRAY:
        run_array(run, top, byte, out);
        return;
    case FRAME_OBJECT:
        run_object(run, top, byte, out);
        return;
    case FRAME_KEY:
        run_key(run, top, byte, out);
        return;
    case FRAME_CLASS:
        run_class(run, top, byte, out);
        return;
    case FRAME_END:
        if (!machine->produces)
            (void)run_space(run, top, byte, false, out);
        return;
    case FRAME_CODE:
    case FRAME_REPEAT:
    case FRAME_SEEN:
        return;
    }
}

/* ---- steps ----------------------------------------------------------------------------------- */

const struct frame_set *run_gather(struct run *run, const struct frame_set *from)
{
    run->at = (uint32_t)run->bytes.len;
    (void)frame_set_copy(&run->pending, from);
    for (uint32_t i = 0; i < run->pending.n; i++)
        if (is_complete(run, &run->pending.item[i]))
            run_resume(run, run->pending.item[i].parent, run->at, &run->pending);
    run->is_failed = run->is_failed || run->pending.is_failed;
    return &run->pending;
}

void run_step(struct run *run, const struct frame_set *from, uint8_t byte, struct frame_set *out)
{
    out->n = 0;
    out->is_failed = false;
    (void)run_gather(run, from);
    buffer_append_char(&run->bytes, (char)byte);
    run->is_failed = run->is_failed || run->bytes.is_failed;
    for (uint32_t i = 0; i < run->pending.n && !run->is_failed; i++)
        read_byte(run, &run->pending.item[i], byte, out);
    run->is_failed = run->is_failed || out->is_failed;
    if (run->is_failed)
        out->n = 0;
}

bool run_may_end(struct run *run, const struct frame_set *tops)
{
    (void)run_gather(run, tops);
    for (uint32_t i = 0; i < run->pending.n && !run->is_failed; i++)
        if (run->pending.item[i].kind == FRAME_END)
            return true;
    return false;
}
