/*
 * room.c - rooms as the agent knows them.
 *
 * Owns: the nursery (started with the first room, started anew when it has
 * died), each room's socket to its init, the init as a child, the processes that
 * were started in there, and the directories of stacks on disk.
 *
 *   STARTING ── READY ──> READY ── the init ends ──> ENDED
 *       └── FAILED, the init ends, the nursery dies ──> ENDED (ready() with an error)
 *
 * Nothing waits: every send is non-blocking, and a room that does not take its
 * messages is one that is ended. What comes over a room's socket is the init's
 * word, and nothing but that room is believed to depend on it.
 *
 * A process in a room is a struct child with a host: it is on its room's list
 * from room_spawn() until it has ended, known by its tag. When the init ends the
 * kernel has killed all of them, and they are told so.
 *
 * Memory goes with the last reference: the owner's (room_new), the loop's own
 * while the init lives or is still to be born.
 */
#include "execd/isolated/room.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "execd/account.h"
#include "execd/command.h"
#include "execd/execd.h"
#include "execd/isolated/plan.h"
#include "execd/isolated/stack.h"
#include "execd/isolated/warden.h"
#include "execd/limits.h"
#include "lib/fs.h"
#include "lib/random.h"

#define ROOM_ID_LEN   12
#define EVENTS_A_TURN 64
#define TAG_BITS      56 /* of a tag; above: the signal that it gets at its start */
#define TAG_MASK      (((uint64_t)1 << TAG_BITS) - 1)

enum state { STARTING, READY, ENDED };

struct room {
	struct list link; /* all rooms */
	struct rooms *rooms;
	unsigned refs;
	char id[ROOM_ID_LEN + 1];
	enum state state;
	bool born, killed, held; /* held: the loop's own reference */
	uint64_t tag;
	int socket;
	struct loop_io io;
	struct child init;
	struct list children; /* struct child, by link */
	struct room_mount mounts[ROOM_MOUNTS_MAX];
	size_t mounts_n;
	struct stacks stacks;
	int cellar_fd;
	bool userns;
	struct limits_hold *limits;
	struct buf plan; /* until it is ready, for words */
	uint64_t clear_tag;
	void (*cleared)(void *arg); /* asked for and not yet told */
	void *clear_arg;
	struct room_events events;
	void *arg;
	struct err err; /* why it came to nothing, once known */
	bool failed;
};

/* A remount that the nursery has been asked for. */
struct order {
	struct list link;
	uint64_t tag;
	struct room *room;
	size_t index;
	unsigned top;
	room_done_fn *done;
	void *arg;
};

struct rooms {
	struct execd *execd;
	struct list all, orders;
	struct child nursery;
	int socket; /* to it; -EBADF: there is none */
	struct loop_io io;
	uint64_t tags;
	struct stack_root *root;
};

/* ---- references -------------------------------------------------------------- */

struct room *room_ref(struct room *room)
{
	room->refs++;
	return room;
}

void room_unref(struct room *room)
{
	if (--room->refs > 0)
		return;
	list_del(&room->link);
	for (size_t i = 0; i < room->mounts_n; i++) {
		struct room_mount *m = &room->mounts[i];
		fd_close(&m->stack_fd);
		fd_close(&m->lower_fd);
		free(m->path);
	}
	fd_close(&room->cellar_fd);
	stacks_done(&room->stacks);
	buf_done(&room->plan);
	limits_hold_release(room->limits);
	free(room);
}

const char *room_id(const struct room *room)
{
	return room->id;
}

bool room_is_ready(const struct room *room)
{
	return room->state == READY;
}

pid_t room_pid(const struct room *room)
{
	return room->state == ENDED ? 0 : room->init.pid;
}

struct room_mount *room_mounts(struct room *room, size_t *ret_n)
{
	*ret_n = room->mounts_n;
	return room->mounts;
}

void room_set_events(struct room *room, const struct room_events *events, void *arg)
{
	room->events = events ? *events : (struct room_events){0};
	room->arg = arg;
}

/* ---- messages ------------------------------------------------------------------ */

