/*
 * pool.c - GET /pool, ours beside the API: how the warm pool does.
 */
#include "sandboxd/api/rows.h"
#include "sandboxd/api/wait.h"

static void write_image(struct jw *w, const struct sandbox_pool_stats *s)
{
	jw_obj_begin(w);
	jw_kstr(w, "uri", s->image);
	jw_kint(w, "size", s->size);
	jw_kint(w, "ready", s->ready);
	jw_kint(w, "starting", s->starting);
	jw_kint(w, "started", (int64_t)s->started);
	jw_kint(w, "hits", (int64_t)s->hits);
	jw_kint(w, "misses", (int64_t)s->misses);
	jw_kint(w, "unfit", (int64_t)s->unfit);
	jw_kint(w, "failures", (int64_t)s->failures);
	if (*s->error)
		jw_kstr(w, "lastError", s->error);
	jw_obj_end(w);
}

static int look(struct http_req *req, struct err *err)
{
	const struct lifecycle *l = http_app(req);
	_cleanup_buf_ struct buf b = BUF_INIT(ROWS_MAX);
	struct jw w = JW_INIT(&b);
	struct sandbox_pool_stats s;
	uint32_t started = 0, failures = 0;
	uint64_t has_started = 0, has_failed = 0;

	int r = query_number(req, "started", UINT32_MAX, &started, err);
	if (r == 0)
		r = query_number(req, "failures", UINT32_MAX, &failures, err);
	if (r < 0)
		return r;
	jw_obj_begin(&w);
	jw_key(&w, "images");
	jw_arr_begin(&w);
	for (size_t i = 0; i < sandboxes_pools(l->sandboxes, i, &s); i++) {
		write_image(&w, &s);
		has_started += s.started;
		has_failed += s.failures;
	}
	jw_arr_end(&w);
	jw_obj_end(&w);
	if (has_started < started || has_failed < failures)
		return 0;
	r = reply_rows(req, &b, err);
	return r < 0 ? r : 1;
}

/* With ?started=N, ?failures=N the answer comes when so many spares have been started, or have failed. */
int pool_get(struct http_req *req, struct err *err)
{
	return wait_for(req, SANDBOX_POOL_WATCH, look, err);
}
