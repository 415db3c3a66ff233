/* The output log against a plain array of everything ever written. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/resource.h>

#include <cmocka.h>

#include "execd/output.h"

#define MODEL_MAX (4 << 20)

static struct {
	uint8_t bytes[MODEL_MAX];
	uint8_t streams[MODEL_MAX];
	uint64_t stream_offsets[MODEL_MAX];
	uint64_t end, stream_end[OUTPUT_STREAMS];
} model;

static struct loop *loop;
static uint32_t seed;

/* A fixed sequence: a failure can be repeated. */
static uint32_t pick(uint32_t below)
{
	seed = seed * 1664525 + 1013904223;
	return (seed >> 8) % below;
}

static struct output *log_new(size_t memory_max, uint64_t total_max, const char *spill_dir)
{
	struct output_limits limits = {
		.memory_max = memory_max,
		.total_max = total_max,
		.reader_lag_max = 10000,
		.spill_dir = spill_dir,
	};
	struct output *o;

	memset(&model, 0, sizeof(model));
	seed = 1;
	assert_int_equal(output_new(loop, &limits, &o), 0);
	return o;
}

static void append(struct output *o, enum output_stream stream, size_t n)
{
	uint8_t *data = model.bytes + model.end;

	assert_true(model.end + n < MODEL_MAX);
	for (size_t i = 0; i < n; i++) {
		data[i] = (uint8_t)pick(256);
		model.streams[model.end + i] = (uint8_t)stream;
		model.stream_offsets[model.end + i] = model.stream_end[stream] + i;
	}
	assert_int_equal(output_append(o, stream, data, n), 0);
	model.end += n;
	model.stream_end[stream] += n;
	assert_int_equal(output_end(o), model.end);
	assert_int_equal(output_stream_end(o, stream), model.stream_end[stream]);
}

static void check_slice(const struct output_slice *s)
{
	assert_true(s->len > 0);
	assert_true(s->offset + s->len <= model.end);
	assert_memory_equal(s->data, model.bytes + s->offset, s->len);
	assert_int_equal(s->stream_offset, model.stream_offsets[s->offset]);
	for (size_t i = 0; i < s->len; i++)
		assert_int_equal(model.streams[s->offset + i], s->stream);
}

static void check_all(struct output *o)
{
	struct output_slice s;
	uint64_t offset = output_begin(o);

	while (offset < model.end) {
		assert_int_equal(output_read(o, offset, 1 + pick(5000), &s), 1);
		assert_true(s.offset == offset || s.stream == OUTPUT_EVENT);
		check_slice(&s);
		offset = s.offset + s.len;
	}
	assert_int_equal(output_read(o, offset, 100, &s), 0);
	if (output_begin(o) > 0)
		assert_int_equal(output_read(o, output_begin(o) - 1, 100, &s), -ERANGE);
}

static void check_stream(struct output *o, enum output_stream stream)
{
	struct output_slice s;
	uint64_t offset, before = output_begin(o) + pick((uint32_t)(model.end - output_begin(o) + 1)), to;

	assert_int_equal(output_stream_offset(o, stream, output_begin(o), &offset), 0);
	assert_int_equal(output_stream_offset(o, stream, before, &to), 0);
	while (offset < to) {
		assert_int_equal(output_read_stream(o, stream, offset, before, 1 + pick(3000), &s), 1);
		assert_int_equal(s.stream, stream);
		assert_true(s.stream_offset == offset);
		assert_true(s.offset < before);
		check_slice(&s);
		offset += s.len;
	}
	assert_int_equal(offset, to);
	assert_int_equal(output_read_stream(o, stream, offset, before, 100, &s), 0);
}

