/*
 * store.c - the rows of sandboxes.
 */
#include "sandboxd/store_priv.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* ---- states ----------------------------------------------------------- */

static const char *const state_names[SANDBOX_STATES] = {
	[SANDBOX_PENDING] = "Pending",	     [SANDBOX_RUNNING] = "Running",   [SANDBOX_PAUSING] = "Pausing",
	[SANDBOX_PAUSED] = "Paused",	     [SANDBOX_RESUMING] = "Resuming", [SANDBOX_STOPPING] = "Stopping",
	[SANDBOX_TERMINATED] = "Terminated", [SANDBOX_FAILED] = "Failed",
};

const char *sandbox_state_name(enum sandbox_state state)
{
	return state_names[state];
}

int sandbox_state_parse(const char *name, enum sandbox_state *ret)
{
	for (unsigned i = 0; i < SANDBOX_STATES; i++)
		if (strcasecmp(name, state_names[i]) == 0) {
			*ret = i;
			return 0;
		}
	return -EINVAL;
}

static int no_such(struct err *err, const char *id)
{
	(void)err_set(err, ERR_NOT_FOUND, "DOCKER::SANDBOX_NOT_FOUND", ENOENT, "sandbox '%.64s' not found",
		      id);
	return -ENOENT;
}

/* ---- rows --------------------------------------------------------------- */

static void read_row(sqlite3_stmt *st, struct record *row)
{
	*row = (struct record){
		.id = store_text_at(st, 0),
		.state = (enum sandbox_state)sqlite3_column_int(st, 1),
		.reason = store_text_at(st, 2),
		.message = store_text_at(st, 3),
		.created_ms = store_ms_at(st, 4),
		.transition_ms = store_ms_at(st, 5),
		.expires_ms = store_ms_at(st, 6),
		.deadline_ms = store_ms_at(st, 7),
		.image = store_text_at(st, 8),
		.entrypoint = store_text_at(st, 9),
		.platform = store_text_at(st, 10),
		.runtime = store_text_at(st, 11),
		.handle = store_text_at(st, 12),
		.port = (uint16_t)sqlite3_column_int(st, 13),
		.token = store_text_at(st, 14),
		.timing = store_text_at(st, 15),
		.snapshot = store_text_at(st, 16),
		.volumes = store_text_at(st, 17),
		.metadata = store_text_at(st, 18),
	};
}

static int insert_pairs(struct store *s, const char *id, const char *metadata, struct err *err)
{
	json_t *pairs = json_loads(metadata ? metadata : "{}", 0, NULL);
	const char *key = NULL;
	json_t *value;
	int r = pairs ? 0 : -EIO;

	json_object_foreach(pairs, key, value)
	{
		r = store_run(s, ST_INSERT_PAIR, "ttt", id, key, json_string_value(value));
		if (r < 0)
			break;
	}
	json_decref(pairs);
	return r < 0 ? store_err(s, err, "insert metadata") : 0;
}

static int insert_row(struct store *s, const struct record *row, struct err *err)
{
	int r = store_run(s, ST_INSERT, "tnttuummtttttnttt", row->id, (int)row->state, row->reason,
			  row->message, row->created_ms, row->transition_ms, row->expires_ms,
			  row->deadline_ms, row->image, row->entrypoint, row->platform, row->runtime,
			  row->handle, row->port, row->token, row->snapshot, row->volumes);
	if (r == 0) {
		store_note(s, row->id, row->created_ms, sandbox_state_name(row->state), row->reason,
			   row->message);
		return insert_pairs(s, row->id, row->metadata, err);
	}
	if (sqlite3_extended_errcode(s->db) == SQLITE_CONSTRAINT_PRIMARYKEY)
		return err_set(err, ERR_CONFLICT, "STORE_ERROR", EEXIST, "sandbox '%.64s' exists", row->id);
	return store_err(s, err, "insert");
}

int store_insert(struct store *s, const struct record *row, struct err *err)
{
	int r = store_begin(s, err);
	return r < 0 ? r : store_end(s, insert_row(s, row, err), err);
}

int store_get(struct store *s, const char *id, store_row_fn *fn, void *arg, struct err *err)
{
	sqlite3_stmt *st;
	struct record row;

	int r = store_first(s, ST_GET, &st, "t", id);
	if (r > 0) {
		read_row(st, &row);
		r = fn(&row, arg);
	} else {
		r = r < 0 ? store_err(s, err, "get") : no_such(err, id);
	}
	store_done(st);
	return r;
}

/* Why an UPDATE met no row: there is none, or it is in another state. */
static int unmoved(struct store *s, const char *id, struct err *err)
{
	sqlite3_stmt *st;

	int r = store_first(s, ST_STATE, &st, "t", id);
	if (r > 0)
		r = err_set(err, ERR_CONFLICT, "SANDBOX::INVALID_STATE", ESTALE, "sandbox '%.64s' is %s", id,
			    sandbox_state_name((enum sandbox_state)sqlite3_column_int(st, 0)));
	else
		r = r < 0 ? store_err(s, err, "get") : no_such(err, id);
	store_done(st);
	return r;
}

int store_move(struct store *s, const char *id, const struct transition *t, struct err *err)
{
	if (store_run(s, ST_MOVE, "tnnttumntn", id, (int)t->from, (int)t->to, t->reason, t->message,
		      t->now_ms, t->deadline_ms, (int)t->until_expiry, t->handle, (int)t->port) < 0)
		return store_err(s, err, "change the state");
	if (!sqlite3_changes(s->db))
		return unmoved(s, id, err);
	store_note(s, id, t->now_ms, sandbox_state_name(t->to), t->reason, t->message);
	return 0;
}

