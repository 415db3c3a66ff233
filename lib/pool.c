/*
 * pool.c - worker threads.
 *
 * `lock` guards the queue of waiting jobs and the counts; a job that was taken
 * belongs to its worker, then, through loop_post(), to the loop again. Threads
 * live until pool_free(): an idle one costs a stack that nobody touches.
 */
#include "lib/pool.h"

#include <pthread.h>
#include <signal.h>

/* Address space; what is not touched costs nothing. */
#define STACK_SIZE (1024UL * 1024)

struct pool {
	struct loop *loop;
	size_t queue_max;

	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct list queue;
	size_t queued;
	unsigned idle; /* threads that wait and are not yet promised a job */
	bool stopping;

	/* The loop's own. */
	unsigned threads_max, threads_n;
	pthread_t threads[];
};

static void on_done(struct loop_post *post)
{
	struct pool_job *job = container_of(post, struct pool_job, post);

	job->done(job);
}

static void *worker(void *arg)
{
	struct pool *pool = arg;

	(void)pthread_mutex_lock(&pool->lock);
	for (;;) {
		struct pool_job *job;

		while (list_empty(&pool->queue) && !pool->stopping)
			(void)pthread_cond_wait(&pool->wake, &pool->lock);
		if (pool->stopping)
			break;
		job = list_entry(pool->queue.next, struct pool_job, link);
		list_del(&job->link);
		pool->queued--;
		pool->idle--;
		(void)pthread_mutex_unlock(&pool->lock);

		job->run(job);
		/* Counted before the job is given back, so that what done() submits finds this thread. */
		(void)pthread_mutex_lock(&pool->lock);
		pool->idle++;
		(void)pthread_mutex_unlock(&pool->lock);
		loop_post(pool->loop, &job->post);
		(void)pthread_mutex_lock(&pool->lock);
	}
	(void)pthread_mutex_unlock(&pool->lock);
	return NULL;
}

/*
 * The C library makes threads with clone3(2) and does without it only where that is ENOSYS; the older filters
 * of container engines answer EPERM to every call that they do not know, and there would be no threads. In a
 * static program this stands in for the library's own, which then uses clone(2).
 */
struct clone_args;
int __clone3(struct clone_args *args, size_t size, int (*fn)(void *),
	     void *arg);							 /* NOLINT: its name for it */
int __clone3(struct clone_args *args, size_t size, int (*fn)(void *), void *arg) /* NOLINT */
{
	(void)args, (void)size, (void)fn, (void)arg;
	errno = ENOSYS;
	return -1;
}

/* Signals are the loop's: workers start with all of them blocked. */
static int start_thread(struct pool *pool)
{
	sigset_t all, before;
	pthread_attr_t attr;
	int r = pthread_attr_init(&attr);

	if (r != 0)
		return -r;
	(void)pthread_attr_setstacksize(&attr, STACK_SIZE);
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&pool->threads[pool->threads_n], &attr, worker, pool);
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
	(void)pthread_attr_destroy(&attr);
	if (r == 0)
		pool->threads_n++;
	return -r;
}

int pool_new(struct loop *loop, unsigned threads_max, size_t queue_max, struct pool **ret)
{
	struct pool *pool;

	if (threads_max == 0)
		return -EINVAL;
	pool = calloc(1, sizeof(*pool) + threads_max * sizeof(pool->threads[0]));
	if (!pool)
		return -ENOMEM;
	pool->loop = loop;
	pool->threads_max = threads_max;
	pool->queue_max = queue_max;
	(void)pthread_mutex_init(&pool->lock, NULL);
	(void)pthread_cond_init(&pool->wake, NULL);
	list_init(&pool->queue);
	*ret = pool;
	return 0;
}

bool pool_stopping(const struct pool *pool)
{
	return pool->stopping;
}

int pool_submit(struct pool *pool, struct pool_job *job)
{
	int r = 0;

	(void)pthread_mutex_lock(&pool->lock);
	if (!pool->stopping && pool->queued >= pool->idle && pool->threads_n < pool->threads_max) {
		r = start_thread(pool);
		if (r == 0)
			pool->idle++;
	}
	/* An idle thread has as good as taken one of those queued. */
	if (pool->stopping)
		r = -ESHUTDOWN;
	else if (pool->threads_n == 0 || pool->queued >= pool->idle + pool->queue_max)
		r = -EAGAIN;
	else
		r = 0;
	if (r == 0) {
		job->pool = pool;
		job->post.fn = on_done;
		list_add_tail(&pool->queue, &job->link);
		pool->queued++;
		(void)pthread_cond_signal(&pool->wake);
	}
	(void)pthread_mutex_unlock(&pool->lock);
	return r;
}

void pool_stop(struct pool *pool)
{
	if (!pool || pool->stopping)
		return;
	(void)pthread_mutex_lock(&pool->lock);
	pool->stopping = true;
	(void)pthread_cond_broadcast(&pool->wake);
	(void)pthread_mutex_unlock(&pool->lock);
	for (unsigned i = 0; i < pool->threads_n; i++)
		(void)pthread_join(pool->threads[i], NULL);

	/* Nobody else is left: first what has run, then what never will. */
	loop_post_flush(pool->loop);
	while (!list_empty(&pool->queue)) {
		struct pool_job *job = list_entry(pool->queue.next, struct pool_job, link);

		list_del(&job->link);
		job->done(job);
	}
}

void pool_free(struct pool *pool)
{
	if (!pool)
		return;
	pool_stop(pool);
	(void)pthread_cond_destroy(&pool->wake);
	(void)pthread_mutex_destroy(&pool->lock);
	free(pool);
}
