/*
 * spawn_child.c - what a child does from clone to exec.
 *
 * It may share the memory of its parent, and at first its descriptors
 * (spawn.c). So, for all that is marked CHILD:
 * - only system calls, and no libc wrapper that does more than one: setuid(3)
 *   and its kin would change every thread of the parent;
 * - no allocation, no locks, no logging; only its own stack is written to, and
 *   the report;
 * - all signals are blocked until every disposition is back to its default, so
 *   that no handler of ours ever runs there.
 */
#include "lib/spawn_priv.h"

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Kernel signal numbers, those that libc keeps to itself included. */
#define SIGNALS_N 64

/* The sanitizers' own checks know neither this stack nor a process without their threads. */
#define CHILD __attribute__((no_sanitize("address", "thread", "undefined")))

CHILD static _Noreturn void child_fail(struct plan *plan, enum stage stage)
{
	const struct report report = {
		.stage = stage, .errnum = errno, .detail = {plan->report.detail[0], plan->report.detail[1]}};

	plan->report = report;
	if (plan->report_fd >= 0)
		(void)!write(plan->report_fd, &report, sizeof(report));
	for (;;)
		syscall(SYS_exit_group, 127);
}

/* The kernel's own struct: libc's sigaction(3) refuses the two signals it uses. */
CHILD static void child_reset_signals(void)
{
	struct {
		void (*handler)(int);
		unsigned long flags;
		void (*restorer)(void);
		uint64_t mask;
	} action = {.handler = SIG_DFL};

	for (int signo = 1; signo <= SIGNALS_N; signo++)
		if (signo != SIGKILL && signo != SIGSTOP)
			(void)syscall(SYS_rt_sigaction, signo, &action, NULL, sizeof(action.mask));
}

/* Marks all descriptors from 3 on without close_range(2): those that /proc lists, or all that there may be.
 */
CHILD static void child_cloexec_slowly(void)
{
	int dir = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_Alignas(struct dirent64) char entries[2048];
	struct rlimit limit;
	long n;

	if (dir < 0) {
		if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
			limit.rlim_max = 65536;
		for (int fd = 3; fd < (int)MIN(limit.rlim_max, (rlim_t)1048576); fd++)
			(void)fcntl(fd, F_SETFD, FD_CLOEXEC);
		return;
	}
	while ((n = syscall(SYS_getdents64, dir, entries, sizeof(entries))) > 0) {
		for (long at = 0; at < n;) {
			const struct dirent64 *e = (const struct dirent64 *)(entries + at);
			int fd = 0;

			for (const char *p = e->d_name; *p >= '0' && *p <= '9'; p++)
				fd = fd * 10 + (*p - '0');
			if (fd >= 3)
				(void)fcntl(fd, F_SETFD, FD_CLOEXEC);
			at += e->d_reclen;
		}
	}
	(void)close(dir);
}

CHILD static int child_dup2(int from, int to)
{
	int r;

	do
		r = dup2(from, to);
	while (r < 0 && (errno == EINTR || errno == EBUSY));
	return r;
}

/*
 * Everything becomes close-on-exec, then what is asked for is put in place. A
 * source that stands where another one is to go moves out of the way first.
 */
CHILD static int child_place_fds(struct plan *plan)
{
	if (syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC) < 0)
		child_cloexec_slowly();
	if (plan->report_fd >= 0 && plan->report_fd < plan->fd_above) {
		int fd = fcntl(plan->report_fd, F_DUPFD_CLOEXEC, plan->fd_above);

		if (fd < 0)
			return -1;
		plan->report_fd = fd;
	}
	for (size_t i = 0; i < plan->fds_n; i++) {
		struct spawn_fd *f = &plan->fds[i];

		if (f->parent_fd >= plan->fd_above || f->parent_fd == f->child_fd)
			continue;
		f->parent_fd = fcntl(f->parent_fd, F_DUPFD_CLOEXEC, plan->fd_above);
		if (f->parent_fd < 0)
			return -1;
	}
	for (size_t i = 0; i < plan->fds_n; i++) {
		const struct spawn_fd *f = &plan->fds[i];

		if (f->parent_fd == f->child_fd ? fcntl(f->child_fd, F_SETFD, 0) < 0
						: child_dup2(f->parent_fd, f->child_fd) < 0)
			return -1;
	}
	return 0;
}

