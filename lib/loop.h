/*
 * loop.h - the event loop: one thread, epoll, timers, signals, deferred work.
 *
 * Everything in a program runs in callbacks of its one loop; nothing here may
 * be called from another thread except loop_post(). Each turn runs, in order:
 * ready descriptors, due timers, deferred calls, prepare hooks, then the wait.
 * A timer armed or a call deferred within its own phase runs in the next turn.
 *
 * Descriptors are level-triggered. A callback may remove any loop_io, also its
 * own; events already fetched for a removed one are not delivered. Memory that
 * a callback may still be standing in is freed through loop_defer().
 */
#pragma once

#include <stdbool.h>
#include <sys/signalfd.h>

#include "lib/list.h"
#include "lib/util.h"

struct loop;

/*
 * -errno on failure. loop_free takes NULL; descriptors must have been removed. It runs what is still
 * deferred, for that is how memory is freed, and lets go of the rest.
 */
int loop_new(struct loop **ret);
void loop_free(struct loop *loop);

/*
 * Runs until loop_stop(); returns its code, or -errno when waiting fails. The
 * turn in which it is stopped is finished first, deferred calls included.
 */
int loop_run(struct loop *loop);
void loop_stop(struct loop *loop, int code);

/* Monotonic milliseconds, taken once per turn. */
uint64_t loop_now_ms(const struct loop *loop);

/* ---- descriptors ---------------------------------------------------- */

struct loop_io;
/* events: the EPOLL* bits that are ready. */
typedef void loop_io_fn(struct loop_io *io, uint32_t events);

struct loop_io {
	struct loop *loop;
	loop_io_fn *fn;
	int fd; /* borrowed; -EBADF when not registered */
	uint32_t events;
};

/*
 * io is embedded in its owner and must stay put until loop_io_del(). With
 * interest 0 nothing is delivered, not even EPOLLHUP: a paused pipe whose
 * writer has gone costs nothing. Ask for EPOLLRDHUP or EPOLLHUP to hear of it.
 */
int loop_io_add(struct loop *loop, struct loop_io *io, int fd, uint32_t events, loop_io_fn *fn);
/* Changes the interest; no system call when it is the same. Needs no memory: it fails only by a bug. */
int loop_io_set(struct loop_io *io, uint32_t events);
/* Harmless when not registered. Call it before closing the fd. */
void loop_io_del(struct loop_io *io);

/* ---- timers --------------------------------------------------------- */

struct loop_timer;
typedef void loop_timer_fn(struct loop_timer *timer);

struct loop_timer {
	struct loop *loop;
	loop_timer_fn *fn;
	uint64_t due_ms; /* monotonic */
	size_t slot;	 /* heap index + 1; 0 when not armed */
};

/* One-shot. Arms, or re-arms when armed. */
int loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t due_ms, loop_timer_fn *fn);
void loop_timer_del(struct loop_timer *timer);
static inline bool loop_timer_armed(const struct loop_timer *timer)
{
	return timer->slot != 0;
}

/* ---- signals -------------------------------------------------------- */

struct loop_signal;
typedef void loop_signal_fn(struct loop_signal *sig, const struct signalfd_siginfo *info);

struct loop_signal {
	struct list link; /* zeroed, or linked while registered */
	loop_signal_fn *fn;
	int signo;
};

/* Blocks signo in this thread and delivers it here from then on. */
int loop_signal_add(struct loop *loop, struct loop_signal *sig, int signo, loop_signal_fn *fn);
/* Harmless when not registered. The signal stays blocked, so that a late one does not kill. */
void loop_signal_del(struct loop_signal *sig);

/* ---- deferred work -------------------------------------------------- */

struct loop_defer;
typedef void loop_defer_fn(struct loop_defer *d);

struct loop_defer {
	struct list link; /* zeroed, or linked while queued */
	loop_defer_fn *fn;
};

/* Runs fn once, after the callbacks of this turn. A no-op while already queued. */
void loop_defer(struct loop *loop, struct loop_defer *d, loop_defer_fn *fn);
void loop_defer_cancel(struct loop_defer *d);

/*
 * A prepare hook runs before every wait. It returns the longest time in
 * milliseconds the loop may wait (0: do not wait, -1: no opinion).
 */
struct loop_prepare;
typedef int loop_prepare_fn(struct loop_prepare *p);

struct loop_prepare {
	struct list link;
	loop_prepare_fn *fn;
};

void loop_prepare_add(struct loop *loop, struct loop_prepare *p, loop_prepare_fn *fn);
void loop_prepare_del(struct loop_prepare *p);

/* ---- other threads -------------------------------------------------- */

struct loop_post {
	struct loop_post *next;
	void (*fn)(struct loop_post *post);
};

/* The one call allowed from any thread: fn runs on the loop, in posting order. */
void loop_post(struct loop *loop, struct loop_post *post);
/* On the loop's thread: runs now what has been posted, for an owner that has joined its threads. */
void loop_post_flush(struct loop *loop);