union control {
	struct cmsghdr header;
	char space[CMSG_SPACE(WIRE_FDS_MAX * sizeof(int))];
};

/* Non-blocking. */
static int message_send(int socket, struct iovec *iov, size_t iov_n, const int *fds, size_t fds_n)
{
	union control control = {};
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = iov_n};
	if (fds_n > 0) {
		msg.msg_control = control.space;
		msg.msg_controllen = CMSG_SPACE(fds_n * sizeof(int));
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(fds_n * sizeof(int));
		memcpy(CMSG_DATA(c), fds, fds_n * sizeof(int));
	}
	ssize_t r;
	do
		r = sendmsg(socket, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : 0;
}

/* Bytes of the message, 0 at the end, -EAGAIN. What does not fit fds is closed by the kernel. */
static ssize_t message_receive(int socket, void *data, size_t size, int *fds, size_t *ret_fds_n)
{
	union control control;
	struct iovec iov = {data, size};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control.space,
			     .msg_controllen = sizeof(control.space)};
	ssize_t n;
	*ret_fds_n = 0;
	do
		n = recvmsg(socket, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		*ret_fds_n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		memcpy(fds, CMSG_DATA(c), *ret_fds_n * sizeof(int));
	}
	return n;
}

/* ---- words for what failed --------------------------------------------------------- */

static const char *need(const struct room *room, int errnum)
{
	if (errnum != EPERM && errnum != EACCES)
		return "";
	return room->userns ? " (user namespaces are not allowed here, or something over the agent, such as "
			      "AppArmor or "
			      "a seccomp filter, forbids it)"
			    : " (the agent needs CAP_SYS_ADMIN for it, and no seccomp filter or AppArmor "
			      "profile over it that forbids it)";
}

static void fail_stage(struct room *room, enum wire_stage stage, uint32_t step, int errnum)
{
	static const char *const names[] = {
		[WIRE_STAGE_NONE] = "start",
		[WIRE_STAGE_CLONE] = "make the namespaces",
		[WIRE_STAGE_MAP] = "map the ids of the user namespace",
		[WIRE_STAGE_ENTER] = "enter the room",
		[WIRE_STAGE_NETWORK] = "bring up the loopback interface",
		[WIRE_STAGE_NAME] = "set the host's name",
		[WIRE_STAGE_IDS] = "change user and groups",
		[WIRE_STAGE_CAPABILITIES] = "give up capabilities",
		[WIRE_STAGE_CONFINE] = "confine it",
	};
	char text[256];
	const char *what = stage < ARRAY_SIZE(names) && names[stage] ? names[stage] : "start";
	if (room->failed)
		return;
	room->failed = true;
	if (stage == WIRE_STAGE_VIEW)
		what = plan_step_text(&room->plan, step, text, sizeof(text));
	bool denied = errnum == EPERM || errnum == EACCES || errnum == ENOSYS;
	(void)err_set(&room->err,
		      denied		 ? ERR_NOT_SUPPORTED
		      : errnum == ENOENT ? ERR_INVALID
		      : errnum == ENOSPC ? ERR_UNAVAILABLE
		      : errnum == EAGAIN ? ERR_UNAVAILABLE
					 : ERR_INTERNAL,
		      denied		 ? "NOT_SUPPORTED"
		      : errnum == ENOENT ? "INVALID_REQUEST_BODY"
					 : "RUNTIME_ERROR",
		      errnum, "isolated session: %s: %s%s", what, strerror(errnum), need(room, errnum));
}

/* ---- processes in a room ---------------------------------------------------------------- */

static void hosted_forget(struct child *c)
{
	list_del(&c->link);
	fd_close(&c->pidfd);
	c->pid = 0;
	c->host = NULL;
}

/* It is the leader of its group, and alone in it when it starts. */
static int hosted_kill(struct child *c, int signo, bool group)
{
	(void)group;
	if (c->tag >> TAG_BITS != SIGKILL)
		c->tag = (c->tag & TAG_MASK) | (uint64_t)signo << TAG_BITS;
	return 0;
}

