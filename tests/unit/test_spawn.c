/* What a started process finds: descriptors, limits, ids, signals; and what a failed start says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "lib/fs.h"
#include "lib/spawn.h"

static char *const env[] = {"PATH=/usr/local/bin:/usr/bin:/bin", "MARK=here", NULL};
static char dir[64];

/* Reads to the end of file. */
static void read_all(int fd, struct buf *out)
{
	ssize_t n;

	do {
		assert_int_equal(buf_reserve(out, 4096), 0);
		n = read(fd, buf_tail(out), 4096);
		assert_true(n >= 0);
		out->len += (size_t)n;
	} while (n > 0);
}

static int await(pid_t pid)
{
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

/* Runs spec with its standard output on a pipe and returns what it wrote; it must exit with 0. */
static const char *output_of(struct spawn *spec, struct buf *out)
{
	struct err err = {};
	int fds[2], pidfd;
	pid_t pid;

	assert_int_equal(fs_pipe(fds, 0, 0), 0);
	spec->fds[spec->fds_n++] = (struct spawn_fd){.parent_fd = fds[1], .child_fd = 1};
	if (spawn(spec, &pid, &pidfd, &err) < 0)
		fail_msg("%s", err.message);
	fd_close(&fds[1]);
	buf_clear(out);
	read_all(fds[0], out);
	fd_close(&fds[0]);
	fd_close(&pidfd);
	assert_int_equal(await(pid), 0);
	return buf_cstr(out);
}

static const char *shell(const char *script, struct spawn *spec, struct buf *out)
{
	char *argv[] = {"sh", "-c", (char *)script, NULL};

	spec->path = "/bin/sh";
	spec->argv = argv;
	spec->envp = spec->envp ? spec->envp : env;
	return output_of(spec, out);
}

static size_t count_fds(void)
{
	size_t n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* Nothing is left: no child, no descriptor. */
static void fails(const struct spawn *spec, int errnum, enum err_kind kind, const char *message)
{
	size_t before = count_fds();
	struct err err = {};
	int pidfd = -42;
	pid_t pid = -42;

	assert_int_equal(spawn(spec, &pid, &pidfd, &err), -errnum);
	assert_int_equal(err.errnum, errnum);
	if (strcmp(err.message, message) != 0)
		fail_msg("'%s' is not '%s'", err.message, message);
	assert_int_equal(err.kind, kind);
	assert_int_equal(pid, -42);
	assert_int_equal(pidfd, -42);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
	assert_int_equal(count_fds(), before);
	assert_int_equal(spawn(spec, &pid, &pidfd, NULL), -errnum);
}

static void write_program(const char *name, const char *text, mode_t mode, char path[128])
{
	(void)snprintf(path, 128, "%s/%s", dir, name);
	assert_int_equal(fs_write_file(AT_FDCWD, path, text, strlen(text), 0600), 0);
	assert_int_equal(chmod(path, mode), 0);
}

/* ---- programs ---------------------------------------------------------- */

static void test_no_such_program(void **state)
{
	char *argv[] = {"x", NULL};
	char *no_path[] = {NULL};
	struct spawn spec = {.path = "no-such-thing", .argv = argv, .envp = env};

	(void)state;
	fails(&spec, ENOENT, ERR_INVALID, "start 'no-such-thing': no such program");
	spec.path = "/no/such/thing";
	fails(&spec, ENOENT, ERR_INVALID, "start '/no/such/thing': no such program");
	spec.path = "/etc/passwd/x";
	fails(&spec, ENOTDIR, ERR_INVALID, "start '/etc/passwd/x': no such program");
	spec.path = "";
	fails(&spec, ENOENT, ERR_INVALID, "the program's name is empty");
	spec.path = "no-such-thing";
	spec.envp = no_path;
	fails(&spec, ENOENT, ERR_INVALID, "start 'no-such-thing': no such program");
}

static void test_not_executable(void **state)
{
	char *argv[] = {"x", NULL};
	char path[128], want[256];
	struct spawn spec = {.path = path, .argv = argv, .envp = env};

	(void)state;
	write_program("plain", "#!/bin/sh\n", 0644, path);
	(void)snprintf(want, sizeof(want), "start '%s': permission denied", path);
	fails(&spec, EACCES, ERR_INVALID, want);
	write_program("garbage", "no program at all\n", 0755, path);
	(void)snprintf(want, sizeof(want), "start '%s': exec format error", path);
	fails(&spec, ENOEXEC, ERR_INVALID, want);
	write_program("orphan", "#!/no/such/interpreter\n", 0755, path);
	(void)snprintf(want, sizeof(want), "start '%s': its interpreter does not exist", path);
	fails(&spec, ENOENT, ERR_INVALID, want);
	spec.path = dir;
	(void)snprintf(want, sizeof(want), "start '%s': permission denied", dir);
	fails(&spec, EACCES, ERR_INVALID, want);
}

static void test_path_lookup(void **state)
{
	_cleanup_buf_ struct buf out = BUF_INIT(10000);
	char one[128], two[128], paths[256];
	char *envp[] = {paths, NULL}, *argv[] = {"tool", NULL};
	struct spawn spec = {.path = "tool", .argv = argv, .envp = envp};

	(void)state;
	(void)snprintf(one, sizeof(one), "%s/one", dir);
	(void)snprintf(two, sizeof(two), "%s/two", dir);
	assert_int_equal(fs_mkdir_p(one, 0755), 0);
	assert_int_equal(fs_mkdir_p(two, 0755), 0);
	write_program("one/tool", "#!/bin/sh\necho one\n", 0644, one);
	/* Found and refused, and nowhere else: that is what must be told. */
	(void)snprintf(paths, sizeof(paths), "PATH=/nowhere:%s/one:%s/two", dir, dir);
	fails(&spec, EACCES, ERR_INVALID, "start 'tool': permission denied");
	/* The next one that may be run is taken. */
	write_program("two/tool", "#!/bin/sh\necho two\n", 0755, two);
	assert_string_equal(output_of(&spec, &out), "two\n");
	/* An empty place is the working directory. */
	(void)snprintf(paths, sizeof(paths), "PATH=/nowhere:");
	(void)snprintf(one, sizeof(one), "%s/two", dir);
	spec.fds_n = 0;
	spec.cwd = one;
	assert_string_equal(output_of(&spec, &out), "two\n");
}

static void test_too_long(void **state)
{
	static char big[200000];
	char *argv[] = {"true", big, NULL};
	struct spawn spec = {.path = "true", .argv = argv, .envp = env};

	(void)state;
	memset(big, 'x', sizeof(big) - 1);
	fails(&spec, E2BIG, ERR_TOO_LARGE, "start 'true': arguments and environment are too long");
}

static void test_bad_cwd(void **state)
{
	char *argv[] = {"true", NULL};
	struct spawn spec = {.path = "true", .argv = argv, .envp = env, .cwd = "/no/such/place"};

	(void)state;
	fails(&spec, ENOENT, ERR_INVALID,
	      "start 'true': working directory '/no/such/place': no such file or directory");
	spec.cwd = "/etc/passwd";
	fails(&spec, ENOTDIR, ERR_INVALID, "start 'true': working directory '/etc/passwd': not a directory");
}

static void test_env_and_cwd(void **state)
{
	_cleanup_buf_ struct buf out = BUF_INIT(10000);
	char *envp[] = {"ONLY=this one", NULL}, *argv[] = {"env", NULL};
	struct spawn spec = {.cwd = "/proc"}, env_spec = {.path = "/usr/bin/env", .argv = argv, .envp = envp};

	(void)state;
	assert_string_equal(shell("pwd; echo $MARK", &spec, &out), "/proc\nhere\n");
	assert_string_equal(output_of(&env_spec, &out), "ONLY=this one\n");
}

static void test_exit_status(void **state)
{
	char *argv[] = {"sh", "-c", "exit 42", NULL};
	struct spawn spec = {.path = "sh", .argv = argv, .envp = env};
	struct pollfd p = {.events = POLLIN};
	int status;
	pid_t pid;

	(void)state;
	assert_int_equal(spawn(&spec, &pid, &p.fd, NULL), 0);
	assert_true(p.fd >= 0);
	assert_int_equal(fcntl(p.fd, F_GETFD), FD_CLOEXEC);
	/* The pidfd is that of the child: it tells its end. */
	assert_int_equal(poll(&p, 1, -1), 1);
	status = await(pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 42);
	fd_close(&p.fd);
}

/* ---- descriptors ------------------------------------------------------- */

/* A descriptor at a number of our choice that reads as `text`. */
static void put_fd(int number, const char *text)
{
	int fds[2], high;

	assert_int_equal(fs_pipe(fds, 0, 0), 0);
	assert_int_equal(fs_write_all(fds[1], text, strlen(text)), 0);
	fd_close(&fds[1]);
	/* By way of a number that is nobody's, as `number` may be the pipe itself. */
	high = fcntl(fds[0], F_DUPFD_CLOEXEC, 200);
	assert_true(high >= 200);
	fd_close(&fds[0]);
	assert_int_equal(dup3(high, number, O_CLOEXEC), number);
	fd_close(&high);
}

static void test_only_named_descriptors(void **state)
{
	_cleanup_buf_ struct buf out = BUF_INIT(10000);
	int leak = open("/dev/null", O_RDONLY), high = fcntl(leak, F_DUPFD, 700);
	struct spawn spec = {};

	(void)state;
	assert_true(leak >= 0 && high >= 700);
	/* These two are not close-on-exec. */
	assert_string_equal(shell("ls /proc/$$/fd", &spec, &out), "0\n1\n2\n");
	assert_string_equal(shell("cat /proc/$$/fdinfo/0 >/dev/null; readlink /proc/$$/fd/0 /proc/$$/fd/2",
				  &(struct spawn){}, &out),
			    "/dev/null\n/dev/null\n");
	spec = (struct spawn){.fds = {{.parent_fd = high, .child_fd = 9}}, .fds_n = 1};
	assert_string_equal(shell("ls /proc/$$/fd", &spec, &out), "0\n1\n2\n9\n");
	/* Ours are untouched: still there, still as they were. */
	assert_int_equal(fcntl(leak, F_GETFD), 0);
	assert_int_equal(fcntl(high, F_GETFD), 0);
	fd_close(&leak);
	fd_close(&high);
}

static void test_ls_sees_no_leak(void **state)
{
	_cleanup_buf_ struct buf out = BUF_INIT(10000);
	char *argv[] = {"ls", "/proc/self/fd", NULL};
	struct spawn spec = {.path = "/bin/ls", .argv = argv, .envp = env};

	(void)state;
	put_fd(55, "");
	/* 3 is the directory that ls reads. */
	assert_string_equal(output_of(&spec, &out), "0\n1\n2\n3\n");
	assert_int_equal(close(55), 0);
}

static const char *const read_them = "for i in 0 3 4 5 6; do eval \"cat <&$i\" 2>/dev/null || echo -; done";

static void test_swapped(void **state)
{
	_cleanup_buf_ struct buf out = BUF_INIT(10000);
	struct spawn spec = {.fds = {{3, 4}, {4, 3}}, .fds_n = 2};

	(void)state;
	put_fd(3, "three\n");
	put_fd(4, "four\n");
	assert_string_equal(shell(read_them, &spec, &out), "four\nthree\n-\n-\n");
	assert_int_equal(close(3), 0);
	assert_int_equal(close(4), 0);
}

/* A ring, one that stays, and one source for two places. */
static void test_shuffled(void **state)
{
	_cleanup_buf_ struct buf out = BUF_INIT(10000);
	struct spawn spec = {.fds = {{3, 4}, {4, 5}, {5, 3}, {6, 6}, {6, 0}}, .fds_n = 5};

	(void)state;
	put_fd(3, "three\n");
	put_fd(4, "four\n");
	put_fd(5, "five\n");
	put_fd(6, "six\n");
	assert_string_equal(shell(read_them, &spec, &out), "six\nfive\nthree\nfour\n");
	for (int fd = 3; fd <= 6; fd++) {
		assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
		assert_int_equal(close(fd), 0);
	}
}

/* The parent's own 0, 1 and 2 as sources, crossed. */
static void test_standard_crossed(void **state)
{
	_cleanup_buf_ struct buf out = BUF_INIT(10000);
	int saved = fcntl(0, F_DUPFD_CLOEXEC, 100), fds[2], pidfd;
	char *argv[] = {"sh", "-c", "cat; echo to-err >&2; echo to-out", NULL};
	struct spawn spec = {.path = "sh", .argv = argv, .envp = env, .fds = {{0, 2}, {100, 0}, {0, 1}}};
	pid_t pid;

	(void)state;
	spec.fds_n = 3;
	assert_int_equal(fs_pipe(fds, 0, 0), 0);
	put_fd(100, "input\n");
	assert_true(saved < 0 || saved == 100 || saved > 100);
	assert_int_equal(dup2(fds[1], 0), 0);
	assert_int_equal(spawn(&spec, &pid, &pidfd, NULL), 0);
	if (saved > 100)
		assert_int_equal(dup2(saved, 0), 0);
	else
		assert_int_equal(close(0), 0);
	fd_close(&fds[1]);
	read_all(fds[0], &out);
	assert_string_equal(buf_cstr(&out), "input\nto-err\nto-out\n");
	assert_int_equal(await(pid), 0);
	fd_close(&fds[0]);
	fd_close(&pidfd);
	assert_int_equal(close(100), 0);
	if (saved > 100)
		fd_close(&saved);
}

static void test_no_room_for_descriptors(void **state)
{
	char *argv[] = {"true", NULL};
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	struct spawn spec = {
		.path = "true", .argv = argv, .envp = env, .fds = {{null, 2000000000}}, .fds_n = 1};

	(void)state;
	fails(&spec, EINVAL, ERR_INVALID, "start 'true': pass descriptors: invalid argument");
	fd_close(&null);
}

/* ---- limits, signals, ids ---------------------------------------------- */

static void test_limits(void **state)
{
	_cleanup_buf_ struct buf out = BUF_INIT(10000);
	struct spawn_rlimit limits[] = {
		{RLIMIT_CORE, {.rlim_cur = 0, .rlim_max = 0}},
		{RLIMIT_CPU, {.rlim_cur = 77, .rlim_max = 78}},
	};
	struct spawn spec = {.rlimits = limits, .rlimits_n = ARRAY_SIZE(limits)};

	(void)state;
	assert_string_equal(shell("ulimit -c; ulimit -St; ulimit -Ht", &spec, &out), "0\n77\n78\n");
	limits[0] = (struct spawn_rlimit){RLIMIT_NOFILE, {.rlim_cur = 50, .rlim_max = 60}};
	spec.fds_n = 0;
	assert_string_equal(shell("ulimit -Sn; ulimit -Hn", &spec, &out), "50\n60\n");
}

static void test_bad_limit(void **state)
{
	char *argv[] = {"true", NULL};
	struct spawn_rlimit limit = {12345, {.rlim_cur = 1, .rlim_max = 1}};
	struct spawn spec = {.path = "true", .argv = argv, .envp = env, .rlimits = &limit, .rlimits_n = 1};

	(void)state;
	fails(&spec, EINVAL, ERR_INVALID, "start 'true': set limits: invalid argument");
}

/* We live with few descriptors; children get what we were started with. */
static void test_descriptor_limit(void **state)
{
	_cleanup_buf_ struct buf out = BUF_INIT(10000);
	struct rlimit before, now;
	char want[64];

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	assert_int_equal(spawn_init(123), 0);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &now), 0);
	assert_int_equal(now.rlim_cur, 123);
	assert_int_equal(now.rlim_max, before.rlim_max);
	(void)snprintf(want, sizeof(want), "%llu\n", (unsigned long long)before.rlim_cur);
	assert_string_equal(shell("ulimit -Sn", &(struct spawn){}, &out), want);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
}

