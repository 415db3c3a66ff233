/*
 * sweeper.h - one timer to the next deadline in the store.
 *
 * No object has a timer of its own: the sweeper sleeps until the earliest
 * deadline of all rows (in wall-clock time; a clock that is set wakes it), then
 * hands each due row to its owner, who moves it on.
 */
#pragma once

#include "lib/loop.h"
#include "sandboxd/store.h"

struct sweeper;

/*
 * The row is due. 0: it has been moved on or forgotten. -errno: it could not;
 * the sweeper comes back to it after SWEEPER_RETRY_MS.
 */
typedef int sweeper_fn(void *arg, const char *id, enum sandbox_state state, uint64_t now_ms);

#define SWEEPER_RETRY_MS 5000
#define SWEEPER_BATCH	 32 /* rows a turn of the loop */

int sweeper_new(struct loop *loop, struct store *store, sweeper_fn *fn, void *arg, struct sweeper **ret);
void sweeper_free(struct sweeper *w);

/* Deadlines have changed: look again before the loop waits. Cheap, may be called at every change. */
void sweeper_kick(struct sweeper *w);

/* One pass as of now_ms; returns the time of the next one, 0: nothing to wait for. (The timer's work.) */
uint64_t sweeper_run(struct sweeper *w, uint64_t now_ms);