static const struct child_host host = {.forget = hosted_forget, .kill = hosted_kill};

static void hosted_ended(struct child *c, int wstatus, const struct rusage *usage)
{
	hosted_forget(c);
	c->on_exit(c, wstatus, usage);
}

static struct child *find_child(struct room *room, uint64_t tag)
{
	list_foreach_safe (node, &room->children) {
		struct child *c = list_entry(node, struct child, link);
		if ((c->tag & TAG_MASK) == tag)
			return c;
	}
	return NULL;
}

/* "Pid:\t123" of a pidfd is its number for whoever reads. 0: gone, or not to be found. */
static pid_t pid_of(int pidfd)
{
	char path[48], text[512];
	(void)snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return 0;
	text[n] = '\0';
	const char *p = strstr(text, "\nPid:");
	return p ? (pid_t)MAX(atoi(p + 5), 0) : 0;
}

/* The pidfd is the child's from here on. */
static void hosted_started(struct room *room, uint64_t tag, int pidfd)
{
	struct child *c = find_child(room, tag);
	if (!c || pidfd < 0) {
		if (pidfd >= 0)
			(void)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
		fd_close(&pidfd);
		return;
	}
	c->pidfd = pidfd;
	c->pid = pid_of(pidfd);
	if (c->tag >> TAG_BITS)
		(void)syscall(SYS_pidfd_send_signal, pidfd, (int)(c->tag >> TAG_BITS), NULL, 0);
	c->tag &= TAG_MASK;
}

static size_t envp_count(char *const *envp)
{
	size_t n = 0;
	while (envp && envp[n])
		n++;
	return n;
}

static int text_to_memfd(const struct buf *text)
{
	_cleanup_close_ int fd = memfd_create("spawn", MFD_CLOEXEC);
	int r = fd < 0 ? -errno : fs_write_all(fd, text->data, text->len);
	return r < 0 ? r : TAKE_FD(fd);
}

static int send_spawn(struct room *room, const struct spawn *spec, uint64_t tag)
{
	_cleanup_buf_ struct buf text = BUF_INIT(SIZE_MAX / 4);
	_cleanup_close_ int outside = -EBADF;
	struct wire_spawn head = {.tag = tag, .new_session = spec->new_session};
	int fds[WIRE_FDS_MAX];
	size_t fds_n = 0;
	head.argc = (uint32_t)envp_count(spec->argv);
	head.envc = (uint32_t)envp_count(spec->envp);
	(void)buf_append(&text, spec->path, strlen(spec->path) + 1);
	(void)buf_append(&text, spec->cwd ? spec->cwd : "", spec->cwd ? strlen(spec->cwd) + 1 : 1);
	for (char *const *s = spec->argv; *s; s++)
		(void)buf_append(&text, *s, strlen(*s) + 1);
	for (char *const *s = spec->envp; s && *s; s++)
		(void)buf_append(&text, *s, strlen(*s) + 1);
	if (text.failed || text.len > UINT32_MAX)
		return -ENOMEM;
	head.text_n = (uint32_t)text.len;
	if (sizeof(head) + text.len > WIRE_MAX) {
		outside = text_to_memfd(&text);
		if (outside < 0)
			return outside;
		head.outside = 1;
		fds[fds_n++] = outside;
		buf_clear(&text);
	}
	for (size_t i = 0; i < spec->fds_n; i++) {
		head.fds[head.fds_n++] = spec->fds[i].child_fd;
		fds[fds_n++] = spec->fds[i].parent_fd;
	}
	struct iovec iov[] = {{&head, sizeof(head)}, {text.data, text.len}};
	return message_send(room->socket, iov, text.len > 0 ? 2 : 1, fds, fds_n);
}

