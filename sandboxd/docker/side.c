/*
 * side.c - what is done to a container that runs: pause, unpause, commit; and its snapshots.
 *
 * A snapshot is an image, SNAPSHOT_REPO:ID. The daemon keeps the layers that
 * others stand on until the last of them goes.
 */
#include <stdio.h>
#include <string.h>

#include "lib/log.h"
#include "sandboxd/docker/box.h"

static int busy(struct err *err)
{
	return err_set(err, ERR_CONFLICT, "SANDBOX::INVALID_STATE", EBUSY,
		       "the sandbox is busy with something else");
}

static bool idle(const struct docker_box *b)
{
	return b && b->phase == BOX_RUNNING && !b->side && !b->freezing && !*b->taking && !b->dying;
}

/* ---- freeze ------------------------------------------------------------------- */

static void tell_frozen(struct docker_box *b, const struct err *err)
{
	struct err told;

	b->freezing = false;
	if (err) {
		told = *err;
		told.code = b->freeze_on ? "DOCKER::SANDBOX_PAUSE_FAILED" : "DOCKER::SANDBOX_RESUME_FAILED";
	}
	b->box->events->frozen(b->box, b->freeze_on, err ? &told : NULL);
}

/* Whether it is so is not known: it is done once more when the daemon is back, which does no harm. */
static void freeze_later(struct docker_box *b, const struct err *why)
{
	b->freeze_waits = b->freeze_unsure = true;
	docker_link_doubt(b->d, why);
}

static void on_paused_state(void *arg, const struct engine_answer *a)
{
	struct docker_box *b = arg;

	b->side = NULL;
	if (!a->status) {
		freeze_later(b, a->err);
		return;
	}
	json_t *o = a->err ? NULL : json_loadb((const char *)a->body->data, a->body->len, 0, NULL);
	const json_t *paused = json_object_get(json_object_get(o, "State"), "Paused");
	bool so = paused && json_is_true(paused) == b->freeze_on;
	json_decref(o);
	tell_frozen(b, so ? NULL : &b->err);
}

/* What is so already is refused, by different words and statuses: asked whether it is so. */
static void on_freeze(void *arg, const struct engine_answer *a)
{
	struct docker_box *b = arg;
	struct err err;

	b->side = NULL;
	if (!a->err) {
		tell_frozen(b, NULL);
		return;
	}
	if (!a->status) {
		freeze_later(b, a->err);
		return;
	}
	b->err = *a->err;
	if (docker_box_call(b, &b->side, "look at the container", "GET", "/json", on_paused_state, &err) < 0)
		tell_frozen(b, &b->err);
}

void docker_box_freeze_now(struct docker_box *b)
{
	struct err err;

	if (!b->freeze_waits || (b->freeze_unsure && b->d->link != LINK_UP))
		return;
	b->freeze_waits = b->freeze_unsure = false;
	if (b->phase != BOX_RUNNING || b->dying)
		return;
	if (docker_link_check(b->d, &err) < 0 ||
	    docker_box_call(b, &b->side, b->freeze_on ? "pause the container" : "unpause the container",
			    "POST", b->freeze_on ? "/pause" : "/unpause", on_freeze, &err) < 0)
		tell_frozen(b, &err);
}

static void freeze_soon(struct loop_defer *soon)
{
	docker_box_freeze_now(container_of(soon, struct docker_box, soon));
}

int docker_freeze(struct runtime *rt, struct runtime_box *box, bool on, struct err *err)
{
	struct docker_box *b = box->priv;

	int r = docker_link_check(docker_of(rt), err);
	if (r < 0)
		return r;
	if (!idle(b))
		return busy(err);
	b->freezing = true;
	b->freeze_on = on;
	b->freeze_waits = true;
	if (b->d->link == LINK_UP)
		loop_defer(b->d->env.loop, &b->soon, freeze_soon);
	return 0;
}

/* ---- snapshots ------------------------------------------------------------------ */

static void on_committed(void *arg, const struct engine_answer *a)
{
	struct docker_box *b = arg;
	char taken[RUNTIME_ID_MAX];
	struct err err;

	b->side = NULL;
	memcpy(taken, b->taking, sizeof(taken));
	b->taking[0] = '\0';
	if (b->dying) {
		docker_box_remove(b);
		return;
	}
	if (a->err) {
		err = *a->err;
		err.code = "SNAPSHOT::CAPTURE_FAILED";
	}
	b->box->events->snapshotted(b->box, taken, a->err ? &err : NULL);
	if (b->ended)
		docker_box_ended(b);
}

