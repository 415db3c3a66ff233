/* Range headers, by RFC 9110 section 14 and as the reference answers them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "execd/api/range.h"

static void assert_range(const char *header, uint64_t size, uint64_t offset, uint64_t n)
{
	uint64_t got_offset = 0, got_n = 0;

	assert_int_equal(range_parse(header, size, &got_offset, &got_n), 1);
	assert_int_equal(got_offset, offset);
	assert_int_equal(got_n, n);
}

static void assert_result(const char *header, uint64_t size, int expected)
{
	uint64_t offset, n;

	if (range_parse(header, size, &offset, &n) != expected)
		fail_msg("'%s' of %d", header, (int)size);
}

static void test_ranges(void **state)
{
	(void)state;
	assert_range("bytes=0-0", 10, 0, 1);
	assert_range("bytes=0-9", 10, 0, 10);
	assert_range("bytes=2-5", 10, 2, 4);
	assert_range("bytes=2-99", 10, 2, 8);
	assert_range("bytes=9-", 10, 9, 1);
	assert_range("bytes=-3", 10, 7, 3);
	assert_range("bytes=-99", 10, 0, 10);
	assert_range("Bytes = 1-2", 10, 1, 2);
	assert_range("bytes=0-99999999999999999999999999", 10, 0, 10);
	assert_range("bytes=1-2, 4-5", 10, 1, 2);
	assert_range("bytes=20-30, 4-5", 10, 4, 2);
}

static void test_not_satisfiable(void **state)
{
	(void)state;
	assert_result("bytes=10-", 10, -ERANGE);
	assert_result("bytes=0-", 0, -ERANGE);
	assert_result("bytes=-0", 10, -ERANGE);
	assert_result("bytes=-1", 0, -ERANGE);
	assert_result("bytes=99999999999999999999999999-", 10, -ERANGE);
	assert_result("bytes=20-30,40-50", 10, -ERANGE);
}

static void test_malformed(void **state)
{
	(void)state;
	assert_result("bytes=", 10, -ERANGE);
	assert_result("bytes=-", 10, -ERANGE);
	assert_result("bytes=a-b", 10, -ERANGE);
	assert_result("bytes=5-2", 10, -ERANGE);
	assert_result("bytes=1-2x", 10, -ERANGE);
	assert_result("bytes=1-2,", 10, -ERANGE);
	assert_result("bytes=--1", 10, -ERANGE);
}

static void test_other_units_are_ignored(void **state)
{
	(void)state;
	assert_result("lines=1-2", 10, 0);
	assert_result("", 10, 0);
	assert_result("bytes", 10, 0);
	assert_result("bytes 1-2", 10, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ranges),
		cmocka_unit_test(test_not_satisfiable),
		cmocka_unit_test(test_malformed),
		cmocka_unit_test(test_other_units_are_ignored),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
