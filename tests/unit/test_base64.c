/*
 * test_base64.c - the vectors of RFC 4648, every byte there and back, and what is no base64.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base64.h"

static void test_vectors(void **state)
{
	static const char *const pairs[][2] = {{"", ""},
					       {"f", "Zg=="},
					       {"fo", "Zm8="},
					       {"foo", "Zm9v"},
					       {"foob", "Zm9vYg=="},
					       {"fooba", "Zm9vYmE="},
					       {"foobar", "Zm9vYmFy"}};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
		struct buf text = BUF_INIT(64), bytes = BUF_INIT(64);
		assert_int_equal(base64_encode(&text, pairs[i][0], strlen(pairs[i][0])), 0);
		assert_string_equal(buf_cstr(&text), pairs[i][1]);
		assert_int_equal(base64_decode(&bytes, pairs[i][1], strlen(pairs[i][1])), 0);
		assert_string_equal(buf_cstr(&bytes), pairs[i][0]);
		buf_done(&text);
		buf_done(&bytes);
	}
}

static void test_every_byte(void **state)
{
	uint8_t all[256];
	(void)state;
	for (size_t i = 0; i < sizeof(all); i++)
		all[i] = (uint8_t)(i * 7 + 1);
	for (size_t n = 0; n <= sizeof(all); n++) {
		struct buf text = BUF_INIT(1024), bytes = BUF_INIT(1024);
		assert_int_equal(base64_encode(&text, all, n), 0);
		assert_int_equal(base64_decode(&bytes, (const char *)text.data, text.len), 0);
		assert_int_equal(bytes.len, n);
		assert_memory_equal(bytes.data, all, n);
		buf_done(&text);
		buf_done(&bytes);
	}
}

static void test_refused(void **state)
{
	static const char *const bad[] = {"Z",	  "Zg",	  "Zg=",  "====",     "Zg==Zg==", "Z===", "Zm9v\n",
					  "Zm 9", "Zm9-", "Zh==", "Zm9=Zm9v", "=Zm9",	  "Zm9="};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct buf bytes = BUF_INIT(64);
		assert_int_equal(base64_decode(&bytes, bad[i], strlen(bad[i])), -EINVAL);
		assert_int_equal(bytes.len, 0);
		buf_done(&bytes);
	}
}

static void test_full(void **state)
{
	struct buf small = BUF_INIT(7);
	(void)state;
	assert_int_equal(base64_encode(&small, "foob", 4), -ENOBUFS);
	buf_done(&small);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_vectors),
		cmocka_unit_test(test_every_byte),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_full),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
