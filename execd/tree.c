/*
 * tree.c - the family of a process, frozen before it is killed.
 *
 * Each round reads the process table and stops (SIGSTOP) whatever belongs to
 * the tree and was not seen before; what is stopped cannot fork, so the rounds
 * come to an end, and parents are still there to tell whose child a child is.
 * Only then everything is killed. A process is known by its number and start
 * time, so that a number used again is not mistaken for it. Owns nothing
 * between calls; runs on the loop, which it holds up for one reading of /proc
 * a round: this is for endings by force, not for the ordinary course.
 */
#include "execd/tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "lib/scan.h"

#define ROUNDS_MAX  16		 /* a fork bomb gets no more than this */
#define ENVIRON_MAX (256 * 1024) /* bytes of one environment that are searched for the mark */
#define PROCESS_MAX 65536	 /* processes looked at */
#define STAT_MAX    1024
#define STATUS_MAX  8192

struct process {
	pid_t pid, ppid, pgrp, session;
	unsigned long long start;
	bool member, stopped;
};

struct table {
	struct process *list;
	size_t n, cap;
};

static ssize_t read_proc(int proc, pid_t pid, const char *file, char *out, size_t size)
{
	char path[64];
	(void)snprintf(path, sizeof(path), "%d/%s", (int)pid, file);
	_cleanup_close_ int fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
	size_t len = 0;
	if (fd < 0)
		return -errno;
	while (len < size - 1) {
		ssize_t n = read(fd, out + len, size - 1 - len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		len += (size_t)n;
	}
	out[len] = '\0';
	return (ssize_t)len;
}

/* proc(5): pid (comm) state ppid pgrp session ... starttime is field 22; comm may hold anything. */
static int read_process(int proc, pid_t pid, struct process *ret)
{
	char text[STAT_MAX];
	struct scan s;
	if (read_proc(proc, pid, "stat", text, sizeof(text)) <= 0)
		return -ESRCH;
	const char *p = strrchr(text, ')');
	if (!p || p[1] != ' ' || p[2] == 'Z' || p[2] == 'X')
		return -ESRCH;
	s = SCAN(p + 2);
	scan_skip(&s, 1);
	*ret = (struct process){.pid = pid};
	ret->ppid = (pid_t)scan_number(&s, 10, INT_MAX);
	ret->pgrp = (pid_t)scan_number(&s, 10, INT_MAX);
	ret->session = (pid_t)scan_number(&s, 10, INT_MAX);
	scan_skip(&s, 15);
	ret->start = scan_number(&s, 10, UINT64_MAX);
	return scan_ok(&s) ? 0 : -ESRCH;
}

static bool is_marked(int proc, pid_t pid, const char *mark)
{
	static char environment[ENVIRON_MAX];
	if (!mark)
		return false;
	ssize_t n = read_proc(proc, pid, "environ", environment, sizeof(environment));
	for (const char *p = environment; n > 0 && p < environment + n; p += strlen(p) + 1)
		if (strncmp(p, TREE_MARK "=", sizeof(TREE_MARK)) == 0)
			return strcmp(p + sizeof(TREE_MARK), mark) == 0;
	return false;
}

static struct process *table_find(struct table *t, pid_t pid)
{
	size_t lo = 0, hi = t->n;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (t->list[mid].pid == pid)
			return &t->list[mid];
		if (t->list[mid].pid < pid)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

static int table_add(struct table *t, const struct process *p)
{
	if (t->n == t->cap) {
		size_t cap = MAX(t->cap * 2, (size_t)256);
		struct process *list = cap <= PROCESS_MAX ? reallocarray(t->list, cap, sizeof(*list)) : NULL;
		if (!list)
			return -ENOMEM;
		t->list = list;
		t->cap = cap;
	}
	t->list[t->n++] = *p;
	return 0;
}

static int compare_pid(const void *a, const void *b)
{
	const struct process *x = a, *y = b;
	return (x->pid > y->pid) - (x->pid < y->pid);
}

/* A new reading of the table; what was known of a process in the old one is kept. */
static int table_read(int proc, struct table *known, struct table *ret)
{
	int fd = openat(proc, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		fd_close(&fd);
		return -errno;
	}
	for (struct dirent *entry; (entry = readdir(dir));) {
		struct process p;
		pid_t pid = (pid_t)atoi(entry->d_name);
		if (pid <= 0 || read_process(proc, pid, &p) < 0)
			continue;
		const struct process *old = table_find(known, pid);
		if (old && old->start == p.start) {
			p.member = old->member;
			p.stopped = old->stopped;
		}
		if (table_add(ret, &p) < 0)
			break;
	}
	(void)closedir(dir);
	if (ret->n > 0)
		qsort(ret->list, ret->n, sizeof(*ret->list), compare_pid);
	return 0;
}

/* Orphans come to us, or to the init of a PID namespace, which is a child of ours. */
static bool may_be_orphan(struct table *t, const struct process *p)
{
	const struct process *parent = p->ppid == getpid() ? NULL : table_find(t, p->ppid);
	return p->ppid == getpid() || (parent && parent->ppid == getpid());
}

static bool is_root(int proc, struct table *t, const struct process *p, pid_t leader, bool leader_lives,
		    const char *mark)
{
	bool related = p->pid == leader || p->pgrp == leader || p->session == leader;
	if (related && leader_lives)
		return true;
	return (related || may_be_orphan(t, p)) && is_marked(proc, p->pid, mark);
}

static void table_mark_members(int proc, struct table *t, pid_t leader, bool leader_lives, const char *mark)
{
	bool more = true;
	for (size_t i = 0; i < t->n; i++)
		if (!t->list[i].member)
			t->list[i].member = is_root(proc, t, &t->list[i], leader, leader_lives, mark);
	while (more) {
		more = false;
		for (size_t i = 0; i < t->n; i++) {
			const struct process *parent =
				t->list[i].member ? NULL : table_find(t, t->list[i].ppid);
			if (parent && parent->member && parent->pid != getpid())
				t->list[i].member = more = true;
		}
	}
}

/* Signals p unless its number has been given to another process meanwhile. */
static bool signal_process(int proc, const struct process *p, int signo)
{
	struct process now;
	_cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, p->pid, 0);
	if (pidfd < 0 && errno != ENOSYS)
		return false;
	if (read_process(proc, p->pid, &now) < 0 || now.start != p->start)
		return false;
	if (pidfd < 0)
		return kill(p->pid, signo) == 0;
	return syscall(SYS_pidfd_send_signal, pidfd, signo, NULL, 0) == 0;
}

static size_t stop_members(int proc, struct table *t)
{
	size_t n = 0;
	for (size_t i = 0; i < t->n; i++) {
		struct process *p = &t->list[i];
		if (!p->member || p->stopped || p->pid == getpid())
			continue;
		p->stopped = true;
		n += signal_process(proc, p, SIGSTOP);
	}
	return n;
}

size_t tree_kill(pid_t leader, bool leader_lives, const char *mark)
{
	struct table t = {0};
	size_t n = 0;
	_cleanup_close_ int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (int round = 0; proc >= 0 && round < ROUNDS_MAX; round++) {
		struct table next = {0};
		if (table_read(proc, &t, &next) < 0)
			break;
		free(t.list);
		t = next;
		table_mark_members(proc, &t, leader, leader_lives, mark);
		if (stop_members(proc, &t) == 0)
			break;
	}
	/* One by one first: the group as a whole tells nobody how many it was. */
	for (size_t i = 0; i < t.n; i++)
		if (t.list[i].member && t.list[i].pid != getpid())
			n += signal_process(proc, &t.list[i], SIGKILL);
	if (leader_lives && leader > 1 && kill(-leader, SIGKILL) == 0 && t.n == 0)
		n++;
	free(t.list);
	return n;
}

/* The bit of signo in a mask of /proc/PID/status, "SigIgn:\t0000000000001000". */
static bool in_mask(const char *status, const char *name, int signo)
{
	const char *line = strstr(status, name);
	return line && strtoull(line + strlen(name), NULL, 16) >> (signo - 1) & 1;
}

/* Would signo have ended it on arrival? */
static bool is_mortal(int proc, pid_t pid, int signo)
{
	char status[STATUS_MAX];
	return read_proc(proc, pid, "status", status, sizeof(status)) > 0 &&
	       !in_mask(status, "\nSigIgn:", signo) && !in_mask(status, "\nSigCgt:", signo);
}

size_t tree_insist(pid_t group, int signo)
{
	struct table none = {0}, t = {0};
	size_t n = 0;
	_cleanup_close_ int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (proc < 0 || table_read(proc, &none, &t) < 0)
		return 0;
	for (size_t i = 0; i < t.n; i++)
		if (t.list[i].pgrp == group && t.list[i].pid != group &&
		    is_mortal(proc, t.list[i].pid, signo))
			n += signal_process(proc, &t.list[i], signo);
	free(t.list);
	return n;
}
