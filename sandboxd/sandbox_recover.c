/*
 * sandbox_recover.c - the start: rows and what is on the machine are brought together again.
 */
#include "sandboxd/sandbox_priv.h"

#include <stdio.h>
#include <string.h>

#include "lib/clock.h"
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

/* ---- what is on the machine and in no row -------------------------------------- */

static int see_nothing(const struct record *row, void *arg)
{
	(void)row;
	(void)arg;
	return 0;
}

static bool has_row(struct sandboxes *all, const char *id)
{
	struct err err;
	return store_get(all->env.store, id, see_nothing, NULL, &err) != -ENOENT;
}

/* What had been renewed has more time than its record says: it gets its first span again. */
static uint64_t expiry_of(const json_t *record, uint64_t now_ms)
{
	uint64_t timeout_ms = (uint64_t)json_integer_value(json_object_get(record, "timeoutS")) * 1000;
	uint64_t expires_ms = (uint64_t)json_integer_value(json_object_get(record, "createdMs")) + timeout_ms;

	if (timeout_ms == 0)
		return 0;
	return expires_ms > now_ms ? expires_ms : now_ms + timeout_ms;
}

static int insert_again(struct sandboxes *all, const struct runtime_found *found, const json_t *record)
{
	const uint64_t now_ms = clock_real_ms();
	const json_t *platform = json_object_get(record, "platform");
	_cleanup_free_ char *entrypoint = json_dumps(json_object_get(record, "entrypoint"), JSON_COMPACT);
	_cleanup_free_ char *metadata = json_dumps(json_object_get(record, "metadata"), JSON_COMPACT);
	_cleanup_free_ char *platform_text = platform ? json_dumps(platform, JSON_COMPACT) : NULL;
	const char *image = json_string_value(json_object_get(record, "image"));
	struct record row = {
		.id = found->id,
		.state = found->paused ? SANDBOX_PAUSED : SANDBOX_RUNNING,
		.reason = "rebuilt",
		.message =
			json_is_true(json_object_get(record, "secure"))
				? "Found running after the store was lost; its access token was lost with it."
				: "Found running after the store was lost.",
		.created_ms = (uint64_t)json_integer_value(json_object_get(record, "createdMs")),
		.transition_ms = now_ms,
		.expires_ms = expiry_of(record, now_ms),
		.deadline_ms = expiry_of(record, now_ms),
		.image = image,
		.entrypoint = entrypoint,
		.metadata = metadata,
		.platform = platform_text,
		.runtime = all->env.runtime->ops->name,
		.handle = found->handle,
		.port = found->port,
		.snapshot = json_string_value(json_object_get(record, "snapshot")),
	};
	struct err err;

	if (!image || !entrypoint || !metadata)
		return -EINVAL;
	int r = store_insert(all->env.store, &row, &err);
	if (r < 0)
		log_error("sandbox %s: %s", found->id, err.message);
	return r;
}

/*
 * A record of another store is that of a store that was lost: its sandboxes are
 * wanted. One of this store without a row was never told to anybody.
 */
static bool rebuild(struct sandboxes *all, const struct runtime_found *found)
{
	json_t *record =
		found->record && found->handle && found->port ? json_loads(found->record, 0, NULL) : NULL;
	const char *store = json_string_value(json_object_get(record, "store"));
	struct sandbox *sb = NULL;

	if (store && strcmp(store, all->store_id) != 0 && !has_row(all, found->id) &&
	    insert_again(all, found, record) == 0)
		sb = sandbox_new(all, found->id, found->paused ? SANDBOX_PAUSED : SANDBOX_RUNNING);
	json_decref(record);
	if (!sb)
		return false;
	sb->box.port = found->port;
	sb->started = sb->answered = true;
	if (all->env.runtime->ops->adopt(all->env.runtime, &sb->box, found->handle) < 0) {
		(void)sandbox_fail(sb, "container_lost", "Sandbox container ended while it was adopted.",
				   false);
		return true;
	}
	log_info("sandbox %s: its row was lost and is rebuilt", found->id);
	sweeper_kick(all->sweeper);
	return true;
}

static void on_sandbox_found(void *arg, const struct runtime_found *found)
{
	struct sandboxes *all = arg;

	if (sandbox_find(all, found->id) || rebuild(all, found))
		return;
	struct sandbox *sb = sandbox_new(all, found->id, SANDBOX_TERMINATED);
	if (!sb)
		return;
	log_info("sandbox %s: removing what was left of it", found->id);
	sandbox_tear_down(sb, false);
}

static void on_snapshot_found(void *arg, const struct runtime_found *found)
{
	sandboxes_snapshot_found(arg, found);
}

static void on_away(void *arg, bool away)
{
	struct sandboxes *all = arg;

	all->away = away;
	sandboxes_check_drained(all);
}

int sandboxes_recover(struct sandboxes *all, struct err *err)
{
	struct runtime *rt = all->env.runtime;
	struct recovery rec = {.all = all};

	int r = store_secret(all->env.store, "store-id", all->store_id, STORE_ID_DIGITS, err);
	if (r == 0)
		r = collect_all(&rec, err);
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
	const struct runtime_finder finder = {
		.sandbox = on_sandbox_found, .snapshot = on_snapshot_found, .away = on_away, .arg = all};
	r = rt->ops->leftovers(rt, &finder);
	sandboxes_recover_snapshots(all);
	sweeper_kick(all->sweeper);
	sandboxes_spares_kick(all);
	return r < 0 ? err_sys(err, "SANDBOX::UNKNOWN_ERROR", -r, "look for leftovers") : 0;
}
