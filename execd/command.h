/*
 * command.h - one shell command or program as a run.
 *
 * command_start() returns at exec; everything after that (output, end, how it
 * ended) is read from the run. A command does not depend on whoever asked for
 * it: it goes on when the client has gone.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

#include "lib/err.h"

struct execd;
struct run;

/*
 * Named times. After the exit of a command whose output is still held open by a
 * process it left behind, its end waits so long for more output; the process
 * keeps its pipe, what it writes later is thrown away.
 */
#define COMMAND_DRAIN_GRACE_MS	   250
#define COMMAND_INTERRUPT_GRACE_MS 3000 /* from SIGTERM to SIGKILL */
#define COMMAND_KILL_GRACE_MS	   250	/* from SIGKILL to an end that is reported without the exit */

#define COMMAND_READ_MAX 65536		  /* bytes read from a pipe in one turn */
#define COMMAND_TEXT_MAX (128 * 1024 - 1) /* one argument, MAX_ARG_STRLEN of Linux */
#define COMMAND_ARGV_MAX 65536
#define COMMAND_SINKS_MAX                                                                                    \
	256 /* pipes of ended commands that are still emptied; over it the oldest is closed */

struct command_spec {
	const char *command; /* for the shell; or */
	json_t *argv;	     /* an array of strings for exec; exactly one of both */
	const char *cwd;     /* as the client wrote it, or NULL */
	json_t *envs;	     /* object of strings, or NULL */
	bool background;
	uint64_t timeout_ms; /* 0: none */
	bool has_uid, has_gid;
	uid_t uid;
	gid_t gid;
};

/* All live commands of an agent; execd is borrowed. */
struct commands;
int commands_new(struct execd *execd, struct commands **ret);
/* Kills what still runs; their runs end as cancelled. */
void commands_free(struct commands *cs);

/*
 * SIGTERM to every command, SIGKILL after grace_ms; done(arg) runs on the loop
 * once none is left. New ones are refused from here on.
 */
void commands_stop(struct commands *cs, uint64_t grace_ms, void (*done)(void *arg), void *arg);

/* *ret_run is a reference for the caller. */
int command_start(struct commands *cs, const struct command_spec *spec, struct run **ret_run,
		  struct err *err);
