/*
 * oci.c - owns the boxes of the embedded driver. Loop thread, except the two
 * functions that say so.
 *
 * A box goes through these phases; what may take long is a child process or a
 * job of the pool, and its end brings the next phase:
 *
 *   FRESH -> PREPARING -> STARTING -> RUNNING -> ENDED        (made, and ended by itself)
 *            job: files   runtime run   |          |
 *                                    KILLING       |          (destroy() at any time; while a
 *                                       |          |           step is under way it is awaited)
 *                                       +-> DELETING -> REMOVING -> (destroyed)
 *                                           runtime     job: groups,
 *                                           delete      files
 *
 * The listening socket of the agent is bound here before the container exists
 * and handed through as descriptor 3, so that it serves from within its own
 * network namespace, and clients may connect from the first moment: they wait
 * in its queue.
 *
 * The container's first process is reparented to us (we are a subreaper), so
 * the one reaper tells its exit status. After a restart it is not our child; a
 * pidfd tells that it ended, and nobody knows how.
 */
#include "sandboxd/oci/oci.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "lib/clock.h"
#include "lib/fs.h"
#include "lib/log.h"
#include "lib/random.h"
#include "lib/spawn.h"
#include "lib/utf8.h"
#include "sandboxd/oci/bundle.h"
#include "sandboxd/oci/cgroup.h"
#include "sandboxd/oci/enter.h"
#include "sandboxd/oci/layers.h"
#include "sandboxd/oci/rootfs.h"

#define LISTEN_BACKLOG	1024
#define LOG_TAIL_MAX	2048
#define LOG_SHOWN_MAX	(256 * 1024) /* of a container's log, in its diagnostics */
#define ARGS_MAX	64
#define OVERLAY_ARG_MAX 4096
#define ROOT_NAME_MAX	24
#define START_CODE	"DOCKER::SANDBOX_START_FAILED"

struct oci {
	struct runtime rt;
	struct runtime_env env;
	const struct config *config;
	struct list boxes;
	struct cgroups cgroups;
	struct rootfs host;
	char root_name[ROOT_NAME_MAX]; /* roots/NAME */
	char runtime_path[PATH_MAX];   /* found in PATH */
	char *envp[2];		       /* of the runtime program: PATH and nothing else */
};

enum phase {
	OCI_FRESH,
	OCI_PREPARING,
	OCI_STARTING,
	OCI_RUNNING,
	OCI_KILLING,
	OCI_ENDED,
	OCI_DELETING,
	OCI_REMOVING,
};

struct oci_box {
	struct list link;
	struct oci *oci;
	struct runtime_box *box;
	enum phase phase;
	bool dying;   /* destroy() was called */
	bool started; /* the runtime may have records of it */

	struct child child; /* the runtime program at work */
	struct child init;  /* the container's first process, as our child */
	int pidfd;	    /* the same, when it is not our child */
	struct loop_io pid_io;
	pid_t pid;
	int listen_fd;
	int token_fd; /* a pipe with the agent's token, or -EBADF */

	struct pool_job job;
	struct loop_defer inline_job; /* where the pool has no room */
	struct pool_job side;	      /* beside RUNNING; a teardown waits for its end */
	bool side_busy, teardown_waits;
	bool freeze_on;
	char snapshot[RUNTIME_ID_MAX]; /* it stands on, or "" */
	char taking[RUNTIME_ID_MAX];   /* is being taken of it */
	struct layers layers;	       /* of the one it stands on */
	char dir[PATH_MAX];
	char *config_json;
	struct runtime_limits limits;
	char notes[CGROUP_NOTES_MAX];
	int result;
	struct err err;
};

static void begin_teardown(struct oci_box *b);
static void read_snapshot(struct oci_box *b);

static struct oci *oci_of(struct runtime *rt)
{
	return container_of(rt, struct oci, rt);
}

/* ---- boxes ------------------------------------------------------------------ */

/* What the container has of its own by now, or never will. */
static void close_inherited(struct oci_box *b)
{
	fd_close(&b->listen_fd);
	fd_close(&b->token_fd);
}

static struct oci_box *box_new(struct oci *oci, struct runtime_box *box)
{
	struct oci_box *b = calloc(1, sizeof(*b));
	if (!b)
		return NULL;
	b->oci = oci;
	b->box = box;
	b->pidfd = b->listen_fd = b->token_fd = b->child.pidfd = b->init.pidfd = b->pid_io.fd = -EBADF;
	(void)snprintf(b->dir, sizeof(b->dir), "%s/sandboxes/%s", oci->config->state_dir, box->id);
	read_snapshot(b);
	list_add_tail(&oci->boxes, &b->link);
	box->priv = b;
	return b;
}

static void box_free(struct oci_box *b)
{
	child_forget(&b->child);
	child_forget(&b->init);
	loop_io_del(&b->pid_io);
	loop_defer_cancel(&b->inline_job);
	fd_close(&b->pidfd);
	close_inherited(b);
	list_del(&b->link);
	free(b->config_json);
	free(b);
}

/* ---- jobs -------------------------------------------------------------------- */

static void run_inline(struct loop_defer *d)
{
	struct oci_box *b = container_of(d, struct oci_box, inline_job);
	b->job.run(&b->job);
	b->job.done(&b->job);
}

/* A full pool makes a box slow, never stuck. */
static void submit(struct oci_box *b, enum phase phase, void (*run)(struct pool_job *),
		   void (*done)(struct pool_job *))
{
	b->phase = phase;
	b->job = (struct pool_job){.run = run, .done = done};
	if (pool_submit(b->oci->env.pool, &b->job) < 0)
		loop_defer(b->oci->env.loop, &b->inline_job, run_inline);
}

/* ---- the runtime program ------------------------------------------------------- */

struct args {
	const char *v[ARGS_MAX];
	size_t n;
};

static void arg(struct args *a, const char *s)
{
	if (a->n < ARGS_MAX - 1)
		a->v[a->n++] = s;
}

