/*
 * limits.h - bounds of one command, and what enforces each of them.
 *
 * Memory and processes are bounded by a cgroup of the command's own where the
 * container lets us make one, by rlimits otherwise; CPU time and descriptors
 * by rlimits; output and wall time by the agent. A bound that nothing here can
 * enforce is an error, never a wish. Loop thread only.
 */
#pragma once

#include <stdbool.h>

#include "lib/err.h"
#include "lib/list.h"
#include "lib/spawn.h"

enum limit {
	LIMIT_MEMORY,	 /* bytes: of all its processes (cgroup), or address space of each (rlimit) */
	LIMIT_PROCESSES, /* and threads (cgroup), or those of its user (rlimit) */
	LIMIT_CPU,	 /* seconds of each process: SIGXCPU, one second later SIGKILL */
	LIMIT_OUTPUT,	 /* bytes of both streams together */
	LIMIT_FILES,	 /* descriptors of each process */
	LIMIT_TIMEOUT,	 /* milliseconds of wall time */
	LIMITS_N,
};

enum limit_by { LIMIT_BY_NONE, LIMIT_BY_CGROUP, LIMIT_BY_RLIMIT, LIMIT_BY_AGENT };

/* 0: not bounded. */
struct limits {
	uint64_t value[LIMITS_N];
};

/* Is there one beside wall time, which every command may have? */
bool limits_any(const struct limits *limits);
/* As the API names it: "memory_bytes", ... */
const char *limit_name(enum limit limit);
/* The least that makes sense. */
uint64_t limit_min(enum limit limit);

/* What this container allows: found when the first bound is asked for. */
struct limiter;
int limiter_new(struct limiter **ret);
/* Takes empty cgroups along; one that still has processes stays behind. */
void limiter_free(struct limiter *l);
/* Tries again to remove the cgroups of commands that have left processes behind. */
void limiter_tidy(struct limiter *l);

/* The bounds in force for one command. */
struct limits_hold {
	struct list link; /* the limiter's, once released */
	struct limiter *limiter;
	struct limits limits;
	enum limit_by by[LIMITS_N];
	struct spawn_rlimit rlimits[LIMITS_N];
	size_t rlimits_n;
	char *dirs[SPAWN_CGROUPS_MAX]; /* memory, pids; with version 2 both are one, the first */
	char *procs[SPAWN_CGROUPS_MAX];
};

/*
 * Makes what is to enforce them; id is part of a cgroup's name; uid: whom
 * the command runs as. NULL when nothing is bounded. ERR_NOT_SUPPORTED with *err that names the bound.
 */
int limits_hold_new(struct limiter *l, const struct limits *limits, const char *id, uid_t uid,
		    struct limits_hold **ret, struct err *err);
/* s borrows from it. */
void limits_hold_apply(struct limits_hold *h, struct spawn *s);
/* The same for a process that is there already and has neither children nor run anything of the user's. */
int limits_hold_enter(const struct limits_hold *h, pid_t pid);
/* Its cgroups alone: the rlimits of a process that becomes another user cannot be set from here for sure. */
int limits_hold_join(const struct limits_hold *h, pid_t pid);
/* {"memory_bytes": {"value": N, "by": "cgroup"}, ...}; NULL without memory. */
char *limits_hold_json(const struct limits_hold *h);
/* Processes killed because the bound on memory was reached, as far as somebody counted them. */
uint64_t limits_hold_oom_kills(const struct limits_hold *h);
/* The command has ended: its cgroups go, at once or when they are empty. NULL is fine. */
void limits_hold_release(struct limits_hold *h);
