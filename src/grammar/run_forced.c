/* Bytes without a choice. */
#include "grammar/run_internal.h"

#include <string.h>

static void add_dfa(const struct dfa *dfa, uint32_t state, bool legal[256])
{
    for (unsigned byte = 0; byte < 256; byte++)
        legal[byte] = legal[byte] || dfa_next(dfa, state, (uint8_t)byte) != DFA_DEAD;
    legal['"'] = true;
}

static void add_keys(const struct run *run, const struct frame *top, bool legal[256])
{
    const struct frame *below = &run->pool.frame[top->parent];
    const struct machine_object *object = &run->machine->objects[below->object.object];
    for (uint32_t key = top->key.low; key < top->key.high; key++)
        if (object->keys[key].n > top->key.depth)
            legal[(uint8_t)object->keys[key].bytes[top->key.depth]] = true;
    legal['"'] = true;
}

/* Bytes that a top of a machine that produces may take: all others it does not. */
static void add_possible(const struct run *run, const struct frame *top, bool legal[256])
{
    static const char structure[] = " \t\n\r\"{}[],:-0123456789tfn";
    const struct machine_text *texts = run->machine->texts;
    switch ((enum frame_kind)top->kind) {
    case FRAME_KEY:
        add_keys(run, top, legal);
        return;
    case FRAME_CLASS:
        add_dfa(texts[run_class_text(run, top)].dfa, top->class.run.state, legal);
        return;
    case FRAME_STRING:
    case FRAME_TEXT:
        add_dfa(texts[top->text.text].dfa, top->text.run.state, legal);
        return;
    case FRAME_NUMBER:
        add_dfa(texts[top->number.text].dfa, top->number.run.state, legal);
        return;
    case FRAME_WORD:
        memset(legal, true, 128);
        return;
    default:
        for (const char *c = structure; *c; c++)
            legal[(uint8_t)*c] = true;
    }
}

int run_forced_byte(struct run *run, const struct frame_set *tops, struct frame_set *scratch)
{
    int found = -1;
    uint32_t n_frames = run->pool.n;
    size_t n_bytes = run->bytes.len;
    bool is_possible[256] = {false};
    const struct frame_set *all = run_gather(run, tops);
    for (uint32_t i = 0; i < all->n; i++)
        if (run->machine->produces)
            add_possible(run, &all->item[i], is_possible);
        else
            memset(is_possible, true, sizeof is_possible);
    for (int byte = 0; byte < 256 && !run->is_failed; byte++) {
        if (!is_possible[byte])
            continue;
        run_step(run, tops, (uint8_t)byte, scratch);
        frame_pool_release(&run->pool, n_frames);
        run->bytes.len = n_bytes;
        if (scratch->n == 0)
            continue;
        if (found >= 0)
            return -1;
        found = byte;
    }
    return run->is_failed || run_may_end(run, tops) ? -1 : found;
}
