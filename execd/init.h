/*
 * init.h - signals of the agent, and its entrypoint when it is the init process.
 *
 * `execd --init -- program args...` runs as PID 1 of a container: it starts the
 * program once the server listens, passes on the signals it gets, and ends with
 * the program's exit code. Orphans are reaped by the one reaper (lib/child.h).
 */
#pragma once

#include <stdbool.h>

#include "lib/child.h"
#include "lib/err.h"
#include "lib/loop.h"

struct init_config {
	bool init;		 /* --init was given */
	char *const *entrypoint; /* NULL: none; borrowed */
	/* A process of the container was killed for want of memory since its begin. */
	bool (*out_of_memory)(void *arg);
	/* The agent is to end with this code. Called again when a signal asks again. */
	void (*stop)(void *arg, int code);
	void *arg;
};

/* What is logged of an entrypoint that was: the docker driver reads it among the last lines. */
#define INIT_OUT_OF_MEMORY "was killed for want of memory"

struct init;

/* Takes over the signals. */
int init_new(struct loop *loop, struct reaper *reaper, const struct init_config *config, struct init **ret);
/* Starts the entrypoint; nothing to do when there is none. See init_exit_code() for a failure. */
int init_start(struct init *i, struct err *err);
/* Kills an entrypoint that still runs. */
void init_free(struct init *i);

/* As a shell has it: 127 for a program that is not there, 126 for one that cannot be run. */
int init_exit_code(const struct err *err);
