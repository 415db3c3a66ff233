/*
 * command.c - commands: start, output, timeout, interrupt, end.
 *
 * Owns each live command and the pipes that ended ones have left open. Loop
 * thread only.
 *
 *   RUNNING ── exit ──> DRAINING ── both pipes at their end, or grace ──> ENDED
 *      │                                                                    │
 *      └── killed, and not gone after COMMAND_KILL_GRACE_MS ────────────────┘
 *
 * Output: a pipe is read only while output_room() says so; without room it is
 * taken out of the loop (EPOLLHUP cannot be masked) and put back on on_room.
 * Once the process has exited, what was in the pipe at that moment is read
 * whatever the room: it is bounded by the pipe. What others write after that is
 * taken for COMMAND_DRAIN_GRACE_MS. Then the run ends, and a pipe that is still
 * held open becomes a sink: it is emptied into nothing, so that a server that a
 * command has left running does not die of SIGPIPE.
 *
 * Force: an interrupt is SIGTERM to the process group and, if anything of it is
 * left after COMMAND_INTERRUPT_GRACE_MS, SIGKILL to the whole tree. A timeout
 * is SIGKILL to the tree at once. ENDED commands stay as long as their stop
 * timer is armed, to finish what outlived its leader.
 */
#include "execd/command.h"

#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "execd/account.h"
#include "execd/env.h"
#include "execd/execd.h"
#include "execd/run.h"
#include "execd/tree.h"
#include "lib/clock.h"
#include "lib/fs.h"
#include "lib/log.h"

enum state { RUNNING, DRAINING, ENDED };

struct pipe_end {
	struct loop_io io;
	struct command *command;
	enum output_stream stream;
	int fd;
	bool drained;  /* after exit: all that was written before it has been read */
	size_t behind; /* after exit: bytes of that still in the pipe */
};

struct command {
	struct list link;
	struct commands *commands;
	struct child child;
	struct run *run; /* NULL once ended */
	char *id;
	struct pipe_end pipes[2];
	struct loop_timer timeout, drain, stop;
	enum state state;
	bool forced; /* we have begun to end it, for this reason: */
	enum run_reason cause;
	bool killed; /* by SIGKILL to the tree */
	pid_t pid;
	int wstatus;
	struct rusage usage;
};

struct sink {
	struct list link;
	struct loop_io io;
	int fd;
	struct commands *commands;
};

struct commands {
	struct execd *execd;
	struct list live; /* RUNNING and DRAINING */
	struct list lingering;
	struct list sinks;
	size_t sinks_n;
	/* Freed after the callbacks that may still stand in them. */
	struct list dead_commands, dead_sinks;
	struct loop_defer tidy;
	bool stopping;
	uint64_t grace_ms;
	void (*stopped)(void *arg);
	void *stopped_arg;
	struct loop_defer stopped_defer;
	uint8_t buffer[COMMAND_READ_MAX];
};

/* ---- tidying up --------------------------------------------------------- */

static void command_free(struct command *c);

static void check_stopped(struct commands *cs)
{
	if (cs->stopping && cs->stopped && list_empty(&cs->live) && list_empty(&cs->lingering)) {
		cs->stopped(cs->stopped_arg);
		cs->stopped = NULL;
	}
}

static void free_dead(struct commands *cs)
{
	list_foreach_safe (node, &cs->dead_commands) {
		struct command *c = list_entry(node, struct command, link);
		list_del(&c->link);
		free(c->id);
		free(c);
	}
	list_foreach_safe (node, &cs->dead_sinks) {
		struct sink *s = list_entry(node, struct sink, link);
		list_del(&s->link);
		free(s);
	}
}

/* Outside the reaper's callback a leader that has ended is no longer a member of its group. */
static void tidy(struct loop_defer *d)
{
	struct commands *cs = container_of(d, struct commands, tidy);
	list_foreach_safe (node, &cs->lingering) {
		struct command *c = list_entry(node, struct command, link);
		if (!loop_timer_armed(&c->stop) || kill(-c->pid, 0) < 0)
			command_free(c);
	}
	free_dead(cs);
	check_stopped(cs);
}

