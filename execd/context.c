/*
 * context.c - contexts, their cells and their bounds.
 *
 * Owns each context, its kernel and its cells. Kernels come from warm.c. The
 * bounds of a context are put on its kernel when that is ready and has not run
 * anything of the user's. A context that has been idle for as long as the agent
 * was told loses its kernel.
 *
 *   cell: WAITING -> SENT -> STARTED -> ended
 *
 * An interrupt before STARTED is remembered and delivered then: the kernel does
 * not heed SIGINT while the user's code is not running, so that a late one
 * cannot harm it. One that comes as the code is about to wait can be lost inside
 * the language, so it is sent again until the kernel says that it has arrived.
 */
#include "execd/context.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "execd/command.h"
#include "execd/execd.h"
#include "execd/kernel.h"
#include "execd/limits.h"
#include "execd/metrics.h"
#include "execd/path.h"
#include "execd/run.h"
#include "execd/warm.h"
#include "lib/clock.h"
#include "lib/fs.h"
#include "proto/json.h"

#define RESULT_MAX ((size_t)64 << 20) /* bytes of one result event */

struct cell {
	struct list link;
	struct context *context;
	struct run *run;
	size_t code_n;
	uint64_t timeout_ms;
	bool started, interrupted, timed_out, counted;
	unsigned tries; /* SIGINTs sent since the last acknowledgement */
};

enum state { STARTING, IDLE, BUSY, DEAD };

struct context {
	struct map_node node;
	struct list link;
	struct contexts *contexts;
	const struct language *language;
	struct run *run; /* the context's own */
	struct kernel *kernel;
	enum state state;
	bool is_default;
	char *cwd;
	int64_t count; /* cells begun in this kernel */
	struct list waiting;
	size_t waiting_n, waiting_bytes;
	struct cell *current;
	struct loop_timer timeout, again, idle;
	struct list waits;
	uint64_t backlog; /* offset in the own log up to which cells have been told */
	char *epitaph;	  /* how the last kernel ended */
	bool reborn;	  /* the next cell says that this is a new kernel */
	bool evicted;	  /* it is dead because it was idle */
	struct limits limits;
	struct limits_hold *hold; /* NULL: none */
	unsigned kernels;	  /* so far; tells their cgroups apart */
};

struct contexts {
	struct execd *execd;
	struct map by_id;
	struct list all;
	struct warm *warm;
	char *cwd;
	uint64_t oom_kills;	/* of the whole container, when last looked at */
	struct loop_defer kick; /* starts what waits, outside of the callbacks of a kernel */
};

static int invalid(struct err *err, const char *message)
{
	return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL, "%s", message);
}

static int find_language(const char *name, const struct language **ret, struct err *err)
{
	_cleanup_buf_ struct buf names = BUF_INIT(1024);
	*ret = language_find(name);
	if (*ret)
		return 0;
	language_names(&names);
	return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
		       "language: '%.64s' is not supported; there are: %s", name, buf_cstr(&names));
}

static struct context *find(struct contexts *cs, const char *id)
{
	struct map_node *node = map_get(&cs->by_id, id);
	return node ? container_of(node, struct context, node) : NULL;
}

static int find_context(struct contexts *cs, const char *id, struct context **ret, struct err *err)
{
	*ret = find(cs, id);
	return *ret ? 0
		    : err_set(err, ERR_NOT_FOUND, "CONTEXT_NOT_FOUND", ENOENT, "there is no context '%.64s'",
			      id);
}

/* ---- events of a cell ----------------------------------------------------- */

static void emit(struct run *run, struct jw *w)
{
	jw_kint(w, "timestamp", (int64_t)clock_real_ms());
	jw_obj_end(w);
	if (!w->out->failed)
		(void)output_append(run->output, OUTPUT_EVENT, w->out->data, w->out->len);
}

/* Clients want the count before the result, and also when there is none. */
static void emit_count(struct cell *cell)
{
	_cleanup_buf_ struct buf event = BUF_INIT(256);
	struct jw w = JW_INIT(&event);
	if (cell->counted)
		return;
	cell->counted = true;
	jw_obj_begin(&w);
	jw_kstr(&w, "type", "execution_count");
	jw_kint(&w, "execution_count", cell->context->count);
	emit(cell->run, &w);
}

