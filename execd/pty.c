/*
 * pty.c - terminal sessions.
 *
 * Owns each session: its shell, the master side of its terminal or its three
 * pipes, its log, the input that the shell has not taken yet, and the link to
 * the one client.
 *
 * Output: a pump empties the terminal into the log while the log has room. A
 * client that keeps up is a reader of the log and so holds the shell up when it
 * is slow, as a terminal does; one that has taken nothing for PTY_STALL_MS no
 * longer counts as a reader, and finds a gap where the log has moved on. What
 * is still in the terminal when the shell has ended is read without regard to
 * the client: it is little, and the log holds it.
 *
 * The master is open twice, as the loop watches reading and writing apart. It
 * reads as an error (EIO) once no process has the terminal any more, which is
 * its end of file.
 */
#include "execd/pty.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>

#include "execd/confinement.h"
#include "execd/env.h"
#include "execd/execd.h"
#include "execd/feed.h"
#include "execd/launch.h"
#include "execd/pump.h"
#include "execd/tree.h"
#include "lib/clock.h"
#include "lib/fs.h"
#include "lib/map.h"
#include "lib/random.h"

#define DEFAULT_COLS 80
#define DEFAULT_ROWS 24
#define DEFAULT_TERM "xterm-256color"
#define ARGV_MAX     6

enum state { NEW, RUNNING, DRAINING, ENDED };

struct pty {
	struct map_node node;
	struct list link;
	struct ptys *ptys;
	char id[RANDOM_UUID_MAX];
	char *cwd, *command;  /* or NULL */
	struct pty_spec spec; /* its strings are those above, its envs a reference */
	uint64_t created_ms;

	enum state state;
	bool pipe;
	bool told; /* ENDED: a client has seen it */
	struct child child;
	pid_t pid;
	int wstatus;
	struct confine *confine; /* NULL: none */
	struct denials *denials; /* of the shell at hand; NULL: nothing is told */
	char *confinement;	 /* as JSON; NULL: none */
	char *denied;		 /* of the last shell, as JSON, or NULL */
	struct loop_timer drain;

	struct output *output;
	struct pump out, error;
	struct feed feed;
	struct feed_writer writer;
	struct buf input; /* what the feed has not taken */
	struct pty_client *client;
};

struct ptys {
	struct execd *execd;
	struct map by_id;
	struct list all; /* in order of creation */
	size_t n;
	bool stopping;
	struct list dead; /* freed after the callbacks that may still stand in them */
	struct loop_defer tidy;
};

/* ---- the client ----------------------------------------------------------- */

static void client_wake(struct pty *p)
{
	if (p->client)
		p->client->ops->wake(p->client);
}

static void stall_expired(struct loop_timer *timer)
{
	struct pty_client *c = container_of(timer, struct pty_client, stall);
	uint64_t due_ms = c->progress_ms + PTY_STALL_MS;
	if (loop_now_ms(timer->loop) >= due_ms ||
	    loop_timer_set(timer->loop, timer, due_ms, stall_expired) < 0)
		output_detach(&c->reader);
}

/* From here on it has something to take; without memory for the timer it may take its time. */
static void stall_arm(struct pty_client *c)
{
	struct loop *loop = c->pty->ptys->execd->loop;
	c->progress_ms = loop_now_ms(loop);
	if (!loop_timer_armed(&c->stall))
		(void)loop_timer_set(loop, &c->stall, c->progress_ms + PTY_STALL_MS, stall_expired);
}

static void output_arrived(struct output_reader *r)
{
	struct pty_client *c = container_of(r, struct pty_client, reader);
	stall_arm(c);
	c->ops->wake(c);
}

/* A shell that has ended is not held up any more. */
static void follow(struct pty_client *c)
{
	struct pty *p = c->pty;
	if (!c->reader.output && p->state != DRAINING)
		output_attach(p->output, &c->reader, c->offset, output_arrived);
}

void pty_detach(struct pty_client *c)
{
	if (!c->pty)
		return;
	output_detach(&c->reader);
	loop_timer_del(&c->stall);
	c->pty->client = NULL;
	c->pty = NULL;
}

static void evict(struct pty *p, enum pty_eviction why)
{
	struct pty_client *c = p->client;
	if (!c)
		return;
	pty_detach(c);
	c->ops->evicted(c, why);
}

void pty_attach(struct pty *p, struct pty_client *c, uint64_t since, const struct pty_client_ops *ops)
{
	evict(p, PTY_TAKEN_OVER);
	p->client = c;
	c->pty = p;
	c->ops = ops;
	c->offset = MIN(MAX(since, output_begin(p->output)), output_end(p->output));
	follow(c);
	if (c->offset < output_end(p->output))
		stall_arm(c);
}

