/*
 * layer.c - /v1/isolated/session/{id}/diff, changes, commit and undo: what a session has changed.
 */
#include <string.h>

#include "execd/api/api.h"
#include "execd/api/flow.h"
#include "execd/api/query.h"
#include "execd/api/work.h"
#include "execd/isolated/history.h"
#include "execd/isolated/isolated.h"
#include "execd/isolated/layer_list.h"
#include "execd/isolated/layer_tar.h"
#include "proto/json.h"

#define DIFF_MAX_DEFAULT ((uint64_t)4 << 30)
#define DIFF_MAX	 ((uint64_t)1 << 50)

static int find(struct http_req *req, struct history **ret, struct err *err)
{
	const struct execd *execd = http_app(req);
	struct isolated *s;
	int r = isolated_get(execd->isolateds, http_param(req, "id"), &s, err);
	if (r >= 0)
		*ret = isolated_history(s);
	return r;
}

/* ---- GET .../diff ------------------------------------------------------------ */

/* Reads the history as long as it is sent. */
struct diff {
	struct history *history;
	struct layer_view view;
	struct layer_tar *tar;
};

static int diff_next(void *state, unsigned lane, struct buf *out, struct err *err)
{
	struct diff *d = state;
	(void)lane;
	return layer_tar_next(d->tar, out, err);
}

static void diff_cancel(void *state)
{
	layer_tar_cancel(((struct diff *)state)->tar);
}

static void diff_free(void *state)
{
	struct diff *d = state;
	layer_tar_free(d->tar);
	history_read_end(d->history, &d->view);
	free(d);
}

static int parse_format(const char *text, enum codec *ret, struct err *err)
{
	*ret = CODEC_GZIP;
	if (!text || !text[0] || strcmp(text, "tar.gz") == 0)
		return 0;
	*ret = CODEC_NONE;
	if (strcmp(text, "tar") == 0)
		return 0;
	return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
		       "query parameter 'format' is '%.64s' and not tar or tar.gz", text);
}

int isolated_diff_get(struct http_req *req, struct err *err)
{
	static const struct flow_out_ops tar_ops = {.content_type = "application/vnd.oci.image.layer.v1.tar",
						    .next = diff_next,
						    .cancel = diff_cancel,
						    .free = diff_free};
	static const struct flow_out_ops gzip_ops = {.content_type = "application/gzip",
						     .next = diff_next,
						     .cancel = diff_cancel,
						     .free = diff_free};
	uint64_t bytes_max = DIFF_MAX_DEFAULT;
	struct history *h;
	enum codec codec;
	int r = find(req, &h, err);
	if (r >= 0)
		r = parse_format(http_query(req, "format"), &codec, err);
	if (r >= 0)
		r = query_uint(req, "max_bytes", 0, DIFF_MAX, &bytes_max, err);
	if (r < 0)
		return r;
	struct diff *d = calloc(1, sizeof(*d));
	if (!d)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "diff");
	r = history_read(h, http_query(req, "workspace"), http_query(req, "run"), &d->view, err);
	if (r < 0) {
		free(d);
		return r;
	}
	d->history = h;
	r = layer_tar_new(&d->view, codec, bytes_max, &d->tar);
	if (r < 0) {
		history_read_end(h, &d->view);
		free(d);
		return err_sys(err, "RUNTIME_ERROR", -r, "diff");
	}
	return flow_out(req, codec == CODEC_GZIP ? &gzip_ops : &tar_ops, 1, d, err);
}

/* ---- GET .../changes --------------------------------------------------------------- */

struct listing {
	struct history *history;
	struct layer_view view;
	struct layer_list list;
	char *after;
};

static int listing_run(void *args, struct buf *out, struct err *err)
{
	struct listing *l = args;
	return layer_list(&l->view, &l->list, out, err);
}

static void listing_free(void *args)
{
	struct listing *l = args;
	history_read_end(l->history, &l->view);
	free(l->after);
	free(l);
}