static bool is_crun(const struct oci *oci)
{
	const char *slash = strrchr(oci->runtime_path, '/');
	return strcmp(slash ? slash + 1 : oci->runtime_path, "crun") == 0;
}

static void runtime_args(const struct oci *oci, struct args *a, const char *records)
{
	arg(a, "--");
	arg(a, oci->runtime_path);
	if (is_crun(oci))
		arg(a, "--cgroup-manager=disabled"); /* the groups are ours */
	arg(a, "--root");
	arg(a, records);
}

/* stdout and stderr go to the container's log, which also says why the runtime refused. */
static int start_child(struct oci_box *b, struct args *a, bool inherit, child_exit_fn *on_exit,
		       struct err *err)
{
	char path[PATH_MAX + 32];
	(void)snprintf(path, sizeof(path), "%s/container.log", b->dir);
	_cleanup_close_ int log_fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	if (log_fd < 0)
		log_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
	if (log_fd < 0)
		return err_sys(err, START_CODE, errno, "open '%s'", path);
	a->v[a->n] = NULL;
	struct spawn spec = {
		.path = "/proc/self/exe",
		.argv = (char *const *)a->v,
		.envp = b->oci->envp,
		.fds = {{log_fd, 1},
			{log_fd, 2},
			{b->listen_fd, BUNDLE_LISTEN_FD},
			{b->token_fd, BUNDLE_TOKEN_FD}},
		.fds_n = !inherit	   ? 2
			 : b->token_fd < 0 ? 3
					   : 4,
		.new_session = true,
		.die_with_parent = true, /* else a start could finish after our successor cleaned up */
	};
	return child_spawn(b->oci->env.reaper, &b->child, &spec, on_exit, err);
}

/* The last line that says something, as text: whatever runs inside may have written it. */
static void log_tail(const struct oci_box *b, char *out, size_t size)
{
	char path[PATH_MAX + 32], text[LOG_TAIL_MAX + 1];
	_cleanup_buf_ struct buf line = BUF_INIT(4 * LOG_TAIL_MAX);
	struct stat st;

	out[0] = '\0';
	(void)snprintf(path, sizeof(path), "%s/container.log", b->dir);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || fstat(fd, &st) < 0)
		return;
	ssize_t n = pread(fd, text, LOG_TAIL_MAX, MAX(st.st_size - LOG_TAIL_MAX, (off_t)0));
	while (n > 0 && strchr("\r\n\t ", text[n - 1]))
		n--;
	if (n <= 0)
		return;
	const char *begin = memrchr(text, '\n', (size_t)n);
	begin = begin ? begin + 1 : text;
	if (utf8_sanitize(&line, NULL, begin, MIN((size_t)(text + n - begin), size - 1)) < 0)
		return;
	/* A replacement is longer than what it replaces; a cut one is dropped whole. */
	size_t len = MIN(line.len, size - 1);
	len -= utf8_incomplete_tail(line.data, len);
	memcpy(out, line.data, len);
	out[len] = '\0';
	for (char *c = out; *c; c++)
		if ((unsigned char)*c < ' ')
			*c = ' ';
}

/* ---- PREPARING: a job -------------------------------------------------------------- */

static int make_dirs(int dir, const struct oci_box *b, struct err *err)
{
	const struct oci *oci = b->oci;
	char name[32];

	if (*b->snapshot && symlinkat(b->snapshot, dir, "snapshot") < 0)
		return err_sys(err, START_CODE, errno, "link the snapshot");
	if (symlinkat(oci->root_name, dir, "root") < 0 || mkdirat(dir, "rootfs", 0755) < 0)
		return err_sys(err, START_CODE, errno, "make the root");
	for (size_t i = 0; i < oci->host.overlays_n; i++) {
		if (oci->host.overlays[i].readonly)
			continue;
		(void)snprintf(name, sizeof(name), "upper.%zu", i);
		if (mkdirat(dir, name, 0755) < 0)
			return err_sys(err, START_CODE, errno, "make layer '%s'", name);
		(void)snprintf(name, sizeof(name), "work.%zu", i);
		if (mkdirat(dir, name, 0700) < 0)
			return err_sys(err, START_CODE, errno, "make layer '%s'", name);
	}
	return 0;
}

static int prepare(struct oci_box *b)
{
	if (mkdir(b->dir, 0700) < 0)
		return err_sys(&b->err, START_CODE, errno, "make '%s'", b->dir);
	_cleanup_close_ int dir = open(b->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return err_sys(&b->err, START_CODE, errno, "open '%s'", b->dir);
	int r = make_dirs(dir, b, &b->err);
	if (r < 0)
		return r;
	r = fs_write_file(dir, "config.json", b->config_json, strlen(b->config_json), 0600);
	if (r < 0)
		return err_sys(&b->err, START_CODE, -r, "write config.json");
	return cgroups_create(&b->oci->cgroups, b->box->id, &b->limits, b->notes, &b->err);
}

/* Worker thread: the box is not touched by the loop meanwhile, and the rest is constant. */
static void run_prepare(struct pool_job *job)
{
	struct oci_box *b = container_of(job, struct oci_box, job);
	b->result = prepare(b);
}

/* ---- STARTING ------------------------------------------------------------------------ */

static uint64_t start_time(pid_t pid)
{
	char path[48], text[1024];

	(void)snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return 0;
	text[n] = '\0';
	char *p = strrchr(text, ')'); /* the name before may hold anything */
	for (int field = 2; p && field < 22; field++)
		p = strchr(p + 1, ' ');
	return p ? strtoull(p + 1, NULL, 10) : 0;
}

static void boot_id(char out[40])
{
	_cleanup_close_ int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, out, 36);
	out[MAX(n, (ssize_t)0)] = '\0';
}

static pid_t read_pid(const struct oci_box *b)
{
	char path[PATH_MAX + 8], text[24] = "";

	(void)snprintf(path, sizeof(path), "%s/pid", b->dir);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		return 0;
	return (pid_t)strtol(text, NULL, 10);
}