int room_spawn(struct room *room, struct child *c, const struct spawn *spec, child_exit_fn *on_exit,
	       struct err *err)
{
	uint64_t tag = ++room->rooms->tags;
	if (room->state == ENDED || room->killed)
		return err_set(err, ERR_GONE, "RUNTIME_ERROR", ESRCH, "the isolated session has ended");
	int r = send_spawn(room, spec, tag);
	if (r == -EAGAIN)
		return err_set(err, ERR_UNAVAILABLE, "RUNTIME_ERROR", EAGAIN,
			       "start '%s': the isolated session is too busy to take it", spec->path);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "start '%s' in the isolated session", spec->path);
	*c = (struct child){.on_exit = on_exit, .pidfd = -EBADF, .host = &host, .tag = tag};
	list_add_tail(&room->children, &c->link);
	return 0;
}

/* ---- the life of a room --------------------------------------------------------------------- */

static void room_drop_hold(struct room *room)
{
	if (room->held) {
		room->held = false;
		room_unref(room);
	}
}

/* Whoever still has a process in there is told that it was killed. */
static void end_children(struct room *room)
{
	const struct rusage none = {};
	while (!list_empty(&room->children))
		hosted_ended(list_entry(room->children.next, struct child, link), SIGKILL, &none);
}

static void room_cleared(struct room *room, uint64_t tag)
{
	if (room->clear_tag != tag || !room->cleared)
		return;
	void (*fn)(void *arg) = room->cleared;
	room->cleared = NULL;
	fn(room->clear_arg);
}

static void room_end(struct room *room)
{
	struct room_events events = room->events;
	bool was_ready = room->state == READY;
	if (room->state == ENDED)
		return;
	(void)room_ref(room);
	room->state = ENDED;
	loop_io_del(&room->io);
	fd_close(&room->socket);
	end_children(room);
	room_cleared(room, room->clear_tag);
	fail_stage(room, WIRE_STAGE_NONE, 0, ECHILD);
	if (was_ready && events.ended)
		events.ended(room->arg);
	else if (!was_ready && events.ready)
		events.ready(room->arg, -MAX(room->err.errnum, 1), &room->err);
	limits_hold_release(TAKE_PTR(room->limits));
	room_drop_hold(room);
	room_unref(room);
}

void room_kill(struct room *room)
{
	room->killed = true;
	if (room->init.pid > 0)
		(void)child_kill(&room->init, SIGKILL);
}

static void room_ready(struct room *room, const int *fds, size_t fds_n)
{
	if (room->state != STARTING)
		return;
	if (fds_n > 0)
		room->cellar_fd = fcntl(fds[0], F_DUPFD_CLOEXEC, 3);
	for (size_t i = 0; i < room->mounts_n; i++) {
		struct room_mount *m = &room->mounts[i];
		char path[32];
		if (m->mode != ROOM_OVERLAY)
			continue;
		(void)snprintf(path, sizeof(path), "%zu/stack", i);
		m->stack_fd = openat(room->cellar_fd, path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (m->stack_fd < 0) {
			fail_stage(room, WIRE_STAGE_VIEW, UINT32_MAX, errno);
			room_kill(room);
			return;
		}
	}
	room->state = READY;
	buf_done(&room->plan);
	if (room->events.ready)
		room->events.ready(room->arg, 0, NULL);
}

int room_clear(struct room *room, void (*done)(void *arg), void *arg, struct err *err)
{
	struct wire_spawn head = {.tag = ++room->rooms->tags, .clear = 1};
	struct iovec iov = {&head, sizeof(head)};
	if (room->state != READY || room->killed)
		return err_set(err, ERR_GONE, "RUNTIME_ERROR", ESRCH, "the isolated session has ended");
	if (room->cleared)
		return err_set(err, ERR_CONFLICT, "RUNTIME_ERROR", EBUSY,
			       "the isolated session is being cleared");
	int r = message_send(room->socket, &iov, 1, NULL, 0);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "clear the isolated session");
	room->clear_tag = head.tag;
	room->cleared = done;
	room->clear_arg = arg;
	return 0;
}

