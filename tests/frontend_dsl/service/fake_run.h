/* A run (frontend_dsl/run.h) without Lua and model, for tests of who lets runs go on: its arguments
 * say what it does, {"do": [step, ..]}:
 *   "emit NAME"    an event
 *   "again"        the slice is over
 *   "block"        until fake_run_wake_all, a stop, or its timer
 *   "tool ID"      waits for the output of that tool; "tool ID,ID" for all of them
 *   "fail CODE"    ends so; behind the last step it has completed
 *   "refuse"       as the first: it cannot be made */
#ifndef TESTS_FAKE_RUN_H
#define TESTS_FAKE_RUN_H

#include "frontend_dsl/dsl_program.h"
#include "frontend_dsl/run.h"

/* Wakes all that block. */
void fake_run_wake_all(void);
/* Runs that have been made and not destroyed; those that have begun to be advanced, ever. */
unsigned fake_run_n_alive(void);
unsigned fake_run_n_advanced(void);

struct dsl_program *fake_program_create(void);

#endif
