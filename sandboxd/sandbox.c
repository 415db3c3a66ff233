/*
 * sandbox.c - owns the live sandboxes and every change of state.
 *
 * A live object is in the map from create() or recovery until the driver says
 * `destroyed`. Its row may be ahead of it: a sandbox that ended by itself is
 * Failed or Terminated in the store at once, while its remains are still being
 * removed. A row that is Stopping becomes Terminated when the driver is done.
 *
 * Running means two things have been seen: the driver has started the
 * container, and its execd has answered /ping.
 *
 * Everything runs on the loop thread.
 */
#include "sandboxd/sandbox.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "lib/clock.h"
#include "lib/log.h"
#include "lib/map.h"
#include "sandboxd/ping.h"
#include "sandboxd/sweeper.h"

#define NOTES_MAX    256
#define MESSAGE_MAX  640
#define TOKEN_DIGITS 48
#define METADATA_MAX 64 /* pairs, after a patch */

struct sandbox {
	struct map_node node;
	struct list link;
	struct sandboxes *all;
	struct runtime_box box;
	struct ping ping;
	enum sandbox_state state; /* of the row */
	bool started, answered;
	uint64_t created_usec, started_usec, answered_usec; /* monotonic; 0: not seen in this life */
	char taking[RUNTIME_ID_MAX]; /* the snapshot that is being taken of it, or waits until it runs */
	bool pause_wanted;	     /* by a client that knew of its agent's answer before we did */
	char handle[RUNTIME_HANDLE_MAX];
	char notes[NOTES_MAX];
};

struct sandboxes {
	struct sandboxes_env env;
	struct sweeper *sweeper;
	struct map live;
	struct list list;
	struct list watches;
	struct loop_defer tell_soon;
	char refuse[ERR_MESSAGE_MAX];
	bool draining, kill;
	void (*drained)(void *arg);
	void *drained_arg;
	struct loop_defer drained_soon;
};

static const struct runtime_events events;

struct store *sandboxes_store(struct sandboxes *all)
{
	return all->env.store;
}

/* ---- objects ------------------------------------------------------------ */

static struct sandbox *sandbox_find(struct sandboxes *all, const char *id)
{
	struct map_node *node = map_get(&all->live, id);
	return node ? container_of(node, struct sandbox, node) : NULL;
}

static struct sandbox *sandbox_new(struct sandboxes *all, const char *id, enum sandbox_state state)
{
	struct sandbox *sb = calloc(1, sizeof(*sb));
	if (!sb)
		return NULL;
	sb->all = all;
	sb->state = state;
	sb->ping = PING_INIT;
	sb->box.events = &events;
	(void)snprintf(sb->box.id, sizeof(sb->box.id), "%s", id);
	list_init(&sb->link);
	if (map_add(&all->live, &sb->node, sb->box.id) < 0) {
		free(sb);
		return NULL;
	}
	list_add_tail(&all->list, &sb->link);
	return sb;
}

static void sandbox_free(struct sandbox *sb)
{
	ping_cancel(&sb->ping);
	map_del(&sb->all->live, &sb->node);
	list_del(&sb->link);
	free(sb);
}

/* ---- watches -------------------------------------------------------------- */

void sandboxes_watch(struct sandboxes *all, struct sandbox_watch *w, const char *id,
		     void (*changed)(struct sandbox_watch *w))
{
	*w = (struct sandbox_watch){.changed = changed};
	(void)snprintf(w->id, sizeof(w->id), "%s", id);
	list_add_tail(&all->watches, &w->link);
}

void sandboxes_unwatch(struct sandbox_watch *w)
{
	list_del(&w->link);
}

static void tell_all(struct loop_defer *d)
{
	struct sandboxes *all = container_of(d, struct sandboxes, tell_soon);

	list_foreach_safe (l, &all->watches) {
		struct sandbox_watch *w = list_entry(l, struct sandbox_watch, link);
		if (w->due) {
			w->due = false;
			w->changed(w);
		}
	}
}

static void tell(struct sandboxes *all, const char *id)
{
	list_foreach_safe (l, &all->watches) {
		struct sandbox_watch *w = list_entry(l, struct sandbox_watch, link);
		if (strcmp(w->id, id) != 0)
			continue;
		w->due = true;
		loop_defer(all->env.loop, &all->tell_soon, tell_all);
	}
}

/* ---- changes of state ----------------------------------------------------- */

/* What a row waits for in each state. */
static void set_deadline(const struct sandboxes *all, struct transition *t)
{
	const struct config *c = all->env.config;

	switch (t->to) {
	case SANDBOX_PENDING:
		t->deadline_ms = t->now_ms + (uint64_t)(t->max_s ? t->max_s : c->provision_max_s) * 1000;
		break;
	case SANDBOX_RUNNING:
	case SANDBOX_PAUSED:
		t->until_expiry = true;
		break;
	case SANDBOX_STOPPING:
		t->deadline_ms = t->now_ms + (uint64_t)c->stop_max_s * 1000;
		break;
	case SANDBOX_TERMINATED:
	case SANDBOX_FAILED:
		t->deadline_ms = t->now_ms + (uint64_t)c->tombstone_s * 1000;
		break;
	default:
		break;
	}
}

