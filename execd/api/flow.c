/*
 * flow.c - work in pieces between the pool and a client.
 *
 * Out: each lane makes a piece while the one before is being sent; complete
 * pieces wait in `ready` in the order in which they became complete.
 *
 *   QUIET: nothing is sent; an error is an ordinary reply
 *   SENDING: the reply is a stream
 *
 * In: what arrives is collected in `fill` while a worker takes `work`; the body
 * is paused when `fill` is full.
 *
 * A lane or an input that is `busy` belongs to its worker; whoever loses its
 * client meanwhile is freed by the last done().
 */
#include "execd/api/flow.h"

#include "lib/list.h"

struct lane {
	struct pool_job job;
	struct list ready; /* linked while its piece waits to be sent */
	struct flow_out *flow;
	struct buf piece;
	bool busy, ran, over;
	int result;
	struct err err;
};

struct flow_out {
	struct http_source src;
	const struct flow_out_ops *ops;
	void *state;
	struct pool *pool;
	struct http_req *req; /* NULL: the client has gone */
	struct list ready;
	struct buf sending;
	size_t sent;
	bool streaming, finished;
	int result; /* the first failure */
	struct err err;
	unsigned lanes_n;
	struct lane lanes[FLOW_LANES_MAX];
};

static bool out_busy(const struct flow_out *f)
{
	for (unsigned i = 0; i < f->lanes_n; i++)
		if (f->lanes[i].busy)
			return true;
	return false;
}

static bool out_over(const struct flow_out *f)
{
	for (unsigned i = 0; i < f->lanes_n; i++)
		if (!f->lanes[i].over)
			return false;
	return list_empty(&f->ready);
}

static void out_free(struct flow_out *f)
{
	for (unsigned i = 0; i < f->lanes_n; i++)
		buf_done(&f->lanes[i].piece);
	buf_done(&f->sending);
	f->ops->free(f->state);
	free(f);
}

/* Without a client. */
static void out_drop(struct flow_out *f)
{
	f->req = NULL;
	if (out_busy(f))
		f->ops->cancel(f->state);
	else
		out_free(f);
}

static void lane_run(struct pool_job *job)
{
	struct lane *l = container_of(job, struct lane, job);
	struct flow_out *f = l->flow;

	l->result = f->ops->next(f->state, (unsigned)(l - f->lanes), &l->piece, &l->err);
	l->ran = true;
}

static void lane_done(struct pool_job *job);

static int lane_start(struct lane *l, struct err *err)
{
	int r;

	l->job = (struct pool_job){.run = lane_run, .done = lane_done};
	l->ran = false;
	r = pool_submit(l->flow->pool, &l->job);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "too many file operations wait already");
	l->busy = true;
	return 0;
}

/* The next complete piece becomes the one that is sent; its lane goes on. */
static void out_take(struct flow_out *f)
{
	struct lane *l = list_entry(f->ready.next, struct lane, ready);
	struct buf empty = f->sending;

	list_del(&l->ready);
	f->sending = l->piece;
	f->sent = 0;
	l->piece = empty;
	buf_clear(&l->piece);
	if (!l->over)
		f->result = lane_start(l, &f->err);
}

static int out_proceed(struct http_source *src, struct buf *out, size_t room)
{
	struct flow_out *f = container_of(src, struct flow_out, src);
	size_t n;
	int r;

	if (f->sent == f->sending.len && f->result >= 0) {
		if (!list_empty(&f->ready)) {
			out_take(f);
		} else if (out_over(f) && !f->finished) {
			f->finished = true;
			buf_clear(&f->sending);
			f->sent = 0;
			if (f->ops->finish)
				f->ops->finish(f->state, &f->sending);
		} else if (f->finished) {
			return 1;
		}
	}
	if (f->result < 0)
		return f->result;
	n = MIN(room, f->sending.len - f->sent);
	if (n == 0)
		return f->finished && f->sent == f->sending.len;
	r = buf_append(out, f->sending.data + f->sent, n);
	if (r < 0)
		return r;
	f->sent += n;
	return f->finished && f->sent == f->sending.len;
}

