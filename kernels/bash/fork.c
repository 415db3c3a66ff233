/*
 * fork.c - a builtin of bash that forks the shell as it stands: `enable -f FILE execd_fork`, then
 * `execd_fork`.
 *
 * A subshell would not do: it is no interactive shell any more, so an interrupt ends it, and its traps are
 * reset. A fork behind bash's back changes nothing but the process: the copy returns to the reader with every
 * variable, function, alias, option, trap and position that the first one has.
 *
 * Descriptor 61 is a socket to the agent (execd/shell.c). Waiting in it: the copy's descriptors, and
 * NAME=VALUE, the mark in the environment by which the agent knows whose process this is. Both shells report
 * there, each on its own: an errno, a directory (left empty), each with a NUL.
 *
 * Linked with nothing: the C library is the one that bash has already, be it glibc or musl.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define REPORT_FD 61
#define MARK_MAX  128
#define STAT_MAX  2048
#define ENV_START 50 /* the field of /proc/PID/stat; the next one is its end */

struct word_list;

/* builtins.h of bash; its layout has not changed since 2.0. */
struct builtin {
	const char *name;
	int (*function)(struct word_list *list);
	int flags;
	const char *const *long_doc;
	const char *short_doc;
	char *handle;
};

#define BUILTIN_ENABLED 1

/* Bash's own, where it exports them: what $$ says, and the group that it leads. */
extern pid_t dollar_dollar_pid __attribute__((weak));
extern pid_t shell_pgrp __attribute__((weak));

static const int places[] = {0, 60, REPORT_FD, 62, 63};
#define PLACES (sizeof(places) / sizeof(places[0]))

static void report(int error)
{
	char text[16];
	int n = snprintf(text, sizeof(text), "%d", error);
	text[n + 1] = '\0'; /* the directory */
	(void)!write(REPORT_FD, text, (size_t)n + 2);
}

static int receive(int fds[PLACES], char mark[MARK_MAX])
{
	union {
		char bytes[CMSG_SPACE(sizeof(places))];
		struct cmsghdr align;
	} control;
	struct iovec iov = {.iov_base = mark, .iov_len = MARK_MAX};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control.bytes,
			     .msg_controllen = sizeof(control.bytes)};
	ssize_t n;
	do
		n = recvmsg(REPORT_FD, &msg, MSG_CMSG_CLOEXEC | MSG_WAITALL);
	while (n < 0 && errno == EINTR);
	const struct cmsghdr *c = n == MARK_MAX ? CMSG_FIRSTHDR(&msg) : NULL;
	if (!c || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(places)))
		return n < 0 ? errno : EPROTO;
	mark[MARK_MAX - 1] = '\0';
	memcpy(fds, CMSG_DATA(c), sizeof(places));
	return 0;
}

static bool has_children(void)
{
	siginfo_t info;
	return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

/* The next number of a text; strtoul() has a name of its own in each newer library. */
static unsigned long number(const char **text)
{
	unsigned long n = 0;
	const char *p = *text ? *text + strspn(*text, " ") : "";
	for (; *p >= '0' && *p <= '9'; p++)
		n = n * 10 + (unsigned long)(*p - '0');
	*text = p;
	return n;
}

/* The agent tells its processes by the environment that they were started with: this one is the copy's. */
static void mark_process(const char *mark)
{
	char text[STAT_MAX];
	int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = '\0';
	const char *p = strrchr(text, ')');
	for (int i = 3; p && i <= ENV_START; i++)
		p = strchr(p + 1, ' ');
	char *e = (char *)number(&p), *end = (char *)number(&p);
	size_t size = strlen(mark), name = (size_t)(strchr(mark, '=') - mark) + 1;
	for (; e && e < end; e += strlen(e) + 1)
		if (strncmp(e, mark, name) == 0 && strlen(e) == size)
			memcpy(e, mark, size);
}

static void become(const int fds[PLACES], const char *mark)
{
	(void)setsid();
	for (size_t i = 0; i < PLACES; i++) {
		(void)dup2(fds[i], places[i]);
		close(fds[i]);
	}
	if (&dollar_dollar_pid)
		dollar_dollar_pid = getpid();
	if (&shell_pgrp)
		shell_pgrp = getpid();
	mark_process(mark);
}

/* A grandchild, which the agent inherits. 0 in that process, 1 here, -errno. */
static int fork_orphan(void)
{
	int status = 0;
	pid_t middle = fork();
	if (middle < 0)
		return -errno;
	if (middle == 0) {
		pid_t orphan = fork();
		if (orphan != 0)
			_exit(orphan < 0 ? errno : 0);
		return 0;
	}
	while (waitpid(middle, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 1 : -WEXITSTATUS(status);
}

static int execd_fork(struct word_list *list)
{
	int fds[PLACES];
	char mark[MARK_MAX];
	sigset_t sigchld, before;
	(void)list;
	int r = receive(fds, mark);
	if (r != 0) {
		report(r);
		return 0;
	}
	(void)sigemptyset(&sigchld);
	(void)sigaddset(&sigchld, SIGCHLD); /* else bash collects the one between */
	(void)sigprocmask(SIG_BLOCK, &sigchld, &before);
	r = has_children() ? -EBUSY : fork_orphan();
	(void)sigprocmask(SIG_SETMASK, &before, NULL);
	if (r == 0)
		become(fds, mark);
	else
		for (size_t i = 0; i < PLACES; i++)
			close(fds[i]);
	report(r < 0 ? -r : 0);
	return 0;
}

static const char *const no_doc[] = {NULL};

__attribute__((visibility("default"))) struct builtin execd_fork_struct = {
	.name = "execd_fork",
	.function = execd_fork,
	.flags = BUILTIN_ENABLED,
	.long_doc = no_doc,
	.short_doc = "execd_fork",
};