/* One event; false when there is none now, or no more at all. */
static bool room_receive(struct room *room)
{
	struct wire_event e;
	int fds[WIRE_FDS_MAX];
	size_t fds_n;
	ssize_t n = message_receive(room->socket, &e, sizeof(e), fds, &fds_n);
	if (n == -EAGAIN)
		return false;
	if (n == sizeof(e)) {
		int first = fds_n > 0 ? fds[0] : -EBADF;
		struct child *c;
		switch ((enum wire_event_kind)e.kind) {
		case WIRE_READY:
			room_ready(room, fds, fds_n);
			break;
		case WIRE_FAILED:
			fail_stage(room, (enum wire_stage)e.stage, e.step, e.errnum);
			break;
		case WIRE_STARTED:
			hosted_started(room, e.tag, first);
			fds[0] = -EBADF;
			break;
		case WIRE_CLEARED:
			room_cleared(room, e.tag);
			break;
		case WIRE_EXITED:
			c = find_child(room, e.tag);
			if (c)
				hosted_ended(c, e.wstatus, &e.usage);
			break;
		}
	}
	for (size_t i = 0; i < fds_n; i++)
		fd_close(&fds[i]);
	return n > 0 && room->state != ENDED;
}

static void room_event(struct loop_io *io, uint32_t events)
{
	struct room *room = container_of(io, struct room, io);
	(void)events;
	(void)room_ref(room);
	for (int i = 0; i < EVENTS_A_TURN && room->state != ENDED; i++) {
		if (room_receive(room))
			continue;
		char byte;
		/* The init closes its end when it dies; its exit is what counts, and on its way. */
		if (room->state != ENDED && recv(room->socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0) {
			loop_io_del(&room->io);
			if (room->born && room->init.pid == 0)
				room_end(room);
		}
		break;
	}
	room_unref(room);
}

/* What it said before it died is still to be heard. */
static void init_exited(struct child *child, int wstatus, const struct rusage *usage)
{
	struct room *room = container_of(child, struct room, init);
	(void)wstatus;
	(void)usage;
	(void)room_ref(room);
	while (room->state != ENDED && room_receive(room))
		;
	room_end(room);
	room_unref(room);
}

static void room_born(struct room *room, int pid)
{
	room->born = true;
	if (pid < 0) {
		fail_stage(room, WIRE_STAGE_CLONE, 0, -pid);
		room_end(room);
		return;
	}
	int r = child_adopt(room->rooms->execd->reaper, &room->init, pid, init_exited);
	if (r < 0) {
		init_exited(&room->init, 0, NULL);
		return;
	}
	if (room->limits && (r = limits_hold_enter(room->limits, pid)) < 0) {
		fail_stage(room, WIRE_STAGE_NONE, 0, -r);
		room->killed = true;
	}
	if (room->killed)
		(void)child_kill(&room->init, SIGKILL);
}

/* ---- the nursery ------------------------------------------------------------------------------- */

static void order_end(struct order *o, int r, const struct err *err)
{
	struct room *room = o->room;
	list_del(&o->link);
	if (r >= 0)
		room->mounts[o->index].top = o->top;
	o->done(o->arg, r, err);
	room_unref(room);
	free(o);
}

static void order_answered(struct order *o, const struct wire_answer *a)
{
	struct err err;
	if (a->pid >= 0) {
		order_end(o, 0, NULL);
		return;
	}
	(void)err_sys(&err, "RUNTIME_ERROR", -a->pid, "mount the overlay at '%s' anew",
		      o->room->mounts[o->index].path);
	order_end(o, a->pid, &err);
}

static void answer_arrived(struct rooms *rooms, const struct wire_answer *a)
{
	list_foreach_safe (node, &rooms->all) {
		struct room *room = list_entry(node, struct room, link);
		if (room->tag == a->tag && !room->born) {
			room_born(room, a->pid);
			return;
		}
	}
	list_foreach_safe (node, &rooms->orders) {
		struct order *o = list_entry(node, struct order, link);
		if (o->tag == a->tag) {
			order_answered(o, a);
			return;
		}
	}
}

/* What it was still to do is not going to be done. */
static void nursery_lost(struct rooms *rooms)
{
	const struct wire_answer lost = {.pid = -EPIPE};
	loop_io_del(&rooms->io);
	fd_close(&rooms->socket);
	if (rooms->nursery.pid > 0)
		(void)child_kill(&rooms->nursery, SIGKILL);
	child_forget(&rooms->nursery);
	while (!list_empty(&rooms->orders))
		order_answered(list_entry(rooms->orders.next, struct order, link), &lost);
	for (bool again = true; again;) {
		again = false;
		list_foreach_safe (node, &rooms->all) {
			struct room *room = list_entry(node, struct room, link);
			if (room->born)
				continue;
			room_born(room, -EPIPE);
			again = true;
			break;
		}
	}
}

static void nursery_event(struct loop_io *io, uint32_t events)
{
	struct rooms *rooms = container_of(io, struct rooms, io);
	struct wire_answer a;
	int fds[WIRE_FDS_MAX];
	size_t fds_n;
	(void)events;
	for (;;) {
		ssize_t n = message_receive(rooms->socket, &a, sizeof(a), fds, &fds_n);
		for (size_t i = 0; i < fds_n; i++)
			fd_close(&fds[i]);
		if (n == -EAGAIN)
			return;
		if (n <= 0) {
			nursery_lost(rooms);
			return;
		}
		if (n == sizeof(a))
			answer_arrived(rooms, &a);
	}
}

static void nursery_exited(struct child *child, int wstatus, const struct rusage *usage)
{
	(void)child;
	(void)wstatus;
	(void)usage; /* the socket tells, after what was still in it */
}

static int nursery_start(struct rooms *rooms, struct err *err)
{
	_cleanup_close_ int ours = -EBADF, theirs = -EBADF;
	const char *argv[] = {NURSERY_NAME, NULL}, *envp[] = {NULL};
	int pair[2];
	if (rooms->socket >= 0)
		return 0;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_sys(err, "RUNTIME_ERROR", errno, "open a socket");
	ours = pair[0];
	theirs = pair[1];
	const struct spawn s = {.path = "/proc/self/exe",
				.argv = (char *const *)argv,
				.envp = (char *const *)envp,
				.cwd = "/",
				.new_session = true,
				.fds = {{theirs, WIRE_FD}},
				.fds_n = 1};
	int r = child_spawn(rooms->execd->reaper, &rooms->nursery, &s, nursery_exited, err);
	if (r < 0)
		return r;
	r = loop_io_add(rooms->execd->loop, &rooms->io, ours, EPOLLIN, nursery_event);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "watch a socket");
	rooms->socket = TAKE_FD(ours);
	return 0;
}

