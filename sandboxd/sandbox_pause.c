/*
 * sandbox_pause.c - pausing and resuming: Running -> Pausing -> Paused -> Resuming -> Running.
 */
#include "sandboxd/sandbox_priv.h"

#include "lib/log.h"

static int see_state(const struct record *row, void *arg)
{
	*(unsigned *)arg = STATE_BIT(row->state);
	return 0;
}

int sandbox_not_in_state(struct err *err, const char *code, const char *id, const char *wanted)
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
	if (sandboxes_move(sb->all, sb->box.id, &go) < 0)
		return err_set(err, ERR_INTERNAL, "SANDBOX::UNKNOWN_ERROR", EIO,
			       "the store could not note it");
	int r = rt->ops->freeze(rt, &sb->box, on, err);
	if (r < 0) {
		struct transition back = {.from = STATE_BIT(go.to),
					  .to = before,
					  .reason = "runtime_error",
					  .message = err->message};
		(void)sandboxes_move(sb->all, sb->box.id, &back);
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
	if (sb && ((sb->state == SANDBOX_PENDING && !*sb->taking) || sb->state == SANDBOX_RESUMING)) {
		sb->pause_wanted = true;
		return 0;
	}
	if (sb && sb->state == SANDBOX_PAUSING && sb->resume_wanted) {
		sb->resume_wanted = false;
		return 0;
	}
	if (!sb || sb->state != SANDBOX_RUNNING)
		return sandbox_not_in_state(err, "DOCKER::SANDBOX_NOT_RUNNING", id, "running");
	return freeze(sb, true, err);
}

int sandboxes_resume(struct sandboxes *all, const char *id, struct err *err)
{
	struct sandbox *sb = sandbox_find(all, id);
	unsigned state = 0;

	int r = sb ? 0 : store_get(all->env.store, id, see_state, &state, err);
	if (r < 0)
		return r;
	if (sb && sb->state == SANDBOX_PAUSING) {
		sb->resume_wanted = true;
		return 0;
	}
	if (sb && sb->pause_wanted) {
		sb->pause_wanted = false;
		return 0;
	}
	if (!sb || sb->state != SANDBOX_PAUSED)
		return sandbox_not_in_state(err, "DOCKER::SANDBOX_NOT_PAUSED", id, "paused");
	return freeze(sb, false, err);
}

void sandbox_do_wanted(struct sandbox *sb)
{
	bool pause = sb->state == SANDBOX_RUNNING && sb->pause_wanted;
	bool resume = sb->state == SANDBOX_PAUSED && sb->resume_wanted;
	struct err err;

	sb->pause_wanted = sb->resume_wanted = false;
	if ((pause || resume) && freeze(sb, pause, &err) < 0)
		log_warn("sandbox %s: %s: %s", sb->box.id, pause ? "pause" : "resume", err.message);
}

void sandbox_on_frozen(struct runtime_box *box, bool on, const struct err *err)
{
	struct sandbox *sb = container_of(box, struct sandbox, box);
	/* Running (Paused): the store has lost that it was begun, and with it who asked for it has been told
	 * that it failed; it is so all the same. */
	struct transition t = {
		.from = on ? STATE_BIT(SANDBOX_PAUSING) | STATE_BIT(SANDBOX_RUNNING)
			   : STATE_BIT(SANDBOX_RESUMING) | STATE_BIT(SANDBOX_PAUSED),
		.to = on == !err ? SANDBOX_PAUSED : SANDBOX_RUNNING,
		.reason = on ? "paused" : "running",
		.message = on ? "Sandbox is paused." : "Sandbox is running again.",
	};
	if (err) {
		t.reason = on ? "pause_failed" : "resume_failed";
		t.message = err->message;
	}
	(void)sandboxes_move(sb->all, box->id, &t);
	sandbox_do_wanted(sb);
	sandboxes_check_drained(sb->all);
}
