/*
 * pty.c - terminal sessions.
 *
 * Owns each session: its shell, the master side of its terminal or its three
 * pipes, its log, the input that the shell has not taken yet, and the link to
 * the one client.
 *
 * Output: a pump empties the terminal into the log while the log has room,
 * which a slow client may hold up (pty_client.c). What is still in the terminal
 * when the shell has ended is read without regard to the client: it is little,
 * and the log holds it.
 *
 * The master of a terminal reads as an error (EIO) once no process has the
 * terminal any more, which is its end of file.
 */
#include "execd/pty_priv.h"

#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include "execd/confinement.h"
#include "execd/ends.h"
#include "execd/env.h"
#include "execd/execd.h"
#include "execd/launch.h"
#include "execd/tree.h"
#include "lib/clock.h"
#include "lib/fs.h"

#define DEFAULT_COLS 80
#define DEFAULT_ROWS 24
#define DEFAULT_TERM "xterm-256color"
#define ARGV_MAX     6

/* ---- the end of a shell ----------------------------------------------------- */

static void close_all(struct pty *p)
{
	loop_timer_del(&p->drain);
	pump_close(&p->out);
	pump_close(&p->error);
	feed_detach(&p->writer);
	feed_close(&p->feed);
	buf_done(&p->input);
}

static void look_at_denials(struct pty *p)
{
	if (!p->denials)
		return;
	free(p->denied);
	p->denied = denials_json(p->denials);
}

static void unconfine(struct pty *p)
{
	look_at_denials(p);
	confinement_let_go(p->ptys->execd, TAKE_PTR(p->denials));
}

static void pty_end(struct pty *p)
{
	close_all(p);
	unconfine(p);
	p->state = ENDED;
	p->told = false;
	if (p->client)
		pty_follow(p->client);
	pty_wake(p);
}

static void drain_expired(struct loop_timer *timer)
{
	pty_end(container_of(timer, struct pty, drain));
}

/* Somebody else may hold the terminal open for as long as it likes. */
static void check_drained(struct pty *p)
{
	struct loop *loop = p->ptys->execd->loop;
	if (p->state != DRAINING)
		return;
	if (!pump_open(&p->out) && !pump_open(&p->error))
		pty_end(p);
	else if (!p->out.draining && !p->error.draining && !loop_timer_armed(&p->drain) &&
		 loop_timer_set(loop, &p->drain, loop_now_ms(loop) + PTY_DRAIN_GRACE_MS, drain_expired) < 0)
		pty_end(p);
}

static void shell_exited(struct child *child, int wstatus, const struct rusage *usage)
{
	struct pty *p = container_of(child, struct pty, child);
	(void)usage;
	p->wstatus = wstatus;
	p->state = DRAINING;
	if (p->client)
		output_detach(&p->client->reader);
	pump_resume(&p->out);
	pump_resume(&p->error);
	(void)pump_drain(&p->out);
	(void)pump_drain(&p->error);
	check_drained(p);
}

/* ---- output ------------------------------------------------------------------ */

static struct pty *pty_of(struct pump *pump)
{
	return pump->stream == OUTPUT_STDOUT ? container_of(pump, struct pty, out)
					     : container_of(pump, struct pty, error);
}

static void pump_at_end(struct pump *pump)
{
	check_drained(pty_of(pump));
}

/* Output that cannot be kept is a gap like any other. */
static const struct pump_ops pump_ops = {.drained = pump_at_end, .ended = pump_at_end};

static void output_has_room(void *arg)
{
	struct pty *p = arg;
	pump_resume(&p->out);
	pump_resume(&p->error);
}

/* ---- input ------------------------------------------------------------------- */

static int input_flush(struct pty *p)
{
	if (p->input.len == 0)
		return 0;
	ssize_t n = feed_write(&p->writer, p->input.data, p->input.len);
	if (n < 0) {
		buf_done(&p->input);
		return (int)n;
	}
	buf_consume(&p->input, (size_t)n);
	if (p->input.len == 0)
		buf_done(&p->input);
	return 0;
}

static void input_ready(struct feed_writer *w)
{
	struct pty *p = container_of(w, struct pty, writer);
	bool full = pty_input_full(p);
	(void)input_flush(p);
	if (full && !pty_input_full(p))
		pty_wake(p);
}

int pty_write(struct pty *p, const void *data, size_t n)
{
	if (p->state != RUNNING || !p->writer.feed)
		return -EPIPE;
	if (buf_append(&p->input, data, n) < 0) {
		p->input.failed = false;
		return -ENOBUFS;
	}
	/* What waits already has asked to be told of room. */
	return p->input.len == n && input_flush(p) < 0 ? -EPIPE : 0;
}

bool pty_input_full(const struct pty *p)
{
	return p->input.len > PTY_INPUT_HIGH;
}

