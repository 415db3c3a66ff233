/*
 * command_priv.h - what command.c (output, force, end) and command_start.c share.
 */
#pragma once

#include <sys/resource.h>

#include "execd/command.h"
#include "execd/feed.h"
#include "execd/limits.h"
#include "execd/pump.h"
#include "execd/run.h"
#include "execd/sink.h"
#include "lib/child.h"
#include "lib/list.h"
#include "lib/loop.h"

enum state { RUNNING, DRAINING, SETTLING, ENDED };

struct command {
	struct list link;
	struct commands *commands;
	struct child child;
	struct run *run; /* NULL once ended */
	char *id;
	struct pump out, error;
	struct feed in;
	struct limits_hold *limits; /* NULL: none */
	struct room *room;	    /* a reference; NULL: in the container */
	struct undoable *undoable;  /* whose changes are merged before it ends; NULL: none, or no more */
	struct confine *confine;    /* NULL: none */
	struct denials *denials;    /* NULL: nothing is told */
	uint64_t output_budget;
	uint64_t processes_killed;
	struct loop_timer timeout, drain, stop;
	enum state state;
	bool forced; /* we have begun to end it, for this reason: */
	enum run_reason cause;
	bool killed; /* by SIGKILL to the tree */
	pid_t pid;
	int wstatus;
	struct rusage usage;
};

struct commands {
	struct execd *execd;
	struct list live; /* RUNNING and DRAINING */
	struct list lingering;
	struct list dead; /* freed after the callbacks that may still stand in them */
	struct sinks sinks;
	struct loop_defer tidy;
	struct limiter *limiter; /* NULL: no bounds so far */
	uint64_t oom_kills;	 /* of the whole container, when last looked at */
	bool stopping;
	void (*stopped)(void *arg);
	void *stopped_arg;
};

extern const struct run_ops command_ops;
extern const struct pump_ops command_pump_ops; /* of both pipes, embedded in the command */

/* Callbacks. */
void command_exited(struct child *child, int wstatus, const struct rusage *usage);
void command_has_room(void *arg);
void command_timed_out(struct loop_timer *timer);

/* Gives back its room, or its profile and what listened to that. */
void command_unconfine(struct command *c);