/* The container has ended, whoever noticed. */
static void on_end(struct oci_box *b, bool known, int wstatus)
{
	struct runtime_exit e = {.known = known, .wstatus = wstatus};
	bool killing = b->phase == OCI_KILLING;

	b->pid = 0;
	b->phase = OCI_ENDED;
	if (killing || b->dying) {
		begin_teardown(b);
		return;
	}
	log_tail(b, e.detail, sizeof(e.detail));
	e.oom = known && WIFSIGNALED(wstatus) && WTERMSIG(wstatus) == SIGKILL &&
		cgroups_oom(&b->oci->cgroups, b->box->id);
	b->box->events->exited(b->box, &e);
}

static void on_init_exit(struct child *c, int wstatus, const struct rusage *usage)
{
	(void)usage;
	on_end(container_of(c, struct oci_box, init), true, wstatus);
}

static void on_pidfd(struct loop_io *io, uint32_t events)
{
	struct oci_box *b = container_of(io, struct oci_box, pid_io);

	(void)events;
	loop_io_del(&b->pid_io);
	fd_close(&b->pidfd);
	on_end(b, false, 0);
}

static void on_running(struct oci_box *b)
{
	char handle[RUNTIME_HANDLE_MAX], boot[40];

	b->pid = read_pid(b);
	uint64_t start = b->pid > 0 ? start_time(b->pid) : 0;
	if (b->pid <= 0 || child_adopt(b->oci->env.reaper, &b->init, b->pid, on_init_exit) < 0) {
		int wstatus = 0; /* gone already */
		bool known = child_ended(b->oci->env.reaper, b->pid, &wstatus) == 0;
		on_end(b, known, wstatus);
		return;
	}
	b->phase = OCI_RUNNING;
	if (b->dying) {
		begin_teardown(b);
		return;
	}
	boot_id(boot);
	(void)snprintf(handle, sizeof(handle), "%d %" PRIu64 " %s", b->pid, start, boot);
	b->box->events->started(b->box, handle, b->notes);
}

static void start_failed(struct oci_box *b)
{
	b->phase = OCI_ENDED;
	if (b->dying)
		begin_teardown(b);
	else
		b->box->events->failed(b->box, &b->err);
}

static void on_run_exit(struct child *c, int wstatus, const struct rusage *usage)
{
	struct oci_box *b = container_of(c, struct oci_box, child);
	char why[256];

	(void)usage;
	close_inherited(b); /* the container has its own by now */
	if (WIFEXITED(wstatus) && WEXITSTATUS(wstatus) == 0) {
		on_running(b);
		return;
	}
	log_tail(b, why, sizeof(why));
	if (WIFSIGNALED(wstatus))
		(void)err_set(&b->err, ERR_INTERNAL, START_CODE, EIO, "%s was killed by signal %d",
			      b->oci->config->runtime, WTERMSIG(wstatus));
	else
		(void)err_set(&b->err, ERR_INTERNAL, START_CODE, EIO, "%s did not start the container: %s",
			      b->oci->config->runtime, *why ? why : "it does not say why");
	start_failed(b);
}

/* The snapshot's layers, the newest first, above what the image gives. n: which upper layer. */
static void put_layers(const struct oci_box *b, unsigned n, struct buf *out)
{
	for (size_t i = 0; i < b->layers.n; i++)
		(void)buf_printf(out, "../../snapshots/%s/%s/upper.%u:", b->snapshot, b->layers.ids[i], n);
}

static int start(struct oci_box *b)
{
	const struct oci *oci = b->oci;
	char records[PATH_MAX], pid_file[PATH_MAX + 8];
	struct buf overlays[ROOTFS_OVERLAYS_MAX] = {0};
	char joins[CGROUP_CONTROLLERS][CGROUP_PATH_MAX];
	struct args a = {0};
	unsigned upper = 0;

	(void)snprintf(records, sizeof(records), "%s/runtime", oci->config->state_dir);
	(void)snprintf(pid_file, sizeof(pid_file), "%s/pid", b->dir);
	arg(&a, OCI_ENTER);
	arg(&a, b->dir);
	for (size_t i = 0; i < oci->host.overlays_n; i++) {
		const struct rootfs_overlay *o = &oci->host.overlays[i];
		overlays[i] = BUF_INIT(OVERLAY_ARG_MAX);
		(void)buf_printf(&overlays[i], "%s=", o->target);
		if (!o->readonly)
			put_layers(b, upper++, &overlays[i]);
		(void)buf_puts(&overlays[i], o->lower);
		arg(&a, o->readonly ? "--layers" : "--overlay");
		arg(&a, buf_cstr(&overlays[i]) ? (const char *)overlays[i].data : "");
	}
	size_t n = cgroups_join_files(&oci->cgroups, b->box->id, joins);
	for (size_t i = 0; i < n; i++) {
		arg(&a, "--join");
		arg(&a, joins[i]);
	}
	runtime_args(oci, &a, records);
	arg(&a, "run");
	arg(&a, "--detach");
	arg(&a, "--preserve-fds");
	arg(&a, b->token_fd < 0 ? "1" : "2");
	arg(&a, "--pid-file");
	arg(&a, pid_file);
	arg(&a, "--bundle");
	arg(&a, b->dir);
	arg(&a, b->box->id);
	b->phase = OCI_STARTING;
	b->started = true;
	int r = start_child(b, &a, true, on_run_exit, &b->err);
	for (size_t i = 0; i < oci->host.overlays_n; i++)
		buf_done(&overlays[i]);
	return r;
}

static void on_prepared(struct pool_job *job)
{
	struct oci_box *b = container_of(job, struct oci_box, job);

	free(b->config_json);
	b->config_json = NULL;
	if (pool_stopping(b->oci->env.pool))
		return; /* the box is about to be abandoned */
	if (b->result == 0)
		b->box->prepared_usec = clock_mono_usec();
	if (b->result == 0 && b->dying) {
		b->phase = OCI_ENDED;
		begin_teardown(b);
		return;
	}
	if (b->result == 0)
		b->result = start(b);
	if (b->result < 0) {
		close_inherited(b);
		start_failed(b);
	}
}

