/* The sweeper against a clock the test sets: what is due goes, in order, and the next wait is right. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/clock.h"
#include "lib/log.h"
#include "sandboxd/sweeper.h"

static char path[64];
static struct loop *loop;
static struct store *store;
static struct sweeper *sweeper;

static struct {
	char ids[128][8];
	size_t n;
	bool refuse;
	bool stop;
} seen;

static int on_due(void *arg, const char *id, enum sandbox_state state, uint64_t now_ms)
{
	(void)arg;
	(void)now_ms;
	assert_int_equal(state, SANDBOX_RUNNING);
	assert_true(seen.n < ARRAY_SIZE(seen.ids));
	(void)snprintf(seen.ids[seen.n++], sizeof(seen.ids[0]), "%s", id);
	if (seen.stop)
		loop_stop(loop, 0);
	return seen.refuse ? -EIO : store_forget(store, id, NULL);
}

static void remove_files(void)
{
	static const char *const ends[] = {"", "-wal", "-shm"};
	char file[80];
	for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
		(void)snprintf(file, sizeof(file), "%s%s", path, ends[i]);
		(void)unlink(file);
	}
}

static int set_up(void **state)
{
	struct err err;
	(void)state;
	(void)snprintf(path, sizeof(path), "/tmp/test_sweeper.%d.db", getpid());
	remove_files();
	memset(&seen, 0, sizeof(seen));
	if (loop_new(&loop) < 0 || store_open(path, &store, &err) < 0)
		return -1;
	return sweeper_new(loop, store, on_due, NULL, &sweeper);
}

static int tear_down(void **state)
{
	(void)state;
	sweeper_free(sweeper);
	store_close(store);
	loop_free(loop);
	remove_files();
	return 0;
}

static void add(const char *id, uint64_t deadline_ms)
{
	struct err err;
	struct record row = {
		.id = id,
		.state = SANDBOX_RUNNING,
		.reason = "r",
		.message = "m",
		.created_ms = 1,
		.deadline_ms = deadline_ms,
		.image = "i",
		.entrypoint = "[]",
		.runtime = "t",
	};
	assert_int_equal(store_insert(store, &row, &err), 0);
}

static void test_order(void **state)
{
	(void)state;
	assert_int_equal(sweeper_run(sweeper, 1000), 0); /* nothing to wait for */
	add("c", 3000);
	add("a", 1000);
	add("b", 2000);
	add("never", 0);
	assert_int_equal(sweeper_run(sweeper, 999), 1000);
	assert_int_equal(seen.n, 0);
	assert_int_equal(sweeper_run(sweeper, 2000), 3000);
	assert_int_equal(seen.n, 2);
	assert_string_equal(seen.ids[0], "a");
	assert_string_equal(seen.ids[1], "b");
	assert_int_equal(sweeper_run(sweeper, 9000), 0);
	assert_int_equal(seen.n, 3);
}

/* A crowd does not keep the loop from its other work. */
static void test_batches(void **state)
{
	char id[8];
	(void)state;
	for (int i = 0; i < SWEEPER_BATCH + 5; i++) {
		(void)snprintf(id, sizeof(id), "s%d", i);
		add(id, 100);
	}
	assert_int_equal(sweeper_run(sweeper, 500), 500);
	assert_int_equal(seen.n, SWEEPER_BATCH);
	assert_int_equal(sweeper_run(sweeper, 500), 0);
	assert_int_equal(seen.n, SWEEPER_BATCH + 5);
}

static void test_retry(void **state)
{
	(void)state;
	add("a", 100);
	seen.refuse = true;
	assert_int_equal(sweeper_run(sweeper, 500), 500 + SWEEPER_RETRY_MS);
	assert_int_equal(seen.n, 1);
	seen.refuse = false;
	assert_int_equal(sweeper_run(sweeper, 500 + SWEEPER_RETRY_MS), 0);
}

/* The real timer, on a deadline that comes and on one that has passed already. */
static void test_timer(void **state)
{
	(void)state;
	seen.stop = true;
	add("past", 5);
	sweeper_kick(sweeper);
	assert_int_equal(loop_run(loop), 0);
	assert_string_equal(seen.ids[0], "past");
	add("soon", clock_real_ms() + 30);
	sweeper_kick(sweeper);
	assert_int_equal(loop_run(loop), 0);
	assert_string_equal(seen.ids[1], "soon");
	assert_int_equal(seen.n, 2);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {TEST(test_order), TEST(test_batches), TEST(test_retry),
					   TEST(test_timer)};

	log_max = LOG_ERROR;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
