/*
 * session.h - shell sessions: a living bash with an id and a queue of runs.
 *
 * Runs of one session execute one after the other, in order of arrival. A
 * session is itself a run that lasts as long as it does: its log holds what
 * background jobs write between runs, its id is the session's, and an interrupt
 * of it goes to the run at hand.
 *
 * A script that ends the shell (`exit 3`) ends as an ordinary run with that exit
 * code; the next one finds a new shell in the same directory, and a `status`
 * event that says so.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "lib/err.h"

struct env_filter;
struct execd;
struct room;
struct run;
struct sessions;
struct session;

#define SESSIONS_MAX	      256  /* live sessions */
#define SESSION_QUEUE_MAX     64   /* runs that wait in one session */
#define SESSION_KILL_GRACE_MS 1000 /* from a timeout's SIGINT to SIGKILL of the shell */

/* max: live ones at once. */
int sessions_new(struct execd *execd, size_t max, struct sessions **ret);
/* Ends every session; their runs end as cancelled. */
void sessions_free(struct sessions *ss);

struct session_spec {
	const char *cwd;     /* as the client wrote it, or NULL */
	json_t *envs;	     /* object of strings, or NULL */
	json_t *confinement; /* as given (confinement.h), or NULL */
	/* For an isolated session: the shell lives in there, and is started by the first run. */
	struct room *room;
	const struct env_filter *env; /* borrowed as long as the session lives; NULL: all */
};

/* *ret_id is borrowed and lives as long as the session. */
int session_create(struct sessions *ss, const struct session_spec *spec, const char **ret_id,
		   struct err *err);
/* -ENOENT with *err. What runs in it ends as cancelled. */
int session_delete(struct sessions *ss, const char *id, struct err *err);

struct session_run_spec {
	const char *command;
	const char *cwd;     /* changes to it first; NULL: stays where it is */
	const char *or_cwd;  /* where it goes when that is gone; NULL: it fails */
	json_t *envs;	     /* exported first; NULL: none */
	uint64_t timeout_ms; /* from the moment it starts; 0: none */
};

/* *ret_run is a reference for the caller. */
int session_run(struct sessions *ss, const char *id, const struct session_run_spec *spec,
		struct run **ret_run, struct err *err);

/* Where its shell was last, or NULL. */
const char *session_cwd(struct sessions *ss, const char *id);
/* Ends the idle shell, which the next run starts anew where it was; runs wait until it is told to go on. */
void session_pause(struct sessions *ss, const char *id, bool pause);
/* What confines it, as a JSON object; NULL: nothing, or there is no such session. Borrowed. */
const char *session_confinement(struct sessions *ss, const char *id);
/* New runs wait until session_pause(..., false); the shell stays. */
void session_hold(struct sessions *ss, const char *id);

/* The sessions one after the other: fn is called with the session's own run. */
void sessions_each(struct sessions *ss,
		   void (*fn)(void *arg, const struct run *run, size_t waiting, const char *cwd), void *arg);