/* ---- create ----------------------------------------------------------------------------- */

/* A port of its own on loopback, chosen by the kernel. */
static int listen_any(int *ret_fd, uint16_t *ret_port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&a, len) < 0 || listen(fd, LISTEN_BACKLOG) < 0 ||
	    getsockname(fd, (struct sockaddr *)&a, &len) < 0)
		return -errno;
	*ret_port = ntohs(a.sin_port);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int stand_on(struct oci_box *b, const char *snapshot, struct err *err)
{
	(void)snprintf(b->snapshot, sizeof(b->snapshot), "%s", snapshot);
	int r = layers_read(b->oci->config->state_dir, snapshot, &b->layers);
	return r < 0 ? err_sys(err, START_CODE, -r, "read snapshot '%.64s'", snapshot) : 0;
}

/* A pipe that holds the text and then ends: it is shorter than any pipe. */
static int pipe_with(const char *text, int *ret_fd, struct err *err)
{
	int ends[2];

	int r = fs_pipe(ends, 0, 0);
	if (r < 0)
		return err_sys(err, START_CODE, -r, "make a pipe for the token");
	r = fs_write_all(ends[1], text, strlen(text));
	(void)close(ends[1]);
	*ret_fd = ends[0];
	return r < 0 ? err_sys(err, START_CODE, -r, "write the token") : 0;
}

static int oci_create(struct runtime *rt, struct runtime_box *box, const struct runtime_spec *spec,
		      struct err *err)
{
	struct oci *oci = oci_of(rt);
	const struct bundle_spec bundle = {
		.path = oci->host.path,
		.entrypoint = spec->entrypoint,
		.env = spec->env,
		.token = spec->token,
	};
	struct oci_box *b = box_new(oci, box);
	if (!b)
		return err_set(err, ERR_INTERNAL, START_CODE, ENOMEM, "out of memory");
	b->limits = spec->limits;
	int r = spec->snapshot ? stand_on(b, spec->snapshot, err) : 0;
	if (r == 0)
		r = bundle_config(&bundle, &b->config_json, err);
	if (r == 0 && spec->token)
		r = pipe_with(spec->token, &b->token_fd, err);
	if (r == 0) {
		r = listen_any(&b->listen_fd, &box->port);
		if (r < 0)
			(void)err_sys(err, START_CODE, -r, "make a listening socket for the sandbox");
	}
	if (r < 0) {
		box->priv = NULL;
		box_free(b);
		return r;
	}
	submit(b, OCI_PREPARING, run_prepare, on_prepared);
	return 0;
}

/* ---- adopt -------------------------------------------------------------------------------- */

/* The process of the handle, and no other that has got its number since. */
static int open_same(const char *handle, pid_t *ret_pid)
{
	char boot[40], then[40] = "";
	uint64_t start;
	int pid;

	boot_id(boot);
	if (sscanf(handle, "%d %" SCNu64 " %39s", &pid, &start, then) != 3 || strcmp(boot, then) != 0)
		return -ESRCH;
	_cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (pidfd < 0)
		return -errno;
	if (start_time(pid) != start) /* read after the open: the pidfd is this process */
		return -ESRCH;
	*ret_pid = pid;
	return TAKE_FD(pidfd);
}

static int oci_adopt(struct runtime *rt, struct runtime_box *box, const char *handle)
{
	struct oci *oci = oci_of(rt);
	pid_t pid = 0;
	_cleanup_close_ int pidfd = open_same(handle, &pid);
	if (pidfd < 0)
		return -ESRCH;

	struct oci_box *b = box_new(oci, box);
	if (!b)
		return -ENOMEM;
	int r = loop_io_add(oci->env.loop, &b->pid_io, pidfd, EPOLLIN, on_pidfd);
	if (r < 0) {
		box->priv = NULL;
		box_free(b);
		return r;
	}
	b->pidfd = TAKE_FD(pidfd);
	b->pid = pid;
	b->started = true;
	b->phase = OCI_RUNNING;
	return 0;
}

/* ---- freeze: a job beside RUNNING ---------------------------------------------------------- */

/* Worker thread. */
static void run_freeze(struct pool_job *job)
{
	struct oci_box *b = container_of(job, struct oci_box, side);
	b->result = cgroups_freeze(&b->oci->cgroups, b->box->id, b->freeze_on);
}

/* True when the box is to be told of the end of its side job. */
static bool side_done(struct oci_box *b)
{
	if (pool_stopping(b->oci->env.pool))
		return false;
	b->side_busy = false;
	if (b->teardown_waits)
		begin_teardown(b);
	return !b->dying && b->phase == OCI_RUNNING;
}

static void on_frozen(struct pool_job *job)
{
	struct oci_box *b = container_of(job, struct oci_box, side);
	struct err err;

	if (!side_done(b))
		return;
	if (b->result < 0)
		(void)err_sys(&err,
			      b->freeze_on ? "DOCKER::SANDBOX_PAUSE_FAILED" : "DOCKER::SANDBOX_RESUME_FAILED",
			      -b->result, "the freezer of the sandbox");
	b->box->events->frozen(b->box, b->freeze_on, b->result < 0 ? &err : NULL);
}

static int side_begin(struct oci_box *b, void (*run)(struct pool_job *), void (*done)(struct pool_job *),
		      struct err *err)
{
	if (!b || b->phase != OCI_RUNNING || b->side_busy || b->dying)
		return err_set(err, ERR_CONFLICT, "SANDBOX::INVALID_STATE", EBUSY,
			       "the sandbox is busy with something else");
	b->side = (struct pool_job){.run = run, .done = done};
	int r = pool_submit(b->oci->env.pool, &b->side);
	if (r < 0)
		return err_sys(err, "SANDBOX::UNAVAILABLE", -r, "too much is waiting already");
	b->side_busy = true;
	return 0;
}

