/*
 * zygote.c - the agent's end of the warm Python, and what it has been asked for.
 *
 * Owns its process and socket, and each fork until it has become a process or has been left to the room's
 * init:
 *
 *   made -> (the room is READY) asked for -> it answers with its pid -> it is the agent's child, and goes on
 *                                   |-- no, or the end of its socket -> the room's init is asked
 *
 * Meanwhile its struct child is one of the room's (hosted.c), known by the tag, so that both ways end alike.
 */
#include "execd/isolated/zygote.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "execd/asset.h"
#include "execd/confinement.h"
#include "execd/env.h"
#include "execd/execd.h"
#include "execd/isolated/room_priv.h"
#include "execd/limits.h"
#include "execd/tree.h"
#include "lib/log.h"

#define ASSET_FD     4
#define NATIVE_FD    5
#define CANNOT_START (126 << 8)

struct zygote {
	struct rooms *rooms;
	struct child child;
	int socket; /* to it; -EBADF: it is not there */
	struct loop_io io;
	struct list forks;
	bool served, unfit; /* unfit: it has come to nothing before it served anybody */
};

struct fork {
	struct list link;
	struct zygote *zygote;
	struct room *room; /* which drops it when it ends */
	struct wire_spawn head;
	struct buf text;
	int fds[ARRAY_SIZE(((struct wire_spawn *)0)->fds)];
	int socket; /* to the process; -EBADF: not asked for yet */
	struct loop_io io;
	struct confine_start listener;
};

/* Whose variables do it no harm and tell nothing: what it forks gets its own. */
static const char *const kept[] = {"HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TZ"};

static const char boot[] = "import os\n"
			   "with os.fdopen(4,'rb') as f:exec(compile(f.read(),'<execd>/zygote.py','exec'))";

/* ---- its process ---------------------------------------------------------------- */

/* Something has come to nothing: for good, when nothing has ever come of it. */
static void zygote_check(struct zygote *z)
{
	if (!z->served && !z->unfit && !z->rooms->closing)
		log_info("Python functions in rooms start slowly: none could be forked from a warm Python");
	z->unfit = !z->served;
}

static void zygote_lost(struct zygote *z)
{
	loop_io_del(&z->io);
	fd_close(&z->socket);
	if (z->child.pid > 0)
		(void)child_kill(&z->child, SIGKILL);
	child_forget(&z->child);
	zygote_check(z);
}

/* It says nothing here: the socket has come to its end. */
static void zygote_event(struct loop_io *io, uint32_t events)
{
	(void)events;
	zygote_lost(container_of(io, struct zygote, io));
}

static void zygote_exited(struct child *child, int wstatus, const struct rusage *usage)
{
	(void)child;
	(void)wstatus;
	(void)usage; /* the socket tells */
}

static int start_with(struct zygote *z, int theirs, char *const *envp, struct err *err)
{
	_cleanup_close_ int source = -EBADF, native = -EBADF;
	const char *argv[] = {"python3", "-I", "-u", "-X", "utf8", "-c", boot, NULL};
	int r = asset_open("python/zygote.py", &source, err);
	if (r >= 0)
		r = asset_open("python/native.so", &native, err);
	const struct spawn s = {.path = argv[0],
				.argv = (char *const *)argv,
				.envp = envp,
				.cwd = "/",
				.new_session = true,
				.die_with_parent = true,
				.fds = {{theirs, WIRE_FD}, {source, ASSET_FD}, {native, NATIVE_FD}},
				.fds_n = 3};
	return r < 0 ? r : child_spawn(z->rooms->execd->reaper, &z->child, &s, zygote_exited, err);
}

/* Only what rooms see as well: /tmp and /run are their own, so a Python in there is none of theirs. */
static int room_path(const char *path, char **ret)
{
	_cleanup_buf_ struct buf out = BUF_INIT(WIRE_MAX);
	(void)buf_append(&out, "PATH=", 5);
	for (const char *end; path; path = *end ? end + 1 : NULL) {
		end = strchrnul(path, ':');
		if (strncmp(path, "/tmp/", 5) == 0 || strncmp(path, "/run/", 5) == 0)
			continue;
		(void)buf_printf(&out, "%s%.*s", out.len > 5 ? ":" : "", (int)(end - path), path);
	}
	*ret = strdup(buf_cstr(&out) ? buf_cstr(&out) : "");
	return *ret && !out.failed ? 0 : -ENOMEM;
}