int pty_read(struct pty_client *c, size_t max, struct output_slice *ret, bool *ret_missed)
{
	struct output *o = c->pty->output;
	*ret_missed = false;
	int r;
	while ((r = output_read(o, c->offset, max, ret)) == -ERANGE) {
		*ret_missed = true;
		c->offset = output_begin(o);
	}
	return r;
}

void pty_advance(struct pty_client *c, const struct output_slice *slice)
{
	struct pty *p = c->pty;
	c->offset = slice->offset + slice->len;
	c->progress_ms = loop_now_ms(p->ptys->execd->loop);
	if (c->reader.output)
		output_reader_advance(&c->reader, c->offset);
	if (c->offset < output_end(p->output))
		return;
	loop_timer_del(&c->stall);
	follow(c); /* it has caught up */
}

bool pty_take_end(struct pty_client *c, int *ret_exit_code, int *ret_signo)
{
	struct pty *p = c->pty;
	if (p->state != ENDED || p->told || c->offset < output_end(p->output))
		return false;
	p->told = true;
	*ret_exit_code = WIFEXITED(p->wstatus) ? WEXITSTATUS(p->wstatus) : -1;
	*ret_signo = WIFSIGNALED(p->wstatus) ? WTERMSIG(p->wstatus) : 0;
	return true;
}

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
		follow(p->client);
	client_wake(p);
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
		client_wake(p);
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

/* Both ends of what the shell is to have as descriptors 0, 1 and 2. */
struct ends {
	int out, error, in; /* ours; error is -EBADF for a terminal */
	int child[3];
};

static void ends_done(struct ends *e)
{
	fd_close(&e->out);
	fd_close(&e->error);
	fd_close(&e->in);
	for (size_t i = 0; i < ARRAY_SIZE(e->child); i++)
		fd_close(&e->child[i]);
}

static int open_pipes(struct ends *e)
{
	int fds[2];
	int r = fs_pipe(fds, 0, 1);
	if (r < 0)
		return r;
	e->child[0] = fds[0];
	e->in = fds[1];
	r = fs_pipe(fds, 1, 0);
	if (r < 0)
		return r;
	e->out = fds[0];
	e->child[1] = fds[1];
	r = fs_pipe(fds, 1, 0);
	if (r < 0)
		return r;
	e->error = fds[0];
	e->child[2] = fds[1];
	return 0;
}

static int set_size(int fd, unsigned cols, unsigned rows)
{
	struct winsize size = {.ws_col = (unsigned short)cols, .ws_row = (unsigned short)rows};
	return ioctl(fd, TIOCSWINSZ, &size) < 0 ? -errno : 0;
}

/* The terminal is its user's, so that it can be opened by its name as well. */
static int open_peer(struct ends *e, const struct spawn *spawn)
{
	struct termios t;
	int locked = 0;
	if (ioctl(e->out, TIOCSPTLCK, &locked) < 0)
		return -errno;
	e->child[0] = ioctl(e->out, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (e->child[0] < 0)
		return -errno;
	if (tcgetattr(e->child[0], &t) == 0) {
		t.c_iflag |= IUTF8;
		(void)tcsetattr(e->child[0], TCSANOW, &t);
	}
	if (spawn->set_ids && fchown(e->child[0], spawn->uid, (gid_t)-1) < 0)
		return -errno;
	for (size_t i = 1; i < ARRAY_SIZE(e->child); i++)
		if ((e->child[i] = fcntl(e->child[0], F_DUPFD_CLOEXEC, 3)) < 0)
			return -errno;
	return 0;
}

/* By ioctl and not by name: a container may see no /dev/pts, or another one. */
static int open_terminal(struct pty *p, struct ends *e, const struct spawn *spawn)
{
	static const int flags = O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC;
	e->out = open("/dev/ptmx", flags);
	if (e->out < 0 && errno == ENOENT)
		e->out = open("/dev/pts/ptmx", flags);
	if (e->out < 0)
		return -errno;
	e->in = fcntl(e->out, F_DUPFD_CLOEXEC, 3);
	if (e->in < 0)
		return -errno;
	int r = set_size(e->out, p->spec.cols, p->spec.rows);
	return r < 0 ? r : open_peer(e, spawn);
}

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
	_cleanup_(ends_done) struct ends e = {-EBADF, -EBADF, -EBADF, {-EBADF, -EBADF, -EBADF}};
	const char *argv[ARGV_MAX];
	int r = p->pipe ? open_pipes(&e) : open_terminal(p, &e, &l->spawn);
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
	return pump_open(&p->out) && !p->pipe ? set_size(p->out.fd, cols, rows) : 0;
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
	evict(p, why);
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