/* ---- start ------------------------------------------------------------------- */

/* Takes our ends on success. */
static int watch_ends(struct pty *p, struct ends *e)
{
	struct loop *loop = p->ptys->execd->loop;
	int r = feed_open(&p->feed, loop, e->in);
	if (r < 0)
		return r;
	(void)TAKE_FD(e->in);
	r = pump_start(&p->out, loop, e->out, p->output);
	if (r < 0)
		return r;
	(void)TAKE_FD(e->out);
	if (e->error >= 0) {
		r = pump_start(&p->error, loop, e->error, p->output);
		if (r < 0)
			return r;
		(void)TAKE_FD(e->error);
	}
	return feed_attach(&p->feed, &p->writer, input_ready);
}

/* No start files: what a session finds is what its creator has asked for. */
static void put_argv(const struct pty *p, const char *shell, const char *argv[ARGV_MAX])
{
	const char *name = strrchr(shell, '/');
	size_t n = 0;
	argv[n++] = name ? name + 1 : shell;
	if (strcmp(argv[0], "bash") == 0) {
		argv[n++] = "--norc";
		argv[n++] = "--noprofile";
	}
	if (p->command) {
		argv[n++] = "-c";
		argv[n++] = p->command;
	}
	argv[n] = NULL;
}

static int prepare(const struct pty_spec *spec, json_t *envs, struct ptys *ps, struct launch *l,
		   struct err *err)
{
	const struct command_spec command = {
		.command = spec->command ? spec->command : "",
		.cwd = spec->cwd,
		.envs = envs,
		.has_uid = spec->has_uid,
		.has_gid = spec->has_gid,
		.uid = spec->uid,
		.gid = spec->gid,
	};
	return launch_prepare(l, &command, ps->execd->env_file, err);
}

/* Programs on a terminal ask for its kind; nobody but us knows that there is one. */
static int prepare_terminal(struct pty *p, struct launch *l, struct err *err)
{
	int r = prepare(&p->spec, p->spec.envs, p->ptys, l, err);
	if (r < 0 || p->pipe || env_get(l->envp, "TERM"))
		return r;
	json_t *envs = p->spec.envs ? json_copy(p->spec.envs) : json_object();
	if (json_object_set_new(envs, "TERM", json_string(DEFAULT_TERM)) == 0) {
		launch_done(l);
		*l = (struct launch){0};
		r = prepare(&p->spec, envs, p->ptys, l, err);
	}
	json_decref(envs);
	return r;
}

static int spawn_shell(struct pty *p, struct launch *l, struct err *err)
{
	_cleanup_(ends_done) struct ends e = ENDS_NONE;
	uid_t owner = l->spawn.set_ids ? l->spawn.uid : (uid_t)-1;
	const char *argv[ARGV_MAX];
	int r = p->pipe ? ends_pipes(&e) : ends_terminal(&e, p->spec.cols, p->spec.rows, owner);
	if (r < 0)
		return err_sys(err, "START_FAILED", -r, p->pipe ? "open pipes" : "open a terminal");
	r = watch_ends(p, &e);
	if (r < 0)
		return err_sys(err, "START_FAILED", -r, "watch the shell");
	put_argv(p, l->spawn.path, argv);
	l->spawn.argv = (char *const *)argv;
	l->spawn.controlling_tty = !p->pipe;
	for (int i = 0; i < 3; i++)
		l->spawn.fds[i] = (struct spawn_fd){e.child[i], i};
	l->spawn.fds_n = 3;
	return confined_spawn(p->ptys->execd, &p->child, &l->spawn, p->confine, p->id, shell_exited,
			      &p->denials, err);
}

bool pty_needs_start(const struct pty *p)
{
	return p->state == NEW || (p->state == ENDED && p->told);
}

int pty_start(struct pty *p, bool pipe, struct err *err)
{
	_cleanup_(launch_done) struct launch l = {0};
	if (p->ptys->stopping)
		return err_set(err, ERR_UNAVAILABLE, "START_FAILED", ESHUTDOWN, "the agent is shutting down");
	p->pipe = pipe;
	free(TAKE_PTR(p->denied));
	int r = prepare_terminal(p, &l, err);
	if (r >= 0)
		r = launch_mark(&l, p->id, err);
	if (r >= 0)
		r = spawn_shell(p, &l, err);
	if (r < 0) {
		close_all(p);
		return r;
	}
	p->pid = p->child.pid;
	p->state = RUNNING;
	return 0;
}

/* ---- size and signals --------------------------------------------------------- */

int pty_resize(struct pty *p, unsigned cols, unsigned rows)
{
	p->spec.cols = cols;
	p->spec.rows = rows;
	return pump_open(&p->out) && !p->pipe ? ends_set_size(p->out.fd, cols, rows) : 0;
}

