/* What the files of the sandbox share. */
#ifndef FRONTEND_DSL_SANDBOX_INTERNAL_H
#define FRONTEND_DSL_SANDBOX_INTERNAL_H

#include "frontend_dsl/sandbox.h"

struct sandbox {
    lua_State *main;
    lua_State *running; /* whose hook is called next; NULL: none runs */
    struct sandbox_limits limits;
    struct sandbox_hooks hooks;

    uint64_t instructions;
    uint64_t unseen;       /* charged since the clock was last looked at */
    uint64_t cpu_ns;       /* before the present resume */
    uint64_t resumed_ns;   /* processor time of the thread */
    uint64_t slice_end_ns; /* the same */
    uint64_t ended_ns;     /* the same, when the last resume came back */
    int interval;          /* of the count hook */
    bool is_hurried;       /* the hook is called at the next instruction instead */
    bool slice_is_over;    /* the hook has yielded */

    size_t bytes, peak_bytes; /* of the Lua state */
    size_t reserved;          /* of limits.total_bytes */
    size_t churn;             /* allocated since the hook was called */
    size_t collect_at;        /* bytes at which the hook collects garbage */
    lua_State *keeper;        /* a task for remove_modes alone; NULL: not open yet, or closed */

    const char *fatal; /* its code; NULL: none */
    struct dsl_error fatal_error;
    _Atomic(const char *) stop; /* from any thread */
    uint64_t random;            /* without a hook for it */
};

/* Makes the error fatal (the first one counts), with the position of L, and raises it. */
int sandbox_raise_fatal(lua_State *L, const char *code, const char *format, ...)
    __attribute__((format(printf, 3, 4), noreturn));

/* Raises the fatal error if there is one. */
void sandbox_check_fatal(lua_State *L);

/* The same behind an error with `status` that was caught and lies on top of the stack: a memory
 * error becomes fatal here. */
void sandbox_check_caught(lua_State *L, int status);

/* Raises memory_limit if `bytes` more can never fit, before they are asked for. */
void sandbox_check_memory(lua_State *L, size_t bytes);

/* Notes that the table at idx is a metatable: it will make no table weak. */
void sandbox_watch_metatable(lua_State *L, int idx);

/* Counts work that is done already, where nothing may be raised. */
void sandbox_note_work(lua_State *L, uint64_t n);

/* [{func, program, line}] of a state, innermost first; NULL: no memory. Does not raise. */
json_t *sandbox_traceback(lua_State *L);

/* Where the innermost function of the program is. Does not raise. */
void sandbox_position(lua_State *L, char program[DSL_NAME_BYTES], int32_t *line);

/* Sets the globals, on an empty state. */
void sandbox_open_base(lua_State *L);
void dsl_string_open(lua_State *L); /* pushes the table `string` */
void dsl_table_open(lua_State *L);  /* pushes the table `table` */
void dsl_error_open(lua_State *L);  /* makes the metatable of error objects */

/* Sorts 1..n of the table at idx by merging, which is stable: raw access, two charges for each
 * element and level. The table is changed at the end only, so not if `less` raises. `less` compares
 * the values at two absolute places of the stack and leaves the stack as it was. */
void dsl_table_sort(lua_State *L, int idx, lua_Integer n,
                    bool (*less)(lua_State *L, int a, int b, int context), int context);

/* A function of the standard library whose work grows with the texts that it is given: pushes it
 * with a charge for them in front. */
void sandbox_push_charged(lua_State *L, lua_CFunction fn);

#endif