int isolated_changes_get(struct http_req *req, struct err *err)
{
	const char *after = http_query(req, "after");
	struct layer_list list = {.limit = LAYER_LIST_DEFAULT};
	struct history *h;
	int r = find(req, &h, err);
	if (r >= 0)
		r = query_uint(req, "limit", 1, LAYER_LIST_MAX, &list.limit, err);
	if (r < 0)
		return r;
	struct listing *l = calloc(1, sizeof(*l));
	if (l && after && after[0])
		l->list.after = l->after = strdup(after);
	if (!l || (after && after[0] && !l->after)) {
		free(l);
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "list the changes");
	}
	l->list.limit = list.limit;
	r = history_read(h, http_query(req, "workspace"), http_query(req, "run"), &l->view, err);
	if (r < 0) {
		free(l->after);
		free(l);
		return r;
	}
	l->history = h;
	return work_start(req, listing_run, l, listing_free, err);
}

/* ---- POST .../commit, GET and POST .../undo ------------------------------------------ */

struct asking {
	struct http_req *req; /* NULL: the client has gone */
};

static void asking_gone(struct http_req *req)
{
	((struct asking *)http_data(req))->req = NULL;
}

static void asking_done(void *arg, int r, const struct err *err, struct buf *answer)
{
	struct asking *a = arg;
	if (a->req) {
		http_set_data(a->req, NULL);
		http_on_gone(a->req, NULL);
		if (r < 0)
			http_reply_err(a->req, err);
		else
			http_reply_buf(a->req, 200, "application/json", answer);
	}
	free(a);
}

static int asking_start(struct http_req *req, struct asking **ret, struct err *err)
{
	struct asking *a = calloc(1, sizeof(*a));
	if (!a)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "ask for the changes");
	a->req = req;
	*ret = a;
	return 0;
}

/* Once the work has begun; before, an error is the handler's. */
static int asking_wait(struct http_req *req, struct asking *a, int r)
{
	if (r < 0) {
		free(a);
		return r;
	}
	http_set_data(req, a);
	http_on_gone(req, asking_gone);
	return 0;
}

/* As they are in the changes: relative, without what could lead elsewhere. */
static int check_paths(json_t *paths, struct err *err)
{
	json_t *item;
	size_t i;
	json_array_foreach(paths, i, item)
	{
		const char *path = json_string_value(item);
		for (const char *p = path;; p++) {
			size_t n = strcspn(p, "/");
			if (n == 0 || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
				return err_set(
					err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
					"paths: '%.200s' is not a clean path relative to the workspace",
					path);
			p += n;
			if (!*p)
				break;
		}
	}
	return 0;
}

int isolated_commit_post(struct http_req *req, struct err *err)
{
	json_t *body = http_json(req), *paths = NULL;
	const char *workspace = NULL;
	struct history *h;
	struct asking *a = NULL;
	bool force = false;
	int r = find(req, &h, err);
	if (r >= 0)
		r = json_need_obj(body, JSON_OPTIONAL, err);
	if (r >= 0)
		r = json_get_str(body, "workspace", JSON_OPTIONAL, &workspace, err);
	if (r >= 0)
		r = json_get_str_arr(body, "paths", JSON_OPTIONAL, &paths, err);
	if (r >= 0)
		r = json_get_bool(body, "force", JSON_OPTIONAL, &force, err);
	if (r >= 0)
		r = check_paths(paths, err);
	if (r >= 0)
		r = asking_start(req, &a, err);
	if (r < 0)
		return r;
	return asking_wait(req, a, history_commit(h, workspace, paths, force, asking_done, a, err));
}

int isolated_undo_post(struct http_req *req, struct err *err)
{
	json_t *body = http_json(req);
	const char *run = NULL;
	struct history *h;
	struct asking *a = NULL;
	int r = find(req, &h, err);
	if (r >= 0)
		r = json_need_obj(body, JSON_OPTIONAL, err);
	if (r >= 0)
		r = json_get_str(body, "run_id", JSON_OPTIONAL, &run, err);
	if (r >= 0)
		r = asking_start(req, &a, err);
	if (r < 0)
		return r;
	return asking_wait(req, a, history_undo(h, run, asking_done, a, err));
}

int isolated_undo_get(struct http_req *req, struct err *err)
{
	struct history *h;
	struct asking *a = NULL;
	int r = find(req, &h, err);
	if (r >= 0)
		r = asking_start(req, &a, err);
	return r < 0 ? r : asking_wait(req, a, history_list(h, asking_done, a, err));
}