static void emit_result(struct cell *cell, json_t *data)
{
	_cleanup_buf_ struct buf event = BUF_INIT(RESULT_MAX);
	struct jw w = JW_INIT(&event);
	const char *mime;
	json_t *value;
	emit_count(cell);
	jw_obj_begin(&w);
	jw_kstr(&w, "type", "result");
	jw_key(&w, "results");
	jw_obj_begin(&w);
	json_object_foreach(data, mime, value)
	{
		char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
		if (!text)
			continue;
		jw_key(&w, strcmp(mime, "text/plain") == 0 ? "text" : mime);
		jw_raw(&w, text, strlen(text));
		free(text);
	}
	jw_obj_end(&w);
	jw_kint(&w, "execution_count", cell->context->count);
	emit(cell->run, &w);
}

static void emit_status(struct run *run, const char *text)
{
	_cleanup_buf_ struct buf event = BUF_INIT(4096);
	struct jw w = JW_INIT(&event);
	jw_obj_begin(&w);
	jw_kstr(&w, "type", "status");
	jw_kstr(&w, "text", text);
	emit(run, &w);
}

/* ---- the end of a cell ----------------------------------------------------- */

static void cell_free(struct cell *cell)
{
	list_del(&cell->link);
	free(cell);
}

static void cell_end(struct cell *cell, struct run_end *end)
{
	struct run *run = TAKE_PTR(cell->run);
	run_ended(run, end);
	run_unref(run);
	cell_free(cell);
}

static void set_error(struct run_end *end, const char *ename, const char *evalue)
{
	free(end->ename);
	free(end->evalue);
	end->ename = strdup(ename);
	end->evalue = strdup(evalue);
}

static void waiting_end(struct cell *cell, enum run_reason reason, const char *ename, const char *evalue)
{
	struct run_end end = {.reason = reason, .exit_code = -1};
	set_error(&end, ename, evalue);
	cell->context->waiting_n--;
	cell->context->waiting_bytes -= cell->code_n;
	cell_end(cell, &end);
}

static void current_end(struct context *c, struct run_end *end)
{
	struct cell *cell = TAKE_PTR(c->current);
	loop_timer_del(&c->timeout);
	loop_timer_del(&c->again);
	emit_count(cell);
	if (cell->timed_out && end->reason != RUN_CANCELLED) {
		char text[256];
		(void)snprintf(text, sizeof(text), "the cell ran longer than its timeout of %llu ms%s",
			       (unsigned long long)cell->timeout_ms,
			       c->state == DEAD ? " and did not heed an interrupt: its kernel was killed"
						: "");
		end->reason = RUN_TIMEOUT;
		set_error(end, "TimeoutError", text);
	} else if (cell->interrupted && end->reason == RUN_FAILED) {
		end->reason = RUN_INTERRUPTED;
	}
	cell_end(cell, end);
}

static void end_waiting(struct context *c, enum run_reason reason, const char *ename, const char *evalue)
{
	list_foreach_safe (node, &c->waiting)
		waiting_end(list_entry(node, struct cell, link), reason, ename, evalue);
}

static void end_all(struct context *c, enum run_reason reason, const char *ename, const char *evalue)
{
	if (c->current) {
		struct run_end end = {.reason = reason, .exit_code = -1};
		set_error(&end, ename, evalue);
		current_end(c, &end);
	}
	end_waiting(c, reason, ename, evalue);
}

static void tell_waits(struct context *c, const struct err *err)
{
	while (!list_empty(&c->waits)) {
		struct context_wait *w = list_entry(c->waits.next, struct context_wait, link);
		list_del(&w->link);
		w->done(w, c, err);
	}
}

static void add_wait(struct context *c, struct context_wait *w)
{
	w->context = c;
	list_add_tail(&c->waits, &w->link);
}

void context_unwait(struct context_wait *w)
{
	list_del(&w->link);
}

/* ---- interrupt and timeout --------------------------------------------------- */

static void interrupt_again(struct loop_timer *timer);