static int move(struct sandboxes *all, const char *id, struct transition *t)
{
	struct err err;

	t->now_ms = clock_real_ms();
	set_deadline(all, t);
	int r = store_move(all->env.store, id, t, &err);
	if (r < 0) {
		if (r != -ESTALE)
			log_error("sandbox %s: to %s: %s", id, sandbox_state_name(t->to), err.message);
		return r;
	}
	struct sandbox *sb = sandbox_find(all, id);
	if (sb)
		sb->state = t->to;
	log_info("sandbox %s: %s%s%s", id, sandbox_state_name(t->to), t->message ? ": " : "",
		 t->message ? t->message : "");
	sweeper_kick(all->sweeper);
	tell(all, id);
	return 0;
}

/* ---- draining --------------------------------------------------------------- */

static bool on_its_way(const struct sandbox *sb)
{
	return (sb->state != SANDBOX_RUNNING && sb->state != SANDBOX_PAUSED) || *sb->taking;
}

static void on_drained(struct loop_defer *d)
{
	struct sandboxes *all = container_of(d, struct sandboxes, drained_soon);
	all->drained(all->drained_arg);
}

static void check_drained(struct sandboxes *all)
{
	if (!all->draining)
		return;
	list_foreach_safe (l, &all->list)
		if (all->kill || on_its_way(list_entry(l, struct sandbox, link)))
			return;
	loop_defer(all->env.loop, &all->drained_soon, on_drained);
}

/* ---- ending ------------------------------------------------------------------ */

static void tear_down(struct sandbox *sb, bool force)
{
	struct runtime *rt = sb->all->env.runtime;

	ping_cancel(&sb->ping);
	rt->ops->destroy(rt, &sb->box, force);
}

/* Row first, then the container. A failed one whose remains are being removed may be stopped too. */
static int stop(struct sandbox *sb, const char *reason, const char *message)
{
	struct transition t = {
		.from = STATES_ALL & ~(STATE_BIT(SANDBOX_STOPPING) | STATE_BIT(SANDBOX_TERMINATED)),
		.to = SANDBOX_STOPPING,
		.reason = reason,
		.message = message,
	};
	int r = move(sb->all, sb->box.id, &t);
	if (r == 0)
		tear_down(sb, false);
	return r;
}

/* How long after the request each step of the creation was done; a step that was not reached is left out. */
static void note_timing(const struct sandbox *sb)
{
	const struct {
		const char *name;
		uint64_t at;
	} steps[] = {
		{"pulledMs", sb->box.pulled_usec},     {"unpackedMs", sb->box.unpacked_usec},
		{"preparedMs", sb->box.prepared_usec}, {"startedMs", sb->started_usec},
		{"answeredMs", sb->answered_usec},     {"totalMs", clock_mono_usec()},
	};
	char text[256];
	size_t n = 0;
	struct err err;

	if (!sb->created_usec)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++)
		if (steps[i].at)
			n += (size_t)snprintf(text + n, sizeof(text) - n, "%s\"%s\":%.3f", n ? "," : "{",
					      steps[i].name, (double)(steps[i].at - sb->created_usec) / 1000);
	(void)snprintf(text + n, sizeof(text) - n, "}");
	if (store_set_timing(sb->all->env.store, sb->box.id, text, &err) < 0)
		log_warn("sandbox %s: %s", sb->box.id, err.message);
}

static int fail(struct sandbox *sb, const char *reason, const char *message, bool force)
{
	struct transition t = {
		.from = STATES_LIVE & ~STATE_BIT(SANDBOX_STOPPING),
		.to = SANDBOX_FAILED,
		.reason = reason,
		.message = message,
	};
	if (sb->state == SANDBOX_PENDING)
		note_timing(sb);
	int r = move(sb->all, sb->box.id, &t);
	tear_down(sb, force); /* also when the row is ahead of us */
	return r;
}

/* ---- the driver's events -------------------------------------------------------- */

static int freeze(struct sandbox *sb, bool on, struct err *err);
static int take_snapshot(struct sandbox *sb, struct err *err);
static int move_snapshot(struct sandboxes *all, const char *snapshot, unsigned from, enum snapshot_state to,
			 const char *reason, const char *message, struct err *err);
static void retry_snapshot_deletes(struct sandboxes *all);
static void snapshot_failed(struct sandbox *sb, const char *reason, const char *message);

static void check_running(struct sandbox *sb)
{
	struct err err;
	char message[MESSAGE_MAX];
	struct transition t = {
		.from = STATE_BIT(SANDBOX_PENDING),
		.to = SANDBOX_RUNNING,
		.reason = "running",
		.message = message,
		.handle = sb->handle,
		.port = sb->box.port,
	};
	if (!sb->started || !sb->answered || sb->state != SANDBOX_PENDING)
		return;
	note_timing(sb);
	(void)snprintf(message, sizeof(message), "Sandbox is running.%s%s", *sb->notes ? " " : "", sb->notes);
	if (move(sb->all, sb->box.id, &t) < 0)
		(void)fail(sb, "store_error", "The store could not note that the sandbox runs.", false);
	else if (*sb->taking)
		(void)take_snapshot(sb, &err);
	else if (sb->pause_wanted && freeze(sb, true, &err) < 0)
		log_warn("sandbox %s: pause: %s", sb->box.id, err.message);
	check_drained(sb->all);
}

static void on_ping(struct ping *p, int result)
{
	struct sandbox *sb = container_of(p, struct sandbox, ping);

	/* A connection that broke means that the container ends: its exit says why. */
	if (result < 0) {
		log_debug("sandbox %s: ping: errno %d", sb->box.id, -result);
		return;
	}
	sb->answered = true;
	sb->answered_usec = clock_mono_usec();
	check_running(sb);
}

