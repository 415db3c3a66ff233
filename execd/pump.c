/*
 * pump.c - pipes into output logs.
 *
 * A pipe without room is taken out of the loop rather than masked: EPOLLHUP
 * cannot be masked and would spin. One buffer serves all pumps, as they run on
 * the loop one after the other.
 */
#include "execd/pump.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>

static uint8_t buffer[PUMP_READ_MAX];

void pump_init(struct pump *p, const struct pump_ops *ops, enum output_stream stream)
{
	*p = (struct pump){.ops = ops, .stream = stream, .fd = -EBADF};
	p->io.fd = -EBADF;
}

void pump_close(struct pump *p)
{
	loop_io_del(&p->io);
	fd_close(&p->fd);
	p->draining = false;
	p->owed = 0;
}

int pump_take_fd(struct pump *p)
{
	loop_io_del(&p->io);
	int fd = TAKE_FD(p->fd);
	pump_close(p);
	return fd;
}

/*
 * A child that fills the pipe waits for us once a pipeful, and we for it: with
 * more room each goes on for longer. The kernel may refuse (a limit for each
 * user): then it stays as it is.
 */
static void pump_widen(struct pump *p)
{
	p->widened = true;
	(void)fcntl(p->fd, F_SETPIPE_SZ, PUMP_PIPE_BUSY);
}

static int pump_keep(struct pump *p, size_t n)
{
	size_t kept = p->budget ? (size_t)MIN((uint64_t)n, *p->budget) : n;
	int r = output_append(p->output, p->stream, buffer, kept);
	if (p->budget)
		*p->budget -= kept;
	return r < 0 ? r : kept < n ? -EDQUOT : 0;
}

/* One read. 1: data, 0: the end (closed), -EAGAIN: nothing there now. */
static int pump_read(struct pump *p, size_t max)
{
	ssize_t n;
	do
		n = read(p->fd, buffer, MIN(max, sizeof(buffer)));
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return -EAGAIN;
	if (n <= 0) {
		pump_close(p);
		return 0;
	}
	p->owed -= MIN(p->owed, (size_t)n);
	if (n == PUMP_READ_MAX && !p->widened)
		pump_widen(p);
	int r = p->output ? pump_keep(p, (size_t)n) : 0;
	if (r < 0 && p->ops->failed)
		p->ops->failed(p, r);
	return 1;
}

static void pump_ready(struct loop_io *io, uint32_t events)
{
	struct pump *p = container_of(io, struct pump, io);
	bool was_draining = p->draining;
	size_t room = p->draining || !p->output ? PUMP_READ_MAX : output_room(p->output);
	(void)events;
	if (room == 0) {
		(void)loop_io_set(&p->io, 0);
		return;
	}
	int r = pump_read(p, room);
	if (!pump_open(p) && p->ops->ended && r == 0)
		p->ops->ended(p);
	if (r == -EAGAIN)
		p->owed = 0;
	if (was_draining && p->owed == 0) {
		p->draining = false;
		p->ops->drained(p);
	}
}

int pump_start(struct pump *p, struct loop *loop, int fd, struct output *output)
{
	int r = loop_io_add(loop, &p->io, fd, EPOLLIN, pump_ready);
	if (r < 0)
		return r;
	p->fd = fd;
	p->output = output;
	return 0;
}

/* A pipe that cannot be watched is a pipe without a reader: it is closed. */
void pump_resume(struct pump *p)
{
	if (pump_open(p) && loop_io_set(&p->io, EPOLLIN) < 0)
		pump_close(p);
}

bool pump_drain(struct pump *p)
{
	int behind = 0;
	if (!pump_open(p))
		return true;
	if (ioctl(p->fd, FIONREAD, &behind) < 0)
		behind = 0;
	p->owed = (size_t)behind;
	p->draining = true;
	/* At most one turn's worth here, the loop brings the rest. */
	if (p->owed > 0 && p->owed <= PUMP_READ_MAX && pump_read(p, p->owed) == -EAGAIN)
		p->owed = 0;
	if (p->owed == 0)
		p->draining = false;
	else
		pump_resume(p);
	return p->owed == 0;
}
