/*
 * pool.h - a few worker threads for what can block (tree walks, fsync, runtimes).
 *
 * A job carries copies of all it needs: workers touch no shared object. run()
 * is called on a worker, then done() on the loop. Jobs start in order of
 * submission; at most queue_max wait, one more is -EAGAIN. Threads are started
 * on first use.
 */
#pragma once

#include "lib/loop.h"

struct pool;

struct pool_job {
	struct list link;
	struct loop_post post;
	struct pool *pool;
	void (*run)(struct pool_job *job);  /* worker thread */
	void (*done)(struct pool_job *job); /* loop thread; may free the job */
};

int pool_new(struct loop *loop, unsigned threads_max, size_t queue_max, struct pool **ret);
/*
 * Waits for running jobs; every job has had its done() when this returns. Jobs
 * still queued get done() without run(), and pool_stopping() is true. Call it
 * on the loop's thread, before loop_free(). After pool_stop() there are no workers,
 * and pool_submit() refuses.
 */
void pool_stop(struct pool *pool);
void pool_free(struct pool *pool);
bool pool_stopping(const struct pool *pool);

/* -EAGAIN when queue_max jobs wait, or when no thread can be had; -ESHUTDOWN when stopping. */
int pool_submit(struct pool *pool, struct pool_job *job);
