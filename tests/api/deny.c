/*
 * deny.c - starts a program in which chosen system calls fail.
 *
 *   deny CALL=ERRNO[,CALL=ERRNO...] PROGRAM [ARG...]
 *
 *     for good, in the program and all that it starts: what an old kernel (ENOSYS), or an old filter of a
 *     container engine (EPERM), is like.
 *
 *   deny @FILE CALL[,CALL...] PROGRAM [ARG...]
 *
 *     when FILE says so, in PROGRAM's own code only: in the processes that run it, also between fork and
 * exec. FILE holds one struct order, which this keeps mapped. A process beside PROGRAM answers for the calls
 *     (seccomp user notifications); it ends with the last process that it answers for.
 *
 * no_new_privs is not set: what is under test must not change by it. That takes root.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <seccomp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <linux/seccomp.h>
#include <unistd.h>

#define NUMBERS_MAX 512

/* What can go wrong with a descriptor depends on what it is. */
enum kind {
	KIND_NONE,
	KIND_FILE,
	KIND_PIPE,
	KIND_SOCKET,
	KIND_TERMINAL,
	KIND_KERNEL,
	KIND_DEVICE,
	KIND_ANON,
	KINDS_N
};

/* The test writes what is to fail, then `state`; the process beside the program counts. */
struct order {
	_Atomic uint32_t state; /* 0: nothing fails and nothing is counted; 1: the order holds */
	uint32_t call;		/* number of the system call; ~0: any */
	uint32_t kind;		/* of what its first argument is a descriptor of (enum kind); ~0: any */
	uint32_t errnum;	/* 0: it is only counted */
	uint32_t skip;		/* so many of them go through first */
	uint32_t times;		/* so many fail then */
	_Atomic uint32_t seen;	/* of those that the order is for */
	_Atomic uint32_t hits;	/* that have failed */
	uint32_t counts[NUMBERS_MAX][KINDS_N]; /* seen of each, while the order is for any call */
};

static _Noreturn void fail(const char *what)
{
	(void)fprintf(stderr, "deny: %s: %s\n", what, strerror(errno));
	_exit(126);
}

static int errno_named(const char *name)
{
	for (int e = 1; e < 200; e++) {
		const char *n = strerrorname_np(e);

		if (n && strcmp(n, name) == 0)
			return e;
	}
	(void)fprintf(stderr, "deny: no errno '%s'\n", name);
	_exit(126);
}

static scmp_filter_ctx filter_new(char *calls, bool notify)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);
	char *more = NULL;

	if (!ctx || seccomp_attr_set(ctx, SCMP_FLTATR_CTL_NNP, 0) < 0)
		fail("filter");
	for (char *call = strtok_r(calls, ",", &more); call; call = strtok_r(NULL, ",", &more)) {
		char *value = strchr(call, '=');
		int nr, r;

		if (value)
			*value++ = '\0';
		nr = seccomp_syscall_resolve_name(call);
		if (nr < 0) /* __NR_SCMP_ERROR, or none of this architecture */
			continue;
		r = seccomp_rule_add(
			ctx, notify ? SCMP_ACT_NOTIFY : SCMP_ACT_ERRNO(errno_named(value ? value : "")), nr,
			0);
		if (r < 0) {
			errno = -r;
			fail(call);
		}
	}
	return ctx;
}

/* ---- the process beside the program ----------------------------------------- */

/* Whether that process runs the program (it may be about to run another one). */
static bool runs(pid_t pid, const struct stat *program)
{
	char path[64];
	struct stat st;

	(void)snprintf(path, sizeof(path), "/proc/%d/exe", (int)pid);
	return stat(path, &st) == 0 && st.st_dev == program->st_dev && st.st_ino == program->st_ino;
}

/* By the name that /proc gives it. fcntl, epoll_ctl: only where they make something, nothing else of them can
 * fail. */
static uint32_t kind_of(const struct seccomp_notif *call)
{
	static const struct {
		const char *prefix;
		enum kind kind;
	} kinds[] = {
		{"pipe:", KIND_PIPE},	    {"socket:", KIND_SOCKET}, {"anon_inode:", KIND_ANON},
		{"/dev/pt", KIND_TERMINAL}, {"/dev/", KIND_DEVICE},   {"/proc/", KIND_KERNEL},
		{"/sys/", KIND_KERNEL},	    {"/", KIND_FILE},
	};
	char path[64], target[256];
	ssize_t n;

	if (call->data.nr == SCMP_SYS(fcntl) && call->data.args[1] != F_DUPFD &&
	    call->data.args[1] != F_DUPFD_CLOEXEC)
		return KIND_NONE;
	if (call->data.nr == SCMP_SYS(epoll_ctl) && call->data.args[1] != EPOLL_CTL_ADD)
		return KIND_NONE;
	(void)snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)call->pid, (int)call->data.args[0]);
	n = readlink(path, target, sizeof(target) - 1);
	target[n > 0 ? n : 0] = '\0';
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (strncmp(target, kinds[i].prefix, strlen(kinds[i].prefix)) == 0)
			return kinds[i].kind;
	return KIND_NONE;
}