/* Its answer is what it takes to be Running. */
static void ask_agent(struct sandbox *sb)
{
	struct err err;

	int r = ping_start(sb->all->env.loop, &sb->ping, sb->box.port, on_ping);
	if (r < 0) {
		(void)err_sys(&err, "SANDBOX::UNKNOWN_ERROR", -r, "connect to the new sandbox");
		(void)fail(sb, "runtime_error", err.message, false);
	}
}

static void add_note(struct sandbox *sb, const char *note)
{
	size_t n = strlen(sb->notes);
	if (*note)
		(void)snprintf(sb->notes + n, sizeof(sb->notes) - n, "%s%s", n ? " " : "", note);
}

static void on_started(struct runtime_box *box, const char *handle, const char *notes)
{
	struct sandbox *sb = container_of(box, struct sandbox, box);

	sb->started = true;
	sb->started_usec = clock_mono_usec();
	(void)snprintf(sb->handle, sizeof(sb->handle), "%s", handle);
	add_note(sb, notes);
	if (sb->ping.fd < 0 && !sb->answered)
		ask_agent(sb);
	check_running(sb);
}

static void on_progress(struct runtime_box *box, const char *reason, const char *message, uint32_t max_s)
{
	struct sandbox *sb = container_of(box, struct sandbox, box);
	struct transition t = {.from = STATE_BIT(SANDBOX_PENDING),
			       .to = SANDBOX_PENDING,
			       .reason = reason,
			       .message = message,
			       .max_s = max_s};

	if (sb->state == SANDBOX_PENDING)
		(void)move(sb->all, box->id, &t);
}

static void on_failed(struct runtime_box *box, const struct err *err)
{
	struct sandbox *sb = container_of(box, struct sandbox, box);
	(void)fail(sb, "runtime_error", err->message, false);
}

static void describe_exit(const struct runtime_exit *e, bool ran, struct transition *t, char *message,
			  size_t size)
{
	const char *sep = *e->detail ? ": " : "";

	t->to = SANDBOX_FAILED;
	t->message = message;
	if (!e->known) {
		t->reason = "container_lost";
		(void)snprintf(message, size, "Sandbox container ended; its exit status is unknown%s%s", sep,
			       e->detail);
	} else if (e->oom) {
		t->reason = "out_of_memory";
		(void)snprintf(message, size, "Sandbox container was killed by its memory limit.");
	} else if (WIFSIGNALED(e->wstatus)) {
		t->reason = "container_killed";
		(void)snprintf(message, size, "Sandbox container was killed by signal %d%s%s",
			       WTERMSIG(e->wstatus), sep, e->detail);
	} else if (WEXITSTATUS(e->wstatus) == 0) {
		t->to = SANDBOX_STOPPING; /* Terminated when nothing is left of it */
		t->reason = "container_exited";
		(void)snprintf(message, size, "Sandbox container exited with code 0.");
	} else {
		t->reason = ran ? "container_exited" : "start_failed";
		(void)snprintf(message, size, "Sandbox container exited with code %d%s%s",
			       WEXITSTATUS(e->wstatus), sep, e->detail);
	}
}

static void on_exited(struct runtime_box *box, const struct runtime_exit *e)
{
	struct sandbox *sb = container_of(box, struct sandbox, box);
	char message[MESSAGE_MAX];
	struct transition t = {.from = STATES_LIVE & ~STATE_BIT(SANDBOX_STOPPING)};

	if (sb->state == SANDBOX_PENDING)
		note_timing(sb);
	describe_exit(e, sb->state != SANDBOX_PENDING, &t, message, sizeof(message));
	(void)move(sb->all, box->id, &t);
	tear_down(sb, false);
}

static void on_snapshotted(struct runtime_box *box, const char *snapshot, const struct err *why)
{
	struct sandbox *sb = container_of(box, struct sandbox, box);
	struct err err;

	if (why) {
		snapshot_failed(sb, "snapshot_capture_failed", why->message);
	} else {
		sb->taking[0] = '\0';
		log_info("snapshot %s of sandbox %s: Ready", snapshot, box->id);
		if (move_snapshot(sb->all, snapshot, STATE_BIT(SNAPSHOT_CREATING), SNAPSHOT_READY,
				  "snapshot_ready", "Snapshot is ready.", &err) < 0)
			log_error("snapshot %s: %s", snapshot, err.message);
	}
	check_drained(sb->all);
}

static void on_frozen(struct runtime_box *box, bool on, const struct err *err)
{
	struct sandbox *sb = container_of(box, struct sandbox, box);
	struct transition t = {
		.from = STATE_BIT(on ? SANDBOX_PAUSING : SANDBOX_RESUMING),
		.to = on == !err ? SANDBOX_PAUSED : SANDBOX_RUNNING,
		.reason = on ? "paused" : "running",
		.message = on ? "Sandbox is paused." : "Sandbox is running again.",
	};
	if (err) {
		t.reason = on ? "pause_failed" : "resume_failed";
		t.message = err->message;
	}
	(void)move(sb->all, box->id, &t);
	check_drained(sb->all);
}

static void on_destroyed(struct runtime_box *box)
{
	struct sandbox *sb = container_of(box, struct sandbox, box);
	struct sandboxes *all = sb->all;
	/* The row says why it was stopped; that stays. */
	struct transition t = {.from = STATE_BIT(SANDBOX_STOPPING), .to = SANDBOX_TERMINATED};

	/* A row that cannot be moved now stays Stopping; its deadline brings the sweeper. */
	if (sb->state == SANDBOX_STOPPING)
		(void)move(all, box->id, &t);
	if (*sb->taking)
		snapshot_failed(sb, "sandbox_ended", "The sandbox ended while the snapshot was taken.");
	sandbox_free(sb);
	retry_snapshot_deletes(all);
	check_drained(all);
}

