/* The event encoder: lines, ids and resuming, framing, ends. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "execd/events.h"
#include "lib/err.h"

#define SEEN_MAX 8192

struct seen {
	uint64_t id; /* UINT64_MAX: none */
	json_t *json;
};

/* What one client has received. */
static struct stream {
	struct events events;
	struct buf text;
	struct seen seen[SEEN_MAX];
	size_t n;
	unsigned woken;
} stream, again;

static struct loop *loop;
static struct runs *runs;
static uint32_t seed;

static uint32_t pick(uint32_t below)
{
	seed = seed * 1664525 + 1013904223;
	return (seed >> 8) % below;
}

static void on_wake(struct events *e)
{
	container_of(e, struct stream, events)->woken++;
}

/* Cuts whole events off the text: lines of "field: value", then an empty one. */
static void parse(struct stream *st)
{
	const char *text, *end;

	assert_non_null(buf_cstr(&st->text));
	text = (const char *)st->text.data;
	while ((end = strstr(text, "\n\n"))) {
		struct seen *s = &st->seen[st->n++];
		const char *data = strstr(text, "data: "), *id = strstr(text, "id: ");
		json_error_t error;

		assert_true(st->n < SEEN_MAX);
		s->id = id && id < data ? strtoull(id + 4, NULL, 10) : UINT64_MAX;
		s->json = json_loadb(data + 6, (size_t)(end - data - 6), 0, &error);
		assert_non_null(s->json);
		text = end + 2;
	}
	buf_consume(&st->text, (size_t)(text - (const char *)st->text.data));
}

/* Pulls until there is nothing, with rooms of up to `room` bytes. */
static int pull(struct stream *st, uint32_t room)
{
	size_t before;
	int r;

	do {
		size_t n = 1 + pick(room);

		before = st->text.len;
		r = events_next(&st->events, &st->text, n);
		assert_true(r >= 0);
		assert_true(st->text.len - before <= n);
	} while (r == 0 && st->text.len > before);
	parse(st);
	return r;
}

static void open_at(struct stream *st, struct run *run, uint64_t offset)
{
	st->n = 0;
	st->text = BUF_INIT(SIZE_MAX / 2);
	assert_int_equal(events_init(&st->events, run, offset, EVENTS_SSE, on_wake, NULL), 0);
}

static void done(struct stream *st)
{
	for (size_t i = 0; i < st->n; i++)
		json_decref(st->seen[i].json);
	st->n = 0;
	assert_int_equal(st->text.len, 0);
	buf_done(&st->text);
	events_done(&st->events);
}

static const char *str(const struct seen *s, const char *key)
{
	return json_string_value(json_object_get(s->json, key));
}

static json_int_t num(const struct seen *s, const char *key)
{
	return json_integer_value(json_object_get(s->json, key));
}

static struct run *run_start(void)
{
	struct run *run;

	assert_int_equal(run_new(runs, "echo", NULL, NULL, &run, NULL), 0);
	run_started(run);
	return run;
}

static void finish(struct run *run, enum run_reason reason, int exit_code, int signo)
{
	struct run_end end = {.reason = reason, .exit_code = exit_code, .signo = signo};

	run_ended(run, &end);
}

static void out(struct run *run, enum output_stream s, const char *text)
{
	assert_int_equal(output_append(run->output, s, text, strlen(text)), 0);
}

/* The events between init and the terminal one, as "1:text|" or "2:text|". */
static const char *lines(const struct stream *st)
{
	static char text[65536];
	size_t at = 0;

	text[0] = '\0';
	for (size_t i = 0; i < st->n; i++) {
		const char *type = str(&st->seen[i], "type");

		if (strcmp(type, "stdout") != 0 && strcmp(type, "stderr") != 0)
			continue;
		at += (size_t)snprintf(text + at, sizeof(text) - at, "%c:%s|", type[3] == 'o' ? '1' : '2',
				       str(&st->seen[i], "text"));
		assert_true(at < sizeof(text));
	}
	return text;
}