/* The image takes the labels of the container; what a spare was claimed for is none of them. */
static char *claimed_config(const struct docker_box *b)
{
	_cleanup_free_ char *record = docker_record_read(b->d, b->box->id);
	json_t *o = record ? json_pack("{s:{s:s}}", "Labels", LABEL_RECORD, record) : NULL;
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;

	json_decref(o);
	return text;
}

int docker_snapshot(struct runtime *rt, struct runtime_box *box, const char *snapshot, struct err *err)
{
	struct docker_box *b = box->priv;
	char path[ENGINE_PATH_MAX];
	struct engine_request r = {
		.what = "take the snapshot",
		.method = "POST",
		.path = path,
		.endless = true, /* it takes what the amount of data takes */
		.done = on_committed,
		.arg = b,
	};

	int e = docker_link_check(docker_of(rt), err);
	if (e < 0)
		return e;
	if (!idle(b) || b->d->link != LINK_UP)
		return busy(err);
	(void)snprintf(path, sizeof(path), "/commit?container=%s&repo=%s&tag=%s&pause=1", b->name,
		       SNAPSHOT_REPO, snapshot);
	_cleanup_free_ char *body = claimed_config(b);
	r.body = body;
	r.body_n = body ? strlen(body) : 0;
	e = engine_call(b->d->engine, &r, &b->side, err);
	if (e == 0)
		(void)snprintf(b->taking, sizeof(b->taking), "%s", snapshot);
	return e;
}

struct removal {
	struct list link;
	struct docker *d;
	struct engine_call *call;
	char id[RUNTIME_ID_MAX];
	void (*done)(void *arg, const char *snapshot);
	void *arg;
};

static void removal_free(struct removal *x)
{
	engine_cancel(&x->call);
	list_del(&x->link);
	free(x);
}

static void on_removed(void *arg, const struct engine_answer *a)
{
	struct removal *x = arg;

	x->call = NULL;
	if (!a->status)
		return; /* when the daemon is back */
	if (!a->err || a->status == 404) {
		if (x->done)
			x->done(x->arg, x->id);
	} else if (a->status != 409) { /* else it is asked for again once a sandbox has gone */
		log_warn("snapshot %s: %s", x->id, a->err->message);
	}
	removal_free(x);
}

static void begin_removal(struct removal *x)
{
	char path[ENGINE_PATH_MAX];
	const struct engine_request r = {.what = "remove the snapshot",
					 .method = "DELETE",
					 .path = path,
					 .done = on_removed,
					 .arg = x};
	struct err err;

	(void)snprintf(path, sizeof(path), "/images/%s:%s", SNAPSHOT_REPO, x->id);
	if (x->d->link == LINK_UP && !x->call && engine_call(x->d->engine, &r, &x->call, &err) < 0)
		log_warn("snapshot %s: %s", x->id, err.message);
}

void docker_removals_begin(struct docker *d)
{
	list_foreach_safe (l, &d->removals)
		begin_removal(list_entry(l, struct removal, link));
}

void docker_removals_free(struct docker *d)
{
	list_foreach_safe (l, &d->removals)
		removal_free(list_entry(l, struct removal, link));
}

/* done: or NULL. */
static int snapshot_remove(struct docker *d, const char *snapshot,
			   void (*done)(void *arg, const char *snapshot), void *arg)
{
	list_foreach_safe (l, &d->removals)
		if (strcmp(list_entry(l, struct removal, link)->id, snapshot) == 0)
			return 0;
	struct removal *x = calloc(1, sizeof(*x));
	if (!x)
		return -ENOMEM;
	x->d = d;
	x->done = done;
	x->arg = arg;
	(void)snprintf(x->id, sizeof(x->id), "%s", snapshot);
	list_add_tail(&d->removals, &x->link);
	begin_removal(x);
	return 0;
}

int docker_snapshot_delete(struct runtime *rt, const char *snapshot,
			   void (*done)(void *arg, const char *snapshot), void *arg)
{
	struct docker *d = docker_of(rt);

	list_foreach_safe (l, &d->boxes) {
		const struct docker_box *b = list_entry(l, struct docker_box, link);
		if (strcmp(b->snapshot, snapshot) == 0 || strcmp(b->taking, snapshot) == 0)
			return -EBUSY;
	}
	return snapshot_remove(d, snapshot, done, arg);
}