static const struct runtime_events events = {
	.started = on_started,
	.progress = on_progress,
	.failed = on_failed,
	.exited = on_exited,
	.frozen = on_frozen,
	.snapshotted = on_snapshotted,
	.destroyed = on_destroyed,
};

static int see_state(const struct record *row, void *arg)
{
	*(unsigned *)arg = STATE_BIT(row->state);
	return 0;
}

/* ---- requests ---------------------------------------------------------------------- */

static int insert(struct sandboxes *all, const struct sandbox_spec *spec, const struct sandbox *sb,
		  struct err *err)
{
	_cleanup_free_ char *entrypoint = json_dumps(spec->entrypoint, JSON_COMPACT);
	_cleanup_free_ char *metadata = spec->metadata ? json_dumps(spec->metadata, JSON_COMPACT) : NULL;
	_cleanup_free_ char *platform = spec->platform ? json_dumps(spec->platform, JSON_COMPACT) : NULL;
	struct transition t = {.to = SANDBOX_PENDING, .now_ms = clock_real_ms()};

	if (!entrypoint || (spec->metadata && !metadata) || (spec->platform && !platform))
		return err_set(err, ERR_INTERNAL, "SANDBOX::UNKNOWN_ERROR", ENOMEM, "out of memory");
	set_deadline(all, &t);
	struct record row = {
		.id = sb->box.id,
		.state = SANDBOX_PENDING,
		.reason = "provisioning",
		.message = "Sandbox is being created.",
		.created_ms = t.now_ms,
		.transition_ms = t.now_ms,
		.expires_ms = spec->timeout_s ? t.now_ms + spec->timeout_s * 1000 : 0,
		.deadline_ms = t.deadline_ms,
		.image = spec->image,
		.entrypoint = entrypoint,
		.metadata = metadata,
		.platform = platform,
		.runtime = all->env.runtime->ops->name,
		.port = sb->box.port,
		.token = spec->runtime.token,
		.snapshot = spec->runtime.snapshot,
	};
	return store_insert(all->env.store, &row, err);
}

static int check_open(struct sandboxes *all, struct err *err)
{
	if (all->draining)
		return err_set(err, ERR_UNAVAILABLE, "SANDBOX::UNAVAILABLE", ESHUTDOWN,
			       "sandboxd is shutting down");
	if (*all->refuse)
		return err_set(err, ERR_UNAVAILABLE, "SANDBOX::UNAVAILABLE", ENOTSUP, "%s", all->refuse);
	if (all->live.len >= all->env.config->sandboxes_max)
		return err_set(err, ERR_LIMIT, "SANDBOX::LIMIT", ENOSPC,
			       "%zu sandboxes exist, the limit is %u", all->live.len,
			       all->env.config->sandboxes_max);
	return 0;
}

int sandboxes_create(struct sandboxes *all, const struct sandbox_spec *given, char ret_id[RANDOM_UUID_MAX],
		     struct err *err)
{
	struct runtime *rt = all->env.runtime;
	struct sandbox_spec copy = *given, *spec = &copy;
	char id[RANDOM_UUID_MAX], token[TOKEN_DIGITS + 1];

	int r = check_open(all, err);
	if (r < 0)
		return r;
	struct sandbox *sb = sandbox_new(all, random_uuid(id), SANDBOX_PENDING);
	if (!sb)
		return err_set(err, ERR_INTERNAL, "SANDBOX::UNKNOWN_ERROR", ENOMEM, "out of memory");
	sb->created_usec = clock_mono_usec();
	add_note(sb, spec->notes);
	if (given->secure)
		spec->runtime.token = random_hex(token, TOKEN_DIGITS);
	r = rt->ops->create(rt, &sb->box, &spec->runtime, err);
	if (r < 0) {
		sandbox_free(sb);
		return r;
	}
	/* Killed before this is written, we find a directory without a row at the next start. */
	r = insert(all, spec, sb, err);
	if (r < 0) {
		tear_down(sb, false);
		return r;
	}
	log_info("sandbox %s: Pending (provisioning) image %s", id, spec->image);
	sweeper_kick(all->sweeper);
	if (sb->box.port) /* else it is told by started() */
		ask_agent(sb);
	memcpy(ret_id, id, sizeof(id));
	return 0;
}

/* It has ended, and now nobody wants to hear of it. */
static int bury(struct sandboxes *all, const char *id, struct err *err)
{
	struct transition t = {
		.from = STATE_BIT(SANDBOX_FAILED),
		.to = SANDBOX_TERMINATED,
		.reason = "user_delete",
		.message = "Sandbox was deleted by request after it had failed.",
		.now_ms = clock_real_ms(),
	};
	set_deadline(all, &t);
	int r = store_move(all->env.store, id, &t, err);
	if (r == 0)
		tell(all, id);
	return r == -ESTALE ? 0 : r;
}

int sandboxes_delete(struct sandboxes *all, const char *id, struct err *err)
{
	struct sandbox *sb = sandbox_find(all, id);

	if (!sb || sb->state == SANDBOX_TERMINATED)
		return bury(all, id, err);
	if (sb->state == SANDBOX_STOPPING)
		return 0;
	if (stop(sb, "user_delete", "Sandbox was deleted by request.") < 0)
		return err_set(err, ERR_INTERNAL, "DOCKER::SANDBOX_DELETE_FAILED", EIO,
			       "the store could not note the deletion");
	return 0;
}

