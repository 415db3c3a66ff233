/*
 * shell.c - a living bash and its private channel.
 *
 * Bash is interactive but has no terminal: that is what makes an interrupt
 * throw it back to its reader with all its state, where a script shell would
 * end. Each script is *sourced*, which for its duration makes bash behave as in
 * a script again (no job notices, no "exit" on stderr).
 *
 *   0   control: two lines a script, "source it", "say how it went"
 *   60  the script itself, a memfd that is rewritten for each
 *   61  reports: exit code and directory, NUL-terminated
 *   62  standard output of the scripts, 63 their standard error
 *
 * The redirections of the sourcing line put 62 and 63 in place and hide 61 to
 * 63: bash saves them close-on-exec, so no child ever sees them. Outside of a
 * script bash's own output is /dev/null.
 *
 * A report comes after everything the script wrote is in the pipes; they are
 * drained before done() is called.
 */
#include "execd/shell.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "execd/env.h"
#include "execd/execd.h"
#include "execd/pump.h"
#include "execd/tree.h"
#include "lib/fs.h"

#define PREPARE "unset HISTFILE; set +o history +H +m; PS1= PS2= PROMPT_COMMAND=\n"
#define EXECUTE                                                                                              \
	". /proc/self/fd/60 </dev/null >&62 2>&63 61>&- 62>&- 63>&-\n"                                       \
	"builtin printf '%s\\0%s\\0' \"$?\" \"$PWD\" >&61\n"

/* An interrupt that falls between a fork and its exec is lost on the child: it is looked after. */
#define INSIST_MS    50
#define INSIST_TIMES 20

/* An exit code of three digits, a directory, two NULs. */
#define REPORT_MAX (SHELL_CWD_MAX + 16)

struct shell {
	struct execd *execd;
	struct shell_events events;
	void *owner;
	struct child child;
	struct pump pumps[2];
	struct loop_io report_io;
	struct loop_timer insist; /* after an interrupt: does it arrive? */
	unsigned insisted;
	int control_fd, report_fd, script_fd;
	struct buf report;
	struct output *idle_output;
	struct loop_defer free_defer;
	char *mark, *cwd;
	bool busy;     /* a script has been given and done() not yet called */
	bool reported; /* it is over; its output is being drained */
	int exit_code;
	bool dead;
	int wstatus;
	struct rusage usage;
	bool freed;
};

/* ---- the end of a script, and of the shell ------------------------------- */

static void set_output(struct shell *sh, struct output *out)
{
	for (size_t i = 0; i < ARRAY_SIZE(sh->pumps); i++)
		sh->pumps[i].output = out;
	shell_resume(sh);
}

static void settle(struct shell *sh)
{
	if (sh->freed || sh->pumps[0].draining || sh->pumps[1].draining)
		return;
	if (sh->dead) {
		sh->busy = false;
		set_output(sh, NULL);
		sh->events.died(sh->owner, sh->wstatus, &sh->usage);
	} else if (sh->reported) {
		sh->busy = sh->reported = false;
		loop_timer_del(&sh->insist);
		set_output(sh, sh->idle_output);
		sh->events.done(sh->owner, sh->exit_code);
	}
}

static void drain(struct shell *sh)
{
	bool out = pump_drain(&sh->pumps[0]), err = pump_drain(&sh->pumps[1]);
	if (out && err)
		settle(sh);
}

static void pump_drained(struct pump *p)
{
	settle(container_of(p, struct shell, pumps[p->stream == OUTPUT_STDERR]));
}

static const struct pump_ops pump_ops = {.drained = pump_drained};

/* "code\0directory\0" whole: the script is over. */
static void report_parse(struct shell *sh)
{
	const char *text = (const char *)sh->report.data;
	size_t code_n = strnlen(text, sh->report.len);
	if (code_n == sh->report.len)
		return;
	const char *cwd = text + code_n + 1;
	size_t left = sh->report.len - code_n - 1, cwd_n = strnlen(cwd, left);
	if (cwd_n == left)
		return;
	sh->exit_code = (int)strtol(text, NULL, 10);
	char *copy = cwd_n > 0 && cwd_n < SHELL_CWD_MAX ? strdup(cwd) : NULL;
	if (copy) {
		free(sh->cwd);
		sh->cwd = copy;
	}
	buf_clear(&sh->report);
	if (!sh->busy)
		return;
	sh->reported = true;
	drain(sh);
}

