/* The pool: order, limits, and the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>
#include <pthread.h>
#include <signal.h>

#include "lib/pool.h"

static struct loop *loop;
static struct pool *pool;
static pthread_t loop_thread;

/* A door that jobs wait at until the test opens it. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool open;
	int waiting;
} door = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void door_close(void)
{
	door.open = false;
	door.waiting = 0;
}

static void door_open(void)
{
	pthread_mutex_lock(&door.lock);
	door.open = true;
	pthread_cond_broadcast(&door.changed);
	pthread_mutex_unlock(&door.lock);
}

static void door_await(int n)
{
	pthread_mutex_lock(&door.lock);
	while (door.waiting < n)
		pthread_cond_wait(&door.changed, &door.lock);
	pthread_mutex_unlock(&door.lock);
}

static void door_pass(void)
{
	pthread_mutex_lock(&door.lock);
	door.waiting++;
	pthread_cond_broadcast(&door.changed);
	while (!door.open)
		pthread_cond_wait(&door.changed, &door.lock);
	pthread_mutex_unlock(&door.lock);
}

struct job {
	struct pool_job job;
	int n;
	bool ran, done, was_stopping;
};

#define JOBS 1000

static struct job jobs[JOBS];
static int done_n, done_order[JOBS], stop_at;

static int setup(void **state)
{
	(void)state;
	memset(jobs, 0, sizeof(jobs));
	done_n = 0;
	stop_at = -1;
	loop_thread = pthread_self();
	door_close();
	return loop_new(&loop);
}

static int teardown(void **state)
{
	(void)state;
	pool_free(pool);
	pool = NULL;
	loop_free(loop);
	return 0;
}

static void run(struct pool_job *job)
{
	struct job *j = container_of(job, struct job, job);
	sigset_t mask;

	assert_false(pthread_equal(pthread_self(), loop_thread));
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	assert_true(sigismember(&mask, SIGTERM));
	assert_false(j->ran);
	j->ran = true;
}

static void run_at_door(struct pool_job *job)
{
	door_pass();
	run(job);
}

static void done(struct pool_job *job)
{
	struct job *j = container_of(job, struct job, job);

	assert_true(pthread_equal(pthread_self(), loop_thread));
	assert_false(j->done);
	j->done = true;
	j->was_stopping = pool_stopping(job->pool);
	done_order[done_n++] = j->n;
	if (done_n == stop_at)
		loop_stop(loop, 0);
}

static int submit(int n, void (*fn)(struct pool_job *))
{
	jobs[n] = (struct job){.n = n, .job.run = fn, .job.done = done};
	return pool_submit(pool, &jobs[n].job);
}

static void test_one_thread_keeps_order(void **state)
{
	(void)state;
	assert_int_equal(pool_new(loop, 1, JOBS, &pool), 0);
	for (int i = 0; i < JOBS; i++)
		assert_int_equal(submit(i, run), 0);
	stop_at = JOBS;
	assert_int_equal(loop_run(loop), 0);
	for (int i = 0; i < JOBS; i++) {
		assert_int_equal(done_order[i], i);
		assert_true(jobs[i].ran);
	}
}

static void test_queue_limit(void **state)
{
	(void)state;
	assert_int_equal(pool_new(loop, 2, 3, &pool), 0);
	/* Two run, three wait, whether or not the two have come to run yet. */
	for (int i = 0; i < 5; i++)
		assert_int_equal(submit(i, run_at_door), 0);
	assert_int_equal(submit(5, run_at_door), -EAGAIN);
	door_await(2);
	assert_int_equal(submit(5, run_at_door), -EAGAIN);
	door_open();
	stop_at = 5;
	assert_int_equal(loop_run(loop), 0);
	assert_false(jobs[5].done);
	/* With room again there is service again. */
	assert_int_equal(submit(6, run), 0);
	stop_at = 6;
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(done_order[5], 6);
}

static void test_threads_run_at_once(void **state)
{
	(void)state;
	assert_int_equal(pool_new(loop, 4, 0, &pool), 0);
	for (int i = 0; i < 4; i++)
		assert_int_equal(submit(i, run_at_door), 0);
	assert_int_equal(submit(4, run_at_door), -EAGAIN);
	/* All four stand at the door together. */
	door_await(4);
	door_open();
	stop_at = 4;
	assert_int_equal(loop_run(loop), 0);
}

static void done_submits(struct pool_job *job)
{
	int n = container_of(job, struct job, job)->n;

	done(job);
	if (n + 1 < JOBS) {
		jobs[n + 1] = (struct job){.n = n + 1, .job.run = run, .job.done = done_submits};
		assert_int_equal(pool_submit(pool, &jobs[n + 1].job), 0);
	}
}

/* The thread that has just finished is there for the next job, though nothing may wait. */
static void test_done_submits_the_next(void **state)
{
	(void)state;
	assert_int_equal(pool_new(loop, 1, 0, &pool), 0);
	jobs[0] = (struct job){.n = 0, .job.run = run, .job.done = done_submits};
	assert_int_equal(pool_submit(pool, &jobs[0].job), 0);
	stop_at = JOBS;
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(done_order[JOBS - 1], JOBS - 1);
}

static void *open_door(void *arg)
{
	door_open();
	return arg;
}

static void done_too_late(struct pool_job *job)
{
	static struct job more;

	done(job);
	more.job.run = run;
	more.job.done = done;
	assert_int_equal(pool_submit(job->pool, &more.job), -ESHUTDOWN);
}

/* At the end what runs is waited for, what waits is given back, and each job is done once. */
static void test_free_gives_all_back(void **state)
{
	pthread_t opener;

	(void)state;
	assert_int_equal(pool_new(loop, 1, 10, &pool), 0);
	assert_int_equal(submit(0, run_at_door), 0);
	for (int i = 1; i < 10; i++)
		assert_int_equal(submit(i, run), 0);
	jobs[9].job.done = done_too_late;
	door_await(1);
	assert_int_equal(pthread_create(&opener, NULL, open_door, NULL), 0);
	pool_free(pool);
	pool = NULL;
	assert_int_equal(pthread_join(opener, NULL), 0);
	assert_int_equal(done_n, 10);
	assert_true(jobs[0].ran);
	for (int i = 0; i < 10; i++) {
		assert_int_equal(done_order[i], i);
		assert_true(jobs[i].was_stopping);
	}
}

static void test_unused(void **state)
{
	(void)state;
	assert_int_equal(pool_new(loop, 0, 1, &pool), -EINVAL);
	assert_int_equal(pool_new(loop, 4, 1, &pool), 0);
	assert_false(pool_stopping(pool));
	pool_free(NULL);
}

#define pool_test(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		pool_test(test_one_thread_keeps_order), pool_test(test_queue_limit),
		pool_test(test_threads_run_at_once),	pool_test(test_done_submits_the_next),
		pool_test(test_free_gives_all_back),	pool_test(test_unused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