/* ---- pause and resume ------------------------------------------------------------------ */

static int not_in_state(struct err *err, const char *code, const char *id, const char *wanted)
{
	return err_set(err, ERR_CONFLICT, code, ESTALE, "sandbox '%.64s' is not %s", id, wanted);
}

/* The step is on its way: the row says so first. */
static int freeze(struct sandbox *sb, bool on, struct err *err)
{
	if (*sb->taking)
		return err_set(err, ERR_CONFLICT, "SANDBOX::INVALID_STATE", EBUSY,
			       "a snapshot is being taken of sandbox '%.64s'", sb->box.id);
	struct runtime *rt = sb->all->env.runtime;
	enum sandbox_state before = sb->state;
	struct transition go = {
		.from = STATE_BIT(before),
		.to = on ? SANDBOX_PAUSING : SANDBOX_RESUMING,
		.reason = on ? "user_pause" : "user_resume",
		.message = on ? "Sandbox is being paused." : "Sandbox is being resumed.",
	};
	if (move(sb->all, sb->box.id, &go) < 0)
		return err_set(err, ERR_INTERNAL, "SANDBOX::UNKNOWN_ERROR", EIO,
			       "the store could not note it");
	int r = rt->ops->freeze(rt, &sb->box, on, err);
	if (r < 0) {
		struct transition back = {.from = STATE_BIT(go.to),
					  .to = before,
					  .reason = "runtime_error",
					  .message = err->message};
		(void)move(sb->all, sb->box.id, &back);
	}
	return r;
}

int sandboxes_pause(struct sandboxes *all, const char *id, struct err *err)
{
	struct sandbox *sb = sandbox_find(all, id);
	unsigned state = 0;

	int r = sb ? 0 : store_get(all->env.store, id, see_state, &state, err);
	if (r < 0)
		return r;
	if (sb && sb->state == SANDBOX_PENDING && !*sb->taking) {
		sb->pause_wanted = true;
		return 0;
	}
	if (!sb || sb->state != SANDBOX_RUNNING)
		return not_in_state(err, "DOCKER::SANDBOX_NOT_RUNNING", id, "running");
	return freeze(sb, true, err);
}

int sandboxes_resume(struct sandboxes *all, const char *id, struct err *err)
{
	struct sandbox *sb = sandbox_find(all, id);
	unsigned state = 0;

	int r = sb ? 0 : store_get(all->env.store, id, see_state, &state, err);
	if (r < 0)
		return r;
	if (!sb || sb->state != SANDBOX_PAUSED)
		return not_in_state(err, "DOCKER::SANDBOX_NOT_PAUSED", id, "paused");
	return freeze(sb, false, err);
}

/* ---- snapshots --------------------------------------------------------------------------- */

/* Moves a snapshot and tells who waits for it. */
static int move_snapshot(struct sandboxes *all, const char *snapshot, unsigned from, enum snapshot_state to,
			 const char *reason, const char *message, struct err *err)
{
	int r = store_snapshot_move(all->env.store, snapshot, from, to, reason, message, clock_real_ms(),
				    err);
	if (r == 0)
		tell(all, snapshot);
	return r;
}

static void on_snapshot_removed(void *arg, const char *snapshot)
{
	struct sandboxes *all = arg;
	struct err err;

	/* One that has failed stays in the store, to be read. */
	int r = move_snapshot(all, snapshot, STATE_BIT(SNAPSHOT_DELETING), SNAPSHOT_DELETING,
			      "snapshot_deleted", "", &err);
	if (r == 0 && store_snapshot_delete(all->env.store, snapshot, &err) < 0)
		log_error("snapshot %s: %s", snapshot, err.message);
	tell(all, snapshot);
}

static void remove_snapshot(struct sandboxes *all, const char *snapshot)
{
	struct runtime *rt = all->env.runtime;

	int r = rt->ops->snapshot_delete ? rt->ops->snapshot_delete(rt, snapshot, on_snapshot_removed, all)
					 : -ENOTSUP;
	if (r < 0 && r != -EBUSY)
		log_warn("snapshot %s: remove: errno %d", snapshot, -r);
}

struct snapshot_ids {
	char (*ids)[RUNTIME_ID_MAX], (*sandboxes)[RUNTIME_ID_MAX];
	size_t n;
};

static int collect_snapshot(const struct snapshot_record *row, void *arg)
{
	struct snapshot_ids *c = arg;
	char(*ids)[RUNTIME_ID_MAX] = reallocarray(c->ids, c->n + 1, sizeof(*ids));
	if (ids)
		c->ids = ids;
	char(*sandboxes)[RUNTIME_ID_MAX] =
		ids ? reallocarray(c->sandboxes, c->n + 1, sizeof(*sandboxes)) : NULL;
	if (!sandboxes)
		return -ENOMEM;
	c->sandboxes = sandboxes;
	(void)snprintf(c->ids[c->n], RUNTIME_ID_MAX, "%s", row->id);
	(void)snprintf(c->sandboxes[c->n++], RUNTIME_ID_MAX, "%s", row->sandbox);
	return 0;
}