/* After spawn_init(): the same through the slots, with descriptors beyond them that nobody is to see. */
static void test_through_slots(void **state)
{
	_cleanup_buf_ struct buf out = BUF_INIT(10000);
	struct spawn spec = {.fds = {{100, 4}, {101, 3}, {102, 6}, {102, 0}, {103, 5}}, .fds_n = 5};
	char *argv[] = {"ls", "/proc/self/fd", NULL};
	struct spawn ls = {.path = "ls", .argv = argv, .envp = env};
	int leak = open("/dev/null", O_RDONLY), high = fcntl(leak, F_DUPFD, 700);
	size_t before = count_fds();

	(void)state;
	assert_true(leak >= 0 && high >= 700);
	put_fd(100, "a\n");
	put_fd(101, "b\n");
	put_fd(102, "c\n");
	put_fd(103, "d\n");
	assert_string_equal(shell(read_them, &spec, &out), "c\nb\na\nd\n");
	for (int fd = 100; fd <= 103; fd++) {
		assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
		assert_int_equal(close(fd), 0);
	}
	assert_string_equal(output_of(&ls, &out), "0\n1\n2\n3\n");
	/* One that is no descriptor is told as without slots. */
	ls.fds[ls.fds_n - 1] = (struct spawn_fd){.parent_fd = 999, .child_fd = 7};
	fails(&ls, EBADF, ERR_INTERNAL, "start 'ls': pass descriptors: bad file descriptor");
	assert_int_equal(count_fds(), before);
	fd_close(&leak);
	fd_close(&high);
}