static void assert_lines(const char *written, const char *expected)
{
	struct run *run = run_start();

	out(run, OUTPUT_STDOUT, written);
	finish(run, RUN_EXITED, 0, 0);
	open_at(&stream, run, 0);
	assert_int_equal(pull(&stream, 65536), 1);
	assert_string_equal(lines(&stream), expected);
	done(&stream);

	/* The same, byte by byte. */
	struct run *slow = run_start();

	open_at(&stream, slow, 0);
	for (const char *p = written; *p; p++) {
		assert_int_equal(output_append(slow->output, OUTPUT_STDOUT, p, 1), 0);
		assert_int_equal(pull(&stream, 65536), 0);
	}
	finish(slow, RUN_EXITED, 0, 0);
	assert_int_equal(pull(&stream, 65536), 1);
	assert_string_equal(lines(&stream), expected);
	done(&stream);
	run_unref(run);
	run_unref(slow);
}

static void test_lines(void **state)
{
	(void)state;
	assert_lines("", "");
	assert_lines("a\n", "1:a|");
	assert_lines("a", "1:a|");
	assert_lines("a\nb", "1:a|1:b|");
	assert_lines("a\r\nb\r\n", "1:a|1:b|");
	assert_lines("a\rb\r", "1:a|1:b|");
	assert_lines("\n", "1:\n|");
	assert_lines("a\n\nb\n\n", "1:a|1:\n|1:b|1:\n|");
	assert_lines("\r\n\r\n", "1:\n|1:\n|");
	assert_lines("\r\r", "1:\n|1:\n|");
	assert_lines("a\r\r\nb", "1:a|1:\n|1:b|");
	assert_lines("a\n\rb", "1:a|1:\n|1:b|");
	assert_lines("\ttab \"quoted\" \\ \x01\x1b[0m\n", "1:\ttab \"quoted\" \\ \x01\x1b[0m|");
}

static void test_bytes_that_are_no_text(void **state)
{
	(void)state;
	assert_lines("gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80\n",
		     "1:gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80|");
	assert_lines("a\xff\xfe z\n", "1:a\xef\xbf\xbd\xef\xbf\xbd z|");
	assert_lines("cut \xe2\x82\nnext", "1:cut \xef\xbf\xbd|1:next|");
	assert_lines("end \xf0\x9f\x98", "1:end \xef\xbf\xbd|");
	/* What Python's splitlines() takes for a line end is escaped on the wire. */
	assert_lines("a\xe2\x80\xa8"
		     "b\xc2\x85"
		     "c\n",
		     "1:a\xe2\x80\xa8"
		     "b\xc2\x85"
		     "c|");
}

static void test_wire_form(void **state)
{
	static const enum events_framing framings[] = {EVENTS_SSE, EVENTS_SSE_NAMED, EVENTS_BARE};
	static const char *const expected[] = {
		"id: 0\ndata: {\"type\":\"init\",\"text\":\"ID\",\"timestamp\":1}\n\n"
		"id: 9\ndata: {\"type\":\"stdout\",\"text\":\"a\\u2028\\\"\\u0085z\",\"timestamp\":T}\n\n",
		"event: init\nid: 0\ndata: {\"type\":\"init\",\"text\":\"ID\",\"timestamp\":1}\n\n"
		"event: stdout\nid: 9\ndata: "
		"{\"type\":\"stdout\",\"text\":\"a\\u2028\\\"\\u0085z\",\"timestamp\":T}\n\n",
		"{\"type\":\"init\",\"text\":\"ID\",\"timestamp\":1}\n\n"
		"{\"type\":\"stdout\",\"text\":\"a\\u2028\\\"\\u0085z\",\"timestamp\":T}\n\n",
	};
	struct run *run = run_start();

	(void)state;
	run->init_text = strdup("ID");
	run->created_ms = 1;
	out(run, OUTPUT_STDOUT, "a\xe2\x80\xa8\"\xc2\x85z\n");
	for (size_t i = 0; i < ARRAY_SIZE(framings); i++) {
		struct buf text = BUF_INIT(65536);
		struct events e;
		struct output_slice s;
		char all[1024], time[24];
		const char *mark = strchr(expected[i], 'T');

		assert_int_equal(output_read(run->output, 0, 1, &s), 1);
		(void)snprintf(time, sizeof(time), "%llu", (unsigned long long)s.time_ms);
		(void)snprintf(all, sizeof(all), "%.*s%s%s", (int)(mark - expected[i]), expected[i], time,
			       mark + 1);
		assert_int_equal(events_init(&e, run, 0, framings[i], on_wake, NULL), 0);
		assert_int_equal(events_next(&e, &text, 60000), 0);
		assert_string_equal(buf_cstr(&text), all);
		events_done(&e);
		buf_done(&text);
	}
	finish(run, RUN_EXITED, 0, 0);
	run_unref(run);
}