static void arm_again(struct context *c)
{
	struct loop *loop = c->contexts->execd->loop;
	uint64_t wait_ms = (uint64_t)CONTEXT_INTERRUPT_AGAIN_MS << (2 * c->current->tries);
	if (++c->current->tries < CONTEXT_INTERRUPT_TRIES)
		(void)loop_timer_set(loop, &c->again, loop_now_ms(loop) + wait_ms, interrupt_again);
}

static void interrupt_again(struct loop_timer *timer)
{
	struct context *c = container_of(timer, struct context, again);
	(void)kernel_interrupt_again(c->kernel);
	arm_again(c);
}

static int interrupt_current(struct context *c)
{
	int r = kernel_interrupt(c->kernel);
	c->current->tries = 0;
	arm_again(c);
	return r;
}

static int cell_interrupt(struct run *run)
{
	struct cell *cell = run->owner;
	if (!cell)
		return -ESRCH;
	struct context *c = cell->context;
	if (c->current != cell) {
		waiting_end(cell, RUN_INTERRUPTED, "KeyboardInterrupt", "interrupted before it began");
		return 0;
	}
	cell->interrupted = true;
	return cell->started ? interrupt_current(c) : 0;
}

static const struct run_ops cell_ops = {.interrupt = cell_interrupt};

static int context_interrupt(struct run *run)
{
	const struct context *c = run->owner;
	return c && c->current ? cell_interrupt(c->current->run) : -ESRCH;
}

static struct run *context_current(struct run *run)
{
	const struct context *c = run->owner;
	return c && c->current ? c->current->run : NULL;
}

static const struct run_ops context_ops = {.interrupt = context_interrupt, .current = context_current};

static void timed_out(struct loop_timer *timer)
{
	struct context *c = container_of(timer, struct context, timeout);
	struct loop *loop = c->contexts->execd->loop;
	if (c->current->timed_out) { /* it does not heed SIGINT */
		kernel_kill(c->kernel);
		return;
	}
	c->current->timed_out = true;
	(void)interrupt_current(c);
	(void)loop_timer_set(loop, &c->timeout, loop_now_ms(loop) + CONTEXT_INTERRUPT_GRACE_MS, timed_out);
}

/* ---- the kernel's events ------------------------------------------------------ */

static int begin_kernel(struct context *c, struct err *err);
static void context_free(struct context *c);

static void kernel_end(struct context *c)
{
	kernel_free(TAKE_PTR(c->kernel));
	loop_timer_del(&c->idle);
	limits_hold_release(TAKE_PTR(c->hold));
}

/* ---- memory ------------------------------------------------------------------- */

/* Has the system killed for want of memory in the container since this was last asked? -errno: nobody counts.
 */
static int out_of_memory(struct contexts *cs)
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
	int in_container = by_kill ? out_of_memory(c->contexts) : 0;
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

static void kick_all(struct loop_defer *d);

static void kick(struct context *c)
{
	if (!list_empty(&c->waiting))
		loop_defer(c->contexts->execd->loop, &c->contexts->kick, kick_all);
}

static void arm_idle(struct context *c);
static void fail_start(struct context *c, const char *message);

static void on_ready(void *owner)
{
	struct context *c = owner;
	int r = c->hold ? limits_hold_enter(c->hold, kernel_pid(c->kernel)) : 0;
	if (r < 0) {
		char text[128];
		(void)snprintf(text, sizeof(text), "could not be bounded: %s", strerror(-r));
		c->state = DEAD;
		kernel_end(c);
		fail_start(c, text);
		return;
	}
	c->state = IDLE;
	(void)out_of_memory(c->contexts); /* from now on only what happens to this one counts */
	arm_idle(c);
	if (c->run->state == RUN_QUEUED)
		run_started(c->run);
	tell_waits(c, NULL);
	kick(c);
	warm_refill(c->contexts->warm, c->language);
}

static void on_started(void *owner)
{
	struct context *c = owner;
	struct loop *loop = c->contexts->execd->loop;
	struct cell *cell = c->current;
	cell->started = true;
	if (cell->interrupted)
		(void)interrupt_current(c);
	if (cell->timeout_ms)
		(void)loop_timer_set(loop, &c->timeout, loop_now_ms(loop) + cell->timeout_ms, timed_out);
}