static void want_tidy(struct commands *cs)
{
	loop_defer(cs->execd->loop, &cs->tidy, tidy);
}

static void command_free(struct command *c)
{
	loop_timer_del(&c->stop);
	list_del(&c->link);
	list_add_tail(&c->commands->dead_commands, &c->link);
	want_tidy(c->commands);
}

/* ---- sinks ------------------------------------------------------------- */

static void sink_close(struct sink *s)
{
	loop_io_del(&s->io);
	fd_close(&s->fd);
	list_del(&s->link);
	list_add_tail(&s->commands->dead_sinks, &s->link);
	s->commands->sinks_n--;
	want_tidy(s->commands);
}

static void sink_ready(struct loop_io *io, uint32_t events)
{
	struct sink *s = container_of(io, struct sink, io);
	(void)events;
	ssize_t n = read(s->fd, s->commands->buffer, sizeof(s->commands->buffer));
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		sink_close(s);
}

/* Consumes fd. Without memory the pipe is just closed. */
static void sink_new(struct commands *cs, int fd)
{
	struct sink *s = calloc(1, sizeof(*s));
	if (cs->sinks_n >= COMMAND_SINKS_MAX)
		sink_close(list_entry(cs->sinks.next, struct sink, link));
	if (!s || loop_io_add(cs->execd->loop, &s->io, fd, EPOLLIN, sink_ready) < 0) {
		free(s);
		fd_close(&fd);
		return;
	}
	s->fd = fd;
	s->commands = cs;
	list_add_tail(&cs->sinks, &s->link);
	cs->sinks_n++;
}

/* ---- the end ----------------------------------------------------------- */

static void pipe_close(struct pipe_end *p)
{
	loop_io_del(&p->io);
	fd_close(&p->fd);
	p->drained = true;
}

static void fill_end(const struct command *c, struct run_end *end)
{
	*end = (struct run_end){.reason = c->cause, .exit_code = -1, .usage = c->usage};
	if (c->state == RUNNING) {
		end->signo = SIGKILL; /* it will die of it yet */
	} else if (WIFSIGNALED(c->wstatus)) {
		end->signo = WTERMSIG(c->wstatus);
		if (!c->forced)
			end->reason = RUN_SIGNALLED;
	} else {
		end->exit_code = WEXITSTATUS(c->wstatus);
		/* An exit of its own in the moment of the timeout has won. */
		if (!c->forced || c->cause == RUN_TIMEOUT)
			end->reason = RUN_EXITED;
	}
}

static void command_end(struct command *c)
{
	struct commands *cs = c->commands;
	struct run *run = TAKE_PTR(c->run);
	struct run_end end;

	fill_end(c, &end);
	loop_timer_del(&c->timeout);
	loop_timer_del(&c->drain);
	for (size_t i = 0; i < ARRAY_SIZE(c->pipes); i++) {
		struct pipe_end *p = &c->pipes[i];
		loop_io_del(&p->io);
		if (p->fd >= 0 && !c->killed)
			sink_new(cs, TAKE_FD(p->fd));
		pipe_close(p);
	}
	child_forget(&c->child);
	c->state = ENDED;
	output_set_on_room(run->output, NULL, NULL);
	run_ended(run, &end);
	run_unref(run);

	/* What an interrupt has not ended yet, although the leader is gone, gets the rest of its time. */
	if (!c->forced || c->killed)
		loop_timer_del(&c->stop);
	list_del(&c->link);
	list_add_tail(&cs->lingering, &c->link);
	want_tidy(cs);
}

static void drain_expired(struct loop_timer *timer)
{
	command_end(container_of(timer, struct command, drain));
}

/* After exit: is everything there? */
static void check_drained(struct command *c)
{
	const struct pipe_end *out = &c->pipes[0], *err = &c->pipes[1];
	struct loop *loop = c->commands->execd->loop;
	if (c->state != DRAINING)
		return;
	if (out->fd < 0 && err->fd < 0)
		command_end(c);
	else if (out->drained && err->drained && !loop_timer_armed(&c->drain) &&
		 loop_timer_set(loop, &c->drain, loop_now_ms(loop) + COMMAND_DRAIN_GRACE_MS, drain_expired) <
			 0)
		command_end(c);
}

