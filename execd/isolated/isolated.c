/*
 * isolated.c - the table of isolated sessions.
 *
 * Owns: each session's room, its shell session (in a table of shell sessions of
 * its own, so that neither kind is taken for the other) and its idle timer. A
 * session is in the table from its creation to its deletion; a room that ends by
 * itself leaves a dead session behind, until it is deleted or its time has come.
 *
 * Idle time runs while no run is on. A background run that has ended before the
 * session belongs to nobody but the registry of runs.
 */
#include "execd/isolated/isolated.h"

#include <ctype.h>
#include <string.h>
#include <sys/stat.h>

#include "execd/command.h"
#include "execd/execd.h"
#include "execd/isolated/history.h"
#include "execd/isolated/oneshot.h"
#include "execd/isolated/probe.h"
#include "execd/run.h"
#include "execd/session.h"
#include "lib/clock.h"
#include "lib/fs.h"
#include "lib/random.h"

#define KEY_MAX 33

struct isolated {
	struct map_node node;
	struct list link;
	struct isolateds *all;
	char id[ISOLATED_ID_MAX]; /* as clients see it */
	char key[KEY_MAX];	  /* without its dashes */
	char *shell;		  /* the id of its shell session */
	struct room *room;
	struct history *history;
	struct env_filter env;
	json_t *echo;
	struct list runs; /* struct watch: those that are on */
	uint64_t idle_ms, created_ms, last_run_ms;
	struct loop_timer idle;
	bool dead, quiet;
	/* Who waits for it to be ready, or for it to be gone. */
	isolated_created_fn *created;
	void *created_arg;
	void (*gone)(void *arg);
	void *gone_arg;
	struct loop_defer release; /* frees it, once deleted */
};

/* A run of the session, watched to its end. */
struct watch {
	struct run_watch watch;
	struct list link;
	struct isolated *session; /* NULL: deleted */
	struct run *run;
};

struct isolateds {
	struct execd *execd;
	struct rooms *rooms;
	struct sessions *sessions;
	struct oneshots *oneshots;
	struct map by_key;
	struct list all;
};

/* ---- idle time ----------------------------------------------------------- */

static void idle_expired(struct loop_timer *timer)
{
	isolated_delete(container_of(timer, struct isolated, idle), NULL, NULL);
}

static void idle_check(struct isolated *s)
{
	struct loop *loop = s->all->execd->loop;
	loop_timer_del(&s->idle);
	if (s->idle_ms > 0 && list_empty(&s->runs) && !s->quiet)
		(void)loop_timer_set(loop, &s->idle, loop_now_ms(loop) + s->idle_ms, idle_expired);
}

static void run_is_over(struct run_watch *w)
{
	struct watch *watch = container_of(w, struct watch, watch);
	struct isolated *s = watch->session;
	list_del(&watch->link);
	free(watch);
	if (!s)
		return;
	s->last_run_ms = clock_real_ms();
	history_run_ended(s->history);
	idle_check(s);
}

static int watch_run(struct isolated *s, struct run *run)
{
	struct watch *w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	w->session = s;
	w->run = run;
	list_add_tail(&s->runs, &w->link);
	run_watch(run, &w->watch, run_is_over);
	s->last_run_ms = clock_real_ms();
	idle_check(s);
	return 0;
}

/* ---- creation ---------------------------------------------------------------- */

static void isolated_release(struct loop_defer *d)
{
	struct isolated *s = container_of(d, struct isolated, release);
	json_decref(s->echo);
	json_decref(s->env.keys);
	free(s->shell);
	free(s);
}

/* Out of the table; its room may still be dying. */
static void isolated_drop(struct isolated *s)
{
	loop_timer_del(&s->idle);
	map_del(&s->all->by_key, &s->node);
	list_del(&s->link);
	history_drop(TAKE_PTR(s->history));
	list_foreach_safe (node, &s->runs) {
		struct watch *w = list_entry(node, struct watch, link);
		w->session = NULL;
		list_del(&w->link);
	}
}

static void room_came(void *arg, int r, const struct err *err)
{
	struct isolated *s = arg;
	isolated_created_fn *created = s->created;
	void *created_arg = s->created_arg;
	s->created = NULL;
	if (r >= 0) {
		history_ready(s->history);
		if (created)
			created(created_arg, s, NULL);
		return;
	}
	struct err copy = *err;
	s->dead = true;
	isolated_delete(s, NULL, NULL);
	if (created)
		created(created_arg, NULL, &copy);
}

