/*
 * spawn.h - the one way a process is started.
 *
 * argv, envp and everything else is prepared by the caller; between fork and
 * exec the child makes only async-signal-safe calls. A child that cannot reach
 * exec reports the stage and errno on a close-on-exec pipe, so that "no such
 * program" is an error of spawn() and not an exit code 127.
 *
 * The child starts with default signal dispositions, an empty signal mask, the
 * soft descriptor limit that execd itself was started with, and no descriptors
 * but those named here.
 */
#pragma once

#include <stdbool.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "lib/err.h"
#include "lib/util.h"

#define SPAWN_FDS_MAX	  16
#define SPAWN_CGROUPS_MAX 2 /* version 1 has a hierarchy for each controller */

struct spawn_fd {
	int parent_fd; /* borrowed: the caller closes its own */
	int child_fd;
};

struct spawn_rlimit {
	int resource; /* RLIMIT_* */
	struct rlimit limit;
};

/*
 * What else is done in the child, by the rules of spawn_child.c: called with all
 * privileges before ids are changed, and again (last) with exec as the only thing
 * left to do. 0, or -errno and up to two numbers that tell report(), in the
 * parent, what did not work.
 */
struct spawn_hook {
	int (*run)(const struct spawn_hook *h, bool last, uint32_t detail[2]);
	/* Fills *err, returns -errnum. */
	int (*report)(const struct spawn_hook *h, const uint32_t detail[2], int errnum, const char *program,
		      struct err *err);
};

struct spawn {
	const char *path; /* absolute, or a bare name looked up in envp's PATH */
	char *const *argv;
	char *const *envp;
	const char *cwd; /* NULL: inherit */

	/* Child's descriptors. 0, 1, 2 that are not named become /dev/null. */
	struct spawn_fd fds[SPAWN_FDS_MAX];
	size_t fds_n;

	bool set_ids; /* setgroups(groups), setgid(gid), setuid(uid) */
	uid_t uid;
	gid_t gid;
	const gid_t *groups;
	size_t groups_n;

	bool new_session;     /* setsid(): own session and process group */
	bool controlling_tty; /* with new_session: child_fd 0 becomes the terminal */
	bool die_with_parent; /* PR_SET_PDEATHSIG SIGKILL, when the calling thread ends */

	const struct spawn_rlimit *rlimits;
	size_t rlimits_n;
	const struct spawn_hook *hook;		     /* NULL: none */
	const char *cgroup_procs[SPAWN_CGROUPS_MAX]; /* cgroup.procs files to join before exec; NULL: none */
};

/*
 * Starts the process and returns once it has reached exec or failed.
 * On success: 0, *ret_pid and *ret_pidfd (close-on-exec, owned by the caller;
 * -EBADF when the kernel has no pidfds).
 * On failure: -errno and *err, which names the stage and the program; nothing
 * is left running.
 */
int spawn(const struct spawn *spec, pid_t *ret_pid, int *ret_pidfd, struct err *err);

/*
 * Call once at start, before anything else changes limits: remembers the
 * descriptor limit for children and lowers the soft limit of this process to
 * at most `soft` (libwebsockets sizes its tables by it). Reserves a few low
 * descriptors, with which starts stay fast however many others are open: so
 * call it before the many.
 */
int spawn_init(rlim_t soft);

/*
 * Puts this process last in the order in which the kernel kills for want of
 * memory, where that is permitted; children get back the place that it was
 * started with. Once at start. -errno when it is not permitted: nothing changes.
 */
int spawn_protect(void);