/* ---- force ------------------------------------------------------------- */

static void stop_expired(struct loop_timer *timer);

static void arm_stop(struct command *c, uint64_t in_ms)
{
	struct loop *loop = c->commands->execd->loop;
	(void)loop_timer_set(loop, &c->stop, loop_now_ms(loop) + in_ms, stop_expired);
}

static void command_force(struct command *c, enum run_reason cause)
{
	if (!c->forced)
		c->cause = cause;
	c->forced = true;
}

static void command_kill(struct command *c, enum run_reason cause)
{
	command_force(c, cause);
	c->killed = true;
	(void)tree_kill(c->pid, c->state == RUNNING, c->id);
	if (c->state != ENDED)
		arm_stop(c, COMMAND_KILL_GRACE_MS);
}

static void stop_expired(struct loop_timer *timer)
{
	struct command *c = container_of(timer, struct command, stop);
	if (c->state == ENDED) {
		(void)tree_kill(c->pid, false, c->id);
		command_free(c);
	} else if (c->killed) {
		command_end(c); /* not even SIGKILL ends it now: a client need not wait for that */
	} else {
		command_kill(c, c->cause);
	}
}

static void timeout_expired(struct loop_timer *timer)
{
	command_kill(container_of(timer, struct command, timeout), RUN_TIMEOUT);
}

static int command_interrupt(struct run *run)
{
	struct command *c = run->owner;
	if (!c)
		return -ESRCH;
	command_force(c, RUN_INTERRUPTED);
	if (c->state == DRAINING) /* only what it has left behind is there to be ended */
		command_kill(c, RUN_INTERRUPTED);
	else if (!c->killed && child_kill_group(&c->child, SIGTERM) < 0)
		command_kill(c, RUN_INTERRUPTED);
	else if (!loop_timer_armed(&c->stop))
		arm_stop(c, COMMAND_INTERRUPT_GRACE_MS);
	return 0;
}

static const struct run_ops command_ops = {.interrupt = command_interrupt};

/* ---- output ------------------------------------------------------------ */

/* One read of at most max bytes. 1: data, 0: end of file (closed), -EAGAIN: nothing there now. */
static int pipe_read(struct pipe_end *p, size_t max)
{
	struct command *c = p->command;
	uint8_t *buffer = c->commands->buffer;
	ssize_t n;
	do
		n = read(p->fd, buffer, MIN(max, (size_t)COMMAND_READ_MAX));
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return -EAGAIN;
	if (n <= 0) {
		pipe_close(p);
		return 0;
	}
	p->behind -= MIN(p->behind, (size_t)n);
	if (output_append(c->run->output, p->stream, buffer, (size_t)n) < 0 && !c->killed)
		command_kill(c, RUN_OUTPUT_LIMIT);
	return 1;
}

static void pipe_ready(struct loop_io *io, uint32_t events)
{
	struct pipe_end *p = container_of(io, struct pipe_end, io);
	struct command *c = p->command;
	bool owed = c->state == DRAINING && !p->drained;
	size_t room = owed ? COMMAND_READ_MAX : output_room(c->run->output);
	(void)events;
	if (room == 0) {
		(void)loop_io_set(&p->io, 0);
		return;
	}
	if (pipe_read(p, room) == -EAGAIN)
		p->behind = 0;
	if (c->state == DRAINING && p->behind == 0)
		p->drained = true;
	check_drained(c);
}

/* A pipe that can not be watched is a pipe without a reader: it is closed. */
static void pipe_resume(struct pipe_end *p)
{
	if (p->fd >= 0 && loop_io_set(&p->io, EPOLLIN) < 0)
		pipe_close(p);
}

static void output_has_room(void *arg)
{
	struct command *c = arg;
	for (size_t i = 0; i < ARRAY_SIZE(c->pipes); i++)
		pipe_resume(&c->pipes[i]);
	check_drained(c);
}

