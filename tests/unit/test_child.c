/* The reaper: every end is told once, to whom it concerns. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "lib/child.h"
#include "lib/fs.h"

static struct loop *loop;
static struct reaper *reaper;
static char *const env[] = {"PATH=/usr/bin:/bin", NULL};

struct kid {
	struct child c;
	int ends, status;
	struct rusage usage;
};

static int expected_ends;

static int setup(void **state)
{
	int r;

	(void)state;
	expected_ends = 1;
	r = loop_new(&loop);
	return r < 0 ? r : reaper_new(loop, &reaper);
}

static int teardown(void **state)
{
	(void)state;
	reaper_free(reaper);
	reaper = NULL;
	loop_free(loop);
	/* Nobody is left behind. */
	return waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD ? 0 : -1;
}

static void on_exit_count(struct child *c, int wstatus, const struct rusage *usage)
{
	struct kid *k = container_of(c, struct kid, c);

	k->ends++;
	k->status = wstatus;
	k->usage = *usage;
	assert_int_equal(c->pid, 0);
	assert_int_equal(c->pidfd, -EBADF);
	assert_int_equal(child_kill(c, SIGKILL), -ESRCH);
	assert_int_equal(child_kill_group(c, SIGKILL), -ESRCH);
	if (--expected_ends == 0)
		loop_stop(loop, 0);
}

static void start(struct kid *k, const char *script, struct spawn *spec)
{
	char *argv[] = {"sh", "-c", (char *)script, NULL};
	struct err err;

	*k = (struct kid){};
	spec->path = "sh";
	spec->argv = argv;
	spec->envp = env;
	if (child_spawn(reaper, &k->c, spec, on_exit_count, &err) < 0)
		fail_msg("%s", err.message);
	assert_true(k->c.pid > 0);
	assert_true(k->c.pidfd >= 0);
}

static void test_exit_code(void **state)
{
	struct kid k;

	(void)state;
	start(&k, "exit 7", &(struct spawn){});
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(k.ends, 1);
	assert_true(WIFEXITED(k.status));
	assert_int_equal(WEXITSTATUS(k.status), 7);
	start(&k, "exit 255", &(struct spawn){});
	expected_ends = 1;
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(WEXITSTATUS(k.status), 255);
}

static void test_signal(void **state)
{
	struct spawn_rlimit core = {RLIMIT_CORE, {0, 0}};
	struct kid k;

	(void)state;
	start(&k, "kill -TERM $$", &(struct spawn){});
	assert_int_equal(loop_run(loop), 0);
	assert_true(WIFSIGNALED(k.status));
	assert_int_equal(WTERMSIG(k.status), SIGTERM);
	start(&k, "kill -SEGV $$", &(struct spawn){.rlimits = &core, .rlimits_n = 1});
	expected_ends = 1;
	assert_int_equal(loop_run(loop), 0);
	assert_true(WIFSIGNALED(k.status));
	assert_int_equal(WTERMSIG(k.status), SIGSEGV);
}

/* The usage is the child's own, with what it waited for. */
static void test_usage(void **state)
{
	struct kid k;

	(void)state;
	start(&k, "sh -c 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done'; exit 0", &(struct spawn){});
	assert_int_equal(loop_run(loop), 0);
	assert_true(k.usage.ru_utime.tv_sec * 1000000 + k.usage.ru_utime.tv_usec +
			    k.usage.ru_stime.tv_sec * 1000000 + k.usage.ru_stime.tv_usec >
		    0);
	assert_true(k.usage.ru_maxrss > 100);
}

static void test_failed_start(void **state)
{
	char *argv[] = {"x", NULL};
	struct spawn spec = {.path = "/no/such/program", .argv = argv, .envp = env};
	struct kid k = {}, after;

	(void)state;
	assert_int_equal(child_spawn(reaper, &k.c, &spec, on_exit_count, NULL), -ENOENT);
	assert_int_equal(k.c.pid, 0);
	child_forget(&k.c);
	start(&after, "exit 0", &(struct spawn){});
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(k.ends, 0);
	assert_int_equal(after.ends, 1);
}

#define MANY 200

/* All of them end at once, when the pipe that they wait at is closed. */
static void test_many_at_once(void **state)
{
	static struct kid kids[MANY];
	int fds[2];

	(void)state;
	assert_int_equal(fs_pipe(fds, 0, 0), 0);
	for (int i = 0; i < MANY; i++) {
		char script[64];

		(void)snprintf(script, sizeof(script), "read x; exit %d", i);
		start(&kids[i], script, &(struct spawn){.fds = {{fds[0], 0}}, .fds_n = 1});
	}
	fd_close(&fds[1]);
	expected_ends = MANY;
	assert_int_equal(loop_run(loop), 0);
	for (int i = 0; i < MANY; i++) {
		assert_int_equal(kids[i].ends, 1);
		assert_int_equal(WEXITSTATUS(kids[i].status), i);
	}
	fd_close(&fds[0]);
}

