/*
 * file_ops.h - a request as a list of file operations: parsed and checked whole on
 * the loop, then done in order on a worker, up to the first that fails.
 */
#pragma once

#include "execd/api/api.h"
#include "execd/file_info.h"

struct file_op {
	char *given; /* as the client wrote it */
	char *path;  /* canonical */
	char *dest;  /* where it goes, or NULL */
	struct file_perm perm;
	char *old, *new; /* what is replaced by what */
	size_t old_n, new_n;
	uint64_t count; /* of replacements */
};

struct file_ops {
	size_t n;
	/* Worker. */
	int (*fn)(struct file_op *op, struct err *err);
	/* Worker, after the last one: the JSON of the answer. NULL: none. */
	void (*tell)(const struct file_ops *ops, struct buf *out);
	struct file_op v[];
};

/* NULL without memory. */
struct file_ops *file_ops_new(size_t n, int (*fn)(struct file_op *op, struct err *err));
void file_ops_free(struct file_ops *ops); /* NULL is fine */
/* Fills given and path. */
int file_op_set_path(struct file_op *op, const char *given, struct err *err);
/* Consumes ops in every case and replies later. */
int file_ops_start(struct http_req *req, struct file_ops *ops_consumed, struct err *err);

/* fn for each `path` of the query. */
int file_ops_query(struct http_req *req, int (*fn)(struct file_op *op, struct err *err), struct err *err);
/* fn for each {path: {mode, owner, group}} of the body. */
int file_ops_perms(struct http_req *req, int (*fn)(struct file_op *op, struct err *err), struct err *err);
