/* The buffer at and around its limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "lib/buf.h"

static void test_append_to_the_limit(void **state)
{
	_cleanup_buf_ struct buf b = BUF_INIT(1000);

	(void)state;
	for (int i = 0; i < 1000; i++)
		assert_int_equal(buf_putc(&b, (char)('a' + i % 26)), 0);
	assert_int_equal(b.len, 1000);
	assert_true(b.cap <= b.max);
	for (int i = 0; i < 1000; i++)
		assert_int_equal(b.data[i], 'a' + i % 26);
	assert_false(b.failed);
	assert_int_equal(buf_putc(&b, 'x'), -ENOBUFS);
	assert_true(b.failed);
	assert_int_equal(b.len, 1000);
	buf_clear(&b);
	assert_false(b.failed);
	assert_int_equal(buf_puts(&b, "again"), 0);
	assert_int_equal(b.len, 5);
}

static void test_failed_append_changes_nothing(void **state)
{
	_cleanup_buf_ struct buf b = BUF_INIT(8);

	(void)state;
	assert_int_equal(buf_puts(&b, "12345"), 0);
	assert_int_equal(buf_puts(&b, "6789"), -ENOBUFS);
	assert_int_equal(buf_printf(&b, "%d", 6789), -ENOBUFS);
	assert_int_equal(buf_reserve(&b, SIZE_MAX), -ENOBUFS);
	assert_int_equal(b.len, 5);
	assert_memory_equal(b.data, "12345", 5);
	/* What still fits is taken, but the flag tells that something is missing. */
	assert_int_equal(buf_puts(&b, "678"), 0);
	assert_true(b.failed);
	assert_string_equal(buf_cstr(&b), "12345678");
}

static void test_printf(void **state)
{
	_cleanup_buf_ struct buf b = BUF_INIT(100000);
	char want[5001];

	(void)state;
	assert_int_equal(buf_printf(&b, "%s", ""), 0);
	assert_int_equal(b.len, 0);
	/* Longer than what is there at first, and exactly to the end of it. */
	memset(want, 'z', sizeof(want) - 1);
	want[sizeof(want) - 1] = '\0';
	assert_int_equal(buf_printf(&b, "%s|", want), 0);
	assert_int_equal(b.len, 5001);
	assert_int_equal(buf_printf(&b, "%s", "and more"), 0);
	assert_true(b.cap > b.len);
	for (size_t n = b.cap - b.len; n > 0; n--)
		assert_int_equal(buf_printf(&b, "%c", '.'), 0);
	assert_int_equal(b.len, b.cap);
	assert_int_equal(b.data[5000], '|');
	assert_int_equal(b.data[b.len - 1], '.');
}

static void test_printf_fills_to_the_limit(void **state)
{
	_cleanup_buf_ struct buf b = BUF_INIT(4);

	(void)state;
	assert_int_equal(buf_printf(&b, "%d", 1234), 0);
	assert_int_equal(b.len, 4);
	assert_string_equal(buf_cstr(&b), "1234");
	assert_int_equal(b.len, 4);
}

static void test_consume(void **state)
{
	_cleanup_buf_ struct buf b = BUF_INIT(100);

	(void)state;
	assert_int_equal(buf_puts(&b, "0123456789"), 0);
	buf_consume(&b, 0);
	buf_consume(&b, 3);
	assert_string_equal(buf_cstr(&b), "3456789");
	buf_consume(&b, 7);
	assert_int_equal(b.len, 0);
	buf_consume(&b, 0);
}

static void test_reserve_and_tail(void **state)
{
	_cleanup_buf_ struct buf b = BUF_INIT(600);

	(void)state;
	assert_int_equal(buf_reserve(&b, 600), 0);
	memset(buf_tail(&b), 'q', 600);
	b.len += 600;
	assert_int_equal(buf_reserve(&b, 0), 0);
	assert_int_equal(buf_reserve(&b, 1), -ENOBUFS);
}

static void test_empty(void **state)
{
	_cleanup_buf_ struct buf none = BUF_INIT(0);
	struct buf b = BUF_INIT(10);

	(void)state;
	assert_string_equal(buf_cstr(&none), "");
	assert_int_equal(buf_putc(&none, 'x'), -ENOBUFS);
	assert_int_equal(buf_append(&b, NULL, 0), 0);
	assert_int_equal(buf_puts(&b, "x"), 0);
	buf_done(&b);
	assert_null(b.data);
	assert_int_equal(b.max, 10);
	assert_int_equal(buf_puts(&b, "y"), 0);
	assert_string_equal(buf_cstr(&b), "y");
	buf_done(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_append_to_the_limit),
		cmocka_unit_test(test_failed_append_changes_nothing),
		cmocka_unit_test(test_printf),
		cmocka_unit_test(test_printf_fills_to_the_limit),
		cmocka_unit_test(test_consume),
		cmocka_unit_test(test_reserve_and_tail),
		cmocka_unit_test(test_empty),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