/* A nursery that has died unnoticed is replaced once. */
static int nursery_tell(struct rooms *rooms, const struct buf *message, const int *fds, size_t fds_n,
			struct err *err)
{
	struct iovec iov = {message->data, message->len};
	int r = -EPIPE;
	for (int attempt = 0; attempt < 2 && (r == -EPIPE || r == -ECONNRESET); attempt++) {
		if (attempt > 0)
			nursery_lost(rooms);
		r = nursery_start(rooms, err);
		if (r < 0)
			return r;
		r = message_send(rooms->socket, &iov, 1, fds, fds_n);
	}
	if (r == -EAGAIN)
		return err_set(err, ERR_UNAVAILABLE, "RUNTIME_ERROR", EAGAIN,
			       "too many isolated sessions are being made at once");
	return r < 0 ? err_sys(err, "RUNTIME_ERROR", -r, "make an isolated session") : 0;
}

/* ---- making ------------------------------------------------------------------------------------- */

static int find_ids(const struct room_spec *spec, struct room_place *place, struct accounts **accounts,
		    gid_t **ret_groups, struct err *err)
{
	bool own = spec->uid == (uid_t)-1 || spec->uid == geteuid();
	place->uid = spec->uid == (uid_t)-1 ? geteuid() : spec->uid;
	place->gid = own ? getegid() : 0;
	if (place->userns != WIRE_USERNS_ONE) {
		int r = accounts_load(accounts);
		if (r >= 0)
			r = accounts_groups(*accounts, place->uid, ret_groups, &place->groups_n);
		if (r < 0)
			return err_sys(err, "RUNTIME_ERROR", -r, "groups of uid %u", place->uid);
		place->groups = *ret_groups;
		if (!own)
			(void)accounts_primary_group(*accounts, place->uid, &place->gid);
	}
	if (spec->gid != (gid_t)-1)
		place->gid = spec->gid;
	return 0;
}

