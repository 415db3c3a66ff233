/*
 * file_ops.c - lists of file operations. The list is the worker's from start to
 * the reply.
 */
#include "execd/api/file_ops.h"

#include <string.h>

#include "execd/api/work.h"
#include "execd/path.h"
#include "proto/json.h"

struct file_ops *file_ops_new(size_t n, int (*fn)(struct file_op *op, struct err *err))
{
	struct file_ops *ops = calloc(1, sizeof(*ops) + n * sizeof(ops->v[0]));

	if (!ops)
		return NULL;
	ops->n = n;
	ops->fn = fn;
	for (size_t i = 0; i < n; i++)
		ops->v[i].perm = FILE_PERM_NONE;
	return ops;
}

void file_ops_free(struct file_ops *ops)
{
	if (!ops)
		return;
	for (size_t i = 0; i < ops->n; i++) {
		struct file_op *op = &ops->v[i];

		free(op->given);
		free(op->path);
		free(op->dest);
		free(op->old);
		free(op->new);
	}
	free(ops);
}

static void free_args(void *args)
{
	file_ops_free(args);
}

static int run(void *args, struct buf *out, struct err *err)
{
	struct file_ops *ops = args;

	for (size_t i = 0; i < ops->n; i++) {
		int r = ops->fn(&ops->v[i], err);

		if (r < 0)
			return r;
	}
	if (ops->tell)
		ops->tell(ops, out);
	return 0;
}

int file_ops_start(struct http_req *req, struct file_ops *ops_consumed, struct err *err)
{
	return work_start(req, run, ops_consumed, free_args, err);
}

int file_op_set_path(struct file_op *op, const char *given, struct err *err)
{
	op->given = strdup(given);
	if (!op->given)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "'%s'", given);
	return path_canonical(given, &op->path, err);
}

int file_ops_query(struct http_req *req, int (*fn)(struct file_op *op, struct err *err), struct err *err)
{
	size_t n = http_query_all(req, "path", NULL, 0);
	_cleanup_free_ const char **paths = calloc(n + 1, sizeof(*paths));
	struct file_ops *ops = file_ops_new(n, fn);
	int r = 0;

	if (!paths || !ops) {
		file_ops_free(ops);
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "paths");
	}
	(void)http_query_all(req, "path", paths, n);
	for (size_t i = 0; i < n && r >= 0; i++)
		r = file_op_set_path(&ops->v[i], paths[i], err);
	if (r < 0) {
		file_ops_free(ops);
		return r;
	}
	return file_ops_start(req, ops, err);
}

/* The message of a bad item says whose it is. */
static int blame(struct err *err, int r, const char *path)
{
	if (err->kind != ERR_INVALID)
		return r;
	return err_set(err, ERR_INVALID, err->code, EINVAL, "'%s': %s", path, err->message);
}

static int fill_perms(struct file_ops *ops, json_t *root, const struct accounts *accounts, struct err *err)
{
	const char *path;
	json_t *item;
	size_t i = 0;

	json_object_foreach(root, path, item)
	{
		struct file_op *op = &ops->v[i++];
		int r = json_need_obj(item, JSON_REQUIRED, err);

		if (r >= 0)
			r = file_perm_parse(item, accounts, &op->perm, err);
		if (r < 0)
			return blame(err, r, path);
		r = file_op_set_path(op, path, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int file_ops_perms(struct http_req *req, int (*fn)(struct file_op *op, struct err *err), struct err *err)
{
	json_t *root = http_json(req);
	struct accounts *accounts = NULL;
	struct file_ops *ops;
	int r = json_need_obj(root, JSON_REQUIRED, err);

	if (r < 0)
		return r;
	r = accounts_load(&accounts);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "read /etc/passwd and /etc/group");
	ops = file_ops_new(json_object_size(root), fn);
	r = ops ? fill_perms(ops, root, accounts, err) : err_sys(err, "RUNTIME_ERROR", ENOMEM, "paths");
	accounts_free(accounts);
	if (r < 0) {
		file_ops_free(ops);
		return r;
	}
	return file_ops_start(req, ops, err);
}
