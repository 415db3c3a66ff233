/*
 * files.c - /files but for upload.c, download.c and listing.c: what is asked
 * about files or done to them by name. Looking is done on the loop, everything
 * that changes or reads files on a worker with copies of all it needs.
 */
#include <fcntl.h>
#include <string.h>
#include <strings.h>

#include "execd/api/file_ops.h"
#include "execd/file_info.h"
#include "execd/files.h"
#include "execd/path.h"
#include "lib/map.h"
#include "proto/json.h"

#define INFO_PATHS_MAX 4096
#define INFO_REPLY_MAX (16U << 20)

static void accounts_freep(struct accounts **a)
{
	accounts_free(*a);
}
#define _cleanup_accounts_ _cleanup_(accounts_freep)

/* ---- GET /files/info ------------------------------------------------------ */

struct seen {
	struct map_node node;
};

static int info_one(struct jw *w, const char *given, const struct accounts *accounts, struct err *err)
{
	_cleanup_free_ char *path = NULL;
	struct statx stx;
	int r;

	r = path_canonical(given, &path, err);
	if (r < 0)
		return r;
	r = file_stat(AT_FDCWD, path, &stx);
	if (r < 0)
		return file_err(err, -r, "look at '%s'", path);
	jw_key(w, given);
	file_info_write(w, path, &stx, accounts);
	return 0;
}

static int info_all(struct jw *w, const char *const *paths, size_t n, const struct accounts *accounts,
		    struct err *err)
{
	_cleanup_free_ struct seen *seen = calloc(n + 1, sizeof(*seen));
	struct map done = {0};
	int r = seen ? 0 : -ENOMEM;

	jw_obj_begin(w);
	for (size_t i = 0; i < n && r >= 0; i++) {
		/* Asked for twice, told once: the answer is an object. */
		r = map_add(&done, &seen[i].node, paths[i]);
		if (r == -EEXIST)
			r = 0;
		else if (r >= 0)
			r = info_one(w, paths[i], accounts, err);
	}
	jw_obj_end(w);
	map_done(&done);
	if (r == -ENOMEM)
		err_sys(err, "RUNTIME_ERROR", ENOMEM, "look at files");
	return r;
}

int files_info_get(struct http_req *req, struct err *err)
{
	_cleanup_free_ const char **paths = calloc(INFO_PATHS_MAX, sizeof(*paths));
	_cleanup_accounts_ struct accounts *accounts = NULL;
	_cleanup_buf_ struct buf out = BUF_INIT(INFO_REPLY_MAX);
	struct jw w = JW_INIT(&out);
	size_t n;
	int r;

	if (!paths)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "look at files");
	n = http_query_all(req, "path", paths, INFO_PATHS_MAX);
	if (n > INFO_PATHS_MAX)
		return err_set(err, ERR_LIMIT, "INVALID_REQUEST_BODY", E2BIG,
			       "more than %d paths in one request", INFO_PATHS_MAX);
	/* Without them owners are shown by number. */
	(void)accounts_load(&accounts);
	r = info_all(&w, paths, n, accounts, err);
	if (r < 0)
		return r;
	if (out.failed)
		return err_set(err, ERR_TOO_LARGE, "RUNTIME_ERROR", ENOBUFS, "the answer is over %u bytes",
			       INFO_REPLY_MAX);
	http_reply_buf(req, 200, "application/json", &out);
	return 0;
}

/* ---- DELETE /files ---------------------------------------------------------- */

static int remove_one(struct file_op *op, struct err *err)
{
	return file_remove(op->path, err);
}

int files_delete(struct http_req *req, struct err *err)
{
	return file_ops_query(req, remove_one, err);
}

/* ---- POST /files/permissions -------------------------------------------------- */

static int set_perm_one(struct file_op *op, struct err *err)
{
	return file_set_perm(op->path, &op->perm, err);
}

int files_permissions_post(struct http_req *req, struct err *err)
{
	return file_ops_perms(req, set_perm_one, err);
}

