/*
 * work.c - requests answered by a worker.
 *
 * A job belongs to the pool from submission to done(); req is looked at on the
 * loop only and forgotten when its client goes.
 */
#include "execd/api/work.h"

#define WORK_REPLY_MAX (16U << 20)

struct work {
	struct pool_job job;
	struct http_req *req; /* NULL: the client has gone */
	work_fn *fn;
	void *args;
	void (*free_args)(void *args);
	bool ran;
	int result;
	struct buf out;
	struct err err;
};

static void work_free(struct work *w)
{
	w->free_args(w->args);
	buf_done(&w->out);
	free(w);
}

static void on_gone(struct http_req *req)
{
	struct work *w = http_data(req);

	w->req = NULL;
}

static void run(struct pool_job *job)
{
	struct work *w = container_of(job, struct work, job);

	w->result = w->fn(w->args, &w->out, &w->err);
	w->ran = true;
}

static void done(struct pool_job *job)
{
	struct work *w = container_of(job, struct work, job);
	struct http_req *req = w->req;

	if (req && !w->ran)
		w->result = err_set(&w->err, ERR_UNAVAILABLE, "RUNTIME_ERROR", ECANCELED,
				    "the agent is stopping");
	else if (req && w->result >= 0 && w->out.failed)
		w->result = err_set(&w->err, ERR_TOO_LARGE, "RUNTIME_ERROR", ENOBUFS,
				    "the answer is over %u bytes", WORK_REPLY_MAX);
	if (req) {
		http_set_data(req, NULL);
		if (w->result < 0)
			http_reply_err(req, &w->err);
		else if (w->out.len > 0)
			http_reply_buf(req, 200, "application/json", &w->out);
		else
			http_reply_empty(req, 200);
	}
	work_free(w);
}

int work_start(struct http_req *req, work_fn *fn, void *args_consumed, void (*free_args)(void *args),
	       struct err *err)
{
	struct execd *execd = http_app(req);
	struct work *w = calloc(1, sizeof(*w));
	int r;

	if (!w) {
		free_args(args_consumed);
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "start the work");
	}
	w->job.run = run;
	w->job.done = done;
	w->req = req;
	w->fn = fn;
	w->args = args_consumed;
	w->free_args = free_args;
	w->out = BUF_INIT(WORK_REPLY_MAX);
	r = pool_submit(execd->pool, &w->job);
	if (r < 0) {
		work_free(w);
		return err_sys(err, "RUNTIME_ERROR", -r, "too many file operations wait already");
	}
	http_set_data(req, w);
	http_on_gone(req, on_gone);
	return 0;
}
