/*
 * pump.h - one pipe of a child into an output log, under the log's pressure.
 *
 * Reads when the log has room, at most PUMP_READ_MAX bytes a turn, so that no
 * child starves another. Loop thread only. The pump is embedded in its owner,
 * who stays put until pump_close(); its memory may then be freed through
 * loop_defer() only, as a callback may stand in it.
 */
#pragma once

#include <stdbool.h>

#include "execd/output.h"
#include "lib/loop.h"

#define PUMP_READ_MAX  65536
#define PUMP_PIPE_BUSY (512 * 1024) /* the size of a pipe that has been found full */

struct pump;

struct pump_ops {
	/* All that was in the pipe at pump_drain() has been read. */
	void (*drained)(struct pump *p);
	/* No process holds the other end any more; the descriptor is closed. NULL: nobody cares. */
	void (*ended)(struct pump *p);
	/* Bytes could not be kept (-ENOMEM) or were over the budget (-EDQUOT). NULL: nobody cares. */
	void (*failed)(struct pump *p, int r);
};

struct pump {
	struct loop_io io;
	const struct pump_ops *ops;
	struct output *output; /* borrowed; NULL: what arrives is thrown away */
	enum output_stream stream;
	uint64_t *budget; /* borrowed: bytes that may still be kept, of several pumps together; NULL: any
			     number */
	int fd;		  /* owned; -EBADF once closed */
	bool widened;	  /* or tried to be */
	bool draining;
	size_t owed; /* while draining: bytes that are still to be read whatever the room */
};

/* Puts p into the closed state. */
void pump_init(struct pump *p, const struct pump_ops *ops, enum output_stream stream);
/* Starts reading. Takes fd (non-blocking) on success only. */
int pump_start(struct pump *p, struct loop *loop, int fd, struct output *output);
/* Harmless when closed. */
void pump_close(struct pump *p);
static inline bool pump_open(const struct pump *p)
{
	return p->fd >= 0;
}

/* The log has room again (output_set_on_room), or another log was put in. */
void pump_resume(struct pump *p);

/*
 * Reads what is in the pipe now, whatever the room: it is bounded by the pipe.
 * True when that is done, or the pipe at its end; otherwise drained() follows.
 */
bool pump_drain(struct pump *p);

/* Hands the descriptor over and closes the pump. */
int pump_take_fd(struct pump *p);
