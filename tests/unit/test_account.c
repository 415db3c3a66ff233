/* Names and groups from files that anybody may have written. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "execd/account.h"
#include "lib/fs.h"

static char dir[] = "/tmp/test_account.XXXXXX";
static char passwd[64], group[64];

static struct accounts *load(const char *users, const char *groups)
{
	struct accounts *a = NULL;

	assert_int_equal(fs_write_file(AT_FDCWD, passwd, users, strlen(users), 0644), 0);
	assert_int_equal(fs_write_file(AT_FDCWD, group, groups, strlen(groups), 0644), 0);
	assert_int_equal(accounts_load_from(passwd, group, &a), 0);
	return a;
}

static void test_names(void **state)
{
	struct accounts *a = load("root:x:0:0:root:/root:/bin/bash\n"
				  "dev:x:1000:1000:Dev,,,:/home/dev:/bin/sh\n"
				  "toor:x:0:0::/other:\n",
				  "root:x:0:\nwheel:x:10:dev,root\ndev:x:1000:\n");
	uid_t uid;
	gid_t gid;

	(void)state;
	assert_string_equal(accounts_user_name(a, 0), "root");
	assert_string_equal(accounts_user_name(a, 1000), "dev");
	assert_null(accounts_user_name(a, 1001));
	assert_string_equal(accounts_user_home(a, 1000), "/home/dev");
	assert_string_equal(accounts_group_name(a, 10), "wheel");
	assert_null(accounts_group_name(a, 11));
	assert_int_equal(accounts_user_id(a, "dev", &uid), 0);
	assert_int_equal(uid, 1000);
	assert_int_equal(accounts_user_id(a, "toor", &uid), 0);
	assert_int_equal(uid, 0);
	assert_int_equal(accounts_group_id(a, "wheel", &gid), 0);
	assert_int_equal(gid, 10);
	assert_int_equal(accounts_user_id(a, "4711", &uid), 0);
	assert_int_equal(uid, 4711);
	assert_int_equal(accounts_group_id(a, "4712", &gid), 0);
	assert_int_equal(gid, 4712);
	assert_int_equal(accounts_user_id(a, "nobody", &uid), -ENOENT);
	assert_int_equal(accounts_user_id(a, "", &uid), -ENOENT);
	assert_int_equal(accounts_user_id(a, "-1", &uid), -ENOENT);
	assert_int_equal(accounts_user_id(a, "4294967295", &uid), -ENOENT);
	assert_int_equal(accounts_primary_group(a, 1000, &gid), 0);
	assert_int_equal(gid, 1000);
	assert_int_equal(accounts_primary_group(a, 5, &gid), -ENOENT);
	accounts_free(a);
}

static void test_groups_of_a_user(void **state)
{
	struct accounts *a = load("dev:x:1000:1000::/home/dev:\nde:x:1001:1001::/:\n",
				  "a:x:7:dev\nb:x:3:de,dev\nc:x:9:develop\nd:x:3:dev\ndev:x:1000:dev\n"
				  "e:x:5:xdev,devx\nf:x:6:,dev,\n");
	gid_t *groups;
	size_t n;

	(void)state;
	assert_int_equal(accounts_groups(a, 1000, &groups, &n), 0);
	assert_int_equal(n, 4);
	assert_int_equal(groups[0], 3);
	assert_int_equal(groups[1], 6);
	assert_int_equal(groups[2], 7);
	assert_int_equal(groups[3], 1000);
	free(groups);
	assert_int_equal(accounts_groups(a, 1001, &groups, &n), 0);
	assert_int_equal(n, 2);
	free(groups);
	assert_int_equal(accounts_groups(a, 77, &groups, &n), 0);
	assert_int_equal(n, 0);
	assert_null(groups);
	accounts_free(a);
}

static void test_lines_that_make_no_sense(void **state)
{
	struct accounts *a = load("\n:::\nx\nx:y\n:x:3:3::/:\nbad:x:12a:3::/:\nneg:x:-1:3::/:\n"
				  "big:x:99999999999999999999:1::/:\n# comment:x:8:8::/:\n"
				  "ok:x:5:6",
				  "::\n:x:4:\nbad:x::\nok:x:6");

	(void)state;
	assert_string_equal(accounts_user_name(a, 5), "ok");
	assert_null(accounts_user_home(a, 5));
	assert_null(accounts_user_name(a, 3));
	assert_null(accounts_user_name(a, 12));
	assert_string_equal(accounts_group_name(a, 6), "ok");
	assert_null(accounts_group_name(a, 4));
	accounts_free(a);
}

static void test_files_that_are_no_files(void **state)
{
	struct accounts *a = NULL;

	(void)state;
	assert_int_equal(accounts_load_from("/nonexistent/passwd", "/nonexistent/group", &a), 0);
	assert_null(accounts_user_name(a, 0));
	accounts_free(a);
	a = NULL;
	/* A fifo without a writer would hold an ordinary open() for ever. */
	assert_int_equal(unlink(passwd), 0);
	assert_int_equal(mkfifo(passwd, 0600), 0);
	assert_int_equal(accounts_load_from(passwd, group, &a), -EINVAL);
	assert_int_equal(unlink(passwd), 0);
	assert_int_equal(accounts_load_from("/", group, &a), -EINVAL);
	assert_int_equal(fs_write_file(AT_FDCWD, passwd, "", 0, 0644), 0);
	assert_int_equal(truncate(passwd, ACCOUNT_FILE_MAX + 1), 0);
	assert_int_equal(accounts_load_from(passwd, group, &a), -EFBIG);
	assert_null(a);
	accounts_free(NULL);
}

static int set_up(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	(void)snprintf(passwd, sizeof(passwd), "%s/passwd", dir);
	(void)snprintf(group, sizeof(group), "%s/group", dir);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	return fs_remove_tree(AT_FDCWD, dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_groups_of_a_user),
		cmocka_unit_test(test_lines_that_make_no_sense),
		cmocka_unit_test(test_files_that_are_no_files),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
