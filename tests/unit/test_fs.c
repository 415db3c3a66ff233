/* Files, and above all the removal of trees that somebody made to be hard to remove. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "lib/fs.h"

static char root[PATH_MAX];
static int root_fd = -EBADF;

static int setup(void **state)
{
	const char *tmp = getenv("TMPDIR");

	(void)state;
	(void)snprintf(root, sizeof(root), "%s/test_fs.XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp(root))
		return -1;
	root_fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return root_fd < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	(void)state;
	fd_close(&root_fd);
	return fs_remove_tree(AT_FDCWD, root);
}

static size_t count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	size_t n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static void make_file(int dirfd, const char *path)
{
	assert_int_equal(fs_write_file(dirfd, path, path, strlen(path), 0600), 0);
}

static bool exists(const char *path)
{
	struct stat st;

	return fstatat(root_fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

/* ---- reading and writing ----------------------------------------------- */

static void test_write_and_read(void **state)
{
	_cleanup_buf_ struct buf b = BUF_INIT(100000);
	char big[65000];
	struct stat st;

	(void)state;
	memset(big, 'b', sizeof(big));
	assert_int_equal(fs_write_file(root_fd, "f", big, sizeof(big), 0640), 0);
	assert_int_equal(fs_write_file(root_fd, "f", "short", 5, 0640), 0);
	assert_int_equal(buf_puts(&b, "before "), 0);
	assert_int_equal(fs_read_file(root_fd, "f", &b), 0);
	assert_string_equal(buf_cstr(&b), "before short");
	assert_int_equal(fstatat(root_fd, "f", &st, 0), 0);
	assert_int_equal(st.st_mode & 07037, 0);
	assert_int_equal(fs_write_file(root_fd, "f", big, sizeof(big), 0640), 0);
	buf_clear(&b);
	assert_int_equal(fs_read_file(root_fd, "f", &b), 0);
	assert_int_equal(b.len, sizeof(big));
	assert_memory_equal(b.data, big, sizeof(big));
	assert_int_equal(fs_write_file(root_fd, "empty", NULL, 0, 0600), 0);
	buf_clear(&b);
	assert_int_equal(fs_read_file(root_fd, "empty", &b), 0);
	assert_int_equal(b.len, 0);
}

static void test_read_limits(void **state)
{
	_cleanup_buf_ struct buf b = BUF_INIT(10);

	(void)state;
	assert_int_equal(fs_write_file(root_fd, "ten", "0123456789", 10, 0600), 0);
	assert_int_equal(fs_read_file(root_fd, "ten", &b), 0);
	assert_int_equal(b.len, 10);
	assert_int_equal(fs_read_file(root_fd, "ten", &b), -EFBIG);
	assert_int_equal(b.len, 10);
	buf_clear(&b);
	b.max = 9;
	assert_int_equal(fs_read_file(root_fd, "ten", &b), -EFBIG);
	assert_int_equal(b.len, 0);
	/* No size is known beforehand. */
	b.max = 100000;
	assert_int_equal(fs_read_file(AT_FDCWD, "/proc/self/status", &b), 0);
	assert_non_null(strstr(buf_cstr(&b), "nonvoluntary_ctxt_switches"));
	assert_int_equal(fs_read_file(root_fd, "none", &b), -ENOENT);
	assert_int_equal(fs_read_file(root_fd, ".", &b), -EISDIR);
}

/* A FIFO does not hold us, though nobody is at its other end. */
static void test_fifo(void **state)
{
	_cleanup_buf_ struct buf b = BUF_INIT(10);

	(void)state;
	assert_int_equal(mkfifoat(root_fd, "fifo", 0600), 0);
	assert_int_equal(fs_read_file(root_fd, "fifo", &b), 0);
	assert_int_equal(b.len, 0);
	assert_int_equal(fs_write_file(root_fd, "fifo", "x", 1, 0600), -ENXIO);
}

static size_t bytes_read;

static void *read_all(void *arg)
{
	static char bytes[1 << 20];
	ssize_t r;

	while ((r = read(*(int *)arg, bytes, sizeof(bytes))) > 0)
		bytes_read += (size_t)r;
	return NULL;
}

