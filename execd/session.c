/*
 * session.c - sessions and their runs.
 *
 * Owns each session, its shell and the runs that wait or run in it. The shell
 * is started with the session, so that an image without bash says so at once,
 * and again by the first run after it has died.
 *
 *   run: WAITING -> CURRENT -> ended
 *                      └ timeout: ended at once, the shell then settles (SIGINT,
 *                        and SIGKILL after SESSION_KILL_GRACE_MS)
 */
#include "execd/session.h"

#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "execd/confinement.h"
#include "execd/execd.h"
#include "execd/isolated/room.h"
#include "execd/launch.h"
#include "execd/run.h"
#include "execd/shell.h"
#include "execd/tree.h"
#include "lib/clock.h"
#include "proto/json.h"

struct task {
	struct list link;
	struct session *session;
	struct run *run;
	char *script;
	uint64_t timeout_ms;
	bool interrupted;
};

struct session {
	struct map_node node;
	struct list link;
	struct sessions *sessions;
	struct run *run; /* the session's own */
	struct shell *shell;
	char *cwd; /* where the next shell starts */
	json_t *envs;
	struct confine *confine; /* NULL: none */
	struct list waiting;	 /* tasks */
	size_t waiting_n;
	struct task *current; /* NULL also while a timed-out script still settles */
	struct loop_timer timeout;
	bool settling;
	bool paused;
	struct room *room; /* a reference, or NULL */
	const struct env_filter *env;
	char *epitaph; /* how the last shell ended, until a run has been told */
};

struct sessions {
	struct execd *execd;
	size_t max;
	struct map by_id;
	struct list all;
	struct loop_defer kick; /* starts what waits, outside of the callbacks of a shell */
};

static int not_found(struct err *err, const char *id)
{
	return err_set(err, ERR_NOT_FOUND, "CONTEXT_NOT_FOUND", ENOENT, "there is no session '%s'", id);
}

/* ---- runs ----------------------------------------------------------------- */

static void task_free(struct task *t)
{
	list_del(&t->link);
	free(t->script);
	free(t);
}

static void task_end(struct task *t, struct run_end *end)
{
	struct run *run = TAKE_PTR(t->run);
	output_set_on_room(run->output, NULL, NULL);
	run_ended(run, end);
	run_unref(run);
	task_free(t);
}

static void task_cancel(struct task *t, enum run_reason reason)
{
	struct run_end end = {.reason = reason, .exit_code = -1};
	t->session->waiting_n--;
	task_end(t, &end);
}

static void current_end(struct session *s, struct run_end *end)
{
	struct task *t = TAKE_PTR(s->current);
	loop_timer_del(&s->timeout);
	if (s->shell)
		t->run->denied = s->room ? room_denied(s->room) : shell_denied(s->shell);
	if (t->interrupted && end->reason != RUN_TIMEOUT)
		end->reason = RUN_INTERRUPTED;
	task_end(t, end);
}

static int task_interrupt(struct run *run)
{
	struct task *t = run->owner;
	if (!t)
		return -ESRCH;
	if (t->session->current != t) {
		task_cancel(t, RUN_INTERRUPTED);
		return 0;
	}
	t->interrupted = true;
	return shell_interrupt(t->session->shell);
}

static const struct run_ops task_ops = {.interrupt = task_interrupt};

static int session_interrupt(struct run *run)
{
	struct session *s = run->owner;
	return s && s->current ? task_interrupt(s->current->run) : -ESRCH;
}

static struct run *session_current(struct run *run)
{
	struct session *s = run->owner;
	return s && s->current ? s->current->run : NULL;
}

static const struct run_ops session_ops = {.interrupt = session_interrupt, .current = session_current};

/* ---- the shell ------------------------------------------------------------ */

static void kick(struct session *s);

static void shell_done(void *owner, int exit_code)
{
	struct session *s = owner;
	struct run_end end = {.reason = RUN_EXITED, .exit_code = exit_code};
	s->settling = false;
	loop_timer_del(&s->timeout);
	if (s->current)
		current_end(s, &end);
	kick(s);
}

static void remember_death(struct session *s, int wstatus)
{
	const char *cwd = shell_cwd(s->shell);
	char *copy = cwd ? strdup(cwd) : NULL;
	if (copy) {
		free(s->cwd);
		s->cwd = copy;
	}
	free(s->epitaph);
	if (asprintf(&s->epitaph, WIFSIGNALED(wstatus) ? "signal %d" : "exit code %d",
		     WIFSIGNALED(wstatus) ? WTERMSIG(wstatus) : WEXITSTATUS(wstatus)) < 0)
		s->epitaph = NULL;
}

