/*
 * command.c - commands: output, timeout, interrupt, end. How one begins is in command_start.c.
 *
 * Owns each live command. Loop thread only.
 *
 *   RUNNING ── exit ──> DRAINING ── both pipes at their end, or grace ──> ENDED
 *      │                                                                    │
 *      └── killed, and not gone after COMMAND_KILL_GRACE_MS ────────────────┘
 *
 * Output: pumps read the pipes while the log has room. Once the process has
 * exited, what was in the pipe at that moment is read whatever the room: it is
 * bounded by the pipe. What others write after that is taken for
 * COMMAND_DRAIN_GRACE_MS. Then the run ends, and a pipe that is still held open
 * becomes a sink (sink.h).
 *
 * Bounds: a cgroup of a command's own goes when it is empty, which may be long
 * after the command (limits.h). Output over its bound is not kept, and ends the
 * command like a timeout.
 *
 * Force: an interrupt is SIGTERM to the process group and, if anything of it is
 * left after COMMAND_INTERRUPT_GRACE_MS, SIGKILL to the whole tree. A timeout
 * is SIGKILL to the tree at once. ENDED commands stay as long as their stop
 * timer is armed, to finish what outlived its leader.
 */
#include "execd/command_priv.h"

#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "execd/confinement.h"
#include "execd/execd.h"
#include "execd/isolated/room.h"
#include "execd/isolated/undoable.h"
#include "execd/metrics.h"
#include "execd/tree.h"

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
	list_foreach_safe (node, &cs->dead) {
		struct command *c = list_entry(node, struct command, link);
		list_del(&c->link);
		free(c->id);
		free(c);
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
	list_add_tail(&c->commands->dead, &c->link);
	want_tidy(c->commands);
}

/* ---- the end ----------------------------------------------------------- */

/* Has the kernel killed for want of memory in our own cgroup since this was last asked? */
static bool container_out_of_memory(struct commands *cs)
{
	uint64_t before = cs->oom_kills;
	const struct metrics *m = cs->execd->metrics;
	return m && metrics_oom_kills(m, &cs->oom_kills) >= 0 && cs->oom_kills > before;
}

/* An allocation that an rlimit refuses kills nobody: the command fails by itself, about as large as it may
 * be. */
static bool filled_its_rlimit(const struct command *c)
{
	const struct limits_hold *h = c->limits;
	return h && h->by[LIMIT_MEMORY] == LIMIT_BY_RLIMIT &&
	       (uint64_t)c->usage.ru_maxrss * 1024 >= h->limits.value[LIMIT_MEMORY] / 4 * 3;
}

static void check_memory(struct command *c, struct run_end *end)
{
	bool killed = end->signo == SIGKILL || end->exit_code == 128 + SIGKILL; /* a shell's word for it */
	end->oom_kills = c->limits ? limits_hold_oom_kills(c->limits) : 0;
	if (c->forced || end->exit_code == 0)
		return;
	if (end->oom_kills > 0 || filled_its_rlimit(c) || (killed && container_out_of_memory(c->commands)))
		end->reason = RUN_OOM;
}

static void fill_end(struct command *c, struct run_end *end)
{
	*end = (struct run_end){.reason = c->cause,
				.exit_code = -1,
				.usage = c->usage,
				.processes_killed = c->processes_killed};
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
	check_memory(c, end);
}

/* Whoever else still writes there is not to die of it, unless it is to die. */
static void close_pump(struct command *c, struct pump *p)
{
	if (pump_open(p) && !c->killed)
		sinks_add(&c->commands->sinks, pump_take_fd(p));
	pump_close(p);
}

void command_unconfine(struct command *c)
{
	if (c->room)
		room_unref(TAKE_PTR(c->room));
	confinement_let_go(c->commands->execd, TAKE_PTR(c->denials));
	confine_unref(TAKE_PTR(c->confine));
}

static void command_end(struct command *c);

static void command_settled(void *arg, const char *message)
{
	struct command *c = arg;
	char text[ERR_MESSAGE_MAX + 64];
	undoable_forget(TAKE_PTR(c->undoable));
	c->state = DRAINING;
	if (message[0]) {
		int n = snprintf(text, sizeof(text), "execd: not all of its changes could be merged: %s\n",
				 message);
		(void)output_append(c->run->output, OUTPUT_STDERR, text, (size_t)n);
	}
	command_end(c);
}

/* Its changes are merged first: whoever sees its end sees its files. False: there is nothing to wait for. */
static bool command_settles(struct command *c)
{
	if (c->state == SETTLING)
		return true;
	if (!c->undoable)
		return false;
	loop_timer_del(&c->timeout);
	loop_timer_del(&c->drain);
	loop_timer_del(&c->stop);
	pump_close(&c->out);
	pump_close(&c->error);
	c->state = SETTLING;
	if (undoable_settle(c->undoable, command_settled, c) >= 0)
		return true;
	undoable_forget(TAKE_PTR(c->undoable));
	c->state = DRAINING;
	return false;
}