static int oci_freeze(struct runtime *rt, struct runtime_box *box, bool on, struct err *err)
{
	struct oci_box *b = box->priv;

	if (!oci_of(rt)->cgroups.usable[CGROUP_FREEZER])
		return err_set(err, ERR_NOT_SUPPORTED, "SANDBOX::API_NOT_SUPPORTED", ENOTSUP,
			       "this machine has no freezer control group, by which sandboxes are paused");
	if (b && !b->side_busy)
		b->freeze_on = on;
	return side_begin(b, run_freeze, on_frozen, err);
}

/* ---- snapshots: freeze (job), copy (children), thaw and sync (job), all beside RUNNING --------- */

static void read_snapshot(struct oci_box *b)
{
	char path[PATH_MAX + 16];

	(void)snprintf(path, sizeof(path), "%s/snapshot", b->dir);
	ssize_t n = readlink(path, b->snapshot, sizeof(b->snapshot) - 1);
	b->snapshot[MAX(n, (ssize_t)0)] = '\0';
	if (*b->snapshot)
		(void)layers_read(b->oci->config->state_dir, b->snapshot, &b->layers);
}

/* Worker thread: the copy is of one moment, also where several files belong together. */
static void run_snap_begin(struct pool_job *job)
{
	struct oci_box *b = container_of(job, struct oci_box, side);
	char path[PATH_MAX];

	layers_path(b->oci->config->state_dir, b->taking, b->taking, path);
	b->result = fs_mkdir_p(path, 0700);
	if (b->result == 0)
		b->result = cgroups_freeze(&b->oci->cgroups, b->box->id, true);
}

/* Worker thread. */
static void run_snap_end(struct pool_job *job)
{
	struct oci_box *b = container_of(job, struct oci_box, side);
	struct layers all = {.n = 1};

	cgroups_thaw(&b->oci->cgroups, b->box->id);
	if (b->result < 0)
		return;
	memcpy(all.ids[0], b->taking, sizeof(all.ids[0]));
	for (size_t i = 0; i < b->layers.n; i++)
		memcpy(all.ids[all.n++], b->layers.ids[i], sizeof(all.ids[0]));
	b->result = layers_write(b->oci->config->state_dir, b->taking, &all);
}

static void on_snap_end(struct pool_job *job)
{
	struct oci_box *b = container_of(job, struct oci_box, side);
	char taken[RUNTIME_ID_MAX];
	struct err err;

	memcpy(taken, b->taking, sizeof(taken));
	b->taking[0] = '\0';
	if (!side_done(b))
		return;
	if (b->result < 0)
		(void)err_sys(&err, "SNAPSHOT::CAPTURE_FAILED", -b->result, "take the snapshot");
	b->box->events->snapshotted(b->box, taken, b->result < 0 ? &err : NULL);
}

static void snap_end(struct oci_box *b, int result)
{
	b->result = result;
	b->side = (struct pool_job){.run = run_snap_end, .done = on_snap_end};
	if (pool_submit(b->oci->env.pool, &b->side) < 0) {
		run_snap_end(&b->side);
		on_snap_end(&b->side);
	}
}

static int copy_result(struct oci_box *b, int wstatus)
{
	char why[256];

	if (WIFEXITED(wstatus) && WEXITSTATUS(wstatus) == 0)
		return 0;
	log_tail(b, why, sizeof(why));
	log_warn("sandbox %s: snapshot %s: %s", b->box->id, b->taking, why);
	return strstr(why, "No space left") ? -ENOSPC : -EIO;
}

static void on_older_copied(struct child *c, int wstatus, const struct rusage *usage)
{
	struct oci_box *b = container_of(c, struct oci_box, child);

	(void)usage;
	snap_end(b, copy_result(b, wstatus));
}

/* Layers never change once they are taken: the older ones are linked, file by file. */
static void link_older(struct oci_box *b)
{
	char from[SNAPSHOT_DEPTH_MAX][PATH_MAX], to[PATH_MAX];
	struct args a = {0};
	struct err err;

	arg(&a, OCI_ENTER);
	arg(&a, b->dir);
	arg(&a, "--");
	arg(&a, "cp");
	arg(&a, "-al");
	for (size_t i = 0; i < b->layers.n; i++) {
		layers_path(b->oci->config->state_dir, b->snapshot, b->layers.ids[i], from[i]);
		arg(&a, from[i]);
	}
	layers_path(b->oci->config->state_dir, b->taking, NULL, to);
	arg(&a, to);
	int r = start_child(b, &a, false, on_older_copied, &err);
	if (r < 0)
		snap_end(b, r);
}

static void on_copied(struct child *c, int wstatus, const struct rusage *usage)
{
	struct oci_box *b = container_of(c, struct oci_box, child);

	(void)usage;
	int r = copy_result(b, wstatus);
	if (r == 0 && b->layers.n > 0)
		link_older(b);
	else
		snap_end(b, r);
}

/* With every attribute: overlayfs keeps its own in trusted.overlay.*, and whiteouts are devices. */
static void on_snap_begin(struct pool_job *job)
{
	struct oci_box *b = container_of(job, struct oci_box, side);
	char names[ROOTFS_OVERLAYS_MAX][16], to[PATH_MAX];
	struct args a = {0};
	struct err err;
	unsigned upper = 0;

	if (pool_stopping(b->oci->env.pool))
		return;
	if (b->result < 0) {
		snap_end(b, b->result);
		return;
	}
	arg(&a, OCI_ENTER);
	arg(&a, b->dir);
	arg(&a, "--");
	arg(&a, "cp");
	arg(&a, "-a");
	arg(&a, "--reflink=auto");
	for (size_t i = 0; i < b->oci->host.overlays_n; i++)
		if (!b->oci->host.overlays[i].readonly) {
			(void)snprintf(names[upper], sizeof(names[0]), "upper.%zu", i);
			arg(&a, names[upper++]);
		}
	layers_path(b->oci->config->state_dir, b->taking, b->taking, to);
	arg(&a, to);
	int r = start_child(b, &a, false, on_copied, &err);
	if (r < 0)
		snap_end(b, r);
}

