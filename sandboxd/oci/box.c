/*
 * box.c - makes and frees boxes, and runs their jobs. Loop thread.
 */
#include "sandboxd/oci/box.h"

#include <stdio.h>

#include "sandboxd/oci/named.h"

void box_close_inherited(struct oci_box *b)
{
	fd_close(&b->listen_fd);
	fd_close(&b->token_fd);
	for (size_t i = 0; b->volumes && i < b->volumes->n; i++)
		fd_close(&b->volumes->list[i].fd);
}

struct oci_box *box_new(struct oci *oci, struct runtime_box *box)
{
	char name[BASE_NAME_MAX];
	struct oci_box *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	b->oci = oci;
	b->box = box;
	b->log_watch = -1;
	b->pidfd = b->listen_fd = b->token_fd = b->claim_fd = b->child.pidfd = b->init.pidfd = b->pid_io.fd =
		-EBADF;
	(void)snprintf(b->dir, sizeof(b->dir), "%s/sandboxes/%s", oci->config->state_dir, box->id);
	box_read_snapshot(b);
	base_read_link(b->dir, name);
	b->base = base_named(&oci->bases, name);
	if (!b->base) {
		free(b);
		return NULL;
	}
	named_read(b);
	list_add_tail(&oci->boxes, &b->link);
	box->priv = b;
	return b;
}

void box_free(struct oci_box *b)
{
	fetch_cancel(&b->fetch);
	logs_unwatch(&b->oci->logs, b);
	child_forget(&b->child);
	child_forget(&b->init);
	loop_io_del(&b->pid_io);
	loop_defer_cancel(&b->inline_job);
	fd_close(&b->pidfd);
	fd_close(&b->claim_fd);
	box_close_inherited(b);
	list_del(&b->link);
	base_unref(&b->oci->bases, b->base);
	json_decref(b->entrypoint);
	json_decref(b->env);
	free(b->config_json);
	if (b->volumes)
		volumes_done(b->volumes);
	free(b->volumes);
	free(b);
}

static void run_inline(struct loop_defer *d)
{
	struct oci_box *b = container_of(d, struct oci_box, inline_job);
	b->job.run(&b->job);
	b->job.done(&b->job);
}

void box_submit(struct oci_box *b, enum oci_phase phase, void (*run)(struct pool_job *),
		void (*done)(struct pool_job *))
{
	b->phase = phase;
	b->job = (struct pool_job){.run = run, .done = done};
	if (pool_submit(b->oci->env.pool, &b->job) < 0)
		loop_defer(b->oci->env.loop, &b->inline_job, run_inline);
}