static void shell_died(void *owner, int wstatus, const struct rusage *usage)
{
	struct session *s = owner;
	struct run_end end = {.reason = RUN_EXITED, .exit_code = -1, .usage = *usage};
	if (WIFSIGNALED(wstatus)) {
		end.reason = RUN_SIGNALLED;
		end.signo = WTERMSIG(wstatus);
	} else {
		end.exit_code = WEXITSTATUS(wstatus);
	}
	remember_death(s, wstatus);
	s->settling = false;
	loop_timer_del(&s->timeout);
	struct shell *dead = s->shell;
	if (s->current)
		current_end(s, &end);
	s->shell = NULL;
	shell_free(dead);
	kick(s);
}

static const struct shell_events shell_events = {.done = shell_done, .died = shell_died};

static void idle_room(void *arg)
{
	struct session *s = arg;
	if (s->shell)
		shell_resume(s->shell);
}

static int session_shell(struct session *s, struct err *err)
{
	struct shell_spec spec = {.cwd = s->cwd,
				  .envs = s->envs,
				  .confine = s->confine,
				  .mark = s->run->id,
				  .room = s->room,
				  .env = s->env,
				  .events = &shell_events,
				  .owner = s};
	int r = shell_start(s->sessions->execd, &spec, &s->shell, err);
	if (r >= 0)
		shell_set_idle_output(s->shell, s->run->output);
	return r;
}

/* A cwd that has been removed since must not keep the session from starting again. */
static int session_restart(struct session *s, struct err *err)
{
	struct stat st;
	if (s->cwd && !s->room && (stat(s->cwd, &st) < 0 || !S_ISDIR(st.st_mode))) {
		free(s->cwd);
		s->cwd = NULL;
	}
	return session_shell(s, err);
}

/* The new shell's first run says what has become of the old one. */
static void tell_restart(struct session *s, struct run *run)
{
	_cleanup_buf_ struct buf text = BUF_INIT(512), event = BUF_INIT(1024);
	struct jw w = JW_INIT(&event);
	char *epitaph = TAKE_PTR(s->epitaph);
	(void)buf_printf(&text, "the session's shell had ended (%s); this is a new one in the same directory",
			 epitaph ? epitaph : "unknown");
	free(epitaph);
	jw_obj_begin(&w);
	jw_kstr(&w, "type", "status");
	jw_kstr(&w, "text", buf_cstr(&text));
	jw_kint(&w, "timestamp", (int64_t)clock_real_ms());
	jw_obj_end(&w);
	if (!event.failed)
		(void)output_append(run->output, OUTPUT_EVENT, event.data, event.len);
}

static void timed_out(struct loop_timer *timer)
{
	struct session *s = container_of(timer, struct session, timeout);
	struct loop *loop = s->sessions->execd->loop;
	struct run_end end = {.reason = RUN_TIMEOUT, .exit_code = -1, .signo = SIGINT};
	if (s->settling) { /* it does not heed SIGINT */
		shell_kill(s->shell);
		return;
	}
	shell_disown(s->shell);
	(void)shell_interrupt(s->shell);
	s->settling = true;
	current_end(s, &end);
	(void)loop_timer_set(loop, &s->timeout, loop_now_ms(loop) + SESSION_KILL_GRACE_MS, timed_out);
}

static int task_begin(struct session *s, struct task *t, struct err *err)
{
	struct loop *loop = s->sessions->execd->loop;
	bool fresh = !s->shell;
	int r = fresh ? session_restart(s, err) : 0;
	if (r < 0)
		return r;
	if (fresh && (s->epitaph || !s->room))
		tell_restart(s, t->run);
	r = shell_run(s->shell, t->script, t->run->output, err);
	if (r < 0)
		return r;
	if (t->timeout_ms)
		r = loop_timer_set(loop, &s->timeout, loop_now_ms(loop) + t->timeout_ms, timed_out);
	return r < 0 ? err_sys(err, "RUNTIME_ERROR", -r, "start a run") : 0;
}

static void task_room(void *arg)
{
	struct task *t = arg;
	if (t->session->shell)
		shell_resume(t->session->shell);
}

static void session_next(struct session *s)
{
	while (!s->current && !s->settling && !s->paused && !list_empty(&s->waiting)) {
		struct task *t = list_entry(s->waiting.next, struct task, link);
		struct err err;
		list_del(&t->link);
		s->waiting_n--;
		run_started(t->run);
		output_set_on_room(t->run->output, task_room, t);
		if (task_begin(s, t, &err) < 0) {
			struct run_end end = {.reason = RUN_FAILED, .exit_code = -1};
			end.ename = strdup("SessionError");
			end.evalue = strdup(err.message);
			task_end(t, &end);
			continue;
		}
		s->current = t;
	}
}

