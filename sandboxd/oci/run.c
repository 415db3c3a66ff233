/*
 * run.c - runs a program to its end. No state.
 */
#include "sandboxd/oci/run.h"

#include <string.h>
#include <sys/wait.h>

#include "lib/fs.h"
#include "lib/spawn.h"

/* To the end, also of what there is no room for: a writer must not be stopped. */
static void read_all(int fd, struct buf *out)
{
	char rest[4096];

	for (;;) {
		size_t room = MIN(out->max - out->len, sizeof(rest));
		ssize_t n = read(fd, rest, sizeof(rest));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		(void)buf_append(out, rest, MIN((size_t)n, room));
	}
}

static int open_input(const char *text, int *ret, struct err *err)
{
	int ends[2];
	size_t n = text ? strlen(text) : 0;

	int r = n > RUN_INPUT_MAX ? -E2BIG : fs_pipe(ends, 0, 0);
	if (r == 0) {
		r = fs_write_all(ends[1], text, n);
		(void)close(ends[1]);
		*ret = ends[0];
	}
	return r < 0 ? err_sys(err, "SANDBOX::UNAVAILABLE", -r, "make a pipe") : 0;
}

int run_program(const struct run *run, struct buf *out, struct err *err)
{
	_cleanup_close_ int input = -EBADF, pidfd = -EBADF;
	int ends[2];
	pid_t pid;
	siginfo_t info = {0};

	int r = open_input(run->input, &input, err);
	if (r < 0)
		return r;
	r = fs_pipe(ends, 0, 0);
	if (r < 0)
		return err_sys(err, "SANDBOX::UNAVAILABLE", -r, "make a pipe");
	struct spawn spec = {
		.path = run->path,
		.argv = run->argv,
		.envp = run->envp,
		.fds = {{input, 0}, {ends[1], 1}, {run->with_stderr ? ends[1] : STDERR_FILENO, 2}},
		.fds_n = 3,
		.die_with_parent = true,
	};
	r = spawn(&spec, &pid, &pidfd, err);
	fd_close(&ends[1]);
	if (r == 0) {
		read_all(ends[0], out);
		while (waitid(P_PID, (id_t)pid, &info, WEXITED) < 0 && errno == EINTR)
			;
		if (info.si_code != CLD_EXITED || info.si_status != 0)
			r = err_set(err, ERR_INTERNAL, "SANDBOX::UNAVAILABLE", EIO, "%s: exit code %d",
				    run->path, info.si_status);
	}
	fd_close(&ends[0]);
	return r;
}
