/*
 * claim.c - spares: containers whose execd waits at its standard input until it is told what it is for.
 *
 * The input is that of the attachment which also brings the output (start.c):
 * only we have it, the daemon closes it with our connection (StdinOnce), and no
 * code inside ever sees it. Limits come first, where they are not those that the
 * spare was started with: spares get those of the last claim, so most fit.
 *
 *   RUNNING -> (LIMITING) -> TELLING -> RUNNING, and started
 *
 * Where nothing has to be limited and the kernel takes what there is to tell, it
 * is told at once: whatever becomes of us, the daemon reads it. A spare that was
 * not told to its end ends.
 *
 * The record of a claimed one cannot be a label any more: record.c keeps it.
 */
#include <stdio.h>
#include <string.h>

#include "sandboxd/docker/box.h"

/* The daemon ends its input with our connection, and it goes on. */
static void be_claimed(struct docker_box *b)
{
	engine_cancel(&b->attach);
	docker_wipe(&b->claim);
	b->spare = false;
	b->phase = BOX_RUNNING;
}

static void on_told(void *arg)
{
	struct docker_box *b = arg;

	be_claimed(b);
	b->box->events->started(b->box, b->container, b->notes);
	if (b->ended)
		docker_box_ended(b);
}

/* 1: it has been. 0: it is on the way. */
static int tell(struct docker_box *b)
{
	b->phase = BOX_TELLING;
	return engine_send(b->attach, b->claim, strlen(b->claim), on_told);
}

static void on_limited(void *arg, const struct engine_answer *a)
{
	struct docker_box *b = arg;

	struct err err;

	b->call = NULL;
	if (a->err) {
		docker_box_failed(b, a->err);
		return;
	}
	int r = tell(b);
	if (r > 0) {
		on_told(b);
	} else if (r < 0) {
		(void)err_sys(&err, START_CODE, -r, "claim a spare");
		docker_box_failed(b, &err);
	}
}

static int limit(struct docker_box *b, const struct runtime_limits *limits, struct err *err)
{
	_cleanup_free_ char *body = spec_update(&b->limits, limits);
	char path[ENGINE_PATH_MAX];
	const struct engine_request r = {
		.what = "limit the container",
		.method = "POST",
		.path = path,
		.body = body,
		.body_n = body ? strlen(body) : 0,
		.done = on_limited,
		.arg = b,
	};

	if (!body)
		return err_set(err, ERR_INTERNAL, START_CODE, ENOMEM, "out of memory");
	b->phase = BOX_LIMITING;
	(void)snprintf(path, sizeof(path), "/containers/%s/update", b->name);
	return engine_call(b->d->engine, &r, &b->call, err);
}

int docker_claim(struct runtime *rt, struct runtime_box *box, const struct runtime_spec *spec,
		 const char *text, size_t n, const char **ret_notes, struct err *err)
{
	struct docker *d = docker_of(rt);
	struct docker_box *b = box->priv;
	const struct runtime_limits *limits = &spec->limits;

	if (b->phase != BOX_RUNNING || !b->attach)
		return err_set(err, ERR_INTERNAL, START_CODE, ESRCH, "the spare does not run");
	d->likely = *limits;
	b->claim = strndup(text, n);
	int r = b->claim ? docker_record_write(d, box->id, spec->record) : -ENOMEM;
	if (r < 0)
		return err_sys(err, START_CODE, -r, "claim a spare");
	if (b->limits.memory_bytes != limits->memory_bytes || b->limits.cpu_millis != limits->cpu_millis) {
		r = limit(b, limits, err);
		return r < 0 ? r : 1;
	}
	r = tell(b);
	if (r < 0)
		return err_sys(err, START_CODE, -r, "claim a spare");
	if (r == 0)
		return 1;
	be_claimed(b);
	*ret_notes = b->notes;
	return 0;
}
