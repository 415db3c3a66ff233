/*
 * context_kernel.c - the kernel of a context: its start, its bounds, its end.
 *
 * Kernels come from warm.c. The bounds of a context are put on its kernel when
 * that is ready and has not run anything of the user's. A context that has been
 * idle for as long as the agent was told loses its kernel. Loop only.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "execd/command.h"
#include "execd/context_priv.h"
#include "execd/execd.h"
#include "execd/kernel.h"
#include "execd/metrics.h"
#include "execd/run.h"
#include "execd/warm.h"

/* Whatever its kernel was denied while it ran is the cell's. */
static void tell_denied(struct context *c)
{
	struct run *cell = cells_current(&c->cells);
	if (cell && c->cells.kernel)
		cell->denied = kernel_denied(c->cells.kernel);
}

void context_end_kernel(struct context *c)
{
	tell_denied(c);
	kernel_free(TAKE_PTR(c->cells.kernel));
	loop_timer_del(&c->idle);
	limits_hold_release(TAKE_PTR(c->hold));
}

/* ---- memory ------------------------------------------------------------------- */

/* Has the system killed for want of memory in the container since this was last asked? -errno: nobody counts.
 */
int contexts_out_of_memory(struct contexts *cs)
{
	const struct metrics *m = cs->execd->metrics;
	uint64_t before = cs->oom_kills;
	int r = m ? metrics_oom_kills(m, &cs->oom_kills) : -ENOENT;
	return r < 0 ? r : cs->oom_kills > before;
}

/* How it ended, with what is known about memory beside the wait status; true: it is known to be that. */
static bool explain_death(struct context *c, const char *message, int wstatus, char *out, size_t size)
{
	bool killed = wstatus >= 0 && WIFSIGNALED(wstatus), by_kill = killed && WTERMSIG(wstatus) == SIGKILL;
	unsigned long long limit = c->hold ? c->limits.value[LIMIT_MEMORY] : 0;
	int in_container = by_kill ? contexts_out_of_memory(c->contexts) : 0;
	bool at_limit = by_kill && c->hold && limits_hold_oom_kills(c->hold) > 0;
	if (at_limit)
		(void)snprintf(out, size, "%s: out of memory at its limit of %llu bytes", message, limit);
	else if (in_container > 0)
		(void)snprintf(out, size, "%s: the container is out of memory", message);
	else if (killed && limit && c->hold->by[LIMIT_MEMORY] == LIMIT_BY_RLIMIT)
		(void)snprintf(out, size, "%s, perhaps for want of memory at its limit of %llu bytes",
			       message, limit);
	else
		(void)snprintf(out, size, "%s%s", message,
			       in_container < 0 ? ", perhaps for want of memory" : "");
	return at_limit || in_container > 0;
}

static void kick(struct context *c)
{
	if (!list_empty(&c->cells.waiting))
		loop_defer(c->contexts->execd->loop, &c->contexts->kick, contexts_kick);
}

static void fail_start(struct context *c, const char *message, bool refused);

static void on_ready(void *owner)
{
	struct context *c = owner;
	int r = c->hold ? limits_hold_enter(c->hold, kernel_pid(c->cells.kernel)) : 0;
	if (r < 0) {
		char text[128];
		(void)snprintf(text, sizeof(text), "could not be bounded: %s", strerror(-r));
		c->state = DEAD;
		context_end_kernel(c);
		fail_start(c, text, false);
		return;
	}
	c->state = IDLE;
	(void)contexts_out_of_memory(c->contexts); /* from now on only what happens to this one counts */
	context_arm_idle(c);
	if (c->run->state == RUN_QUEUED)
		run_started(c->run);
	context_tell_waits(c, NULL);
	kick(c);
	warm_refill(c->contexts->warm, c->language);
}

static void on_started(void *owner)
{
	struct context *c = owner;
	cells_started(&c->cells);
}

static void on_interrupted(void *owner)
{
	struct context *c = owner;
	cells_interrupted(&c->cells);
}

static void on_overflow(void *owner)
{
	struct context *c = owner;
	cells_overflow(&c->cells);
}

static void on_result(void *owner, json_t *data)
{
	struct context *c = owner;
	cells_result(&c->cells, data);
}

static void on_done(void *owner, json_t *message)
{
	struct context *c = owner;
	c->state = IDLE;
	c->backlog = output_end(c->run->output);
	tell_denied(c);
	cells_ended(&c->cells, message);
	context_arm_idle(c);
	kick(c);
}

