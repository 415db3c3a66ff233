/*
 * reach.h - where a port of a sandbox is: shared by the endpoints and the server proxy.
 */
#pragma once

#include <stdbool.h>

#include "sandboxd/api/lifecycle.h"

#define REACH_TOKEN_MAX	   128
#define REACH_TOKEN_HEADER "X-EXECD-ACCESS-TOKEN"

struct reach {
	unsigned port;		     /* as the client names it */
	uint16_t execd;		     /* execd's own, on this host's loopback */
	bool pending;		     /* it has none yet */
	char token[REACH_TOKEN_MAX]; /* that execd asks for, or "" */
};

/* From the path parameters "id" and "port". 404, or 409 when it has ended or is ending. */
int reach_find(struct http_req *req, struct reach *ret, struct err *err);
