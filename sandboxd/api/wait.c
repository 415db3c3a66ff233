/*
 * wait.c - owns the requests that wait; each goes with its answer or with its client.
 */
#include "sandboxd/api/wait.h"

#include <stdlib.h>

struct waiter {
	struct sandbox_watch watch;
	struct http_req *req;
	wait_fn *look;
};

static void on_gone(struct http_req *req)
{
	struct waiter *w = http_data(req);
	sandboxes_unwatch(&w->watch);
	free(w);
}

static void on_changed(struct sandbox_watch *watch)
{
	struct waiter *w = container_of(watch, struct waiter, watch);
	struct err err;

	int r = w->look(w->req, &err);
	if (r == 0)
		return;
	if (r < 0)
		http_reply_err(w->req, &err);
	sandboxes_unwatch(watch);
	free(w);
}

int wait_for(struct http_req *req, const char *id, wait_fn *look, struct err *err)
{
	const struct lifecycle *l = http_app(req);

	int r = look(req, err);
	if (r != 0)
		return MIN(r, 0);
	struct waiter *w = calloc(1, sizeof(*w));
	if (!w)
		return err_set(err, ERR_INTERNAL, "SANDBOX::UNKNOWN_ERROR", ENOMEM, "out of memory");
	w->req = req;
	w->look = look;
	sandboxes_watch(l->sandboxes, &w->watch, id, on_changed);
	http_set_data(req, w);
	http_on_gone(req, on_gone);
	return 0;
}
