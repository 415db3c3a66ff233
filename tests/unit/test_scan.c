#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above */
#include <cmocka.h>

#include "lib/scan.h"

static void test_numbers(void **state)
{
	struct scan s = SCAN(" 12\t0\n18446744073709551615x");

	(void)state;
	assert_int_equal(scan_number(&s, 10, UINT64_MAX), 12);
	assert_int_equal(scan_number(&s, 10, 0), 0);
	assert_true(scan_number(&s, 10, UINT64_MAX) == UINT64_MAX);
	scan_text(&s, "x");
	scan_end(&s);
	assert_true(scan_ok(&s));
}

static void test_limits(void **state)
{
	struct scan over = SCAN("18446744073709551616"), small = SCAN("256"), fits = SCAN("255"),
		    hex = SCAN("fFg");

	(void)state;
	assert_int_equal(scan_number(&over, 10, UINT64_MAX), 0);
	assert_false(scan_ok(&over));
	assert_int_equal(scan_number(&small, 10, 255), 0);
	assert_false(scan_ok(&small));
	assert_int_equal(scan_number(&fits, 10, 255), 255);
	assert_int_equal(scan_number(&hex, 16, 255), 255);
	assert_int_equal(*hex.p, 'g');
}

static void test_what_does_not_fit(void **state)
{
	static const char *const none[] = {"", " ", "x", "-1", "+1", "a"};
	struct scan s;

	(void)state;
	for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++) {
		s = SCAN(none[i]);
		assert_int_equal(scan_number(&s, 10, 100), 0);
		assert_false(scan_ok(&s));
		assert_int_equal(scan_number(&s, 10, 100), 0); /* it stays so */
		scan_skip(&s, 1);
		scan_text(&s, "");
		scan_end(&s);
		assert_false(scan_ok(&s));
	}
}

static void test_digits(void **state)
{
	struct scan s = SCAN("0100007F:1F90"), cut = SCAN("12"), blank = SCAN(" 1");

	(void)state;
	assert_int_equal(scan_digits(&s, 16, 8), 0x0100007F);
	scan_text(&s, ":");
	assert_int_equal(scan_digits(&s, 16, 4), 0x1F90);
	scan_end(&s);
	assert_true(scan_ok(&s));
	assert_int_equal(scan_digits(&cut, 10, 3), 0);
	assert_false(scan_ok(&cut));
	assert_int_equal(scan_digits(&blank, 10, 1), 0);
	assert_false(scan_ok(&blank));
}

static void test_words(void **state)
{
	struct scan s = SCAN("cpu  (x) -1 7"), few = SCAN("one two ");

	(void)state;
	scan_text(&s, "cpu");
	scan_skip(&s, 2);
	assert_int_equal(scan_number(&s, 10, 9), 7);
	assert_true(scan_ok(&s));
	scan_skip(&few, 3);
	assert_false(scan_ok(&few));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_numbers),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_what_does_not_fit),
		cmocka_unit_test(test_digits),
		cmocka_unit_test(test_words),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