static void on_interrupted(void *owner)
{
	struct context *c = owner;
	loop_timer_del(&c->again);
}

static void on_result(void *owner, json_t *data)
{
	struct context *c = owner;
	emit_result(c->current, data);
}

static const char *string_of(json_t *object, const char *field, const char *otherwise)
{
	const char *s = json_string_value(json_object_get(object, field));
	return s ? s : otherwise;
}

static void take_traceback(struct run_end *end, json_t *lines)
{
	size_t n = json_array_size(lines);
	end->traceback = n > 0 ? calloc(n, sizeof(*end->traceback)) : NULL;
	for (size_t i = 0; end->traceback && i < n; i++) {
		const char *line = json_string_value(json_array_get(lines, i));
		char *copy = strdup(line ? line : "");
		if (copy)
			end->traceback[end->traceback_n++] = copy;
	}
}

static void on_done(void *owner, json_t *message)
{
	struct context *c = owner;
	struct run_end end = {.reason = RUN_EXITED};
	c->state = IDLE;
	c->backlog = output_end(c->run->output);
	if (strcmp(string_of(message, "status", ""), "ok") != 0) {
		end.reason = RUN_FAILED;
		end.exit_code = -1;
		set_error(&end, string_of(message, "ename", "Error"), string_of(message, "evalue", ""));
		take_traceback(&end, json_object_get(message, "traceback"));
	}
	current_end(c, &end);
	arm_idle(c);
	kick(c);
}

/* Whoever waits for the start is told, and a context that never was is gone. */
static void fail_start(struct context *c, const char *message)
{
	char text[KERNEL_DEATH_MAX + 64];
	struct err err;
	bool never = c->run->state == RUN_QUEUED;
	(void)snprintf(text, sizeof(text), "the %s kernel %s", c->language->name, message);
	(void)err_set(&err, ERR_UNAVAILABLE, "RUNTIME_ERROR", EIO, "%s", text);
	tell_waits(c, &err);
	end_all(c, RUN_FAILED, "KernelStartError", text);
	if (never)
		context_free(c);
}

static void on_died(void *owner, const char *message, int wstatus, const struct rusage *usage)
{
	struct context *c = owner;
	bool starting = c->state == STARTING;
	char how[KERNEL_DEATH_MAX + 128], text[KERNEL_DEATH_MAX + 384];
	bool oom = explain_death(c, message, wstatus, how, sizeof(how));
	c->state = DEAD;
	free(c->epitaph);
	c->epitaph = strdup(how);
	kernel_end(c);
	if (starting) {
		fail_start(c, how);
		return;
	}
	(void)snprintf(text, sizeof(text), "the kernel %s; the context's state is lost, %s", how,
		       c->is_default ? "the next cell begins with a new kernel"
				     : "it is dead until it is restarted");
	if (c->current) {
		struct run_end end = {.reason = oom ? RUN_OOM : RUN_FAILED, .exit_code = -1, .usage = *usage};
		if (wstatus >= 0 && WIFSIGNALED(wstatus))
			end.signo = WTERMSIG(wstatus);
		else if (wstatus >= 0)
			end.exit_code = WEXITSTATUS(wstatus);
		set_error(&end, "KernelDied", text);
		current_end(c, &end);
	}
	end_waiting(c, RUN_FAILED, "KernelDied", text);
}

/* ---- idleness -------------------------------------------------------------------- */

/* Its threads and tasks go as well: without a cell nobody waits for them. */
static void idle_too_long(struct loop_timer *timer)
{
	struct context *c = container_of(timer, struct context, idle);
	char text[96];
	(void)snprintf(text, sizeof(text), "was evicted after %llu ms without a cell",
		       (unsigned long long)c->contexts->execd->kernel_idle_ms);
	kernel_end(c);
	c->state = DEAD;
	c->evicted = true;
	free(c->epitaph);
	c->epitaph = strdup(text);
}

static void arm_idle(struct context *c)
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
	.result = on_result,
	.done = on_done,
	.died = on_died,
};

/* ---- kernels of contexts ----------------------------------------------------------- */