static int oci_snapshot(struct runtime *rt, struct runtime_box *box, const char *snapshot, struct err *err)
{
	struct oci_box *b = box->priv;

	(void)rt;
	if (b && b->layers.n >= SNAPSHOT_DEPTH_MAX)
		return err_set(err, ERR_LIMIT, "SNAPSHOT::LIMIT", E2BIG,
			       "the sandbox stands on %d snapshots already, each made from the one before",
			       SNAPSHOT_DEPTH_MAX);
	if (!b || b->side_busy)
		return side_begin(NULL, NULL, NULL, err);
	(void)snprintf(b->taking, sizeof(b->taking), "%s", snapshot); /* the worker may begin at once */
	int r = side_begin(b, run_snap_begin, on_snap_begin, err);
	if (r < 0)
		b->taking[0] = '\0';
	return r;
}

struct removal {
	struct pool_job job;
	char id[RUNTIME_ID_MAX], path[PATH_MAX];
	void (*done)(void *arg, const char *snapshot);
	void *arg;
};

static void run_removal(struct pool_job *job)
{
	struct removal *x = container_of(job, struct removal, job);
	(void)fs_remove_tree(AT_FDCWD, x->path);
}

static void on_removal(struct pool_job *job)
{
	struct removal *x = container_of(job, struct removal, job);

	if (!pool_stopping(job->pool))
		x->done(x->arg, x->id);
	free(x);
}

static int oci_snapshot_delete(struct runtime *rt, const char *snapshot,
			       void (*done)(void *arg, const char *snapshot), void *arg_)
{
	struct oci *oci = oci_of(rt);

	list_foreach_safe (l, &oci->boxes) {
		const struct oci_box *b = list_entry(l, struct oci_box, link);
		if (strcmp(b->snapshot, snapshot) == 0 || strcmp(b->taking, snapshot) == 0)
			return -EBUSY;
	}
	struct removal *x = calloc(1, sizeof(*x));
	if (!x)
		return -ENOMEM;
	x->job = (struct pool_job){.run = run_removal, .done = on_removal};
	x->done = done;
	x->arg = arg_;
	(void)snprintf(x->id, sizeof(x->id), "%s", snapshot);
	layers_path(oci->config->state_dir, snapshot, NULL, x->path);
	int r = pool_submit(oci->env.pool, &x->job);
	if (r < 0)
		free(x);
	return r;
}

/* ---- destroy -------------------------------------------------------------------------------- */

/* Worker thread: the loop only looks at the box again when the job is done. */
static void run_remove(struct pool_job *job)
{
	struct oci_box *b = container_of(job, struct oci_box, job);
	int groups = cgroups_remove(&b->oci->cgroups, b->box->id);
	int files = fs_remove_tree(AT_FDCWD, b->dir);

	b->result = files < 0 && files != -ENOENT ? files : groups;
}

static void on_removed(struct pool_job *job)
{
	struct oci_box *b = container_of(job, struct oci_box, job);
	struct runtime_box *box = b->box;

	if (pool_stopping(b->oci->env.pool))
		return;
	if (b->result < 0)
		log_warn("sandbox %s: remove '%s': %s", box->id, b->dir, strerror(-b->result));
	box->priv = NULL;
	box_free(b);
	box->events->destroyed(box);
}

static void begin_remove(struct oci_box *b)
{
	submit(b, OCI_REMOVING, run_remove, on_removed);
}

static void on_delete_exit(struct child *c, int wstatus, const struct rusage *usage)
{
	struct oci_box *b = container_of(c, struct oci_box, child);
	char why[256];

	(void)usage;
	/* No record of it is what we want; anything else is worth a line. */
	if (wstatus != 0) {
		log_tail(b, why, sizeof(why));
		log_debug("sandbox %s: %s delete: %s", b->box->id, b->oci->config->runtime, why);
	}
	begin_remove(b);
}

static void begin_delete(struct oci_box *b)
{
	char records[PATH_MAX];
	struct args a = {0};
	struct err err;

	(void)snprintf(records, sizeof(records), "%s/runtime", b->oci->config->state_dir);
	arg(&a, OCI_ENTER);
	arg(&a, "/");
	runtime_args(b->oci, &a, records);
	arg(&a, "delete");
	arg(&a, "--force");
	arg(&a, b->box->id);
	b->phase = OCI_DELETING;
	if (start_child(b, &a, false, on_delete_exit, &err) == 0)
		return;
	log_warn("sandbox %s: %s", b->box->id, err.message);
	begin_remove(b);
}

static void kill_container(struct oci_box *b)
{
	b->phase = OCI_KILLING;
	cgroups_thaw(&b->oci->cgroups, b->box->id);
	if (b->pidfd >= 0)
		(void)syscall(SYS_pidfd_send_signal, b->pidfd, SIGKILL, NULL, 0);
	else
		(void)child_kill(&b->init, SIGKILL);
}

/* The next step towards nothing, from a phase in which no step is under way. */
static void begin_teardown(struct oci_box *b)
{
	close_inherited(b);
	b->teardown_waits = b->side_busy;
	if (b->side_busy)
		return;
	if (b->phase == OCI_RUNNING)
		kill_container(b);
	else if (b->started)
		begin_delete(b);
	else
		begin_remove(b);
}

static void oci_destroy(struct runtime *rt, struct runtime_box *box, bool force)
{
	struct oci_box *b = box->priv;

	if (!b) { /* whatever an earlier life has left */
		b = box_new(oci_of(rt), box);
		if (!b) {
			log_error("sandbox %s: destroy: out of memory", box->id);
			return;
		}
		b->started = true;
	}
	bool first = !b->dying;
	b->dying = true;
	if (b->side_busy && *b->taking) /* nobody waits for the copy any more */
		(void)child_kill_group(&b->child, SIGKILL);
	switch (b->phase) {
	case OCI_FRESH:
	case OCI_RUNNING:
	case OCI_ENDED:
		if (first)
			begin_teardown(b);
		break;
	case OCI_KILLING:
		kill_container(b);
		break;
	case OCI_STARTING:
	case OCI_DELETING:
		if (force)
			(void)child_kill_group(&b->child, SIGKILL);
		break;
	case OCI_PREPARING:
	case OCI_REMOVING:
		break;
	}
}