static int start_python(struct zygote *z, int theirs, struct err *err)
{
	const struct env_filter filter = {.secrets = true};
	_cleanup_free_ char *path = NULL;
	char **all, *few[ARRAY_SIZE(kept) + 2] = {NULL};
	size_t n = 0;
	int r = env_build_for(&filter, z->rooms->execd->env_file, NULL, TREE_MARK, "", &all, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(kept); i++)
		for (char **e = all; *e; e++)
			if (strncmp(*e, kept[i], strlen(kept[i])) == 0 && (*e)[strlen(kept[i])] == '=')
				few[n++] = *e;
	const char *given = env_get(all, "PATH");
	r = room_path(given ? given : ENV_DEFAULT_PATH, &path);
	few[n] = path;
	r = r < 0 ? r : start_with(z, theirs, few, err);
	env_free(all);
	return r;
}

static int zygote_start(struct zygote *z)
{
	_cleanup_close_ int ours = -EBADF, theirs = -EBADF;
	struct err err;
	int pair[2];
	if (z->socket >= 0 || z->unfit)
		return z->unfit ? -ENOTSUP : 0;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	ours = pair[0];
	theirs = pair[1];
	int r = start_python(z, theirs, &err);
	if (r >= 0)
		r = loop_io_add(z->rooms->execd->loop, &z->io, ours, EPOLLIN, zygote_event);
	if (r < 0) {
		zygote_lost(z);
		return r;
	}
	z->socket = TAKE_FD(ours);
	return 0;
}

/* ---- a fork ---------------------------------------------------------------------- */

static void fork_free(struct fork *f)
{
	list_del(&f->link);
	loop_io_del(&f->io);
	fd_close(&f->socket);
	for (size_t i = 0; i < f->head.fds_n; i++)
		fd_close(&f->fds[i]);
	confine_start_done(&f->listener);
	buf_done(&f->text);
	free(f);
}

/* The slow way: the init starts what was to be forked. */
static void fork_leave(struct fork *f)
{
	const struct rusage none = {};
	struct child *c = hosted_find(f->room, f->head.tag);
	if (c && hosted_send(f->room, &f->head, &f->text, f->fds) < 0)
		hosted_ended(c, CANNOT_START, &none);
	fork_free(f);
}

/* Denied calls are told of by a listener of its own; the init's is done with, as it starts nothing more. */
static void fork_listen(struct fork *f)
{
	struct room *room = f->room;
	struct execd *execd = room->rooms->execd;
	struct denials *denials = NULL;
	confinement_listen(execd, &f->listener, room->confine, room->id, &denials);
	if (!denials)
		return;
	confinement_let_go(execd, room->denials);
	room->denials = denials;
}