static const struct {
	const char *name;
	int signo;
	bool key; /* a terminal has a key for it */
} signals[] = {
	{"SIGINT", SIGINT, true},    {"SIGQUIT", SIGQUIT, true},  {"SIGTSTP", SIGTSTP, true},
	{"SIGTERM", SIGTERM, false}, {"SIGKILL", SIGKILL, false}, {"SIGHUP", SIGHUP, false},
	{"SIGCONT", SIGCONT, false}, {"SIGUSR1", SIGUSR1, false}, {"SIGUSR2", SIGUSR2, false},
};

int pty_signal(struct pty *p, const char *name)
{
	size_t i = 0;
	while (i < ARRAY_SIZE(signals) && strcmp(signals[i].name, name) != 0)
		i++;
	if (i == ARRAY_SIZE(signals))
		return -EINVAL;
	if (p->state != RUNNING)
		return -ESRCH;
	if (!p->pipe) {
		pid_t job = tcgetpgrp(p->out.fd);
		/* The kernel's own way knows the job itself and not just its number. */
		if (signals[i].key && ioctl(p->out.fd, TIOCSIG, signals[i].signo) == 0)
			return 0;
		if (job > 1 && job != p->pid)
			(void)kill(-job, signals[i].signo);
	}
	return child_kill_group(&p->child, signals[i].signo);
}

/* ---- all of them ---------------------------------------------------------------- */

static void pty_release(struct pty *p)
{
	output_unref(p->output);
	json_decref(p->spec.envs);
	confine_unref(p->confine);
	free(p->confinement);
	free(p->denied);
	free(p->cwd);
	free(p->command);
	free(p);
}

static void tidy(struct loop_defer *d)
{
	struct ptys *ps = container_of(d, struct ptys, tidy);
	list_foreach_safe (node, &ps->dead) {
		struct pty *p = list_entry(node, struct pty, link);
		list_del(&p->link);
		pty_release(p);
	}
}

static void pty_remove(struct pty *p, enum pty_eviction why)
{
	struct ptys *ps = p->ptys;
	bool lives = p->state == RUNNING;
	pty_evict(p, why);
	if (p->pid > 0)
		(void)tree_kill(p->pid, lives, p->id);
	child_forget(&p->child);
	close_all(p);
	unconfine(p);
	output_set_on_room(p->output, NULL, NULL);
	map_del(&ps->by_id, &p->node);
	list_del(&p->link);
	list_add_tail(&ps->dead, &p->link);
	ps->n--;
	loop_defer(ps->execd->loop, &ps->tidy, tidy);
}

void pty_delete(struct pty *p)
{
	pty_remove(p, PTY_DELETED);
}

/* The oldest one that has ended makes room. */
static int make_room(struct ptys *ps, struct err *err)
{
	if (ps->n < PTYS_MAX)
		return 0;
	list_foreach_safe (node, &ps->all) {
		struct pty *p = list_entry(node, struct pty, link);
		if (p->state == ENDED && !p->client) {
			pty_delete(p);
			return 0;
		}
	}
	return err_set(err, ERR_LIMIT, "RUNTIME_ERROR", EAGAIN,
		       "%d terminal sessions exist, the most at once", PTYS_MAX);
}

/* As in the reference, a directory that is not there is made. */
static int make_cwd(const struct pty_spec *spec, const char *env_file, struct err *err)
{
	_cleanup_free_ char *path = NULL;
	char **envp;
	if (!spec->cwd)
		return 0;
	int r = env_build(env_file, spec->envs, &envp, err);
	if (r < 0)
		return r;
	r = env_expand_path(spec->cwd, envp, &path, err);
	env_free(envp);
	if (r < 0)
		return r;
	r = fs_mkdir_p(path, 0755);
	return r < 0 ? err_sys(err, "RUNTIME_ERROR", -r, "cwd: make directory '%s'", spec->cwd) : 0;
}

/* Everything that a start would find wrong. */
static int check_spec(struct ptys *ps, const struct pty_spec *spec, struct err *err)
{
	_cleanup_(launch_done) struct launch l = {0};
	int r = make_cwd(spec, ps->execd->env_file, err);
	return r < 0 ? r : prepare(spec, spec->envs, ps, &l, err);
}

static int copy_text(const char *text, char **ret)
{
	if (text && *text)
		*ret = strdup(text);
	return text && *text && !*ret ? -ENOMEM : 0;
}

