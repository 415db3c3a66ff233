/*
 * copy.c - POST /files/copy: a list of copies, done in order up to the first that fails.
 */
#include <string.h>

#include "execd/api/flow.h"
#include "execd/file_copy.h"
#include "execd/path.h"
#include "proto/json.h"

#define COPIES_MAX 4096 /* in one request */

struct copies {
	atomic_bool cancelled;
	size_t n;
	struct file_copy v[];
};

static void copies_free(void *state)
{
	struct copies *copies = state;

	for (size_t i = 0; i < copies->n; i++) {
		free((char *)copies->v[i].src);
		free((char *)copies->v[i].dest);
	}
	free(copies);
}

static void copies_cancel(void *state)
{
	struct copies *copies = state;

	atomic_store(&copies->cancelled, true);
}

static void tell(const struct file_copy *c, struct jw *w)
{
	jw_obj_begin(w);
	jw_kstr(w, "src", c->src);
	jw_kstr(w, "dest", c->dest);
	jw_kint(w, "files", (int64_t)c->files);
	jw_kint(w, "directories", (int64_t)c->directories);
	jw_kint(w, "links", (int64_t)c->links);
	jw_kint(w, "skipped", (int64_t)c->skipped);
	jw_kint(w, "bytes", (int64_t)c->bytes);
	jw_obj_end(w);
}

static int copies_run(void *state, unsigned lane, struct buf *out, struct err *err)
{
	struct copies *copies = state;
	struct jw w = JW_INIT(out);

	(void)lane;
	for (size_t i = 0; i < copies->n; i++) {
		int r = file_copy(&copies->v[i], err);

		if (r < 0)
			return r;
	}
	jw_arr_begin(&w);
	for (size_t i = 0; i < copies->n; i++)
		tell(&copies->v[i], &w);
	jw_arr_end(&w);
	return 1;
}

static int fill(struct copies *copies, size_t i, json_t *item, struct err *err)
{
	struct file_copy *c = &copies->v[i];
	const char *src, *dest;
	char *path;
	int r = json_need_obj(item, JSON_REQUIRED, err);

	c->cancel = &copies->cancelled;
	if (r >= 0)
		r = json_get_str(item, "src", JSON_REQUIRED, &src, err);
	if (r >= 0)
		r = json_get_str(item, "dest", JSON_REQUIRED, &dest, err);
	if (r >= 0)
		r = json_get_bool(item, "recursive", JSON_OPTIONAL, &c->recursive, err);
	if (r >= 0)
		r = json_get_bool(item, "overwrite", JSON_OPTIONAL, &c->overwrite, err);
	if (r >= 0)
		r = path_canonical(src, &path, err);
	if (r >= 0) {
		c->src = path;
		r = path_canonical(dest, &path, err);
	}
	if (r >= 0)
		c->dest = path;
	if (r < 0 && err->kind == ERR_INVALID) {
		struct err cause = *err;

		return err_set(err, ERR_INVALID, cause.code, EINVAL, "item %zu: %.400s", i, cause.message);
	}
	return r;
}

int files_copy_post(struct http_req *req, struct err *err)
{
	static const struct flow_out_ops ops = {.content_type = "application/json",
						.next = copies_run,
						.cancel = copies_cancel,
						.free = copies_free};
	json_t *root = http_json(req);
	struct copies *copies;
	size_t n = json_array_size(root);
	int r = 0;

	if (!json_is_array(root))
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
			       "the body is not an array of {src, dest}");
	if (n > COPIES_MAX)
		return err_set(err, ERR_TOO_LARGE, "INVALID_REQUEST_BODY", E2BIG, "more than %d copies",
			       COPIES_MAX);
	copies = calloc(1, sizeof(*copies) + n * sizeof(copies->v[0]));
	if (!copies)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "copy");
	copies->n = n;
	for (size_t i = 0; i < n && r >= 0; i++)
		r = fill(copies, i, json_array_get(root, i), err);
	if (r < 0) {
		copies_free(copies);
		return r;
	}
	return flow_out(req, &ops, 1, copies, err);
}