static void room_has_ended(void *arg)
{
	struct isolated *s = arg;
	s->dead = true;
}

static const struct room_events room_events = {.ready = room_came, .ended = room_has_ended};

static int make_workspaces(const struct room_spec *spec, struct err *err)
{
	for (size_t i = 0; i < spec->mounts_n; i++) {
		const char *path = spec->mounts[i].path;
		struct stat st;
		if (stat(path, &st) == 0 && !S_ISDIR(st.st_mode))
			return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", ENOTDIR,
				       "workspace '%s' is not a directory", path);
		if (stat(path, &st) == 0)
			continue;
		int r = fs_mkdir_p(path, 0755);
		if (r < 0)
			return err_sys(err, "RUNTIME_ERROR", -r, "make the workspace '%s'", path);
		if (geteuid() == 0 && (spec->uid != (uid_t)-1 || spec->gid != (gid_t)-1) &&
		    chown(path, spec->uid, spec->gid) < 0)
			return err_sys(err, "RUNTIME_ERROR", errno, "give away the workspace '%s'", path);
	}
	return 0;
}

static int make_shell(struct isolated *s, struct err *err)
{
	const struct session_spec spec = {.room = s->room, .env = &s->env};
	const char *id;
	int r = session_create(s->all->sessions, &spec, &id, err);
	if (r < 0)
		return r;
	s->shell = strdup(id);
	if (!s->shell) {
		(void)session_delete(s->all->sessions, id, NULL);
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "make an isolated session");
	}
	return 0;
}

static void make_id(struct isolated *s)
{
	char *out = s->key;
	(void)random_uuid(s->id);
	for (const char *c = s->id; *c; c++)
		if (*c != '-')
			*out++ = *c;
	*out = '\0';
}

int isolated_create(struct isolateds *is, const struct isolated_spec *spec, isolated_created_fn *done,
		    void *arg, struct isolated **ret, struct err *err)
{
	if (is->by_key.len >= ISOLATED_MAX)
		return err_set(err, ERR_LIMIT, "RUNTIME_ERROR", EAGAIN,
			       "there are %d isolated sessions already, the most at once; delete one",
			       ISOLATED_MAX);
	int r = make_workspaces(&spec->room, err);
	if (r < 0)
		return r;
	struct isolated *s = calloc(1, sizeof(*s));
	if (!s)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "make an isolated session");
	s->all = is;
	s->created = done;
	s->created_arg = arg;
	s->env = spec->env;
	s->env.keys = json_incref(spec->env.keys);
	s->echo = json_incref(spec->echo);
	s->idle_ms = spec->idle_ms;
	s->created_ms = clock_real_ms();
	list_init(&s->runs);
	make_id(s);
	r = room_new(is->rooms, &spec->room, &room_events, s, &s->room, err);
	if (r >= 0 && (r = history_new(is->execd, s, spec->points_max, &s->history)) < 0)
		(void)err_sys(err, "RUNTIME_ERROR", -r, "make an isolated session");
	if (r >= 0 && (r = map_add(&is->by_key, &s->node, s->key)) < 0)
		(void)err_sys(err, "RUNTIME_ERROR", -r, "make an isolated session");
	if (r >= 0) {
		list_add_tail(&is->all, &s->link);
		r = make_shell(s, err);
		if (r >= 0) {
			idle_check(s);
			*ret = s;
			return 0;
		}
		isolated_drop(s);
	}
	history_drop(TAKE_PTR(s->history));
	if (s->room) {
		room_set_events(s->room, NULL, NULL);
		room_kill(s->room);
		room_unref(s->room);
	}
	isolated_release(&s->release);
	return r;
}

/* ---- the end --------------------------------------------------------------------- */

static void deleted_room_ended(void *arg)
{
	struct isolated *s = arg;
	struct room *room = TAKE_PTR(s->room);
	if (s->gone)
		s->gone(s->gone_arg);
	room_unref(room);
	loop_defer(s->all->execd->loop, &s->release, isolated_release);
}

static void deleted_room_ready(void *arg, int r, const struct err *err)
{
	(void)err;
	if (r < 0)
		deleted_room_ended(arg);
}

static const struct room_events deleted_events = {.ready = deleted_room_ready, .ended = deleted_room_ended};

