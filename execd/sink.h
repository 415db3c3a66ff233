/*
 * sink.h - pipes whose command has ended, emptied into nothing.
 *
 * A server that a command has left running may hold the command's output open,
 * and is not to die of SIGPIPE. Loop thread only.
 */
#pragma once

#include "lib/list.h"
#include "lib/loop.h"

#define SINKS_MAX 256 /* over it the oldest is closed */

/* Embedded in its owner. */
struct sinks {
	struct loop *loop;
	struct list live;
	size_t n;
	struct list dead; /* freed after the callbacks that may still stand in them */
	struct loop_defer tidy;
};

void sinks_init(struct sinks *ss, struct loop *loop);
/* Closes them all. */
void sinks_done(struct sinks *ss);
/* Consumes fd, to the end of file. Without memory the pipe is just closed. */
void sinks_add(struct sinks *ss, int fd);
