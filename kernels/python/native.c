/*
 * native.c - what a warm Python cannot do by itself: enter a room, and confine the process that it has
 * forked.
 *
 * A library that the zygotes load by its descriptor. The work is the agent's own code, built in here a second
 * time (execd/isolated/become.c, seccomp/apply.c). Everything returns 0 or -errno. Linked with nothing: the C
 * library is the one that Python has already, be it glibc or musl.
 */
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "execd/isolated/warden.h"

#define EXPORT __attribute__((visibility("default")))

EXPORT int execd_fork(const int *namespaces, unsigned n);
EXPORT int execd_keep(void);
EXPORT int execd_become(const struct wire_plan *head, int socket, int *ret_listener);
EXPORT int execd_confine(const struct confine_plan *plan, int socket, int *ret_listener);

static int enter(const int *namespaces, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (setns(namespaces[i], 0) < 0)
			return -errno;
	return 0;
}

/*
 * As fork(2), into namespaces. A PID namespace takes effect with the next fork only, so there is one in
 * between; it borrows our memory, while we wait, instead of copying it only to end.
 */
int execd_fork(const int *namespaces, unsigned n)
{
	volatile int r = 0;	      /* it is written in between */
	pid_t between = vfork(), pid; /* NOLINT(clang-analyzer-security.insecureAPI.vfork) */
	if (between == 0) {
		r = enter(namespaces, n); /* NOLINT(clang-analyzer-unix.Vfork): our memory is to be used */
		pid = r < 0 ? -1 : fork();
		if (pid == 0)
			return 0; /* on a copy of this very stack */
		if (r >= 0)
			r = pid < 0 ? -errno : pid;
		_exit(0);
	}
	if (between < 0)
		return -errno;
	while (waitpid(between, NULL, 0) < 0 && errno == EINTR)
		;
	return r;
}

/* ---- the keeper ----------------------------------------------------------------- */

static _Alignas(16) char keeper_stack[4096];
static int keeper_state; /* 1: it holds no descriptor any more; -1: it has come to nothing */

/* Never touches what it shares but for the above: no C library's own, no signal. */
static int keeper_main(void *arg)
{
	(void)arg;
	(void)syscall(SYS_setsid);
	int r = syscall(SYS_close_range, 0, ~0U, 0) < 0 ? -1 : 1;
	__atomic_store_n(&keeper_state, r, __ATOMIC_RELEASE);
	(void)syscall(SYS_futex, &keeper_state, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	while (r > 0)
		(void)syscall(SYS_ppoll, NULL, 0, NULL, NULL, 0);
	return 1; /* or whoever waits for the end of a pipe would wait for us */
}

/*
 * A process beside this one that does nothing but have the same memory: so this one's end, which is waited
 * for, does not have to take that apart. It is nobody's child in here and ends with the room.
 */
int execd_keep(void)
{
	sigset_t all, before;
	sigfillset(&all);
	(void)sigprocmask(SIG_BLOCK, &all, &before);
	pid_t pid = clone(keeper_main, keeper_stack + sizeof(keeper_stack), CLONE_VM | CLONE_PARENT | SIGCHLD,
			  NULL);
	int r = pid < 0 ? -errno : 0;
	while (r == 0 && __atomic_load_n(&keeper_state, __ATOMIC_ACQUIRE) == 0)
		(void)syscall(SYS_futex, &keeper_state, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
	(void)sigprocmask(SIG_SETMASK, &before, NULL);
	return r;
}

/* ---- becoming ---------------------------------------------------------------------- */

/* socket, *ret_listener: see apply.h. */
int execd_confine(const struct confine_plan *plan, int socket, int *ret_listener)
{
	struct confine_fault fault;
	int r = confine_apply(plan, socket, CONFINE_BEFORE_IDS, &fault);
	if (r >= 0)
		r = confine_apply(plan, socket, CONFINE_BEFORE_EXEC, &fault);
	*ret_listener = fault.listener;
	return r;
}

/* head: the confinement follows. As the init of a room does it before it starts anything. */
int execd_become(const struct wire_plan *head, int socket, int *ret_listener)
{
	const struct confine_plan *plan = (const void *)(head + 1);
	struct confine_fault fault = {.listener = -1};
	enum wire_stage stage;
	int r = warden_limit(head);
	if (r >= 0 && head->confine_n)
		r = confine_apply(plan, socket, CONFINE_BEFORE_IDS, &fault);
	if (r >= 0)
		r = warden_become(head, &stage);
	/* What runs here is the room's own, and there is nothing of anybody else's in its memory. */
	if (r >= 0 && prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) < 0)
		r = -errno;
	if (r >= 0 && head->confine_n)
		r = confine_apply(plan, socket, CONFINE_BEFORE_EXEC, &fault);
	*ret_listener = fault.listener;
	return r;
}