static void *starter(void *arg)
{
	for (int i = 0; i < 20; i++) {
		_cleanup_buf_ struct buf out = BUF_INIT(10000);
		char script[32], want[32];

		(void)snprintf(script, sizeof(script), "echo %d.%d", *(int *)arg, i);
		(void)snprintf(want, sizeof(want), "%d.%d\n", *(int *)arg, i);
		if (strcmp(shell(script, &(struct spawn){}, &out), want) != 0)
			return arg;
	}
	return NULL;
}

/* Several threads at once: only one of them has the slots. */
static void test_threads(void **state)
{
	pthread_t threads[4];
	int ids[4];
	void *bad;

	(void)state;
	for (int i = 0; i < 4; i++) {
		ids[i] = i;
		assert_int_equal(pthread_create(&threads[i], NULL, starter, &ids[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		assert_int_equal(pthread_join(threads[i], &bad), 0);
		assert_null(bad);
	}
}

static void on_signal(int signo)
{
	(void)signo;
}

static void test_signals_are_default(void **state)
{
	_cleanup_buf_ struct buf out = BUF_INIT(10000);
	char *argv[] = {"cat", "/proc/self/status", NULL};
	struct spawn spec = {.path = "cat", .argv = argv, .envp = env};
	sigset_t mask, before;

	(void)state;
	(void)signal(SIGPIPE, SIG_IGN);
	(void)signal(SIGUSR1, SIG_IGN);
	(void)signal(SIGUSR2, on_signal);
	(void)signal(SIGRTMAX, SIG_IGN);
	sigfillset(&mask);
	assert_int_equal(sigprocmask(SIG_SETMASK, &mask, &before), 0);
	(void)output_of(&spec, &out);
	assert_non_null(strstr(buf_cstr(&out), "\nSigBlk:\t0000000000000000\n"
					       "SigIgn:\t0000000000000000\n"
					       "SigCgt:\t0000000000000000\n"));
	/* And ours are as they were. */
	assert_int_equal(sigprocmask(SIG_SETMASK, &before, &mask), 0);
	assert_true(sigismember(&mask, SIGTERM));
	assert_ptr_equal(signal(SIGPIPE, SIG_DFL), SIG_IGN);
	assert_ptr_equal(signal(SIGUSR2, SIG_DFL), on_signal);
	assert_ptr_equal(signal(SIGUSR1, SIG_DFL), SIG_IGN);
	assert_ptr_equal(signal(SIGRTMAX, SIG_DFL), SIG_IGN);
}

static void test_ids(void **state)
{
	_cleanup_buf_ struct buf out = BUF_INIT(10000);
	static const gid_t groups[] = {1234, 5678};
	struct spawn spec = {
		.set_ids = true, .uid = 65534, .gid = 4321, .groups = groups, .groups_n = ARRAY_SIZE(groups)};
	char want[256];

	(void)state;
	if (geteuid() != 0) {
		print_message("skipped: only root may change ids\n");
		skip();
	}
	/* die_with_parent must survive the change. */
	spec.die_with_parent = true;
	assert_string_equal(shell("grep -E '^(Uid|Gid|Groups)' /proc/$$/status", &spec, &out),
			    "Uid:\t65534\t65534\t65534\t65534\n"
			    "Gid:\t4321\t4321\t4321\t4321\n"
			    "Groups:\t1234 5678 \n");
	assert_int_equal(geteuid(), 0);
	assert_int_equal(prctl(PR_GET_DUMPABLE), 1);
	/* The working directory is entered as that user. */
	assert_int_equal(chmod(dir, 0700), 0);
	spec.cwd = dir;
	spec.path = "true";
	spec.fds_n = 0;
	(void)snprintf(want, sizeof(want), "start 'true': working directory '%s': permission denied", dir);
	fails(&spec, EACCES, ERR_INVALID, want);
	assert_int_equal(prctl(PR_GET_DUMPABLE), 1);
	/* Who has chosen not to be dumpable stays so. */
	assert_int_equal(prctl(PR_SET_DUMPABLE, 0), 0);
	fails(&spec, EACCES, ERR_INVALID, want);
	assert_int_equal(prctl(PR_GET_DUMPABLE), 0);
	assert_int_equal(prctl(PR_SET_DUMPABLE, 1), 0);
	assert_int_equal(chmod(dir, 0755), 0);
}

static void test_session(void **state)
{
	_cleanup_buf_ struct buf out = BUF_INIT(10000);
	struct spawn spec = {.new_session = true};
	const char *script = "read -r pid comm state ppid pgrp session rest </proc/$$/stat;"
			     "[ $pid = $pgrp ] && [ $pid = $session ] && echo own || echo shared";

	(void)state;
	assert_string_equal(shell(script, &spec, &out), "own\n");
	assert_string_equal(shell(script, &(struct spawn){}, &out), "shared\n");
}

static void test_terminal(void **state)
{
	_cleanup_buf_ struct buf out = BUF_INIT(10000);
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), slave;
	struct spawn spec = {.new_session = true, .controlling_tty = true};
	char *argv[] = {"true", NULL};

	(void)state;
	assert_true(master >= 0);
	assert_int_equal(grantpt(master), 0);
	assert_int_equal(unlockpt(master), 0);
	slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_true(slave >= 0);
	spec.fds[0] = (struct spawn_fd){.parent_fd = slave, .child_fd = 0};
	spec.fds_n = 1;
	/* /dev/tty can be opened by those that have one. */
	assert_string_equal(shell("tty </dev/tty >/dev/null && echo yes", &spec, &out), "yes\n");
	fd_close(&slave);
	fd_close(&master);
	spec = (struct spawn){
		.path = "true", .argv = argv, .envp = env, .new_session = true, .controlling_tty = true};
	fails(&spec, ENOTTY, ERR_INTERNAL, "start 'true': take the terminal: inappropriate ioctl for device");
}

/* A process in between is our "parent"; when it is killed its child must follow, though nobody signals that.
 */
static void test_die_with_parent(void **state)
{
	char *argv[] = {"cat", NULL};
	int alive[2], hold[2], status, pidfd;
	pid_t between, pid;
	char byte;

	(void)state;
	assert_int_equal(fs_pipe(alive, 0, 0), 0);
	assert_int_equal(fs_pipe(hold, 0, 0), 0);
	between = fork();
	assert_true(between >= 0);
	if (between == 0) {
		/* cat reads a pipe that nobody ever closes, and holds `alive` open while it lives. */
		struct spawn spec = {.path = "cat",
				     .argv = argv,
				     .envp = env,
				     .die_with_parent = true,
				     .fds = {{hold[0], 0}, {alive[1], 1}},
				     .fds_n = 2};

		if (spawn(&spec, &pid, &pidfd, NULL) < 0)
			_exit(1);
		(void)raise(SIGKILL);
	}
	fd_close(&alive[1]);
	assert_int_equal(waitpid(between, &status, 0), between);
	assert_true(WIFSIGNALED(status));
	/* End of file: the last holder of the other end is gone. */
	assert_int_equal(read(alive[0], &byte, 1), 0);
	fd_close(&alive[0]);
	fd_close(&hold[0]);
	fd_close(&hold[1]);
}

/* cgroup.procs is played by a file. */
static void test_cgroup(void **state)
{
	_cleanup_buf_ struct buf out = BUF_INIT(10000);
	char *argv[] = {"true", NULL};
	char path[128], other[128];
	struct spawn spec = {.cgroup_procs = {path, other}};

	(void)state;
	write_program("cgroup.procs", "", 0644, path);
	write_program("other.procs", "", 0644, other);
	shell("exit 0", &spec, &out);
	assert_int_equal(fs_read_file(AT_FDCWD, path, &out), 0);
	assert_int_equal(fs_read_file(AT_FDCWD, other, &out), 0);
	assert_string_equal(buf_cstr(&out), "00");
	spec = (struct spawn){.path = "true", .argv = argv, .envp = env, .cgroup_procs = {"/no/such/cgroup"}};
	fails(&spec, ENOENT, ERR_NOT_FOUND,
	      "start 'true': open '/no/such/cgroup': no such file or directory");
	spec.cgroup_procs[0] = "/dev/full";
	fails(&spec, ENOSPC, ERR_STORAGE, "start 'true': join the cgroup: no space left on device");
}

/* The limit on processes: an error that says so, and it works again afterwards. */
static void test_no_more_processes(void **state)
{
	struct rlimit none = {.rlim_cur = 0, .rlim_max = 0};
	char *argv[] = {"true", NULL};
	struct spawn spec = {.path = "true", .argv = argv, .envp = env};
	pid_t pid = fork();
	struct err err = {};
	int pidfd;

	(void)state;
	assert_true(pid >= 0);
	if (pid == 0) {
		/* Root is exempt. */
		if ((geteuid() == 0 && (setgid(65534) < 0 || setuid(65534) < 0)) ||
		    setrlimit(RLIMIT_NPROC, &none) < 0)
			_exit(2);
		if (spawn(&spec, &pid, &pidfd, &err) != -EAGAIN || err.kind != ERR_UNAVAILABLE)
			_exit(3);
		_exit(strstr(err.message, "start 'true': no new process: ") ? 0 : 4);
	}
	assert_int_equal(await(pid), 0);
}

/* ---- older kernels, and filters around us ------------------------------- */

enum refuse { REFUSE_VM = 1, REFUSE_PIDFD = 2, REFUSE_CLOSE_RANGE = 4, REFUSE_FORK = 8 };

static bool refuse(unsigned what)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);
	int r = ctx ? 0 : -1;

	if (r == 0 && (what & REFUSE_VM))
		r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
				     SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_VFORK, CLONE_VFORK));
	if (r == 0 && (what & REFUSE_PIDFD))
		r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EINVAL), SCMP_SYS(clone), 1,
				     SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_PIDFD, CLONE_PIDFD));
	if (r == 0 && (what & REFUSE_PIDFD))
		r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(pidfd_open), 0);
	if (r == 0 && (what & REFUSE_CLOSE_RANGE))
		r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(close_range), 0);
	if (r == 0 && (what & REFUSE_FORK))
		r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 0);
	r = r == 0 ? seccomp_load(ctx) : r;
	seccomp_release(ctx);
	return r == 0;
}

