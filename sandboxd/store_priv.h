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

#define SNAPSHOT_COLUMNS "id, sandbox, name, state, reason, message, created_ms, transition_ms, image"

extern const char *const store_sql[STATEMENTS];

int store_err(struct store *s, struct err *err, const char *what);
/* Prepared on first use and kept; *ret is reset and without bindings. */
int store_prepare(struct store *s, enum statement which, sqlite3_stmt **ret);
void store_bind_text(sqlite3_stmt *st, int i, const char *text);
void store_bind_ms(sqlite3_stmt *st, int i, uint64_t ms);
/* Runs a statement that gives no rows and makes it ready for the next time. */
int store_run(sqlite3_stmt *st);
const char *store_text_at(sqlite3_stmt *st, int i);
uint64_t store_ms_at(sqlite3_stmt *st, int i);
/* What has happened to a sandbox or a snapshot, for its diagnostics; failure is only logged. */
void store_note(struct store *s, const char *id, uint64_t at_ms, const char *state, const char *reason,
		const char *message);
