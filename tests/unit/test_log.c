/* One line a fact, whatever a peer has put into it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "lib/clock.h"
#include "lib/fs.h"
#include "lib/log.h"
#include "lib/utf8.h"

static int fds[2];
static char line[8192];

static int setup(void **state)
{
	(void)state;
	assert_int_equal(fs_pipe(fds, 1, 1), 0);
	log_init(fds[1], LOG_DEBUG);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	log_init(STDERR_FILENO, LOG_INFO);
	fd_close(&fds[0]);
	fd_close(&fds[1]);
	return 0;
}

/* The message of the one line that was written, without its newline. */
static const char *message(const char *level)
{
	char want[16];
	ssize_t n = read(fds[0], line, sizeof(line) - 1);
	uint64_t ms;

	assert_true(n > 0);
	line[n] = '\0';
	assert_int_equal(line[n - 1], '\n');
	assert_ptr_equal(strchr(line, '\n'), &line[n - 1]);
	assert_true(utf8_valid(line, (size_t)n));
	line[n - 1] = '\0';
	line[24] = '\0';
	assert_int_equal(clock_rfc3339_parse(line, &ms), 0);
	(void)snprintf(want, sizeof(want), "%s ", level);
	assert_int_equal(strncmp(line + 25, want, strlen(want)), 0);
	return line + 25 + strlen(want);
}

static void test_levels(void **state)
{
	enum log_level level;

	(void)state;
	errno = EPIPE;
	log_error("a %d", 1);
	assert_int_equal(errno, EPIPE);
	assert_string_equal(message("error"), "a 1");
	log_warn("b");
	assert_string_equal(message("warn"), "b");
	log_info("c");
	assert_string_equal(message("info"), "c");
	log_debug("d");
	assert_string_equal(message("debug"), "d");
	log_init(fds[1], LOG_WARN);
	log_info("hidden");
	log_error("seen");
	assert_string_equal(message("error"), "seen");
	assert_int_equal(read(fds[0], line, 1), -1);

	assert_int_equal(log_level_parse("debug", &level), 0);
	assert_int_equal(level, LOG_DEBUG);
	assert_int_equal(log_level_parse("error", &level), 0);
	assert_int_equal(level, LOG_ERROR);
	assert_int_equal(log_level_parse("", &level), -EINVAL);
	assert_int_equal(log_level_parse("INFO", &level), -EINVAL);
}

static void test_nothing_forges_a_line(void **state)
{
	(void)state;
	log_info("path '%s'", "x\n2026-01-31T12:00:00.123Z error all is lost");
	assert_string_equal(message("info"), "path 'x\\n2026-01-31T12:00:00.123Z error all is lost'");
	log_info("%s", "\x1b[31m\r\t\x7f\x01");
	assert_string_equal(message("info"), "\\x1b[31m\\r\\t\\x7f\\x01");
	/* C1 controls drive terminals too; broken UTF-8 would make the file unreadable. */
	log_info("%s", "\xc2\x9b\xc2\xa0\xff\xe2\x82|\xed\xa0\x80");
	assert_string_equal(message("info"), "\\xc2\\x9b\xc2\xa0\\xff\\xe2\\x82|\\xed\\xa0\\x80");
	log_info("%s", "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80");
	assert_string_equal(message("info"), "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80");
	log_info("%s", "cut \xf0\x9f");
	assert_string_equal(message("info"), "cut \\xf0\\x9f");
}

static void check_long(const char *part, size_t times)
{
	static char text[8192];
	const char *got;
	size_t n;

	text[0] = '\0';
	for (size_t i = 0; i < times; i++)
		memcpy(text + i * strlen(part), part, strlen(part) + 1);
	log_info("%s", text);
	got = message("info");
	n = strlen(got);
	assert_in_range(n, 1900, 2048 - 25 - 5);
	assert_string_equal(got + n - 3, "\xe2\x80\xa6");
}

static void test_long_lines(void **state)
{
	(void)state;
	check_long("a", 8000);
	check_long("a", 2040);
	check_long("\n", 1500);
	check_long("\xf0\x9f\x98\x80", 700);
	check_long("\xff", 600);
	/* The longest that needs no cut. */
	log_info("%01990d", 1);
	assert_int_equal(strlen(message("info")), 1990);
}

static void test_closed_reader(void **state)
{
	(void)state;
	/* A full pipe loses the line, not the program. */
	for (int i = 0; i < 100; i++)
		log_info("%01900d", i);
	log_init(-1, LOG_INFO);
	errno = EPIPE;
	log_info("nowhere to go");
	assert_int_equal(errno, EPIPE);
}

#define log_test(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		log_test(test_levels),
		log_test(test_nothing_forges_a_line),
		log_test(test_long_lines),
		log_test(test_closed_reader),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