static int pty_init(struct pty *p, struct ptys *ps, const struct pty_spec *spec)
{
	/* What is kept is dropped a block at a time, and the newest one is never full. */
	const struct output_limits limits = {.memory_max = PTY_REPLAY_MAX + PTY_REPLAY_MAX / 8,
					     .total_max = PTY_REPLAY_MAX + PTY_REPLAY_MAX / 8,
					     .reader_lag_max = PTY_LAG_MAX};
	p->ptys = ps;
	p->created_ms = clock_real_ms();
	(void)random_uuid(p->id);
	list_init(&p->link);
	pump_init(&p->out, &pump_ops, OUTPUT_STDOUT);
	pump_init(&p->error, &pump_ops, OUTPUT_STDERR);
	feed_init(&p->feed);
	p->input = BUF_INIT(PTY_INPUT_MAX);
	p->spec = *spec;
	p->spec.envs = json_incref(spec->envs);
	p->spec.confinement = NULL;
	p->spec.cols = spec->cols ? spec->cols : DEFAULT_COLS;
	p->spec.rows = spec->rows ? spec->rows : DEFAULT_ROWS;
	if (copy_text(spec->cwd, &p->cwd) < 0 || copy_text(spec->command, &p->command) < 0)
		return -ENOMEM;
	p->spec.cwd = p->cwd;
	p->spec.command = p->command;
	int r = output_new(ps->execd->loop, &limits, &p->output);
	return r < 0 ? r : map_add(&ps->by_id, &p->node, p->id);
}

int pty_create(struct ptys *ps, const struct pty_spec *spec, const char **ret_id, struct err *err)
{
	if (ps->stopping)
		return err_set(err, ERR_UNAVAILABLE, "RUNTIME_ERROR", ESHUTDOWN,
			       "the agent is shutting down");
	struct confine *confine = NULL;
	int r = check_spec(ps, spec, err);
	if (r >= 0)
		r = make_room(ps, err);
	if (r >= 0)
		r = confinement_get(ps->execd->confinement, CONFINED_PTYS, spec->confinement, &confine, err);
	if (r < 0)
		return r;
	struct pty *p = calloc(1, sizeof(*p));
	r = p ? pty_init(p, ps, spec) : -ENOMEM;
	if (r < 0) {
		confine_unref(confine);
		if (p)
			pty_release(p);
		return err_sys(err, "RUNTIME_ERROR", -r, "make a terminal session");
	}
	p->confine = confine;
	p->confinement = confinement_json(confine);
	output_set_on_room(p->output, output_has_room, p);
	list_add_tail(&ps->all, &p->link);
	ps->n++;
	*ret_id = p->id;
	return 0;
}

int pty_get(struct ptys *ps, const char *id, struct pty **ret, struct err *err)
{
	struct map_node *node = map_get(&ps->by_id, id);
	if (!node)
		return err_set(err, ERR_NOT_FOUND, "CONTEXT_NOT_FOUND", ENOENT,
			       "there is no terminal session '%s'", id);
	*ret = container_of(node, struct pty, node);
	return 0;
}

void pty_info(struct pty *p, struct pty_info *ret)
{
	bool ended = p->state == ENDED;
	look_at_denials(p);
	*ret = (struct pty_info){
		.id = p->id,
		.command = p->command,
		.cwd = p->cwd,
		.created_ms = p->created_ms,
		.begin = output_begin(p->output),
		.end = output_end(p->output),
		.running = p->state == RUNNING,
		.ended = ended || p->state == DRAINING,
		.pipe = p->pipe,
		.connected = p->client,
		.exit_code = WIFEXITED(p->wstatus) ? WEXITSTATUS(p->wstatus) : -1,
		.signo = WIFSIGNALED(p->wstatus) ? WTERMSIG(p->wstatus) : 0,
		.cols = p->spec.cols,
		.rows = p->spec.rows,
		.confinement = p->confinement,
		.denied = p->denied,
	};
}

void ptys_each(struct ptys *ps, void (*fn)(void *arg, const struct pty_info *info), void *arg)
{
	list_foreach_safe (node, &ps->all) {
		struct pty_info info;
		pty_info(list_entry(node, struct pty, link), &info);
		fn(arg, &info);
	}
}

int ptys_new(struct execd *execd, struct ptys **ret)
{
	struct ptys *ps = calloc(1, sizeof(*ps));
	if (!ps)
		return -ENOMEM;
	ps->execd = execd;
	list_init(&ps->all);
	list_init(&ps->dead);
	*ret = ps;
	return 0;
}

void ptys_stop(struct ptys *ps)
{
	ps->stopping = true;
	list_foreach_safe (node, &ps->all)
		pty_remove(list_entry(node, struct pty, link), PTY_SHUTDOWN);
}

void ptys_free(struct ptys *ps)
{
	if (!ps)
		return;
	ptys_stop(ps);
	loop_defer_cancel(&ps->tidy);
	tidy(&ps->tidy);
	map_done(&ps->by_id);
	free(ps);
}