bool room_has_capability(int capability)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {};
	if (syscall(SYS_capget, &header, data) < 0)
		return false;
	return data[capability / 32].effective >> (capability % 32) & 1;
}

/* Who the room's ids are: real where we have the privilege, by a user namespace where not. */
static int find_userns(const struct room_spec *spec, enum wire_userns *ret, struct err *err)
{
	bool admin = room_has_capability(CAP_SYS_ADMIN);
	if (spec->ids == ROOM_IDS_REAL && !admin)
		return err_set(err, ERR_NOT_SUPPORTED, "NOT_SUPPORTED", EPERM,
			       "uid_mode: 'setpriv' needs CAP_SYS_ADMIN, which the agent does not have; use "
			       "'userns'");
	if (spec->ids == ROOM_IDS_REAL || (spec->ids == ROOM_IDS_ANY && admin))
		*ret = WIRE_USERNS_NONE;
	else if (room_has_capability(CAP_SETUID) && room_has_capability(CAP_SETGID))
		*ret = WIRE_USERNS_WHOLE;
	else
		*ret = WIRE_USERNS_ONE;
	return 0;
}

static int copy_mounts(struct room *room, const struct room_spec *spec)
{
	for (size_t i = 0; i < spec->mounts_n; i++) {
		struct room_mount *m = &room->mounts[room->mounts_n];
		*m = spec->mounts[i];
		m->stack_fd = m->lower_fd = -EBADF;
		m->top = 0;
		m->userxattr = room->userns;
		m->path = strdup(spec->mounts[i].path);
		if (!m->path)
			return -ENOMEM;
		room->mounts_n++;
		if (m->mode != ROOM_OVERLAY)
			continue;
		m->lower_fd = open(m->path, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (m->lower_fd < 0)
			return -errno;
	}
	return 0;
}

static int room_limits(struct room *room, const struct room_spec *spec, uid_t uid, struct err *err)
{
	struct limiter *limiter;
	if (!spec->limits || !limits_any(spec->limits))
		return 0;
	int r = commands_limiter(room->rooms->execd->commands, &limiter, err);
	return r < 0 ? r : limits_hold_new(limiter, spec->limits, room->id, uid, &room->limits, err);
}

/* Sends the plan and the init's end of the socket. */
static int room_order(struct room *room, const struct room_spec *spec, struct err *err)
{
	struct accounts *accounts = NULL;
	_cleanup_free_ gid_t *groups = NULL;
	_cleanup_close_ int theirs = -EBADF;
	struct room_place place = {.tag = room->tag, .name = room->id};
	struct room_spec own = *spec;
	int pair[2];
	int r = find_userns(spec, &place.userns, err);
	if (r < 0)
		return r;
	room->userns = place.userns != WIRE_USERNS_NONE;
	r = copy_mounts(room, spec);
	if (r < 0)
		return err_sys(err, "INVALID_REQUEST_BODY", -r, "workspace '%s'",
			       spec->mounts[room->mounts_n - (r == -ENOMEM ? 0 : 1)].path);
	r = find_ids(spec, &place, &accounts, &groups, err);
	accounts_free(accounts);
	if (r >= 0)
		r = stacks_make(&room->stacks, room->rooms->root, room->id, room->mounts, room->mounts_n,
				err);
	if (r >= 0)
		r = room_limits(room, spec, place.uid, err);
	own.mounts = room->mounts;
	place.stacks = room->stacks.paths;
	place.hidden = stack_root_path(room->rooms->root);
	if (r >= 0)
		r = plan_room(&own, &place, &room->plan, err);
	if (r < 0)
		return r;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_sys(err, "RUNTIME_ERROR", errno, "open a socket");
	room->socket = pair[0];
	theirs = pair[1];
	r = loop_io_add(room->rooms->execd->loop, &room->io, room->socket, EPOLLIN, room_event);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "watch a socket");
	return nursery_tell(room->rooms, &room->plan, &theirs, 1, err);
}

