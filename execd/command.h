/*
 * command.h - one shell command or program as a run.
 *
 * command_start() returns at exec; everything after that (output, end, how it
 * ended) is read from the run. A command does not depend on whoever asked for
 * it: it goes on when the client has gone.
 */
#pragma once

#include "execd/launch.h"
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

/* All live commands of an agent; execd is borrowed. */
struct commands;
int commands_new(struct execd *execd, struct commands **ret);
/* Kills what still runs; their runs end as cancelled. */
void commands_free(struct commands *cs);
/* What enforces bounds, for all that is started here; made when it is first asked for. */
int commands_limiter(struct commands *cs, struct limiter **ret, struct err *err);

/*
 * SIGTERM to every command, SIGKILL after grace_ms; done(arg) runs on the loop
 * once none is left. New ones are refused from here on.
 */
void commands_stop(struct commands *cs, uint64_t grace_ms, void (*done)(void *arg), void *arg);

/*
 * The pipe to its standard input. ERR_CONFLICT when it has none, ERR_GONE when
 * that is closed or the command has ended.
 */
struct feed;
int command_feed(struct run *run, struct feed **ret, struct err *err);

/* *ret_run is a reference for the caller. */
int command_start(struct commands *cs, const struct command_spec *spec, struct run **ret_run,
		  struct err *err);
