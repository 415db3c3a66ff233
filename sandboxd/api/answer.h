/*
 * answer.h - POST handlers give an answer instead of replying, so that it can be given again.
 *
 * A request with an Idempotency-Key is done once: its answer is stored together
 * with what it changed, and for 24 hours who repeats the request gets the same
 * answer (with Idempotency-Replayed: true). The same key with another request
 * is 409. What failed is not remembered: it may be tried again.
 */
#pragma once

#include "sandboxd/api/lifecycle.h"

#define ANSWER_KEY_MAX	256
#define ANSWER_BODY_MAX (16u << 20)

struct answer {
	unsigned status;
	char location[96]; /* or "" */
	struct buf body;   /* JSON, or empty */
};

typedef int answer_fn(struct http_req *req, struct answer *a, struct err *err);

/* Replies with what fn gives or gave; its result is that of a handler. */
int answer_once(struct http_req *req, answer_fn *fn, struct err *err);