static void random_log(size_t memory_max, uint64_t total_max, const char *dir, uint32_t longest)
{
	struct output *o = log_new(memory_max, total_max, dir);

	while (model.end < 600000) {
		append(o, pick(2) ? OUTPUT_STDOUT : OUTPUT_STDERR, 1 + pick(pick(20) ? 80 : longest));
		if (pick(20) == 0)
			append(o, OUTPUT_EVENT, 1 + pick(9000));
		/* A block that grows may be there beside the bound, and the list of blocks. */
		assert_true(output_memory(o) <= memory_max + memory_max / 2 + 65536);
		assert_true(output_spilled(o) <= total_max - memory_max);
		if (pick(300) == 0) {
			check_all(o);
			check_stream(o, OUTPUT_STDOUT);
			check_stream(o, OUTPUT_STDERR);
		}
	}
	output_close(o);
	check_all(o);
	assert_true(output_drop(o));
	assert_int_equal(output_begin(o), output_end(o));
	output_unref(o);
}

static void test_memory_only_while_it_fits(void **state)
{
	struct output *o = log_new(0, 0, NULL);

	(void)state;
	assert_true(output_memory(o) < 512);
	append(o, OUTPUT_STDOUT, 6);
	assert_true(output_memory(o) < 1024);
	append(o, OUTPUT_STDERR, 100000);
	check_all(o);
	assert_int_equal(output_spilled(o), 0);
	assert_int_equal(output_begin(o), 0);
	output_unref(o);
}

static void test_spill_keeps_everything(void **state)
{
	struct output *o = log_new(16384, 8 << 20, NULL);

	(void)state;
	for (int i = 0; i < 500; i++)
		append(o, pick(2) ? OUTPUT_STDOUT : OUTPUT_STDERR, 1 + pick(4000));
	assert_int_equal(output_begin(o), 0);
	assert_true(output_spilled(o) > 500000);
	check_all(o);
	check_stream(o, OUTPUT_STDERR);
	output_unref(o);
}

static void test_random(void **state)
{
	(void)state;
	random_log(4096, 65536, NULL, 3000);
	random_log(16384, 100000, NULL, 20000);
	random_log(4096, 200000, NULL, 400);
}

static void test_one_byte_appends_are_bounded(void **state)
{
	struct output *o = log_new(8192, 65536, NULL);

	(void)state;
	for (int i = 0; i < 300000; i++)
		append(o, i % 2 ? OUTPUT_STDOUT : OUTPUT_STDERR, 1);
	assert_true(output_memory(o) < 32768);
	assert_true(output_spilled(o) <= 65536);
	check_all(o);
	output_unref(o);
}

static void test_no_spill_drops_the_oldest(void **state)
{
	struct output *o = log_new(16384, 1 << 20, "/nonexistent/spill");

	(void)state;
	for (int i = 0; i < 1000; i++)
		append(o, OUTPUT_STDOUT, 1 + pick(500));
	assert_true(output_begin(o) > 0);
	assert_true(output_end(o) - output_begin(o) > 8000);
	assert_int_equal(output_spilled(o), 0);
	check_all(o);
	output_unref(o);
}

static void test_full_disk_reuses_what_it_has(void **state)
{
	struct rlimit old, limit;
	struct output *o = log_new(16384, 1 << 20, NULL);
	void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	limit = old;
	limit.rlim_cur = 100000;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	for (int i = 0; i < 2000; i++) {
		append(o, OUTPUT_STDOUT, 1 + pick(700));
		assert_true(output_spilled(o) <= 100000);
	}
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	(void)signal(SIGXFSZ, handler);
	assert_true(output_spilled(o) > 50000);
	check_all(o);
	output_unref(o);
}

static void test_event_records_stay_whole(void **state)
{
	struct output *o = log_new(4096, 1 << 20, NULL);
	struct output_slice s;

	(void)state;
	append(o, OUTPUT_EVENT, 50);
	append(o, OUTPUT_EVENT, 50);
	append(o, OUTPUT_EVENT, 200000);
	append(o, OUTPUT_STDOUT, 10);
	assert_int_equal(output_read(o, 0, 1, &s), 1);
	assert_int_equal(s.len, 50);
	assert_int_equal(output_read(o, 60, 1, &s), 1);
	assert_int_equal(s.offset, 50);
	assert_int_equal(output_read(o, 100, 1, &s), 1);
	assert_int_equal(s.len, 200000);
	check_slice(&s);
	assert_true(output_memory(o) < 16384);
	output_unref(o);

	/* Where nothing can be spilled, the newest record is kept all the same. */
	o = log_new(4096, 1 << 20, "/nonexistent/spill");
	append(o, OUTPUT_EVENT, 200000);
	assert_int_equal(output_read(o, 0, 1, &s), 1);
	check_slice(&s);
	append(o, OUTPUT_STDOUT, 1);
	assert_int_equal(output_begin(o), 200000);
	output_unref(o);
}

