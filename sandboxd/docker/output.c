/*
 * output.c - the multiplexed stream in which the daemon sends a container's output, and its end for who asks.
 *
 * Frames of 8 bytes of head (stream, 0, 0, 0, length in network order) and the
 * bytes. Source: Docker Engine API, "Attach to a container", stream format.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "sandboxd/docker/box.h"

#define HEAD	      8
#define LOG_LINES_MAX 5000

int output_demux(struct buf *in, struct buf *out)
{
	size_t at = 0;
	int r = 0;

	while (r == 0 && in->len - at >= HEAD) {
		uint32_t n;
		memcpy(&n, in->data + at + 4, sizeof(n));
		n = ntohl(n);
		if (in->data[at] > 3 || in->data[at + 1] || n > ENGINE_BODY_MAX / 2)
			r = -EBADMSG;
		else if (in->len - at - HEAD < n)
			break;
		else if (buf_append(out, in->data + at + HEAD, MIN((size_t)n, out->max - out->len)) == 0)
			at += HEAD + n;
		else
			r = -ENOMEM;
	}
	buf_consume(in, at);
	return r;
}

/* ---- the log --------------------------------------------------------------- */

struct log_call {
	struct list link;
	struct engine_call *call;
	runtime_log_fn *fn;
	void *arg;
	struct buf text; /* holds up to twice what is shown, so that it is not moved for each frame */
	bool cut;
};

static void log_free(struct log_call *l)
{
	engine_cancel(&l->call);
	list_del(&l->link);
	buf_done(&l->text);
	free(l);
}

static void on_log_data(void *arg, struct buf *in)
{
	struct log_call *l = arg;
	_cleanup_buf_ struct buf part = BUF_INIT(ENGINE_BODY_MAX);

	if (output_demux(in, &part) < 0)
		buf_clear(in);
	if (part.len > RUNTIME_LOG_MAX) {
		buf_consume(&part, part.len - RUNTIME_LOG_MAX);
		l->cut = true;
	}
	if (l->text.len + part.len > l->text.max) {
		buf_consume(&l->text, MIN(l->text.len, l->text.len + part.len - RUNTIME_LOG_MAX));
		l->cut = true;
	}
	(void)buf_append(&l->text, part.data, part.len);
}

static void on_log_end(void *arg, const struct engine_answer *a)
{
	struct log_call *l = arg;

	l->call = NULL;
	if (l->text.len > RUNTIME_LOG_MAX) {
		buf_consume(&l->text, l->text.len - RUNTIME_LOG_MAX);
		l->cut = true;
	}
	l->fn(l->arg, a->err ? NULL : &l->text, l->cut,
	      !a->err		 ? 0
	      : a->status == 404 ? -ENOENT
				 : -EREMOTEIO);
	log_free(l);
}

int docker_log(struct runtime *rt, const char *id, runtime_log_fn *fn, void *arg)
{
	struct docker *d = docker_of(rt);
	char path[ENGINE_PATH_MAX];
	struct engine_request r = {.what = "read the output",
				   .method = "GET",
				   .path = path,
				   .data = on_log_data,
				   .done = on_log_end};
	struct err err;

	if (!docker_box_id_ok(id))
		return -ENOENT;
	struct log_call *l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	*l = (struct log_call){.fn = fn, .arg = arg, .text = BUF_INIT(2 * RUNTIME_LOG_MAX)};
	list_add_tail(&d->logs, &l->link);
	(void)snprintf(path, sizeof(path), "/containers/" CONTAINER_NAME "/logs?stdout=1&stderr=1&tail=%d",
		       id, LOG_LINES_MAX);
	r.arg = l;
	int e = engine_call(d->engine, &r, &l->call, &err);
	if (e < 0)
		log_free(l);
	return e;
}

void docker_logs_free(struct docker *d)
{
	list_foreach_safe (l, &d->logs) {
		struct log_call *c = list_entry(l, struct log_call, link);
		c->fn(c->arg, NULL, false, -ECANCELED);
		log_free(c);
	}
}
