/* One step of a machine: from a set of tops over a byte to the next set. */
#ifndef GRAMMAR_RUN_INTERNAL_H
#define GRAMMAR_RUN_INTERNAL_H

#include "base/arena.h"
#include "base/buffer.h"
#include "grammar/frames.h"

struct run {
    const struct machine *machine;
    struct frame_pool pool;
    struct frame_set pending; /* tops that a step starts from, and those behind finished ones */
    struct frame_set todo;    /* code to be run */
    struct buffer bytes;      /* all that was read: names and items are looked at again */
    struct arena *scratch;
    uint32_t at; /* offset of the byte that is being read */
    bool is_failed;
};

bool run_init(struct run *run, const struct machine *machine);
void run_deinit(struct run *run);

/* The tops before the first byte. */
void run_begin(struct run *run, struct frame_set *out);

/* The tops behind `byte`, which is appended to run->bytes; none: it is not legal. `out` is emptied
 * first and is not `from`. */
void run_step(struct run *run, const struct frame_set *from, uint8_t byte, struct frame_set *out);

/* The tops, and those behind what may be complete here; run->pending, until the next step. */
const struct frame_set *run_gather(struct run *run, const struct frame_set *from);

/* Whether everything may be over here. */
bool run_may_end(struct run *run, const struct frame_set *tops);

/* Whether at most this byte may follow: 0..255; -1: none, or more than one. */
int run_forced_byte(struct run *run, const struct frame_set *tops, struct frame_set *scratch);

/* ---- between the files of the step ----------------------------------------------------------- */

struct frame frame_make(enum frame_kind kind, uint32_t parent);
uint32_t run_push(struct run *run, const struct frame *frame);
/* What lies below a top has been read up to `end`: goes on there. */
void run_resume(struct run *run, uint32_t parent, uint32_t end, struct frame_set *out);
/* The tops of a value that begins with `byte`. */
void run_begin_value(struct run *run, uint32_t value, uint8_t byte, uint32_t parent,
                     struct frame_set *out);

/* Reads `byte` with one top. */
void run_array(struct run *run, const struct frame *top, uint8_t byte, struct frame_set *out);
void run_object(struct run *run, const struct frame *top, uint8_t byte, struct frame_set *out);
void run_key(struct run *run, const struct frame *top, uint8_t byte, struct frame_set *out);
void run_class(struct run *run, const struct frame *top, uint8_t byte, struct frame_set *out);

/* For masks, in production. The text of a class's name; whether nothing but its automaton decides
 * how a name may go on (none that begins like it was used); the tops behind the end of some new
 * name. */
uint32_t run_class_text(const struct run *run, const struct frame *top);
bool run_class_is_open(struct run *run, const struct frame *top);
void run_behind_class(struct run *run, const struct frame *top, struct frame_set *out);

/* Production: whether a top that reads an item of an array whose items differ can still become one
 * that is not there yet. True for all other tops. */
bool run_item_can_be_new(struct run *run, const struct frame *top);

/* Accepted texts from a state on, at most `bound` of them. */
uint32_t run_count_texts(const struct dfa *dfa, struct dfa_run state, uint32_t bound,
                         uint32_t depth);

/* An array's item is complete; false: it equals another one and must not. */
bool run_item_is_new(struct run *run, struct frame *array, uint32_t end);

/* White space: whether `byte` is taken as such; then the top goes to `out` again. In a slot,
 * production writes one space if it is spaced. */
bool run_space(struct run *run, const struct frame *top, uint8_t byte, bool is_slot,
               struct frame_set *out);
/* Whether production still has to write that space. */
bool run_lacks_space(const struct run *run, const struct frame *top, bool is_slot);

#endif