static void report_read(struct shell *sh)
{
	ssize_t n;
	if (buf_reserve(&sh->report, 512) < 0)
		buf_clear(&sh->report); /* not one of ours */
	do
		n = read(sh->report_fd, buf_tail(&sh->report), sh->report.cap - sh->report.len);
	while (n < 0 && errno == EINTR);
	if (n > 0) {
		sh->report.len += (size_t)n;
		report_parse(sh);
	} else if (n == 0) {
		loop_io_del(&sh->report_io); /* its exit is on its way */
	}
}

static void report_ready(struct loop_io *io, uint32_t events)
{
	(void)events;
	report_read(container_of(io, struct shell, report_io));
}

static void shell_exited(struct child *child, int wstatus, const struct rusage *usage)
{
	struct shell *sh = container_of(child, struct shell, child);
	sh->wstatus = wstatus;
	sh->usage = *usage;
	sh->dead = true;
	loop_io_del(&sh->report_io);
	drain(sh);
}

/* ---- start and end -------------------------------------------------------- */

struct ends {
	int control[2], report[2], out[2], err[2];
};

static void ends_close(struct ends *e)
{
	for (int *fd = &e->control[0]; fd <= &e->err[1]; fd++)
		fd_close(fd);
}

static int open_ends(struct shell *sh, struct ends *e)
{
	int r = fs_pipe(e->control, 0, 1);
	if (r >= 0)
		r = fs_pipe(e->report, 1, 0);
	if (r >= 0)
		r = fs_pipe(e->out, 1, 0);
	if (r >= 0)
		r = fs_pipe(e->err, 1, 0);
	if (r < 0)
		return r;
	sh->script_fd = memfd_create("script", MFD_CLOEXEC);
	return sh->script_fd < 0 ? -errno : 0;
}

static int watch_ends(struct shell *sh, struct ends *e)
{
	struct loop *loop = sh->execd->loop;
	sh->control_fd = TAKE_FD(e->control[1]);
	sh->report_fd = TAKE_FD(e->report[0]);
	int r = pump_start(&sh->pumps[0], loop, e->out[0], NULL);
	if (r < 0)
		return r;
	e->out[0] = -EBADF;
	r = pump_start(&sh->pumps[1], loop, e->err[0], NULL);
	if (r < 0)
		return r;
	e->err[0] = -EBADF;
	return loop_io_add(loop, &sh->report_io, sh->report_fd, EPOLLIN, report_ready);
}

static int find_bash(char **envp, char **ret, struct err *err)
{
	_cleanup_free_ char *path = NULL;
	int r = env_shell(envp, &path, err);
	const char *base = r < 0 ? NULL : strrchr(path, '/') + 1;
	if (!base || strcmp(base, "bash") != 0)
		return err_set(err, ERR_NOT_SUPPORTED, "NOT_SUPPORTED", ENOENT,
			       "a shell session needs bash, and there is none in this image's PATH");
	*ret = TAKE_PTR(path);
	return 0;
}

static int start_bash(struct shell *sh, const struct shell_spec *spec, const struct ends *e, struct err *err)
{
	char **envp = NULL;
	_cleanup_free_ char *path = NULL;
	int r = env_build_with(sh->execd->env_file, spec->envs, TREE_MARK, spec->mark, &envp, err);
	if (r >= 0)
		r = find_bash(envp, &path, err);
	if (r >= 0) {
		const char *argv[] = {"bash", "--noprofile", "--norc", "--noediting", "-i", NULL};
		struct spawn s = {
			.path = path,
			.argv = (char *const *)argv,
			.envp = envp,
			.cwd = spec->cwd,
			.new_session = true,
			.fds = {{e->control[0], 0},
				{sh->script_fd, 60},
				{e->report[1], 61},
				{e->out[1], 62},
				{e->err[1], 63}},
			.fds_n = 5,
		};
		r = child_spawn(sh->execd->reaper, &sh->child, &s, shell_exited, err);
	}
	env_free(envp);
	return r;
}

/* The control pipe is empty whenever we write, and far larger than what we write. */
static int control_write(struct shell *sh, const char *text, struct err *err)
{
	int r = fs_write_all(sh->control_fd, text, strlen(text));
	return r < 0 ? err_sys(err, "RUNTIME_ERROR", -r, "talk to the shell") : 0;
}