static void snapshots_in(struct sandboxes *all, enum snapshot_state state, struct snapshot_ids *ret)
{
	struct err err;

	*ret = (struct snapshot_ids){0};
	if (store_snapshot_list(all->env.store, STATE_BIT(state), NULL, 0, UINT32_MAX, collect_snapshot, ret,
				NULL, &err) < 0)
		log_error("snapshots: %s", err.message);
}

static void snapshot_ids_done(struct snapshot_ids *c)
{
	free(c->ids);
	free(c->sandboxes);
}

/* A sandbox has gone: what it stood on may go now. */
static void retry_snapshot_deletes(struct sandboxes *all)
{
	struct snapshot_ids c;

	snapshots_in(all, SNAPSHOT_DELETING, &c);
	for (size_t i = 0; i < c.n; i++)
		remove_snapshot(all, c.ids[i]);
	snapshot_ids_done(&c);
}

static void snapshot_failed(struct sandbox *sb, const char *reason, const char *message)
{
	struct err err;
	char id[RUNTIME_ID_MAX];

	memcpy(id, sb->taking, sizeof(id));
	sb->taking[0] = '\0';
	log_warn("snapshot %s of sandbox %s: %s", id, sb->box.id, message);
	if (move_snapshot(sb->all, id, STATE_BIT(SNAPSHOT_CREATING), SNAPSHOT_FAILED, reason, message, &err) <
	    0)
		log_error("snapshot %s: %s", id, err.message);
	remove_snapshot(sb->all, id);
}

static int take_snapshot(struct sandbox *sb, struct err *err)
{
	struct runtime *rt = sb->all->env.runtime;

	int r = rt->ops->snapshot ? rt->ops->snapshot(rt, &sb->box, sb->taking, err)
				  : err_set(err, ERR_NOT_SUPPORTED, "SANDBOX::API_NOT_SUPPORTED", ENOTSUP,
					    "this runtime takes no snapshots");
	if (r < 0)
		snapshot_failed(sb, "runtime_error", err->message);
	return r;
}

static int insert_snapshot(const struct record *row, void *arg)
{
	struct snapshot_record *new = arg;
	char *image = strdup(row->image);
	new->image = image;
	return image ? 0 : -ENOMEM;
}

int sandboxes_snapshot(struct sandboxes *all, const char *id, const char *name, char ret_id[RANDOM_UUID_MAX],
		       struct err *err)
{
	struct sandbox *sb = sandbox_find(all, id);
	struct snapshot_record new = {
		.id = random_uuid(ret_id),
		.sandbox = id,
		.name = name,
		.state = SNAPSHOT_CREATING,
		.reason = "snapshot_accepted",
		.message = "Snapshot creation accepted.",
		.created_ms = clock_real_ms(),
	};

	int r = store_get(all->env.store, id, insert_snapshot, &new, err);
	if (r < 0)
		return r;
	if (!sb || (sb->state != SANDBOX_RUNNING && sb->state != SANDBOX_PENDING))
		r = not_in_state(err, "SNAPSHOT::INVALID_SOURCE_STATE", id, "running");
	else if (*sb->taking || sb->pause_wanted)
		r = err_set(err, ERR_CONFLICT, "SNAPSHOT::INVALID_SOURCE_STATE", EBUSY,
			    "sandbox '%.64s' is busy with another snapshot or a pause", id);
	if (r == 0)
		r = store_snapshot_insert(all->env.store, &new, err);
	free((char *)new.image);
	if (r < 0)
		return r;
	memcpy(sb->taking, ret_id, RANDOM_UUID_MAX);
	return sb->state == SANDBOX_RUNNING ? take_snapshot(sb, err) : 0;
}

int sandboxes_snapshot_delete(struct sandboxes *all, const char *snapshot, struct err *err)
{
	const unsigned from =
		STATE_BIT(SNAPSHOT_READY) | STATE_BIT(SNAPSHOT_FAILED) | STATE_BIT(SNAPSHOT_DELETING);

	int r = move_snapshot(all, snapshot, from, SNAPSHOT_DELETING, "snapshot_delete_requested",
			      "Snapshot deletion requested.", err);
	if (r == 0)
		remove_snapshot(all, snapshot);
	return r;
}

/* What our predecessor had begun: half a snapshot is none, and its sandbox may still stand still. */
static void recover_snapshots(struct sandboxes *all)
{
	struct runtime *rt = all->env.runtime;
	struct snapshot_ids c;
	struct err err;

	snapshots_in(all, SNAPSHOT_CREATING, &c);
	for (size_t i = 0; i < c.n; i++) {
		struct sandbox *sb = sandbox_find(all, c.sandboxes[i]);
		if (sb && sb->state == SANDBOX_RUNNING)
			(void)rt->ops->freeze(rt, &sb->box, false, &err);
		(void)move_snapshot(all, c.ids[i], STATE_BIT(SNAPSHOT_CREATING), SNAPSHOT_FAILED,
				    "interrupted", "sandboxd was stopped while it took the snapshot.", &err);
		remove_snapshot(all, c.ids[i]);
	}
	snapshot_ids_done(&c);
	retry_snapshot_deletes(all);
}

/* ---- metadata -------------------------------------------------------------------------- */

struct merge {
	json_t *patch;
	char *result;
	struct err *err;
};