static void fill_spec(struct context *c, struct kernel_spec *spec)
{
	*spec = (struct kernel_spec){
		.language = c->language,
		.cwd = c->cwd,
		.mark = c->run->id,
		.output = c->run->output,
		.events = &context_events,
		.owner = c,
	};
}

static int make_hold(struct context *c, struct err *err)
{
	struct limiter *limiter;
	char id[64];
	if (!limits_any(&c->limits))
		return 0;
	(void)snprintf(id, sizeof(id), "%.40s.%u", c->run->id, c->kernels++);
	int r = commands_limiter(c->contexts->execd->commands, &limiter, err);
	return r < 0 ? r : limits_hold_new(limiter, &c->limits, id, geteuid(), &c->hold, err);
}

static int begin_kernel(struct context *c, struct err *err)
{
	struct kernel_spec spec;
	fill_spec(c, &spec);
	c->state = STARTING;
	c->evicted = false;
	c->count = 0;
	c->backlog = output_end(c->run->output);
	int r = make_hold(c, err);
	if (r >= 0)
		r = warm_start(c->contexts->warm, &spec, &c->kernel, err);
	if (r < 0) {
		c->state = DEAD;
		limits_hold_release(TAKE_PTR(c->hold));
	}
	return r;
}

/* ---- cells ---------------------------------------------------------------------------- */

static void cell_room(void *arg)
{
	const struct cell *cell = arg;
	if (cell->context->kernel)
		kernel_resume(cell->context->kernel);
}

static void own_room(void *arg)
{
	const struct context *c = arg;
	if (c->kernel)
		kernel_resume(c->kernel);
}

/* What was written since the last cell: its end is the newest and what counts. */
static void tell_backlog(struct context *c, struct run *run)
{
	struct output *own = c->run->output;
	uint64_t end = output_end(own);
	uint64_t at = MAX(c->backlog, output_begin(own));
	if (end - at > CONTEXT_BACKLOG_MAX)
		at = end - CONTEXT_BACKLOG_MAX;
	c->backlog = end;
	while (at < end) {
		struct output_slice s;
		if (output_read(own, at, CONTEXT_BACKLOG_MAX, &s) <= 0)
			break;
		at = s.offset + s.len;
		if (s.stream != OUTPUT_EVENT)
			(void)output_append(run->output, s.stream, s.data, s.len);
	}
}

static void cell_begin(struct context *c, struct cell *cell)
{
	struct err err;
	list_del(&cell->link);
	c->waiting_n--;
	c->waiting_bytes -= cell->code_n;
	c->count++;
	c->current = cell;
	loop_timer_del(&c->idle);
	run_started(cell->run);
	if (c->reborn) {
		char text[KERNEL_DEATH_MAX + 64];
		(void)snprintf(text, sizeof(text), "the context's kernel %s; this is a new one",
			       c->epitaph ? c->epitaph : "had ended");
		emit_status(cell->run, text);
		c->reborn = false;
	}
	tell_backlog(c, cell->run);
	output_set_on_room(cell->run->output, cell_room, cell);
	if (kernel_execute(c->kernel, c->count, cell->run->content, cell->run->output, &err) < 0) {
		struct run_end end = {.reason = RUN_FAILED, .exit_code = -1};
		set_error(&end, "KernelError", err.message);
		current_end(c, &end);
		return;
	}
	c->state = BUSY;
}

static void context_next(struct context *c)
{
	while (c->state == IDLE && !list_empty(&c->waiting))
		cell_begin(c, list_entry(c->waiting.next, struct cell, link));
}

static void kick_all(struct loop_defer *d)
{
	struct contexts *cs = container_of(d, struct contexts, kick);
	list_foreach_safe (node, &cs->all)
		context_next(list_entry(node, struct context, link));
}

static int check_room(const struct context *c, size_t code_n, struct err *err)
{
	if (c->waiting_n >= CONTEXT_QUEUE_MAX)
		return err_set(err, ERR_LIMIT, "RUNTIME_ERROR", EAGAIN,
			       "%d cells wait in this context already, the most at once", CONTEXT_QUEUE_MAX);
	if (c->waiting_bytes + code_n > CONTEXT_QUEUE_BYTES_MAX)
		return err_set(err, ERR_LIMIT, "RUNTIME_ERROR", EAGAIN,
			       "the cells that wait in this context would be longer than %lu bytes",
			       CONTEXT_QUEUE_BYTES_MAX);
	return 0;
}

