/* File name patterns. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "execd/glob.h"
#include "lib/buf.h"

static bool match(const char *pattern, const char *name)
{
	struct err err = {0};
	struct glob *g = NULL;
	bool yes;

	if (glob_new(pattern, &g, &err) < 0)
		fail_msg("%s: %s", pattern, err.message);
	yes = glob_match(g, name);
	/* A second time: the automaton holds nothing of the first. */
	assert_int_equal(glob_match(g, name), yes);
	glob_free(g);
	return yes;
}

static void assert_all(const char *pattern, const char *const *yes, const char *const *no)
{
	for (; *yes; yes++)
		if (!match(pattern, *yes))
			fail_msg("'%s' should match '%s'", pattern, *yes);
	for (; *no; no++)
		if (match(pattern, *no))
			fail_msg("'%s' should not match '%s'", pattern, *no);
}

#define YES(...) ((const char *const[]){__VA_ARGS__, NULL})
#define NO(...)	 ((const char *const[]){__VA_ARGS__ __VA_OPT__(, ) NULL})

static void test_stars(void **state)
{
	(void)state;
	assert_all("*", YES("", "a", "abc", ".hidden"), NO("a/b", "/"));
	assert_all("*.py", YES(".py", "a.py", "a.b.py"), NO("a.pyc", "a/b.py", "py"));
	assert_all("a*b*c", YES("abc", "aXbYc", "abbcc"), NO("ac", "acb", "abcd"));
	assert_all("?", YES("a", "\xc3\xa9", "\xff"), NO("", "ab", "/"));
	assert_all("a?c", YES("abc"), NO("ac", "a/c"));
}

static void test_double_stars(void **state)
{
	(void)state;
	assert_all("**", YES("", "a", "a/b", "a/b/c.d"), NO());
	assert_all("**/*.py", YES("a.py", "x/a.py", "x/y/z/a.py"), NO("a.js", "x/a.js", "a.py/x"));
	assert_all("src/**", YES("src", "src/a", "src/a/b"), NO("srcx", "x/src", "srcx/a"));
	assert_all("src/**/t.c", YES("src/t.c", "src/a/t.c", "src/a/b/t.c"),
		   NO("t.c", "src/at.c", "src/t.c/x"));
	assert_all("**/a/**/b", YES("a/b", "x/a/b", "a/x/b", "x/y/a/z/b"), NO("ab", "a", "b/a"));
	assert_all("a**b", YES("ab", "axxb"), NO("a/b"));
	assert_all("**a", YES("a", "xa"), NO("x/a"));
}

static void test_classes(void **state)
{
	(void)state;
	assert_all("[a-c]", YES("a", "b", "c"), NO("d", "", "ab"));
	assert_all("[!a-c]x", YES("dx", "-x"), NO("ax", "/x", "x"));
	assert_all("[^a-c]", YES("d"), NO("a", "/"));
	assert_all("[a-]", YES("a", "-"), NO("b"));
	assert_all("[\\]]", YES("]"), NO("\\"));
	assert_all("[\xc3\xa0-\xc3\xa9]", YES("\xc3\xa4"), NO("\xc3\xb6", "\xc3"));
	assert_all("[{,]", YES("{", ","), NO("a"));
}

static void test_braces(void **state)
{
	(void)state;
	assert_all("*.{c,h}", YES("a.c", "a.h"), NO("a.o", "a.{c,h}"));
	assert_all("{a,b{c,d}}x", YES("ax", "bcx", "bdx"), NO("bx", "cx"));
	assert_all("a{,b}c", YES("ac", "abc"), NO("a{,b}c"));
	assert_all("{**/,}x", YES("x", "a/x", "a/b/x"), NO("xa"));
	assert_all("{a,b}/{c,d}", YES("a/c", "b/d"), NO("a/b"));
	assert_all("\\{a\\}", YES("{a}"), NO("a"));
	assert_all("{[,],x}y", YES(",y", "xy"), NO("[y"));
}

static void test_literals(void **state)
{
	(void)state;
	assert_all("a\\*b", YES("a*b"), NO("axb"));
	assert_all("hello!.txt", YES("hello!.txt"), NO("hello.txt"));
	assert_all("a\nb", YES("a\nb"), NO("ab"));
	assert_all("\xff*", YES("\xff", "\xffx"), NO("\xfe", "\xc3\xbf"));
	assert_all("", YES(""), NO("a"));
}

static void test_negation(void **state)
{
	(void)state;
	assert_all("!(*.py)", YES("a.js", "py"), NO("a.py"));
	assert_all("!({a,b})", YES("c", "ab"), NO("a", "b"));
}

static void test_bad_patterns(void **state)
{
	static const char *const bad[] = {"[", "[]", "[a", "[!", "[!]", "a\\", "{a", "a}", "{a,{b}", "{[}"};
	struct err err;
	struct glob *g;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		err = (struct err){0};
		if (glob_new(bad[i], &g, &err) != -EINVAL)
			fail_msg("'%s' was taken", bad[i]);
		assert_int_equal(err.kind, ERR_INVALID);
		assert_true(err.message[0]);
	}
}

static const char *repeated(struct buf *out, const char *piece, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		(void)buf_puts(out, piece);
	return buf_cstr(out);
}

static void test_limits(void **state)
{
	_cleanup_buf_ struct buf many = BUF_INIT(65536), longest = BUF_INIT(65536);
	struct err err;
	struct glob *g;

	(void)state;
	assert_int_equal(glob_new(repeated(&many, "{a,b}", 64), &g, &err), -E2BIG);
	assert_int_equal(glob_new(repeated(&longest, "a", GLOB_PATTERN_MAX + 1), &g, &err), -E2BIG);
}

/* A backtracking matcher would need longer than the universe is old. */
static void test_hostile_pattern_is_cheap(void **state)
{
	_cleanup_buf_ struct buf pattern = BUF_INIT(4096), name = BUF_INIT(4096);

	(void)state;
	(void)repeated(&pattern, "a*", 100);
	(void)buf_puts(&pattern, "b");
	(void)repeated(&name, "a", 255);
	assert_false(match(buf_cstr(&pattern), buf_cstr(&name)));
	(void)buf_puts(&name, "b");
	assert_true(match(buf_cstr(&pattern), buf_cstr(&name)));
}

static void test_has_slash(void **state)
{
	struct glob *g;

	(void)state;
	assert_int_equal(glob_new("a/*", &g, NULL), 0);
	assert_true(glob_has_slash(g));
	glob_free(g);
	assert_int_equal(glob_new("a*", &g, NULL), 0);
	assert_false(glob_has_slash(g));
	glob_free(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_stars),
		cmocka_unit_test(test_double_stars),
		cmocka_unit_test(test_classes),
		cmocka_unit_test(test_braces),
		cmocka_unit_test(test_literals),
		cmocka_unit_test(test_negation),
		cmocka_unit_test(test_bad_patterns),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_hostile_pattern_is_cheap),
		cmocka_unit_test(test_has_slash),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