static unsigned woken, rooms;

static void on_wake(struct output_reader *r)
{
	(void)r;
	woken++;
}

static void on_room(void *arg)
{
	rooms++;
	loop_stop(arg, 0);
}

static void test_readers_are_woken_at_the_end_only(void **state)
{
	struct output *o = log_new(0, 0, NULL);
	struct output_reader r = {0};

	(void)state;
	woken = 0;
	output_attach(o, &r, 0, on_wake);
	append(o, OUTPUT_STDOUT, 10);
	assert_int_equal(woken, 1);
	append(o, OUTPUT_STDOUT, 10);
	assert_int_equal(woken, 1);
	output_reader_advance(&r, 20);
	append(o, OUTPUT_STDOUT, 10);
	assert_int_equal(woken, 2);
	assert_false(output_drop(o));
	output_close(o);
	assert_int_equal(woken, 3);
	assert_int_equal(output_append(o, OUTPUT_STDOUT, "x", 1), 0);
	assert_int_equal(output_end(o), 30);
	output_detach(&r);
	output_detach(&r);
	output_unref(o);
}

static void test_a_slow_reader_stops_the_writer(void **state)
{
	struct output *o = log_new(0, 0, NULL);
	struct output_reader slow = {0}, fast = {0};

	(void)state;
	rooms = 0;
	output_set_on_room(o, on_room, loop);
	append(o, OUTPUT_STDOUT, 50000);
	assert_true(output_room(o) > 0);
	output_attach(o, &slow, 50000, on_wake);
	output_attach(o, &fast, 50000, on_wake);
	append(o, OUTPUT_STDOUT, 4000);
	assert_int_equal(output_room(o), 6000);
	append(o, OUTPUT_STDOUT, 6000);
	assert_int_equal(output_room(o), 0);
	output_reader_advance(&fast, 60000);
	assert_int_equal(output_room(o), 0);
	output_reader_advance(&slow, 50001);
	assert_int_equal(output_room(o), 0);
	output_reader_advance(&slow, 60000);
	assert_int_equal(rooms, 0); /* never from inside a call */
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(rooms, 1);
	assert_int_equal(output_room(o), 10000);

	/* One that has gone stops nobody. */
	append(o, OUTPUT_STDOUT, 10000);
	assert_int_equal(output_room(o), 0);
	output_detach(&slow);
	output_detach(&fast);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(rooms, 2);
	output_unref(o);
}

static void test_one_that_catches_up_stops_the_writer_only_before_a_loss(void **state)
{
	struct output *o = log_new(16384, 200000, NULL);
	struct output_reader late = {0};
	struct output_slice s;

	(void)state;
	append(o, OUTPUT_STDOUT, 50000);
	output_attach(o, &late, 0, on_wake);
	assert_true(output_room(o) > 0);
	while (output_room(o) > 0)
		append(o, OUTPUT_STDOUT, MIN(output_room(o), (size_t)4096));
	assert_true(model.end > 150000);
	assert_int_equal(output_read(o, 0, 100, &s), 1);
	assert_int_equal(output_begin(o), 0);
	output_detach(&late);
	output_unref(o);
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
		cmocka_unit_test(test_memory_only_while_it_fits),
		cmocka_unit_test(test_spill_keeps_everything),
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_one_byte_appends_are_bounded),
		cmocka_unit_test(test_no_spill_drops_the_oldest),
		cmocka_unit_test(test_full_disk_reuses_what_it_has),
		cmocka_unit_test(test_event_records_stay_whole),
		cmocka_unit_test(test_readers_are_woken_at_the_end_only),
		cmocka_unit_test(test_a_slow_reader_stops_the_writer),
		cmocka_unit_test(test_one_that_catches_up_stops_the_writer_only_before_a_loss),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
