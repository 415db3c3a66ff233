/*
 * store.c - owns the database connection, its prepared statements and the rows of sandboxes.
 *
 * Statements are prepared on first use and kept. Everything happens on the loop
 * thread: one call is some ten microseconds, and with synchronous=NORMAL in WAL
 * mode no commit waits for the disk. Checkpoints do, so SQLite is kept from
 * making them here; the thread below makes them on a connection of its own.
 */
#include "sandboxd/store_priv.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "lib/log.h"

#define SCHEMA_VERSION	 2
#define BUSY_TIMEOUT_MS	 2000
#define CHECKPOINT_PAGES 1000 /* of the write-ahead log, 4 KiB each */
#define COLUMNS                                                                                              \
	"s.id, s.state, s.reason, s.message, s.created_ms, s.transition_ms, s.expires_ms, s.deadline_ms, "   \
	"s.image, s.entrypoint, s.platform, s.runtime, s.handle, s.port, s.token, s.timing, s.snapshot, "    \
	"s.volumes, "                                                                                        \
	"(SELECT json_group_object(m.key, m.value) FROM metadata m WHERE m.sandbox = s.id)"

const char *const store_sql[STATEMENTS] = {
	[ST_BEGIN] = "BEGIN IMMEDIATE",
	[ST_COMMIT] = "COMMIT",
	[ST_ROLLBACK] = "ROLLBACK",
	[ST_INSERT] = "INSERT INTO sandboxes (id, state, reason, message, created_ms, transition_ms, "
		      "expires_ms, deadline_ms, image, entrypoint, platform, runtime, handle, port, token, "
		      "snapshot, "
		      "volumes) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17)",
	[ST_INSERT_PAIR] = "INSERT INTO metadata (sandbox, key, value) VALUES (?1,?2,?3)",
	[ST_DELETE_PAIRS] = "DELETE FROM metadata WHERE sandbox = ?1",
	[ST_GET] = "SELECT " COLUMNS " FROM sandboxes s WHERE s.id = ?1",
	[ST_STATE] = "SELECT state, expires_ms FROM sandboxes WHERE id = ?1",
	[ST_MOVE] = "UPDATE sandboxes SET state = ?3, reason = coalesce(?4, reason), "
		    "message = coalesce(?5, message), "
		    "transition_ms = CASE WHEN state = ?3 THEN transition_ms ELSE ?6 END, "
		    "deadline_ms = CASE WHEN ?8 THEN expires_ms ELSE ?7 END, "
		    "handle = coalesce(?9, handle), port = CASE WHEN ?10 THEN ?10 ELSE port END "
		    "WHERE id = ?1 AND ((1 << state) & ?2) != 0",
	[ST_EXPIRES] = "UPDATE sandboxes SET expires_ms = ?2, "
		       "deadline_ms = CASE WHEN state IN (1,3) THEN ?2 ELSE deadline_ms END "
		       "WHERE id = ?1 AND expires_ms IS NOT NULL AND state < 5",
	[ST_FORGET] = "DELETE FROM sandboxes WHERE id = ?1",
	[ST_NEXT] = "SELECT min(deadline_ms) FROM sandboxes",
	[ST_DUE] = "SELECT id, state FROM sandboxes WHERE deadline_ms <= ?1 ORDER BY deadline_ms LIMIT 1",
	[ST_TIMING] = "UPDATE sandboxes SET timing = ?2 WHERE id = ?1",
	[ST_EVENT] = "INSERT INTO events (object, at_ms, state, reason, message) VALUES (?1,?2,?3,?4,?5)",
	[ST_EVENTS] = "SELECT at_ms, state, reason, message FROM events WHERE object = ?1 ORDER BY seq DESC "
		      "LIMIT ?2",
	[ST_SETTING_GET] = "SELECT value FROM settings WHERE name = ?1",
	[ST_SETTING_PUT] = "INSERT INTO settings (name, value) VALUES (?1,?2)",
	[ST_IDEM_GET] = "SELECT request, status, location, body FROM answers WHERE key = ?1 AND at_ms > ?2",
	[ST_IDEM_PUT] = "INSERT OR REPLACE INTO answers (key, request, status, location, body, at_ms) "
			"VALUES (?1,?2,?3,?4,?5,?6)",
	[ST_IDEM_PRUNE] = "DELETE FROM answers WHERE at_ms <= ?1",
	[ST_SNAP_INSERT] = "INSERT INTO snapshots (id, sandbox, name, state, reason, message, created_ms, "
			   "transition_ms, image) VALUES (?1,?2,?3,?4,?5,?6,?7,?7,?8)",
	[ST_SNAP_GET] = "SELECT " SNAPSHOT_COLUMNS " FROM snapshots WHERE id = ?1",
	[ST_SNAP_MOVE] = "UPDATE snapshots SET state = ?3, reason = ?4, message = ?5, transition_ms = ?6 "
			 "WHERE id = ?1 AND ((1 << state) & ?2) != 0",
	[ST_SNAP_DELETE] = "DELETE FROM snapshots WHERE id = ?1",
	[ST_COUNT] = "SELECT count(*) FROM sandboxes WHERE ((1 << state) & ?1) != 0",
};

