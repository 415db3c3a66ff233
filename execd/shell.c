/*
 * shell.c - a living bash and its private channel.
 *
 * Bash is interactive but has no terminal: that is what makes an interrupt
 * throw it back to its reader with all its state, where a script shell would
 * end. Each script is *sourced*, which for its duration makes bash behave as in
 * a script again (no job notices, no "exit" on stderr).
 *
 *   0   control: two lines a script, "source it", "say how it went"
 *   59  of a shell that can be forked: the builtin that does it (kernels/bash/fork.c)
 *   60  the script itself, a memfd that is rewritten for each: as a path only (O_PATH), which is opened
 *       by whom the shell runs as and by nobody else
 *   61  reports, a socket: exit code and directory, NUL-terminated
 *   62  standard output of the scripts, 63 their standard error
 *
 * The redirections of the sourcing line put 62 and 63 in place and hide the
 * rest: bash saves them close-on-exec, so no child ever sees them. But for 60,
 * which bash opens after them: children have it, and one that is another user
 * can neither read nor write by it. Outside of a script bash's own output is
 * /dev/null.
 *
 * A report comes after everything the script wrote is in the pipes; they are
 * drained before done() is called.
 *
 * Fork: the descriptors of the copy are sent over 61, then control tells the
 * shell to take them. Both it and the copy report, each on its own 61; whose
 * report comes first does not matter. Who the copy is, is taken from the
 * credentials of its report. Nothing else is written to control until the
 * shell has reported: it reads ahead, and the copy would have read it too.
 */
#include "execd/shell.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "execd/asset.h"
#include "execd/confinement.h"
#include "execd/env.h"
#include "execd/execd.h"
#include "execd/isolated/room.h"
#include "execd/peer.h"
#include "execd/pump.h"
#include "execd/tree.h"
#include "lib/fs.h"

#define PREPARE "unset HISTFILE; set +o history +H +m; PS1= PS2= PROMPT_COMMAND=\n"
/* printf may have been disabled: then that of the system, if there is one, knows no more than that it failed.
 */
#define EXECUTE                                                                                              \
	". /proc/self/fd/60 </dev/null >&62 2>&63 59<&- 61>&- 62>&- 63>&-\n"                                 \
	"case $? in 0) builtin printf '0\\0%s\\0' \"$PWD\" >&61 || command printf '0\\0%s\\0' \"$PWD\" "     \
	">&61;;"                                                                                             \
	" *) builtin printf '%s\\0%s\\0' \"$?\" \"$PWD\" >&61 || command printf '1\\0%s\\0' \"$PWD\" "       \
	">&61;; esac\n"

#define FORK                                                                                                 \
	"builtin enable -f /proc/self/fd/59 execd_fork && execd_fork || builtin printf '255\\0\\0' >&61\n"
#define NO_LOADING 255 /* as that says */

/* As in kernels/bash/fork.c. */
#define MARK_MAX 128

/* An interrupt that falls between a fork and its exec is lost on the child: it is looked after. */
#define INSIST_MS    50
#define INSIST_TIMES 20

/* An exit code of three digits, a directory, two NULs. */
#define REPORT_MAX (SHELL_CWD_MAX + 16)

struct ends {
	int control[2], report[2], out[2], err[2];
	int script; /* the shell's */
};

#define NO_ENDS                                                                                              \
	{                                                                                                    \
		{-EBADF, -EBADF}, {-EBADF, -EBADF}, {-EBADF, -EBADF}, {-EBADF, -EBADF}, -EBADF               \
	}

/* A question to the shell that is forked; they are asked one after the other. */
struct fork {
	struct list link;
	struct shell *copy; /* NULL: nobody wants it any more */
	struct ends ends;   /* of the copy, until they are sent */
	bool asked;
};

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
	uint64_t *budget; /* of the script */
	struct loop_defer free_defer, ask;
	char *mark, *cwd;
	struct denials *denials; /* NULL: nothing is told */
	bool busy;		 /* a script has been given and done() not yet called */
	bool reported;		 /* it is over; its output is being drained */
	int exit_code;
	bool dead;
	int wstatus;
	struct rusage usage;
	bool freed;
	bool starting;	   /* a copy that has not reported yet */
	pid_t peer;	   /* who its report came from */
	struct fork *fork; /* that it comes from, until that is answered */
	struct list forks; /* of this one */
	bool deferred;	   /* a script waits for their answers */
};