/* Runs in a process of its own. Returns the number of what went wrong. */
static int spawn_under(unsigned what, bool with_slots)
{
	char *ls[] = {"ls", "/proc/self/fd", NULL}, *none[] = {"none", NULL};
	struct spawn spec = {.path = "ls", .argv = ls, .envp = env, .fds_n = 1};
	struct spawn bad = {.path = "/no/such/program", .argv = none, .envp = env};
	int leak = open("/dev/null", O_RDONLY), high = fcntl(leak, F_DUPFD, 700), fds[2], pidfd, status;
	struct buf out = BUF_INIT(10000);
	struct err err = {};
	pid_t pid;

	if (leak < 0 || high < 0 || fs_pipe(fds, 0, 0) < 0 || (with_slots && spawn_init(10000) < 0) ||
	    !refuse(what))
		return 1;
	spec.fds[0] = (struct spawn_fd){.parent_fd = fds[1], .child_fd = 1};
	if (what & REFUSE_FORK)
		return spawn(&spec, &pid, &pidfd, &err) == -EPERM && err.kind == ERR_FORBIDDEN ? 0 : 2;
	for (int i = 0; i < 2; i++) {
		if (spawn(&spec, &pid, &pidfd, &err) < 0 || (pidfd < 0) != !!(what & REFUSE_PIDFD))
			return 3;
		if (waitpid(pid, &status, 0) != pid || status != 0)
			return 4;
		if (spawn(&bad, &pid, &pidfd, &err) != -ENOENT ||
		    strcmp(err.message, "start '/no/such/program': no such program") != 0 ||
		    waitpid(-1, NULL, WNOHANG) != -1)
			return 5;
	}
	fd_close(&fds[1]);
	read_all(fds[0], &out);
	status = strcmp(buf_cstr(&out), "0\n1\n2\n3\n0\n1\n2\n3\n") == 0 ? 0 : 6;
	buf_done(&out);
	return status;
}