/* Whoever waits for it to be ready waits for nothing. */
static void tell_deleted(struct isolated *s)
{
	isolated_created_fn *created = TAKE_PTR(s->created);
	struct err err;
	if (!created)
		return;
	(void)err_set(&err, ERR_GONE, "RUNTIME_ERROR", ESRCH,
		      "the isolated session was deleted before it was ready");
	created(s->created_arg, NULL, &err);
}

void isolated_abandon(struct isolated *s)
{
	s->created = NULL;
	isolated_delete(s, NULL, NULL);
}

void isolated_delete(struct isolated *s, void (*gone)(void *arg), void *arg)
{
	bool over = s->dead;
	tell_deleted(s);
	s->gone = gone;
	s->gone_arg = arg;
	isolated_drop(s);
	/* First the room, so that nobody has to look for what the shell has started. */
	room_kill(s->room);
	room_set_events(s->room, over ? NULL : &deleted_events, s);
	if (s->shell)
		(void)session_delete(s->all->sessions, s->shell, NULL);
	if (over)
		deleted_room_ended(s);
}

/* ---- what is known of one ----------------------------------------------------------- */

/* Hex digits, the dashes left out; NULL when it cannot be an id. */
static const char *key_of(const char *id, char key[KEY_MAX])
{
	size_t n = 0;
	for (; *id; id++) {
		if (*id == '-')
			continue;
		if (!isxdigit((unsigned char)*id) || n == KEY_MAX - 1)
			return NULL;
		key[n++] = (char)tolower((unsigned char)*id);
	}
	key[n] = '\0';
	return key;
}

int isolated_get(struct isolateds *is, const char *id, struct isolated **ret, struct err *err)
{
	char buf[KEY_MAX];
	const char *key = key_of(id, buf);
	struct map_node *node = key ? map_get(&is->by_key, key) : NULL;
	if (!node)
		return err_set(err, ERR_NOT_FOUND, "CONTEXT_NOT_FOUND", ENOENT,
			       "there is no isolated session '%.64s'", id);
	*ret = container_of(node, struct isolated, node);
	return 0;
}

const char *isolated_id(const struct isolated *s)
{
	return s->id;
}

struct room *isolated_room(struct isolated *s)
{
	return s->room;
}

struct history *isolated_history(struct isolated *s)
{
	return s->history;
}

json_t *isolated_echo(const struct isolated *s)
{
	return s->echo;
}

void isolated_status(const struct isolated *s, struct isolated_status *ret)
{
	uint64_t now = loop_now_ms(s->all->execd->loop);
	ret->alive = !s->dead;
	ret->created_ms = s->created_ms;
	ret->last_run_ms = s->last_run_ms;
	ret->idle_remaining_ms = -1;
	if (loop_timer_armed(&s->idle))
		ret->idle_remaining_ms = (int64_t)(s->idle.due_ms - MIN(now, s->idle.due_ms));
}

void isolateds_each(struct isolateds *is, void (*fn)(void *arg, struct isolated *s), void *arg)
{
	list_foreach_safe (node, &is->all)
		fn(arg, list_entry(node, struct isolated, link));
}

/* ---- runs ------------------------------------------------------------------------------ */

static int run_in_shell(struct isolated *s, const struct isolated_run_spec *spec, struct run **ret,
			struct err *err)
{
	const char *cwd = spec->cwd, *or_cwd = NULL;
	if (history_before_run(s->history, false) && !cwd) {
		size_t n;
		const struct room_mount *mounts = room_mounts(s->room, &n);
		cwd = session_cwd(s->all->sessions, s->shell);
		or_cwd = n > 0 ? mounts[0].path : "/";
	}
	const struct session_run_spec run = {.command = spec->code,
					     .cwd = cwd,
					     .or_cwd = or_cwd,
					     .envs = spec->envs,
					     .timeout_ms = spec->timeout_ms};
	return session_run(s->all->sessions, s->shell, &run, ret, err);
}

/* Beside the shell, where the shell is: it goes on whatever becomes of that. */
static int run_beside(struct isolated *s, const struct isolated_run_spec *spec, struct run **ret,
		      struct err *err)
{
	const char *cwd = spec->cwd ? spec->cwd : session_cwd(s->all->sessions, s->shell);
	struct command_spec command = {.command = spec->code,
				       .cwd = cwd,
				       .envs = spec->envs,
				       .background = true,
				       .room = s->room,
				       .env = &s->env};
	command.limits.value[LIMIT_TIMEOUT] = spec->timeout_ms;
	(void)history_before_run(s->history, true);
	return command_start(s->all->execd->commands, &command, ret, err);
}

