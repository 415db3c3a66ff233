/* Identifiers and the comparison of secrets. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "lib/random.h"

static void test_uuid(void **state)
{
	char a[RANDOM_UUID_MAX], b[RANDOM_UUID_MAX];

	(void)state;
	for (int i = 0; i < 1000; i++) {
		assert_ptr_equal(random_uuid(a), a);
		assert_int_equal(strlen(a), 36);
		for (int k = 0; k < 36; k++) {
			if (k == 8 || k == 13 || k == 18 || k == 23)
				assert_int_equal(a[k], '-');
			else
				assert_non_null(strchr("0123456789abcdef", a[k]));
		}
		assert_int_equal(a[14], '4');
		assert_non_null(strchr("89ab", a[19]));
		assert_string_not_equal(a, random_uuid(b));
	}
}

static void test_hex(void **state)
{
	char out[302];
	unsigned seen = 0;

	(void)state;
	for (size_t n = 0; n <= 300; n++) {
		memset(out, '#', sizeof(out));
		(void)random_hex(out, n);
		assert_int_equal(strlen(out), n);
		assert_int_equal(strspn(out, "0123456789abcdef"), n);
		assert_int_equal(out[n + 1], '#');
	}
	for (int i = 0; i < 300; i++)
		seen |= 1U << (out[i] <= '9' ? out[i] - '0' : out[i] - 'a' + 10);
	assert_int_equal(seen, 0xffff);
}

static void test_bytes_fills_all(void **state)
{
	uint8_t b[4096];
	size_t zeros = 0;

	(void)state;
	memset(b, 0, sizeof(b));
	random_bytes(b, sizeof(b));
	for (size_t i = 0; i < sizeof(b); i++)
		zeros += b[i] == 0;
	assert_in_range(zeros, 0, 100);
	assert_true(memcmp(b, b + sizeof(b) / 2, sizeof(b) / 2) != 0);
}

static void test_secret_equal(void **state)
{
	(void)state;
	assert_true(secret_equal("secret", "secret"));
	assert_true(secret_equal("", ""));
	assert_false(secret_equal("secret", "secreT"));
	assert_false(secret_equal("Secret", "secret"));
	assert_false(secret_equal("secre", "secret"));
	assert_false(secret_equal("secrets", "secret"));
	assert_false(secret_equal("", "secret"));
	assert_false(secret_equal("secret", ""));
	assert_false(secret_equal("secretsecret", "secret"));
	assert_false(secret_equal(NULL, "secret"));
	assert_false(secret_equal("secret", NULL));
	assert_false(secret_equal(NULL, NULL));
	assert_true(secret_equal("\xff\x80", "\xff\x80"));
	assert_false(secret_equal("\xff\x80", "\xff\x00"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_uuid),
		cmocka_unit_test(test_hex),
		cmocka_unit_test(test_bytes_fills_all),
		cmocka_unit_test(test_secret_equal),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