/* Before it goes on: it is watched, bounded and listened to. */
static void fork_arrived(struct fork *f, pid_t pid)
{
	const struct rusage none = {};
	struct room *room = f->room;
	struct child *c = hosted_find(room, f->head.tag);
	child_exit_fn *on_exit = c ? c->on_exit : NULL;
	int signo = c ? hosted_take(c) : 0;
	int r = c ? child_adopt(room->rooms->execd->reaper, c, pid, on_exit) : -ECANCELED;
	f->zygote->served = true;
	if (r >= 0 && room->limits && limits_hold_join(room->limits, pid) < 0)
		signo = SIGKILL;
	if (r >= 0 && signo)
		(void)child_kill(c, signo);
	fork_listen(f);
	if (r >= 0 && signo != SIGKILL)
		(void)send(f->socket, "", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	fork_free(f); /* without that byte it ends by itself */
	if (c && r < 0)
		on_exit(c, SIGKILL, &none);
}

static void fork_event(struct loop_io *io, uint32_t events)
{
	struct fork *f = container_of(io, struct fork, io);
	struct wire_answer a = {0};
	(void)events;
	ssize_t n = recv(f->socket, &a, sizeof(a), MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n == sizeof(a) && a.pid > 0) {
		fork_arrived(f, a.pid);
		return;
	}
	if (n != sizeof(a)) /* a no may be for this room alone */
		zygote_check(f->zygote);
	fork_leave(f);
}

static size_t put_namespaces(const struct room *room, int *fds)
{
	size_t n = 0;
	if (room->ids.userns != WIRE_USERNS_NONE)
		fds[n++] = room->users_ns;
	for (size_t i = 0; i < room->joins_n; i++)
		fds[n++] = room->joins[i];
	fds[n++] = room->mounts_ns;
	return n;
}

static int fork_tell(struct fork *f, int theirs, const struct buf *plan)
{
	struct wire_fork head = {.fds_n = f->head.fds_n,
				 .listener = f->listener.child_socket >= 0,
				 .kept = !f->room->limits, /* of those it might be one too many */
				 .plan_n = (uint32_t)plan->len,
				 .argc = f->head.argc,
				 .envc = f->head.envc,
				 .text_n = f->head.text_n};
	struct iovec iov[] = {{&head, sizeof(head)}, {plan->data, plan->len}, {f->text.data, f->text.len}};
	int fds[MESSAGE_FDS_MAX];
	size_t n = 0;
	memcpy(head.fds, f->head.fds, sizeof(head.fds));
	if (sizeof(head) + plan->len + f->text.len > WIRE_MAX || f->head.fds_n > MESSAGE_FDS_MAX - 9)
		return -EMSGSIZE;
	fds[n++] = theirs;
	if (head.listener)
		fds[n++] = f->listener.child_socket;
	head.namespaces_n = (uint32_t)put_namespaces(f->room, fds + n);
	n += head.namespaces_n;
	memcpy(fds + n, f->fds, f->head.fds_n * sizeof(int));
	n += f->head.fds_n;
	return message_send(f->zygote->socket, iov, ARRAY_SIZE(iov), fds, n, MSG_DONTWAIT);
}

static int fork_ask(struct fork *f)
{
	_cleanup_buf_ struct buf plan = BUF_INIT(WIRE_MAX);
	_cleanup_close_ int theirs = -EBADF;
	struct room *room = f->room;
	struct spawn bounds = {0};
	int pair[2], r = zygote_start(f->zygote);
	if (room->limits)
		limits_hold_apply(room->limits, &bounds);
	if (r >= 0)
		r = plan_fork(&room->ids, confine_plan(room->confine), bounds.rlimits, bounds.rlimits_n,
			      &plan);
	if (r >= 0)
		r = confine_start_init(&f->listener, room->confine, NULL);
	if (r < 0)
		return r;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	f->socket = pair[0];
	theirs = pair[1];
	r = loop_io_add(room->rooms->execd->loop, &f->io, f->socket, EPOLLIN, fork_event);
	return r < 0 ? r : fork_tell(f, theirs, &plan);
}

static int fork_new(struct zygote *z, struct room *room, const struct spawn *spec, struct fork **ret)
{
	struct fork *f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->zygote = z;
	f->room = room;
	f->text = BUF_INIT(WIRE_MAX);
	f->socket = f->io.fd = f->listener.socket = f->listener.child_socket = -EBADF;
	list_add_tail(&z->forks, &f->link);
	int r = hosted_pack(spec, &f->head, &f->text);
	for (size_t i = 0; i < f->head.fds_n; i++)
		f->fds[i] = -EBADF;
	for (size_t i = 0; i < f->head.fds_n && r >= 0; i++) {
		f->fds[i] = fcntl(spec->fds[i].parent_fd, F_DUPFD_CLOEXEC, 0);
		r = f->fds[i] < 0 ? -errno : 0;
	}
	f->head.tag = ++room->rooms->tags;
	if (r >= 0 && room->state == ROOM_READY)
		r = fork_ask(f);
	if (r < 0) {
		fork_free(f);
		return r;
	}
	*ret = f;
	return 0;
}

static struct zygote *zygote_of(struct rooms *rooms)
{
	struct zygote *z = rooms->zygote ? NULL : calloc(1, sizeof(*z));
	if (z) {
		z->rooms = rooms;
		z->socket = z->io.fd = z->child.pidfd = -EBADF;
		list_init(&z->forks);
		list_init(&z->child.link);
		rooms->zygote = z;
	}
	return rooms->zygote;
}

int zygote_spawn(struct room *room, struct child *c, const struct spawn *spec, child_exit_fn *on_exit,
		 struct err *err)
{
	struct zygote *z = room->joinable ? zygote_of(room->rooms) : NULL;
	struct fork *f;
	if (!z || room->state == ROOM_ENDED || room->killed || zygote_start(z) < 0 ||
	    fork_new(z, room, spec, &f) < 0)
		return room_spawn(room, c, spec, on_exit, err);
	hosted_add(room, c, f->head.tag, on_exit);
	return 0;
}

void zygote_room_ready(struct room *room)
{
	struct zygote *z = room->rooms->zygote;
	if (!z || !room->joinable)
		return;
	list_foreach_safe (node, &z->forks) {
		struct fork *f = list_entry(node, struct fork, link);
		if (f->room == room && f->socket < 0 && fork_ask(f) < 0)
			fork_leave(f);
	}
}

void zygote_room_ended(struct room *room)
{
	struct zygote *z = room->rooms->zygote;
	if (!z || !room->joinable)
		return;
	list_foreach_safe (node, &z->forks) {
		struct fork *f = list_entry(node, struct fork, link);
		if (f->room == room)
			fork_free(f);
	}
}

void zygote_free(struct zygote *z)
{
	if (!z)
		return;
	while (!list_empty(&z->forks))
		fork_free(list_entry(z->forks.next, struct fork, link));
	zygote_lost(z);
	free(z);
}
