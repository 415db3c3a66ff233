/*
 * watch.c - GET /files/watch: what changes below a directory, as an event stream.
 */
#include "execd/watch.h"

#include "execd/api/api.h"
#include "execd/api/query.h"
#include "execd/path.h"

struct file_watch {
	struct http_source source;
	struct http_req *req;
	struct watch *watch;
	bool replied;
};

static void file_watch_free(struct file_watch *f)
{
	watch_close(f->watch);
	free(f);
}

static int proceed(struct http_source *src, struct buf *out, size_t room)
{
	return watch_next(container_of(src, struct file_watch, source)->watch, out, room);
}

static void stop(struct http_source *src, bool complete)
{
	(void)complete;
	file_watch_free(container_of(src, struct file_watch, source));
}

static void on_gone(struct http_req *req)
{
	file_watch_free(http_data(req));
}

static void ready(void *owner, const struct err *err)
{
	struct file_watch *f = owner;
	struct http_req *req = f->req;

	http_set_data(req, NULL);
	if (err) {
		http_reply_err(req, err);
		file_watch_free(f);
		return;
	}
	f->replied = true;
	f->source = (struct http_source){.proceed = proceed, .stop = stop};
	(void)http_add_header(req, "Cache-Control", "no-cache");
	http_reply_source(req, 200, "text/event-stream", -1, &f->source);
}

static void wake(void *owner)
{
	const struct file_watch *f = owner;

	if (f->replied)
		http_wake(f->req);
}

int files_watch_get(struct http_req *req, struct err *err)
{
	struct execd *execd = http_app(req);
	struct watch_spec spec = {.ready = ready, .wake = wake};
	const char *given, *pattern = http_query(req, "pattern");
	_cleanup_free_ char *path = NULL;
	struct file_watch *f;
	int r = query_need(req, "path", &given, err);

	if (r >= 0)
		r = path_canonical(given, &path, err);
	if (r >= 0)
		r = query_bool(req, "recursive", &spec.recursive, err);
	if (r < 0)
		return r;
	f = calloc(1, sizeof(*f));
	if (!f)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "watch '%s'", path);
	f->req = req;
	spec.path = path;
	spec.pattern = pattern && pattern[0] ? pattern : NULL;
	spec.owner = f;
	r = watch_open(execd->loop, execd->pool, &spec, &f->watch, err);
	if (r < 0) {
		free(f);
		return r;
	}
	http_set_data(req, f);
	http_on_gone(req, on_gone);
	return 0;
}
