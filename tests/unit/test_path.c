/* Paths as clients write them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "execd/env.h"
#include "execd/path.h"

static void assert_clean(const char *path, const char *expected)
{
	char text[256];

	(void)snprintf(text, sizeof(text), "%s", path);
	path_clean(text);
	assert_string_equal(text, expected);
}

static void test_clean(void **state)
{
	(void)state;
	assert_clean("/", "/");
	assert_clean("//", "/");
	assert_clean("/a", "/a");
	assert_clean("/a/", "/a");
	assert_clean("//a///b//", "/a/b");
	assert_clean("/./a/./b/.", "/a/b");
	assert_clean("/a/../b", "/b");
	assert_clean("/a/b/..", "/a");
	assert_clean("/a/b/../../..", "/");
	assert_clean("/../../a", "/a");
	assert_clean("/a/.../b", "/a/.../b");
	assert_clean("/a/..b/c.", "/a/..b/c.");
	assert_clean("/.a", "/.a");
}

static void assert_canonical(const char *given, const char *expected)
{
	struct err err;
	char *path;

	assert_int_equal(path_canonical(given, &path, &err), 0);
	assert_string_equal(path, expected);
	free(path);
}

static void test_expansion(void **state)
{
	(void)state;
	assert_canonical("/a/b", "/a/b");
	assert_canonical("~", "/home/me");
	assert_canonical("~/x/", "/home/me/x");
	assert_canonical("$PLACE/x", "/some/place/x");
	assert_canonical("${PLACE}x/..", "/some");
	assert_canonical("/a~/b", "/a~/b");
}

static void test_relative(void **state)
{
	(void)state;
	assert_int_equal(chdir("/usr"), 0);
	assert_canonical("lib/x", "/usr/lib/x");
	assert_canonical("../x", "/x");
	assert_canonical(".", "/usr");
	assert_int_equal(chdir("/"), 0);
	assert_canonical("x", "/x");
}

static void test_absolute_keeps_what_the_kernel_walks(void **state)
{
	struct err err;
	char *path;

	(void)state;
	assert_int_equal(path_absolute("/a/link/../b/", &path, &err), 0);
	assert_string_equal(path, "/a/link/../b/");
	free(path);
}

static void test_refused(void **state)
{
	struct err err = {0};
	char *path;

	(void)state;
	assert_int_equal(path_absolute("", &path, &err), -EINVAL);
	assert_int_equal(err.kind, ERR_INVALID);
	assert_int_equal(path_absolute("/a/$NO_SUCH_THING", &path, &err), -EINVAL);
	assert_non_null(strstr(err.message, "NO_SUCH_THING"));
	assert_int_equal(path_absolute("$EMPTY", &path, &err), -EINVAL);
}

static void test_base(void **state)
{
	(void)state;
	assert_string_equal(path_base("/a/b"), "b");
	assert_string_equal(path_base("/a/"), "");
	assert_string_equal(path_base("a"), "a");
}

static int set_up(void **state)
{
	(void)state;
	setenv("HOME", "/home/me", 1);
	setenv("PLACE", "/some/place", 1);
	setenv("EMPTY", "", 1);
	return env_init(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_clean),	 cmocka_unit_test(test_expansion),
		cmocka_unit_test(test_relative), cmocka_unit_test(test_absolute_keeps_what_the_kernel_walks),
		cmocka_unit_test(test_refused),	 cmocka_unit_test(test_base),
	};

	return cmocka_run_group_tests(tests, set_up, NULL);
}