static int enqueue(struct context *c, const struct context_cell *spec, struct run **ret_run, struct err *err)
{
	size_t code_n = strlen(spec->code);
	int r = check_room(c, code_n, err);
	if (r < 0)
		return r;
	struct cell *cell = calloc(1, sizeof(*cell));
	if (!cell)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "run code");
	list_init(&cell->link);
	cell->context = c;
	cell->code_n = code_n;
	cell->timeout_ms = spec->timeout_ms;
	r = run_new(c->contexts->execd->runs, spec->code, &cell_ops, cell, &cell->run, err);
	if (r < 0) {
		cell_free(cell);
		return r;
	}
	cell->run->code = true;
	cell->run->init_text = strdup(c->run->id);
	*ret_run = run_ref(cell->run);
	list_add_tail(&c->waiting, &cell->link);
	c->waiting_n++;
	c->waiting_bytes += code_n;
	context_next(c);
	return 0;
}

/* ---- contexts ---------------------------------------------------------------------------- */

static void context_free(struct context *c)
{
	struct run_end own = {.reason = RUN_CANCELLED, .exit_code = -1};
	struct run *run = TAKE_PTR(c->run);
	struct err err;
	kernel_end(c);
	c->state = DEAD;
	(void)err_set(&err, ERR_GONE, "CONTEXT_NOT_FOUND", ENOENT, "the context was deleted");
	tell_waits(c, &err);
	end_all(c, RUN_CANCELLED, "ContextDeleted", "the context was deleted");
	loop_timer_del(&c->timeout);
	loop_timer_del(&c->again);
	map_del(&c->contexts->by_id, &c->node);
	list_del(&c->link);
	if (run) {
		run_ended(run, &own);
		run_unref(run);
	}
	free(c->cwd);
	free(c->epitaph);
	free(c);
}

/* As the reference does, a directory that is not there is made. */
static int expand_cwd(const char *given, char **ret, struct err *err)
{
	_cleanup_free_ char *path = NULL;
	struct stat st;
	int r = path_absolute(given, &path, err);
	if (r < 0)
		return r;
	if (stat(path, &st) < 0 && errno == ENOENT) {
		r = fs_mkdir_p(path, 0777);
		if (r < 0)
			return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", -r,
				       "cwd: '%s' cannot be made: %s", given, strerror(-r));
	} else if (stat(path, &st) < 0) {
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", errno, "cwd: '%s': %s", given,
			       strerror(errno));
	} else if (!S_ISDIR(st.st_mode)) {
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", ENOTDIR,
			       "cwd: '%s' is not a directory", given);
	}
	*ret = TAKE_PTR(path);
	return 0;
}

static int context_new(struct contexts *cs, const struct language *language, const char *cwd,
		       struct context **ret, struct err *err)
{
	if (cs->by_id.len >= CONTEXTS_MAX)
		return err_set(err, ERR_LIMIT, "RUNTIME_ERROR", EAGAIN,
			       "there are %d contexts already, the most at once; delete one", CONTEXTS_MAX);
	struct context *c = calloc(1, sizeof(*c));
	if (!c)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "create a context");
	c->contexts = cs;
	c->language = language;
	c->state = DEAD;
	list_init(&c->link);
	list_init(&c->waiting);
	list_init(&c->waits);
	int r = 0;
	if (cwd && *cwd)
		r = expand_cwd(cwd, &c->cwd, err);
	else if (!(c->cwd = strdup(cs->cwd)))
		r = err_sys(err, "RUNTIME_ERROR", ENOMEM, "create a context");
	if (r >= 0)
		r = run_new(cs->execd->runs, language->name, &context_ops, c, &c->run, err);
	if (r >= 0) {
		c->run->background = true;
		output_set_on_room(c->run->output, own_room, c);
		r = map_add(&cs->by_id, &c->node, c->run->id);
		if (r < 0)
			(void)err_sys(err, "RUNTIME_ERROR", -r, "create a context");
	}
	if (r < 0) {
		context_free(c);
		return r;
	}
	list_add_tail(&cs->all, &c->link);
	*ret = c;
	return 0;
}