static void test_refused_ways(void **state)
{
	(void)state;
	for (unsigned what = 0; what <= REFUSE_FORK; what++) {
		for (int with_slots = 0; with_slots < 2; with_slots++) {
			pid_t pid = fork();
			int status;

			assert_true(pid >= 0);
			if (pid == 0)
				_exit(spawn_under(what, with_slots));
			status = await(pid);
			if (status != 0)
				fail_msg("refusing %u, slots %d: %d", what, with_slots, WEXITSTATUS(status));
		}
	}
}

static int setup_group(void **state)
{
	(void)state;
	(void)snprintf(dir, sizeof(dir), "/tmp/test_spawn.XXXXXX");
	return mkdtemp(dir) && chmod(dir, 0755) == 0 ? 0 : -1;
}

static int teardown_group(void **state)
{
	(void)state;
	return fs_remove_tree(AT_FDCWD, dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_such_program),
		cmocka_unit_test(test_not_executable),
		cmocka_unit_test(test_path_lookup),
		cmocka_unit_test(test_too_long),
		cmocka_unit_test(test_bad_cwd),
		cmocka_unit_test(test_env_and_cwd),
		cmocka_unit_test(test_exit_status),
		cmocka_unit_test(test_only_named_descriptors),
		cmocka_unit_test(test_ls_sees_no_leak),
		cmocka_unit_test(test_swapped),
		cmocka_unit_test(test_shuffled),
		cmocka_unit_test(test_standard_crossed),
		cmocka_unit_test(test_no_room_for_descriptors),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_bad_limit),
		cmocka_unit_test(test_refused_ways),
		cmocka_unit_test(test_descriptor_limit),
		cmocka_unit_test(test_through_slots),
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_signals_are_default),
		cmocka_unit_test(test_ids),
		cmocka_unit_test(test_session),
		cmocka_unit_test(test_terminal),
		cmocka_unit_test(test_die_with_parent),
		cmocka_unit_test(test_cgroup),
		cmocka_unit_test(test_no_more_processes),
	};

	return cmocka_run_group_tests(tests, setup_group, teardown_group);
}