/* ---- the log ------------------------------------------------------------------------------------ */

static int oci_log(struct runtime *rt, const char *id, struct buf *out, bool *ret_cut)
{
	char path[PATH_MAX];
	struct stat st;

	if (snprintf(path, sizeof(path), "%s/sandboxes/%s/container.log", oci_of(rt)->config->state_dir,
		     id) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	off_t at = MAX(st.st_size - LOG_SHOWN_MAX, (off_t)0);
	*ret_cut = at > 0;
	int r = buf_reserve(out, LOG_SHOWN_MAX);
	if (r < 0)
		return r;
	ssize_t n = pread(fd, buf_tail(out), LOG_SHOWN_MAX, at);
	if (n < 0)
		return -errno;
	out->len += (size_t)n;
	return 0;
}

/* ---- leftovers -------------------------------------------------------------------------------- */

/* A sandbox's directory is the first thing that is made and the last that goes. */
static int oci_leftovers(struct runtime *rt, void (*fn)(const char *id, void *arg), void *arg_)
{
	char path[PATH_MAX];

	(void)snprintf(path, sizeof(path), "%s/sandboxes", oci_of(rt)->config->state_dir);
	DIR *d = opendir(path);
	if (!d)
		return errno == ENOENT ? 0 : -errno;
	struct dirent *e;
	while ((e = readdir(d)))
		if (e->d_name[0] != '.' && strlen(e->d_name) < RUNTIME_ID_MAX)
			fn(e->d_name, arg_);
	(void)closedir(d);
	return 0;
}

/* ---- probe ------------------------------------------------------------------------------------- */

static int find_runtime(struct oci *oci, struct err *err)
{
	const char *name = oci->config->runtime;
	const char *path = oci->envp[0] + strlen("PATH=");

	if (strchr(name, '/')) {
		if (snprintf(oci->runtime_path, sizeof(oci->runtime_path), "%s", name) < PATH_MAX &&
		    access(name, X_OK) == 0)
			return 0;
		path = "";
	}
	while (*path) {
		size_t n = strcspn(path, ":");
		if (snprintf(oci->runtime_path, sizeof(oci->runtime_path), "%.*s/%s", (int)n, path, name) <
			    PATH_MAX &&
		    access(oci->runtime_path, X_OK) == 0)
			return 0;
		path += n + (path[n] == ':');
	}
	return err_set(
		err, ERR_UNAVAILABLE, "SANDBOX::UNAVAILABLE", ENOENT,
		"the OCI runtime '%s' is not there: `apt-get install crun` brings crun; --runtime names "
		"another",
		name);
}

/* One of the kernels that lie beside the agent; theirs are the languages that it does not carry itself. */
static int copy_kernel(const struct oci *oci, int from, const char *name)
{
	char path[PATH_MAX];
	_cleanup_buf_ struct buf b = BUF_INIT(256u << 20);
	int r = fs_read_file(from, name, &b);
	(void)snprintf(path, sizeof(path), "%s/roots/%s/agent/kernels", oci->config->state_dir,
		       oci->root_name);
	if (r >= 0)
		r = fs_mkdir_p(path, 0755);
	if (r < 0)
		return r;
	(void)snprintf(path, sizeof(path), "%s/roots/%s/agent/kernels/%s", oci->config->state_dir,
		       oci->root_name, name);
	r = fs_write_file(AT_FDCWD, path, b.data, b.len, 0755);
	return r == 0 && chmod(path, 0755) < 0 ? -errno : r;
}

/* The programs in the folder kernels/ beside the agent, where there is one. */
static int copy_kernels(const struct oci *oci, struct err *err)
{
	char path[PATH_MAX];
	const char *slash = strrchr(oci->config->execd, '/');
	int n = slash ? (int)(slash - oci->config->execd) : 1;
	struct dirent *e;
	int r = 0;

	(void)snprintf(path, sizeof(path), "%.*s/kernels", n, slash ? oci->config->execd : ".");
	DIR *dir = opendir(path);
	while (dir && r == 0 && (e = readdir(dir))) {
		struct stat st;
		if (fstatat(dirfd(dir), e->d_name, &st, 0) == 0 && S_ISREG(st.st_mode) &&
		    (st.st_mode & S_IXUSR))
			r = copy_kernel(oci, dirfd(dir), e->d_name);
	}
	if (dir)
		(void)closedir(dir);
	return r < 0 ? err_sys(err, "SANDBOX::UNAVAILABLE", -r, "copy the kernels of '%s'", path) : 0;
}

static int copy_execd(const struct oci *oci, struct err *err)
{
	char path[PATH_MAX];
	_cleanup_buf_ struct buf b = BUF_INIT(256u << 20);

	int r = fs_read_file(AT_FDCWD, oci->config->execd, &b);
	if (r < 0)
		return err_sys(err, "SANDBOX::UNAVAILABLE", -r, "read the agent '%s' (--execd names another)",
			       oci->config->execd);
	(void)snprintf(path, sizeof(path), "%s/roots/%s/agent/execd", oci->config->state_dir, oci->root_name);
	r = fs_write_file(AT_FDCWD, path, b.data, b.len, 0755);
	if (r == 0 && chmod(path, 0755) < 0)
		r = -errno;
	return r < 0 ? err_sys(err, "SANDBOX::UNAVAILABLE", -r, "write '%s'", path) : 0;
}

/* A sandbox's directory links to the root it stands on. */
static bool root_in_use(const struct oci *oci, const char *name)
{
	char path[PATH_MAX], link[PATH_MAX + 300], target[64];
	bool found = false;
	struct dirent *e;

	(void)snprintf(path, sizeof(path), "%s/sandboxes", oci->config->state_dir);
	DIR *d = opendir(path);
	while (d && !found && (e = readdir(d))) {
		(void)snprintf(link, sizeof(link), "%s/%s/root", path, e->d_name);
		ssize_t n = readlink(link, target, sizeof(target) - 1);
		target[MAX(n, (ssize_t)0)] = '\0';
		found = n > 0 && strcmp(target, name) == 0;
	}
	if (d)
		(void)closedir(d);
	return found;
}

/* Roots of earlier starts on which no sandbox stands any more. */
static void remove_old_roots(const struct oci *oci)
{
	char path[PATH_MAX], old[PATH_MAX + 300];
	struct dirent *e;

	(void)snprintf(path, sizeof(path), "%s/roots", oci->config->state_dir);
	DIR *d = opendir(path);
	while (d && (e = readdir(d)))
		if (e->d_name[0] != '.' && !root_in_use(oci, e->d_name)) {
			(void)snprintf(old, sizeof(old), "%s/%s", path, e->d_name);
			(void)fs_remove_tree(AT_FDCWD, old);
		}
	if (d)
		(void)closedir(d);
}

static int make_state_dirs(const struct oci *oci, struct err *err)
{
	static const char *const dirs[] = {"", "/runtime", "/roots", "/sandboxes", "/snapshots"};
	char path[PATH_MAX];

	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		(void)snprintf(path, sizeof(path), "%s%s", oci->config->state_dir, dirs[i]);
		int r = fs_mkdir_p(path, 0700);
		if (r < 0)
			return err_sys(err, "SANDBOX::UNAVAILABLE", -r, "make '%s'", path);
	}
	return 0;
}

