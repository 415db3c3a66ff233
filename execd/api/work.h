/*
 * work.h - a request answered by one blocking function on the worker pool.
 */
#pragma once

#include "execd/api/api.h"

/*
 * Runs on a worker: touches nothing but args and what the file system holds.
 * What it appends to out is the JSON of the answer; nothing: an empty 200.
 */
typedef int work_fn(void *args, struct buf *out, struct err *err);

/*
 * Runs fn(args) and replies with its result. args is consumed in every case:
 * free_args() is called once, on the loop. A client that vanishes does not stop
 * the work, only the reply falls away.
 */
int work_start(struct http_req *req, work_fn *fn, void *args_consumed, void (*free_args)(void *args),
	       struct err *err);
