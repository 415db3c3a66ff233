/*
 * wait.h - an answer that is given once the sandbox or snapshot it is about has come so far.
 */
#pragma once

#include "sandboxd/api/lifecycle.h"

/* 1: it has answered. 0: not yet. -errno with *err: that is the answer. */
typedef int wait_fn(struct http_req *req, struct err *err);

/* Looks now, and again after each change of the state of `id`, until it has answered. */
int wait_for(struct http_req *req, const char *id, wait_fn *look, struct err *err);