static void assert_terminal(struct run *run, const char *type, const char *ename, const char *evalue,
			    const char *trace, const char *reason)
{
	const struct seen *last;
	json_t *error;

	open_at(&stream, run, 0);
	assert_int_equal(pull(&stream, 65536), 1);
	assert_string_equal(str(&stream.seen[0], "type"), "init");
	assert_string_equal(str(&stream.seen[0], "text"), run->id);
	last = &stream.seen[stream.n - 1];
	assert_string_equal(str(last, "type"), type);
	assert_true(num(last, "timestamp") > 0);
	assert_string_equal(json_string_value(json_object_get(json_object_get(last->json, "end"), "reason")),
			    reason);
	error = json_object_get(last->json, "error");
	if (ename) {
		assert_string_equal(json_string_value(json_object_get(error, "ename")), ename);
		assert_string_equal(json_string_value(json_object_get(error, "evalue")), evalue);
		assert_string_equal(json_string_value(json_array_get(json_object_get(error, "traceback"), 0)),
				    trace);
		assert_null(json_object_get(last->json, "execution_time"));
	} else {
		assert_null(error);
		assert_true(json_is_integer(json_object_get(last->json, "execution_time")));
	}
	done(&stream);
	run_unref(run);
}

static void test_ends_of_commands(void **state)
{
	struct run *run;

	(void)state;
	finish(run = run_start(), RUN_EXITED, 0, 0);
	assert_terminal(run, "execution_complete", NULL, NULL, NULL, "exited");
	finish(run = run_start(), RUN_EXITED, 3, 0);
	assert_terminal(run, "error", "CommandExecError", "3", "exit status 3", "exited");
	finish(run = run_start(), RUN_SIGNALLED, -1, SIGSEGV);
	assert_terminal(run, "error", "CommandExecError", "-1", "signal: segmentation fault", "signalled");
	finish(run = run_start(), RUN_TIMEOUT, -1, SIGKILL);
	assert_terminal(run, "error", "CommandExecError", "-1", "signal: killed", "timeout");
}

static void test_ends_of_cells(void **state)
{
	struct run_end end = {.reason = RUN_FAILED, .exit_code = -1};
	struct run *run = run_start();

	(void)state;
	run->code = true;
	finish(run, RUN_EXITED, -1, 0);
	assert_terminal(run, "execution_complete", NULL, NULL, NULL, "exited");

	run = run_start();
	run->code = true;
	end.ename = strdup("ZeroDivisionError");
	end.evalue = strdup("division by zero");
	end.traceback = calloc(1, sizeof(char *));
	end.traceback[0] = strdup("line 1");
	end.traceback_n = 1;
	run_ended(run, &end);
	assert_null(end.ename);
	assert_terminal(run, "error", "ZeroDivisionError", "division by zero", "line 1", "failed");
}

