/*
 * store_snapshot.c - the rows of snapshots.
 */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "sandboxd/store_priv.h"

/* Numbers of the enum stand in databases and never change. */
_Static_assert(SNAPSHOT_CREATING == 0 && SNAPSHOT_READY == 1 && SNAPSHOT_FAILED == 2 &&
		       SNAPSHOT_DELETING == 3,
	       "numbers in the database");

static const char *const names[SNAPSHOT_STATES] = {
	[SNAPSHOT_CREATING] = "Creating",
	[SNAPSHOT_READY] = "Ready",
	[SNAPSHOT_FAILED] = "Failed",
	[SNAPSHOT_DELETING] = "Deleting",
};

const char *snapshot_state_name(enum snapshot_state state)
{
	return names[state];
}

int snapshot_state_parse(const char *name, enum snapshot_state *ret)
{
	for (unsigned i = 0; i < SNAPSHOT_STATES; i++)
		if (strcasecmp(name, names[i]) == 0) {
			*ret = i;
			return 0;
		}
	return -EINVAL;
}

static int no_such(struct err *err, const char *id)
{
	(void)err_set(err, ERR_NOT_FOUND, "SNAPSHOT::NOT_FOUND", ENOENT, "snapshot '%.64s' not found", id);
	return -ENOENT;
}

static void read_row(sqlite3_stmt *st, struct snapshot_record *row)
{
	*row = (struct snapshot_record){
		.id = store_text_at(st, 0),
		.sandbox = store_text_at(st, 1),
		.name = store_text_at(st, 2),
		.state = (enum snapshot_state)sqlite3_column_int(st, 3),
		.reason = store_text_at(st, 4),
		.message = store_text_at(st, 5),
		.created_ms = store_ms_at(st, 6),
		.transition_ms = store_ms_at(st, 7),
		.image = store_text_at(st, 8),
	};
}

int store_snapshot_insert(struct store *s, const struct snapshot_record *row, struct err *err)
{
	sqlite3_stmt *st;

	if (store_prepare(s, ST_SNAP_INSERT, &st) < 0)
		return store_err(s, err, "insert a snapshot");
	store_bind_text(st, 1, row->id);
	store_bind_text(st, 2, row->sandbox);
	store_bind_text(st, 3, row->name);
	(void)sqlite3_bind_int(st, 4, (int)row->state);
	store_bind_text(st, 5, row->reason);
	store_bind_text(st, 6, row->message);
	store_bind_ms(st, 7, row->created_ms);
	store_bind_text(st, 8, row->image);
	return store_run(st) < 0 ? store_err(s, err, "insert a snapshot") : 0;
}

int store_snapshot_get(struct store *s, const char *id, snapshot_row_fn *fn, void *arg, struct err *err)
{
	struct snapshot_record row;
	sqlite3_stmt *st;
	int r;

	if (store_prepare(s, ST_SNAP_GET, &st) < 0)
		return store_err(s, err, "get a snapshot");
	store_bind_text(st, 1, id);
	switch (sqlite3_step(st)) {
	case SQLITE_ROW:
		read_row(st, &row);
		r = fn(&row, arg);
		break;
	case SQLITE_DONE:
		r = no_such(err, id);
		break;
	default:
		r = store_err(s, err, "get a snapshot");
	}
	(void)sqlite3_reset(st);
	return r;
}

static int see_state(const struct snapshot_record *row, void *arg)
{
	*(enum snapshot_state *)arg = row->state;
	return 0;
}

int store_snapshot_move(struct store *s, const char *id, unsigned from, enum snapshot_state to,
			const char *reason, const char *message, uint64_t now_ms, struct err *err)
{
	enum snapshot_state state = 0;
	sqlite3_stmt *st;

	if (store_prepare(s, ST_SNAP_MOVE, &st) < 0)
		return store_err(s, err, "change a snapshot");
	store_bind_text(st, 1, id);
	(void)sqlite3_bind_int(st, 2, (int)from);
	(void)sqlite3_bind_int(st, 3, (int)to);
	store_bind_text(st, 4, reason);
	store_bind_text(st, 5, message);
	store_bind_ms(st, 6, now_ms);
	if (store_run(st) < 0)
		return store_err(s, err, "change a snapshot");
	if (sqlite3_changes(s->db))
		return 0;
	int r = store_snapshot_get(s, id, see_state, &state, err);
	return r < 0 ? r
		     : err_set(err, ERR_CONFLICT, "SNAPSHOT::INVALID_STATE", ESTALE, "snapshot '%.64s' is %s",
			       id, snapshot_state_name(state));
}

int store_snapshot_delete(struct store *s, const char *id, struct err *err)
{
	sqlite3_stmt *st;

	if (store_prepare(s, ST_SNAP_DELETE, &st) < 0)
		return store_err(s, err, "delete a snapshot");
	store_bind_text(st, 1, id);
	if (store_run(st) < 0)
		return store_err(s, err, "delete a snapshot");
	return sqlite3_changes(s->db) ? 0 : no_such(err, id);
}

static sqlite3_stmt *list_prepare(struct store *s, const char *head, unsigned states, const char *sandbox,
				  const char *tail)
{
	char text[512];
	sqlite3_stmt *st;

	(void)snprintf(text, sizeof(text),
		       "%s FROM snapshots WHERE ((1 << state) & ?1) != 0 AND (?2 IS NULL OR sandbox = ?2)%s",
		       head, tail);
	if (sqlite3_prepare_v2(s->db, text, -1, &st, NULL) != SQLITE_OK)
		return NULL;
	(void)sqlite3_bind_int(st, 1, (int)states);
	store_bind_text(st, 2, sandbox);
	return st;
}

int store_snapshot_list(struct store *s, unsigned states, const char *sandbox, uint64_t offset,
			uint32_t limit, snapshot_row_fn *fn, void *arg, uint64_t *ret_total, struct err *err)
{
	struct snapshot_record row;
	char tail[96];
	int r = 0, step = SQLITE_DONE;

	sqlite3_stmt *st = list_prepare(s, "SELECT count(*)", states, sandbox, "");
	if (!st || sqlite3_step(st) != SQLITE_ROW) {
		(void)sqlite3_finalize(st);
		return store_err(s, err, "list snapshots");
	}
	if (ret_total)
		*ret_total = store_ms_at(st, 0);
	(void)sqlite3_finalize(st);
	(void)snprintf(tail, sizeof(tail), " ORDER BY created_ms DESC, id LIMIT %u OFFSET %llu", limit,
		       (unsigned long long)MIN(offset, (uint64_t)INT64_MAX));
	st = list_prepare(s, "SELECT " SNAPSHOT_COLUMNS, states, sandbox, tail);
	while (st && r == 0 && (step = sqlite3_step(st)) == SQLITE_ROW) {
		read_row(st, &row);
		r = fn(&row, arg);
	}
	if (!st || (r == 0 && step != SQLITE_DONE))
		r = store_err(s, err, "list snapshots");
	(void)sqlite3_finalize(st);
	return r;
}
