/*
 * child.h - the one reaper.
 *
 * The agent may be PID 1, so waitpid(-1) is called in one place, on SIGCHLD:
 * known children get their callback, strangers (reparented orphans) are reaped
 * and forgotten. pidfds are for signalling without races.
 */
#pragma once

#include <stdbool.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "lib/err.h"
#include "lib/loop.h"
#include "lib/spawn.h"

struct reaper;

/* One per process and loop; takes over SIGCHLD. */
int reaper_new(struct loop *loop, struct reaper **ret);
void reaper_free(struct reaper *r);
/* fn(arg) runs after processes have been collected, strangers among them. One; NULL: none. */
void reaper_on_collected(struct reaper *r, void (*fn)(void *arg), void *arg);

struct child;
/*
 * wstatus as of waitpid(2); usage covers the child and what it waited for. Runs
 * on the loop, once. c is no longer watched and may be freed or started anew;
 * until this returns, its pid and group id are not given to another process.
 */
typedef void child_exit_fn(struct child *c, int wstatus, const struct rusage *usage);

/*
 * Somebody else may be the one who starts a process and waits for it (the init of
 * a PID namespace): then its host says when it has started and ended, and child_*() below work on it all the
 * same.
 */
struct child_host {
	/* No on_exit any more. */
	void (*forget)(struct child *c);
	/* It has not started yet: the signal is for when it has. */
	int (*kill)(struct child *c, int signo, bool group);
};

struct child {
	struct list link; /* the reaper's, or the host's */
	child_exit_fn *on_exit;
	pid_t pid;		       /* 0 when not running, or not yet */
	int pidfd;		       /* owned; -EBADF when not running, or when the kernel has none */
	const struct child_host *host; /* NULL: the reaper waits for it */
	uint64_t tag;		       /* the host's */
};

/* spawn() and watch in one step: on_exit can not be missed. c must stay until on_exit or child_forget. */
int child_spawn(struct reaper *r, struct child *c, const struct spawn *spec, child_exit_fn *on_exit,
		struct err *err);

/* Watches a process that some other child of ours made and that is reparented to us. -ESRCH when it is gone.
 */
int child_adopt(struct reaper *r, struct child *c, pid_t pid, child_exit_fn *on_exit);

/*
 * How a process ended that was reparented to us and has been reaped before
 * anybody adopted it: 0 and *ret_wstatus, once. Of such strangers the last 64
 * are remembered; -ESRCH for any other.
 */
int child_ended(struct reaper *r, pid_t pid, int *ret_wstatus);

/* Stops watching; the process is still reaped when it ends. Harmless when not running. */
void child_forget(struct child *c);

/* To the process alone (pidfd), or to its whole process group. -ESRCH when it has ended. */
int child_kill(struct child *c, int signo);
int child_kill_group(struct child *c, int signo);
