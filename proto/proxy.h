/*
 * proxy.h - a reverse proxy: one request of ours becomes one of somebody else's.
 *
 * Bodies stream both ways with bounded memory, events are not held back, a
 * switched protocol (WebSocket) is relayed as bytes. Path, query, header order
 * and bodies are passed on as sent; only the fields that belong to a single
 * connection (RFC 9110 section 7.6.1) and those in `drop` are left out.
 */
#pragma once

#include <sys/socket.h>

#include "proto/http.h"

#define PROXY_HEAD_MAX	 65536 /* bytes of the upstream's reply head */
#define PROXY_BUFFER_MAX 65536 /* of the request's body that wait for the upstream to take them */

#define PROXY_ADDRESSES_MAX 2

struct proxy_target {
	struct sockaddr_storage addresses[PROXY_ADDRESSES_MAX]; /* tried in order while refused */
	size_t addresses_n;
	int fd;		    /* a connection that is there already, when there are no addresses; consumed */
	const char *target; /* the request target to ask for; copied */
	const char *what;   /* who that is, for messages: "port 8000"; copied */
	const char *const *drop; /* names of request headers to leave out, NULL-terminated; static */
	const char *add;	 /* header lines to add, each with its CRLF, or NULL; copied */
};

/*
 * Begins; what fails later is answered with 502 BAD_GATEWAY as long as nothing
 * of the reply has been sent, and with a broken connection after that. The
 * route's body is HTTP_BODY_STREAM. -errno with *err when it cannot begin.
 */
int proxy_pass(struct loop *loop, struct http_req *req, const struct proxy_target *target, struct err *err);