CHILD static int child_set_limits(const struct plan *plan)
{
	const struct spawn *spec = plan->spec;

	/* Refused only when somebody has lowered our hard limit since: then that one holds. */
	if (plan->nofile)
		(void)syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, plan->nofile, NULL);
	for (size_t i = 0; i < spec->rlimits_n; i++)
		if (syscall(SYS_prlimit64, 0, spec->rlimits[i].resource, &spec->rlimits[i].limit, NULL) < 0)
			return -1;
	return 0;
}

CHILD static int child_set_ids(const struct spawn *spec)
{
	if (syscall(SYS_setgroups, spec->groups_n, spec->groups) < 0 ||
	    syscall(SYS_setresgid, spec->gid, spec->gid, spec->gid) < 0 ||
	    syscall(SYS_setresuid, spec->uid, spec->uid, spec->uid) < 0)
		return -1;
	return 0;
}

/* The kernel forgets the wish when ids change, so it comes after them; the parent may have gone before it. */
CHILD static int child_die_with_parent(const struct plan *plan)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
		return -1;
	if (getppid() != plan->parent) {
		errno = ESRCH;
		return -1;
	}
	return 0;
}

/* As execvp(3): the next place is tried when this one has no such program or does not let us. */
CHILD static void child_exec(const struct plan *plan)
{
	int denied = 0;

	for (const char *path = plan->programs; *path; path += strlen(path) + 1) {
		(void)execve(path, plan->spec->argv, plan->spec->envp);
		if (errno == EACCES)
			denied = EACCES;
		else if (errno != ENOENT && errno != ENOTDIR && errno != ENODEV && errno != ESTALE &&
			 errno != ETIMEDOUT)
			return;
	}
	if (denied)
		errno = denied;
}

/* Raising it again needs no permission. */
CHILD static void child_unprotect(const struct plan *plan)
{
	int fd = plan->oom_score[0] ? open(SPAWN_OOM_FILE, O_WRONLY | O_CLOEXEC) : -1;

	if (fd < 0)
		return;
	(void)!write(fd, plan->oom_score, strlen(plan->oom_score));
	(void)close(fd);
}

CHILD static void child_hook(struct plan *plan, bool last)
{
	const struct spawn_hook *hook = plan->spec->hook;
	int r = hook ? hook->run(hook, last, plan->report.detail) : 0;

	if (r < 0) {
		errno = -r;
		child_fail(plan, STAGE_HOOK);
	}
}

CHILD int spawn_child(void *arg)
{
	struct plan *plan = arg;
	const struct spawn *spec = plan->spec;
	uint64_t no_signals = 0;

	child_reset_signals();
	if (spec->new_session && setsid() < 0)
		child_fail(plan, STAGE_SESSION);
	for (int i = 0; i < SPAWN_CGROUPS_MAX; i++)
		if (plan->cgroup_fds[i] >= 0 && write(plan->cgroup_fds[i], "0", 1) != 1)
			child_fail(plan, STAGE_CGROUP);
	/* Until here the table may be the parent's, and nothing of it may change. */
	if (plan->keep_below > 0 &&
	    syscall(SYS_close_range, plan->keep_below, ~0U, CLOSE_RANGE_UNSHARE) < 0 &&
	    syscall(SYS_unshare, CLONE_FILES) < 0)
		child_fail(plan, STAGE_FDS);
	if (child_place_fds(plan) < 0)
		child_fail(plan, STAGE_FDS);
	if (spec->controlling_tty && ioctl(0, TIOCSCTTY, 0) < 0)
		child_fail(plan, STAGE_TERMINAL);
	if (child_set_limits(plan) < 0)
		child_fail(plan, STAGE_LIMITS);
	child_unprotect(plan);
	child_hook(plan, false);
	if (spec->set_ids && child_set_ids(spec) < 0)
		child_fail(plan, STAGE_IDS);
	if (spec->die_with_parent && child_die_with_parent(plan) < 0)
		child_fail(plan, STAGE_PARENT);
	if (spec->cwd && chdir(spec->cwd) < 0)
		child_fail(plan, STAGE_CWD);
	(void)syscall(SYS_rt_sigprocmask, SIG_SETMASK, &no_signals, NULL, sizeof(no_signals));
	child_hook(plan, true);
	child_exec(plan);
	child_fail(plan, STAGE_EXEC);
}
