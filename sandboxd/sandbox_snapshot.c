/*
 * sandbox_snapshot.c - snapshots of sandboxes: taking them, removing them, and what a killed server left of
 * them.
 */
#include "sandboxd/sandbox_priv.h"

#include <stdio.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/log.h"

/* Moves a snapshot and tells who waits for it. */
static int move_snapshot(struct sandboxes *all, const char *snapshot, unsigned from, enum snapshot_state to,
			 const char *reason, const char *message, struct err *err)
{
	int r = store_snapshot_move(all->env.store, snapshot, from, to, reason, message, clock_real_ms(),
				    err);
	if (r == 0)
		sandboxes_tell(all, snapshot);
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
	sandboxes_tell(all, snapshot);
}

static void remove_snapshot(struct sandboxes *all, const char *snapshot)
{
	struct runtime *rt = all->env.runtime;

	int r = rt->ops->snapshot_delete ? rt->ops->snapshot_delete(rt, snapshot, on_snapshot_removed, all)
					 : -ENOTSUP;
	if (r < 0 && r != -EBUSY)
		log_warn("snapshot %s: remove: errno %d", snapshot, -r);
}

static int see_snapshot(const struct snapshot_record *row, void *arg)
{
	*(enum snapshot_state *)arg = row->state;
	return 0;
}

/* A record of another store: that one was lost, and its snapshots are Ready, for others are not kept. */
static bool rebuild_snapshot(struct sandboxes *all, const struct runtime_found *found)
{
	json_t *record = found->record ? json_loads(found->record, 0, NULL) : NULL;
	const char *store = json_string_value(json_object_get(record, "store"));
	const char *image = json_string_value(json_object_get(record, "image"));
	const struct snapshot_record row = {
		.id = found->id,
		.sandbox = found->of,
		.state = SNAPSHOT_READY,
		.reason = "rebuilt",
		.message = "Found after the store was lost.",
		.created_ms = clock_real_ms(),
		.image = image,
	};
	struct err err;
	bool lost = store && image && found->of && strcmp(store, all->store_id) != 0;

	if (lost && store_snapshot_insert(all->env.store, &row, &err) < 0)
		log_error("snapshot %s: %s", found->id, err.message);
	else if (lost)
		log_info("snapshot %s: its row was lost and is rebuilt", found->id);
	json_decref(record);
	return lost;
}

void sandboxes_snapshot_found(struct sandboxes *all, const struct runtime_found *found)
{
	enum snapshot_state state = SNAPSHOT_FAILED;
	struct err err;

	int r = store_snapshot_get(all->env.store, found->id, see_snapshot, &state, &err);
	if (r == 0 ? state == SNAPSHOT_FAILED : r == -ENOENT && !rebuild_snapshot(all, found))
		remove_snapshot(all, found->id);
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
void sandboxes_retry_snapshot_deletes(struct sandboxes *all)
{
	struct snapshot_ids c;

	snapshots_in(all, SNAPSHOT_DELETING, &c);
	for (size_t i = 0; i < c.n; i++)
		remove_snapshot(all, c.ids[i]);
	snapshot_ids_done(&c);
}

void sandbox_snapshot_failed(struct sandbox *sb, const char *reason, const char *message)
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

int sandbox_take_snapshot(struct sandbox *sb, struct err *err)
{
	struct runtime *rt = sb->all->env.runtime;

	int r = rt->ops->snapshot ? rt->ops->snapshot(rt, &sb->box, sb->taking, err)
				  : err_set(err, ERR_NOT_SUPPORTED, "SANDBOX::API_NOT_SUPPORTED", ENOTSUP,
					    "this runtime takes no snapshots");
	if (r < 0)
		sandbox_snapshot_failed(sb, "runtime_error", err->message);
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
		r = sandbox_not_in_state(err, "SNAPSHOT::INVALID_SOURCE_STATE", id, "running");
	else if (*sb->taking || sb->pause_wanted)
		r = err_set(err, ERR_CONFLICT, "SNAPSHOT::INVALID_SOURCE_STATE", EBUSY,
			    "sandbox '%.64s' is busy with another snapshot or a pause", id);
	if (r == 0)
		r = store_snapshot_insert(all->env.store, &new, err);
	free((char *)new.image);
	if (r < 0 || !sb)
		return r;
	memcpy(sb->taking, ret_id, RANDOM_UUID_MAX);
	return sb->state == SANDBOX_RUNNING ? sandbox_take_snapshot(sb, err) : 0;
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
void sandboxes_recover_snapshots(struct sandboxes *all)
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
	sandboxes_retry_snapshot_deletes(all);
}

void sandbox_on_snapshotted(struct runtime_box *box, const char *snapshot, const struct err *why)
{
	struct sandbox *sb = container_of(box, struct sandbox, box);
	struct err err;

	if (why) {
		sandbox_snapshot_failed(sb, "snapshot_capture_failed", why->message);
	} else {
		sb->taking[0] = '\0';
		log_info("snapshot %s of sandbox %s: Ready", snapshot, box->id);
		if (move_snapshot(sb->all, snapshot, STATE_BIT(SNAPSHOT_CREATING), SNAPSHOT_READY,
				  "snapshot_ready", "Snapshot is ready.", &err) < 0) {
			log_error("snapshot %s: %s", snapshot, err.message);
			remove_snapshot(sb->all, snapshot); /* nobody can know of it */
		}
	}
	sandboxes_check_drained(sb->all);
}
