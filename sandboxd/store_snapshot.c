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
	int r = store_run(s, ST_SNAP_INSERT, "tttnttut", row->id, row->sandbox, row->name, (int)row->state,
			  row->reason, row->message, row->created_ms, row->image);
	return r < 0 ? store_err(s, err, "insert a snapshot") : 0;
}

int store_snapshot_get(struct store *s, const char *id, snapshot_row_fn *fn, void *arg, struct err *err)
{
	struct snapshot_record row;
	sqlite3_stmt *st;

	int r = store_first(s, ST_SNAP_GET, &st, "t", id);
	if (r > 0) {
		read_row(st, &row);
		r = fn(&row, arg);
	} else {
		r = r < 0 ? store_err(s, err, "get a snapshot") : no_such(err, id);
	}
	store_done(st);
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

	if (store_run(s, ST_SNAP_MOVE, "tnnttu", id, (int)from, (int)to, reason, message, now_ms) < 0)
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
	if (store_run(s, ST_SNAP_DELETE, "t", id) < 0)
		return store_err(s, err, "delete a snapshot");
	return sqlite3_changes(s->db) ? 0 : no_such(err, id);
}

struct filter {
	unsigned states;
	const char *sandbox;
};

static sqlite3_stmt *filter_prepare(struct store *s, const char *head, const void *filter, const char *tail)
{
	const struct filter *f = filter;
	char text[512];
	sqlite3_stmt *st;

	(void)snprintf(text, sizeof(text),
		       "%s FROM snapshots WHERE ((1 << state) & ?1) != 0 AND (?2 IS NULL OR sandbox = ?2)%s",
		       head, tail);
	if (sqlite3_prepare_v2(s->db, text, -1, &st, NULL) != SQLITE_OK)
		return NULL;
	(void)sqlite3_bind_int(st, 1, (int)f->states);
	store_bind_text(st, 2, f->sandbox);
	return st;
}

struct rows {
	snapshot_row_fn *fn;
	void *arg;
};

static int give_row(sqlite3_stmt *st, void *arg)
{
	const struct rows *rows = arg;
	struct snapshot_record row;

	read_row(st, &row);
	return rows->fn(&row, rows->arg);
}

int store_snapshot_list(struct store *s, unsigned states, const char *sandbox, uint64_t offset,
			uint32_t limit, snapshot_row_fn *fn, void *arg, uint64_t *ret_total, struct err *err)
{
	const struct filter filter = {.states = states, .sandbox = sandbox};
	struct rows rows = {.fn = fn, .arg = arg};
	const struct store_lister lister = {
		.prepare = filter_prepare,
		.filter = &filter,
		.head = "SELECT " SNAPSHOT_COLUMNS,
		.row = give_row,
		.arg = &rows,
	};

	return store_list_page(s, &lister, offset, limit, ret_total, err);
}