/* The states in SQL above are numbers of the enum; they stand in databases and never change. */
_Static_assert(SANDBOX_PENDING == 0 && SANDBOX_RUNNING == 1 && SANDBOX_PAUSED == 3 && SANDBOX_STOPPING == 5 &&
		       SANDBOX_TERMINATED == 6 && SANDBOX_FAILED == 7,
	       "numbers in the database");

static const char schema[] =
	"CREATE TABLE sandboxes ("
	" id TEXT PRIMARY KEY, state INTEGER NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL,"
	" created_ms INTEGER NOT NULL, transition_ms INTEGER NOT NULL, expires_ms INTEGER,"
	" deadline_ms INTEGER, image TEXT NOT NULL, entrypoint TEXT NOT NULL, platform TEXT,"
	" runtime TEXT NOT NULL, handle TEXT, port INTEGER NOT NULL) WITHOUT ROWID;"
	"CREATE TABLE metadata ("
	" sandbox TEXT NOT NULL REFERENCES sandboxes(id) ON DELETE CASCADE, key TEXT NOT NULL,"
	" value TEXT NOT NULL, PRIMARY KEY (sandbox, key)) WITHOUT ROWID;"
	"CREATE INDEX sandboxes_deadline ON sandboxes(deadline_ms) WHERE deadline_ms IS NOT NULL;"
	"CREATE INDEX sandboxes_created ON sandboxes(created_ms DESC, id);"
	"CREATE INDEX sandboxes_state ON sandboxes(state);"
	"CREATE INDEX metadata_pair ON metadata(key, value);"
	"PRAGMA user_version = 1;";

/* From version 1 to 2. Events name sandboxes and snapshots alike; a trigger forgets them together. */
static const char schema_2[] =
	"ALTER TABLE sandboxes ADD COLUMN token TEXT;"
	"ALTER TABLE sandboxes ADD COLUMN timing TEXT;"
	"ALTER TABLE sandboxes ADD COLUMN snapshot TEXT;"
	"ALTER TABLE sandboxes ADD COLUMN volumes TEXT;"
	"CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
	"CREATE TABLE answers ("
	" key TEXT PRIMARY KEY, request TEXT NOT NULL, status INTEGER NOT NULL, location TEXT,"
	" body TEXT NOT NULL, at_ms INTEGER NOT NULL) WITHOUT ROWID;"
	"CREATE INDEX answers_age ON answers(at_ms);"
	"CREATE TABLE events ("
	" seq INTEGER PRIMARY KEY, object TEXT NOT NULL, at_ms INTEGER NOT NULL, state TEXT NOT NULL,"
	" reason TEXT, message TEXT);"
	"CREATE INDEX events_object ON events(object, seq);"
	"CREATE TRIGGER events_end AFTER DELETE ON sandboxes BEGIN"
	" DELETE FROM events WHERE object = old.id; END;"
	"CREATE TABLE snapshots ("
	" id TEXT PRIMARY KEY, sandbox TEXT NOT NULL, name TEXT, state INTEGER NOT NULL,"
	" reason TEXT NOT NULL, message TEXT NOT NULL, created_ms INTEGER NOT NULL,"
	" transition_ms INTEGER NOT NULL, image TEXT NOT NULL) WITHOUT ROWID;"
	"CREATE INDEX snapshots_created ON snapshots(created_ms DESC, id);"
	"CREATE INDEX snapshots_sandbox ON snapshots(sandbox);"
	"PRAGMA user_version = 2;";

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

