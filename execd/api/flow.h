/*
 * flow.h - long blocking work as a stream: a worker makes the reply's body, or takes the request's.
 *
 * The work is cut into pieces, one job of the pool each; between two pieces
 * nothing is held but its state. So a slow client holds memory for two pieces
 * and never a worker, and whoever loses its client is cancelled.
 */
#pragma once

#include "execd/api/api.h"

#define FLOW_LANES_MAX 4
#define FLOW_PIECE_MAX (16U << 20)  /* no piece is larger */
#define FLOW_BODY_MAX  (256U << 10) /* bytes of a request's body that wait for the worker */

/* ---- out: worker -> client ------------------------------------------------- */

struct flow_out_ops {
	const char *content_type;
	/*
	 * Worker: appends the next piece to out. 1: that was the last of this
	 * lane; 0: there is more (out may be empty: it was a long way without
	 * anything to tell); -errno with *err. Lanes run at once, each for itself.
	 */
	int (*next)(void *state, unsigned lane, struct buf *out, struct err *err);
	/* Loop, after the last piece of the last lane has been sent; may be NULL. */
	void (*finish)(void *state, struct buf *out);
	/* Loop: next() returns soon. */
	void (*cancel)(void *state);
	void (*free)(void *state);
};

/*
 * Replies with what the lanes (at most FLOW_LANES_MAX) make, in no order among
 * them. An error before the first byte is an ordinary error reply, one after it
 * breaks the connection off, so that nobody takes the beginning for the whole.
 * What is complete with its first piece has a length. Consumes state in every case.
 */
int flow_out(struct http_req *req, const struct flow_out_ops *ops, unsigned lanes, void *state_consumed,
	     struct err *err);

/* ---- in: client -> worker --------------------------------------------------- */

struct flow_in_ops {
	/* Worker: takes all of it. */
	int (*feed)(void *state, const void *data, size_t n, struct err *err);
	/* Worker: the body was complete; appends the JSON of the answer. */
	int (*end)(void *state, struct buf *out, struct err *err);
	/* Loop: feed() and end() return soon. */
	void (*cancel)(void *state);
	/* Loop. The work of a client that vanished ends here, too. */
	void (*free)(void *state);
};

/* The route's body is HTTP_BODY_STREAM. Consumes state in every case. */
int flow_in(struct http_req *req, const struct flow_in_ops *ops, void *state_consumed, struct err *err);