static int merge_row(const struct record *row, void *arg)
{
	struct merge *m = arg;
	json_t *value, *all = json_loads(row->metadata, 0, NULL);
	const char *key = NULL;

	if (STATE_BIT(row->state) & (STATES_ENDED | STATE_BIT(SANDBOX_STOPPING))) {
		json_decref(all);
		return err_set(m->err, ERR_CONFLICT, "SANDBOX::INVALID_STATE", ESTALE,
			       "sandbox '%.64s' is %s", row->id, sandbox_state_name(row->state));
	}
	json_object_foreach(m->patch, key, value)
	{
		if (json_is_null(value))
			(void)json_object_del(all, key);
		else
			(void)json_object_set(all, key, value);
	}
	if (json_object_size(all) > METADATA_MAX) {
		json_decref(all);
		return err_set(m->err, ERR_INVALID, "SANDBOX::INVALID_METADATA_LABEL", E2BIG,
			       "metadata: more than %d pairs", METADATA_MAX);
	}
	m->result = all ? json_dumps(all, JSON_COMPACT) : NULL;
	json_decref(all);
	return m->result ? 0
			 : err_set(m->err, ERR_INTERNAL, "SANDBOX::UNKNOWN_ERROR", ENOMEM, "out of memory");
}

int sandboxes_patch_metadata(struct sandboxes *all, const char *id, json_t *patch, struct err *err)
{
	struct merge m = {.patch = patch, .err = err};

	int r = store_get(all->env.store, id, merge_row, &m, err);
	if (r == 0)
		r = store_set_metadata(all->env.store, id, m.result, err);
	free(m.result);
	if (r == 0)
		tell(all, id);
	return r;
}

static int check_expires(const struct record *row, void *arg)
{
	struct err *err = arg;
	if (STATE_BIT(row->state) & (STATES_ENDED | STATE_BIT(SANDBOX_STOPPING)))
		return err_set(err, ERR_CONFLICT, "SANDBOX::INVALID_STATE", ESTALE, "sandbox '%.64s' is %s",
			       row->id, sandbox_state_name(row->state));
	if (!row->expires_ms)
		return err_set(err, ERR_CONFLICT, "DOCKER::INVALID_EXPIRATION", ESTALE,
			       "sandbox '%.64s' does not expire: it was created without a timeout", row->id);
	return 0;
}

int sandboxes_renew(struct sandboxes *all, const char *id, uint64_t expires_ms, struct err *err)
{
	/* One thread: nothing comes between the look and the change, so renewal and expiry cannot race. */
	int r = store_get(all->env.store, id, check_expires, err, err);
	if (r == 0)
		r = store_set_expires(all->env.store, id, expires_ms, err);
	if (r == 0)
		sweeper_kick(all->sweeper);
	return r;
}

int sandboxes_log(struct sandboxes *all, const char *id, struct buf *out, bool *ret_cut)
{
	struct runtime *rt = all->env.runtime;
	return rt->ops->log ? rt->ops->log(rt, id, out, ret_cut) : -ENOENT;
}

/* ---- deadlines ------------------------------------------------------------------------ */

/* A row without an object: what it stood for is gone, only the note is missing. */
static int due_without_object(struct sandboxes *all, const char *id, enum sandbox_state state)
{
	struct transition t = {
		.from = STATE_BIT(state),
		.to = state == SANDBOX_STOPPING ? SANDBOX_TERMINATED : SANDBOX_FAILED,
		.reason = state == SANDBOX_STOPPING ? "stopped" : "container_lost",
		.message = "Nothing of the sandbox was left when its deadline came.",
	};
	return move(all, id, &t);
}

static int due_live(struct sandbox *sb, enum sandbox_state state)
{
	switch (state) {
	case SANDBOX_PENDING:
		(void)fail(sb, "provision_timeout",
			   sb->started ? "The container started, but its execd did not answer in time."
				       : "The container did not start in time.",
			   true);
		return 0;
	case SANDBOX_STOPPING: {
		/* A new deadline; reason and time stay. */
		struct transition t = {.from = STATE_BIT(SANDBOX_STOPPING), .to = SANDBOX_STOPPING};
		log_warn("sandbox %s: does not stop in time and is forced", sb->box.id);
		tear_down(sb, true);
		return move(sb->all, sb->box.id, &t);
	}
	default:
		return stop(sb, "ttl_expiry", "Sandbox reached its expiration time.");
	}
}

static int on_due(void *arg, const char *id, enum sandbox_state state, uint64_t now_ms)
{
	struct sandboxes *all = arg;
	struct sandbox *sb = sandbox_find(all, id);
	struct err err;

	(void)now_ms;
	if (STATE_BIT(state) & STATES_ENDED) {
		int r = store_forget(all->env.store, id, &err);
		if (r < 0)
			log_error("sandbox %s: forget: %s", id, err.message);
		else
			tell(all, id);
		return r;
	}
	return sb ? due_live(sb, state) : due_without_object(all, id, state);
}

/* ---- recovery ------------------------------------------------------------------------ */

struct recovery {
	struct sandboxes *all;
	char (*ids)[RUNTIME_ID_MAX];
	enum sandbox_state *states;
	char (*handles)[RUNTIME_HANDLE_MAX];
	uint16_t *ports;
	size_t n, cap;
};

static void recovery_done(struct recovery *rec)
{
	free(rec->ids);
	free(rec->states);
	free(rec->handles);
	free(rec->ports);
}

/* Rows are copied first: the store is not changed while it is being read. */
static int collect(const struct record *row, void *arg)
{
	struct recovery *rec = arg;

	if (rec->n >= rec->cap)
		return -E2BIG;
	(void)snprintf(rec->ids[rec->n], RUNTIME_ID_MAX, "%s", row->id);
	(void)snprintf(rec->handles[rec->n], RUNTIME_HANDLE_MAX, "%s", row->handle ? row->handle : "");
	rec->states[rec->n] = row->state;
	rec->ports[rec->n] = row->port;
	rec->n++;
	return 0;
}

