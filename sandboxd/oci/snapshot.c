/*
 * snapshot.c - takes and removes snapshots: freeze (job), copy (children), thaw
 * and sync (job), all beside RUNNING. Loop thread, except what says so.
 */
#include <signal.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "lib/fs.h"
#include "lib/log.h"
#include "sandboxd/oci/disk.h"
#include "sandboxd/oci/enter.h"
#include "sandboxd/oci/program.h"

void box_read_snapshot(struct oci_box *b)
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
	layers_path(b->oci->config->state_dir, b->taking, NULL, path);
	_cleanup_close_ int dir = b->result < 0 ? -EBADF : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (b->result == 0)
		b->result = dir < 0 ? -errno : base_write_link(b->base, dir);
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
	output_tail(b, why, sizeof(why));
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
	struct program_args a = {0};
	struct err err;

	program_arg(&a, OCI_ENTER);
	program_arg(&a, b->dir);
	program_arg(&a, "--");
	program_arg(&a, "cp");
	program_arg(&a, "-al");
	for (size_t i = 0; i < b->layers.n; i++) {
		layers_path(b->oci->config->state_dir, b->snapshot, b->layers.ids[i], from[i]);
		program_arg(&a, from[i]);
	}
	layers_path(b->oci->config->state_dir, b->taking, NULL, to);
	program_arg(&a, to);
	int r = program_start(b, &a, false, on_older_copied, &err);
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
	char names[ROOTFS_OVERLAYS_MAX][24], to[PATH_MAX], loop[PATH_MAX + 16];
	struct program_args a = {0};
	struct err err;
	unsigned upper = 0;

	if (pool_stopping(b->oci->env.pool))
		return;
	layers_path(b->oci->config->state_dir, b->taking, NULL, to);
	bases_hold(&b->oci->bases, to);
	if (b->result < 0) {
		snap_end(b, b->result);
		return;
	}
	(void)snprintf(loop, sizeof(loop), "%s/" DISK_LOOP, b->dir);
	bool limited = access(loop, F_OK) == 0;
	program_arg(&a, OCI_ENTER);
	program_arg(&a, b->dir);
	if (limited) {
		program_arg(&a, "--disk-of");
		program_arg(&a, "sandbox");
	}
	program_arg(&a, "--");
	program_arg(&a, "cp");
	program_arg(&a, "-a");
	program_arg(&a, "--reflink=auto");
	for (size_t i = 0; i < b->base->fs.overlays_n; i++)
		if (!b->base->fs.overlays[i].readonly) {
			(void)snprintf(names[upper], sizeof(names[0]), "%supper.%zu",
				       limited ? DISK_DIR "/" : "", i);
			program_arg(&a, names[upper++]);
		}
	layers_path(b->oci->config->state_dir, b->taking, b->taking, to);
	program_arg(&a, to);
	int r = program_start(b, &a, false, on_copied, &err);
	if (r < 0)
		snap_end(b, r);
}

int oci_snapshot(struct runtime *rt, struct runtime_box *box, const char *snapshot, struct err *err)
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

int oci_snapshot_delete(struct runtime *rt, const char *snapshot,
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
	bases_let_go(&oci->bases, x->path);
	int r = pool_submit(oci->env.pool, &x->job);
	if (r < 0)
		free(x);
	return r;
}
