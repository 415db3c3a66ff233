/* Errors as clients will read them. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "lib/err.h"

static void test_set(void **state)
{
	struct err err = {};

	(void)state;
	assert_int_equal(err_set(&err, ERR_LIMIT, "TOO_MANY", EAGAIN, "%d of %s", 3, "them"), -EAGAIN);
	assert_int_equal(err.kind, ERR_LIMIT);
	assert_string_equal(err.code, "TOO_MANY");
	assert_int_equal(err.errnum, EAGAIN);
	assert_string_equal(err.message, "3 of them");
	assert_int_equal(err_set(&err, ERR_INVALID, "X", 0, "no errno"), -EINVAL);
	assert_int_equal(err.errnum, 0);
	assert_int_equal(err_set(NULL, ERR_INVALID, "X", ENOENT, "nobody listens"), -ENOENT);
	assert_int_equal(err_sys(NULL, "X", ENOENT, "nobody listens"), -ENOENT);
}

static void test_sys_kinds(void **state)
{
	static const struct {
		int errnum;
		enum err_kind kind;
	} table[] = {
		{ENOENT, ERR_NOT_FOUND},   {EACCES, ERR_FORBIDDEN},   {EPERM, ERR_FORBIDDEN},
		{ENOSPC, ERR_STORAGE},	   {EDQUOT, ERR_STORAGE},     {EMFILE, ERR_UNAVAILABLE},
		{ENFILE, ERR_UNAVAILABLE}, {EAGAIN, ERR_UNAVAILABLE}, {ENOMEM, ERR_UNAVAILABLE},
		{EEXIST, ERR_CONFLICT},	   {ENOTEMPTY, ERR_CONFLICT}, {EBUSY, ERR_CONFLICT},
		{ENOTDIR, ERR_INVALID},	   {EISDIR, ERR_INVALID},     {ENAMETOOLONG, ERR_INVALID},
		{ELOOP, ERR_INVALID},	   {EINVAL, ERR_INVALID},     {EIO, ERR_INTERNAL},
		{EPROTO, ERR_INTERNAL},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct err err;

		assert_int_equal(err_sys(&err, "X", table[i].errnum, "it"), -table[i].errnum);
		assert_int_equal(err.kind, table[i].kind);
		assert_int_equal(err.errnum, table[i].errnum);
	}
}

static void test_sys_message(void **state)
{
	struct err err;
	char path[4096];

	(void)state;
	(void)err_sys(&err, "X", EACCES, "open '%s'", "/workspace/x");
	assert_string_equal(err.message, "open '/workspace/x': permission denied");

	/* The reason survives a name of any length. */
	memset(path, 'a', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	(void)err_sys(&err, "X", ENOENT, "open '%s'", path);
	assert_int_equal(strlen(err.message), ERR_MESSAGE_MAX - 1);
	assert_non_null(strstr(err.message, "aaa: no such file or directory"));
}

/* A failure is told again with more around it. */
static void test_message_within_itself(void **state)
{
	struct err err;

	(void)state;
	(void)err_set(&err, ERR_INTERNAL, "X", EIO, "disk gone");
	(void)err_set(&err, err.kind, err.code, err.errnum, "save: %s", err.message);
	assert_string_equal(err.message, "save: disk gone");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_set),
		cmocka_unit_test(test_sys_kinds),
		cmocka_unit_test(test_sys_message),
		cmocka_unit_test(test_message_within_itself),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