static int collect_all(struct recovery *rec, struct err *err)
{
	struct store *store = rec->all->env.store;
	struct store_filter live = {.states = STATES_LIVE};
	uint64_t n;

	int r = store_count(store, STATES_LIVE, &n, err);
	if (r < 0)
		return r;
	rec->cap = n;
	rec->ids = calloc(n + 1, sizeof(*rec->ids));
	rec->states = calloc(n + 1, sizeof(*rec->states));
	rec->handles = calloc(n + 1, sizeof(*rec->handles));
	rec->ports = calloc(n + 1, sizeof(*rec->ports));
	if (!rec->ids || !rec->states || !rec->handles || !rec->ports)
		return err_set(err, ERR_INTERNAL, "SANDBOX::UNKNOWN_ERROR", ENOMEM, "out of memory");
	return store_list(store, &live, 0, (uint32_t)n, collect, rec, NULL, err);
}

/* A step that our predecessor had begun is done again: it may be done any number of times. */
static void recover_step(struct sandbox *sb)
{
	struct runtime *rt = sb->all->env.runtime;
	bool on = sb->state == SANDBOX_PAUSING;
	struct err err;

	if (sb->state != SANDBOX_PAUSING && sb->state != SANDBOX_RESUMING)
		return;
	if (rt->ops->freeze(rt, &sb->box, on, &err) < 0)
		on_frozen(&sb->box, on, &err);
}

static void recover_one(struct sandbox *sb, const char *handle)
{
	struct runtime *rt = sb->all->env.runtime;

	switch (sb->state) {
	case SANDBOX_PENDING:
		(void)fail(sb, "interrupted", "sandboxd was stopped while it created the sandbox.", false);
		return;
	case SANDBOX_STOPPING:
		if (*handle)
			(void)rt->ops->adopt(rt, &sb->box, handle);
		tear_down(sb, false);
		return;
	default:
		if (*handle && rt->ops->adopt(rt, &sb->box, handle) == 0) {
			log_info("sandbox %s: adopted", sb->box.id);
			recover_step(sb);
			return;
		}
		(void)fail(
			sb, "container_lost",
			"Sandbox container ended while sandboxd was not running; its exit status is unknown.",
			false);
	}
}

/* Something on the machine that no row knows, or whose row has ended. */
static void on_leftover(const char *id, void *arg)
{
	struct sandboxes *all = arg;

	if (sandbox_find(all, id))
		return;
	struct sandbox *sb = sandbox_new(all, id, SANDBOX_TERMINATED);
	if (!sb)
		return;
	log_info("sandbox %s: removing what was left of it", id);
	tear_down(sb, false);
}

int sandboxes_recover(struct sandboxes *all, struct err *err)
{
	struct runtime *rt = all->env.runtime;
	struct recovery rec = {.all = all};

	int r = collect_all(&rec, err);
	for (size_t i = 0; r == 0 && i < rec.n; i++) {
		struct sandbox *sb = sandbox_new(all, rec.ids[i], rec.states[i]);
		if (!sb) {
			r = err_set(err, ERR_INTERNAL, "SANDBOX::UNKNOWN_ERROR", ENOMEM, "out of memory");
			break;
		}
		sb->box.port = rec.ports[i];
		sb->started = sb->answered = true;
		recover_one(sb, rec.handles[i]);
	}
	recovery_done(&rec);
	if (r < 0)
		return r;
	r = rt->ops->leftovers(rt, on_leftover, all);
	recover_snapshots(all);
	sweeper_kick(all->sweeper);
	return r < 0 ? err_sys(err, "SANDBOX::UNKNOWN_ERROR", -r, "look for leftovers") : 0;
}

/* ---- the whole --------------------------------------------------------------------------- */

int sandboxes_new(const struct sandboxes_env *env, struct sandboxes **ret)
{
	struct sandboxes *all = calloc(1, sizeof(*all));
	if (!all)
		return -ENOMEM;
	all->env = *env;
	list_init(&all->list);
	list_init(&all->watches);
	int r = sweeper_new(env->loop, env->store, on_due, all, &all->sweeper);
	if (r < 0) {
		free(all);
		return r;
	}
	*ret = all;
	return 0;
}

void sandboxes_free(struct sandboxes *all)
{
	if (!all)
		return;
	loop_defer_cancel(&all->drained_soon);
	loop_defer_cancel(&all->tell_soon);
	list_foreach_safe (l, &all->list)
		sandbox_free(list_entry(l, struct sandbox, link));
	map_done(&all->live);
	sweeper_free(all->sweeper);
	free(all);
}

void sandboxes_refuse(struct sandboxes *all, const char *why)
{
	(void)snprintf(all->refuse, sizeof(all->refuse), "%s", why);
}

void sandboxes_drain(struct sandboxes *all, bool kill, void (*done)(void *arg), void *arg)
{
	all->draining = true;
	all->kill = kill;
	all->drained = done;
	all->drained_arg = arg;
	if (kill)
		list_foreach_safe (l, &all->list) {
			struct sandbox *sb = list_entry(l, struct sandbox, link);
			if (STATE_BIT(sb->state) & STATES_LIVE & ~STATE_BIT(SANDBOX_STOPPING))
				(void)stop(sb, "shutdown", "sandboxd was told to end every sandbox with it.");
		}
	check_drained(all);
}
