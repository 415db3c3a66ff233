/*
 * store_db.c - owns the database connection, its schema and its prepared statements.
 *
 * Statements are prepared on first use and kept. Everything happens on the loop
 * thread: one call is some ten microseconds, and with synchronous=NORMAL in WAL
 * mode no commit waits for the disk. Checkpoints do, so SQLite is kept from
 * making them here; the thread below makes them on a connection of its own.
 */
#include "sandboxd/store_priv.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "lib/log.h"

#define SCHEMA_VERSION	 3
#define BUSY_TIMEOUT_MS	 2000
#define CHECKPOINT_PAGES 1000 /* of the write-ahead log, 4 KiB each */

static const char *const sql[STATEMENTS] = {
	[ST_BEGIN] = "BEGIN IMMEDIATE",
	[ST_COMMIT] = "COMMIT",
	[ST_ROLLBACK] = "ROLLBACK",
	[ST_INSERT] = "INSERT INTO sandboxes (id, state, reason, message, created_ms, transition_ms, "
		      "expires_ms, deadline_ms, image, entrypoint, platform, runtime, handle, port, token, "
		      "snapshot, "
		      "volumes) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17)",
	[ST_INSERT_PAIR] = "INSERT INTO metadata (sandbox, key, value) VALUES (?1,?2,?3)",
	[ST_DELETE_PAIRS] = "DELETE FROM metadata WHERE sandbox = ?1",
	[ST_GET] = "SELECT " SANDBOX_COLUMNS " FROM sandboxes s WHERE s.id = ?1",
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

/* From 2 to 3. A page is found in the index alone, however many rows are skipped. */
static const char schema_3[] = "DROP INDEX sandboxes_created;"
			       "CREATE INDEX sandboxes_page ON sandboxes(created_ms DESC, id, state);"
			       "PRAGMA user_version = 3;";

/* ---- errors ----------------------------------------------------------- */

/* Never ENOENT, EEXIST or ESTALE: of those a row is said not to be there, or to be there, or to be another.
 */
static int errno_of(sqlite3 *db)
{
	int system = sqlite3_system_errno(db);

	switch (sqlite3_errcode(db) & 0xff) {
	case SQLITE_FULL:
		return ENOSPC;
	case SQLITE_NOMEM:
		return ENOMEM;
	case SQLITE_BUSY:
		return EAGAIN;
	case SQLITE_IOERR:
	case SQLITE_CANTOPEN:
		return system == ENOSPC || system == EDQUOT || system == EMFILE || system == ENFILE ? system
												    : EIO;
	default:
		return EIO;
	}
}

int store_err(struct store *s, struct err *err, const char *what)
{
	int errnum = errno_of(s->db);
	bool full = errnum == ENOSPC || errnum == EDQUOT;
	enum err_kind kind = full ? ERR_STORAGE : errnum == EIO ? ERR_INTERNAL : ERR_UNAVAILABLE;

	return err_set(err, kind, "STORE_ERROR", errnum, "store: %s: %s%s", what, sqlite3_errmsg(s->db),
		       full ? ": no space is left for it" : "");
}

/* ---- statements -------------------------------------------------------- */

static int prepare(struct store *s, enum statement which, sqlite3_stmt **ret)
{
	sqlite3_stmt **slot = &s->statements[which];
	if (!*slot &&
	    sqlite3_prepare_v3(s->db, sql[which], -1, SQLITE_PREPARE_PERSISTENT, slot, NULL) != SQLITE_OK)
		return -EIO;
	*ret = *slot;
	return 0;
}

void store_bind_text(sqlite3_stmt *st, int i, const char *text)
{
	(void)sqlite3_bind_text(st, i, text, -1, SQLITE_STATIC);
}

static void bind_ms(sqlite3_stmt *st, int i, uint64_t ms)
{
	if (ms)
		(void)sqlite3_bind_int64(st, i, (sqlite3_int64)ms);
	else
		(void)sqlite3_bind_null(st, i);
}

static void bind(sqlite3_stmt *st, const char *types, va_list values)
{
	for (int i = 1; *types; i++, types++)
		switch (*types) {
		case 't':
			store_bind_text(st, i, va_arg(values, const char *));
			break;
		case 'm':
			bind_ms(st, i, va_arg(values, uint64_t));
			break;
		case 'u':
			(void)sqlite3_bind_int64(st, i, (sqlite3_int64)va_arg(values, uint64_t));
			break;
		default:
			assert(*types == 'n');
			(void)sqlite3_bind_int64(st, i, va_arg(values, int));
		}
}

void store_done(sqlite3_stmt *st)
{
	if (!st)
		return;
	(void)sqlite3_reset(st);
	(void)sqlite3_clear_bindings(st);
}

int store_run(struct store *s, enum statement which, const char *types, ...)
{
	sqlite3_stmt *st;
	va_list values;

	if (prepare(s, which, &st) < 0)
		return -EIO;
	va_start(values, types);
	bind(st, types, values);
	va_end(values);
	int r = sqlite3_step(st);
	store_done(st);
	return r == SQLITE_DONE ? 0 : -EIO;
}

int store_first(struct store *s, enum statement which, sqlite3_stmt **ret, const char *types, ...)
{
	va_list values;

	*ret = NULL;
	if (prepare(s, which, ret) < 0)
		return -EIO;
	va_start(values, types);
	bind(*ret, types, values);
	va_end(values);
	return store_next(*ret);
}

int store_next(sqlite3_stmt *st)
{
	int step = sqlite3_step(st);
	return step == SQLITE_ROW ? 1 : step == SQLITE_DONE ? 0 : -EIO;
}

/* ---- lists -------------------------------------------------------------- */

static int list_total(struct store *s, const struct store_lister *l, uint64_t *ret)
{
	sqlite3_stmt *st = l->prepare(s, "SELECT count(*)", l->filter, "");
	int r = st && sqlite3_step(st) == SQLITE_ROW ? 0 : -EIO;

	if (r == 0)
		*ret = store_ms_at(st, 0);
	(void)sqlite3_finalize(st);
	return r;
}

int store_list_page(struct store *s, const struct store_lister *l, uint64_t offset, uint32_t limit,
		    uint64_t *ret_total, struct err *err)
{
	char tail[96];
	int r = 0, step = SQLITE_DONE;

	if (ret_total && list_total(s, l, ret_total) < 0)
		return store_err(s, err, "count");
	(void)snprintf(tail, sizeof(tail), " ORDER BY created_ms DESC, id LIMIT %u OFFSET %llu", limit,
		       (unsigned long long)MIN(offset, (uint64_t)INT64_MAX));
	sqlite3_stmt *st = l->prepare(s, l->head, l->filter, tail);
	while (st && r == 0 && (step = sqlite3_step(st)) == SQLITE_ROW)
		r = l->row(st, l->arg);
	if (!st || (r == 0 && step != SQLITE_DONE))
		r = store_err(s, err, "list");
	(void)sqlite3_finalize(st);
	return r;
}

/* ---- transactions ------------------------------------------------------- */

int store_begin(struct store *s, struct err *err)
{
	if (s->depth == 0 && store_run(s, ST_BEGIN, "") < 0)
		return store_err(s, err, "begin");
	s->depth++;
	return 0;
}

int store_end(struct store *s, int result, struct err *err)
{
	if (--s->depth > 0)
		return result;
	if (result >= 0 && store_run(s, ST_COMMIT, "") < 0)
		result = store_err(s, err, "commit");
	if (result < 0)
		(void)store_run(s, ST_ROLLBACK, "");
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

static int migrate(struct store *s, int version)
{
	static const char *const steps[SCHEMA_VERSION] = {schema, schema_2, schema_3};

	for (int i = version; i < SCHEMA_VERSION; i++)
		if (sqlite3_exec(s->db, steps[i], NULL, NULL, NULL) != SQLITE_OK)
			return -EIO;
	return 0;
}

static int set_up(struct store *s, struct err *err)
{
	static const char pragmas[] = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
				      "PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY;";

	(void)sqlite3_busy_timeout(s->db, BUSY_TIMEOUT_MS);
	if (sqlite3_exec(s->db, pragmas, NULL, NULL, NULL) != SQLITE_OK)
		return store_err(s, err, "open");
	int version = user_version(s);
	if (version < 0)
		return store_err(s, err, "read the version");
	if (version > SCHEMA_VERSION)
		return err_set(err, ERR_INVALID, "STORE_ERROR", 0,
			       "store: '%s' was written by a newer sandboxd (schema %d, this one knows %d)",
			       s->path, version, SCHEMA_VERSION);
	if (version < SCHEMA_VERSION &&
	    (store_run(s, ST_BEGIN, "") < 0 || migrate(s, version) < 0 || store_run(s, ST_COMMIT, "") < 0))
		return store_err(s, err, "create the tables");
	store_reserve_log(s);
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
	store_reserve_database(path);
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

const char *store_text_at(sqlite3_stmt *st, int i)
{
	return (const char *)sqlite3_column_text(st, i);
}

uint64_t store_ms_at(sqlite3_stmt *st, int i)
{
	return (uint64_t)sqlite3_column_int64(st, i);
}
