/*
 * directories.c - POST and DELETE /directories. The listing is in listing.c.
 */
#include "execd/api/file_ops.h"
#include "execd/files.h"

static int make_one(struct file_op *op, struct err *err)
{
	return dir_make(op->path, &op->perm, err);
}

int directories_post(struct http_req *req, struct err *err)
{
	return file_ops_perms(req, make_one, err);
}

static int remove_one(struct file_op *op, struct err *err)
{
	return dir_remove(op->path, err);
}

int directories_delete(struct http_req *req, struct err *err)
{
	return file_ops_query(req, remove_one, err);
}