static void test_records_are_sent_as_they_are(void **state)
{
	struct run *run = run_start();

	(void)state;
	out(run, OUTPUT_STDOUT, "before\n");
	out(run, OUTPUT_EVENT, "{\"type\":\"result\",\"results\":{\"text\":\"4\xe2\x80\xa8\"}}");
	out(run, OUTPUT_EVENT, "{\n  \"type\": \"result\",\r\n  \"n\": 1\n}");
	out(run, OUTPUT_STDOUT, "after");
	finish(run, RUN_EXITED, 0, 0);
	open_at(&stream, run, 0);
	assert_int_equal(pull(&stream, 65536), 1);
	assert_int_equal(stream.n, 6);
	assert_string_equal(str(&stream.seen[2], "type"), "result");
	assert_string_equal(
		json_string_value(json_object_get(json_object_get(stream.seen[2].json, "results"), "text")),
		"4\xe2\x80\xa8");
	assert_int_equal(num(&stream.seen[3], "n"), 1);
	assert_string_equal(str(&stream.seen[4], "text"), "after");
	done(&stream);
	run_unref(run);
}

static void test_ping(void **state)
{
	struct run *run = run_start();

	(void)state;
	open_at(&stream, run, 0);
	assert_int_equal(pull(&stream, 65536), 0);
	events_ping(&stream.events);
	assert_int_equal(pull(&stream, 65536), 0);
	assert_int_equal(stream.n, 2);
	assert_string_equal(str(&stream.seen[1], "type"), "ping");
	assert_string_equal(str(&stream.seen[1], "text"), "pong");
	assert_true(num(&stream.seen[1], "timestamp") > 0);
	assert_true(stream.seen[1].id == UINT64_MAX);
	done(&stream);
	finish(run, RUN_EXITED, 0, 0);
	run_unref(run);
}

static void test_woken_for_output_and_for_the_end(void **state)
{
	struct run *run = run_start();

	(void)state;
	open_at(&stream, run, 0);
	stream.woken = 0;
	assert_int_equal(pull(&stream, 65536), 0);
	out(run, OUTPUT_STDOUT, "x\n");
	assert_int_equal(stream.woken, 1);
	assert_int_equal(pull(&stream, 65536), 0);
	/* Output that was closed before the run ended still gets its terminal event. */
	output_close(run->output);
	assert_int_equal(stream.woken, 2);
	assert_int_equal(pull(&stream, 65536), 0);
	finish(run, RUN_EXITED, 0, 0);
	assert_int_equal(stream.woken, 3);
	assert_int_equal(pull(&stream, 65536), 1);
	done(&stream);
	run_unref(run);
}

static void test_detached(void **state)
{
	struct run *run = run_start();
	struct buf text = BUF_INIT(65536);

	(void)state;
	stream.n = 0;
	stream.text = text;
	assert_int_equal(events_detached(run, EVENTS_SSE, &stream.text), 0);
	parse(&stream);
	assert_int_equal(stream.n, 2);
	assert_string_equal(str(&stream.seen[0], "type"), "init");
	assert_string_equal(str(&stream.seen[1], "type"), "execution_complete");
	assert_true(num(&stream.seen[1], "execution_time") < 60000);
	json_decref(stream.seen[0].json);
	json_decref(stream.seen[1].json);
	stream.n = 0;
	buf_done(&stream.text);
	finish(run, RUN_EXITED, 0, 0);
	run_unref(run);
}

static void test_offsets_beyond_the_end(void **state)
{
	struct run *run = run_start();
	struct err err = {};
	struct events e;

	(void)state;
	out(run, OUTPUT_STDOUT, "abc");
	assert_int_equal(events_init(&e, run, 4, EVENTS_SSE, on_wake, &err), -ERANGE);
	assert_int_equal(err.kind, ERR_RANGE);
	finish(run, RUN_EXITED, 0, 0);
	assert_int_equal(events_init(&e, run, 6, EVENTS_SSE, on_wake, &err), -ERANGE);
	open_at(&stream, run, 5);
	assert_int_equal(pull(&stream, 65536), 1);
	assert_int_equal(stream.n, 2);
	done(&stream);
	run_unref(run);
}

