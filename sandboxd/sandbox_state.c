/*
 * sandbox_state.c - every change of a sandbox's state: what the driver tells, what comes due, and
 * the ends. The row is changed first; what follows of it happens after.
 */
#include "sandboxd/sandbox_priv.h"

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "lib/clock.h"
#include "lib/log.h"

#define MESSAGE_MAX 640

/* ---- changes of state ----------------------------------------------------- */

/* What a row waits for in each state. */
void sandboxes_set_deadline(const struct sandboxes *all, struct transition *t)
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

int sandboxes_move(struct sandboxes *all, const char *id, struct transition *t)
{
	struct err err;

	t->now_ms = clock_real_ms();
	sandboxes_set_deadline(all, t);
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
	sandboxes_spares_kick(all);
	sandboxes_tell(all, id);
	return 0;
}

/* ---- ending ------------------------------------------------------------------ */

void sandbox_tear_down(struct sandbox *sb, bool force)
{
	struct runtime *rt = sb->all->env.runtime;

	ping_cancel(&sb->ping);
	rt->ops->destroy(rt, &sb->box, force);
}

/* Row first, then the container. A failed one whose remains are being removed may be stopped too. */
int sandbox_stop(struct sandbox *sb, const char *reason, const char *message)
{
	struct transition t = {
		.from = STATES_ALL & ~(STATE_BIT(SANDBOX_STOPPING) | STATE_BIT(SANDBOX_TERMINATED)),
		.to = SANDBOX_STOPPING,
		.reason = reason,
		.message = message,
	};
	int r = sandboxes_move(sb->all, sb->box.id, &t);
	if (r == 0)
		sandbox_tear_down(sb, false);
	return r;
}

/* How long after the request each step of the creation was done; a step that was not reached is left out. */
static void note_timing(const struct sandbox *sb)
{
	const struct {
		const char *name;
		uint64_t at;
	} steps[] = {
		{"pulledMs", sb->box.pulled_usec}, {"unpackedMs", sb->box.unpacked_usec},
		{"claimedMs", sb->claimed_usec},   {"preparedMs", sb->box.prepared_usec},
		{"startedMs", sb->started_usec},   {"answeredMs", sb->answered_usec},
		{"totalMs", clock_mono_usec()},
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

int sandbox_fail(struct sandbox *sb, const char *reason, const char *message, bool force)
{
	struct transition t = {
		.from = STATES_LIVE & ~STATE_BIT(SANDBOX_STOPPING),
		.to = SANDBOX_FAILED,
		.reason = reason,
		.message = message,
	};
	if (sb->state == SANDBOX_PENDING)
		note_timing(sb);
	int r = sandboxes_move(sb->all, sb->box.id, &t);
	sandbox_tear_down(sb, force); /* also when the row is ahead of us */
	return r;
}

/* ---- the driver's events -------------------------------------------------------- */

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
	if (sandboxes_move(sb->all, sb->box.id, &t) < 0)
		(void)sandbox_fail(sb, "store_error", "The store could not note that the sandbox runs.",
				   false);
	else if (*sb->taking)
		(void)sandbox_take_snapshot(sb, &err);
	else
		sandbox_do_wanted(sb);
	sandboxes_check_drained(sb->all);
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

void sandbox_ask_agent(struct sandbox *sb)
{
	struct err err;

	int r = ping_start(sb->all->env.loop, &sb->ping, sb->box.port, on_ping);
	if (r < 0) {
		(void)err_sys(&err, "SANDBOX::UNKNOWN_ERROR", -r, "connect to the new sandbox");
		(void)sandbox_fail(sb, "runtime_error", err.message, false);
	}
}

static void on_started(struct runtime_box *box, const char *handle, const char *notes)
{
	struct sandbox *sb = container_of(box, struct sandbox, box);

	sb->started = true;
	sb->started_usec = clock_mono_usec();
	(void)snprintf(sb->handle, sizeof(sb->handle), "%s", handle);
	sandbox_add_note(sb, notes);
	if (sb->ping.fd < 0 && !sb->answered)
		sandbox_ask_agent(sb);
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
		(void)sandboxes_move(sb->all, box->id, &t);
}

static void on_failed(struct runtime_box *box, const struct err *err)
{
	struct sandbox *sb = container_of(box, struct sandbox, box);
	(void)sandbox_fail(sb, "runtime_error", err->message, false);
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
	(void)sandboxes_move(sb->all, box->id, &t);
	sandbox_tear_down(sb, false);
}

static void on_destroyed(struct runtime_box *box)
{
	struct sandbox *sb = container_of(box, struct sandbox, box);
	struct sandboxes *all = sb->all;
	/* The row says why it was stopped; that stays. */
	struct transition t = {.from = STATE_BIT(SANDBOX_STOPPING), .to = SANDBOX_TERMINATED};

	/* A row that cannot be moved now stays Stopping; its deadline brings the sweeper. */
	if (sb->state == SANDBOX_STOPPING)
		(void)sandboxes_move(all, box->id, &t);
	if (*sb->taking)
		sandbox_snapshot_failed(sb, "sandbox_ended",
					"The sandbox ended while the snapshot was taken.");
	sandbox_free(sb);
	sandboxes_retry_snapshot_deletes(all);
	sandboxes_check_drained(all);
}

const struct runtime_events sandbox_events = {
	.started = on_started,
	.progress = on_progress,
	.failed = on_failed,
	.exited = on_exited,
	.frozen = sandbox_on_frozen,
	.snapshotted = sandbox_on_snapshotted,
	.destroyed = on_destroyed,
};

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
	return sandboxes_move(all, id, &t);
}

static int due_live(struct sandbox *sb, enum sandbox_state state)
{
	switch (state) {
	case SANDBOX_PENDING:
		(void)sandbox_fail(sb, "provision_timeout",
				   sb->started
					   ? "The container started, but its execd did not answer in time."
					   : "The container did not start in time.",
				   true);
		return 0;
	case SANDBOX_STOPPING: {
		/* A new deadline; reason and time stay. */
		struct transition t = {.from = STATE_BIT(SANDBOX_STOPPING), .to = SANDBOX_STOPPING};
		log_warn("sandbox %s: does not stop in time and is forced", sb->box.id);
		sandbox_tear_down(sb, true);
		return sandboxes_move(sb->all, sb->box.id, &t);
	}
	default:
		return sandbox_stop(sb, "ttl_expiry", "Sandbox reached its expiration time.");
	}
}

int sandbox_on_due(void *arg, const char *id, enum sandbox_state state, uint64_t now_ms)
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
			sandboxes_tell(all, id);
		return r;
	}
	return sb ? due_live(sb, state) : due_without_object(all, id, state);
}
