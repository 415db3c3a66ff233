/*
 * undoable.h - single commands that can be taken back.
 *
 * Such a command runs in a room of its own, with an overlay over one directory,
 * the root, and all other files read-only: what could not be taken back cannot
 * be done. When it has ended, what it has left running is killed, its changes are
 * merged into the root and what that replaces is kept as a layer, the inverse;
 * only then has the run ended, so whoever saw its end sees its files.
 *
 *   RUNNING -> MERGED -> UNDONE
 *           -> FAILED
 *
 * The last UNDOABLES_MAX are kept, with their inverses; one more costs the
 * oldest that has ended. Loop thread only; workers do the merging.
 */
#pragma once

#include "execd/launch.h"
#include "lib/err.h"

#define UNDOABLES_MAX	   64
#define UNDOABLE_REPLY_MAX (4U << 20)

struct execd;
struct jw;
struct undoable;
struct undoables;

int undoables_new(struct execd *execd, struct undoables **ret);
void undoables_free(struct undoables *us);

/* Makes the room; root is absolute and clean. spec->room and spec->undoable are set. */
int undoable_new(struct undoables *us, const char *root, struct command_spec *spec, struct err *err);
/* It has an id now, by which it is found. */
int undoable_started(struct undoable *u, const char *run_id, struct err *err);

/* command.h: the command has ended; done(arg) runs once its changes are merged, unless undoable_forget() came
 * first. What went wrong is in message ("": nothing). */
typedef void undoable_settled_fn(void *arg, const char *message);
int undoable_settle(struct undoable *u, undoable_settled_fn *done, void *arg);
/* Whoever has it from undoable_new() does not want it any more. */
void undoable_forget(struct undoable *u);

int undoable_get(struct undoables *us, const char *run_id, struct undoable **ret, struct err *err);
/* {"id", "root", "state", "bytes", ...}; changes: with what it has changed, by path. */
void undoable_json(const struct undoable *u, bool changes, struct jw *w);
void undoables_each(struct undoables *us, void (*fn)(void *arg, const struct undoable *u), void *arg);

/* done(arg, 0 or -errno with *err). ERR_CONFLICT when somebody has changed the same files since, unless
 * force. */
typedef void undoable_undone_fn(void *arg, int r, const struct err *err);
int undoable_undo(struct undoable *u, bool force, undoable_undone_fn *done, void *arg, struct err *err);
