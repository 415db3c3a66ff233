/*
 * rows.c - rows and pages of them. No state.
 */
#include "sandboxd/api/rows.h"

#include <ctype.h>

#include "lib/clock.h"
#include "sandboxd/api/lifecycle.h"

#define INVALID	   "SANDBOX::INVALID_PARAMETER"
#define STATES_MAX 32

/* ---- rows ---------------------------------------------------------------------- */

void write_time(struct jw *w, const char *key, uint64_t ms)
{
	char text[CLOCK_RFC3339_MAX];
	jw_kstr(w, key, clock_rfc3339(ms, text));
}

void write_status(struct jw *w, const char *state, const char *reason, const char *message, uint64_t at_ms)
{
	jw_key(w, "status");
	jw_obj_begin(w);
	jw_kstr(w, "state", state);
	jw_kstr(w, "reason", reason);
	jw_kstr(w, "message", message);
	write_time(w, "lastTransitionAt", at_ms);
	jw_obj_end(w);
}

int reply_rows(struct http_req *req, struct buf *b, struct err *err)
{
	if (b->failed)
		return err_set(err, ERR_INTERNAL, "SANDBOX::UNKNOWN_ERROR", ENOMEM,
			       "the answer is too large");
	http_reply_buf(req, 200, "application/json", b);
	return 0;
}

/* ---- lists ----------------------------------------------------------------------- */

int query_number(struct http_req *req, const char *name, uint32_t max, uint32_t *ret, struct err *err)
{
	const char *text = http_query(req, name);
	char *end;

	if (!text)
		return 0;
	unsigned long n = strtoul(text, &end, 10);
	if (!isdigit((unsigned char)text[0]) || *end || n < 1 || n > max)
		return err_set(err, ERR_INVALID, INVALID, EINVAL, "%s: '%.32s' is not a number from 1 to %u",
			       name, text, max);
	*ret = (uint32_t)n;
	return 0;
}

int page_query(struct http_req *req, struct page *ret, struct err *err)
{
	*ret = (struct page){.number = 1, .size = PAGE_SIZE};
	int r = query_number(req, "page", PAGE_MAX, &ret->number, err);
	return r < 0 ? r : query_number(req, "pageSize", PAGE_SIZE_MAX, &ret->size, err);
}

void page_begin(struct jw *w)
{
	jw_obj_begin(w);
	jw_key(w, "items");
	jw_arr_begin(w);
}

int page_reply(struct http_req *req, struct jw *w, struct buf *b, const struct page *p, uint64_t total,
	       struct err *err)
{
	uint64_t pages = (total + p->size - 1) / p->size;

	jw_arr_end(w);
	jw_key(w, "pagination");
	jw_obj_begin(w);
	jw_kint(w, "page", p->number);
	jw_kint(w, "pageSize", p->size);
	jw_kint(w, "totalItems", (int64_t)total);
	jw_kint(w, "totalPages", (int64_t)pages);
	jw_kbool(w, "hasNextPage", p->number < pages);
	jw_obj_end(w);
	jw_obj_end(w);
	return reply_rows(req, b, err);
}

int query_states(struct http_req *req, const char *name, int (*parse)(const char *word, unsigned *ret),
		 unsigned *states, struct err *err)
{
	const char *names[STATES_MAX];
	size_t n = http_query_all(req, name, names, ARRAY_SIZE(names));
	unsigned state;

	for (size_t i = 0; i < MIN(n, ARRAY_SIZE(names)); i++) {
		if (parse(names[i], &state) < 0)
			return err_set(err, ERR_INVALID, INVALID, EINVAL, "%s: '%.32s' is no state", name,
				       names[i]);
		*states |= STATE_BIT(state);
	}
	return 0;
}
