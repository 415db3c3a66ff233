/* Executions and their registry. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "execd/run.h"
#include "lib/err.h"
#include "proto/json.h"

static struct loop *loop;

static struct runs *registry(const struct runs_limits *limits)
{
	struct runs *runs;

	assert_int_equal(runs_new(loop, limits, &runs), 0);
	return runs;
}

static struct run *start(struct runs *runs, const char *content)
{
	struct run *run;

	assert_int_equal(run_new(runs, content, NULL, NULL, &run, NULL), 0);
	run_started(run);
	return run;
}

static void finish(struct run *run)
{
	struct run_end end = {.reason = RUN_EXITED};

	run_ended(run, &end);
}

static void test_life(void **state)
{
	struct runs *runs = registry(NULL);
	struct run *run, *other;

	(void)state;
	assert_int_equal(run_new(runs, "echo hi", NULL, NULL, &run, NULL), 0);
	assert_int_equal(run->state, RUN_QUEUED);
	assert_true(run->created_ms > 0);
	assert_int_equal(run->started_ms, 0);
	assert_string_equal(run->content, "echo hi");
	assert_ptr_equal(runs_get(runs, run->id), run);
	assert_null(runs_get(runs, "nobody"));
	other = start(runs, "true");
	assert_string_not_equal(other->id, run->id);

	run_started(run);
	assert_int_equal(run->state, RUN_RUNNING);
	assert_true(run->started_ms >= run->created_ms);
	finish(run);
	assert_int_equal(run->state, RUN_ENDED);
	assert_true(output_closed(run->output));
	assert_true(run->ended_mono_ms >= run->started_mono_ms);
	assert_ptr_equal(runs_get(runs, run->id), run);
	run_unref(run);

	/* The registry may go before those who still show a run. */
	runs_free(runs);
	finish(other);
	assert_int_equal(other->state, RUN_ENDED);
	run_unref(other);
}

static void test_live_limit(void **state)
{
	struct runs *runs = registry(&(struct runs_limits){.live_max = 2});
	struct run *a = start(runs, "a"), *b = start(runs, "b"), *c;
	struct err err = {};

	(void)state;
	assert_int_equal(run_new(runs, "c", NULL, NULL, &c, &err), -EAGAIN);
	assert_int_equal(err.kind, ERR_LIMIT);
	finish(a);
	assert_int_equal(run_new(runs, "c", NULL, NULL, &c, &err), 0);
	finish(b);
	finish(c);
	run_unref(a);
	run_unref(b);
	run_unref(c);
	runs_free(runs);
}

static void test_history_is_bounded_by_count(void **state)
{
	struct runs *runs = registry(&(struct runs_limits){.ended_max = 3});
	struct run *live = start(runs, "live"), *kept = start(runs, "kept");
	char ids[5][64];

	(void)state;
	finish(kept);
	for (int i = 0; i < 5; i++) {
		struct run *run = start(runs, "x");

		(void)snprintf(ids[i], sizeof(ids[i]), "%s", run->id);
		finish(run);
		run_unref(run);
	}
	assert_null(runs_get(runs, kept->id));
	assert_null(runs_get(runs, ids[1]));
	for (int i = 2; i < 5; i++)
		assert_non_null(runs_get(runs, ids[i]));
	/* Evicted is not gone: whoever shows it still can. */
	assert_string_equal(kept->content, "kept");
	assert_ptr_equal(runs_get(runs, live->id), live);
	finish(live);
	run_unref(live);
	run_unref(kept);
	runs_free(runs);
}

static void stop_when_gone(struct loop_defer *d)
{
	(void)d;
	loop_stop(loop, 0);
}

static void give_up(struct loop_timer *timer)
{
	(void)timer;
	loop_stop(loop, -ETIMEDOUT);
}

static struct runs *aged;
static char aged_id[64];
static struct loop_defer stop;

