/*
 * context.c - contexts and their cells.
 *
 * Owns each context, its cells (cell.h) and, through context_kernel.c, its
 * kernel. Loop only.
 */
#include "execd/context.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "execd/confinement.h"
#include "execd/context_priv.h"
#include "execd/execd.h"
#include "execd/kernel.h"
#include "execd/path.h"
#include "execd/run.h"
#include "execd/warm.h"
#include "lib/clock.h"
#include "lib/fs.h"
#include "proto/json.h"

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

void context_tell_waits(struct context *c, const struct err *err)
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

void contexts_kick(struct loop_defer *d)
{
	struct contexts *cs = container_of(d, struct contexts, kick);
	list_foreach_safe (node, &cs->all)
		context_next(list_entry(node, struct context, link));
}

/* ---- contexts ---------------------------------------------------------------------------- */

void context_free(struct context *c)
{
	struct run_end own = {.reason = RUN_CANCELLED, .exit_code = -1};
	struct run *run = TAKE_PTR(c->run);
	struct err err;
	context_end_kernel(c);
	c->state = DEAD;
	(void)err_set(&err, ERR_GONE, "CONTEXT_NOT_FOUND", ENOENT, "the context was deleted");
	context_tell_waits(c, &err);
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
		output_set_on_room(c->run->output, context_own_room, c);
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
	r = context_begin_kernel(c, err);
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
	context_end_kernel(c);
	c->state = DEAD;
	cells_end_all(&c->cells, RUN_CANCELLED, "KernelRestarted", "the context was restarted");
	r = context_begin_kernel(c, err);
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
	context_fill_spec(copy, &spec);
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
	context_arm_idle(c);
	r = context_make_hold(copy, err);
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
		r = context_begin_kernel(c, err);
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
		r = context_begin_kernel(c, err);
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
		return context_begin_kernel(c, err);
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
	jw_kraw(w, "limits", limits);
	free(limits);
	jw_kraw(w, "confinement", c->run->confinement);
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
	(void)contexts_out_of_memory(cs);
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
