/* Time as text, against known instants and against the C library's calendar. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "lib/clock.h"

static void test_known_instants(void **state)
{
	static const struct {
		uint64_t ms;
		const char *text;
	} table[] = {
		{0, "1970-01-01T00:00:00.000Z"},
		{951782400123, "2000-02-29T00:00:00.123Z"},
		{1769860800123, "2026-01-31T12:00:00.123Z"},
		{4107542399999, "2100-02-28T23:59:59.999Z"},
		{4107542400000, "2100-03-01T00:00:00.000Z"},
		{253402300799999, "9999-12-31T23:59:59.999Z"},
	};
	char out[CLOCK_RFC3339_MAX];
	uint64_t ms;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		assert_string_equal(clock_rfc3339(table[i].ms, out), table[i].text);
		assert_int_equal(clock_rfc3339_parse(table[i].text, &ms), 0);
		assert_int_equal(ms, table[i].ms);
	}
	/* There is no later instant that could be written. */
	assert_string_equal(clock_rfc3339(UINT64_MAX, out), "9999-12-31T23:59:59.999Z");
}

/* Every day from 1970 to 2400, which holds a whole Gregorian cycle. */
static void test_every_day(void **state)
{
	char out[CLOCK_RFC3339_MAX], want[64];
	uint64_t ms;
	struct tm tm;

	(void)state;
	for (time_t day = 0; day < 157056; day++) {
		time_t t = day * 86400 + 86399;

		assert_non_null(gmtime_r(&t, &tm));
		assert_int_equal(strftime(want, sizeof(want), "%Y-%m-%dT%H:%M:%S.007Z", &tm), 24);
		if (strcmp(clock_rfc3339((uint64_t)t * 1000 + 7, out), want) != 0)
			fail_msg("%s is not %s", out, want);
		assert_int_equal(clock_rfc3339_parse(want, &ms), 0);
		assert_int_equal(ms, (uint64_t)t * 1000 + 7);
	}
}

/* Every day from the year 1 to 2400, and what is beyond the ends. */
static void test_http(void **state)
{
	char out[CLOCK_HTTP_MAX], want[64];
	struct tm tm;

	(void)state;
	for (time_t day = -719162; day < 157056; day++) {
		time_t t = day * 86400 + 30000 + day % 7;

		assert_non_null(gmtime_r(&t, &tm));
		/* %Y has no zeros in front. */
		assert_true(strftime(want, sizeof(want), "%a, %d %b ", &tm) > 0);
		(void)snprintf(want + 12, sizeof(want) - 12, "%04d %02d:%02d:%02d GMT", tm.tm_year + 1900,
			       tm.tm_hour, tm.tm_min, tm.tm_sec);
		if (strcmp(clock_http(t, out), want) != 0)
			fail_msg("%s is not %s", out, want);
	}
	assert_string_equal(clock_http(INT64_MIN, out), "Mon, 01 Jan 0001 00:00:00 GMT");
	assert_string_equal(clock_http(INT64_MAX, out), "Fri, 31 Dec 9999 23:59:59 GMT");
}

static void test_forms(void **state)
{
	static const char *const same[] = {
		"2026-01-31T12:00:00.5Z",	 "2026-01-31t12:00:00.500z",
		"2026-01-31T12:00:00.500+00:00", "2026-01-31T12:00:00.500-00:00",
		"2026-01-31T14:30:00.5+02:30",	 "2026-01-30T20:00:00.5-16:00",
		"2026-02-01T11:59:00.5+23:59",	 "2026-01-31T12:00:00.500999999999999999999Z",
	};
	uint64_t ms;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(same); i++) {
		assert_int_equal(clock_rfc3339_parse(same[i], &ms), 0);
		assert_int_equal(ms, 1769860800500);
	}
	/* A leap second is the first of the next day. */
	assert_int_equal(clock_rfc3339_parse("2016-12-31T23:59:60Z", &ms), 0);
	assert_int_equal(ms, 1483228800000);
	assert_int_equal(clock_rfc3339_parse("2017-01-01T00:59:60.25+01:00", &ms), 0);
	assert_int_equal(ms, 1483228800250);
}

static void test_not_a_time(void **state)
{
	static const char *const bad[] = {
		"",
		"2026",
		"2026-01-31",
		"2026-01-31T12:00:00",
		"2026-01-31 12:00:00Z",
		"2026-01-31T12:00Z",
		"2026-01-31T12:00:00.Z",
		"2026-01-31T12:00:00ZZ",
		"2026-01-31T12:00:00Z ",
		" 2026-01-31T12:00:00Z",
		"2026-1-31T12:00:00Z",
		"2026-02-29T12:00:00Z",
		"2100-02-29T12:00:00Z",
		"2026-04-31T12:00:00Z",
		"2026-00-10T12:00:00Z",
		"2026-13-10T12:00:00Z",
		"2026-01-00T12:00:00Z",
		"2026-01-31T24:00:00Z",
		"2026-01-31T12:60:00Z",
		"2026-01-31T12:00:61Z",
		"2026-01-31T12:00:60Z",
		"2026-01-31T12:00:00+1:00",
		"2026-01-31T12:00:00+0100",
		"2026-01-31T12:00:00+24:00",
		"2026-01-31T12:00:00+00:60",
		"2026-01-31T12:00:00+",
		"-026-01-31T12:00:00Z",
		"2026-01-31T12:00:-1Z",
	};
	uint64_t ms = 42;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (clock_rfc3339_parse(bad[i], &ms) != -EINVAL)
			fail_msg("'%s' was taken", bad[i]);
	assert_int_equal(clock_rfc3339_parse("1969-12-31T23:59:59Z", &ms), -ERANGE);
	assert_int_equal(clock_rfc3339_parse("1970-01-01T00:00:00+00:01", &ms), -ERANGE);
	assert_int_equal(ms, 42);
}

static void test_clocks(void **state)
{
	uint64_t usec = clock_mono_usec(), ms = clock_mono_ms();

	(void)state;
	assert_true(ms >= usec / 1000);
	assert_true(clock_mono_usec() >= usec);
	assert_true(clock_real_ms() / 1000 <= (uint64_t)time(NULL));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_known_instants), cmocka_unit_test(test_every_day),
		cmocka_unit_test(test_http),	       cmocka_unit_test(test_forms),
		cmocka_unit_test(test_not_a_time),     cmocka_unit_test(test_clocks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
