/*
 * feed.h - the pipe into a child's standard input: one writer at a time, under
 * the pipe's pressure.
 *
 * Embedded in its owner, whose memory is freed through loop_defer() after
 * feed_close(). Loop thread only.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "lib/loop.h"

struct feed_writer;

struct feed {
	struct loop_io io;
	int fd;	   /* owned, non-blocking; -EBADF when closed */
	bool made; /* there is, or was, a pipe */
	struct feed_writer *writer;
};

struct feed_writer {
	struct feed *feed; /* NULL: closed under it, or not attached */
	/* There is room again, or the feed has been closed. Not called from inside feed_write(). */
	void (*ready)(struct feed_writer *w);
};

/* Puts f into the closed state, without a pipe. */
void feed_init(struct feed *f);
/* Takes fd, a non-blocking pipe, on success only. */
int feed_open(struct feed *f, struct loop *loop, int fd);
static inline bool feed_is_open(const struct feed *f)
{
	return f->fd >= 0;
}
/* End of file for the reader. A writer is told. Harmless when closed. */
void feed_close(struct feed *f);

/* -EPIPE when closed, -EBUSY when there is a writer already. */
int feed_attach(struct feed *f, struct feed_writer *w, void (*ready)(struct feed_writer *w));
void feed_detach(struct feed_writer *w);
/* Bytes taken; fewer than n: ready() follows. -EPIPE: nobody reads any more, or the feed was closed. */
ssize_t feed_write(struct feed_writer *w, const void *data, size_t n);
