/*
 * context.c - contexts, their kernels and their bounds.
 *
 * Owns each context, its kernel and its cells (cell.h). Kernels come from
 * warm.c. The bounds of a context are put on its kernel when that is ready and
 * has not run anything of the user's. A context that has been idle for as long
 * as the agent was told loses its kernel.
 */
#include "execd/context.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "execd/cell.h"
#include "execd/command.h"
#include "execd/confinement.h"
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

enum state { STARTING, IDLE, BUSY, DEAD };

struct context {
	struct map_node node;
	struct list link;
	struct contexts *contexts;
	const struct language *language;
	struct run *run; /* the context's own */
	enum state state;
	bool is_default;
	char *cwd;
	struct cells cells;
	struct loop_timer idle;
	struct list waits;
	uint64_t backlog; /* offset in the own log up to which cells have been told */
	char *epitaph;	  /* how the last kernel ended */
	bool reborn;	  /* the next cell says that this is a new kernel */
	bool had_waited;  /* its kernel, before it was this context's */
	bool evicted;	  /* it is dead because it was idle */
	struct limits limits;
	struct limits_hold *hold; /* NULL: none */
	struct confine *confine;  /* NULL: none */
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

static int context_interrupt(struct run *run)
{
	struct context *c = run->owner;
	return c ? cells_interrupt(&c->cells) : -ESRCH;
}

static struct run *context_current(struct run *run)
{
	const struct context *c = run->owner;
	return c ? cells_current(&c->cells) : NULL;
}

static const struct run_ops context_ops = {.interrupt = context_interrupt, .current = context_current};

/* ---- the kernel's events ------------------------------------------------------ */

static int begin_kernel(struct context *c, struct err *err);
static void context_free(struct context *c);

/* Whatever its kernel was denied while it ran is the cell's. */
static void tell_denied(struct context *c)
{
	struct run *cell = cells_current(&c->cells);
	if (cell && c->cells.kernel)
		cell->denied = kernel_denied(c->cells.kernel);
}

static void kernel_end(struct context *c)
{
	tell_denied(c);
	kernel_free(TAKE_PTR(c->cells.kernel));
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
	if (!list_empty(&c->cells.waiting))
		loop_defer(c->contexts->execd->loop, &c->contexts->kick, kick_all);
}

static void arm_idle(struct context *c);
static void fail_start(struct context *c, const char *message, bool refused);

static void on_ready(void *owner)
{
	struct context *c = owner;
	int r = c->hold ? limits_hold_enter(c->hold, kernel_pid(c->cells.kernel)) : 0;
	if (r < 0) {
		char text[128];
		(void)snprintf(text, sizeof(text), "could not be bounded: %s", strerror(-r));
		c->state = DEAD;
		kernel_end(c);
		fail_start(c, text, false);
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
	arm_idle(c);
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
	tell_waits(c, &err);
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
	kernel_end(c);
	return begin_kernel(c, &err) >= 0;
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
	kernel_end(c);
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
	.overflow = on_overflow,
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
		.confine = c->confine,
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
	c->cells.count = 0;
	c->backlog = output_end(c->run->output);
	int r = make_hold(c, err);
	if (r >= 0)
		r = warm_start(c->contexts->warm, &spec, &c->cells.kernel, err);
	c->had_waited = r > 0;
	if (r < 0) {
		c->state = DEAD;
		limits_hold_release(TAKE_PTR(c->hold));
	}
	return MIN(r, 0);
}

static void own_room(void *arg)
{
	const struct context *c = arg;
	if (c->cells.kernel)
		kernel_resume(c->cells.kernel);
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

/* ---- cells ---------------------------------------------------------------------------- */

static void cell_begin(struct context *c)
{
	struct run *run = cells_begin(&c->cells);
	loop_timer_del(&c->idle);
	if (c->reborn) {
		char text[KERNEL_DEATH_MAX + 64];
		(void)snprintf(text, sizeof(text), "the context's kernel %s; this is a new one",
			       c->epitaph ? c->epitaph : "had ended");
		cell_emit_status(run, text);
		c->reborn = false;
	}
	tell_backlog(c, run);
	if (cells_send(&c->cells) >= 0)
		c->state = BUSY;
}

static void context_next(struct context *c)
{
	while (c->state == IDLE && !list_empty(&c->cells.waiting))
		cell_begin(c);
}

static void kick_all(struct loop_defer *d)
{
	struct contexts *cs = container_of(d, struct contexts, kick);
	list_foreach_safe (node, &cs->all)
		context_next(list_entry(node, struct context, link));
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
	cells_done(&c->cells, "ContextDeleted", "the context was deleted");
	map_del(&c->contexts->by_id, &c->node);
	list_del(&c->link);
	if (run) {
		run_ended(run, &own);
		run_unref(run);
	}
	free(c->cwd);
	confine_unref(c->confine);
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

/* confine: a reference of its own is taken. */
static int context_new(struct contexts *cs, const struct language *language, const char *cwd,
		       struct confine *confine, struct context **ret, struct err *err)
{
	if (cs->by_id.len >= CONTEXTS_MAX)
		return err_set(err, ERR_LIMIT, "RUNTIME_ERROR", EAGAIN,
			       "there are %d contexts already, the most at once; delete one", CONTEXTS_MAX);
	struct context *c = calloc(1, sizeof(*c));
	if (!c)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "create a context");
	c->contexts = cs;
	c->language = language;
	c->confine = confine_ref(confine);
	c->state = DEAD;
	list_init(&c->link);
	cells_init(&c->cells, cs->execd);
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
		c->run->confinement = confinement_json(c->confine);
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
	struct confine *confine = NULL;
	struct context *c;
	int r = find_language(spec->language, &language, err);
	if (r >= 0)
		r = confinement_get(cs->execd->confinement, CONFINED_CONTEXTS, spec->confinement, &confine,
				    err);
	if (r >= 0)
		r = context_new(cs, language, spec->cwd, confine, &c, err);
	confine_unref(confine);
	if (r < 0)
		return r;
	c->limits = spec->limits;
	c->cells.output_max = c->limits.value[LIMIT_OUTPUT];
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
	cells_end_all(&c->cells, RUN_CANCELLED, "KernelRestarted", "the context was restarted");
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
	if (!c->language->zygote && !c->language->shell)
		return err_set(err, ERR_NOT_SUPPORTED, "NOT_SUPPORTED", ENOTSUP,
			       "a %s context cannot be forked", c->language->name);
	if (c->state != IDLE || c->cells.waiting_n > 0)
		return err_set(err, ERR_CONFLICT, "RUNTIME_ERROR", EBUSY,
			       "the context cannot be forked while it is not idle");
	r = context_new(cs, c->language, NULL, c->confine, &copy, err);
	if (r < 0)
		return r;
	fill_spec(copy, &spec);
	spec.cwd = NULL; /* it stands where the first one stands */
	copy->state = STARTING;
	copy->cells.count = c->cells.count;
	copy->limits = c->limits;
	copy->cells.output_max = c->cells.output_max;
	char *cwd = strdup(c->cwd); /* for a kernel after this one */
	if (cwd) {
		free(copy->cwd);
		copy->cwd = cwd;
	}
	arm_idle(c);
	r = make_hold(copy, err);
	if (r >= 0)
		r = kernel_fork(c->cells.kernel, &spec, &copy->cells.kernel, err);
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
		struct confine *confine;
		r = confinement_get(cs->execd->confinement, CONFINED_CONTEXTS, NULL, &confine, err);
		if (r < 0)
			return r;
		r = context_new(cs, language, NULL, confine, &c, err);
		confine_unref(confine);
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
	if (r >= 0)
		r = cells_add(&c->cells, c->run->id, cell, ret_run, err);
	if (r >= 0)
		context_next(c);
	return r;
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
	if (c->run->confinement) {
		jw_key(w, "confinement");
		jw_raw(w, c->run->confinement, strlen(c->run->confinement));
	}
	jw_kint(w, "execution_count", c->cells.count);
	jw_kint(w, "waiting", (int64_t)c->cells.waiting_n);
	if (c->cells.kernel && kernel_version(c->cells.kernel))
		jw_kstr(w, "version", kernel_version(c->cells.kernel));
	if (c->cells.kernel && kernel_pid(c->cells.kernel))
		jw_kint(w, "pid", kernel_pid(c->cells.kernel));
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