/* Whoever waits for the start is told, and a context that never was is gone. */
static void fail_start(struct context *c, const char *message, bool refused)
{
	char text[KERNEL_DEATH_MAX + 64];
	struct err err;
	bool never = c->run->state == RUN_QUEUED;
	(void)snprintf(text, sizeof(text), "the %s kernel %s", c->language->name, message);
	(void)err_set(&err, refused ? ERR_CONFLICT : ERR_UNAVAILABLE, "RUNTIME_ERROR", refused ? EBUSY : EIO,
		      "%s", text);
	context_tell_waits(c, &err);
	cells_end_all(&c->cells, RUN_FAILED, "KernelStartError", text);
	if (never)
		context_free(c);
}

/* It had died before it was asked for, only nobody knew. */
static bool begin_another(struct context *c)
{
	struct err err;
	if (!c->had_waited)
		return false;
	context_end_kernel(c);
	return context_begin_kernel(c, &err) >= 0;
}

static void on_died(void *owner, const char *message, int wstatus, const struct rusage *usage)
{
	struct context *c = owner;
	bool starting = c->state == STARTING;
	char how[KERNEL_DEATH_MAX + 128], text[KERNEL_DEATH_MAX + 384];
	bool oom = explain_death(c, message, wstatus, how, sizeof(how));
	if (starting && begin_another(c))
		return;
	c->state = DEAD;
	free(c->epitaph);
	c->epitaph = strdup(how);
	context_end_kernel(c);
	if (starting) {
		fail_start(c, how, wstatus == KERNEL_REFUSED);
		return;
	}
	(void)snprintf(text, sizeof(text), "the kernel %s; the context's state is lost, %s", how,
		       c->is_default ? "the next cell begins with a new kernel"
				     : "it is dead until it is restarted");
	if (c->cells.current) {
		struct run_end end = {.reason = oom ? RUN_OOM : RUN_FAILED, .exit_code = -1, .usage = *usage};
		if (wstatus >= 0 && WIFSIGNALED(wstatus))
			end.signo = WTERMSIG(wstatus);
		else if (wstatus >= 0)
			end.exit_code = WEXITSTATUS(wstatus);
		cell_set_error(&end, "KernelDied", text);
		cells_end_current(&c->cells, &end);
	}
	cells_end_waiting(&c->cells, RUN_FAILED, "KernelDied", text);
}

/* ---- idleness -------------------------------------------------------------------- */

/* Its threads and tasks go as well: without a cell nobody waits for them. */
static void idle_too_long(struct loop_timer *timer)
{
	struct context *c = container_of(timer, struct context, idle);
	char text[96];
	(void)snprintf(text, sizeof(text), "was evicted after %llu ms without a cell",
		       (unsigned long long)c->contexts->execd->kernel_idle_ms);
	context_end_kernel(c);
	c->state = DEAD;
	c->evicted = true;
	free(c->epitaph);
	c->epitaph = strdup(text);
}

void context_arm_idle(struct context *c)
{
	const struct execd *execd = c->contexts->execd;
	if (execd->kernel_idle_ms)
		(void)loop_timer_set(execd->loop, &c->idle, loop_now_ms(execd->loop) + execd->kernel_idle_ms,
				     idle_too_long);
}

static const struct kernel_events context_events = {
	.ready = on_ready,
	.started = on_started,
	.interrupted = on_interrupted,
	.overflow = on_overflow,
	.result = on_result,
	.done = on_done,
	.died = on_died,
};

/* ---- kernels of contexts ----------------------------------------------------------- */

void context_fill_spec(struct context *c, struct kernel_spec *spec)
{
	*spec = (struct kernel_spec){
		.language = c->language,
		.cwd = c->cwd,
		.mark = c->run->id,
		.confine = c->confine,
		.output = c->run->output,
		.events = &context_events,
		.owner = c,
	};
}

int context_make_hold(struct context *c, struct err *err)
{
	struct limiter *limiter;
	char id[64];
	if (!limits_any(&c->limits))
		return 0;
	(void)snprintf(id, sizeof(id), "%.40s.%u", c->run->id, c->kernels++);
	int r = commands_limiter(c->contexts->execd->commands, &limiter, err);
	return r < 0 ? r : limits_hold_new(limiter, &c->limits, id, geteuid(), &c->hold, err);
}

int context_begin_kernel(struct context *c, struct err *err)
{
	struct kernel_spec spec;
	context_fill_spec(c, &spec);
	c->state = STARTING;
	c->evicted = false;
	c->cells.count = 0;
	c->backlog = output_end(c->run->output);
	int r = context_make_hold(c, err);
	if (r >= 0)
		r = warm_start(c->contexts->warm, &spec, &c->cells.kernel, err);
	c->had_waited = r > 0;
	if (r < 0) {
		c->state = DEAD;
		limits_hold_release(TAKE_PTR(c->hold));
	}
	return MIN(r, 0);
}

void context_own_room(void *arg)
{
	const struct context *c = arg;
	if (c->cells.kernel)
		kernel_resume(c->cells.kernel);
}