static void test_write_all(void **state)
{
	static char big[1 << 20];
	pthread_t reader;
	int fds[2];

	(void)state;
	/* Far more than a pipe holds. */
	assert_int_equal(fs_pipe(fds, 0, 0), 0);
	assert_int_equal(pthread_create(&reader, NULL, read_all, &fds[0]), 0);
	assert_int_equal(fs_write_all(fds[1], big, sizeof(big)), 0);
	fd_close(&fds[1]);
	assert_int_equal(pthread_join(reader, NULL), 0);
	assert_int_equal(bytes_read, sizeof(big));
	fd_close(&fds[0]);

	assert_int_equal(fs_pipe(fds, 0, 1), 0);
	assert_int_equal(fs_write_all(fds[1], big, sizeof(big)), -EAGAIN);
	(void)signal(SIGPIPE, SIG_IGN);
	fd_close(&fds[0]);
	assert_int_equal(fs_write_all(fds[1], big, 1), -EPIPE);
	fd_close(&fds[1]);
	assert_int_equal(fs_write_all(-1, big, 1), -EBADF);
	assert_int_equal(fs_write_all(-1, big, 0), 0);

	fds[0] = open("/dev/full", O_WRONLY | O_CLOEXEC);
	assert_true(fds[0] >= 0);
	assert_int_equal(fs_write_all(fds[0], big, 1), -ENOSPC);
	fd_close(&fds[0]);
	assert_int_equal(fs_write_file(AT_FDCWD, "/dev/full", "x", 1, 0600), -ENOSPC);
}

static void test_pipe(void **state)
{
	int fds[2];

	(void)state;
	for (int i = 0; i < 4; i++) {
		assert_int_equal(fs_pipe(fds, i & 1, i & 2), 0);
		assert_int_equal(!(fcntl(fds[0], F_GETFL) & O_NONBLOCK), !(i & 1));
		assert_int_equal(!(fcntl(fds[1], F_GETFL) & O_NONBLOCK), !(i & 2));
		assert_int_equal(fcntl(fds[0], F_GETFD), FD_CLOEXEC);
		assert_int_equal(fcntl(fds[1], F_GETFD), FD_CLOEXEC);
		assert_int_equal(fs_set_nonblock(fds[0]), 0);
		assert_int_equal(fs_set_nonblock(fds[0]), 0);
		assert_true(fcntl(fds[0], F_GETFL) & O_NONBLOCK);
		fd_close(&fds[0]);
		fd_close(&fds[1]);
	}
	assert_int_equal(fs_set_nonblock(-1), -EBADF);
}

/* ---- directories ------------------------------------------------------- */

static void test_mkdir_p(void **state)
{
	char path[PATH_MAX * 2], name[PATH_MAX];
	struct stat st;

	(void)state;
	(void)snprintf(path, sizeof(path), "%s/a//b/../c/d/", root);
	assert_int_equal(fs_mkdir_p(path, 0750), 0);
	assert_int_equal(fs_mkdir_p(path, 0750), 0);
	assert_true(exists("a/b") && exists("a/c/d"));
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777 & ~0750U, 0);

	make_file(root_fd, "a/file");
	(void)snprintf(path, sizeof(path), "%s/a/file", root);
	assert_int_equal(fs_mkdir_p(path, 0755), -ENOTDIR);
	(void)snprintf(path, sizeof(path), "%s/a/file/x", root);
	assert_int_equal(fs_mkdir_p(path, 0755), -ENOTDIR);
	assert_int_equal(symlinkat("c", root_fd, "a/link"), 0);
	(void)snprintf(path, sizeof(path), "%s/a/link/e", root);
	assert_int_equal(fs_mkdir_p(path, 0755), 0);
	assert_true(exists("a/c/e"));
	assert_int_equal(symlinkat("nowhere", root_fd, "a/dangling"), 0);
	(void)snprintf(path, sizeof(path), "%s/a/dangling", root);
	assert_int_equal(fs_mkdir_p(path, 0755), -ENOENT);

	assert_int_equal(fs_mkdir_p("", 0755), -ENOENT);
	assert_int_equal(fs_mkdir_p("/", 0755), 0);
	assert_int_equal(fs_mkdir_p("/proc", 0755), 0);
	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	(void)snprintf(path, sizeof(path), "%s/%s", root, name);
	assert_int_equal(fs_mkdir_p(path, 0755), -ENAMETOOLONG);
	(void)snprintf(path, sizeof(path), "%s/%.300s", root, name);
	assert_int_equal(fs_mkdir_p(path, 0755), -ENAMETOOLONG);
}

