/* The states of a run: token sequences with variables, and the keys and values of their beginnings.
 *
 *     state 0 -----------+              the prefix that a fork makes is not there yet (is_pending):
 *        |  fork         v              operations behind it wait for it
 *     state 0.1 --> dsl_prefix <-- operation of 0.1
 *
 * Literal text gathers in `open` and is tokenised once, when tokens are needed (K1): tokens never
 * change afterwards, except that role marks may be rewritten (roles.c).
 *
 *     tokens   [ computed: n_held | carry | appended since the last operation ]  open: "literal"
 *                                         ^ n_base
 */
#ifndef FRONTEND_DSL_STATE_INTERNAL_H
#define FRONTEND_DSL_STATE_INTERNAL_H

#include "base/buffer.h"
#include "text/tokenizer.h"

#include <jansson.h>
#include <lua.h>
#include <stdbool.h>
#include <stdint.h>

struct dsl_op;
struct dsl_run;
struct dsl_task;

/* Keys and values that the engine holds for this run. Reference-counted; with the last reference
 * the engine lets them go. */
struct dsl_prefix {
    struct dsl_run *run;
    uint32_t n_refs;
    uint32_t n_held; /* tokens that were computed, whether the engine still has them or not */
    uint64_t handle; /* 0: none */
    bool is_pending; /* an operation is making it */
};
struct dsl_prefix *prefix_create(struct dsl_run *run); /* pending; NULL: no memory */
struct dsl_prefix *prefix_ref(struct dsl_prefix *prefix);
void prefix_unref(struct dsl_prefix *prefix); /* NULL is fine */

/* Where a task or a state stands: "0.1.3" is the third child of the first child of the root. */
struct dsl_branch {
    char *path;
    uint64_t seed; /* H(S, path): what its random numbers come from */
    uint32_t depth, n_children;
};
/* The next child's. parent NULL: the root's. False: too deep, or no memory. */
bool branch_init(struct dsl_branch *branch, struct dsl_branch *parent, uint64_t run_seed);
void branch_deinit(struct dsl_branch *branch);

/* A message. */
struct dsl_turn {
    char role[16];
    uint32_t begin, end;  /* its body's tokens; end: once it is closed */
    char *mark;           /* the template's text in front of the body */
    char *name, *call_id; /* of a tool's turn; NULL: none */
};

struct dsl_state {
    struct dsl_run *run;
    struct dsl_state *next, **link; /* the run's list */
    uint32_t n_refs;                /* Lua's handle, operations, groups, tasks */
    struct dsl_branch branch;
    struct token_list tokens;
    uint32_t n_base;  /* as drawn above */
    uint32_t n_ahead; /* tokens that `open` will become are computed up to here; 0: none */
    struct buffer open;
    size_t n_counted;          /* bytes of `open` that count as memory of the program */
    struct dsl_prefix *prefix; /* NULL: nothing is computed */
    struct dsl_op *op;         /* in flight, or its task has not looked at its results yet */
    struct dsl_task *task;     /* the branch's own; NULL: it has none, or it has ended */
    bool is_released;
    uint32_t n_ops;      /* for seeds */
    uint32_t n_fork;     /* tokens at the fork that made it */
    bool has_other_past; /* those are not the parent's any more: a template has rewritten them */
    struct dsl_turn *turns;
    uint32_t n_turns, turns_cap;
    uint32_t n_head;                   /* tokens before the first turn */
    bool has_open_turn, wants_closing; /* what follows the last turn was not appended yet */
    bool has_text_between;             /* turns, or was appended behind the last one */
    char *closing;                     /* what follows the last turn, if it was appended; or NULL */
    json_t *tools;                     /* that the template shows; NULL: none */
    int variables, metas,
        base; /* Lua tables by name; base: the variables as they were at the fork */
};

/* Push the new state's handle, which has its one reference. Raise branch_limit, memory_limit. Fork
 * flushes the parent. */
struct dsl_state *state_create(lua_State *L, struct dsl_run *run, struct dsl_branch *parent);
struct dsl_state *state_fork(lua_State *L, struct dsl_state *parent);
struct dsl_state *state_ref(struct dsl_state *state);
void state_unref(struct dsl_state *state);
/* Lets go what it has, but for its variables; the first state keeps its text, which is the run's.
 */
void state_release(struct dsl_state *state);

/* Literal text goes behind it, and into tokens; raise context_length_exceeded, memory_limit. */
void state_add(lua_State *L, struct dsl_state *state, const char *text, size_t n);
void state_flush(lua_State *L, struct dsl_state *state);
void state_drop_open(struct dsl_state *state); /* what is open is in its tokens, or of no use */
/* Text into tokens at once, flags of the tokenizer. The state is flushed. */
void state_append_text(lua_State *L, struct dsl_state *state, const char *text, size_t n,
                       unsigned flags);
void state_append_tokens(lua_State *L, struct dsl_state *state, const int32_t *tokens, uint32_t n);
/* The tokens of a text behind the state's, appended to out. */
void state_tokenise(lua_State *L, const struct dsl_state *state, const char *text, size_t n,
                    unsigned flags, struct token_list *out);
/* The same behind the tokens of a list, which may become the state's. */
void state_tokenise_behind(lua_State *L, const struct dsl_state *state, const char *text, size_t n,
                           unsigned flags, struct token_list *list);
/* At least the begin token, if the model has one: something to go on from. */
void state_begin(lua_State *L, struct dsl_state *state);
/* What is no UTF-8 in tokens' bytes becomes U+FFFD. */
void append_utf8(struct buffer *out, const char *bytes, size_t n);
/* What the model has in front of a text; -1: nothing. */
int32_t find_begin_token(const struct tokenizer *tokenizer);
/* All of it, but for a begin token. */
void state_text(const struct dsl_state *state, struct buffer *out);

/* Pushes the text of tokens first..end-1 but for its first n_skipped bytes, control tokens left
 * out; to the end: with the literal. */
void state_push_text(lua_State *L, const struct dsl_state *state, uint32_t first, uint32_t end,
                     size_t n_skipped);

void state_set_prefix(struct dsl_state *state, struct dsl_prefix *prefix); /* takes the reference */
/* Of its first n tokens so many were computed. */
uint32_t state_n_held(const struct dsl_state *state, uint32_t n);

/* Lua's handle; takes the caller's reference. */
void state_push(lua_State *L, struct dsl_state *state);
/* The state at that place of the stack; raises if it is none. check: raises `released` and
 * `state_busy`, too. */
struct dsl_state *state_get(lua_State *L, int index);
struct dsl_state *state_check(lua_State *L, int index);

/* The methods of Lua's handles, once per Lua state (state_methods.c). */
void state_open_methods(lua_State *L);

#endif