static struct kid again;

static void on_exit_restart(struct child *c, int wstatus, const struct rusage *usage)
{
	char *argv[] = {"true", NULL};
	struct spawn spec = {.path = "true", .argv = argv, .envp = env};

	(void)wstatus;
	(void)usage;
	assert_ptr_equal(c, &again.c);
	if (++again.ends < 5)
		assert_int_equal(child_spawn(reaper, c, &spec, on_exit_restart, NULL), 0);
	else
		loop_stop(loop, 0);
}

/* A child may be started anew in the callback that tells its end. */
static void test_restart_in_callback(void **state)
{
	struct rusage usage = {};

	(void)state;
	again = (struct kid){};
	on_exit_restart(&again.c, 0, &usage);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(again.ends, 5);
}

static void on_exit_free(struct child *c, int wstatus, const struct rusage *usage)
{
	(void)wstatus;
	(void)usage;
	free(container_of(c, struct kid, c));
	loop_stop(loop, 0);
}

static void test_freed_in_callback(void **state)
{
	struct kid *k = malloc(sizeof(*k));

	(void)state;
	assert_non_null(k);
	start(k, "exit 0", &(struct spawn){});
	k->c.on_exit = on_exit_free;
	assert_int_equal(loop_run(loop), 0);
}

/* Forgotten ones are still collected, and their memory is not needed. */
static void test_forget(void **state)
{
	struct kid k, last;
	siginfo_t info;
	pid_t pid;

	(void)state;
	start(&k, "exit 3", &(struct spawn){});
	pid = k.c.pid;
	child_forget(&k.c);
	assert_int_equal(k.c.pid, 0);
	assert_int_equal(k.c.pidfd, -EBADF);
	child_forget(&k.c);
	memset(&k.c, 0xee, sizeof(k.c));
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	start(&last, "exit 0", &(struct spawn){});
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(last.ends, 1);
	assert_int_equal(k.ends, 0);
	assert_int_equal(kill(pid, 0), -1);
}

static void test_kill(void **state)
{
	struct kid k;
	int fds[2];

	(void)state;
	assert_int_equal(fs_pipe(fds, 0, 0), 0);
	start(&k, "read x", &(struct spawn){.fds = {{fds[0], 0}}, .fds_n = 1});
	assert_int_equal(child_kill(&k.c, SIGINT), 0);
	assert_int_equal(loop_run(loop), 0);
	assert_true(WIFSIGNALED(k.status));
	assert_int_equal(WTERMSIG(k.status), SIGINT);
	assert_int_equal(child_kill(&k.c, SIGINT), -ESRCH);
	fd_close(&fds[0]);
	fd_close(&fds[1]);
}