int context_create(struct contexts *cs, const struct context_spec *spec, struct context_wait *w,
		   struct err *err)
{
	const struct language *language;
	struct context *c;
	int r = find_language(spec->language, &language, err);
	if (r >= 0)
		r = context_new(cs, language, spec->cwd, &c, err);
	if (r < 0)
		return r;
	c->limits = spec->limits;
	r = begin_kernel(c, err);
	if (r < 0) {
		context_free(c);
		return r;
	}
	add_wait(c, w);
	return 0;
}

int context_restart(struct contexts *cs, const char *id, struct context_wait *w, struct err *err)
{
	struct context *c;
	int r = find_context(cs, id, &c, err);
	if (r < 0)
		return r;
	if (c->state == STARTING)
		return err_set(err, ERR_CONFLICT, "RUNTIME_ERROR", EBUSY, "the context is starting already");
	kernel_end(c);
	c->state = DEAD;
	end_all(c, RUN_CANCELLED, "KernelRestarted", "the context was restarted");
	r = begin_kernel(c, err);
	if (r >= 0)
		add_wait(c, w);
	return r;
}

int context_fork(struct contexts *cs, const char *id, struct context_wait *w, struct err *err)
{
	struct context *c, *copy;
	struct kernel_spec spec;
	int r = find_context(cs, id, &c, err);
	if (r < 0)
		return r;
	if (!c->language->zygote)
		return err_set(err, ERR_NOT_SUPPORTED, "NOT_SUPPORTED", ENOTSUP,
			       "a %s context cannot be forked", c->language->name);
	if (c->state != IDLE || c->waiting_n > 0)
		return err_set(err, ERR_CONFLICT, "RUNTIME_ERROR", EBUSY,
			       "the context cannot be forked while it is not idle");
	r = context_new(cs, c->language, NULL, &copy, err);
	if (r < 0)
		return r;
	fill_spec(copy, &spec);
	spec.cwd = NULL; /* it stands where the first one stands */
	copy->state = STARTING;
	copy->count = c->count;
	copy->limits = c->limits;
	arm_idle(c);
	r = make_hold(copy, err);
	if (r >= 0)
		r = kernel_fork(c->kernel, &spec, &copy->kernel, err);
	if (r < 0) {
		context_free(copy);
		return r;
	}
	add_wait(copy, w);
	return 0;
}

static struct context *find_default(struct contexts *cs, const struct language *language)
{
	list_foreach_safe (node, &cs->all) {
		struct context *c = list_entry(node, struct context, link);
		if (c->is_default && c->language == language)
			return c;
	}
	return NULL;
}

/* The default context of the language, alive or on its way. */
static int get_default(struct contexts *cs, const char *name, struct context **ret, struct err *err)
{
	const struct language *language;
	int r = find_language(name, &language, err);
	if (r < 0)
		return r;
	struct context *c = find_default(cs, language);
	if (c && c->state == DEAD) {
		r = begin_kernel(c, err);
		c->reborn = true;
	} else if (!c) {
		r = context_new(cs, language, NULL, &c, err);
		if (r < 0)
			return r;
		c->is_default = true;
		r = begin_kernel(c, err);
		if (r < 0)
			context_free(c);
	}
	*ret = c;
	return r;
}

static int get_context(struct contexts *cs, const struct context_cell *cell, struct context **ret,
		       struct err *err)
{
	if (!cell->context)
		return get_default(cs, cell->language, ret, err);
	int r = find_context(cs, cell->context, ret, err);
	if (r < 0)
		return r;
	struct context *c = *ret;
	if (cell->language && strcmp(cell->language, c->language->name) != 0)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
			       "language: the context's is %s, not '%.64s'", c->language->name,
			       cell->language);
	if (c->state != DEAD)
		return 0;
	if (c->is_default) {
		c->reborn = true;
		return begin_kernel(c, err);
	}
	return err_set(err, ERR_CONFLICT, "RUNTIME_ERROR", ESRCH,
		       "the context's kernel %s; restart it with POST /code/contexts/%s/restart",
		       c->epitaph ? c->epitaph : "is dead", c->run->id);
}