static void out_stop(struct http_source *src, bool complete)
{
	(void)complete;
	out_drop(container_of(src, struct flow_out, src));
}

static void out_gone(struct http_req *req)
{
	out_drop(http_data(req));
}

/* The first piece, or the first failure, decides about the kind of reply. */
static void out_reply(struct flow_out *f)
{
	struct http_req *req = f->req;

	http_set_data(req, NULL);
	if (f->result < 0) {
		f->req = NULL;
		http_reply_err(req, &f->err);
		out_drop(f);
		return;
	}
	if (f->lanes_n == 1 && f->lanes[0].over) {
		if (f->ops->finish)
			f->ops->finish(f->state, &f->lanes[0].piece);
		http_reply_buf(req, 200, f->ops->content_type, &f->lanes[0].piece);
		out_free(f);
		return;
	}
	f->streaming = true;
	f->src = (struct http_source){.proceed = out_proceed, .stop = out_stop};
	http_reply_source(req, 200, f->ops->content_type, -1, &f->src);
}

/* What the lane's worker left. Once it is started again, result is the worker's. */
static void lane_result(struct lane *l)
{
	struct flow_out *f = l->flow;
	int r;

	l->busy = false;
	if (!l->ran)
		l->result = err_set(&l->err, ERR_UNAVAILABLE, "RUNTIME_ERROR", ECANCELED,
				    "the agent is stopping");
	else if (l->result >= 0 && l->piece.failed)
		l->result = err_sys(&l->err, "RUNTIME_ERROR", ENOMEM, "a piece of the answer");
	r = l->result;
	l->over = r != 0;
	/* Ready comes last: a piece with nothing in it has nothing to wait for. */
	if (r >= 0 && l->piece.len > 0)
		list_add_tail(&f->ready, &l->ready);
	else if (r == 0)
		r = lane_start(l, &l->err);
	if (r < 0 && f->result >= 0) {
		l->over = true;
		f->result = r;
		f->err = l->err;
	}
}

static void lane_done(struct pool_job *job)
{
	struct lane *l = container_of(job, struct lane, job);
	struct flow_out *f = l->flow;

	if (!f->req) {
		l->busy = false;
		if (!out_busy(f))
			out_free(f);
		return;
	}
	lane_result(l);
	if (f->streaming)
		http_wake(f->req);
	else if (f->result < 0 || !list_empty(&f->ready) || out_over(f))
		out_reply(f);
}

int flow_out(struct http_req *req, const struct flow_out_ops *ops, unsigned lanes, void *state_consumed,
	     struct err *err)
{
	struct execd *execd = http_app(req);
	struct flow_out *f = calloc(1, sizeof(*f));
	int r = 0;

	if (!f) {
		ops->free(state_consumed);
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "begin the answer");
	}
	f->ops = ops;
	f->state = state_consumed;
	f->pool = execd->pool;
	f->req = req;
	f->sending = BUF_INIT(FLOW_PIECE_MAX);
	f->lanes_n = lanes;
	list_init(&f->ready);
	for (unsigned i = 0; i < lanes; i++) {
		f->lanes[i].flow = f;
		f->lanes[i].piece = BUF_INIT(FLOW_PIECE_MAX);
		list_init(&f->lanes[i].ready);
	}
	for (unsigned i = 0; i < lanes && r >= 0; i++)
		r = lane_start(&f->lanes[i], err);
	if (r < 0) {
		out_drop(f);
		return r;
	}
	http_set_data(req, f);
	http_on_gone(req, out_gone);
	return 0;
}

/* ---- in ------------------------------------------------------------------------ */

struct flow_in {
	struct pool_job job;
	const struct flow_in_ops *ops;
	void *state;
	struct pool *pool;
	struct http_req *req; /* NULL: the client has gone */
	struct buf fill, work, reply;
	bool busy, ran, ended, paused;
	bool ending; /* the job at hand is the last one */
	int result;
	struct err err;
};

static void in_free(struct flow_in *f)
{
	f->ops->free(f->state);
	buf_done(&f->fill);
	buf_done(&f->work);
	buf_done(&f->reply);
	free(f);
}