static void test_dropped_bytes_are_said(void **state)
{
	struct runs_limits limits = {.output = {.memory_max = 4096, .spill_dir = "/nonexistent/spill"}};
	struct runs *small;
	struct run *run;
	char line[101];
	json_int_t dropped;

	(void)state;
	assert_int_equal(runs_new(loop, &limits, &small), 0);
	assert_int_equal(run_new(small, "x", NULL, NULL, &run, NULL), 0);
	run_started(run);
	memset(line, 'x', 99);
	line[99] = '\n';
	line[100] = '\0';
	for (int i = 0; i < 1000; i++)
		out(run, OUTPUT_STDOUT, line);
	finish(run, RUN_EXITED, 0, 0);
	open_at(&stream, run, 0);
	assert_int_equal(pull(&stream, 65536), 1);
	assert_string_equal(str(&stream.seen[1], "type"), "status");
	assert_null(json_object_get(stream.seen[1].json, "text")); /* the Go client would show it as output */
	dropped = num(&stream.seen[1], "dropped_bytes");
	assert_int_equal(dropped, output_begin(run->output));
	assert_true(dropped > 0);
	assert_true(stream.n > 10);
	done(&stream);
	run_unref(run);
	runs_free(small);
}

/* Writes a random mixture of both streams; kinds of bytes that lines, UTF-8 and cuts care about. */
static void random_output(struct run *run, size_t total, uint32_t longest)
{
	static const char *const pieces[] = {"\n",	     "\r\n",	 "\r",	 "\n\n",
					     "\xe2\x82\xac", "\xf0\x9f", "\xff", "\xc3\xa9"};
	uint8_t data[40000];

	while (output_end(run->output) < total) {
		enum output_stream s = pick(2) ? OUTPUT_STDOUT : OUTPUT_STDERR;
		size_t n = 0, want = 1 + pick(longest);

		while (n < want) {
			uint32_t kind = pick(longest > 1000 ? 150000 : 12);

			if (kind < ARRAY_SIZE(pieces)) {
				memcpy(data + n, pieces[kind], strlen(pieces[kind]));
				n += strlen(pieces[kind]);
			} else if (kind % 16 == 3) {
				memcpy(data + n, "\xe2\x82\xac", 3);
				n += 3;
			} else {
				data[n++] = (uint8_t)('a' + kind % 26);
			}
		}
		assert_int_equal(output_append(run->output, s, data, 1 + pick((uint32_t)n)), 0);
		if (pick(10) == 0)
			out(run, OUTPUT_EVENT, "{\"type\":\"result\"}");
	}
}

static void assert_same(const struct seen *a, const struct seen *b)
{
	assert_true(a->id == b->id);
	assert_string_equal(str(a, "type"), str(b, "type"));
	if (str(a, "text"))
		assert_string_equal(str(a, "text"), str(b, "text"));
}

static size_t pieces(const struct stream *st)
{
	size_t n = 0;

	for (size_t i = 0; i < st->n; i++)
		n += str(&st->seen[i], "text") && strlen(str(&st->seen[i], "text")) >= EVENT_LINE_MAX / 2;
	return n;
}

/* Whoever comes back with any id gets exactly the events that followed it. */
static void resume_everywhere(size_t total, uint32_t longest, bool live, size_t step)
{
	struct run *run = run_start();

	random_output(run, total, longest);
	if (!live)
		finish(run, RUN_EXITED, 1, 0);
	open_at(&stream, run, 0);
	assert_int_equal(pull(&stream, 3000), !live);
	assert_true(stream.n > 10);
	assert_true(longest < 1000 || pieces(&stream) > 10);
	for (size_t i = 0; i < stream.n; i += 1 + pick((uint32_t)step)) {
		open_at(&again, run, stream.seen[i].id);
		assert_int_equal(pull(&again, 65536), !live);
		/* After init. A terminal event that was seen comes once more. */
		size_t rest = stream.n - i - 1, skip = !live && rest == 0 ? 0 : 1;

		assert_int_equal(again.n, rest + 1 + (skip == 0));
		for (size_t k = 0; k < rest; k++)
			assert_same(&again.seen[k + 1], &stream.seen[i + 1 + k]);
		done(&again);
	}
	done(&stream);
	if (live)
		finish(run, RUN_EXITED, 0, 0);
	run_unref(run);
}

