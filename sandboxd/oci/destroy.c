/*
 * destroy.c - ends a container and removes what is left of it. Loop thread,
 * except run_remove().
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "lib/fs.h"
#include "lib/log.h"
#include "sandboxd/oci/enter.h"
#include "sandboxd/oci/named.h"
#include "sandboxd/oci/program.h"

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
	named_release(b);
	box_free(b);
	box->events->destroyed(box);
}

static void begin_remove(struct oci_box *b)
{
	box_submit(b, OCI_REMOVING, run_remove, on_removed);
}

static void on_delete_exit(struct child *c, int wstatus, const struct rusage *usage)
{
	struct oci_box *b = container_of(c, struct oci_box, child);
	char why[256];

	(void)usage;
	/* No record of it is what we want; anything else is worth a line. */
	if (wstatus != 0) {
		output_tail(b, why, sizeof(why));
		log_debug("sandbox %s: %s delete: %s", b->box->id, b->oci->config->runtime, why);
	}
	begin_remove(b);
}

static void begin_delete(struct oci_box *b)
{
	char records[PATH_MAX];
	struct program_args a = {0};
	struct err err;

	(void)snprintf(records, sizeof(records), "%s/runtime", b->oci->config->state_dir);
	program_arg(&a, OCI_ENTER);
	/* Not by the mode: it may be another one by now. */
	if (network_pending(b->dir)) {
		program_arg(&a, b->dir);
		program_arg(&a, "--unbridge");
		program_arg(&a, b->oci->network.file);
	} else {
		program_arg(&a, "/");
	}
	program_runtime(b->oci, &a, records);
	program_arg(&a, "delete");
	program_arg(&a, "--force");
	program_arg(&a, b->box->id);
	b->phase = OCI_DELETING;
	if (program_start(b, &a, false, on_delete_exit, &err) == 0)
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

void box_teardown(struct oci_box *b)
{
	box_close_inherited(b);
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

void oci_destroy(struct runtime *rt, struct runtime_box *box, bool force)
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
			box_teardown(b);
		break;
	case OCI_KILLING:
		kill_container(b);
		break;
	case OCI_STARTING:
	case OCI_DELETING:
		if (force)
			(void)child_kill_group(&b->child, SIGKILL);
		break;
	case OCI_FETCHING:
		fetch_cancel(&b->fetch);
		b->phase = OCI_ENDED;
		box_teardown(b);
		break;
	case OCI_PREPARING:
	case OCI_REMOVING:
		break;
	}
}
