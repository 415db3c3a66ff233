/*
 * kernel_shell.c - a living shell (shell.h) as a kernel: it has the process and the pipes, and no frames.
 */
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "execd/kernel_priv.h"

/* Told from the loop, as the greeting of a kernel would be. */
static void shell_ready(struct loop_timer *timer)
{
	struct kernel *k = container_of(timer, struct kernel, timer);
	k->state = IDLE;
	k->events->ready(k->owner);
}

static void script_started(struct loop_timer *timer)
{
	struct kernel *k = container_of(timer, struct kernel, timer);
	if (k->state == BUSY)
		k->events->started(k->owner);
}

static void script_done(void *owner, int exit_code)
{
	struct kernel *k = owner;
	char line[32];
	loop_timer_del(&k->timer);
	k->state = IDLE;
	(void)snprintf(line, sizeof(line), "exit status %d", exit_code);
	json_t *end = exit_code == 0 ? json_pack("{s:s}", "status", "ok")
				     : json_pack("{s:s, s:s, s:s, s:[s]}", "status", "error", "ename",
						 "CommandExecError", "evalue", line + strlen("exit status "),
						 "traceback", line);
	k->events->done(k->owner, end);
	json_decref(end);
}

static void shell_died(void *owner, int wstatus, const struct rusage *usage)
{
	struct kernel *k = owner;
	k->wstatus = wstatus;
	k->usage = *usage;
	k->ended = true;
	k->advancing = true; /* what died() is given lies in it */
	kernel_die(k);
}

static void script_overflow(void *owner)
{
	struct kernel *k = owner;
	if (k->state == BUSY)
		k->events->overflow(k->owner);
}

static void shell_forked(void *owner, const char *error)
{
	struct kernel *k = owner;
	loop_timer_del(&k->timer);
	if (!error) {
		k->state = IDLE;
		k->events->ready(k->owner);
		return;
	}
	(void)snprintf(k->death, sizeof(k->death), "could not be forked: %s", error);
	k->wstatus = KERNEL_REFUSED;
	k->ended = true;
	k->advancing = true; /* the shell stands in it */
	kernel_die(k);
}

static const struct shell_events shell_events = {
	.done = script_done, .died = shell_died, .overflow = script_overflow, .forked = shell_forked};

int kernel_shell_execute(struct kernel *k, const char *code, struct output *out, struct err *err)
{
	struct loop *loop = k->execd->loop;
	int r = shell_run(k->shell, code, out, err);
	if (r < 0)
		return r;
	k->state = BUSY;
	return loop_timer_set(loop, &k->timer, loop_now_ms(loop), script_started);
}

int kernel_shell_start(struct execd *execd, const struct kernel_spec *spec, struct kernel **ret,
		       struct err *err)
{
	struct kernel *k = kernel_alloc(execd, spec);
	const struct shell_spec shell = {.cwd = spec->cwd,
					 .confine = spec->confine,
					 .mark = spec->mark,
					 .forkable = true,
					 .events = &shell_events,
					 .owner = k};
	if (!k)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "start a kernel");
	k->mark = strdup(spec->mark); /* what outlives the shell is found by it */
	int r = !k->mark ? err_sys(err, "RUNTIME_ERROR", ENOMEM, "start a kernel")
			 : shell_start(execd, &shell, &k->shell, err);
	if (r >= 0) {
		shell_set_idle_output(k->shell, spec->output);
		r = loop_timer_set(execd->loop, &k->timer, loop_now_ms(execd->loop), shell_ready);
	}
	if (r < 0) {
		kernel_free(k);
		return r;
	}
	*ret = k;
	return 0;
}

int kernel_shell_fork(struct kernel *parent, const struct kernel_spec *spec, struct kernel **ret,
		      struct err *err)
{
	struct loop *loop = parent->execd->loop;
	struct kernel *k = kernel_alloc(parent->execd, spec);
	const struct shell_spec shell = {.mark = spec->mark, .events = &shell_events, .owner = k};
	if (!k)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "fork a kernel");
	k->mark = strdup(spec->mark); /* what outlives the shell is found by it */
	int r = !k->mark ? err_sys(err, "RUNTIME_ERROR", ENOMEM, "start a kernel")
			 : shell_fork(parent->shell, &shell, &k->shell, err);
	if (r >= 0) {
		shell_set_idle_output(k->shell, spec->output);
		r = loop_timer_set(loop, &k->timer, loop_now_ms(loop) + KERNEL_START_TIMEOUT_MS,
				   kernel_start_timeout);
	}
	if (r < 0) {
		kernel_free(k);
		return r;
	}
	*ret = k;
	return 0;
}