int room_new(struct rooms *rooms, const struct room_spec *spec, const struct room_events *events, void *arg,
	     struct room **ret, struct err *err)
{
	struct room *room = calloc(1, sizeof(*room));
	if (!room)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "make an isolated session");
	room->rooms = rooms;
	room->refs = 1;
	room->socket = room->io.fd = room->cellar_fd = room->init.pidfd = -EBADF;
	room->plan = BUF_INIT(WIRE_MAX);
	room->tag = ++rooms->tags;
	list_init(&room->link);
	list_init(&room->children);
	list_init(&room->init.link);
	(void)random_hex(room->id, ROOM_ID_LEN);
	int r = spec->mounts_n > ROOM_MOUNTS_MAX
			? err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", E2BIG,
				  "overlays: more than %d, the most of one session", ROOM_MOUNTS_MAX)
			: stack_root_open(rooms->execd, &rooms->root, err);
	if (r >= 0)
		r = room_order(room, spec, err);
	if (r < 0) {
		loop_io_del(&room->io);
		fd_close(&room->socket);
		room_unref(room);
		return r;
	}
	room->events = *events;
	room->arg = arg;
	list_add_tail(&rooms->all, &room->link);
	room->held = true;
	room->refs++;
	*ret = room;
	return 0;
}

int room_remount(struct room *room, size_t index, unsigned top, room_done_fn *done, void *arg,
		 struct err *err)
{
	_cleanup_buf_ struct buf message = BUF_INIT(WIRE_MAX);
	struct rooms *rooms = room->rooms;
	if (room->state != READY || room->init.pidfd < 0)
		return err_set(err, ERR_GONE, "RUNTIME_ERROR", ESRCH, "the isolated session has ended");
	if (index >= room->mounts_n || room->mounts[index].mode != ROOM_OVERLAY || top >= ROOM_LAYERS_MAX)
		return err_set(err, ERR_INVALID, "RUNTIME_ERROR", EINVAL, "there is no such overlay");
	struct order *o = calloc(1, sizeof(*o));
	if (!o)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "mount an overlay");
	*o = (struct order){
		.tag = ++rooms->tags, .room = room, .index = index, .top = top, .done = done, .arg = arg};
	list_init(&o->link);
	const int fds[] = {room->init.pidfd, room->cellar_fd};
	int r = plan_remount(&room->mounts[index], index, top, room->userns, o->tag, &message);
	r = r < 0 ? err_sys(err, "RUNTIME_ERROR", -r, "mount an overlay")
		  : nursery_tell(rooms, &message, fds, ARRAY_SIZE(fds), err);
	if (r < 0) {
		free(o);
		return r;
	}
	(void)room_ref(room);
	list_add_tail(&rooms->orders, &o->link);
	return 0;
}

/* ---- all of them ----------------------------------------------------------------------------------- */

int rooms_new(struct execd *execd, struct rooms **ret)
{
	struct rooms *rooms = calloc(1, sizeof(*rooms));
	if (!rooms)
		return -ENOMEM;
	rooms->execd = execd;
	rooms->socket = rooms->io.fd = rooms->nursery.pidfd = -EBADF;
	list_init(&rooms->all);
	list_init(&rooms->orders);
	list_init(&rooms->nursery.link);
	*ret = rooms;
	return 0;
}

const char *rooms_persist_problem(struct rooms *rooms)
{
	int r = stack_root_open(rooms->execd, &rooms->root, NULL);
	return r < 0 ? "out of memory" : stack_root_problem(rooms->root);
}

void rooms_free(struct rooms *rooms)
{
	if (!rooms)
		return;
	nursery_lost(rooms);
	list_foreach_safe (node, &rooms->all) {
		struct room *room = list_entry(node, struct room, link);
		room_kill(room);
		child_forget(&room->init);
		room_end(room);
	}
	stack_root_close(rooms->root);
	free(rooms);
}
