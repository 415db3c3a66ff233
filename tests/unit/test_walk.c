/* Walking trees: order, depth, width, what changes meanwhile, and how little is held open. */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "execd/walk.h"
#include "lib/buf.h"
#include "lib/fs.h"

static char dir[] = "/tmp/test_walk.XXXXXX";

static void touch(const char *path)
{
	assert_int_equal(fs_write_file(AT_FDCWD, path, "", 0, 0644), 0);
}

static struct walk *walk_at(const char *path, uint64_t depth)
{
	struct walk *w = NULL;
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(walk_new(fd, depth, &w), 0);
	return w;
}

/* All paths, one a line, directories with a slash. */
static const char *told(struct buf *out, struct walk *w)
{
	struct walk_entry e;
	int r;

	buf_clear(out);
	while ((r = walk_next(w, &e)) > 0)
		(void)buf_printf(out, "%s%s\n", e.path, e.is_dir ? "/" : "");
	assert_int_equal(r, 0);
	walk_free(w);
	return buf_cstr(out);
}

static void test_order_and_depth(void **state)
{
	_cleanup_buf_ struct buf out = BUF_INIT(65536);

	(void)state;
	assert_int_equal(fs_mkdir_p("t/b/deep/er", 0755), 0);
	assert_int_equal(fs_mkdir_p("t/B", 0755), 0);
	touch("t/a");
	touch("t/b.x");
	touch("t/b/z");
	touch("t/b/deep/f");
	assert_int_equal(symlink("b", "t/link"), 0);
	assert_int_equal(symlink("/", "t/root"), 0);

	assert_string_equal(told(&out, walk_at("t", 1)), "B/\na\nb/\nb.x\nlink\nroot\n");
	assert_string_equal(told(&out, walk_at("t", 2)), "B/\na\nb/\nb/deep/\nb/z\nb.x\nlink\nroot\n");
	assert_string_equal(told(&out, walk_at("t", UINT64_MAX)),
			    "B/\na\nb/\nb/deep/\nb/deep/er/\nb/deep/f\nb/z\nb.x\nlink\nroot\n");
	assert_string_equal(told(&out, walk_at("t/B", 9)), "");
}

static void test_names_of_any_bytes(void **state)
{
	_cleanup_buf_ struct buf out = BUF_INIT(65536);

	(void)state;
	assert_int_equal(mkdir("n", 0755), 0);
	touch("n/new\nline");
	touch("n/\xff\xfe");
	touch("n/ ");
	assert_string_equal(told(&out, walk_at("n", 1)), " \nnew\nline\n\xff\xfe\n");
}

static size_t open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	size_t n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* Far deeper than there are descriptors, and than a path may be long. */
static void test_deep(void **state)
{
	enum { DEPTH = 3000 };
	struct walk_entry e;
	struct walk *w;
	size_t n = 0, files = 0, before, most = 0;
	int r, fd;

	(void)state;
	assert_int_equal(mkdir("deep", 0755), 0);
	fd = open("deep", O_RDONLY | O_DIRECTORY);
	for (int i = 0; i < DEPTH; i++) {
		assert_int_equal(mkdirat(fd, "d", 0755), 0);
		/* Told after what is below it: every level is gone back to. */
		assert_int_equal(fs_write_file(fd, "e", "", 0, 0644), 0);
		int next = openat(fd, "d", O_RDONLY | O_DIRECTORY);

		close(fd);
		fd = next;
	}
	close(fd);

	before = open_fds();
	w = walk_at("deep", UINT64_MAX);
	while ((r = walk_next(w, &e)) > 0) {
		n += e.is_dir;
		files += !e.is_dir;
		if (n % 500 == 0)
			most = MAX(most, open_fds());
	}
	assert_int_equal(r, 0);
	assert_int_equal(n, DEPTH);
	assert_int_equal(files, DEPTH);
	assert_in_range(most - before, 2, WALK_FDS_MAX + 2);
	walk_free(w);
	assert_int_equal(open_fds(), before);
}

