/* Where commits make what they move: one for each, what the dead have left goes, what the living have stays.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "execd/isolated/staging.h"
#include "lib/fs.h"
#include "lib/util.h"

static char dir[] = "/tmp/test_staging.XXXXXX";
static int at;

static bool is_there(const char *name)
{
	struct stat st;

	return fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

static struct timespec mtime(void)
{
	struct stat st;

	assert_int_equal(fstat(at, &st), 0);
	return st.st_mtim;
}

static int make_dir(const char *name, mode_t mode)
{
	int fd;

	assert_int_equal(mkdirat(at, name, mode), 0);
	fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(fs_write_file(fd, STAGING_NEW, "x", 1, 0600), 0);
	return fd;
}

static void test_the_dead_and_the_living(void **state)
{
	_cleanup_close_ int living = make_dir(STAGING_PREFIX "0", 0700),
			    dead = make_dir(STAGING_PREFIX "1", 0700);
	struct staging a, b;

	(void)state;
	assert_int_equal(flock(living, LOCK_EX), 0);
	assert_int_equal(staging_open(&a, at), 0);
	assert_int_equal(staging_open(&b, at), 0);
	assert_string_equal(a.name, STAGING_PREFIX "1");
	assert_string_equal(b.name, STAGING_PREFIX "2");
	/* Its own, and empty. */
	assert_int_equal(faccessat(a.fd, STAGING_NEW, F_OK, 0), -1);
	assert_int_equal(faccessat(living, STAGING_NEW, F_OK, 0), 0);
	staging_close(&a);
	assert_true(is_there(STAGING_PREFIX "2"));
	staging_close(&b);
	staging_close(&b);
	assert_true(is_there(STAGING_PREFIX "0") && !is_there(STAGING_PREFIX "1") &&
		    !is_there(STAGING_PREFIX "2"));
	assert_int_equal(flock(living, LOCK_UN), 0);
	staging_sweep(at);
	assert_false(is_there(STAGING_PREFIX "0"));
}

static void test_what_is_not_ours_stays(void **state)
{
	_cleanup_close_ int open_to_all = make_dir(STAGING_PREFIX "0", 0755);
	struct staging s;

	(void)state;
	assert_int_equal(mkdirat(at, "elsewhere", 0700), 0);
	assert_int_equal(symlinkat("elsewhere", at, STAGING_PREFIX "1"), 0);
	assert_int_equal(mkfifoat(at, STAGING_PREFIX "2", 0600), 0);
	assert_int_equal(staging_open(&s, at), 0);
	assert_string_equal(s.name, STAGING_PREFIX "3");
	staging_close(&s);
	assert_true(is_there(STAGING_PREFIX "0") && is_there(STAGING_PREFIX "1") &&
		    is_there(STAGING_PREFIX "2") && is_there("elsewhere"));
	/* All the names taken: one that nobody could know. */
	for (int n = 3; n < STAGING_MAX; n++) {
		char name[32];

		(void)snprintf(name, sizeof(name), STAGING_PREFIX "%d", n);
		assert_int_equal(mknodat(at, name, S_IFREG | 0600, 0), 0);
	}
	assert_int_equal(staging_open(&s, at), 0);
	assert_true(is_there(s.name));
	staging_close(&s);
	assert_false(is_there(s.name));
}

static void test_times_of_the_parent(void **state)
{
	const struct timespec then[2] = {{.tv_sec = 1000000}, {.tv_sec = 1000001, .tv_nsec = 5}};
	struct staging s;

	(void)state;
	for (int kept = 0; kept < 2; kept++) {
		assert_int_equal(futimens(at, then), 0);
		assert_int_equal(staging_open(&s, at), 0);
		s.kept = kept;
		staging_close(&s);
		assert_int_equal(mtime().tv_sec == then[1].tv_sec && mtime().tv_nsec == then[1].tv_nsec,
				 !kept);
	}
}

static int set_up(void **state)
{
	(void)state;
	at = mkdtemp(dir) ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	return at < 0;
}

static int tear_down(void **state)
{
	int r = fs_remove_tree(AT_FDCWD, dir);

	(void)state;
	(void)snprintf(dir, sizeof(dir), "/tmp/test_staging.XXXXXX");
	fd_close(&at);
	return r < 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_the_dead_and_the_living, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_what_is_not_ours_stays, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_times_of_the_parent, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
