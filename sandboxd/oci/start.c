/*
 * start.c - starts a container: PREPARING -> STARTING -> RUNNING, and its end. Loop thread, except
 * run_prepare().
 *
 * The container's first process is reparented to us (we are a subreaper), so
 * the one reaper tells its exit status.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "lib/clock.h"
#include "lib/fs.h"
#include "sandboxd/oci/bundle.h"
#include "sandboxd/oci/enter.h"
#include "sandboxd/oci/handle.h"
#include "sandboxd/oci/named.h"
#include "sandboxd/oci/program.h"

#define OVERLAY_ARG_MAX 4096

static int make_dirs(int dir, const struct oci_box *b, struct err *err)
{
	const struct rootfs *fs = &b->base->fs;
	char name[32];

	if (*b->snapshot && symlinkat(b->snapshot, dir, "snapshot") < 0)
		return err_sys(err, OCI_START_CODE, errno, "link the snapshot");
	int r = base_write_link(b->base, dir);
	if (r < 0)
		return err_sys(err, OCI_START_CODE, -r, "link the image");
	if (symlinkat(b->oci->root_name, dir, "root") < 0 || mkdirat(dir, "rootfs", 0755) < 0)
		return err_sys(err, OCI_START_CODE, errno, "make the root");
	for (size_t i = 0; i < fs->overlays_n; i++) {
		if (fs->overlays[i].readonly)
			continue;
		(void)snprintf(name, sizeof(name), "upper.%zu", i);
		if (mkdirat(dir, name, 0755) < 0)
			return err_sys(err, OCI_START_CODE, errno, "make layer '%s'", name);
		(void)snprintf(name, sizeof(name), "work.%zu", i);
		if (mkdirat(dir, name, 0700) < 0)
			return err_sys(err, OCI_START_CODE, errno, "make layer '%s'", name);
	}
	return 0;
}

static int prepare(struct oci_box *b)
{
	if (mkdir(b->dir, 0700) < 0)
		return err_sys(&b->err, OCI_START_CODE, errno, "make '%s'", b->dir);
	_cleanup_close_ int dir = open(b->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return err_sys(&b->err, OCI_START_CODE, errno, "open '%s'", b->dir);
	int r = make_dirs(dir, b, &b->err);
	if (r < 0)
		return r;
	const char *mode = network_mode_name(b->oci->network.mode);
	r = fs_write_file(dir, "network", mode, strlen(mode), 0600);
	if (r < 0)
		return err_sys(&b->err, OCI_START_CODE, -r, "note the network");
	r = named_note(dir, b->volumes);
	if (r < 0)
		return err_sys(&b->err, OCI_START_CODE, -r, "note the volumes");
	r = fs_write_file(dir, "config.json", b->config_json, strlen(b->config_json), 0600);
	if (r < 0)
		return err_sys(&b->err, OCI_START_CODE, -r, "write config.json");
	return cgroups_create(&b->oci->cgroups, b->box->id, &b->limits, b->notes, &b->err);
}

/* Worker thread: the box is not touched by the loop meanwhile, and the rest is constant. */
static void run_prepare(struct pool_job *job)
{
	struct oci_box *b = container_of(job, struct oci_box, job);
	b->result = prepare(b);
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

void box_ended(struct oci_box *b, bool known, int wstatus)
{
	struct runtime_exit e = {.known = known, .wstatus = wstatus};
	bool killing = b->phase == OCI_KILLING;

	b->pid = 0;
	b->phase = OCI_ENDED;
	if (killing || b->dying) {
		box_teardown(b);
		return;
	}
	output_tail(b, e.detail, sizeof(e.detail));
	/* The agent tells by its exit code how the entrypoint ended: as a shell does. */
	bool killed = known && ((WIFSIGNALED(wstatus) && WTERMSIG(wstatus) == SIGKILL) ||
				(WIFEXITED(wstatus) && WEXITSTATUS(wstatus) == 128 + SIGKILL));
	e.oom = killed && cgroups_oom(&b->oci->cgroups, b->box->id);
	b->box->events->exited(b->box, &e);
}

static void on_init_exit(struct child *c, int wstatus, const struct rusage *usage)
{
	(void)usage;
	box_ended(container_of(c, struct oci_box, init), true, wstatus);
}

static void on_running(struct oci_box *b)
{
	char handle[RUNTIME_HANDLE_MAX];

	b->pid = read_pid(b);
	if (b->pid > 0)
		handle_write(b->pid, handle); /* while it is there, whatever becomes of it */
	if (b->pid <= 0 || child_adopt(b->oci->env.reaper, &b->init, b->pid, on_init_exit) < 0) {
		int wstatus = 0; /* gone already */
		bool known = child_ended(b->oci->env.reaper, b->pid, &wstatus) == 0;
		box_ended(b, known, wstatus);
		return;
	}
	b->phase = OCI_RUNNING;
	logs_watch(&b->oci->logs, b);
	if (b->dying) {
		box_teardown(b);
		return;
	}
	b->box->events->started(b->box, handle, b->notes);
}

void box_start_failed(struct oci_box *b)
{
	b->phase = OCI_ENDED;
	if (b->dying)
		box_teardown(b);
	else
		b->box->events->failed(b->box, &b->err);
}

static void on_run_exit(struct child *c, int wstatus, const struct rusage *usage)
{
	struct oci_box *b = container_of(c, struct oci_box, child);
	char why[256];

	(void)usage;
	box_close_inherited(b); /* the container has its own by now */
	if (WIFEXITED(wstatus) && WEXITSTATUS(wstatus) == 0) {
		on_running(b);
		return;
	}
	output_tail(b, why, sizeof(why));
	if (WIFSIGNALED(wstatus))
		(void)err_set(&b->err, ERR_INTERNAL, OCI_START_CODE, EIO, "%s was killed by signal %d",
			      b->oci->config->runtime, WTERMSIG(wstatus));
	else
		(void)err_set(&b->err, ERR_INTERNAL, OCI_START_CODE, EIO,
			      "%s did not start the container: %s", b->oci->config->runtime,
			      *why ? why : "it does not say why");
	box_start_failed(b);
}

/* The snapshot's layers, the newest first, above what the image gives. n: which upper layer. */
static void put_layers(const struct oci_box *b, unsigned n, struct buf *out)
{
	for (size_t i = 0; i < b->layers.n; i++)
		(void)buf_printf(out, "../../snapshots/%s/%s/upper.%u:", b->snapshot, b->layers.ids[i], n);
}

/* A volume is handed over as the path of our descriptor: there may be more than a start can inherit. */
static int put_volumes(const struct oci_box *b, struct program_args *a, char *texts[VOLUMES_MAX])
{
	for (size_t i = 0; b->volumes && i < b->volumes->n; i++) {
		const struct volume *v = &b->volumes->list[i];
		if (asprintf(&texts[i], "/proc/%d/fd/%d=%s", getpid(), v->fd, v->target) < 0) {
			texts[i] = NULL;
			return -ENOMEM;
		}
		program_arg(a, v->readonly ? "--volume-ro" : "--volume");
		program_arg(a, texts[i]);
	}
	return 0;
}

static int start(struct oci_box *b)
{
	const struct oci *oci = b->oci;
	const struct rootfs *fs = &b->base->fs;
	char records[PATH_MAX], pid_file[PATH_MAX + 8], base[48];
	struct buf overlays[ROOTFS_OVERLAYS_MAX] = {0};
	char joins[CGROUP_CONTROLLERS][CGROUP_PATH_MAX];
	char *volumes[VOLUMES_MAX] = {0}, disk[24];
	struct program_args a = {0};
	unsigned upper = 0;

	(void)snprintf(records, sizeof(records), "%s/runtime", oci->config->state_dir);
	(void)snprintf(pid_file, sizeof(pid_file), "%s/pid", b->dir);
	program_arg(&a, OCI_ENTER);
	program_arg(&a, b->dir);
	if (b->base->fd >= 0) {
		(void)snprintf(base, sizeof(base), "/proc/%d/fd/%d", getpid(), b->base->fd);
		program_arg(&a, "--base");
		program_arg(&a, base);
	}
	if (b->limits.disk_bytes) {
		(void)snprintf(disk, sizeof(disk), "%" PRIu64, b->limits.disk_bytes);
		program_arg(&a, "--disk");
		program_arg(&a, disk);
	}
	for (size_t i = 0; i < fs->overlays_n; i++) {
		const struct rootfs_overlay *o = &fs->overlays[i];
		overlays[i] = BUF_INIT(OVERLAY_ARG_MAX);
		(void)buf_printf(&overlays[i], "%s=", o->target);
		if (!o->readonly)
			put_layers(b, upper++, &overlays[i]);
		(void)buf_puts(&overlays[i], o->lower);
		program_arg(&a, o->readonly ? "--layers" : "--overlay");
		program_arg(&a, buf_cstr(&overlays[i]) ? (const char *)overlays[i].data : "");
	}
	size_t n = cgroups_join_files(&oci->cgroups, b->box->id, joins);
	for (size_t i = 0; i < n; i++) {
		program_arg(&a, "--join");
		program_arg(&a, joins[i]);
	}
	int r = put_volumes(b, &a, volumes);
	if (oci->network.mode == NETWORK_BRIDGE) {
		program_arg(&a, "--bridge");
		program_arg(&a, oci->network.file);
	} else if (oci->network.mode == NETWORK_HOST) {
		program_arg(&a, "--share");
		program_arg(&a, "network");
	}
	program_runtime(oci, &a, records);
	program_arg(&a, "run");
	program_arg(&a, "--detach");
	program_arg(&a, "--preserve-fds");
	program_arg(&a, b->token_fd < 0 ? "1" : "2");
	program_arg(&a, "--pid-file");
	program_arg(&a, pid_file);
	program_arg(&a, "--bundle");
	program_arg(&a, b->dir);
	program_arg(&a, b->box->id);
	b->phase = OCI_STARTING;
	b->started = true;
	r = r < 0 ? err_sys(&b->err, OCI_START_CODE, -r, "start")
		  : program_start(b, &a, true, on_run_exit, &b->err);
	for (size_t i = 0; i < VOLUMES_MAX; i++)
		free(volumes[i]);
	for (size_t i = 0; i < fs->overlays_n; i++)
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
		box_teardown(b);
		return;
	}
	if (b->result == 0)
		b->result = start(b);
	if (b->result < 0) {
		box_close_inherited(b);
		box_start_failed(b);
	}
}

void box_prepare(struct oci_box *b)
{
	box_submit(b, OCI_PREPARING, run_prepare, on_prepared);
}
