/*
 * store_log.c - what is remembered beside the rows: events, secrets, answers.
 */
#include <string.h>

#include "lib/log.h"
#include "lib/random.h"
#include "sandboxd/store_priv.h"

/* ---- events ----------------------------------------------------------------- */

void store_note(struct store *s, const char *id, uint64_t at_ms, const char *state, const char *reason,
		const char *message)
{
	sqlite3_stmt *st;

	if (store_prepare(s, ST_EVENT, &st) < 0)
		return;
	store_bind_text(st, 1, id);
	store_bind_ms(st, 2, at_ms);
	store_bind_text(st, 3, state);
	store_bind_text(st, 4, reason);
	store_bind_text(st, 5, message);
	if (store_run(st) < 0)
		log_warn("store: event of %s: %s", id, sqlite3_errmsg(s->db));
}

int store_events(struct store *s, const char *id, uint32_t limit,
		 void (*fn)(const struct store_event *e, void *arg), void *arg, struct err *err)
{
	sqlite3_stmt *st;
	int step;

	if (store_prepare(s, ST_EVENTS, &st) < 0)
		return store_err(s, err, "events");
	store_bind_text(st, 1, id);
	(void)sqlite3_bind_int64(st, 2, limit);
	while ((step = sqlite3_step(st)) == SQLITE_ROW) {
		const struct store_event e = {
			.at_ms = store_ms_at(st, 0),
			.state = store_text_at(st, 1),
			.reason = store_text_at(st, 2),
			.message = store_text_at(st, 3),
		};
		fn(&e, arg);
	}
	int r = step == SQLITE_DONE ? 0 : store_err(s, err, "events");
	(void)sqlite3_reset(st);
	return r;
}

/* ---- secrets ------------------------------------------------------------------ */

static int secret_get(struct store *s, const char *name, char *ret, size_t n)
{
	sqlite3_stmt *st;
	int r = 0;

	if (store_prepare(s, ST_SETTING_GET, &st) < 0)
		return -EIO;
	store_bind_text(st, 1, name);
	if (sqlite3_step(st) == SQLITE_ROW && strlen(store_text_at(st, 0)) == n) {
		memcpy(ret, store_text_at(st, 0), n + 1);
		r = 1;
	}
	(void)sqlite3_reset(st);
	return r;
}

int store_secret(struct store *s, const char *name, char *ret, size_t n, struct err *err)
{
	sqlite3_stmt *st;

	int r = secret_get(s, name, ret, n);
	if (r > 0)
		return 0;
	if (r < 0 || store_prepare(s, ST_SETTING_PUT, &st) < 0)
		return store_err(s, err, "secret");
	(void)random_hex(ret, n);
	store_bind_text(st, 1, name);
	store_bind_text(st, 2, ret);
	return store_run(st) < 0 ? store_err(s, err, "secret") : 0;
}

/* ---- answers -------------------------------------------------------------------- */

int store_answer_get(struct store *s, const char *key, uint64_t now_ms,
		     int (*fn)(const struct store_answer *a, void *arg), void *arg, struct err *err)
{
	sqlite3_stmt *st;
	int r = 0;

	if (store_prepare(s, ST_IDEM_GET, &st) < 0)
		return store_err(s, err, "look for an answer");
	store_bind_text(st, 1, key);
	(void)sqlite3_bind_int64(st, 2, (sqlite3_int64)(now_ms - MIN(now_ms, STORE_ANSWER_MS)));
	int step = sqlite3_step(st);
	if (step == SQLITE_ROW) {
		const struct store_answer a = {
			.request = store_text_at(st, 0),
			.status = (unsigned)sqlite3_column_int(st, 1),
			.location = store_text_at(st, 2),
			.body = store_text_at(st, 3),
		};
		r = fn(&a, arg);
		r = r < 0 ? r : 1;
	} else if (step != SQLITE_DONE) {
		r = store_err(s, err, "look for an answer");
	}
	(void)sqlite3_reset(st);
	return r;
}

int store_answer_put(struct store *s, const char *key, const struct store_answer *a, uint64_t now_ms,
		     struct err *err)
{
	sqlite3_stmt *st;

	if (store_prepare(s, ST_IDEM_PRUNE, &st) < 0)
		return store_err(s, err, "remember an answer");
	(void)sqlite3_bind_int64(st, 1, (sqlite3_int64)(now_ms - MIN(now_ms, STORE_ANSWER_MS)));
	if (store_run(st) < 0 || store_prepare(s, ST_IDEM_PUT, &st) < 0)
		return store_err(s, err, "remember an answer");
	store_bind_text(st, 1, key);
	store_bind_text(st, 2, a->request);
	(void)sqlite3_bind_int(st, 3, (int)a->status);
	store_bind_text(st, 4, a->location);
	store_bind_text(st, 5, a->body);
	store_bind_ms(st, 6, now_ms);
	return store_run(st) < 0 ? store_err(s, err, "remember an answer") : 0;
}