static void test_wide(void **state)
{
	struct walk_entry e;
	struct walk *w;
	char name[64], last[64] = "";
	size_t n = 0;
	int r;

	(void)state;
	assert_int_equal(mkdir("wide", 0755), 0);
	for (int i = 0; i < 20000; i++) {
		(void)snprintf(name, sizeof(name), "wide/%d", i * 7919 % 20000);
		touch(name);
	}
	w = walk_at("wide", 1);
	while ((r = walk_next(w, &e)) > 0) {
		assert_true(strcmp(last, e.name) < 0);
		(void)snprintf(last, sizeof(last), "%s", e.name);
		n++;
	}
	assert_int_equal(r, 0);
	assert_int_equal(n, 20000);
	walk_free(w);
}

/* A directory that becomes a link between its telling and its entering is not followed. */
static void test_replaced_by_a_link(void **state)
{
	_cleanup_buf_ struct buf out = BUF_INIT(4096);
	struct walk_entry e;
	struct walk *w;

	(void)state;
	assert_int_equal(fs_mkdir_p("r/a", 0755), 0);
	assert_int_equal(fs_mkdir_p("elsewhere", 0755), 0);
	touch("r/b");
	touch("elsewhere/secret");
	w = walk_at("r", 9);
	assert_int_equal(walk_next(w, &e), 1);
	assert_string_equal(e.path, "a");
	assert_int_equal(rmdir("r/a"), 0);
	assert_int_equal(symlink("../elsewhere", "r/a"), 0);
	assert_string_equal(told(&out, w), "b\n");
}

/* The tree is moved while the walk is far below: it ends there, or goes on in the tree, never elsewhere. */
static void test_moved_away(void **state)
{
	_cleanup_buf_ struct buf path = BUF_INIT(65536), out = BUF_INIT(65536);
	struct walk_entry e;
	struct walk *w;

	(void)state;
	(void)buf_puts(&path, "m/top");
	for (int i = 0; i < 40; i++)
		(void)buf_puts(&path, "/d");
	assert_int_equal(fs_mkdir_p(buf_cstr(&path), 0755), 0);
	assert_int_equal(fs_mkdir_p("stranger/top", 0755), 0);
	touch("m/zz");
	touch("stranger/top/zz-secret");
	touch("stranger/zz-secret");
	w = walk_at("m", UINT64_MAX);
	for (int i = 0; i < 41; i++)
		assert_int_equal(walk_next(w, &e), 1);
	/* m/top/d moves: its "..", where the walk comes by, is now a stranger. */
	assert_int_equal(rename("m/top/d", "stranger/top/d"), 0);
	assert_null(strstr(told(&out, w), "secret"));
	assert_string_equal(buf_cstr(&out), "zz\n");
}

static void test_unreadable_is_passed_over(void **state)
{
	_cleanup_buf_ struct buf out = BUF_INIT(4096);

	(void)state;
	assert_int_equal(fs_mkdir_p("u/closed/in", 0755), 0);
	touch("u/open");
	assert_int_equal(chmod("u/closed", 0), 0);
	/* Root may read it all the same, hence as somebody else. */
	if (getuid() == 0)
		assert_int_equal(seteuid(65534), 0);
	assert_string_equal(told(&out, walk_at("u", 9)), "closed/\nopen\n");
	if (getuid() == 0)
		assert_int_equal(seteuid(0), 0);
	assert_int_equal(chmod("u/closed", 0755), 0);
}

static void test_no_descriptors_is_an_error(void **state)
{
	struct rlimit old, low = {0};
	struct walk_entry e;
	struct walk *w;
	int r;

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	w = walk_at("t", 9);
	low = old;
	low.rlim_cur = 3;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
	while ((r = walk_next(w, &e)) > 0)
		;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	assert_int_equal(r, -EMFILE);
	walk_free(w);
}

static int set_up(void **state)
{
	(void)state;
	if (!mkdtemp(dir) || chmod(dir, 0755) < 0)
		return -1;
	return chdir(dir);
}

static int tear_down(void **state)
{
	(void)state;
	return fs_remove_tree(AT_FDCWD, dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_order_and_depth),
		cmocka_unit_test(test_names_of_any_bytes),
		cmocka_unit_test(test_deep),
		cmocka_unit_test(test_wide),
		cmocka_unit_test(test_replaced_by_a_link),
		cmocka_unit_test(test_moved_away),
		cmocka_unit_test(test_unreadable_is_passed_over),
		cmocka_unit_test(test_no_descriptors_is_an_error),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
