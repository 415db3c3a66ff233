/*
 * store_priv.h - what the files of the store share: store.c (sandboxes),
 * store_log.c (events, settings, answers that are remembered), store_snapshot.c.
 */
#pragma once

#include <pthread.h>
#include <sqlite3.h>

#include "sandboxd/store.h"

enum statement {
	ST_BEGIN,
	ST_COMMIT,
	ST_ROLLBACK,
	ST_INSERT,
	ST_INSERT_PAIR,
	ST_DELETE_PAIRS,
	ST_GET,
	ST_STATE,
	ST_MOVE,
	ST_EXPIRES,
	ST_FORGET,
	ST_NEXT,
	ST_DUE,
	ST_COUNT,
	ST_TIMING,
	ST_EVENT,
	ST_EVENTS,
	ST_SETTING_GET,
	ST_SETTING_PUT,
	ST_IDEM_GET,
	ST_IDEM_PUT,
	ST_IDEM_PRUNE,
	ST_SNAP_INSERT,
	ST_SNAP_GET,
	ST_SNAP_MOVE,
	ST_SNAP_DELETE,
	STATEMENTS,
};

struct store {
	sqlite3 *db;
	sqlite3_stmt *statements[STATEMENTS];
	unsigned depth; /* of store_begin() */

	char *path;
	pthread_t checkpointer;
	pthread_mutex_t lock; /* over the three below */
	pthread_cond_t wake;
	bool started, due, stopping;
};

#define SANDBOX_COLUMNS                                                                                      \
	"s.id, s.state, s.reason, s.message, s.created_ms, s.transition_ms, s.expires_ms, s.deadline_ms, "   \
	"s.image, s.entrypoint, s.platform, s.runtime, s.handle, s.port, s.token, s.timing, s.snapshot, "    \
	"s.volumes, "                                                                                        \
	"(SELECT json_group_object(m.key, m.value) FROM metadata m WHERE m.sandbox = s.id)"
#define SNAPSHOT_COLUMNS "id, sandbox, name, state, reason, message, created_ms, transition_ms, image"

int store_err(struct store *s, struct err *err, const char *what);
/* Room on disk for the store alone: before the database is opened, and after. */
void store_reserve_database(const char *path);
void store_reserve_log(struct store *s);
/*
 * Runs one that gives no rows. types has a letter a value: t text or NULL, u a uint64_t, m one of
 * which 0 is NULL, n an int. Texts are borrowed during the call.
 */
int store_run(struct store *s, enum statement which, const char *types, ...);
/*
 * 1: *ret stands at its first row; 0: there is none; -EIO. Whichever it is, store_done(*ret) follows,
 * and texts are borrowed until then.
 */
int store_first(struct store *s, enum statement which, sqlite3_stmt **ret, const char *types, ...);
int store_next(sqlite3_stmt *st);  /* as store_first() */
void store_done(sqlite3_stmt *st); /* NULL is fine */
void store_bind_text(sqlite3_stmt *st, int i, const char *text);
const char *store_text_at(sqlite3_stmt *st, int i);
uint64_t store_ms_at(sqlite3_stmt *st, int i);
/* What has happened to a sandbox or a snapshot, for its diagnostics; failure is only logged. */
void store_note(struct store *s, const char *id, uint64_t at_ms, const char *state, const char *reason,
		const char *message);

/* A page of rows, newest first. prepare() makes a statement of its own: head, the tables, the filter, tail.
 */
struct store_lister {
	sqlite3_stmt *(*prepare)(struct store *s, const char *head, const void *filter, const char *tail);
	const void *filter;
	const char *head;			 /* SELECT and the columns */
	int (*row)(sqlite3_stmt *st, void *arg); /* non-zero stops and is returned */
	void *arg;
};
int store_list_page(struct store *s, const struct store_lister *l, uint64_t offset, uint32_t limit,
		    uint64_t *ret_total, struct err *err);