/* ---- ends ---------------------------------------------------------------- */

static void ends_close(struct ends *e)
{
	for (int *fd = &e->control[0]; fd <= &e->script; fd++)
		fd_close(fd);
}

/* ---- the end of a script, and of the shell ------------------------------- */

static void set_output(struct shell *sh, struct output *out)
{
	for (size_t i = 0; i < ARRAY_SIZE(sh->pumps); i++) {
		sh->pumps[i].output = out;
		sh->pumps[i].budget = sh->busy ? sh->budget : NULL;
	}
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

static void pump_failed(struct pump *p, int r)
{
	struct shell *sh = container_of(p, struct shell, pumps[p->stream == OUTPUT_STDERR]);
	if (r == -EDQUOT && sh->events.overflow)
		sh->events.overflow(sh->owner);
}

static const struct pump_ops pump_ops = {.drained = pump_drained, .failed = pump_failed};

/* ---- reports ---------------------------------------------------------------- */

static void copy_failed(struct shell *copy, const char *why)
{
	copy->starting = false;
	copy->events.forked(copy->owner, why);
}

static void shell_exited(struct child *child, int wstatus, const struct rusage *usage);

static void copy_reported(struct shell *copy)
{
	if (child_adopt(copy->execd->reaper, &copy->child, copy->peer, shell_exited) < 0) {
		copy_failed(copy, "ended as soon as it was there");
		return;
	}
	copy->starting = false;
	copy->events.forked(copy->owner, NULL);
}

static void ask_next_fork(struct shell *sh);

static void fork_answered(struct shell *sh, int error)
{
	struct fork *f = list_entry(sh->forks.next, struct fork, link);
	struct shell *copy = f->copy;
	char why[128];
	list_del(&f->link);
	ends_close(&f->ends);
	free(f);
	if (!sh->dead && !sh->freed)
		ask_next_fork(sh);
	if (copy)
		copy->fork = NULL;
	if (!copy || !copy->starting)
		return;
	if (error == EBUSY)
		copy_failed(copy,
			    "it has background jobs, which a copy would not have: wait for them or end them");
	else if (error == NO_LOADING)
		copy_failed(copy, "this bash loads no builtin (enable -f), and it takes one");
	else if (error) {
		(void)snprintf(why, sizeof(why), "fork: %s", strerror(error));
		copy_failed(copy, why);
	} else if (copy->report_io.fd < 0) {
		copy_failed(copy, "it ended at once");
	}
}

static void fail_forks(struct shell *sh)
{
	while (!list_empty(&sh->forks))
		fork_answered(sh, ESRCH);
}

static void report_handle(struct shell *sh, int code)
{
	if (sh->starting) {
		copy_reported(sh);
	} else if (!list_empty(&sh->forks)) {
		fork_answered(sh, code);
	} else if (sh->busy) {
		sh->exit_code = code;
		sh->reported = true;
		drain(sh);
	}
}

/* "code\0directory\0" whole at the front: a script is over, or a fork answered. */
static bool report_parse(struct shell *sh)
{
	const char *text = (const char *)sh->report.data;
	size_t code_n = strnlen(text, sh->report.len);
	if (code_n == sh->report.len)
		return false;
	const char *cwd = text + code_n + 1;
	size_t left = sh->report.len - code_n - 1, cwd_n = strnlen(cwd, left);
	if (cwd_n == left)
		return false;
	int code = (int)strtol(text, NULL, 10);
	char *copy = cwd_n > 0 && cwd_n < SHELL_CWD_MAX ? strdup(cwd) : NULL;
	if (copy) {
		free(sh->cwd);
		sh->cwd = copy;
	}
	buf_consume(&sh->report, code_n + cwd_n + 2);
	report_handle(sh, code);
	return true;
}

static void report_read(struct shell *sh)
{
	if (buf_reserve(&sh->report, 512) < 0)
		buf_clear(&sh->report); /* not one of ours */
	ssize_t n = peer_receive(sh->report_fd, buf_tail(&sh->report), sh->report.cap - sh->report.len,
				 &sh->peer);
	if (n > 0) {
		sh->report.len += (size_t)n;
		while (!sh->freed && report_parse(sh))
			;
	} else if (n == 0) {
		loop_io_del(&sh->report_io); /* its exit is on its way */
		if (sh->starting && !sh->fork)
			copy_failed(sh, "it ended at once");
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
	fail_forks(sh);
	drain(sh);
}

/* ---- start and end -------------------------------------------------------- */

/* In a room all are one user, whose number out here is not ours to know. */
static int open_script(struct shell *sh, struct ends *e, bool in_room)
{
	char path[32];
	sh->script_fd = memfd_create("script", MFD_CLOEXEC);
	if (sh->script_fd < 0 || (!in_room && fchmod(sh->script_fd, 0600) < 0))
		return -errno;
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", sh->script_fd);
	e->script = open(path, O_PATH | O_CLOEXEC);
	return e->script < 0 ? -errno : 0;
}

static int open_ends(struct shell *sh, struct ends *e, bool in_room)
{
	const int on = 1;
	int r = fs_pipe(e->control, 0, 1);
	if (r >= 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, e->report) < 0)
		r = -errno;
	if (r >= 0 && setsockopt(e->report[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0)
		r = -errno;
	if (r >= 0)
		r = fs_pipe(e->out, 1, 0);
	if (r >= 0)
		r = fs_pipe(e->err, 1, 0);
	return r < 0 ? r : open_script(sh, e, in_room);
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
	_cleanup_close_ int module = -EBADF;
	int r = env_build_for(spec->env, sh->execd->env_file, spec->envs, TREE_MARK, spec->mark, &envp, err);
	if (r >= 0)
		r = find_bash(envp, &path, err);
	if (r >= 0 && spec->forkable)
		r = asset_open("bash/fork.so", &module, err);
	if (r >= 0) {
		const char *argv[] = {"bash", "--noprofile", "--norc", "--noediting", "-i", NULL};
		struct spawn s = {
			.path = path,
			.argv = (char *const *)argv,
			.envp = envp,
			.cwd = spec->cwd,
			.new_session = true,
			.fds = {{e->control[0], 0},
				{e->script, 60},
				{e->report[1], 61},
				{e->out[1], 62},
				{e->err[1], 63},
				{module, 59}},
			.fds_n = module < 0 ? 5 : 6,
		};
		r = spec->room ? room_spawn(spec->room, &sh->child, &s, shell_exited, err)
			       : confined_spawn(sh->execd, &sh->child, &s, spec->confine, spec->mark,
						shell_exited, &sh->denials, err);
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

/* With its ends, but no process yet. */
static int shell_new(struct execd *execd, const struct shell_spec *spec, struct ends *ends,
		     struct shell **ret, struct err *err)
{
	struct shell *sh = calloc(1, sizeof(*sh));
	if (!sh)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "start a shell");
	sh->execd = execd;
	sh->events = *spec->events;
	sh->owner = spec->owner;
	sh->report = BUF_INIT(REPORT_MAX);
	sh->control_fd = sh->report_fd = sh->script_fd = sh->report_io.fd = sh->child.pidfd = -EBADF;
	list_init(&sh->forks);
	pump_init(&sh->pumps[0], &pump_ops, OUTPUT_STDOUT);
	pump_init(&sh->pumps[1], &pump_ops, OUTPUT_STDERR);
	sh->mark = strdup(spec->mark);
	int r = sh->mark ? open_ends(sh, ends, spec->room) : -ENOMEM;
	if (r >= 0)
		r = watch_ends(sh, ends);
	if (r < 0) {
		shell_free(sh);
		return err_sys(err, "RUNTIME_ERROR", -r, "start a shell");
	}
	*ret = sh;
	return 0;
}

int shell_start(struct execd *execd, const struct shell_spec *spec, struct shell **ret, struct err *err)
{
	_cleanup_(ends_close) struct ends ends = NO_ENDS;
	struct shell *sh;
	int r = shell_new(execd, spec, &ends, &sh, err);
	if (r < 0)
		return r;
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
	sh->freed = true;
	/* In a room its children are looked for by nobody: they go with the room, or by room_clear(). */
	if (sh->child.host)
		(void)child_kill_group(&sh->child, SIGKILL);
	else
		shell_kill(sh);
	fail_forks(sh);
	if (sh->fork)
		sh->fork->copy = NULL;
	loop_defer_cancel(&sh->ask);
	confinement_let_go(sh->execd, TAKE_PTR(sh->denials));
	child_forget(&sh->child);
	loop_io_del(&sh->report_io);
	loop_timer_del(&sh->insist);
	pump_close(&sh->pumps[0]);
	pump_close(&sh->pumps[1]);
	fd_close(&sh->control_fd);
	fd_close(&sh->report_fd);
	fd_close(&sh->script_fd);
	buf_done(&sh->report);
	loop_defer(sh->execd->loop, &sh->free_defer, shell_release);
}

/* ---- forks ---------------------------------------------------------------- */

/* In the order of `places` in kernels/bash/fork.c. */
static int send_ends(struct shell *sh, const struct shell *copy, const struct ends *e)
{
	const int fds[] = {e->control[0], e->script, e->report[1], e->out[1], e->err[1]};
	char mark[MARK_MAX] = {0};
	union {
		char bytes[CMSG_SPACE(sizeof(fds))];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {.iov_base = mark, .iov_len = sizeof(mark)};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control.bytes,
			     .msg_controllen = sizeof(control.bytes)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
	(void)snprintf(mark, sizeof(mark), "%s=%s", TREE_MARK, copy->mark);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(fds));
	memcpy(CMSG_DATA(c), fds, sizeof(fds));
	ssize_t n = sendmsg(sh->report_fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0)
		return -errno;
	return (size_t)n == sizeof(mark) ? 0 : -EMSGSIZE;
}

/* And, when there is none, for the script that waited for them. */
static void ask_next_fork(struct shell *sh)
{
	struct fork *f = list_empty(&sh->forks) ? NULL : list_entry(sh->forks.next, struct fork, link);
	struct err err;
	if (f && !f->asked) {
		f->asked = true;
		int r = f->copy ? send_ends(sh, f->copy, &f->ends) : -ECANCELED;
		ends_close(&f->ends);
		if (r < 0 || control_write(sh, FORK, &err) < 0)
			fork_answered(sh, r < 0 ? -r : EPIPE);
	} else if (!f && sh->deferred) {
		sh->deferred = false;
		(void)control_write(sh, EXECUTE, &err); /* else it is ending, which ends the script */
	}
}

static int add_fork(struct shell *sh, struct shell *copy, struct ends *ends, struct err *err)
{
	static const struct ends none = NO_ENDS;
	char line[MARK_MAX + 32];
	struct fork *f = calloc(1, sizeof(*f));
	if (!f)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "fork a shell");
	f->copy = copy;
	f->ends = *ends;
	*ends = none;
	copy->fork = f;
	copy->starting = true;
	copy->cwd = sh->cwd ? strdup(sh->cwd) : NULL;
	list_add_tail(&sh->forks, &f->link);
	(void)snprintf(line, sizeof(line), "builtin export %s=%s\n", TREE_MARK, copy->mark);
	return control_write(copy, line, err);
}

static void ask_forks(struct loop_defer *d)
{
	ask_next_fork(container_of(d, struct shell, ask));
}

int shell_fork(struct shell *sh, const struct shell_spec *spec, struct shell **ret, struct err *err)
{
	_cleanup_(ends_close) struct ends ends = NO_ENDS;
	struct shell *copy;
	if (sh->dead || sh->busy || sh->starting)
		return err_set(err, ERR_CONFLICT, "RUNTIME_ERROR", EBUSY, "the shell is %s",
			       sh->dead ? "gone" : "busy");
	int r = shell_new(sh->execd, spec, &ends, &copy, err);
	if (r < 0)
		return r;
	r = add_fork(sh, copy, &ends, err);
	if (r < 0) {
		shell_free(copy);
		return r;
	}
	*ret = copy;
	loop_defer(sh->execd->loop, &sh->ask, ask_forks);
	return 0;
}

/* ---- scripts -------------------------------------------------------------- */

int shell_run(struct shell *sh, const char *script, struct output *out, struct err *err)
{
	size_t n = strlen(script);
	if (sh->dead || sh->busy || sh->starting)
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
	sh->deferred = !list_empty(&sh->forks);
	r = sh->deferred ? 0 : control_write(sh, EXECUTE, err);
	if (r < 0) {
		sh->busy = false;
		set_output(sh, sh->idle_output);
	}
	return r;
}

void shell_set_budget(struct shell *sh, uint64_t *budget)
{
	sh->budget = budget;
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
	else
		(void)child_kill(&sh->child, SIGKILL); /* in a room it may be still to start */
}

pid_t shell_pid(const struct shell *sh)
{
	return sh->child.pid;
}

char *shell_denied(struct shell *sh)
{
	return denials_take(sh->denials);
}

const char *shell_cwd(const struct shell *sh)
{
	return sh->cwd;
}
