/*
 * listing.c - GET /files/search and GET /directories/list.
 *
 * A worker makes one piece at a time and only when the last one has been sent:
 * a slow client holds one piece of memory and no worker.
 *
 *   FIRST: the first piece is made; an error is an ordinary reply, an array
 *          that is complete too
 *   SENDING: the reply is a stream; an error breaks it off, so that the client
 *          cannot take the beginning for the whole
 *
 * While a job is under way (`making`) the worker owns list, piece, result and
 * err; whoever loses its client in that time is freed by done().
 */
#include <string.h>

#include "execd/api/listing.h"
#include "execd/path.h"

struct listing {
	struct pool_job job;
	struct http_source src;
	struct pool *pool;
	struct http_req *req; /* NULL: the client has gone */
	struct file_list *list;
	struct buf piece;
	size_t sent; /* of piece */
	bool sending, making, ran;
	int result; /* of file_list_next() */
	struct err err;
};

static void listing_free(struct listing *l)
{
	file_list_free(l->list);
	buf_done(&l->piece);
	free(l);
}

static void run(struct pool_job *job)
{
	struct listing *l = container_of(job, struct listing, job);

	l->result = file_list_next(l->list, &l->piece, &l->err);
	l->ran = true;
}

static void done(struct pool_job *job);

static int make_piece(struct listing *l)
{
	int r;

	l->job = (struct pool_job){.run = run, .done = done};
	l->ran = false;
	r = pool_submit(l->pool, &l->job);
	if (r < 0)
		return err_sys(&l->err, "RUNTIME_ERROR", -r, "too many file operations wait already");
	l->making = true;
	return 0;
}

/* ---- the stream -------------------------------------------------------------- */

static int proceed(struct http_source *src, struct buf *out, size_t room)
{
	struct listing *l = container_of(src, struct listing, src);
	size_t n;
	int r;

	if (l->making || room == 0)
		return 0;
	if (l->result < 0)
		return l->result;
	n = MIN(room, l->piece.len - l->sent);
	r = buf_append(out, l->piece.data + l->sent, n);
	if (r < 0)
		return r;
	l->sent += n;
	if (l->sent < l->piece.len)
		return 0;
	if (l->result > 0)
		return 1;
	buf_clear(&l->piece);
	l->sent = 0;
	l->result = make_piece(l);
	return l->result;
}

static void stop(struct http_source *src, bool complete)
{
	struct listing *l = container_of(src, struct listing, src);

	(void)complete;
	l->req = NULL;
	if (l->making)
		file_list_cancel(l->list);
	else
		listing_free(l);
}

/* ---- the first piece ----------------------------------------------------------- */

static void on_gone(struct http_req *req)
{
	struct listing *l = http_data(req);

	l->req = NULL;
	file_list_cancel(l->list);
}

static void reply_first(struct listing *l)
{
	struct http_req *req = l->req;

	http_set_data(req, NULL);
	if (l->result == 0) {
		l->sending = true;
		l->src = (struct http_source){.proceed = proceed, .stop = stop};
		http_reply_source(req, 200, "application/json", -1, &l->src);
		return;
	}
	if (l->result < 0)
		http_reply_err(req, &l->err);
	else
		http_reply_buf(req, 200, "application/json", &l->piece);
	listing_free(l);
}

static void done(struct pool_job *job)
{
	struct listing *l = container_of(job, struct listing, job);

	l->making = false;
	if (!l->ran)
		l->result = err_set(&l->err, ERR_UNAVAILABLE, "RUNTIME_ERROR", ECANCELED,
				    "the agent is stopping");
	if (!l->req) {
		listing_free(l);
		return;
	}
	/* A long way without much to tell: on with it, behind the jobs of others. */
	if (l->result == 0 && l->piece.len < FILE_LIST_PIECE_SIZE) {
		l->result = make_piece(l);
		if (l->result == 0)
			return;
	}
	if (l->sending)
		http_wake(l->req);
	else
		reply_first(l);
}

int listing_start(struct http_req *req, struct file_list *list_consumed, struct err *err)
{
	struct execd *execd = http_app(req);
	struct listing *l = calloc(1, sizeof(*l));
	int r;

	if (!l) {
		file_list_free(list_consumed);
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "list");
	}
	l->list = list_consumed;
	l->pool = execd->pool;
	l->req = req;
	l->piece = BUF_INIT(FILE_LIST_PIECE_MAX);
	r = make_piece(l);
	if (r < 0) {
		*err = l->err;
		listing_free(l);
		return r;
	}
	http_set_data(req, l);
	http_on_gone(req, on_gone);
	return 0;
}

/* ---- the requests ---------------------------------------------------------------- */

static int query_path(struct http_req *req, char **ret, struct err *err)
{
	const char *given = http_query(req, "path");

	if (!given || !given[0])
		return err_set(err, ERR_INVALID, "MISSING_QUERY", EINVAL, "missing query parameter 'path'");
	return path_canonical(given, ret, err);
}

int files_search_get(struct http_req *req, struct err *err)
{
	const char *pattern = http_query(req, "pattern");
	_cleanup_free_ char *path = NULL;
	struct file_list *list;
	int r = query_path(req, &path, err);

	if (r >= 0)
		r = file_search_new(path, pattern && pattern[0] ? pattern : "**", &list, err);
	return r < 0 ? r : listing_start(req, list, err);
}

static int query_depth(struct http_req *req, uint64_t *ret, struct err *err)
{
	const char *text = http_query(req, "depth");
	char *end;

	*ret = 1;
	if (!text || !text[0])
		return 0;
	errno = 0;
	*ret = strtoull(text, &end, 10);
	if (errno || text[0] < '0' || text[0] > '9' || *end || *ret > INT32_MAX)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
			       "query parameter 'depth' is '%s' and not a number from 0 to %d", text,
			       INT32_MAX);
	return 0;
}

int directories_list_get(struct http_req *req, struct err *err)
{
	_cleanup_free_ char *path = NULL;
	struct file_list *list;
	uint64_t depth;
	int r = query_path(req, &path, err);

	if (r >= 0)
		r = query_depth(req, &depth, err);
	if (r >= 0)
		r = file_list_new(path, depth, &list, err);
	return r < 0 ? r : listing_start(req, list, err);
}