/* ---- errors ----------------------------------------------------------- */

int store_err(struct store *s, struct err *err, const char *what)
{
	int code = sqlite3_errcode(s->db);
	bool full = code == SQLITE_FULL || code == SQLITE_IOERR;
	int errnum = full ? ENOSPC : EIO;

	return err_set(err, full ? ERR_STORAGE : ERR_INTERNAL, "STORE_ERROR", errnum, "store: %s: %s", what,
		       sqlite3_errmsg(s->db));
}

static int no_such(struct err *err, const char *id)
{
	(void)err_set(err, ERR_NOT_FOUND, "DOCKER::SANDBOX_NOT_FOUND", ENOENT, "sandbox '%.64s' not found",
		      id);
	return -ENOENT;
}

/* ---- statements -------------------------------------------------------- */

int store_prepare(struct store *s, enum statement which, sqlite3_stmt **ret)
{
	sqlite3_stmt **slot = &s->statements[which];
	if (!*slot && sqlite3_prepare_v3(s->db, store_sql[which], -1, SQLITE_PREPARE_PERSISTENT, slot,
					 NULL) != SQLITE_OK)
		return -EIO;
	*ret = *slot;
	return 0;
}

void store_bind_text(sqlite3_stmt *st, int i, const char *text)
{
	(void)sqlite3_bind_text(st, i, text, -1, SQLITE_STATIC);
}

void store_bind_ms(sqlite3_stmt *st, int i, uint64_t ms)
{
	if (ms)
		(void)sqlite3_bind_int64(st, i, (sqlite3_int64)ms);
	else
		(void)sqlite3_bind_null(st, i);
}

/* Runs a statement that gives no rows and makes it ready for the next time. */
int store_run(sqlite3_stmt *st)
{
	int r = sqlite3_step(st);
	(void)sqlite3_reset(st);
	(void)sqlite3_clear_bindings(st);
	return r == SQLITE_DONE ? 0 : -EIO;
}

static int exec_one(struct store *s, enum statement which)
{
	sqlite3_stmt *st;
	int r = store_prepare(s, which, &st);
	return r < 0 ? r : store_run(st);
}

/* ---- transactions ------------------------------------------------------- */

int store_begin(struct store *s, struct err *err)
{
	if (s->depth == 0 && exec_one(s, ST_BEGIN) < 0)
		return store_err(s, err, "begin");
	s->depth++;
	return 0;
}

int store_end(struct store *s, int result, struct err *err)
{
	if (--s->depth > 0)
		return result;
	if (result >= 0 && exec_one(s, ST_COMMIT) < 0)
		result = store_err(s, err, "commit");
	if (result < 0)
		(void)exec_one(s, ST_ROLLBACK);
	return result;
}

/* ---- checkpoints: a thread of its own ----------------------------------- */

static void checkpoint(sqlite3 *db)
{
	/* As a statement: the call of that name does nothing on a connection that has not read yet. */
	if (sqlite3_exec(db, "PRAGMA wal_checkpoint(PASSIVE)", NULL, NULL, NULL) != SQLITE_OK)
		log_warn("store: checkpoint: %s", sqlite3_errmsg(db));
}