/* At exit: takes what is there, at most one turn's worth; the loop brings the rest. */
static void pipe_drain(struct pipe_end *p)
{
	int r = 1, left = 0;
	uint64_t begin = output_stream_end(p->command->run->output, p->stream);
	while (p->fd >= 0 && r == 1 &&
	       output_stream_end(p->command->run->output, p->stream) - begin < COMMAND_READ_MAX)
		r = pipe_read(p, COMMAND_READ_MAX);
	if (r == 1 && p->fd >= 0 && ioctl(p->fd, FIONREAD, &left) == 0)
		p->behind = (size_t)left;
	p->drained = p->behind == 0;
	pipe_resume(p);
}

static void command_exited(struct child *child, int wstatus, const struct rusage *usage)
{
	struct command *c = container_of(child, struct command, child);
	c->wstatus = wstatus;
	c->usage = *usage;
	c->state = DRAINING;
	loop_timer_del(&c->timeout);
	for (size_t i = 0; i < ARRAY_SIZE(c->pipes); i++)
		pipe_drain(&c->pipes[i]);
	check_drained(c);
}

/* ---- start ------------------------------------------------------------- */

struct launch {
	char **envp;
	char *mark; /* TREE_MARK=id, in its place in envp */
	char *cwd, *program;
	const char **argv;
	struct accounts *accounts;
	gid_t *groups;
	struct spawn spawn;
};

static void launch_done(struct launch *l)
{
	env_free(l->envp);
	free(l->mark);
	free(l->cwd);
	free(l->program);
	free(l->argv);
	free(l->groups);
	accounts_free(l->accounts);
}

static int check_cwd(const char *given, const char *path, struct err *err)
{
	struct stat st;
	if (stat(path, &st) < 0)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", errno,
			       errno == ENOENT ? "cwd: directory '%s' does not exist"
					       : "cwd: directory '%s' cannot be used",
			       given);
	if (!S_ISDIR(st.st_mode))
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", ENOTDIR,
			       "cwd: '%s' is not a directory", given);
	return 0;
}

static int launch_cwd(struct launch *l, const struct command_spec *spec, struct err *err)
{
	if (!spec->cwd || !*spec->cwd)
		return 0;
	int r = env_expand_path(spec->cwd, l->envp, &l->cwd, err);
	if (r >= 0)
		r = check_cwd(spec->cwd, l->cwd, err);
	l->spawn.cwd = l->cwd;
	return r;
}

static int launch_shell(struct launch *l, const char *command, struct err *err)
{
	if (strlen(command) > COMMAND_TEXT_MAX)
		return err_set(err, ERR_TOO_LARGE, "INVALID_REQUEST_BODY", E2BIG,
			       "command: longer than %d bytes; write it to a file and run that",
			       COMMAND_TEXT_MAX);
	int r = env_shell(l->envp, &l->program, err);
	if (r < 0)
		return r;
	l->argv = calloc(4, sizeof(*l->argv));
	if (!l->argv)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "start a command");
	l->argv[0] = strrchr(l->program, '/') + 1;
	l->argv[1] = "-c";
	l->argv[2] = command;
	l->spawn.path = l->program;
	return 0;
}

static int launch_argv(struct launch *l, json_t *argv, struct err *err)
{
	size_t n = json_array_size(argv);
	if (n == 0 || n > COMMAND_ARGV_MAX || json_string_length(json_array_get(argv, 0)) == 0)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
			       n > COMMAND_ARGV_MAX ? "argv: too many arguments"
						    : "argv: names no program to run");
	l->argv = calloc(n + 1, sizeof(*l->argv));
	if (!l->argv)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "start a command");
	for (size_t i = 0; i < n; i++) {
		l->argv[i] = json_string_value(json_array_get(argv, i));
		if (strlen(l->argv[i]) > COMMAND_TEXT_MAX)
			return err_set(err, ERR_TOO_LARGE, "INVALID_REQUEST_BODY", E2BIG,
				       "argv[%zu]: longer than %d bytes", i, COMMAND_TEXT_MAX);
	}
	l->spawn.path = l->argv[0];
	return 0;
}