/* ---- removal ----------------------------------------------------------- */

static void test_remove_simple(void **state)
{
	size_t fds = count_fds();

	(void)state;
	make_file(root_fd, "file");
	assert_int_equal(fs_remove_tree(root_fd, "file"), 0);
	assert_int_equal(fs_remove_tree(root_fd, "file"), -ENOENT);
	assert_int_equal(mkdirat(root_fd, "dir", 0700), 0);
	assert_int_equal(fs_remove_tree(root_fd, "dir///"), 0);
	assert_false(exists("dir"));
	assert_int_equal(fs_remove_tree(root_fd, ""), -ENOENT);
	assert_int_equal(mkdirat(root_fd, "dir", 0700), 0);
	make_file(root_fd, "dir/x");
	assert_int_equal(fs_remove_tree(root_fd, "."), -EINVAL);
	assert_int_equal(fs_remove_tree(root_fd, "dir/."), -EINVAL);
	assert_int_equal(fs_remove_tree(root_fd, "dir/.."), -EINVAL);
	assert_int_equal(fs_remove_tree(root_fd, "dir/../"), -EINVAL);
	assert_int_equal(fs_remove_tree(root_fd, "/"), -EINVAL);
	assert_true(exists("dir/x"));
	assert_int_equal(count_fds(), fds);
}

static void test_links_are_not_followed(void **state)
{
	char target[PATH_MAX + 16];

	(void)state;
	assert_int_equal(mkdirat(root_fd, "kept", 0700), 0);
	make_file(root_fd, "kept/file");
	assert_int_equal(mkdirat(root_fd, "tree", 0700), 0);
	(void)snprintf(target, sizeof(target), "%s/kept", root);
	assert_int_equal(symlinkat(target, root_fd, "tree/link"), 0);
	assert_int_equal(symlinkat("../kept", root_fd, "tree/relative"), 0);
	assert_int_equal(symlinkat("kept", root_fd, "link"), 0);
	assert_int_equal(symlinkat("kept", root_fd, "link2"), 0);
	assert_int_equal(fs_remove_tree(root_fd, "tree"), 0);
	assert_int_equal(fs_remove_tree(root_fd, "link"), 0);
	assert_int_equal(fs_remove_tree(root_fd, "link2/"), 0);
	assert_false(exists("tree") || exists("link") || exists("link2"));
	assert_true(exists("kept/file"));
}

/* More subdirectories than are noted at a look, and files between them. */
static void test_remove_wide(void **state)
{
	char name[64];

	(void)state;
	assert_int_equal(mkdirat(root_fd, "wide", 0700), 0);
	for (int i = 0; i < 1100; i++) {
		(void)snprintf(name, sizeof(name), "wide/d%d", i);
		assert_int_equal(mkdirat(root_fd, name, 0700), 0);
		(void)snprintf(name, sizeof(name), "wide/d%d/sub", i);
		if (i % 7 == 0)
			assert_int_equal(mkdirat(root_fd, name, 0700), 0);
		(void)snprintf(name, sizeof(name), "wide/f%d", i);
		make_file(root_fd, name);
	}
	assert_int_equal(fs_remove_tree(root_fd, "wide"), 0);
	assert_false(exists("wide"));
}

