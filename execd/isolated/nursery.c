/*
 * nursery.c - the process that rooms are cloned from.
 *
 * It is the agent's binary started anew under another name, with nothing but
 * one socket: small, so that a clone is quick, and without anything worth
 * stealing, so that what it clones may live beside hostile code. It has the
 * agent's privileges and no more. CLONE_PARENT makes each init a child of the
 * agent, which sees it end; when the agent goes, the socket tells.
 *
 * One thread; requests are served one after the other. What takes longer than
 * a clone is done by the clone.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "execd/isolated/warden.h"
#include "lib/scan.h"
#include "lib/util.h"

#define ID_MAP_MAX 8192

/* ---- messages --------------------------------------------------------------- */

static void answer(uint64_t tag, int r, enum wire_stage stage)
{
	const struct wire_answer a = {.tag = tag, .pid = r, .stage = stage};
	struct iovec iov = {(void *)&a, sizeof(a)};
	(void)message_send(WIRE_FD, &iov, 1, NULL, 0, 0);
}

/* The parts of a message, none of which may reach beyond its end. */
static int plan_cut(const char *message, size_t n, struct plan *ret)
{
	const struct wire_plan *head = (const void *)message;
	if (n < sizeof(*head))
		return -EBADMSG;
	size_t steps = (size_t)head->steps_n * sizeof(struct view_step), confine = head->confine_n;
	if (sizeof(*head) + steps + confine + head->text_n != n || head->text_n == 0 ||
	    message[n - 1] != '\0')
		return -EBADMSG;
	ret->head = head;
	ret->steps = (const void *)(message + sizeof(*head));
	ret->confine = (const void *)(message + sizeof(*head) + steps);
	ret->text = message + n - head->text_n;
	return 0;
}

/* ---- user namespaces --------------------------------------------------------- */

static int write_file(const char *path, const char *text, size_t n)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return write(fd, text, n) < 0 ? -errno : 0;
}

/* Every id that there is here stands for itself: the ranges of our own map, from the inside. */
static int map_whole(const char *own, const char *path)
{
	char in[ID_MAP_MAX], out[ID_MAP_MAX];
	size_t n = 0;
	_cleanup_close_ int fd = open(own, O_RDONLY | O_CLOEXEC);
	ssize_t len = fd < 0 ? -1 : read(fd, in, sizeof(in) - 1);
	if (len < 0)
		return -errno;
	in[len] = '\0';
	for (const char *line = in; *line; line = strchrnul(line, '\n'), line += *line == '\n') {
		struct scan s = SCAN(line);
		unsigned inside = (unsigned)scan_number(&s, 10, UINT32_MAX);
		(void)scan_number(&s, 10, UINT32_MAX); /* outside */
		unsigned count = (unsigned)scan_number(&s, 10, UINT32_MAX);
		if (scan_ok(&s) && n < sizeof(out) - 48)
			n += (size_t)snprintf(out + n, sizeof(out) - n, "%u %u %u\n", inside, inside, count);
	}
	return write_file(path, out, n);
}

static int map_ids(const struct wire_plan *head, pid_t pid)
{
	char path[64], text[64];
	int r;
	if (head->userns == WIRE_USERNS_WHOLE) {
		(void)snprintf(path, sizeof(path), "/proc/%d/uid_map", (int)pid);
		r = map_whole("/proc/self/uid_map", path);
		(void)snprintf(path, sizeof(path), "/proc/%d/gid_map", (int)pid);
		return r < 0 ? r : map_whole("/proc/self/gid_map", path);
	}
	(void)snprintf(path, sizeof(path), "/proc/%d/setgroups", (int)pid);
	r = write_file(path, "deny", 4);
	if (r < 0)
		return r;
	(void)snprintf(path, sizeof(path), "/proc/%d/uid_map", (int)pid);
	r = write_file(path, text, (size_t)snprintf(text, sizeof(text), "%u %u 1", head->uid, geteuid()));
	(void)snprintf(path, sizeof(path), "/proc/%d/gid_map", (int)pid);
	if (r >= 0)
		r = write_file(path, text,
			       (size_t)snprintf(text, sizeof(text), "%u %u 1", head->gid, getegid()));
	return r;
}

/* ---- requests ----------------------------------------------------------------- */

/* As fork(2), with flags. */
static pid_t clone_self(unsigned long flags)
{
	return (pid_t)syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, NULL);
}

static _Noreturn void room_main(const struct plan *plan, int socket, int listener, int go)
{
	char byte;
	if (go >= 0 && read(go, &byte, 1) != 1)
		_exit(1);
	fd_close(&go);
	warden_main(plan, socket, listener);
}