static void *checkpointer(void *arg)
{
	struct store *s = arg;
	sqlite3 *db = NULL;

	if (sqlite3_open_v2(s->path, &db, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK)
		log_warn("store: open for checkpoints: %s", sqlite3_errmsg(db));
	(void)pthread_mutex_lock(&s->lock);
	while (s->due || !s->stopping) {
		if (!s->due) {
			(void)pthread_cond_wait(&s->wake, &s->lock);
			continue;
		}
		s->due = false;
		(void)pthread_mutex_unlock(&s->lock);
		checkpoint(db);
		(void)pthread_mutex_lock(&s->lock);
	}
	(void)pthread_mutex_unlock(&s->lock);
	(void)sqlite3_close(db);
	return NULL;
}

/* After each commit, on the loop thread. */
static int on_commit(void *arg, sqlite3 *db, const char *name, int pages)
{
	struct store *s = arg;

	(void)db;
	(void)name;
	if (pages < CHECKPOINT_PAGES)
		return SQLITE_OK;
	(void)pthread_mutex_lock(&s->lock);
	if (!s->started)
		s->started = pthread_create(&s->checkpointer, NULL, checkpointer, s) == 0;
	s->due = true;
	(void)pthread_cond_signal(&s->wake);
	(void)pthread_mutex_unlock(&s->lock);
	return SQLITE_OK;
}

/* ---- open -------------------------------------------------------------- */

static int user_version(struct store *s)
{
	sqlite3_stmt *st;
	int version = -1;

	if (sqlite3_prepare_v2(s->db, "PRAGMA user_version", -1, &st, NULL) != SQLITE_OK)
		return -1;
	if (sqlite3_step(st) == SQLITE_ROW)
		version = sqlite3_column_int(st, 0);
	(void)sqlite3_finalize(st);
	return version;
}

static int set_up(struct store *s, struct err *err)
{
	static const char pragmas[] = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
				      "PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY;";

	(void)sqlite3_busy_timeout(s->db, BUSY_TIMEOUT_MS);
	if (sqlite3_exec(s->db, pragmas, NULL, NULL, NULL) != SQLITE_OK)
		return store_err(s, err, "open");
	int version = user_version(s);
	if (version > SCHEMA_VERSION)
		return err_set(err, ERR_INVALID, "STORE_ERROR", 0,
			       "store: '%s' was written by a newer sandboxd (schema %d, this one knows %d)",
			       s->path, version, SCHEMA_VERSION);
	if (version < SCHEMA_VERSION) {
		if (exec_one(s, ST_BEGIN) < 0 ||
		    (version == 0 && sqlite3_exec(s->db, schema, NULL, NULL, NULL) != SQLITE_OK) ||
		    sqlite3_exec(s->db, schema_2, NULL, NULL, NULL) != SQLITE_OK ||
		    exec_one(s, ST_COMMIT) < 0)
			return store_err(s, err, "create the tables");
	}
	(void)sqlite3_wal_hook(s->db, on_commit, s); /* replaces SQLite's own checkpoints */
	return 0;
}

int store_open(const char *path, struct store **ret, struct err *err)
{
	struct store *s = calloc(1, sizeof(*s));
	if (!s || !(s->path = strdup(path))) {
		free(s);
		return err_set(err, ERR_INTERNAL, "STORE_ERROR", ENOMEM, "out of memory");
	}
	(void)pthread_mutex_init(&s->lock, NULL);
	(void)pthread_cond_init(&s->wake, NULL);

	int r = 0;
	if (sqlite3_open_v2(path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) != SQLITE_OK)
		r = err_set(err, ERR_STORAGE, "STORE_ERROR", EIO, "store: open '%s': %s", path,
			    sqlite3_errmsg(s->db));
	if (r == 0)
		r = set_up(s, err);
	if (r < 0) {
		store_close(s);
		return r;
	}
	*ret = s;
	return 0;
}

void store_close(struct store *s)
{
	if (!s)
		return;
	if (s->started) {
		(void)pthread_mutex_lock(&s->lock);
		s->stopping = true;
		(void)pthread_cond_signal(&s->wake);
		(void)pthread_mutex_unlock(&s->lock);
		(void)pthread_join(s->checkpointer, NULL);
	}
	for (size_t i = 0; i < STATEMENTS; i++)
		(void)sqlite3_finalize(s->statements[i]);
	(void)sqlite3_close(s->db);
	(void)pthread_cond_destroy(&s->wake);
	(void)pthread_mutex_destroy(&s->lock);
	free(s->path);
	free(s);
}

/* ---- rows --------------------------------------------------------------- */

const char *store_text_at(sqlite3_stmt *st, int i)
{
	return (const char *)sqlite3_column_text(st, i);
}

uint64_t store_ms_at(sqlite3_stmt *st, int i)
{
	return (uint64_t)sqlite3_column_int64(st, i);
}

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

static int insert_pairs(struct store *s, const struct record *row, struct err *err)
{
	json_t *pairs = json_loads(row->metadata ? row->metadata : "{}", 0, NULL);
	const char *key = NULL;
	json_t *value;
	sqlite3_stmt *st;
	int r = 0;

	if (!pairs || store_prepare(s, ST_INSERT_PAIR, &st) < 0)
		r = store_err(s, err, "insert metadata");
	else
		json_object_foreach(pairs, key, value)
		{
			store_bind_text(st, 1, row->id);
			store_bind_text(st, 2, key);
			store_bind_text(st, 3, json_string_value(value));
			if (store_run(st) < 0) {
				r = store_err(s, err, "insert metadata");
				break;
			}
		}
	json_decref(pairs);
	return r;
}

static int insert_row(struct store *s, const struct record *row, struct err *err)
{
	sqlite3_stmt *st;

	if (store_prepare(s, ST_INSERT, &st) < 0)
		return store_err(s, err, "insert");
	store_bind_text(st, 1, row->id);
	(void)sqlite3_bind_int(st, 2, (int)row->state);
	store_bind_text(st, 3, row->reason);
	store_bind_text(st, 4, row->message);
	(void)sqlite3_bind_int64(st, 5, (sqlite3_int64)row->created_ms);
	(void)sqlite3_bind_int64(st, 6, (sqlite3_int64)row->transition_ms);
	store_bind_ms(st, 7, row->expires_ms);
	store_bind_ms(st, 8, row->deadline_ms);
	store_bind_text(st, 9, row->image);
	store_bind_text(st, 10, row->entrypoint);
	store_bind_text(st, 11, row->platform);
	store_bind_text(st, 12, row->runtime);
	store_bind_text(st, 13, row->handle);
	(void)sqlite3_bind_int(st, 14, row->port);
	store_bind_text(st, 15, row->token);
	store_bind_text(st, 16, row->snapshot);
	store_bind_text(st, 17, row->volumes);
	if (store_run(st) == 0) {
		store_note(s, row->id, row->created_ms, sandbox_state_name(row->state), row->reason,
			   row->message);
		return insert_pairs(s, row, err);
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
	int r;

	if (store_prepare(s, ST_GET, &st) < 0)
		return store_err(s, err, "get");
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
		r = store_err(s, err, "get");
	}
	(void)sqlite3_reset(st);
	return r;
}

/* Why an UPDATE met no row: there is none, or it is in another state. */
static int unmoved(struct store *s, const char *id, struct err *err)
{
	sqlite3_stmt *st;
	int r;

	if (store_prepare(s, ST_STATE, &st) < 0)
		return store_err(s, err, "get");
	store_bind_text(st, 1, id);
	switch (sqlite3_step(st)) {
	case SQLITE_ROW:
		r = err_set(err, ERR_CONFLICT, "SANDBOX::INVALID_STATE", ESTALE, "sandbox '%.64s' is %s", id,
			    sandbox_state_name((enum sandbox_state)sqlite3_column_int(st, 0)));
		break;
	case SQLITE_DONE:
		r = no_such(err, id);
		break;
	default:
		r = store_err(s, err, "get");
	}
	(void)sqlite3_reset(st);
	return r;
}

int store_move(struct store *s, const char *id, const struct transition *t, struct err *err)
{
	sqlite3_stmt *st;

	if (store_prepare(s, ST_MOVE, &st) < 0)
		return store_err(s, err, "change the state");
	store_bind_text(st, 1, id);
	(void)sqlite3_bind_int(st, 2, (int)t->from);
	(void)sqlite3_bind_int(st, 3, (int)t->to);
	store_bind_text(st, 4, t->reason);
	store_bind_text(st, 5, t->message);
	(void)sqlite3_bind_int64(st, 6, (sqlite3_int64)t->now_ms);
	store_bind_ms(st, 7, t->deadline_ms);
	(void)sqlite3_bind_int(st, 8, t->until_expiry);
	store_bind_text(st, 9, t->handle);
	(void)sqlite3_bind_int(st, 10, t->port);
	if (store_run(st) < 0)
		return store_err(s, err, "change the state");
	if (!sqlite3_changes(s->db))
		return unmoved(s, id, err);
	store_note(s, id, t->now_ms, sandbox_state_name(t->to), t->reason, t->message);
	return 0;
}

int store_set_timing(struct store *s, const char *id, const char *timing, struct err *err)
{
	sqlite3_stmt *st;

	if (store_prepare(s, ST_TIMING, &st) < 0)
		return store_err(s, err, "note the timing");
	store_bind_text(st, 1, id);
	store_bind_text(st, 2, timing);
	return store_run(st) < 0 ? store_err(s, err, "note the timing") : 0;
}

int store_set_expires(struct store *s, const char *id, uint64_t expires_ms, struct err *err)
{
	sqlite3_stmt *st;

	if (store_prepare(s, ST_EXPIRES, &st) < 0)
		return store_err(s, err, "renew");
	store_bind_text(st, 1, id);
	(void)sqlite3_bind_int64(st, 2, (sqlite3_int64)expires_ms);
	if (store_run(st) < 0)
		return store_err(s, err, "renew");
	return sqlite3_changes(s->db) ? 0 : unmoved(s, id, err);
}

static int replace_pairs(struct store *s, const char *id, const char *metadata, struct err *err)
{
	const struct record row = {.id = id, .metadata = metadata};
	sqlite3_stmt *st;

	if (store_prepare(s, ST_DELETE_PAIRS, &st) < 0)
		return store_err(s, err, "change metadata");
	store_bind_text(st, 1, id);
	if (store_run(st) < 0)
		return store_err(s, err, "change metadata");
	return insert_pairs(s, &row, err);
}

int store_set_metadata(struct store *s, const char *id, const char *metadata, struct err *err)
{
	int r = store_begin(s, err);
	return r < 0 ? r : store_end(s, replace_pairs(s, id, metadata, err), err);
}

int store_forget(struct store *s, const char *id, struct err *err)
{
	sqlite3_stmt *st;

	if (store_prepare(s, ST_FORGET, &st) < 0)
		return store_err(s, err, "forget");
	store_bind_text(st, 1, id);
	if (store_run(st) < 0)
		return store_err(s, err, "forget");
	return sqlite3_changes(s->db) ? 0 : no_such(err, id);
}

/* ---- deadlines ----------------------------------------------------------- */

int store_next_deadline(struct store *s, uint64_t *ret_ms)
{
	sqlite3_stmt *st;
	int r = -ENOENT;

	if (store_prepare(s, ST_NEXT, &st) < 0)
		return -EIO;
	if (sqlite3_step(st) == SQLITE_ROW && sqlite3_column_type(st, 0) != SQLITE_NULL) {
		*ret_ms = store_ms_at(st, 0);
		r = 0;
	}
	(void)sqlite3_reset(st);
	return r;
}

int store_due(struct store *s, uint64_t now_ms, char ret_id[64], enum sandbox_state *ret_state)
{
	sqlite3_stmt *st;
	int r = 0;

	if (store_prepare(s, ST_DUE, &st) < 0)
		return -EIO;
	(void)sqlite3_bind_int64(st, 1, (sqlite3_int64)now_ms);
	switch (sqlite3_step(st)) {
	case SQLITE_ROW:
		(void)snprintf(ret_id, 64, "%s", store_text_at(st, 0));
		*ret_state = (enum sandbox_state)sqlite3_column_int(st, 1);
		r = 1;
		break;
	case SQLITE_DONE:
		break;
	default:
		r = -EIO;
	}
	(void)sqlite3_reset(st);
	return r;
}

/* ---- lists ----------------------------------------------------------------- */

/* The text is ours; every value is bound. */
static void filter_sql(char *out, size_t size, const char *head, const struct store_filter *f,
		       const char *tail)
{
	int n = snprintf(out, size, "%s FROM sandboxes s WHERE s.state IN (", head);
	const char *comma = "";

	for (unsigned i = 0; i < SANDBOX_STATES; i++)
		if (f->states & STATE_BIT(i)) {
			n += snprintf(out + n, size - (size_t)n, "%s%u", comma, i);
			comma = ",";
		}
	n += snprintf(out + n, size - (size_t)n, ")");
	for (size_t i = 0; i < f->metadata_n; i++)
		n += snprintf(out + n, size - (size_t)n,
			      " AND EXISTS (SELECT 1 FROM metadata m WHERE m.sandbox = s.id AND m.key = ?%zu "
			      "AND m.value = ?%zu)",
			      2 * i + 1, 2 * i + 2);
	(void)snprintf(out + n, size - (size_t)n, "%s", tail);
}

static sqlite3_stmt *filter_prepare(struct store *s, const char *head, const struct store_filter *f,
				    const char *tail)
{
	char text[4096];
	sqlite3_stmt *st;

	filter_sql(text, sizeof(text), head, f, tail);
	if (sqlite3_prepare_v2(s->db, text, -1, &st, NULL) != SQLITE_OK)
		return NULL;
	for (size_t i = 0; i < f->metadata_n; i++) {
		store_bind_text(st, (int)(2 * i + 1), f->metadata[i].key);
		store_bind_text(st, (int)(2 * i + 2), f->metadata[i].value);
	}
	return st;
}

static int filter_total(struct store *s, const struct store_filter *f, uint64_t *ret, struct err *err)
{
	sqlite3_stmt *st = filter_prepare(s, "SELECT count(*)", f, "");
	int r = -EIO;

	if (st && sqlite3_step(st) == SQLITE_ROW) {
		*ret = (uint64_t)sqlite3_column_int64(st, 0);
		r = 0;
	}
	if (r < 0)
		r = store_err(s, err, "count");
	(void)sqlite3_finalize(st);
	return r;
}

int store_list(struct store *s, const struct store_filter *filter, uint64_t offset, uint32_t limit,
	       store_row_fn *fn, void *arg, uint64_t *ret_total, struct err *err)
{
	char tail[96];
	struct record row;
	int r = 0, step;

	if (filter->metadata_n > STORE_FILTER_PAIRS_MAX)
		return err_set(err, ERR_INVALID, "SANDBOX::INVALID_PARAMETER", 0,
			       "metadata: more than %d pairs", STORE_FILTER_PAIRS_MAX);
	if (ret_total) {
		r = filter_total(s, filter, ret_total, err);
		if (r < 0)
			return r;
	}
	(void)snprintf(tail, sizeof(tail), " ORDER BY s.created_ms DESC, s.id LIMIT %u OFFSET %llu", limit,
		       (unsigned long long)MIN(offset, (uint64_t)INT64_MAX));
	sqlite3_stmt *st = filter_prepare(s, "SELECT " COLUMNS, filter, tail);
	if (!st)
		return store_err(s, err, "list");
	while ((step = sqlite3_step(st)) == SQLITE_ROW) {
		read_row(st, &row);
		r = fn(&row, arg);
		if (r != 0)
			break;
	}
	if (r == 0 && step != SQLITE_DONE)
		r = store_err(s, err, "list");
	(void)sqlite3_finalize(st);
	return r;
}

int store_count(struct store *s, unsigned states, uint64_t *ret, struct err *err)
{
	sqlite3_stmt *st;
	int r = -EIO;

	if (store_prepare(s, ST_COUNT, &st) < 0)
		return store_err(s, err, "count");
	(void)sqlite3_bind_int64(st, 1, states);
	if (sqlite3_step(st) == SQLITE_ROW) {
		*ret = (uint64_t)sqlite3_column_int64(st, 0);
		r = 0;
	}
	(void)sqlite3_reset(st);
	return r < 0 ? store_err(s, err, "count") : 0;
}
