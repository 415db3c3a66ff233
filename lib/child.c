/*
 * child.c - the one reaper. Everything runs on the loop's thread.
 *
 * Owns SIGCHLD and the table from pid to watched child. One signal may stand
 * for many ends, so each one collects all there are. A child is watched before
 * the loop can look at its SIGCHLD, since that takes another callback.
 *
 * An end is first looked at (WNOWAIT), then told, then collected: during
 * on_exit the pid and the group id still belong to the child.
 */
#include "lib/child.h"

#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define BUCKETS_N   256
#define STRANGERS_N 64

struct reaper {
	struct loop *loop;
	struct loop_signal sigchld;
	struct loop_defer first_look;
	struct list buckets[BUCKETS_N];
	/* The last that ended unwatched, in a ring. */
	struct stranger {
		pid_t pid;
		int wstatus;
	} strangers[STRANGERS_N];
	unsigned strangers_next;
	void (*collected)(void *arg);
	void *collected_arg;
};

static struct list *bucket(struct reaper *r, pid_t pid)
{
	return &r->buckets[(unsigned)pid % BUCKETS_N];
}

static struct child *child_find(struct reaper *r, pid_t pid)
{
	struct list *head = bucket(r, pid);

	list_foreach_safe (node, head) {
		struct child *c = list_entry(node, struct child, link);

		if (c->pid == pid)
			return c;
	}
	return NULL;
}

static void child_watch(struct reaper *r, struct child *c, pid_t pid, int pidfd, child_exit_fn *on_exit)
{
	c->on_exit = on_exit;
	c->pid = pid;
	c->pidfd = pidfd;
	c->host = NULL;
	list_add_tail(bucket(r, pid), &c->link);
}

void child_forget(struct child *c)
{
	if (c->host) {
		c->host->forget(c);
		return;
	}
	if (c->pid == 0)
		return;
	list_del(&c->link);
	fd_close(&c->pidfd);
	c->pid = 0;
}

static int wstatus_of(const siginfo_t *info)
{
	switch (info->si_code) {
	case CLD_EXITED:
		return (info->si_status & 0xff) << 8;
	case CLD_DUMPED:
		return info->si_status | 0x80;
	default:
		return info->si_status;
	}
}

/* Tells and collects one end; false when there is none. */
static bool reap_one(struct reaper *r)
{
	struct rusage usage;
	siginfo_t info = {};
	struct child *c;
	long n;

	/* The system call fills the rusage that waitid(3) has no argument for. */
	do
		n = syscall(SYS_waitid, P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT, &usage);
	while (n < 0 && errno == EINTR);
	if (n < 0 || info.si_pid == 0)
		return false;
	c = child_find(r, info.si_pid);
	if (c) {
		child_forget(c);
		c->on_exit(c, wstatus_of(&info), &usage);
	} else {
		r->strangers[r->strangers_next++ % STRANGERS_N] =
			(struct stranger){info.si_pid, wstatus_of(&info)};
	}
	/* A spawn() that failed on another thread may have been first to collect it; then there may be more.
	 */
	return waitpid(info.si_pid, NULL, WNOHANG) != 0;
}

static void reap_all(struct reaper *r)
{
	while (reap_one(r))
		;
	if (r->collected)
		r->collected(r->collected_arg);
}

void reaper_on_collected(struct reaper *r, void (*fn)(void *arg), void *arg)
{
	r->collected = fn;
	r->collected_arg = arg;
}

static void on_sigchld(struct loop_signal *sig, const struct signalfd_siginfo *info)
{
	(void)info;
	reap_all(container_of(sig, struct reaper, sigchld));
}

static void on_first_look(struct loop_defer *d)
{
	reap_all(container_of(d, struct reaper, first_look));
}

int reaper_new(struct loop *loop, struct reaper **ret)
{
	struct reaper *r = calloc(1, sizeof(*r));
	struct sigaction action = {.sa_handler = SIG_DFL};
	int e;

	if (!r)
		return -ENOMEM;
	r->loop = loop;
	for (size_t i = 0; i < BUCKETS_N; i++)
		list_init(&r->buckets[i]);
	/* Whoever started us may have left it ignored: then ends would vanish untold. */
	if (sigaction(SIGCHLD, &action, NULL) < 0) {
		e = -errno;
		free(r);
		return e;
	}
	e = loop_signal_add(loop, &r->sigchld, SIGCHLD, on_sigchld);
	if (e < 0) {
		free(r);
		return e;
	}
	/* What ended before that signal was ours. */
	loop_defer(loop, &r->first_look, on_first_look);
	*ret = r;
	return 0;
}

void reaper_free(struct reaper *r)
{
	if (!r)
		return;
	for (size_t i = 0; i < BUCKETS_N; i++)
		while (!list_empty(&r->buckets[i]))
			child_forget(list_entry(r->buckets[i].next, struct child, link));
	loop_signal_del(&r->sigchld);
	loop_defer_cancel(&r->first_look);
	free(r);
}

int child_spawn(struct reaper *r, struct child *c, const struct spawn *spec, child_exit_fn *on_exit,
		struct err *err)
{
	pid_t pid;
	int pidfd, e;

	e = spawn(spec, &pid, &pidfd, err);
	if (e < 0)
		return e;
	child_watch(r, c, pid, pidfd, on_exit);
	return 0;
}

int child_adopt(struct reaper *r, struct child *c, pid_t pid, child_exit_fn *on_exit)
{
	int pidfd;

	if (pid <= 0)
		return -EINVAL;
	if (child_find(r, pid))
		return -EEXIST;
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (pidfd < 0) {
		/* It does without one, also for want of descriptors: nobody else would end it. */
		if (errno == ESRCH || (kill(pid, 0) < 0 && errno == ESRCH))
			return -ESRCH;
		pidfd = -EBADF;
	}
	child_watch(r, c, pid, pidfd, on_exit);
	return 0;
}

int child_ended(struct reaper *r, pid_t pid, int *ret_wstatus)
{
	for (unsigned i = 0; i < STRANGERS_N; i++) {
		if (r->strangers[i].pid != pid || pid <= 0)
			continue;
		*ret_wstatus = r->strangers[i].wstatus;
		r->strangers[i].pid = 0;
		return 0;
	}
	return -ESRCH;
}

int child_kill(struct child *c, int signo)
{
	if (c->host && c->pid == 0)
		return c->host->kill(c, signo, false);
	if (c->pid == 0)
		return -ESRCH;
	if (c->pidfd >= 0 && syscall(SYS_pidfd_send_signal, c->pidfd, signo, NULL, 0) == 0)
		return 0;
	if (c->pidfd >= 0 && errno != ENOSYS && errno != EPERM)
		return -errno;
	/* Until it is collected, and only we do that, the pid is the child's. */
	return kill(c->pid, signo) < 0 ? -errno : 0;
}

int child_kill_group(struct child *c, int signo)
{
	if (c->host && c->pid == 0)
		return c->host->kill(c, signo, true);
	if (c->pid == 0)
		return -ESRCH;
	return kill(-c->pid, signo) < 0 ? -errno : 0;
}
