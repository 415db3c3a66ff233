/*
 * ports.c - GET /ports and GET /ports/watch.
 */
#include "execd/ports.h"

#include <string.h>

#include "execd/api/api.h"
#include "execd/api/work.h"
#include "lib/clock.h"
#include "proto/json.h"

/* Bytes of events that wait for one watcher; over it the stream breaks off. */
#define PORTS_QUEUE_MAX (2U << 20)

static void put_fields(struct jw *w, const struct port *p)
{
	jw_kint(w, "port", p->number);
	jw_kstr(w, "address", p->address);
	jw_kstr(w, "family", p->family == AF_INET ? "ipv4" : "ipv6");
	jw_kint(w, "uid", p->uid);
	jw_key(w, "pid");
	if (p->pid > 0)
		jw_int(w, p->pid);
	else
		jw_str(w, NULL);
	jw_key(w, "process");
	if (p->process[0])
		jw_strn(w, p->process, strlen(p->process));
	else
		jw_str(w, NULL);
}

/* ---- GET /ports ---------------------------------------------------------------- */

static int list(void *args, struct buf *out, struct err *err)
{
	struct jw w = JW_INIT(out);
	struct port_list l;
	int r = ports_read(&l, NULL, err);

	(void)args;
	if (r < 0)
		return r;
	jw_obj_begin(&w);
	jw_key(&w, "ports");
	jw_arr_begin(&w);
	for (size_t i = 0; i < l.n; i++) {
		jw_obj_begin(&w);
		put_fields(&w, &l.v[i]);
		jw_obj_end(&w);
	}
	jw_arr_end(&w);
	jw_kstr(&w, "source", l.diag ? "sock_diag" : "procfs");
	jw_obj_end(&w);
	port_list_done(&l);
	return 0;
}

static void no_args(void *args)
{
	(void)args;
}

int ports_get(struct http_req *req, struct err *err)
{
	return work_start(req, list, NULL, no_args, err);
}

/* ---- GET /ports/watch ------------------------------------------------------------- */

struct ports_stream {
	struct http_source source;
	struct port_watch watch;
	struct http_req *req;
	struct buf queue;
	size_t sent;
};

static void stream_free(struct ports_stream *s)
{
	port_watch_del(&s->watch);
	buf_done(&s->queue);
	free(s);
}

static int proceed(struct http_source *src, struct buf *out, size_t room)
{
	struct ports_stream *s = container_of(src, struct ports_stream, source);
	size_t n = MIN(room, s->queue.len - s->sent);
	int r = n > 0 ? buf_append(out, s->queue.data + s->sent, n) : 0;

	if (r < 0 || s->queue.failed)
		return r < 0 ? r : -ENOBUFS;
	s->sent += n;
	if (s->sent == s->queue.len) {
		buf_clear(&s->queue);
		s->sent = 0;
	}
	return 0;
}

static void stop(struct http_source *src, bool complete)
{
	(void)complete;
	stream_free(container_of(src, struct ports_stream, source));
}

static void on_gone(struct http_req *req)
{
	stream_free(http_data(req));
}

/* p NULL: an event of the stream itself. */
static void put_event(struct ports_stream *s, const char *type, const struct port *p)
{
	struct jw w = JW_INIT(&s->queue);

	(void)buf_puts(&s->queue, "data: ");
	jw_obj_begin(&w);
	jw_kstr(&w, "type", type);
	if (p)
		put_fields(&w, p);
	jw_kint(&w, "timestamp", (int64_t)clock_real_ms());
	jw_obj_end(&w);
	(void)buf_puts(&s->queue, "\n\n");
}

static void put_changes(struct ports_stream *s, const struct port_list *old, const struct port_list *now)
{
	size_t i = 0, j = 0;

	while (i < old->n || j < now->n) {
		int order = i == old->n ? 1 : j == now->n ? -1 : port_compare(&old->v[i], &now->v[j]);

		if (order < 0)
			put_event(s, "closed", &old->v[i]);
		else if (order > 0)
			put_event(s, "opened", &now->v[j]);
		i += order <= 0;
		j += order >= 0;
	}
}

static void changed(struct port_watch *w, const struct port_list *old, const struct port_list *now)
{
	struct ports_stream *s = container_of(w, struct ports_stream, watch);
	struct http_req *req = s->req;

	if (old) {
		put_changes(s, old, now);
		http_wake(req);
		return;
	}
	for (size_t i = 0; i < now->n; i++)
		put_event(s, "open", &now->v[i]);
	put_event(s, "ready", NULL);
	http_set_data(req, NULL);
	s->source = (struct http_source){.proceed = proceed, .stop = stop};
	(void)http_add_header(req, "Cache-Control", "no-cache");
	http_reply_source(req, 200, "text/event-stream", -1, &s->source);
}

static void failed(struct port_watch *w, const struct err *err)
{
	struct ports_stream *s = container_of(w, struct ports_stream, watch);
	struct http_req *req = s->req;

	http_set_data(req, NULL);
	http_reply_err(req, err);
	stream_free(s);
}

int ports_watch_get(struct http_req *req, struct err *err)
{
	struct execd *execd = http_app(req);
	struct ports_stream *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "watch ports");
	s->req = req;
	s->queue = BUF_INIT(PORTS_QUEUE_MAX);
	s->watch = (struct port_watch){.changed = changed, .failed = failed};
	r = port_watch_add(execd->loop, execd->pool, &s->watch, err);
	if (r < 0) {
		free(s);
		return r;
	}
	http_set_data(req, s);
	http_on_gone(req, on_gone);
	return 0;
}
