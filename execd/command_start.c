/*
 * command_start.c - a command up to its exec: its pipes, its bounds, its confinement.
 *
 * Owns nothing beyond one start. All that can fail comes before the process, so
 * that a command which runs is never taken back.
 */
#include "execd/command_priv.h"

#include <stdlib.h>
#include <string.h>

#include "execd/confinement.h"
#include "execd/execd.h"
#include "execd/isolated/room.h"
#include "execd/isolated/undoable.h"
#include "execd/isolated/zygote.h"
#include "execd/launch.h"
#include "lib/fs.h"

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

/* The child's end is the caller's to close. */
static int open_pump(struct command *c, struct pump *p, int *ret_child_fd, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	int fds[2];
	int r = fs_pipe(fds, 1, 0);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "open a pipe");
	fd = fds[0];
	*ret_child_fd = fds[1];
	r = pump_start(p, c->commands->execd->loop, fd, c->run->output);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "watch a pipe");
	(void)TAKE_FD(fd);
	return 0;
}

static int open_feed(struct command *c, int *ret_child_fd, struct err *err)
{
	int fds[2];
	int r = fs_pipe(fds, 0, 1);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "open a pipe");
	*ret_child_fd = fds[0];
	r = feed_open(&c->in, c->commands->execd->loop, fds[1]);
	if (r < 0)
		fd_close(&fds[1]);
	return r < 0 ? err_sys(err, "RUNTIME_ERROR", -r, "watch a pipe") : 0;
}

static int command_spawn(struct command *c, struct launch *l, const struct command_spec *spec,
			 struct err *err)
{
	_cleanup_close_ int in = -EBADF, out = -EBADF, error = -EBADF;
	int r = open_pump(c, &c->out, &out, err);
	if (r >= 0)
		r = open_pump(c, &c->error, &error, err);
	if (r >= 0 && spec->stdin_pipe)
		r = open_feed(c, &in, err);
	if (r < 0)
		return r;
	l->spawn.fds[0] = (struct spawn_fd){out, STDOUT_FILENO};
	l->spawn.fds[1] = (struct spawn_fd){error, STDERR_FILENO};
	l->spawn.fds[2] = (struct spawn_fd){in, STDIN_FILENO};
	l->spawn.fds_n = in >= 0 ? 3 : 2;
	for (size_t i = 0; i < spec->extra_n; i++)
		l->spawn.fds[l->spawn.fds_n++] = spec->extra[i];
	if (spec->room && spec->warm_python)
		r = zygote_spawn(spec->room, &c->child, &l->spawn, command_exited, err);
	else if (spec->room)
		r = room_spawn(spec->room, &c->child, &l->spawn, command_exited, err);
	else
		r = confined_spawn(c->commands->execd, &c->child, &l->spawn, c->confine, c->id,
				   command_exited, &c->denials, err);
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
	pump_init(&c->out, &command_pump_ops, OUTPUT_STDOUT);
	pump_init(&c->error, &command_pump_ops, OUTPUT_STDERR);
	feed_init(&c->in);
	return c;
}

/* A run that never came to be: it ends unseen, as nobody has been told its id. */
static int start_failed(struct command *c, int r)
{
	struct run_end end = {.reason = RUN_FAILED, .exit_code = -1};
	pump_close(&c->out);
	pump_close(&c->error);
	feed_close(&c->in);
	limits_hold_release(c->limits);
	command_unconfine(c);
	loop_timer_del(&c->timeout);
	run_ended(c->run, &end);
	run_unref(c->run);
	free(c->id);
	free(c);
	return r;
}

static int command_bound(struct command *c, struct launch *l, const struct command_spec *spec,
			 struct err *err)
{
	struct commands *cs = c->commands;
	uid_t uid = spec->has_uid ? spec->uid : geteuid();
	if (!limits_any(&spec->limits))
		return 0;
	struct limiter *limiter;
	int r = commands_limiter(cs, &limiter, err);
	if (r >= 0)
		r = limits_hold_new(limiter, &spec->limits, c->id, uid, &c->limits, err);
	if (r < 0)
		return r;
	limits_hold_apply(c->limits, &l->spawn);
	c->output_budget = spec->limits.value[LIMIT_OUTPUT];
	if (c->output_budget)
		c->out.budget = c->error.budget = &c->output_budget;
	c->run->limits = limits_hold_json(c->limits);
	return c->run->limits ? 0 : err_sys(err, "RUNTIME_ERROR", ENOMEM, "limits");
}

static int command_confine(struct command *c, const struct command_spec *spec, struct err *err)
{
	int r;
	if (spec->room) { /* which is confined as a whole */
		c->room = room_ref(spec->room);
		return 0;
	}
	r = confinement_get(c->commands->execd->confinement, CONFINED_COMMANDS, spec->confinement,
			    &c->confine, err);
	if (r >= 0)
		c->run->confinement = confinement_json(c->confine);
	return r;
}

static int arm_timeout(struct command *c, uint64_t in_ms)
{
	struct loop *loop = c->commands->execd->loop;
	return in_ms ? loop_timer_set(loop, &c->timeout, loop_now_ms(loop) + in_ms, command_timed_out) : 0;
}

static int command_run(struct commands *cs, const char *content, struct launch *l,
		       const struct command_spec *spec, struct run **ret_run, struct err *err)
{
	uint64_t timeout_ms = spec->limits.value[LIMIT_TIMEOUT];
	struct command *c = command_new(cs);
	struct run *run;
	if (!c)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "start a command");
	int r = run_new(cs->execd->runs, content, &command_ops, c, &run, err);
	if (r < 0) {
		free(c);
		return r;
	}
	c->run = run;
	run->background = spec->background;
	c->id = strdup(run->id);
	r = c->id ? launch_mark(l, c->id, err) : err_sys(err, "RUNTIME_ERROR", ENOMEM, "start a command");
	if (r >= 0)
		r = command_bound(c, l, spec, err);
	if (r >= 0)
		r = command_confine(c, spec, err);
	/* Once now, so that it cannot fail when the command is there. */
	if (r >= 0 && arm_timeout(c, timeout_ms) < 0)
		r = err_sys(err, "RUNTIME_ERROR", ENOMEM, "start a command");
	if (r >= 0 && spec->undoable)
		r = undoable_started(spec->undoable, c->id, err);
	if (r >= 0)
		r = command_spawn(c, l, spec, err);
	if (r < 0)
		return start_failed(c, r);

	c->undoable = spec->undoable;
	list_add_tail(&cs->live, &c->link);
	output_set_on_room(run->output, command_has_room, c);
	run->command = true;
	run_started(run);
	(void)arm_timeout(c, timeout_ms);
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