int context_run(struct contexts *cs, const struct context_cell *cell, struct run **ret_run, struct err *err)
{
	struct context *c;
	if (strlen(cell->code) > CONTEXT_CODE_MAX)
		return err_set(err, ERR_TOO_LARGE, "INVALID_REQUEST_BODY", E2BIG,
			       "code: longer than %lu bytes", CONTEXT_CODE_MAX);
	if (!cell->context && !cell->language)
		return invalid(err, "context: neither an id nor a language is given");
	int r = get_context(cs, cell, &c, err);
	return r < 0 ? r : enqueue(c, cell, ret_run, err);
}

int context_delete(struct contexts *cs, const char *id, struct err *err)
{
	struct context *c;
	int r = find_context(cs, id, &c, err);
	if (r >= 0)
		context_free(c);
	return r;
}

int contexts_delete(struct contexts *cs, const char *name, struct err *err)
{
	const struct language *language;
	int r = find_language(name, &language, err);
	if (r < 0)
		return r;
	list_foreach_safe (node, &cs->all) {
		struct context *c = list_entry(node, struct context, link);
		if (c->language == language)
			context_free(c);
	}
	return 0;
}

const struct context *context_get(struct contexts *cs, const char *id)
{
	return find(cs, id);
}

int contexts_each(struct contexts *cs, const char *name, void (*fn)(void *arg, const struct context *c),
		  void *arg, struct err *err)
{
	const struct language *language = NULL;
	int r = name ? find_language(name, &language, err) : 0;
	if (r < 0)
		return r;
	list_foreach_safe (node, &cs->all) {
		const struct context *c = list_entry(node, struct context, link);
		if (!language || c->language == language)
			fn(arg, c);
	}
	return 0;
}

const char *context_id(const struct context *c)
{
	return c->run->id;
}

void context_json(const struct context *c, struct jw *w)
{
	static const char *const states[] = {"starting", "idle", "busy", "dead"};
	char created[CLOCK_RFC3339_MAX];
	jw_obj_begin(w);
	jw_kstr(w, "id", c->run->id);
	jw_kstr(w, "language", c->language->name);
	jw_kstr(w, "cwd", c->cwd);
	jw_kstr(w, "state", c->evicted ? "evicted" : states[c->state]);
	if (c->state == DEAD && c->epitaph)
		jw_kstr(w, "reason", c->epitaph);
	jw_kbool(w, "default", c->is_default);
	char *limits = c->hold ? limits_hold_json(c->hold) : NULL;
	if (limits) {
		jw_key(w, "limits");
		jw_raw(w, limits, strlen(limits));
	}
	free(limits);
	jw_kint(w, "execution_count", c->count);
	jw_kint(w, "waiting", (int64_t)c->waiting_n);
	if (c->kernel && kernel_version(c->kernel))
		jw_kstr(w, "version", kernel_version(c->kernel));
	if (c->kernel && kernel_pid(c->kernel))
		jw_kint(w, "pid", kernel_pid(c->kernel));
	jw_kstr(w, "created_at", clock_rfc3339(c->run->created_ms, created));
	jw_obj_end(w);
}

int contexts_new(struct execd *execd, struct contexts **ret)
{
	struct contexts *cs = calloc(1, sizeof(*cs));
	if (!cs)
		return -ENOMEM;
	cs->execd = execd;
	list_init(&cs->all);
	cs->cwd = getcwd(NULL, 0);
	if (!cs->cwd)
		cs->cwd = strdup("/");
	int r = cs->cwd ? warm_new(execd, cs->cwd, &cs->warm) : -ENOMEM;
	if (r < 0) {
		free(cs->cwd);
		free(cs);
		return r;
	}
	(void)out_of_memory(cs);
	*ret = cs;
	return 0;
}

void contexts_free(struct contexts *cs)
{
	if (!cs)
		return;
	while (!list_empty(&cs->all))
		context_free(list_entry(cs->all.next, struct context, link));
	warm_free(cs->warm);
	loop_defer_cancel(&cs->kick);
	map_done(&cs->by_id);
	free(cs->cwd);
	free(cs);
}
