/*
 * driver.h - a driver of sandboxd without containers: it does what it is told in the next turn of the loop.
 * Of one whose handle begins with FAKE_LIVES there is something to adopt.
 */
#pragma once

#include "sandboxd/runtime.h"
#include "tests/fuzz/fuzz.h"

#define BOXES_MAX  64
#define FAKE_LIVES 'a'

static struct fake {
	struct runtime rt;
	struct runtime_box *boxes[BOXES_MAX];
	size_t n;
	struct {
		struct runtime_box *box;
		enum { STARTED, FROZEN, THAWED, SNAPSHOTTED, DESTROYED } what;
		char snapshot[RUNTIME_ID_MAX];
	} due[256];
	size_t due_n;
	struct loop_defer later;
	uint16_t port;
	char last_id[RUNTIME_ID_MAX];
	void (*tell)(const struct runtime_finder *finder); /* what is left; NULL: nothing */
	struct loop *loop;
} fake;

static void happen(struct loop_defer *d)
{
	size_t n = fake.due_n;

	(void)d;
	for (size_t i = 0; i < n; i++) {
		struct runtime_box *box = fake.due[i].box;

		for (size_t k = 0; fake.due[i].what == DESTROYED && k < fake.n; k++)
			if (fake.boxes[k] == box)
				fake.boxes[k] = fake.boxes[--fake.n];
		switch (fake.due[i].what) {
		case STARTED:
			box->port = fake.port;
			box->events->started(box, "handle", "");
			break;
		case FROZEN:
		case THAWED:
			box->events->frozen(box, fake.due[i].what == FROZEN, NULL);
			break;
		case SNAPSHOTTED:
			box->events->snapshotted(box, fake.due[i].snapshot, NULL);
			break;
		case DESTROYED:
			for (size_t k = i + 1; k < fake.due_n; k++)
				must(fake.due[k].box != box);
			box->events->destroyed(box);
			break;
		}
	}
	fake.due_n -= n;
	memmove(fake.due, fake.due + n, fake.due_n * sizeof(fake.due[0]));
	if (fake.due_n > 0)
		loop_defer(fake.loop, &fake.later, happen);
}

static int soon(struct runtime_box *box, int what, const char *snapshot)
{
	must(fake.due_n < ARRAY_SIZE(fake.due));
	/* Of what is destroyed no other event comes. */
	for (size_t i = 0; what == DESTROYED && i < fake.due_n;) {
		if (fake.due[i].box == box && fake.due[i].what == DESTROYED)
			return 0;
		if (fake.due[i].box == box)
			fake.due[i] = fake.due[--fake.due_n];
		else
			i++;
	}
	fake.due[fake.due_n].box = box;
	fake.due[fake.due_n].what = what;
	(void)snprintf(fake.due[fake.due_n++].snapshot, RUNTIME_ID_MAX, "%s", snapshot ? snapshot : "");
	loop_defer(fake.loop, &fake.later, happen);
	return 0;
}

static int fake_create(struct runtime *rt, struct runtime_box *box, const struct runtime_spec *spec,
		       struct err *err)
{
	(void)rt;
	must(json_array_size(spec->entrypoint) > 0 && spec->image.uri && *spec->image.uri);
	if (fake.n == BOXES_MAX)
		return err_set(err, ERR_LIMIT, "X", ENOSPC, "enough");
	fake.boxes[fake.n++] = box;
	(void)snprintf(fake.last_id, sizeof(fake.last_id), "%s", box->id);
	return soon(box, STARTED, NULL);
}

static int fake_adopt(struct runtime *rt, struct runtime_box *box, const char *handle)
{
	(void)rt;
	if (handle[0] != FAKE_LIVES || fake.n == BOXES_MAX)
		return -ESRCH;
	fake.boxes[fake.n++] = box;
	return 0;
}

static int fake_freeze(struct runtime *rt, struct runtime_box *box, bool on, struct err *err)
{
	(void)rt, (void)err;
	return soon(box, on ? FROZEN : THAWED, NULL);
}

static int fake_snapshot(struct runtime *rt, struct runtime_box *box, const char *snapshot, struct err *err)
{
	(void)rt, (void)err;
	return soon(box, SNAPSHOTTED, snapshot);
}

static int fake_snapshot_delete(struct runtime *rt, const char *snapshot,
				void (*done)(void *arg, const char *snapshot), void *arg)
{
	(void)rt, (void)snapshot, (void)done, (void)arg;
	return -EBUSY;
}

static void fake_destroy(struct runtime *rt, struct runtime_box *box, bool force)
{
	(void)rt, (void)force;
	(void)soon(box, DESTROYED, NULL);
}

static int fake_log(struct runtime *rt, const char *id, runtime_log_fn *fn, void *arg)
{
	struct buf text = BUF_INIT(64);

	(void)rt, (void)id;
	(void)buf_puts(&text, "said\xff\n");
	fn(arg, &text, false, 0);
	buf_done(&text);
	return 0;
}

static int fake_leftovers(struct runtime *rt, const struct runtime_finder *finder)
{
	(void)rt;
	if (fake.tell)
		fake.tell(finder);
	return 0;
}

static const struct runtime_ops fake_ops = {
	.name = "fake",
	.create = fake_create,
	.adopt = fake_adopt,
	.freeze = fake_freeze,
	.snapshot = fake_snapshot,
	.snapshot_delete = fake_snapshot_delete,
	.destroy = fake_destroy,
	.log = fake_log,
	.leftovers = fake_leftovers,
};