/* Deeper than a path can be written and than there are descriptors; every level with a neighbour. */
static void test_remove_deep(void **state)
{
	int fd = openat(root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), next;
	struct rlimit before, few;
	size_t fds;

	(void)state;
	for (int i = 0; i < 1100; i++) {
		assert_int_equal(mkdirat(fd, "deep", 0700), 0);
		assert_int_equal(mkdirat(fd, "near", 0700), 0);
		make_file(fd, "file");
		next = openat(fd, "deep", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		assert_true(next >= 0);
		fd_close(&fd);
		fd = next;
	}
	fd_close(&fd);
	fds = count_fds();
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	few = (struct rlimit){.rlim_cur = 64, .rlim_max = before.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	assert_int_equal(fs_remove_tree(root_fd, "deep"), 0);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	assert_false(exists("deep"));
	assert_int_equal(count_fds(), fds);
}

/* In a child without privileges: prints nothing, its exit code tells. */
static int remove_as_nobody(const char *path)
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0) {
		if (geteuid() == 0 && (setgid(65534) < 0 || setuid(65534) < 0))
			_exit(255);
		_exit(-fs_remove_tree(root_fd, path));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return -WEXITSTATUS(status);
}

/* What may not be entered stays and is told; all else goes. */
static void test_remove_what_is_allowed(void **state)
{
	uid_t uid = geteuid() == 0 ? 65534 : geteuid();

	(void)state;
	assert_int_equal(fchmodat(AT_FDCWD, root, 0755, 0), 0);
	assert_int_equal(mkdirat(root_fd, "p", 0700), 0);
	assert_int_equal(mkdirat(root_fd, "p/t", 0700), 0);
	assert_int_equal(mkdirat(root_fd, "p/t/closed", 0700), 0);
	make_file(root_fd, "p/t/closed/file");
	assert_int_equal(mkdirat(root_fd, "p/t/empty", 0700), 0);
	assert_int_equal(mkdirat(root_fd, "p/t/open", 0700), 0);
	make_file(root_fd, "p/t/open/file");
	make_file(root_fd, "p/t/file");
	assert_int_equal(fchmodat(root_fd, "p/t/closed", 0, 0), 0);
	assert_int_equal(fchmodat(root_fd, "p/t/empty", 0, 0), 0);
	assert_int_equal(fchownat(root_fd, "p", uid, (gid_t)-1, 0), 0);
	assert_int_equal(fchownat(root_fd, "p/t", uid, (gid_t)-1, 0), 0);
	assert_int_equal(fchownat(root_fd, "p/t/closed", uid, (gid_t)-1, 0), 0);
	assert_int_equal(fchownat(root_fd, "p/t/empty", uid, (gid_t)-1, 0), 0);
	assert_int_equal(fchownat(root_fd, "p/t/open", uid, (gid_t)-1, 0), 0);
	assert_int_equal(remove_as_nobody("p/t"), -EACCES);
	assert_true(exists("p/t/closed"));
	assert_false(exists("p/t/open") || exists("p/t/file") || exists("p/t/empty"));
	assert_int_equal(fchmodat(root_fd, "p/t/closed", 0700, 0), 0);
}

/* In a mount namespace of its own: a bind mount of the very same file system is not entered. */
static int remove_with_mount(void)
{
	char a[PATH_MAX + 16], b[PATH_MAX + 16], t[PATH_MAX + 16];

	(void)snprintf(a, sizeof(a), "%s/kept", root);
	(void)snprintf(b, sizeof(b), "%s/t/mnt", root);
	(void)snprintf(t, sizeof(t), "%s/t", root);
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount(a, b, NULL, MS_BIND, NULL) < 0)
		return 255;
	/* By path: root_fd still leads into the namespace that it was opened in. */
	return -fs_remove_tree(AT_FDCWD, t);
}

static void test_mounts_are_not_crossed(void **state)
{
	int status;
	pid_t pid;

	(void)state;
	assert_int_equal(mkdirat(root_fd, "kept", 0700), 0);
	make_file(root_fd, "kept/file");
	assert_int_equal(mkdirat(root_fd, "t", 0700), 0);
	assert_int_equal(mkdirat(root_fd, "t/mnt", 0700), 0);
	make_file(root_fd, "t/file");
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(remove_with_mount());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 255) {
		print_message("skipped: no right to make a mount namespace here\n");
		skip();
	}
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), EBUSY);
	assert_true(exists("kept/file"));
	assert_false(exists("t/file"));
}