static void test_resume_at_every_id(void **state)
{
	(void)state;
	for (seed = 1; seed < 40; seed += pick(3) + 1) {
		uint32_t keep = seed;

		resume_everywhere(1500, 20, false, 1);
		resume_everywhere(1500, 20, true, 1);
		seed = keep;
	}
}

static void test_resume_in_long_lines(void **state)
{
	(void)state;
	seed = 7;
	resume_everywhere(1500000, 30000, false, 3);
	resume_everywhere(1500000, 30000, true, 3);
}

static void test_long_lines_come_in_pieces(void **state)
{
	struct run *run = run_start();
	size_t total = 0;

	(void)state;
	out(run, OUTPUT_STDOUT, "x\n");
	for (int i = 0; i < 100000; i++)
		out(run, OUTPUT_STDOUT, "\xe2\x82\xac");
	out(run, OUTPUT_STDOUT, "\nshort\n");
	finish(run, RUN_EXITED, 0, 0);
	open_at(&stream, run, 0);
	assert_int_equal(pull(&stream, 65536), 1);
	for (size_t i = 2; i < stream.n - 2; i++) {
		size_t len = strlen(str(&stream.seen[i], "text"));

		assert_true(len <= EVENT_LINE_MAX);
		assert_int_equal(len % 3, 0);
		assert_null(strstr(str(&stream.seen[i], "text"), "\xef\xbf\xbd"));
		total += len;
	}
	assert_int_equal(total, 300000);
	assert_string_equal(str(&stream.seen[stream.n - 2], "text"), "short");
	done(&stream);
	run_unref(run);

	/* A line that ends exactly where it is cut is not followed by an empty one. */
	char *line = malloc(EVENT_LINE_MAX + 2);

	run = run_start();
	memset(line, 'y', EVENT_LINE_MAX);
	memcpy(line + EVENT_LINE_MAX, "\n", 2);
	out(run, OUTPUT_STDOUT, line);
	out(run, OUTPUT_STDOUT, "\n");
	free(line);
	finish(run, RUN_EXITED, 0, 0);
	open_at(&stream, run, 0);
	assert_int_equal(pull(&stream, 65536), 1);
	assert_int_equal(stream.n, 5);
	assert_int_equal(strlen(str(&stream.seen[1], "text")) + strlen(str(&stream.seen[2], "text")),
			 EVENT_LINE_MAX);
	assert_string_equal(str(&stream.seen[3], "text"), "\n");
	done(&stream);
	run_unref(run);
}

static void test_an_idle_stream_is_small(void **state)
{
	(void)state;
	assert_true(sizeof(struct events) + sizeof(struct run) < 1024);
}

static int setup(void **state)
{
	(void)state;
	return loop_new(&loop) < 0 || runs_new(loop, NULL, &runs) < 0;
}

static int teardown(void **state)
{
	(void)state;
	runs_free(runs);
	loop_free(loop);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lines),
		cmocka_unit_test(test_bytes_that_are_no_text),
		cmocka_unit_test(test_wire_form),
		cmocka_unit_test(test_ends_of_commands),
		cmocka_unit_test(test_ends_of_cells),
		cmocka_unit_test(test_records_are_sent_as_they_are),
		cmocka_unit_test(test_ping),
		cmocka_unit_test(test_woken_for_output_and_for_the_end),
		cmocka_unit_test(test_detached),
		cmocka_unit_test(test_offsets_beyond_the_end),
		cmocka_unit_test(test_dropped_bytes_are_said),
		cmocka_unit_test(test_resume_at_every_id),
		cmocka_unit_test(test_resume_in_long_lines),
		cmocka_unit_test(test_long_lines_come_in_pieces),
		cmocka_unit_test(test_an_idle_stream_is_small),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