static int look(struct loop_prepare *p)
{
	(void)p;
	if (!runs_get(aged, aged_id))
		loop_defer(loop, &stop, stop_when_gone);
	return -1;
}

static void test_history_is_bounded_by_age(void **state)
{
	struct loop_prepare prepare = {.fn = look};
	struct loop_timer guard = {};
	struct run *run;

	(void)state;
	aged = registry(&(struct runs_limits){.ended_age_ms = 20});
	run = start(aged, "x");
	(void)snprintf(aged_id, sizeof(aged_id), "%s", run->id);
	finish(run);
	run_unref(run);
	assert_non_null(runs_get(aged, aged_id));
	/* Ends when the timer of the registry has taken it out. */
	loop_prepare_add(loop, &prepare, look);
	assert_int_equal(loop_timer_set(loop, &guard, loop_now_ms(loop) + 30000, give_up), 0);
	assert_int_equal(loop_run(loop), 0);
	loop_timer_del(&guard);
	loop_prepare_del(&prepare);
	assert_null(runs_get(aged, aged_id));
	runs_free(aged);
}

static void test_outputs_of_the_past_are_bounded(void **state)
{
	struct runs *runs =
		registry(&(struct runs_limits){.ended_memory_max = 100000, .ended_spill_max = 300000});
	static char data[100000];
	struct run *runs_kept[20];
	char *content = malloc(5000);
	size_t memory = 0, spill = 0;

	(void)state;
	memset(content, 'c', 4999);
	content[4999] = '\0';
	memset(data, 'x', sizeof(data));
	for (size_t i = 0; i < ARRAY_SIZE(runs_kept); i++) {
		struct run *run = start(runs, content);

		/* Ten small ones, then ten that reach the disk. */
		for (size_t k = 0; k < (i < 10 ? 1 : 10); k++)
			assert_int_equal(
				output_append(run->output, OUTPUT_STDOUT, data, i < 10 ? 30000 : 40000), 0);
		finish(run);
		runs_kept[i] = run;
	}
	for (size_t i = 0; i < ARRAY_SIZE(runs_kept) - 1; i++) {
		memory += output_end(runs_kept[i]->output) - output_begin(runs_kept[i]->output);
		spill += output_spilled(runs_kept[i]->output);
	}
	assert_true(memory < 100000);
	assert_true(spill <= 300000);
	/* The newest has all of its output, the oldest still its record and the beginning of its command. */
	assert_int_equal(output_begin(runs_kept[19]->output), 0);
	assert_int_equal(output_begin(runs_kept[0]->output), 30000);
	assert_int_equal(strlen(runs_kept[0]->content), RUN_CONTENT_MIN);
	assert_ptr_equal(runs_get(runs, runs_kept[0]->id), runs_kept[0]);
	for (size_t i = 0; i < ARRAY_SIZE(runs_kept); i++)
		run_unref(runs_kept[i]);
	free(content);
	runs_free(runs);
}

static void on_wake(struct output_reader *r)
{
	(void)r;
}

static void test_an_output_that_is_read_is_kept(void **state)
{
	struct runs *runs = registry(&(struct runs_limits){.ended_memory_max = 1000});
	struct run *read = start(runs, "read"), *later = start(runs, "later");
	struct output_reader r = {};

	(void)state;
	assert_int_equal(output_append(read->output, OUTPUT_STDOUT, "hello", 5), 0);
	output_attach(read->output, &r, 0, on_wake);
	finish(read);
	finish(later);
	assert_int_equal(output_begin(read->output), 0);
	output_detach(&r);
	run_unref(read);
	run_unref(later);
	runs_free(runs);
}

static struct run_watch watch, unwatched;
static unsigned ended;

static void on_ended(struct run_watch *w)
{
	assert_ptr_equal(w, &watch);
	ended++;
}

static int on_interrupt(struct run *run)
{
	ended += 100;
	return run->state == RUN_RUNNING ? 7 : -EINVAL;
}