static int racing;

/* Renames a directory out of the tree and back, and fills what has been emptied. */
static void *racer(void *arg)
{
	(void)arg;
	while (__atomic_load_n(&racing, __ATOMIC_RELAXED)) {
		(void)renameat(root_fd, "t/a/b", root_fd, "outside/b");
		(void)mkdirat(root_fd, "t/a/b", 0700);
		(void)renameat(root_fd, "outside/b", root_fd, "t/a/c");
		(void)!symlinkat("../../outside", root_fd, "t/a/b/d");
		(void)!symlinkat("../outside", root_fd, "t/e");
	}
	return NULL;
}

/* Whatever the owner of the tree does meanwhile, what lies beside it stays. */
static void test_remove_against_a_racer(void **state)
{
	pthread_t thread;

	(void)state;
	assert_int_equal(mkdirat(root_fd, "outside", 0700), 0);
	make_file(root_fd, "outside/file");
	__atomic_store_n(&racing, 1, __ATOMIC_RELAXED);
	assert_int_equal(pthread_create(&thread, NULL, racer, NULL), 0);
	for (int i = 0; i < 40; i++) {
		int r;

		(void)mkdirat(root_fd, "t", 0700);
		(void)mkdirat(root_fd, "t/a", 0700);
		(void)mkdirat(root_fd, "t/a/b", 0700);
		(void)mkdirat(root_fd, "t/a/b/d", 0700);
		r = fs_remove_tree(root_fd, "t");
		if (r != 0 && r != -ENOTEMPTY && r != -EBUSY && r != -ENOTDIR && r != -ELOOP &&
		    r != -ENOENT && r != -EISDIR)
			fail_msg("%s", strerror(-r));
		assert_true(exists("outside/file"));
	}
	__atomic_store_n(&racing, 0, __ATOMIC_RELAXED);
	assert_int_equal(pthread_join(thread, NULL), 0);
	(void)fs_remove_tree(root_fd, "t");
	assert_false(exists("t"));
}

#define MOVED 8

/* Takes directories out of the tree while they are being emptied. */
static void *mover(void *arg)
{
	char from[32], to[32];

	for (unsigned i = 0; __atomic_load_n(&racing, __ATOMIC_RELAXED); i++) {
		(void)snprintf(from, sizeof(from), "t/a/d%u", i % MOVED);
		(void)snprintf(to, sizeof(to), "outside/m%d.%u", *(int *)arg, i);
		(void)renameat(root_fd, from, root_fd, to);
	}
	return NULL;
}

/*
 * From a directory that has been moved, ".." leads outside, where there are
 * directories of the same names as those still to be removed.
 */
static void test_moved_out_while_inside(void **state)
{
	pthread_t thread;
	char path[64];

	(void)state;
	assert_int_equal(mkdirat(root_fd, "outside", 0700), 0);
	for (int d = 0; d < MOVED; d++) {
		(void)snprintf(path, sizeof(path), "outside/d%d", d);
		assert_int_equal(mkdirat(root_fd, path, 0700), 0);
		(void)snprintf(path, sizeof(path), "outside/d%d/file", d);
		make_file(root_fd, path);
	}
	for (int i = 0; i < 40; i++) {
		assert_int_equal(mkdirat(root_fd, "t", 0700), 0);
		assert_int_equal(mkdirat(root_fd, "t/a", 0700), 0);
		for (int d = 0; d < MOVED; d++) {
			(void)snprintf(path, sizeof(path), "t/a/d%d", d);
			assert_int_equal(mkdirat(root_fd, path, 0700), 0);
			for (int f = 0; f < 20; f++) {
				(void)snprintf(path, sizeof(path), "t/a/d%d/f%d", d, f);
				assert_int_equal(symlinkat("x", root_fd, path), 0);
			}
		}
		__atomic_store_n(&racing, 1, __ATOMIC_RELAXED);
		assert_int_equal(pthread_create(&thread, NULL, mover, &i), 0);
		(void)fs_remove_tree(root_fd, "t");
		__atomic_store_n(&racing, 0, __ATOMIC_RELAXED);
		assert_int_equal(pthread_join(thread, NULL), 0);
		(void)fs_remove_tree(root_fd, "t");
		for (int d = 0; d < MOVED; d++) {
			(void)snprintf(path, sizeof(path), "outside/d%d/file", d);
			assert_true(exists(path));
		}
	}
}