static void kick_all(struct loop_defer *d)
{
	struct sessions *ss = container_of(d, struct sessions, kick);
	list_foreach_safe (node, &ss->all)
		session_next(list_entry(node, struct session, link));
}

static void kick(struct session *s)
{
	if (!list_empty(&s->waiting))
		loop_defer(s->sessions->execd->loop, &s->sessions->kick, kick_all);
}

/* ---- sessions ------------------------------------------------------------- */

static void session_free(struct session *s)
{
	struct run_end end = {.reason = RUN_CANCELLED, .exit_code = -1};
	struct run *run = TAKE_PTR(s->run);
	bool shell_lives = s->shell && shell_pid(s->shell) > 0;
	shell_free(TAKE_PTR(s->shell));
	if (!shell_lives && run && !s->room) /* what a shell that has died had started */
		(void)tree_kill(0, false, run->id);
	if (s->current)
		current_end(s, &end);
	list_foreach_safe (node, &s->waiting)
		task_cancel(list_entry(node, struct task, link), RUN_CANCELLED);
	loop_timer_del(&s->timeout);
	map_del(&s->sessions->by_id, &s->node);
	list_del(&s->link);
	if (run) {
		struct run_end own = {.reason = RUN_CANCELLED, .exit_code = -1};
		output_set_on_room(run->output, NULL, NULL);
		run_ended(run, &own);
		run_unref(run);
	}
	json_decref(s->envs);
	confine_unref(s->confine);
	free(s->cwd);
	free(s->epitaph);
	if (s->room)
		room_unref(s->room);
	free(s);
}

static int session_new(struct sessions *ss, const struct session_spec *spec, struct session **ret,
		       struct err *err)
{
	struct session *s = calloc(1, sizeof(*s));
	if (!s)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "create a session");
	s->sessions = ss;
	list_init(&s->link);
	list_init(&s->waiting);
	s->envs = json_incref(spec->envs);
	int r = launch_cwd(spec->cwd, NULL, NULL, &s->cwd, err);
	if (r >= 0 && !spec->room) /* which is confined as a whole */
		r = confinement_get(ss->execd->confinement, CONFINED_SESSIONS, spec->confinement, &s->confine,
				    err);
	if (r >= 0)
		r = run_new(ss->execd->runs, "bash", &session_ops, s, &s->run, err);
	if (r >= 0) {
		s->run->background = true;
		s->run->confinement = confinement_json(s->confine);
		output_set_on_room(s->run->output, idle_room, s);
		s->env = spec->env;
		s->room = spec->room ? room_ref(spec->room) : NULL;
		r = s->room ? 0 : session_shell(s, err);
	}
	if (r >= 0) {
		r = map_add(&ss->by_id, &s->node, s->run->id);
		if (r < 0)
			(void)err_sys(err, "RUNTIME_ERROR", -r, "create a session");
	}
	if (r < 0) {
		session_free(s);
		return r;
	}
	list_add_tail(&ss->all, &s->link);
	run_started(s->run);
	*ret = s;
	return 0;
}

int session_create(struct sessions *ss, const struct session_spec *spec, const char **ret_id, struct err *err)
{
	struct session *s = NULL;
	if (ss->by_id.len >= ss->max)
		return err_set(err, ERR_LIMIT, "RUNTIME_ERROR", EAGAIN,
			       "there are %zu sessions already, the most at once; delete one", ss->max);
	int r = session_new(ss, spec, &s, err);
	if (r >= 0)
		*ret_id = s->run->id;
	return r;
}

static struct session *session_get(struct sessions *ss, const char *id)
{
	struct map_node *node = map_get(&ss->by_id, id);
	return node ? container_of(node, struct session, node) : NULL;
}

const char *session_confinement(struct sessions *ss, const char *id)
{
	struct session *s = session_get(ss, id);
	return s ? s->run->confinement : NULL;
}

int session_delete(struct sessions *ss, const char *id, struct err *err)
{
	struct session *s = session_get(ss, id);
	if (!s)
		return not_found(err, id);
	session_free(s);
	return 0;
}

static void put_quoted(struct buf *script, const char *s)
{
	(void)buf_putc(script, '\'');
	for (; *s; s++)
		(void)(*s == '\'' ? buf_puts(script, "'\\''") : buf_putc(script, *s));
	(void)buf_putc(script, '\'');
}

/* What the shell takes for a name: anything else would be code. */
static bool is_shell_name(const char *name)
{
	size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");
	return n > 0 && !name[n] && (*name < '0' || *name > '9');
}