static void test_watch_and_interrupt(void **state)
{
	static const struct run_ops ops = {.interrupt = on_interrupt};
	struct runs *runs = registry(NULL);
	struct run_end end = {.reason = RUN_SIGNALLED, .exit_code = -1, .signo = SIGTERM};
	struct run *run;

	(void)state;
	ended = 0;
	assert_int_equal(run_new(runs, "x", &ops, &ended, &run, NULL), 0);
	run_started(run);
	run_watch(run, &watch, on_ended);
	run_watch(run, &unwatched, on_ended);
	run_unwatch(&unwatched);
	assert_int_equal(run_interrupt(run), 7);
	assert_int_equal(ended, 100);
	run_ended(run, &end);
	assert_int_equal(ended, 101);
	assert_null(run->owner);
	assert_int_equal(run_interrupt(run), -ESRCH);
	run_unref(run);
	runs_free(runs);
}

static void test_end_record(void **state)
{
	struct runs *runs = registry(NULL);
	struct run_end end = {.reason = RUN_TIMEOUT, .exit_code = -1, .signo = SIGKILL};
	struct run *run = start(runs, "x");
	struct buf text = BUF_INIT(4096);
	struct jw w = JW_INIT(&text);

	(void)state;
	end.usage.ru_utime = (struct timeval){.tv_sec = 1, .tv_usec = 500000};
	end.usage.ru_stime = (struct timeval){.tv_usec = 20000};
	end.usage.ru_maxrss = 4321;
	end.processes_killed = 2;
	run_ended(run, &end);
	run_end_json(run, &w);
	assert_string_equal(buf_cstr(&text),
			    "{\"reason\":\"timeout\",\"signal\":\"SIGKILL\",\"user_cpu_ms\":1500,"
			    "\"sys_cpu_ms\":20,\"max_rss_kib\":4321,\"processes_killed\":2}");
	buf_done(&text);
	run_unref(run);
	runs_free(runs);
}

/* Newest first, whatever ends or is forgotten meanwhile. */
static void test_list(void **state)
{
	struct runs_limits limits = {.ended_max = 1};
	struct runs *runs = registry(&limits);
	struct run_end end[2] = {{.reason = RUN_EXITED}, {.reason = RUN_EXITED}};
	struct run *run[3] = {start(runs, "a"), start(runs, "b"), start(runs, "c")};

	(void)state;
	assert_ptr_equal(runs_before(runs, UINT64_MAX), run[2]);
	assert_ptr_equal(runs_before(runs, run[2]->number), run[1]);
	assert_ptr_equal(runs_before(runs, run[1]->number), run[0]);
	assert_null(runs_before(runs, run[0]->number));
	assert_ptr_equal(runs_before(runs, run[2]->number), run[1]);
	run_ended(run[1], &end[0]);
	run_ended(run[0], &end[1]); /* one too many: b is forgotten */
	assert_ptr_equal(runs_before(runs, run[2]->number), run[0]);
	for (size_t i = 0; i < 2; i++)
		run_unref(run[i]);
	end[0] = (struct run_end){.reason = RUN_EXITED};
	run_ended(run[2], &end[0]);
	assert_ptr_equal(runs_before(runs, UINT64_MAX), run[2]);
	assert_null(runs_before(runs, run[2]->number));
	run_unref(run[2]);
	runs_free(runs);
}

static int setup(void **state)
{
	(void)state;
	return loop_new(&loop);
}

static int teardown(void **state)
{
	(void)state;
	loop_free(loop);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_life),
		cmocka_unit_test(test_live_limit),
		cmocka_unit_test(test_history_is_bounded_by_count),
		cmocka_unit_test(test_history_is_bounded_by_age),
		cmocka_unit_test(test_outputs_of_the_past_are_bounded),
		cmocka_unit_test(test_an_output_that_is_read_is_kept),
		cmocka_unit_test(test_watch_and_interrupt),
		cmocka_unit_test(test_end_record),
		cmocka_unit_test(test_list),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
