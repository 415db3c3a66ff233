/*
 * probe.c - one room after the other, each with one thing that may be impossible.
 *
 * Owns the one result of the agent. What a kernel, a container and whatever
 * watches over it allow does not change while the agent lives, so it is looked
 * at once, when somebody asks first.
 */
#include "execd/isolated/probe.h"

#include <stdio.h>
#include <string.h>

#include "execd/isolated/isolated.h"

struct waiter {
	struct list link;
	probe_done_fn *done;
	void *arg;
};

static struct {
	struct isolateds *is;
	bool running, known;
	enum probe_kind at;
	struct room *room;
	struct list waiters;
	struct probe_result result;
} state;

static void next(void);

static void tell(void)
{
	state.known = true;
	state.running = false;
	while (!list_empty(&state.waiters)) {
		struct waiter *w = list_entry(state.waiters.next, struct waiter, link);
		list_del(&w->link);
		w->done(w->arg, &state.result);
		free(w);
	}
}

static void record(int r, const struct err *err)
{
	state.result.works[state.at] = r >= 0;
	if (r < 0)
		(void)snprintf(state.result.message[state.at], ERR_MESSAGE_MAX, "%s", err->message);
	if (++state.at == PROBE_N)
		tell();
	else
		next();
}

static void room_came(void *arg, int r, const struct err *err)
{
	struct room *room = TAKE_PTR(state.room);
	struct err none;
	(void)arg;
	if (r >= 0 && state.at == PROBE_PROC && !room_proc_is_writable(room)) {
		r = err_set(&none, ERR_NOT_SUPPORTED, "NOT_SUPPORTED", EROFS,
			    "/proc is read-only in every room: a user namespace gets no other where the "
			    "container has no whole /proc that is writable (the agent needs CAP_SYS_ADMIN)");
		err = &none;
	}
	room_set_events(room, NULL, NULL);
	room_kill(room);
	room_unref(room);
	record(r, err);
}

static const struct room_events events = {.ready = room_came};

static void next(void)
{
	static const struct room_mount overlay = {.path = (char *)"/usr", .mode = ROOM_OVERLAY};
	struct room_spec spec = {
		.profile = ROOM_STRICT, .uid = (uid_t)-1, .gid = (gid_t)-1, .share_net = true};
	struct err err;
	if (state.at == PROBE_REAL)
		spec.ids = ROOM_IDS_REAL;
	else if (state.at == PROBE_USERNS)
		spec.ids = ROOM_IDS_USERNS;
	else if (state.at == PROBE_NETWORK)
		spec.share_net = false;
	else if (state.at == PROBE_PROC)
		spec.profile = ROOM_BALANCED;
	if (state.at == PROBE_OVERLAY) {
		spec.mounts = &overlay;
		spec.mounts_n = 1;
	}
	int r = room_new(isolateds_rooms(state.is), &spec, &events, NULL, &state.room, &err);
	if (r < 0)
		record(r, &err);
}

int probe(struct isolateds *is, probe_done_fn *done, void *arg, struct err *err)
{
	if (state.known) {
		done(arg, &state.result);
		return 0;
	}
	struct waiter *w = calloc(1, sizeof(*w));
	if (!w)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "look what isolation can do here");
	w->done = done;
	w->arg = arg;
	if (!state.running)
		list_init(&state.waiters);
	list_add_tail(&state.waiters, &w->link);
	if (state.running)
		return 0;
	state.running = true;
	state.is = is;
	next();
	return 0;
}

void probe_forget(void)
{
	if (!state.running)
		return;
	if (state.room) {
		room_set_events(state.room, NULL, NULL);
		room_kill(state.room);
		room_unref(TAKE_PTR(state.room));
	}
	list_foreach_safe (node, &state.waiters) {
		struct waiter *w = list_entry(node, struct waiter, link);
		list_del(&w->link);
		free(w);
	}
	state.running = false;
}
