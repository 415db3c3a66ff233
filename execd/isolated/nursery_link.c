/*
 * nursery_link.c - the agent's end of the nursery, and what it has been asked for.
 *
 * Owns the nursery's process and socket. An answer is known by the tag of what
 * was asked. When the nursery dies, whatever it had not answered has failed.
 */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "execd/execd.h"
#include "execd/isolated/room_priv.h"
#include "execd/isolated/warden.h"

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

static struct room *next_lost(struct rooms *rooms)
{
	list_foreach_safe (node, &rooms->all) {
		struct room *room = list_entry(node, struct room, link);
		if (room->lost)
			return room;
	}
	return NULL;
}

/* What it was still to do goes to the next one, once, or is not done. */
void nursery_lost(struct rooms *rooms)
{
	const struct wire_answer lost = {.pid = -EPIPE};
	loop_io_del(&rooms->io);
	fd_close(&rooms->socket);
	if (rooms->nursery.pid > 0)
		(void)child_kill(&rooms->nursery, SIGKILL);
	child_forget(&rooms->nursery);
	while (!list_empty(&rooms->orders))
		order_answered(list_entry(rooms->orders.next, struct order, link), &lost);
	list_foreach_safe (node, &rooms->all) {
		struct room *room = list_entry(node, struct room, link);
		room->lost = !room->born;
	}
	for (struct room *room; (room = next_lost(rooms));) {
		room->lost = false;
		if (rooms->closing || !room_send_again(room))
			room_born(room, -EPIPE);
	}
}

static void nursery_event(struct loop_io *io, uint32_t events)
{
	struct rooms *rooms = container_of(io, struct rooms, io);
	struct wire_answer a = {0};
	int fds[MESSAGE_FDS_MAX];
	size_t fds_n;
	(void)events;
	for (;;) {
		ssize_t n = message_receive(rooms->socket, &a, sizeof(a), fds, &fds_n, MSG_DONTWAIT);
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
int nursery_tell(struct rooms *rooms, const struct buf *message, const int *fds, size_t fds_n,
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
		r = message_send(rooms->socket, &iov, 1, fds, fds_n, MSG_DONTWAIT);
	}
	if (r == -EAGAIN)
		return err_set(err, ERR_UNAVAILABLE, "RUNTIME_ERROR", EAGAIN,
			       "too many isolated sessions are being made at once");
	return r < 0 ? err_sys(err, "RUNTIME_ERROR", -r, "make an isolated session") : 0;
}

int room_remount(struct room *room, size_t index, unsigned top, bool last, room_done_fn *done, void *arg,
		 struct err *err)
{
	_cleanup_buf_ struct buf message = BUF_INIT(WIRE_MAX);
	struct rooms *rooms = room->rooms;
	if (room->state != ROOM_READY || room->killed)
		return err_set(err, ERR_GONE, "RUNTIME_ERROR", ESRCH, "the isolated session has ended");
	if (index >= room->mounts_n || room->mounts[index].mode != ROOM_OVERLAY || top >= ROOM_LAYERS_MAX)
		return err_set(err, ERR_INVALID, "RUNTIME_ERROR", EINVAL, "there is no such overlay");
	struct order *o = calloc(1, sizeof(*o));
	if (!o)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "mount an overlay");
	*o = (struct order){
		.tag = ++rooms->tags, .room = room, .index = index, .top = top, .done = done, .arg = arg};
	list_init(&o->link);
	const int fds[] = {room->mounts_ns, room->users_ns, room->cellar_fd};
	int r = plan_remount(&room->mounts[index], index, top, last, room->ids.userns != WIRE_USERNS_NONE,
			     o->tag, &message);
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
