/*
 * sandbox_recover.c - the start: rows and what is on the machine are brought together again.
 */
#include "sandboxd/sandbox_priv.h"

#include <stdio.h>

#include "lib/log.h"

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
		sandbox_on_frozen(&sb->box, on, &err);
}

/* It was a spare that had been told all when its row was written: it serves, or is about to. */
static int recover_claimed(struct sandbox *sb, const char *handle)
{
	struct runtime *rt = sb->all->env.runtime;

	int r = rt->ops->adopt(rt, &sb->box, handle);
	if (r < 0)
		return r;
	(void)snprintf(sb->handle, sizeof(sb->handle), "%s", handle);
	sb->answered = false;
	sandbox_ask_agent(sb);
	return 0;
}

static void recover_one(struct sandbox *sb, const char *handle)
{
	struct runtime *rt = sb->all->env.runtime;

	switch (sb->state) {
	case SANDBOX_PENDING:
		if (*handle && recover_claimed(sb, handle) == 0)
			return;
		(void)sandbox_fail(sb, "interrupted", "sandboxd was stopped while it created the sandbox.",
				   false);
		return;
	case SANDBOX_STOPPING:
		if (*handle)
			(void)rt->ops->adopt(rt, &sb->box, handle);
		sandbox_tear_down(sb, false);
		return;
	default:
		if (*handle && rt->ops->adopt(rt, &sb->box, handle) == 0) {
			log_info("sandbox %s: adopted", sb->box.id);
			recover_step(sb);
			return;
		}
		(void)sandbox_fail(
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
	sandbox_tear_down(sb, false);
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
	sandboxes_recover_snapshots(all);
	sweeper_kick(all->sweeper);
	sandboxes_spares_kick(all);
	return r < 0 ? err_sys(err, "SANDBOX::UNKNOWN_ERROR", -r, "look for leftovers") : 0;
}