int shell_start(struct execd *execd, const struct shell_spec *spec, struct shell **ret, struct err *err)
{
	_cleanup_(ends_close) struct ends ends = {
		{-EBADF, -EBADF}, {-EBADF, -EBADF}, {-EBADF, -EBADF}, {-EBADF, -EBADF}};
	struct shell *sh = calloc(1, sizeof(*sh));
	if (!sh)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "start a shell");
	sh->execd = execd;
	sh->events = *spec->events;
	sh->owner = spec->owner;
	sh->report = BUF_INIT(REPORT_MAX);
	sh->control_fd = sh->report_fd = sh->script_fd = sh->report_io.fd = sh->child.pidfd = -EBADF;
	pump_init(&sh->pumps[0], &pump_ops, OUTPUT_STDOUT);
	pump_init(&sh->pumps[1], &pump_ops, OUTPUT_STDERR);
	sh->mark = strdup(spec->mark);
	int r = sh->mark ? open_ends(sh, &ends) : -ENOMEM;
	if (r >= 0)
		r = watch_ends(sh, &ends);
	if (r < 0)
		(void)err_sys(err, "RUNTIME_ERROR", -r, "start a shell");
	else
		r = start_bash(sh, spec, &ends, err);
	if (r >= 0)
		r = control_write(sh, PREPARE, err);
	if (r < 0) {
		shell_free(sh);
		return r;
	}
	*ret = sh;
	return 0;
}

static void shell_release(struct loop_defer *d)
{
	struct shell *sh = container_of(d, struct shell, free_defer);
	free(sh->mark);
	free(sh->cwd);
	free(sh);
}

void shell_free(struct shell *sh)
{
	if (!sh)
		return;
	shell_kill(sh);
	child_forget(&sh->child);
	loop_io_del(&sh->report_io);
	loop_timer_del(&sh->insist);
	pump_close(&sh->pumps[0]);
	pump_close(&sh->pumps[1]);
	fd_close(&sh->control_fd);
	fd_close(&sh->report_fd);
	fd_close(&sh->script_fd);
	buf_done(&sh->report);
	sh->freed = true;
	loop_defer(sh->execd->loop, &sh->free_defer, shell_release);
}

/* ---- scripts -------------------------------------------------------------- */

int shell_run(struct shell *sh, const char *script, struct output *out, struct err *err)
{
	size_t n = strlen(script);
	if (sh->dead || sh->busy)
		return err_set(err, ERR_CONFLICT, "RUNTIME_ERROR", EBUSY, "the shell is %s",
			       sh->dead ? "gone" : "busy");
	if (n > SHELL_SCRIPT_MAX)
		return err_set(err, ERR_TOO_LARGE, "INVALID_REQUEST_BODY", E2BIG,
			       "command: longer than %u bytes", SHELL_SCRIPT_MAX);
	if (ftruncate(sh->script_fd, 0) < 0 || lseek(sh->script_fd, 0, SEEK_SET) < 0)
		return err_sys(err, "RUNTIME_ERROR", errno, "hand the script to the shell");
	int r = fs_write_all(sh->script_fd, script, n);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "hand the script to the shell");
	sh->busy = true;
	set_output(sh, out);
	r = control_write(sh, EXECUTE, err);
	if (r < 0) {
		sh->busy = false;
		set_output(sh, sh->idle_output);
	}
	return r;
}

void shell_set_idle_output(struct shell *sh, struct output *out)
{
	sh->idle_output = out;
	if (!sh->busy)
		set_output(sh, out);
}

void shell_resume(struct shell *sh)
{
	pump_resume(&sh->pumps[0]);
	pump_resume(&sh->pumps[1]);
}

void shell_disown(struct shell *sh)
{
	set_output(sh, NULL);
}

static void insist(struct loop_timer *timer)
{
	struct shell *sh = container_of(timer, struct shell, insist);
	struct loop *loop = sh->execd->loop;
	if (!sh->busy || sh->reported || sh->dead)
		return;
	(void)tree_insist(sh->child.pid, SIGINT);
	if (++sh->insisted < INSIST_TIMES)
		(void)loop_timer_set(loop, timer, loop_now_ms(loop) + INSIST_MS, insist);
}

int shell_interrupt(struct shell *sh)
{
	struct loop *loop = sh->execd->loop;
	if (!sh->busy || sh->reported || sh->dead)
		return -ESRCH;
	sh->insisted = 0;
	(void)loop_timer_set(loop, &sh->insist, loop_now_ms(loop) + INSIST_MS, insist);
	return child_kill_group(&sh->child, SIGINT);
}

void shell_kill(struct shell *sh)
{
	if (sh->child.pid > 0)
		(void)tree_kill(sh->child.pid, true, sh->mark);
}

const char *shell_cwd(const struct shell *sh)
{
	return sh->cwd;
}