/* Runs oci-enter --check in a scratch directory and brings back what it says. Blocks: nothing is served yet.
 */
static int check_kernel(const struct oci *oci, struct err *err)
{
	static const char *const dirs[] = {"", "/lower", "/upper.0", "/work.0", "/rootfs"};
	char dir[PATH_MAX], path[PATH_MAX + 16], text[ERR_MESSAGE_MAX] = "";
	_cleanup_close_ int pidfd = -EBADF;
	int ends[2];
	pid_t pid;
	siginfo_t info = {0};

	(void)snprintf(dir, sizeof(dir), "%s/roots/%s/check", oci->config->state_dir, oci->root_name);
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		(void)snprintf(path, sizeof(path), "%s%s", dir, dirs[i]);
		if (mkdir(path, 0700) < 0)
			return err_sys(err, "SANDBOX::UNAVAILABLE", errno, "make '%s'", path);
	}
	int r = fs_pipe(ends, 0, 0);
	if (r < 0)
		return err_sys(err, "SANDBOX::UNAVAILABLE", -r, "make a pipe");
	char *const argv[] = {(char *)OCI_ENTER, dir, (char *)"--check", NULL};
	struct spawn spec = {
		.path = "/proc/self/exe", .argv = argv, .envp = oci->envp, .fds = {{ends[1], 2}}, .fds_n = 1};
	r = spawn(&spec, &pid, &pidfd, err);
	fd_close(&ends[1]);
	if (r == 0) {
		ssize_t n, len = 0;
		while ((n = read(ends[0], text + len, sizeof(text) - 1 - (size_t)len)) > 0)
			len += n;
		while (len > 0 && text[len - 1] == '\n')
			text[--len] = '\0';
		while (waitid(P_PID, (id_t)pid, &info, WEXITED) < 0 && errno == EINTR)
			;
		if (info.si_code != CLD_EXITED || info.si_status != 0)
			r = err_set(err, ERR_UNAVAILABLE, "SANDBOX::UNAVAILABLE", ENOTSUP, "%s", text);
	}
	fd_close(&ends[0]);
	(void)fs_remove_tree(AT_FDCWD, dir);
	return r;
}

static int oci_probe(struct runtime *rt, struct err *err)
{
	struct oci *oci = oci_of(rt);

	if (geteuid() != 0)
		return err_set(err, ERR_UNAVAILABLE, "SANDBOX::UNAVAILABLE", EPERM,
			       "the oci runtime needs root (namespaces, overlayfs): start sandboxd as root");
	cgroups_probe(&oci->cgroups); /* also where nothing can be made: what runs may still be ended */
	int r = find_runtime(oci, err);
	if (r == 0)
		r = make_state_dirs(oci, err);
	if (r < 0)
		return r;
	remove_old_roots(oci);
	r = rootfs_build_host(oci->config->state_dir, oci->root_name, &oci->host, err);
	if (r == 0)
		r = copy_execd(oci, err);
	if (r == 0)
		r = copy_kernels(oci, err);
	return r == 0 ? check_kernel(oci, err) : r;
}

/* ---- the driver ----------------------------------------------------------------------------------- */

static void oci_free(struct runtime *rt)
{
	struct oci *oci = oci_of(rt);

	list_foreach_safe (l, &oci->boxes)
		box_free(list_entry(l, struct oci_box, link));
	cgroups_done(&oci->cgroups);
	free(oci->envp[0]);
	free(oci);
}

static const struct runtime_ops ops = {
	.name = "oci",
	.probe = oci_probe,
	.create = oci_create,
	.adopt = oci_adopt,
	.freeze = oci_freeze,
	.snapshot = oci_snapshot,
	.snapshot_delete = oci_snapshot_delete,
	.destroy = oci_destroy,
	.log = oci_log,
	.leftovers = oci_leftovers,
	.free = oci_free,
};

int oci_new(const struct runtime_env *env, const struct config *config, struct runtime **ret)
{
	struct oci *oci = calloc(1, sizeof(*oci));
	const char *path = getenv("PATH");
	char name[17];

	if (!oci ||
	    asprintf(&oci->envp[0], "PATH=%s",
		     path && *path ? path : "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin") <
		    0) {
		free(oci);
		return -ENOMEM;
	}
	oci->rt.ops = &ops;
	oci->env = *env;
	oci->config = config;
	list_init(&oci->boxes);
	(void)snprintf(oci->root_name, sizeof(oci->root_name), "host-%s", random_hex(name, 16));
	*ret = &oci->rt;
	return 0;
}