/* The whole group goes: end of file says that nobody holds the pipe any more. */
static void test_kill_group(void **state)
{
	int alive[2], hold[2], ready[2];
	struct kid k;
	char byte;

	(void)state;
	assert_int_equal(fs_pipe(alive, 0, 0), 0);
	assert_int_equal(fs_pipe(hold, 0, 0), 0);
	assert_int_equal(fs_pipe(ready, 0, 0), 0);
	start(&k, "cat <&5 & cat <&5 & echo >&3; exec 3>&-; wait",
	      &(struct spawn){
		      .new_session = true, .fds = {{hold[0], 5}, {alive[1], 1}, {ready[1], 3}}, .fds_n = 3});
	fd_close(&alive[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	assert_int_equal(child_kill_group(&k.c, SIGKILL), 0);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(WTERMSIG(k.status), SIGKILL);
	assert_int_equal(read(alive[0], &byte, 1), 0);
	fd_close(&alive[0]);
	for (int i = 0; i < 2; i++) {
		fd_close(&hold[i]);
		fd_close(&ready[i]);
	}
}

static pid_t group;

static void on_exit_group(struct child *c, int wstatus, const struct rusage *usage)
{
	/* Not yet collected: the number is still the child's, and so is the group's. */
	assert_int_equal(kill(group, 0), 0);
	assert_int_equal(kill(-group, SIGKILL), 0);
	on_exit_count(c, wstatus, usage);
}

/* The leader has gone, the rest of its group is reached from on_exit. */
static void test_group_outlives_leader(void **state)
{
	int alive[2], hold[2];
	struct kid k;
	char byte;

	(void)state;
	assert_int_equal(fs_pipe(alive, 0, 0), 0);
	assert_int_equal(fs_pipe(hold, 0, 0), 0);
	start(&k, "cat <&5 & exit 0",
	      &(struct spawn){.new_session = true, .fds = {{hold[0], 5}, {alive[1], 1}}, .fds_n = 2});
	k.c.on_exit = on_exit_group;
	group = k.c.pid;
	fd_close(&alive[1]);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(read(alive[0], &byte, 1), 0);
	fd_close(&alive[0]);
	fd_close(&hold[0]);
	fd_close(&hold[1]);
}

/* ---- strangers --------------------------------------------------------- */

static struct loop_io orphan_io;
static struct buf orphan_text;

static void on_orphan_text(struct loop_io *io, uint32_t events)
{
	ssize_t n;

	(void)events;
	assert_int_equal(buf_reserve(&orphan_text, 100), 0);
	n = read(io->fd, buf_tail(&orphan_text), 100);
	if (n < 0)
		return;
	orphan_text.len += (size_t)n;
	if (n == 0) {
		loop_io_del(io);
		if (--expected_ends == 0)
			loop_stop(loop, 0);
	}
}

/* As PID 1 would be, we are given the orphans of our children. */
static void test_orphans(void **state)
{
	struct kid k;
	int fds[2], hold[2];
	pid_t orphan;

	(void)state;
	orphan_text = BUF_INIT(1000);
	assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
	assert_int_equal(fs_pipe(fds, 1, 0), 0);
	assert_int_equal(fs_pipe(hold, 0, 0), 0);
	assert_int_equal(loop_io_add(loop, &orphan_io, fds[0], EPOLLIN, on_orphan_text), 0);
	/* The orphan tells its pid and waits until we let it go. */
	start(&k, "sh -c 'echo $$; exec >&-; read x' <&5 & exit 0",
	      &(struct spawn){.fds = {{hold[0], 5}, {fds[1], 1}}, .fds_n = 2});
	fd_close(&fds[1]);
	expected_ends = 2;
	assert_int_equal(loop_run(loop), 0);
	orphan = (pid_t)strtol(buf_cstr(&orphan_text), NULL, 10);
	assert_true(orphan > 0);
	assert_int_equal(kill(orphan, 0), 0);

	assert_int_equal(child_adopt(reaper, &k.c, orphan, on_exit_count), 0);
	assert_int_equal(child_adopt(reaper, &k.c, orphan, on_exit_count), -EEXIST);
	k.ends = 0;
	fd_close(&hold[1]);
	expected_ends = 1;
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(k.ends, 1);
	assert_int_equal(kill(orphan, 0), -1);
	assert_int_equal(child_adopt(reaper, &k.c, orphan, on_exit_count), -ESRCH);
	assert_int_equal(child_adopt(reaper, &k.c, 0, on_exit_count), -EINVAL);
	assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 0), 0);
	fd_close(&fds[0]);
	fd_close(&hold[0]);
	buf_done(&orphan_text);
}

/* Unknown children, some of them dead before there was a reaper, are collected on the way. */
static void test_strangers(void **state)
{
	pid_t pids[10];
	siginfo_t info;
	struct kid k;

	(void)state;
	reaper_free(reaper);
	for (int i = 0; i < 10; i++) {
		pids[i] = fork();
		assert_true(pids[i] >= 0);
		if (pids[i] == 0)
			_exit(i);
		assert_int_equal(waitid(P_PID, (id_t)pids[i], &info, WEXITED | WNOWAIT), 0);
	}
	/* Whoever started us may have told the kernel to forget our children. */
	(void)signal(SIGCHLD, SIG_IGN);
	assert_int_equal(reaper_new(loop, &reaper), 0);
	/* The first turn, without a wait and so without a signal, collects them. */
	loop_stop(loop, 0);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
	/* Whoever comes late to adopt one can still learn how it ended, once. */
	for (int i = 0; i < 10; i++) {
		int wstatus = -1;

		assert_int_equal(child_adopt(reaper, &k.c, pids[i], on_exit_count), -ESRCH);
		assert_int_equal(child_ended(reaper, pids[i], &wstatus), 0);
		assert_int_equal(WEXITSTATUS(wstatus), i);
		assert_int_equal(child_ended(reaper, pids[i], &wstatus), -ESRCH);
	}
	start(&k, "exit 9", &(struct spawn){});
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(WEXITSTATUS(k.status), 9);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
}

/* What is still watched when the reaper goes is let go. */
static void test_free_with_children(void **state)
{
	struct kid k;
	int fds[2];

	(void)state;
	assert_int_equal(fs_pipe(fds, 0, 0), 0);
	start(&k, "read x", &(struct spawn){.fds = {{fds[0], 0}}, .fds_n = 1});
	group = k.c.pid;
	reaper_free(reaper);
	reaper = NULL;
	assert_int_equal(k.c.pid, 0);
	assert_int_equal(k.c.pidfd, -EBADF);
	fd_close(&fds[1]);
	assert_int_equal(waitpid(group, NULL, 0), group);
	fd_close(&fds[0]);
	reaper_free(NULL);
}

#define child_test(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		child_test(test_exit_code),
		child_test(test_signal),
		child_test(test_usage),
		child_test(test_failed_start),
		child_test(test_many_at_once),
		child_test(test_restart_in_callback),
		child_test(test_freed_in_callback),
		child_test(test_forget),
		child_test(test_kill),
		child_test(test_kill_group),
		child_test(test_group_outlives_leader),
		child_test(test_orphans),
		child_test(test_strangers),
		child_test(test_free_with_children),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