int store_set_timing(struct store *s, const char *id, const char *timing, struct err *err)
{
	return store_run(s, ST_TIMING, "tt", id, timing) < 0 ? store_err(s, err, "note the timing") : 0;
}

int store_set_expires(struct store *s, const char *id, uint64_t expires_ms, struct err *err)
{
	if (store_run(s, ST_EXPIRES, "tu", id, expires_ms) < 0)
		return store_err(s, err, "renew");
	return sqlite3_changes(s->db) ? 0 : unmoved(s, id, err);
}

static int replace_pairs(struct store *s, const char *id, const char *metadata, struct err *err)
{
	if (store_run(s, ST_DELETE_PAIRS, "t", id) < 0)
		return store_err(s, err, "change metadata");
	return insert_pairs(s, id, metadata, err);
}

int store_set_metadata(struct store *s, const char *id, const char *metadata, struct err *err)
{
	int r = store_begin(s, err);
	return r < 0 ? r : store_end(s, replace_pairs(s, id, metadata, err), err);
}

int store_forget(struct store *s, const char *id, struct err *err)
{
	if (store_run(s, ST_FORGET, "t", id) < 0)
		return store_err(s, err, "forget");
	return sqlite3_changes(s->db) ? 0 : no_such(err, id);
}

/* ---- deadlines ----------------------------------------------------------- */

int store_next_deadline(struct store *s, uint64_t *ret_ms)
{
	sqlite3_stmt *st;
	int r = store_first(s, ST_NEXT, &st, "");

	if (r > 0)
		*ret_ms = store_ms_at(st, 0);
	r = r < 0 ? r : r > 0 && sqlite3_column_type(st, 0) != SQLITE_NULL ? 0 : -ENOENT;
	store_done(st);
	return r;
}

int store_due(struct store *s, uint64_t now_ms, char ret_id[64], enum sandbox_state *ret_state)
{
	sqlite3_stmt *st;
	int r = store_first(s, ST_DUE, &st, "u", now_ms);

	if (r > 0) {
		(void)snprintf(ret_id, 64, "%s", store_text_at(st, 0));
		*ret_state = (enum sandbox_state)sqlite3_column_int(st, 1);
	}
	store_done(st);
	return r;
}

/* ---- lists ----------------------------------------------------------------- */

/*
 * The text is ours; every value is bound. The plus keeps SQLite from the index of states: the ids of a page
 * are read off the index of times, instead of all rows being made and sorted for it.
 */
static void filter_sql(char *out, size_t size, const char *head, const struct store_filter *f,
		       const char *tail)
{
	int n = snprintf(out, size, "%s FROM sandboxes s WHERE +s.state IN (", head);
	const char *comma = "";

	for (unsigned i = 0; i < SANDBOX_STATES; i++)
		if (f->states & STATE_BIT(i)) {
			n += snprintf(out + n, size - (size_t)n, "%s%u", comma, i);
			comma = ",";
		}
	n += snprintf(out + n, size - (size_t)n, ")");
	for (size_t i = 0; i < f->metadata_n; i++)
		n += snprintf(out + n, size - (size_t)n,
			      " AND s.id IN (SELECT sandbox FROM metadata WHERE key = ?%zu AND value = ?%zu)",
			      2 * i + 1, 2 * i + 2);
	(void)snprintf(out + n, size - (size_t)n, "%s", tail);
}

static sqlite3_stmt *filter_prepare(struct store *s, const char *head, const void *filter, const char *tail)
{
	static const char page[] = "SELECT " SANDBOX_COLUMNS " FROM (%s) p CROSS JOIN sandboxes s "
				   "ON s.id = p.id ORDER BY s.created_ms DESC, s.id";
	const struct store_filter *f = filter;
	char inner[4096], text[sizeof(page) + sizeof(inner)];
	sqlite3_stmt *st;

	filter_sql(inner, sizeof(inner), head, f, tail);
	(void)snprintf(text, sizeof(text), *tail ? page : "%s", inner);
	if (sqlite3_prepare_v2(s->db, text, -1, &st, NULL) != SQLITE_OK)
		return NULL;
	for (size_t i = 0; i < f->metadata_n; i++) {
		store_bind_text(st, (int)(2 * i + 1), f->metadata[i].key);
		store_bind_text(st, (int)(2 * i + 2), f->metadata[i].value);
	}
	return st;
}

struct rows {
	store_row_fn *fn;
	void *arg;
};

static int give_row(sqlite3_stmt *st, void *arg)
{
	const struct rows *rows = arg;
	struct record row;

	read_row(st, &row);
	return rows->fn(&row, rows->arg);
}

int store_list(struct store *s, const struct store_filter *filter, uint64_t offset, uint32_t limit,
	       store_row_fn *fn, void *arg, uint64_t *ret_total, struct err *err)
{
	struct rows rows = {.fn = fn, .arg = arg};
	const struct store_lister lister = {
		.prepare = filter_prepare,
		.filter = filter,
		.head = "SELECT s.id", /* filter_prepare() finds the rest */
		.row = give_row,
		.arg = &rows,
	};

	if (filter->metadata_n > STORE_FILTER_PAIRS_MAX)
		return err_set(err, ERR_INVALID, "SANDBOX::INVALID_PARAMETER", 0,
			       "metadata: more than %d pairs", STORE_FILTER_PAIRS_MAX);
	return store_list_page(s, &lister, offset, limit, ret_total, err);
}

int store_count(struct store *s, unsigned states, uint64_t *ret, struct err *err)
{
	sqlite3_stmt *st;
	int r = store_first(s, ST_COUNT, &st, "n", (int)states);

	if (r > 0)
		*ret = store_ms_at(st, 0);
	store_done(st);
	return r > 0 ? 0 : store_err(s, err, "count");
}
