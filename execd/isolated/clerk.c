/*
 * clerk.c - a room's clerk as the agent knows it: a socket, over which it is handed its connections. When the
 * socket is closed it ends with the last of them; at a message without one, at once.
 */
#include "execd/isolated/clerk.h"

#include <string.h>
#include <sys/socket.h>

#include "execd/execd.h"
#include "execd/isolated/room_priv.h"

static void clerk_idle(struct loop_timer *timer)
{
	fd_close(&container_of(timer, struct clerk, idle)->socket);
}

void clerk_done(struct clerk *c)
{
	char byte = 0;
	struct iovec iov = {&byte, 1};
	loop_timer_del(&c->idle);
	if (c->socket >= 0)
		(void)message_send(c->socket, &iov, 1, NULL, 0, MSG_DONTWAIT);
	fd_close(&c->socket);
}

static int clerk_start(struct room *room, struct err *err)
{
	_cleanup_buf_ struct buf message = BUF_INIT(WIRE_MAX);
	_cleanup_close_ int ours = -EBADF, theirs = -EBADF;
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_sys(err, "RUNTIME_ERROR", errno, "open a socket");
	ours = pair[0];
	theirs = pair[1];
	const int fds[] = {room->mounts_ns, room->users_ns, theirs};
	int r = plan_clerk(&room->ids, room->mounts_n > 0 ? room->mounts[0].path : "/", ++room->rooms->tags,
			   &message);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "serve the files of an isolated session");
	r = nursery_tell(room->rooms, &message, fds, ARRAY_SIZE(fds), err);
	if (r >= 0)
		room->clerk.socket = TAKE_FD(ours);
	return r;
}

int room_clerk_connect(struct room *room, int *ret_fd, struct err *err)
{
	struct loop *loop = room->rooms->execd->loop;
	_cleanup_close_ int ours = -EBADF, theirs = -EBADF;
	char byte = 0;
	struct iovec iov = {&byte, 1};
	int pair[2], r = -EPIPE;
	if (!room_is_ready(room) || room->killed)
		return err_set(err, ERR_GONE, "RUNTIME_ERROR", ESRCH, "the isolated session has ended");
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return err_sys(err, "RUNTIME_ERROR", errno, "open a socket");
	ours = pair[0];
	theirs = pair[1];
	/* One that has died is replaced once. */
	for (int attempt = 0; attempt < 2 && r == -EPIPE; attempt++) {
		if (attempt > 0)
			clerk_done(&room->clerk);
		if (room->clerk.socket < 0 && (r = clerk_start(room, err)) < 0)
			return r;
		r = message_send(room->clerk.socket, &iov, 1, &theirs, 1, MSG_DONTWAIT);
	}
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "reach the files of the isolated session");
	(void)loop_timer_set(loop, &room->clerk.idle, loop_now_ms(loop) + CLERK_IDLE_MS, clerk_idle);
	*ret_fd = TAKE_FD(ours);
	return 0;
}
