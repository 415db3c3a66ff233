/*
 * isolated.h - isolated sessions: a room, a shell in it that lives from its
 * first run on, background runs, and an idle time after which all of it goes.
 *
 * Foreground runs are those of a shell session (session.h), background runs
 * are commands; both in the room, and runs like all others. Loop thread only.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "execd/env.h"
#include "execd/isolated/room.h"

struct execd;
struct isolated;  /* one session */
struct isolateds; /* all of them */
struct oneshots;
struct run;

#define ISOLATED_MAX		 4096
#define ISOLATED_IDLE_DEFAULT_MS ((uint64_t)1800 * 1000)
#define ISOLATED_ID_MAX		 37

int isolateds_new(struct execd *execd, struct isolateds **ret);
void isolateds_free(struct isolateds *is);
/* The rooms of all sessions; whoever needs one of his own (a probe, a one-shot run) makes it here. */
struct rooms *isolateds_rooms(struct isolateds *is);

/* Calls in rooms of their own (oneshot.h). */
struct oneshots *isolateds_oneshots(struct isolateds *is);

/* Borrowed until isolated_create() returns, but for echo and env.keys, which are shared. */
struct isolated_spec {
	struct room_spec room;
	struct env_filter env;
	uint64_t idle_ms;    /* 0: for ever */
	json_t *echo;	     /* what it was created with, as it is to be told */
	unsigned points_max; /* of its history.h; 0: its runs cannot be undone */
};

/*
 * done(arg, session or NULL with *err) runs on the loop, later, once; also when it is deleted before it is
 * ready. *ret is for isolated_abandon(): whoever does not wait any more calls that, before done().
 */
typedef void isolated_created_fn(void *arg, struct isolated *s, const struct err *err);
int isolated_create(struct isolateds *is, const struct isolated_spec *spec, isolated_created_fn *done,
		    void *arg, struct isolated **ret, struct err *err);

void isolated_abandon(struct isolated *s);

/* By id, with or without its dashes. -ENOENT with *err (CONTEXT_NOT_FOUND). The session is borrowed. */
int isolated_get(struct isolateds *is, const char *id, struct isolated **ret, struct err *err);
/* Kills what runs in it; s is gone. gone(arg), when given, runs once nothing of it is left. */
void isolated_delete(struct isolated *s, void (*gone)(void *arg), void *arg);
void isolateds_each(struct isolateds *is, void (*fn)(void *arg, struct isolated *s), void *arg);

const char *isolated_id(const struct isolated *s);
struct room *isolated_room(struct isolated *s);
struct history *isolated_history(struct isolated *s);
/* What it was created with; borrowed. */
json_t *isolated_echo(const struct isolated *s);

struct isolated_status {
	bool alive;
	uint64_t created_ms, last_run_ms; /* Unix milliseconds; 0: no run yet */
	int64_t idle_remaining_ms;	  /* -1: no timeout, or runs are on */
};
void isolated_status(const struct isolated *s, struct isolated_status *ret);

struct isolated_run_spec {
	const char *code;
	json_t *envs;	     /* object of strings, or NULL */
	const char *cwd;     /* NULL: where the shell is */
	uint64_t timeout_ms; /* 0: none */
	bool background;
};

/* *ret_run is a reference for the caller. */
int isolated_run(struct isolated *s, const struct isolated_run_spec *spec, struct run **ret_run,
		 struct err *err);
/* A run of this session by its id; borrowed. -ENOENT with *err. */
int isolated_find_run(struct isolated *s, const char *id, struct run **ret, struct err *err);

/* Runs that are on or wait, background ones included. */
size_t isolated_runs(const struct isolated *s);
/*
 * For commit, undo and whatever else needs the files to stand still: -EBUSY
 * (ERR_CONFLICT) while runs are on; otherwise the idle shell is ended (its
 * directory is remembered, its variables are not) with all it has left running,
 * and new runs wait until isolated_resume(). Idle time does not count meanwhile.
 * ready(arg) runs on the loop once nothing but the init is left in the room, or the room has ended.
 */
int isolated_quiesce(struct isolated *s, void (*ready)(void *arg), void *arg, struct err *err);
/* New runs wait until isolated_resume(); what is there goes on, the idle shell too. */
void isolated_hold(struct isolated *s);
void isolated_resume(struct isolated *s);
