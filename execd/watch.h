/*
 * watch.h - what changes below a directory, told as it happens.
 *
 * Source: inotify(7). A recursive watch has one kernel watch a directory; new
 * directories are watched as they appear and what is already in them by then
 * is told as created, once. A rename within the tree is one event. After
 * `overflow` the watcher must look for itself: events were lost, because the
 * kernel's queue was full, the watcher was slow (WATCH_QUEUE_MAX), or the limit
 * of kernel watches was reached (then the event has a message). When the
 * directory itself goes (deleted, moved, unmounted) the last event is `deleted`
 * with its path. Links are not followed; changes by other machines of a network
 * file system and writes through mmap(2) are not seen by inotify.
 *
 * Loop only; the directories are walked by a worker.
 */
#pragma once

#include <stdbool.h>

#include "lib/buf.h"
#include "lib/err.h"
#include "lib/loop.h"
#include "lib/pool.h"

#define WATCH_DIRS_MAX	(1U << 18)   /* directories in one tree */
#define WATCH_QUEUE_MAX (256U << 10) /* bytes of events that wait for one watcher */
#define WATCH_MOVE_MS	20	     /* how long the first half of a rename waits for the second */

struct watch;

struct watch_spec {
	const char *path; /* canonical */
	bool recursive;
	const char *pattern; /* glob.h, by name or by path below `path`; NULL: everything */
	/* Once: all directories are watched (err NULL), or it has failed; close it then. Never from
	 * watch_open(). */
	void (*ready)(void *owner, const struct err *err);
	/* There is something to read, or it has ended. */
	void (*wake)(void *owner);
	void *owner;
};

int watch_open(struct loop *loop, struct pool *pool, const struct watch_spec *spec, struct watch **ret,
	       struct err *err);
void watch_close(struct watch *w);

/*
 * Appends up to room bytes of events, each "data: {...}" and an empty line.
 * 1: that was the last of it; 0: there is more, now or after wake().
 */
int watch_next(struct watch *w, struct buf *out, size_t room);