static void in_drop(struct flow_in *f)
{
	f->req = NULL;
	if (f->busy)
		f->ops->cancel(f->state);
	else
		in_free(f);
}

static void in_run(struct pool_job *job)
{
	struct flow_in *f = container_of(job, struct flow_in, job);

	f->result = 0;
	if (f->work.len > 0)
		f->result = f->ops->feed(f->state, f->work.data, f->work.len, &f->err);
	if (f->result >= 0 && f->ending)
		f->result = f->ops->end(f->state, &f->reply, &f->err);
	f->ran = true;
}

static void in_done(struct pool_job *job);

static int in_start(struct flow_in *f, struct err *err)
{
	struct buf empty = f->work;
	int r;

	f->work = f->fill;
	f->fill = empty;
	buf_clear(&f->fill);
	f->ending = f->ended;
	f->ran = false;
	f->job = (struct pool_job){.run = in_run, .done = in_done};
	r = pool_submit(f->pool, &f->job);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "too many file operations wait already");
	f->busy = true;
	return 0;
}

static void in_reply(struct flow_in *f)
{
	struct http_req *req = f->req;

	http_set_data(req, NULL);
	if (f->result < 0)
		http_reply_err(req, &f->err);
	else
		http_reply_buf(req, 200, "application/json", &f->reply);
	in_free(f);
}

static void in_done(struct pool_job *job)
{
	struct flow_in *f = container_of(job, struct flow_in, job);
	bool over;
	int r;

	f->busy = false;
	if (!f->ran)
		f->result = err_set(&f->err, ERR_UNAVAILABLE, "RUNTIME_ERROR", ECANCELED,
				    "the agent is stopping");
	if (!f->req) {
		in_free(f);
		return;
	}
	r = f->result;
	over = r < 0 || f->ending;
	if (!over && (f->fill.len > 0 || f->ended)) {
		r = in_start(f, &f->err); /* from here on result is the worker's */
		if (r < 0)
			f->result = r;
	}
	if (f->paused) {
		f->paused = false;
		http_body_pause(f->req, false);
	}
	if (over || r < 0)
		in_reply(f);
}

static int in_data(struct http_req *req, const void *data, size_t n, struct err *err)
{
	struct flow_in *f = http_data(req);

	/* One read beyond the mark fits: the buffer is larger than the mark by that. */
	if (buf_append(&f->fill, data, n) < 0)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "take the body");
	if (!f->busy && f->fill.len >= FLOW_BODY_MAX / 4) {
		int r = in_start(f, err);

		if (r < 0)
			return r;
	}
	if (f->busy && f->fill.len >= FLOW_BODY_MAX) {
		f->paused = true;
		http_body_pause(req, true);
	}
	return 0;
}

static void in_gone(struct http_req *req)
{
	in_drop(http_data(req));
}

static int in_end(struct http_req *req, struct err *err)
{
	struct flow_in *f = http_data(req);

	f->ended = true;
	if (!f->busy) {
		int r = in_start(f, err);

		if (r < 0) {
			f->ended = false;
			return r;
		}
	}
	http_on_gone(req, in_gone);
	return 0;
}

static void in_abort(struct http_req *req)
{
	struct flow_in *f = http_data(req);

	http_set_data(req, NULL);
	in_drop(f);
}

int flow_in(struct http_req *req, const struct flow_in_ops *ops, void *state_consumed, struct err *err)
{
	static const struct http_sink sink = {in_data, in_end, in_abort};
	struct execd *execd = http_app(req);
	struct flow_in *f = calloc(1, sizeof(*f));

	if (!f) {
		ops->free(state_consumed);
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "take the body");
	}
	f->ops = ops;
	f->state = state_consumed;
	f->pool = execd->pool;
	f->req = req;
	f->fill = BUF_INIT(FLOW_PIECE_MAX);
	f->work = BUF_INIT(FLOW_PIECE_MAX);
	f->reply = BUF_INIT(FLOW_PIECE_MAX);
	http_set_data(req, f);
	http_set_sink(req, &sink);
	return 0;
}
