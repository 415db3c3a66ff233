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
	if (store_run(s, ST_EVENT, "tuttt", id, at_ms, state, reason, message) < 0)
		log_warn("store: event of %s: %s", id, sqlite3_errmsg(s->db));
}

int store_events(struct store *s, const char *id, uint32_t limit,
		 void (*fn)(const struct store_event *e, void *arg), void *arg, struct err *err)
{
	sqlite3_stmt *st;
	int r;

	for (r = store_first(s, ST_EVENTS, &st, "tu", id, (uint64_t)limit); r > 0; r = store_next(st)) {
		const struct store_event e = {
			.at_ms = store_ms_at(st, 0),
			.state = store_text_at(st, 1),
			.reason = store_text_at(st, 2),
			.message = store_text_at(st, 3),
		};
		fn(&e, arg);
	}
	if (r < 0)
		r = store_err(s, err, "events");
	store_done(st);
	return r;
}

/* ---- secrets ------------------------------------------------------------------ */

static int secret_get(struct store *s, const char *name, char *ret, size_t n)
{
	sqlite3_stmt *st;

	int r = store_first(s, ST_SETTING_GET, &st, "t", name);
	if (r > 0 && strlen(store_text_at(st, 0)) == n)
		memcpy(ret, store_text_at(st, 0), n + 1);
	else
		r = MIN(r, 0);
	store_done(st);
	return r;
}

int store_secret(struct store *s, const char *name, char *ret, size_t n, struct err *err)
{
	int r = secret_get(s, name, ret, n);
	if (r == 0)
		r = store_run(s, ST_SETTING_PUT, "tt", name, random_hex(ret, n));
	return r < 0 ? store_err(s, err, "secret") : 0;
}

/* ---- answers -------------------------------------------------------------------- */

static uint64_t forgotten_at(uint64_t now_ms)
{
	return now_ms - MIN(now_ms, STORE_ANSWER_MS);
}

int store_answer_get(struct store *s, const char *key, uint64_t now_ms,
		     int (*fn)(const struct store_answer *a, void *arg), void *arg, struct err *err)
{
	sqlite3_stmt *st;

	int r = store_first(s, ST_IDEM_GET, &st, "tu", key, forgotten_at(now_ms));
	if (r > 0) {
		const struct store_answer a = {
			.request = store_text_at(st, 0),
			.status = (unsigned)sqlite3_column_int(st, 1),
			.location = store_text_at(st, 2),
			.body = store_text_at(st, 3),
		};
		r = fn(&a, arg);
		r = r < 0 ? r : 1;
	} else if (r < 0) {
		r = store_err(s, err, "look for an answer");
	}
	store_done(st);
	return r;
}

int store_answer_put(struct store *s, const char *key, const struct store_answer *a, uint64_t now_ms,
		     struct err *err)
{
	int r = store_run(s, ST_IDEM_PRUNE, "u", forgotten_at(now_ms));
	if (r == 0)
		r = store_run(s, ST_IDEM_PUT, "ttnttu", key, a->request, (int)a->status, a->location, a->body,
			      now_ms);
	return r < 0 ? store_err(s, err, "remember an answer") : 0;
}