static void make_room(const struct plan *plan, int socket, int listener)
{
	const struct wire_plan *head = plan->head;
	unsigned long flags = CLONE_PARENT | head->namespaces | (head->userns ? CLONE_NEWUSER : 0);
	int go[2] = {-EBADF, -EBADF}, r = 0;
	if (head->userns && pipe2(go, O_CLOEXEC) < 0) {
		answer(head->tag, -errno, WIRE_STAGE_CLONE);
		return;
	}
	pid_t pid = clone_self(flags);
	if (pid == 0) {
		(void)close(WIRE_FD);
		fd_close(&go[1]);
		room_main(plan, socket, listener, go[0]);
	}
	r = pid < 0 ? -errno : pid;
	answer(head->tag, r, WIRE_STAGE_CLONE);
	if (pid > 0 && head->userns) {
		r = map_ids(head, pid);
		if (r < 0) { /* its end is the agent's to see; why is told in its name */
			const struct wire_event e = {
				.kind = WIRE_FAILED, .stage = WIRE_STAGE_MAP, .errnum = -r};
			struct iovec iov = {(void *)&e, sizeof(e)};
			(void)message_send(socket, &iov, 1, NULL, 0, 0);
		} else {
			(void)!write(go[1], "", 1);
		}
	}
	fd_close(&go[0]);
	fd_close(&go[1]);
}

/* fds: its namespaces. Not into its PID namespace: nobody in there sees this process. */
static int enter(const struct plan *plan, const int *fds)
{
	if (plan->head->userns && setns(fds[1], CLONE_NEWUSER) < 0)
		return -errno;
	return setns(fds[0], CLONE_NEWNS) < 0 ? -errno : 0;
}

static void remount(const struct plan *plan, const int *fds)
{
	pid_t pid = clone_self(0);
	if (pid < 0)
		answer(plan->head->tag, -errno, WIRE_STAGE_CLONE);
	if (pid != 0)
		return;
	int r = plan->head->steps_n == 1 ? enter(plan, fds) : -EBADMSG;
	if (r < 0)
		answer(plan->head->tag, r, WIRE_STAGE_ENTER);
	else
		answer(plan->head->tag, view_remount(fds[2], plan->steps, plan->text), WIRE_STAGE_VIEW);
	_exit(0);
}

/* A child of the agent, like an init, which collects it. */
static void make_clerk(const struct plan *plan, const int *fds, clerk_fn *clerk)
{
	enum wire_stage stage;
	if (clone_self(CLONE_PARENT) != 0)
		return;
	(void)close(WIRE_FD);
	(void)signal(SIGCHLD, SIG_DFL);
	if (enter(plan, fds) < 0 || warden_become(plan->head, &stage) < 0)
		_exit(1);
	(void)close(fds[0]);
	(void)close(fds[1]);
	if (chdir(plan->text + plan->head->cwd) < 0 && chdir("/") < 0)
		_exit(1);
	_exit(clerk(fds[2]));
}

static void serve(const char *message, size_t n, const int *fds, size_t fds_n, clerk_fn *clerk)
{
	struct plan plan;
	if (plan_cut(message, n, &plan) < 0)
		return;
	if (plan.head->op == WIRE_ROOM && (fds_n == 1 || fds_n == 2))
		make_room(&plan, fds[0], fds_n == 2 ? fds[1] : -1);
	else if (plan.head->op == WIRE_REMOUNT && fds_n == 3)
		remount(&plan, fds);
	else if (plan.head->op == WIRE_CLERK && fds_n == 3)
		make_clerk(&plan, fds, clerk);
	else
		answer(plan.head->tag, -EBADMSG, WIRE_STAGE_CLONE);
}

int nursery_main(clerk_fn *clerk)
{
	static _Alignas(8) char message[WIRE_MAX];
	(void)signal(SIGCHLD, SIG_IGN); /* of our own children nobody wants to know */
	(void)prctl(PR_SET_NAME, NURSERY_NAME);
	(void)syscall(SYS_close_range, WIRE_FD + 1, ~0U, 0);
	if (chdir("/") < 0)
		return 1;
	for (;;) {
		int fds[MESSAGE_FDS_MAX];
		size_t fds_n;
		long n = message_receive(WIRE_FD, message, sizeof(message), fds, &fds_n, 0);
		if (n <= 0)
			return n == 0 ? 0 : 1;
		serve(message, (size_t)n, fds, fds_n, clerk);
		for (size_t i = 0; i < fds_n; i++)
			(void)close(fds[i]);
	}
}