/* As in the reference: a uid without an entry runs with group 0 unless gid says otherwise. */
static int launch_ids(struct launch *l, const struct command_spec *spec, struct err *err)
{
	struct spawn *s = &l->spawn;
	if (!spec->has_uid)
		return 0;
	/* An agent that is not root may not call setgroups(), and need not for its own ids. */
	if (geteuid() != 0 && spec->uid == geteuid() && (!spec->has_gid || spec->gid == getegid()))
		return 0;
	int r = accounts_load(&l->accounts);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "read /etc/passwd and /etc/group");
	r = accounts_groups(l->accounts, spec->uid, &l->groups, &s->groups_n);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "groups of uid %u", spec->uid);
	s->set_ids = true;
	s->uid = spec->uid;
	s->groups = l->groups;
	if (accounts_primary_group(l->accounts, spec->uid, &s->gid) < 0)
		s->gid = 0;
	if (spec->has_gid)
		s->gid = spec->gid;
	return 0;
}

/* Everything that can be refused is refused here, before there is a run. */
static int launch_prepare(struct launch *l, const struct command_spec *spec, const char *env_file,
			  struct err *err)
{
	int r = env_build_with(env_file, spec->envs, TREE_MARK, "", &l->envp, err);
	if (r >= 0)
		r = launch_cwd(l, spec, err);
	if (r >= 0)
		r = spec->argv ? launch_argv(l, spec->argv, err) : launch_shell(l, spec->command, err);
	if (r >= 0)
		r = launch_ids(l, spec, err);
	l->spawn.argv = (char *const *)l->argv;
	l->spawn.envp = l->envp;
	l->spawn.new_session = true;
	return r;
}

/* The id is known once there is a run. */
static int launch_mark(struct launch *l, const char *id, struct err *err)
{
	if (asprintf(&l->mark, "%s=%s", TREE_MARK, id) < 0) {
		l->mark = NULL;
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "start a command");
	}
	for (char **e = l->envp; *e; e++)
		if (strncmp(*e, l->mark, sizeof(TREE_MARK)) == 0)
			*e = l->mark;
	return 0;
}

static char *command_content(const struct command_spec *spec)
{
	struct buf text = BUF_INIT(SIZE_MAX / 2);
	if (!spec->argv)
		return strdup(spec->command);
	for (size_t i = 0; i < json_array_size(spec->argv); i++)
		(void)buf_printf(&text, "%s%s", i ? " " : "",
				 json_string_value(json_array_get(spec->argv, i)));
	return (char *)buf_cstr(&text);
}

/* The child's ends are closed here whatever happens. */
static int command_spawn(struct command *c, struct launch *l, struct err *err)
{
	_cleanup_close_ int child_out = -EBADF, child_err = -EBADF;
	int out[2], error[2];
	int r = fs_pipe(out, 1, 0);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "open a pipe");
	c->pipes[0].fd = out[0];
	child_out = out[1];
	r = fs_pipe(error, 1, 0);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "open a pipe");
	c->pipes[1].fd = error[0];
	child_err = error[1];

	l->spawn.fds[0] = (struct spawn_fd){child_out, STDOUT_FILENO};
	l->spawn.fds[1] = (struct spawn_fd){child_err, STDERR_FILENO};
	l->spawn.fds_n = 2;
	for (size_t i = 0; i < ARRAY_SIZE(c->pipes); i++) {
		struct pipe_end *p = &c->pipes[i];
		r = loop_io_add(c->commands->execd->loop, &p->io, p->fd, EPOLLIN, pipe_ready);
		if (r < 0)
			return err_sys(err, "RUNTIME_ERROR", -r, "watch a pipe");
	}
	r = child_spawn(c->commands->execd->reaper, &c->child, &l->spawn, command_exited, err);
	c->pid = r < 0 ? 0 : c->child.pid;
	return r;
}

static struct command *command_new(struct commands *cs)
{
	struct command *c = calloc(1, sizeof(*c));
	if (!c)
		return NULL;
	c->commands = cs;
	list_init(&c->link);
	for (size_t i = 0; i < ARRAY_SIZE(c->pipes); i++) {
		struct pipe_end *p = &c->pipes[i];
		p->command = c;
		p->stream = i == 0 ? OUTPUT_STDOUT : OUTPUT_STDERR;
		p->fd = p->io.fd = -EBADF;
	}
	return c;
}

