/* Percent-decoding and query strings: decoded once, and once only. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "proto/query.h"

static void decodes(const char *in, bool plus, const char *want)
{
	char *out = malloc(strlen(in) + 1);

	assert_non_null(out);
	assert_int_equal(url_decode(out, in, strlen(in), plus), (int)strlen(want));
	assert_string_equal(out, want);
	free(out);
}

static void test_decode(void **state)
{
	char same[] = "%41%42C";

	(void)state;
	decodes("", false, "");
	decodes("plain", false, "plain");
	decodes("a+b%2Bc", true, "a b+c");
	decodes("a+b%2Bc", false, "a+b+c");
	decodes("%41%5a%5A", false, "AZZ");
	decodes("%25%32%35", false, "%25");
	decodes("%2541", false, "%41");
	decodes("%e2%82%ac", false, "\xe2\x82\xac");
	decodes("%ff", false, "\xff");
	assert_int_equal(url_decode(same, same, strlen(same), false), 3);
	assert_string_equal(same, "ABC");
}

static void test_broken_escapes(void **state)
{
	static const char *const broken[] = {"%",    "%4",  "a%",  "%zz", "%4g", "%g4",
					     "%%41", "%00", "x%0", "% 4", "%-1"};
	char out[16];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(broken); i++)
		assert_int_equal(url_decode(out, broken[i], strlen(broken[i]), false), -EINVAL);
	assert_int_equal(query_decode(out, "a=%"), -EINVAL);
	assert_int_equal(query_decode(out, "%=a"), -EINVAL);
	/* The length bounds what is looked at, not the NUL. */
	assert_int_equal(url_decode(out, "%41", 2, false), -EINVAL);
}

/* The query decoded into exactly the room that is promised to be enough. */
static char *decoded(const char *query, size_t *n)
{
	char *out = malloc(QUERY_ROOM(strlen(query)));
	ssize_t r;

	assert_non_null(out);
	r = query_decode(out, query);
	assert_true(r >= 0 && (size_t)r <= QUERY_ROOM(strlen(query)));
	*n = (size_t)r;
	return out;
}

static void test_query(void **state)
{
	const char *v[4] = {0};
	size_t n;
	char *d;

	(void)state;
	d = decoded("path=%2Fa%2520b&path=%2Fc+d;e&empty=&flag&x=1=2&%6eame=v&&", &n);
	assert_int_equal(query_get(d, n, "path", v, 4), 2);
	assert_string_equal(v[0], "/a%20b");
	assert_string_equal(v[1], "/c d;e");
	assert_int_equal(query_get(d, n, "path", v, 1), 2);
	assert_int_equal(query_get(d, n, "empty", v, 1), 1);
	assert_string_equal(v[0], "");
	assert_int_equal(query_get(d, n, "flag", v, 1), 1);
	assert_string_equal(v[0], "");
	assert_int_equal(query_get(d, n, "x", v, 1), 1);
	assert_string_equal(v[0], "1=2");
	assert_int_equal(query_get(d, n, "name", v, 1), 1);
	assert_string_equal(v[0], "v");
	/* A value is not taken for a name, and absence is not emptiness. */
	assert_int_equal(query_get(d, n, "v", v, 1), 0);
	assert_int_equal(query_get(d, n, "", v, 1), 0);
	assert_int_equal(query_get(d, n, "PATH", v, 1), 0);
	free(d);

	d = decoded("", &n);
	assert_int_equal(query_get(d, n, "a", v, 1), 0);
	free(d);
	d = decoded("a&b&c&d", &n);
	assert_int_equal(query_get(d, n, "d", v, 1), 1);
	free(d);
	assert_int_equal(query_get(NULL, 0, "a", v, 1), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_decode),
		cmocka_unit_test(test_broken_escapes),
		cmocka_unit_test(test_query),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
