/*
 * shell.h - one living bash that runs scripts one after the other.
 *
 * Functions, aliases, variables, shell options, background jobs and the
 * current directory stay from one script to the next. Nothing of the protocol
 * passes through standard input or output; a script's standard input is
 * /dev/null.
 *
 *   STARTING -> IDLE <-> BUSY -> (SETTLING -> IDLE) | DEAD
 *
 * The owner keeps the shell until events->died; one script at a time.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <sys/resource.h>

#include "lib/err.h"

struct env_filter;
struct execd;
struct output;
struct room;
struct shell;

#define SHELL_SCRIPT_MAX (16U << 20) /* bytes of one script */
#define SHELL_CWD_MAX	 4096

struct shell_events {
	/* The script is over and its output drained. May start the next one. */
	void (*done)(void *owner, int exit_code);
	/*
	 * The shell itself has ended (exit in a script, a signal), its output
	 * is drained: a script that was running is over. Free it from here or later.
	 */
	void (*died)(void *owner, int wstatus, const struct rusage *usage);
	/* The script has written more than its budget, which is told each time it does. NULL: nobody cares.
	 */
	void (*overflow)(void *owner);
	/* Of a shell made by shell_fork(), once: it is there, or will not be, and error says why. */
	void (*forked)(void *owner, const char *error);
};

struct shell_spec {
	const char *cwd;	      /* absolute, or NULL */
	json_t *envs;		      /* object of strings, or NULL */
	const char *mark;	      /* unique: what its processes are found by when it is killed */
	bool forkable;		      /* by shell_fork(), later */
	struct room *room;	      /* where it lives; NULL: in the container */
	const struct env_filter *env; /* what it sees of the agent's environment; NULL: all */
	struct confine *confine;      /* NULL: none; a room has its own */
	const struct shell_events *events;
	void *owner;
};

/* -errno with *err when there is no bash or it cannot be started. Usable at once. */
int shell_start(struct execd *execd, const struct shell_spec *spec, struct shell **ret, struct err *err);
/*
 * A second shell with all the state of sh, which must be idle and forkable, by a fork of its process; of spec
 * only mark, events and owner count. Usable once forked() has said so. Refused when sh has background jobs.
 */
int shell_fork(struct shell *sh, const struct shell_spec *spec, struct shell **ret, struct err *err);
/* Kills what is left of it, its background jobs included. No event follows. */
void shell_free(struct shell *sh);

/*
 * Runs a script; its bytes go to out (borrowed until done or died), what
 * background jobs write between scripts goes to the log set by shell_set_idle_output().
 */
int shell_run(struct shell *sh, const char *script, struct output *out, struct err *err);
/* Of what the next script writes only *budget bytes are kept, which it counts down. Borrowed as out is. */
void shell_set_budget(struct shell *sh, uint64_t *budget);
void shell_set_idle_output(struct shell *sh, struct output *out);
/* The log that is written to has room again. */
void shell_resume(struct shell *sh);

/* SIGINT to the shell's group: the script is given up, the shell stays. -ESRCH when none runs. */
int shell_interrupt(struct shell *sh);
/* SIGKILL to everything it has started and to itself; died() follows. */
void shell_kill(struct shell *sh);

/* Detaches the running script's log: what it still writes is thrown away, done() still comes. */
void shell_disown(struct shell *sh);

pid_t shell_pid(const struct shell *sh); /* 0: not known, or dead */
/* What has been denied since this was last asked (denials.h), on the heap, or NULL. */
char *shell_denied(struct shell *sh);

/* Where it was after the last script, or NULL when it has not said so yet. */
const char *shell_cwd(const struct shell *sh);