static int put_exports(struct buf *script, json_t *envs, struct err *err)
{
	const char *name;
	json_t *value;
	json_object_foreach(envs, name, value)
	{
		if (!is_shell_name(name))
			return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
				       "envs: '%.64s' cannot be the name of a variable", name);
		(void)buf_printf(script, "builtin export %s=", name);
		put_quoted(script, json_string_value(value));
		(void)buf_puts(script, "; ");
	}
	return 0;
}

/* The command, after what is to come before it; in one line, so that line numbers stay. */
static int make_script(const struct session *s, const struct session_run_spec *spec, char **ret,
		       struct err *err)
{
	_cleanup_free_ char *cwd = NULL;
	struct buf script = BUF_INIT(SHELL_SCRIPT_MAX + 2 * SHELL_CWD_MAX);
	int r = launch_cwd(spec->cwd, NULL, s->room, &cwd, err);
	if (r >= 0)
		r = put_exports(&script, spec->envs, err);
	if (r < 0) {
		buf_done(&script);
		return r;
	}
	if (cwd) {
		(void)buf_puts(&script, "builtin cd -- ");
		put_quoted(&script, cwd);
		if (spec->or_cwd) {
			(void)buf_puts(&script, " 2>/dev/null || builtin cd -- ");
			put_quoted(&script, spec->or_cwd);
		}
		(void)buf_puts(&script, " || return; ");
	}
	(void)buf_puts(&script, spec->command);
	(void)buf_putc(&script, '\n');
	const char *text = buf_cstr(&script);
	if (!text || script.failed) {
		buf_done(&script);
		return err_set(err, ERR_TOO_LARGE, "INVALID_REQUEST_BODY", E2BIG,
			       "command: longer than %u bytes", SHELL_SCRIPT_MAX);
	}
	*ret = (char *)script.data;
	return 0;
}

int session_run(struct sessions *ss, const char *id, const struct session_run_spec *spec,
		struct run **ret_run, struct err *err)
{
	struct session *s = session_get(ss, id);
	if (!s)
		return not_found(err, id);
	if (s->waiting_n >= SESSION_QUEUE_MAX)
		return err_set(err, ERR_LIMIT, "RUNTIME_ERROR", EAGAIN,
			       "%d runs wait in this session already, the most at once", SESSION_QUEUE_MAX);
	struct task *t = calloc(1, sizeof(*t));
	if (!t)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "run in session '%s'", id);
	list_init(&t->link);
	t->session = s;
	t->timeout_ms = spec->timeout_ms;
	int r = make_script(s, spec, &t->script, err);
	if (r >= 0)
		r = run_new(ss->execd->runs, spec->command, &task_ops, t, &t->run, err);
	if (r < 0) {
		task_free(t);
		return r;
	}
	t->run->init_text = strdup(id);
	*ret_run = run_ref(t->run);
	list_add_tail(&s->waiting, &t->link);
	s->waiting_n++;
	session_next(s);
	return 0;
}

const char *session_cwd(struct sessions *ss, const char *id)
{
	const struct session *s = session_get(ss, id);
	const char *cwd = s && s->shell ? shell_cwd(s->shell) : NULL;
	return cwd || !s ? cwd : s->cwd;
}

void session_pause(struct sessions *ss, const char *id, bool pause)
{
	struct session *s = session_get(ss, id);
	if (!s)
		return;
	s->paused = pause;
	if (pause && s->shell && !s->current) {
		remember_death(s, SIGKILL);
		shell_free(TAKE_PTR(s->shell));
	}
	kick(s);
}

void session_hold(struct sessions *ss, const char *id)
{
	struct session *s = session_get(ss, id);
	if (s)
		s->paused = true;
}

void sessions_each(struct sessions *ss,
		   void (*fn)(void *arg, const struct run *run, size_t waiting, const char *cwd), void *arg)
{
	list_foreach_safe (node, &ss->all) {
		struct session *s = list_entry(node, struct session, link);
		const char *cwd = s->shell ? shell_cwd(s->shell) : NULL;
		fn(arg, s->run, s->waiting_n + (s->current ? 1 : 0), cwd ? cwd : s->cwd);
	}
}

int sessions_new(struct execd *execd, size_t max, struct sessions **ret)
{
	struct sessions *ss = calloc(1, sizeof(*ss));
	if (!ss)
		return -ENOMEM;
	ss->execd = execd;
	ss->max = max;
	list_init(&ss->all);
	*ret = ss;
	return 0;
}

void sessions_free(struct sessions *ss)
{
	if (!ss)
		return;
	list_foreach_safe (node, &ss->all)
		session_free(list_entry(node, struct session, link));
	loop_defer_cancel(&ss->kick);
	map_done(&ss->by_id);
	free(ss);
}
