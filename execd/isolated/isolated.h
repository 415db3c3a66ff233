/*
 * isolated.h - isolated sessions: a room, a shell in it that lives from its
 * first run on, background runs, and an idle time after which all of it goes.
 *
 * Foreground runs are those of a shell session (session.h), background runs
 * are commands; both in the room. Loop thread only.
 */
#pragma once

#include <stdbool.h>

#include "execd/isolated/room.h"

struct execd;
struct isolated;  /* one session */
struct isolateds; /* all of them */

int isolateds_new(struct execd *execd, struct isolateds **ret);
void isolateds_free(struct isolateds *is);

/* By id, with or without its dashes. -ENOENT with *err (CONTEXT_NOT_FOUND). The session is borrowed. */
int isolated_get(struct isolateds *is, const char *id, struct isolated **ret, struct err *err);
/* Never NULL; take a reference over more than one turn of the loop. */
struct room *isolated_room(struct isolated *s);

/* Runs that are on or wait, background ones included. */
size_t isolated_runs(const struct isolated *s);
/*
 * For commit, undo and whatever else needs the files to stand still: -EBUSY
 * (ERR_CONFLICT) while runs are on; otherwise the idle shell is ended (its
 * directory is remembered, its variables are not) with all it has left running,
 * and new runs wait until isolated_resume(). Idle time does not count meanwhile.
 * ready(arg) runs on the loop once nothing but the init is left in the room.
 */
int isolated_quiesce(struct isolated *s, void (*ready)(void *arg), void *arg, struct err *err);
void isolated_resume(struct isolated *s);