/* ---- POST /files/mv ------------------------------------------------------------- */

static int move_one(struct file_op *op, struct err *err)
{
	return file_move(op->path, op->dest, err);
}

static int fill_move(struct file_op *op, json_t *item, struct err *err)
{
	const char *src, *dest;
	int r = json_need_obj(item, JSON_REQUIRED, err);

	if (r >= 0)
		r = json_get_str(item, "src", JSON_REQUIRED, &src, err);
	if (r >= 0)
		r = json_get_str(item, "dest", JSON_REQUIRED, &dest, err);
	if (r >= 0)
		r = file_op_set_path(op, src, err);
	if (r >= 0)
		r = path_canonical(dest, &op->dest, err);
	return r;
}

int files_mv_post(struct http_req *req, struct err *err)
{
	json_t *root = http_json(req), *item;
	struct file_ops *ops;
	int r = 0;
	size_t i;

	if (!json_is_array(root))
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
			       "the body must be an array of {\"src\", \"dest\"}");
	ops = file_ops_new(json_array_size(root), move_one);
	if (!ops)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "move files");
	json_array_foreach(root, i, item)
	{
		r = fill_move(&ops->v[i], item, err);
		if (r < 0)
			break;
	}
	if (r < 0) {
		if (err->kind == ERR_INVALID)
			r = err_set(err, ERR_INVALID, err->code, EINVAL, "item %zu: %s", i, err->message);
		file_ops_free(ops);
		return r;
	}
	return file_ops_start(req, ops, err);
}

/* ---- POST /files/replace ---------------------------------------------------------- */

static int replace_one(struct file_op *op, struct err *err)
{
	return file_replace(op->path, op->old, op->old_n, op->new, op->new_n, &op->count, err);
}

static void tell_counts(const struct file_ops *ops, struct buf *out)
{
	struct jw w = JW_INIT(out);

	jw_obj_begin(&w);
	for (size_t i = 0; i < ops->n; i++) {
		jw_key(&w, ops->v[i].given);
		jw_obj_begin(&w);
		jw_kint(&w, "replacedCount", (int64_t)ops->v[i].count);
		jw_obj_end(&w);
	}
	jw_obj_end(&w);
}

static int fill_replace(struct file_op *op, const char *path, json_t *item, struct err *err)
{
	const char *old = NULL, *new = "";
	int r = json_need_obj(item, JSON_REQUIRED, err);

	if (r >= 0)
		r = json_get_str(item, "old", JSON_REQUIRED, &old, err);
	if (r >= 0)
		r = json_get_str(item, "new", JSON_OPTIONAL, &new, err);
	if (r >= 0 && !old[0])
		r = err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL, "'old' must not be empty");
	if (r < 0)
		return err_set(err, err->kind, err->code, -r, "'%s': %s", path, err->message);
	op->old = strdup(old);
	op->new = strdup(new);
	if (!op->old || !op->new)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "replace in '%s'", path);
	op->old_n = strlen(old);
	op->new_n = strlen(new);
	return file_op_set_path(op, path, err);
}

int files_replace_post(struct http_req *req, struct err *err)
{
	const char *verbose = http_query(req, "verbose"), *path;
	json_t *root = http_json(req), *item;
	struct file_ops *ops;
	size_t i = 0;
	int r = json_need_obj(root, JSON_REQUIRED, err);

	if (r < 0)
		return r;
	ops = file_ops_new(json_object_size(root), replace_one);
	if (!ops)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "replace");
	if (verbose && (strcasecmp(verbose, "true") == 0 || strcmp(verbose, "1") == 0))
		ops->tell = tell_counts;
	json_object_foreach(root, path, item)
	{
		r = fill_replace(&ops->v[i++], path, item, err);
		if (r < 0) {
			file_ops_free(ops);
			return r;
		}
	}
	return file_ops_start(req, ops, err);
}