/* It waits in fcntl(), which can only be for a lock. /proc/locks would not show it within a PID namespace. */
static bool waits_for_lock(pid_t pid)
{
	char path[64];
	long call = -1;

	(void)snprintf(path, sizeof(path), "/proc/%d/syscall", pid);
	FILE *f = fopen(path, "re");
	if (f && fscanf(f, "%ld", &call) != 1)
		call = -1;
	if (f)
		(void)fclose(f);
	return call == SYS_fcntl;
}

/* A child on its way to exec: it has its parent's descriptors, and so its locks, when that one is dead. */
static int remnant(void *arg)
{
	const pid_t tester = *(const pid_t *)arg;

	while (!waits_for_lock(tester) && kill(tester, 0) == 0)
		(void)sched_yield();
	_exit(0);
}

static void lock_and_die(pid_t tester)
{
	static char stack[64 * 1024];
	int fd = openat(root_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0 || fs_lock(fd) < 0 || clone(remnant, stack + sizeof(stack), CLONE_FILES, &tester) < 0)
		_exit(1);
	_exit(0);
}

static void test_lock_of_a_dead_one(void **state)
{
	const pid_t self = getpid();
	int wstatus;

	(void)state;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		lock_and_die(self);
	assert_int_equal(waitpid(pid, &wstatus, 0), pid);
	assert_int_equal(wstatus, 0);
	int fd = openat(root_fd, "lock", O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(fs_lock(fd), 0);
	fd_close(&fd);
}

static void test_lock_of_a_living_one(void **state)
{
	int wstatus;

	(void)state;
	int fd = openat(root_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(fs_lock(fd), 0);
	assert_int_equal(fs_lock(fd), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(fs_lock(openat(root_fd, "lock", O_RDWR | O_CLOEXEC)) == -EAGAIN ? 0 : 1);
	assert_int_equal(waitpid(pid, &wstatus, 0), pid);
	assert_int_equal(wstatus, 0);
	fd_close(&fd);
}

/* In a PID namespace of its own nobody can see who holds it; it is not waited for forever. */
static void test_lock_of_a_living_one_outside(void **state)
{
	int wstatus;

	(void)state;
	int fd = openat(root_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(fs_lock(fd), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (unshare(CLONE_NEWPID) < 0)
			_exit(2);
		pid = fork(); /* the first one in it */
		if (pid == 0)
			_exit(fs_lock(openat(root_fd, "lock", O_RDWR | O_CLOEXEC)) == -EAGAIN ? 0 : 1);
		_exit(waitpid(pid, &wstatus, 0) == pid && wstatus == 0 ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &wstatus, 0), pid);
	fd_close(&fd);
	if (WEXITSTATUS(wstatus) == 2) {
		print_message("no PID namespace can be made here\n");
		skip();
	}
	assert_int_equal(wstatus, 0);
}

#define fs_test(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		fs_test(test_write_and_read),
		fs_test(test_read_limits),
		fs_test(test_fifo),
		fs_test(test_write_all),
		fs_test(test_pipe),
		fs_test(test_mkdir_p),
		fs_test(test_remove_simple),
		fs_test(test_links_are_not_followed),
		fs_test(test_remove_wide),
		fs_test(test_remove_deep),
		fs_test(test_remove_what_is_allowed),
		fs_test(test_mounts_are_not_crossed),
		fs_test(test_remove_against_a_racer),
		fs_test(test_moved_out_while_inside),
		fs_test(test_lock_of_a_dead_one),
		fs_test(test_lock_of_a_living_one),
		fs_test(test_lock_of_a_living_one_outside),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
