/* The stacks of a matcher: frames that lie on each other, each the state of something that is being
 * read. A stack is named by its top; stacks share what lies below. Frames are never changed once
 * they are in the pool, and equal frames on equal stacks are one frame, so that comparing tops
 * compares stacks.
 *
 * A configuration is a top that is not in the pool: reading a byte usually changes the top alone,
 * and costs no allocation. One thread. */
#ifndef GRAMMAR_FRAMES_H
#define GRAMMAR_FRAMES_H

#include "grammar/dfa.h"
#include "grammar/json_text.h"
#include "grammar/machine.h"
#include "grammar/object_state.h"

#include <stdbool.h>
#include <stdint.h>

#define NO_FRAME 0u

enum frame_kind {
    FRAME_END,    /* everything was read */
    FRAME_VALUE,  /* a value begins */
    FRAME_WORD,   /* in null, false, true */
    FRAME_NUMBER, /* in a number */
    FRAME_STRING, /* in a string, behind its first quote */
    FRAME_TEXT,   /* in a plain text */
    FRAME_ARRAY,
    FRAME_OBJECT,
    FRAME_KEY,    /* in a name that a keyword mentions; its object lies below */
    FRAME_CLASS,  /* in another name */
    FRAME_CODE,   /* never a top: where code goes on when what is above has been read */
    FRAME_REPEAT, /* never a top: a repetition */
    FRAME_SEEN,   /* never in a stack: a list of names or items, the next one is its parent */
};

enum frame_phase {
    PHASE_FIRST, /* behind [ or { */
    PHASE_NEXT,  /* behind , */
    PHASE_COLON, /* behind a name */
    PHASE_VALUE, /* behind : */
    PHASE_AFTER, /* behind an item or a property */
};

/* All bytes count in comparisons: made by zeroing it first. Offsets are into the bytes read. */
struct frame {
    uint32_t parent;
    uint8_t kind, phase;
    uint16_t spaces; /* bytes of white space so far, where they are counted */
    union {
        uint32_t words[11];
        struct {
            uint32_t value;
        } value;
        struct {
            uint32_t word, at;
        } word;
        struct {
            uint32_t value, text; /* checking: value; producing: text */
            struct dfa_run run;   /* checking: the state alone */
            uint32_t start;
        } number;
        struct {
            uint32_t text;
            struct dfa_run run;
            struct json_reader reader; /* checking */
        } text;
        struct {
            uint32_t array, index, hits[MACHINE_NEEDS];
            uint32_t seen, start; /* of items that have to differ: the list, the item's start */
        } array;
        struct {
            uint32_t object;
            struct object_state state;
            uint32_t seen;    /* checking: all names; producing: those of classes */
            uint32_t pending; /* the key, or behind them the class, whose value comes */
        } object;
        struct {
            uint32_t low, high, depth; /* keys low..high-1 begin with the bytes so far */
            struct json_reader reader;
        } key;
        struct {
            uint32_t index, start;
            struct dfa_run run;
            struct json_reader reader;
        } class;
        struct {
            uint32_t at;
        } code;
        struct {
            uint32_t at, count, offset;
        } repeat;
        struct {
            uint32_t key; /* or MACHINE_NOTHING: the text from start to end */
            uint32_t start, end, hash;
        } seen;
    };
};

struct frame_pool {
    struct frame *frame; /* [0] is none */
    uint32_t *next;      /* of the same hash */
    uint32_t n, cap, *heads, n_heads, n_kept;
};

bool frame_pool_init(struct frame_pool *pool);
void frame_pool_deinit(struct frame_pool *pool);
bool frame_pool_copy(struct frame_pool *pool, const struct frame_pool *from);

/* The frame's id; NO_FRAME: no memory, or LIMIT_GRAMMAR_FRAMES. */
uint32_t frame_pool_put(struct frame_pool *pool, const struct frame *frame);

/* Forgets all frames since the pool held n. */
void frame_pool_release(struct frame_pool *pool, uint32_t n);

/* Keeps what is marked and what lies below it: keep[id] is set by the caller for those that it
 * holds; then moved[id] says where they are. Both are [pool->n]. */
void frame_pool_compact(struct frame_pool *pool, uint8_t *keep, uint32_t *moved);

/* Tops, all different. */
struct frame_set {
    struct frame *item;
    uint32_t n, cap;
    bool is_failed; /* more than LIMIT_GRAMMAR_TOPS, or no memory: some are missing */
};
void frame_set_deinit(struct frame_set *set);
void frame_set_add(struct frame_set *set, const struct frame *frame);
bool frame_set_copy(struct frame_set *set, const struct frame_set *from);

#endif