int isolated_run(struct isolated *s, const struct isolated_run_spec *spec, struct run **ret_run,
		 struct err *err)
{
	struct run *run;
	if (s->dead)
		return err_set(err, ERR_GONE, "RUNTIME_ERROR", ESRCH,
			       "isolated session '%s' has ended: everything in it was killed", s->id);
	if (s->quiet && spec->background)
		return err_set(err, ERR_CONFLICT, "RUNTIME_ERROR", EBUSY,
			       "isolated session '%s': its files are being worked on", s->id);
	int r = history_check_run(s->history, err);
	if (r >= 0)
		r = spec->background ? run_beside(s, spec, &run, err) : run_in_shell(s, spec, &run, err);
	if (r < 0)
		return r;
	history_run(s->history, run);
	free(run->init_text);
	run->init_text = NULL;
	run->session = strdup(s->key);
	if (run->state != RUN_ENDED && (!run->session || watch_run(s, run) < 0)) {
		(void)run_interrupt(run);
		run_unref(run);
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "run in isolated session '%s'", s->id);
	}
	*ret_run = run;
	return 0;
}

int isolated_find_run(struct isolated *s, const char *id, struct run **ret, struct err *err)
{
	char buf[KEY_MAX];
	const char *key = key_of(id, buf);
	struct run *run = key ? runs_get(s->all->execd->runs, key) : NULL;
	if (!run || !run->session || strcmp(run->session, s->key) != 0)
		return err_set(err, ERR_NOT_FOUND, "COMMAND_NOT_FOUND", ENOENT,
			       "there is no run '%.64s' in isolated session '%s'", id, s->id);
	*ret = run;
	return 0;
}

size_t isolated_runs(const struct isolated *s)
{
	size_t n = 0;
	list_foreach_safe (node, &s->runs)
		n++;
	return n;
}

int isolated_quiesce(struct isolated *s, void (*ready)(void *arg), void *arg, struct err *err)
{
	if (s->quiet || !list_empty(&s->runs))
		return err_set(
			err, ERR_CONFLICT, "RUNTIME_ERROR", EBUSY,
			s->quiet
				? "isolated session '%s': its files are being worked on already"
				: "isolated session '%s': runs are on; wait for their end, or interrupt them",
			s->id);
	int r = room_clear(s->room, ready, arg, err);
	if (r < 0)
		return r;
	s->quiet = true;
	session_pause(s->all->sessions, s->shell, true);
	idle_check(s);
	return 0;
}

void isolated_hold(struct isolated *s)
{
	s->quiet = true;
	session_hold(s->all->sessions, s->shell);
	idle_check(s);
}

void isolated_resume(struct isolated *s)
{
	s->quiet = false;
	session_pause(s->all->sessions, s->shell, false);
	idle_check(s);
}

/* ---- all of them --------------------------------------------------------------------------- */

struct oneshots *isolateds_oneshots(struct isolateds *is)
{
	return is->oneshots;
}

struct rooms *isolateds_rooms(struct isolateds *is)
{
	return is->rooms;
}

int isolateds_new(struct execd *execd, struct isolateds **ret)
{
	struct isolateds *is = calloc(1, sizeof(*is));
	int r = is ? rooms_new(execd, &is->rooms) : -ENOMEM;
	if (r >= 0)
		r = sessions_new(execd, ISOLATED_MAX, &is->sessions);
	if (r >= 0)
		r = oneshots_new(execd, is->rooms, &is->oneshots);
	if (r < 0) {
		if (is) {
			sessions_free(is->sessions);
			rooms_free(is->rooms);
		}
		free(is);
		return r;
	}
	is->execd = execd;
	list_init(&is->all);
	*ret = is;
	return 0;
}

void isolateds_free(struct isolateds *is)
{
	if (!is)
		return;
	probe_forget();
	oneshots_free(is->oneshots);
	list_foreach_safe (node, &is->all)
		isolated_delete(list_entry(node, struct isolated, link), NULL, NULL);
	sessions_free(is->sessions);
	rooms_free(is->rooms);
	map_done(&is->by_key);
	free(is);
}
