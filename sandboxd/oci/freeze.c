/*
 * freeze.c - pauses a container, and the jobs beside RUNNING in general. Loop
 * thread, except run_freeze().
 */
#include "sandboxd/oci/box.h"

/* Worker thread. */
static void run_freeze(struct pool_job *job)
{
	struct oci_box *b = container_of(job, struct oci_box, side);
	b->result = cgroups_freeze(&b->oci->cgroups, b->box->id, b->freeze_on);
}

bool side_done(struct oci_box *b)
{
	if (pool_stopping(b->oci->env.pool))
		return false;
	b->side_busy = false;
	if (b->teardown_waits)
		box_teardown(b);
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

int side_begin(struct oci_box *b, void (*run)(struct pool_job *), void (*done)(struct pool_job *),
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

int oci_freeze(struct runtime *rt, struct runtime_box *box, bool on, struct err *err)
{
	struct oci_box *b = box->priv;

	if (!oci_of(rt)->cgroups.usable[CGROUP_FREEZER])
		return err_set(err, ERR_NOT_SUPPORTED, "SANDBOX::API_NOT_SUPPORTED", ENOTSUP,
			       "this machine has no freezer control group, by which sandboxes are paused");
	if (b && !b->side_busy)
		b->freeze_on = on;
	return side_begin(b, run_freeze, on_frozen, err);
}
