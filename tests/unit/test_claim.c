/* What a spare agent is told, and what becomes of it when it is told nonsense or nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include <stdio.h>

#include "execd/claim.h"
#include "lib/fs.h"

/* stays: whoever tells it does not go. */
static int told(const char *text, bool stays, struct claim *ret, struct err *err)
{
	int ends[2];

	assert_int_equal(fs_pipe(ends, 0, 0), 0);
	assert_int_equal(fs_write_all(ends[1], text, strlen(text)), 0);
	if (!stays)
		fd_close(&ends[1]);
	int r = claim_wait(ends[0], ret, err);
	fd_close(&ends[1]);
	return r;
}

static int claim_of(const char *text, struct claim *ret, struct err *err)
{
	char line[256];

	(void)snprintf(line, sizeof(line), "%s\n", text);
	return told(line, true, ret, err);
}

static void test_claim(void **state)
{
	struct claim c;
	struct err err;

	(void)state;
	assert_int_equal(
		claim_of("{\"entrypoint\":[\"tail\",\"-f\"],\"env\":{\"CLAIM_A\":\"1\",\"CLAIM_B\":\"\"},"
			 "\"accessToken\":\"t\"}",
			 &c, &err),
		1);
	assert_string_equal(c.entrypoint[0], "tail");
	assert_string_equal(c.entrypoint[1], "-f");
	assert_null(c.entrypoint[2]);
	assert_string_equal(c.token, "t");
	assert_string_equal(getenv("CLAIM_A"), "1");
	assert_string_equal(getenv("CLAIM_B"), "");
	claim_done(&c);
	assert_int_equal(claim_of("{\"entrypoint\":[\"true\"]}", &c, &err), 1);
	assert_null(c.token);
	claim_done(&c);
}

static void test_nobody_came(void **state)
{
	struct claim c;
	struct err err;

	(void)state;
	assert_int_equal(told("", false, &c, &err), 0);
	assert_null(c.entrypoint);
	/* they have gone before they had said all */
	assert_int_equal(told("{\"entrypoint\":[\"true\"]}", false, &c, &err), 0);
	assert_null(c.entrypoint);
}

static void test_nonsense(void **state)
{
	static const char *const texts[] = {
		"",
		"{",
		"[]",
		"{}",
		"{\"entrypoint\":\"true\"}",
		"{\"entrypoint\":[1]}",
		"{\"entrypoint\":[\"true\"],\"env\":{\"A\":1}}",
		"{\"entrypoint\":[\"true\"],\"env\":{\"A=B\":\"1\"}}",
		"{\"entrypoint\":[\"true\"],\"accessToken\":1}",
		"{\"entrypoint\":[\"tail\",\"-f\"],\"env\":{\"CUT\":\"of",
	};
	struct claim c;
	struct err err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		assert_true(claim_of(texts[i], &c, &err) < 0);
		assert_null(c.entrypoint);
		assert_true(err.message[0]);
	}
	assert_true(claim_wait(9999, &c, &err) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_claim),
		cmocka_unit_test(test_nobody_came),
		cmocka_unit_test(test_nonsense),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
