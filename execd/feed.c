/*
 * feed.c - bytes into pipes. The pipe is in the loop from its opening on,
 * without interest until a writer waits for room.
 */
#include "execd/feed.h"

#include <sys/epoll.h>

#include "lib/util.h"

void feed_init(struct feed *f)
{
	*f = (struct feed){.fd = -EBADF};
	f->io.fd = -EBADF;
}

static void feed_ready(struct loop_io *io, uint32_t events)
{
	struct feed *f = container_of(io, struct feed, io);
	(void)events;
	(void)loop_io_set(&f->io, 0);
	if (f->writer)
		f->writer->ready(f->writer);
}

int feed_open(struct feed *f, struct loop *loop, int fd)
{
	int r = loop_io_add(loop, &f->io, fd, 0, feed_ready);
	if (r < 0)
		return r;
	f->fd = fd;
	f->made = true;
	return 0;
}

void feed_close(struct feed *f)
{
	struct feed_writer *w = TAKE_PTR(f->writer);
	loop_io_del(&f->io);
	fd_close(&f->fd);
	if (!w)
		return;
	w->feed = NULL;
	w->ready(w);
}

int feed_attach(struct feed *f, struct feed_writer *w, void (*ready)(struct feed_writer *w))
{
	if (!feed_is_open(f))
		return -EPIPE;
	if (f->writer)
		return -EBUSY;
	f->writer = w;
	*w = (struct feed_writer){.feed = f, .ready = ready};
	return 0;
}

void feed_detach(struct feed_writer *w)
{
	if (!w->feed)
		return;
	(void)loop_io_set(&w->feed->io, 0);
	w->feed->writer = NULL;
	w->feed = NULL;
}

ssize_t feed_write(struct feed_writer *w, const void *data, size_t n)
{
	const uint8_t *p = data;
	size_t done = 0;
	while (w->feed && done < n) {
		ssize_t r = write(w->feed->fd, p + done, n - done);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 && errno != EAGAIN)
			return -errno;
		if (r < 0) {
			r = loop_io_set(&w->feed->io, EPOLLOUT);
			return r < 0 ? r : (ssize_t)done;
		}
		done += (size_t)r;
	}
	return w->feed ? (ssize_t)done : -EPIPE;
}