static int verdict(struct order *order, const struct seccomp_notif *call, const struct stat *program)
{
	uint32_t nr = (uint32_t)call->data.nr, seen;

	if (!atomic_load(&order->state) || (order->call != ~0U && order->call != nr) ||
	    !runs((pid_t)call->pid, program))
		return 0;
	if (order->kind != ~0U && order->kind != kind_of(call))
		return 0;
	if (order->call == ~0U && nr < NUMBERS_MAX)
		order->counts[nr][kind_of(call)]++;
	seen = atomic_fetch_add(&order->seen, 1);
	if (!order->errnum || seen < order->skip || seen - order->skip >= order->times)
		return 0;
	atomic_fetch_add(&order->hits, 1);
	return (int)order->errnum;
}

static _Noreturn void answer_all(int listener, struct order *order, const char *program)
{
	struct stat st;

	if (stat(program, &st) < 0)
		fail(program);
	for (;;) {
		struct pollfd p = {.fd = listener, .events = POLLIN};
		struct seccomp_notif call = {0};
		struct seccomp_notif_resp answer = {0};
		int e;

		if (poll(&p, 1, -1) < 0 && errno != EINTR)
			fail("poll");
		if (!(p.revents & POLLIN)) {
			if (p.revents & (POLLHUP | POLLERR))
				_exit(0);
			continue;
		}
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) < 0)
			continue; /* it has been killed meanwhile */
		e = verdict(order, &call, &st);
		answer.id = call.id;
		answer.error = -e;
		answer.flags = e ? 0 : SECCOMP_USER_NOTIF_FLAG_CONTINUE;
		(void)ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
	}
}

static struct order *order_map(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	struct order *order;

	if (fd < 0)
		fail(path);
	order = mmap(NULL, sizeof(*order), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (order == MAP_FAILED)
		fail(path);
	(void)close(fd);
	return order;
}

static int listener_receive(int from)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	char byte;
	struct iovec iov = {&byte, 1};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};

	if (recvmsg(from, &msg, MSG_CMSG_CLOEXEC) != 1 || !CMSG_FIRSTHDR(&msg))
		_exit(126); /* the program could not be started, and has said so */
	return *(int *)(void *)CMSG_DATA(CMSG_FIRSTHDR(&msg));
}

static void listener_send(int to, int listener)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {.head = {.cmsg_len = CMSG_LEN(sizeof(int)),
			      .cmsg_level = SOL_SOCKET,
			      .cmsg_type = SCM_RIGHTS}};
	char byte = 0;
	struct iovec iov = {&byte, 1};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};

	memcpy(CMSG_DATA(&control.head), &listener, sizeof(listener));
	if (sendmsg(to, &msg, 0) != 1)
		fail("sendmsg");
}

/* Not a child of the program, which would reap it. */
static int start_beside(const char *file, const char *program)
{
	struct order *order = order_map(file);
	int link[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, link) < 0)
		fail("socketpair");
	pid = fork();
	if (pid < 0)
		fail("fork");
	if (pid == 0) {
		if (fork() != 0)
			_exit(0);
		/* nothing of the test's stays open here, no pipe is kept from its end */
		if (dup2(link[1], 3) < 0 || close_range(4, ~0U, 0) < 0)
			_exit(126);
		answer_all(listener_receive(3), order, program);
	}
	(void)waitpid(pid, NULL, 0);
	(void)close(link[1]);
	return link[0];
}

int main(int argc, char **argv)
{
	bool notify = argc > 1 && argv[1][0] == '@';
	char **program = argv + (notify ? 3 : 2);
	scmp_filter_ctx ctx;
	int link = -1, r;

	if (argc < (notify ? 4 : 3)) {
		(void)fputs("usage: deny CALL=ERRNO,... PROGRAM ... | deny @FILE CALL,... PROGRAM ...\n",
			    stderr);
		return 126;
	}
	ctx = filter_new(argv[notify ? 2 : 1], notify);
	if (notify)
		link = start_beside(argv[1] + 1, program[0]);
	r = seccomp_load(ctx);
	if (r < 0) {
		errno = -r;
		fail("seccomp_load");
	}
	if (notify) {
		int listener = seccomp_notify_fd(ctx);

		listener_send(link, listener); /* sendmsg and close are not among the calls, then */
		(void)close(listener);
		(void)close(link);
	}
	(void)execv(program[0], program);
	fail(program[0]);
}