/* A run that never came to be: it ends unseen, as nobody has been told its id. */
static int start_failed(struct command *c, struct run *run, int r)
{
	struct run_end end = {.reason = RUN_FAILED, .exit_code = -1};
	for (size_t i = 0; i < ARRAY_SIZE(c->pipes); i++)
		pipe_close(&c->pipes[i]);
	loop_timer_del(&c->timeout);
	run_ended(run, &end);
	run_unref(run);
	free(c->id);
	free(c);
	return r;
}

static int command_run(struct commands *cs, const char *content, struct launch *l,
		       const struct command_spec *spec, struct run **ret_run, struct err *err)
{
	struct loop *loop = cs->execd->loop;
	struct command *c = command_new(cs);
	struct run *run;
	if (!c)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "start a command");
	int r = run_new(cs->execd->runs, content, &command_ops, c, &run, err);
	if (r < 0) {
		free(c);
		return r;
	}
	run->background = spec->background;
	c->id = strdup(run->id);
	r = c->id ? launch_mark(l, c->id, err) : err_sys(err, "RUNTIME_ERROR", ENOMEM, "start a command");
	if (r >= 0 && spec->timeout_ms &&
	    loop_timer_set(loop, &c->timeout, loop_now_ms(loop) + spec->timeout_ms, timeout_expired) < 0)
		r = err_sys(err, "RUNTIME_ERROR", ENOMEM, "start a command");
	if (r >= 0)
		r = command_spawn(c, l, err);
	if (r < 0)
		return start_failed(c, run, r);

	c->run = run;
	list_add_tail(&cs->live, &c->link);
	output_set_on_room(run->output, output_has_room, c);
	run_started(run);
	if (spec->timeout_ms)
		(void)loop_timer_set(loop, &c->timeout, loop_now_ms(loop) + spec->timeout_ms,
				     timeout_expired);
	*ret_run = run_ref(run);
	return 0;
}

int command_start(struct commands *cs, const struct command_spec *spec, struct run **ret_run, struct err *err)
{
	_cleanup_(launch_done) struct launch l = {0};
	if (cs->stopping)
		return err_set(err, ERR_UNAVAILABLE, "RUNTIME_ERROR", ESHUTDOWN,
			       "the agent is shutting down");
	int r = launch_prepare(&l, spec, cs->execd->env_file, err);
	if (r < 0)
		return r;
	_cleanup_free_ char *content = command_content(spec);
	if (!content)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "start a command");
	return command_run(cs, content, &l, spec, ret_run, err);
}

/* ---- all of them ------------------------------------------------------- */

int commands_new(struct execd *execd, struct commands **ret)
{
	struct commands *cs = calloc(1, sizeof(*cs));
	if (!cs)
		return -ENOMEM;
	cs->execd = execd;
	list_init(&cs->live);
	list_init(&cs->lingering);
	list_init(&cs->sinks);
	list_init(&cs->dead_commands);
	list_init(&cs->dead_sinks);
	*ret = cs;
	return 0;
}

void commands_stop(struct commands *cs, uint64_t grace_ms, void (*done)(void *arg), void *arg)
{
	cs->stopping = true;
	cs->stopped = done;
	cs->stopped_arg = arg;
	list_foreach_safe (node, &cs->live) {
		struct command *c = list_entry(node, struct command, link);
		command_force(c, RUN_CANCELLED);
		if (c->state == RUNNING)
			(void)child_kill_group(&c->child, SIGTERM);
		arm_stop(c, grace_ms);
	}
	want_tidy(cs);
}

/* The loop has stopped: nothing stands in a callback any more. */
void commands_free(struct commands *cs)
{
	if (!cs)
		return;
	cs->stopping = true;
	cs->stopped = NULL;
	list_foreach_safe (node, &cs->live) {
		struct command *c = list_entry(node, struct command, link);
		command_kill(c, RUN_CANCELLED);
		command_end(c);
	}
	list_foreach_safe (node, &cs->lingering) {
		struct command *c = list_entry(node, struct command, link);
		if (loop_timer_armed(&c->stop))
			(void)tree_kill(c->pid, false, c->id);
		command_free(c);
	}
	list_foreach_safe (node, &cs->sinks)
		sink_close(list_entry(node, struct sink, link));
	free_dead(cs);
	loop_defer_cancel(&cs->tidy);
	free(cs);
}