static void command_end(struct command *c)
{
	if (command_settles(c))
		return;
	struct commands *cs = c->commands;
	struct run *run = TAKE_PTR(c->run);
	struct run_end end;

	fill_end(c, &end);
	loop_timer_del(&c->timeout);
	loop_timer_del(&c->drain);
	close_pump(c, &c->out);
	close_pump(c, &c->error);
	feed_close(&c->in);
	child_forget(&c->child);
	limits_hold_release(TAKE_PTR(c->limits));
	run->denied = c->room ? room_denied(c->room) : denials_take(c->denials);
	run->profile = denials_profile(c->denials);
	command_unconfine(c);
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
	struct loop *loop = c->commands->execd->loop;
	uint64_t due_ms = loop_now_ms(loop) + COMMAND_DRAIN_GRACE_MS;
	if (c->state != DRAINING)
		return;
	if (!pump_open(&c->out) && !pump_open(&c->error))
		command_end(c);
	else if (!c->out.draining && !c->error.draining && !loop_timer_armed(&c->drain) &&
		 loop_timer_set(loop, &c->drain, due_ms, drain_expired) < 0)
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
	if (c->child.pid > 0)
		c->pid = c->child.pid; /* in a room it is known later */
	if (c->pid > 0)
		c->processes_killed += tree_kill(c->pid, c->state == RUNNING, c->id);
	else
		(void)child_kill(&c->child, SIGKILL);
	if (c->state != ENDED)
		arm_stop(c, COMMAND_KILL_GRACE_MS);
}

static void stop_expired(struct loop_timer *timer)
{
	struct command *c = container_of(timer, struct command, stop);
	if (c->state == ENDED) {
		if (c->pid > 0)
			(void)tree_kill(c->pid, false, c->id);
		command_free(c);
	} else if (c->killed) {
		command_end(c); /* not even SIGKILL ends it now: a client need not wait for that */
	} else {
		command_kill(c, c->cause);
	}
}

void command_timed_out(struct loop_timer *timer)
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

static int command_signal(struct run *run, int signo, bool group)
{
	struct command *c = run->owner;
	if (!c || c->state != RUNNING)
		return -ESRCH;
	return group ? child_kill_group(&c->child, signo) : child_kill(&c->child, signo);
}

const struct run_ops command_ops = {.interrupt = command_interrupt, .signal = command_signal};

int command_feed(struct run *run, struct feed **ret, struct err *err)
{
	if (run->state == RUN_ENDED)
		return err_set(err, ERR_GONE, "COMMAND_ENDED", EPIPE, "command '%s' has ended", run->id);
	if (run->ops != &command_ops || !((struct command *)run->owner)->in.made)
		return err_set(err, ERR_CONFLICT, "NO_STDIN", EBADF,
			       "'%s' was started without a pipe to its standard input ('stdin': true)",
			       run->id);
	struct command *c = run->owner;
	if (!feed_is_open(&c->in))
		return err_set(err, ERR_GONE, "STDIN_CLOSED", EPIPE,
			       "the standard input of command '%s' has been closed", run->id);
	*ret = &c->in;
	return 0;
}

/* ---- output ------------------------------------------------------------ */

static struct command *command_of(struct pump *p)
{
	return p->stream == OUTPUT_STDOUT ? container_of(p, struct command, out)
					  : container_of(p, struct command, error);
}

static void pump_at_end(struct pump *p)
{
	check_drained(command_of(p));
}

/* Bytes are lost, or too many: what follows would not be the command's output. */
static void pump_failed(struct pump *p, int r)
{
	struct command *c = command_of(p);
	(void)r;
	if (!c->killed)
		command_kill(c, RUN_OUTPUT_LIMIT);
}

const struct pump_ops command_pump_ops = {
	.drained = pump_at_end, .ended = pump_at_end, .failed = pump_failed};

void command_has_room(void *arg)
{
	struct command *c = arg;
	pump_resume(&c->out);
	pump_resume(&c->error);
	check_drained(c);
}

void command_exited(struct child *child, int wstatus, const struct rusage *usage)
{
	struct command *c = container_of(child, struct command, child);
	c->wstatus = wstatus;
	c->usage = *usage;
	c->state = DRAINING;
	loop_timer_del(&c->timeout);
	(void)pump_drain(&c->out);
	(void)pump_drain(&c->error);
	check_drained(c);
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
	list_init(&cs->dead);
	sinks_init(&cs->sinks, execd->loop);
	(void)container_out_of_memory(cs);
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

static void collected(void *arg)
{
	limiter_tidy(arg);
}

int commands_limiter(struct commands *cs, struct limiter **ret, struct err *err)
{
	int r = cs->limiter ? 0 : limiter_new(&cs->limiter);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "limits");
	reaper_on_collected(cs->execd->reaper, collected, cs->limiter);
	*ret = cs->limiter;
	return 0;
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
		if (c->undoable)
			undoable_forget(TAKE_PTR(c->undoable));
		if (c->state == SETTLING)
			c->state = DRAINING;
		command_end(c);
	}
	list_foreach_safe (node, &cs->lingering) {
		struct command *c = list_entry(node, struct command, link);
		if (loop_timer_armed(&c->stop))
			(void)tree_kill(c->pid, false, c->id);
		command_free(c);
	}
	sinks_done(&cs->sinks);
	free_dead(cs);
	loop_defer_cancel(&cs->tidy);
	reaper_on_collected(cs->execd->reaper, NULL, NULL);
	limiter_free(cs->limiter);
	free(cs);
}
