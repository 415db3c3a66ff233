/*
 * proxy.c - the server proxy: /sandboxes/{id}/proxy/{port}/... and, for who holds a
 * signed route, /signed/{id}/{port}/{expires}/{signature}/...
 *
 * execd's own port is asked directly, every other one through execd's proxy.
 * What names the client to this server stays here: the API key, and, as on the
 * known server, Authorization and Cookie, which one sandbox would otherwise get
 * of another since all share our address.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/random.h"
#include "proto/proxy.h"
#include "sandboxd/api/reach.h"
#include "sandboxd/sign.h"

/* What follows the first n segments in the target as sent; the prefix counts for none. */
static const char *rest_of(const char *target, int n)
{
	const char *p = strncmp(target, "/v1/", 4) == 0 ? target + 3 : target;
	while (n-- > 0)
		p += 1 + strcspn(p + 1, "/?");
	return p;
}

/* What is said of the request before us is kept. */
static void add_forwarded(struct http_req *req, struct buf *add)
{
	if (!http_header(req, "X-Forwarded-Proto"))
		(void)buf_puts(add, "X-Forwarded-Proto: http\r\n");
	if (!http_header(req, "X-Forwarded-Host") && http_host(req))
		(void)buf_printf(add, "X-Forwarded-Host: %s\r\n", http_host(req));
}

/* token: let in without asking, or NULL. */
static int pass(struct http_req *req, const struct reach *to, int segments, const char *token,
		struct err *err)
{
	static const char *const drop[] = {"OPEN-SANDBOX-API-KEY", "Authorization", "Cookie", NULL};
	static const char *const drop_signed[] = {"OPEN-SANDBOX-API-KEY", "Authorization", "Cookie",
						  REACH_TOKEN_HEADER, NULL};
	const struct lifecycle *l = http_app(req);
	const char *rest = rest_of(http_target(req), segments);
	_cleanup_buf_ struct buf target = BUF_INIT(PROXY_HEAD_MAX + 64), add = BUF_INIT(8192);
	char what[128];
	struct sockaddr_in in = {.sin_family = AF_INET,
				 .sin_port = htons(to->execd),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct proxy_target t = {.addresses_n = 1, .what = what, .drop = token ? drop_signed : drop};

	if (to->port != EXECD_PORT_INSIDE)
		(void)buf_printf(&target, "/proxy/%u", to->port);
	(void)buf_printf(&target, "%s%s", *rest == '/' ? "" : "/", rest);
	add_forwarded(req, &add);
	if (token)
		(void)buf_printf(&add, REACH_TOKEN_HEADER ": %s\r\n", token);
	t.target = buf_cstr(&target);
	t.add = buf_cstr(&add);
	if (!t.target || !t.add)
		return err_set(err, ERR_TOO_LARGE, "SANDBOX::INVALID_PARAMETER", E2BIG,
			       "the request's target is too long to be passed on");
	(void)snprintf(what, sizeof(what), "sandbox %.64s, port %u", http_param(req, "id"), to->port);
	memcpy(&t.addresses[0], &in, sizeof(in));
	return proxy_pass(l->loop, req, &t, err);
}

int server_proxy_any(struct http_req *req, struct err *err)
{
	struct reach to;

	int r = reach_find(req, &to, err);
	return r < 0 ? r : pass(req, &to, 4, NULL, err);
}

int signed_any(struct http_req *req, struct err *err)
{
	const struct lifecycle *l = http_app(req);
	const char *expires = http_param(req, "expires");
	char signature[SIGNATURE_MAX];
	struct reach to;
	uint64_t seconds = 0;

	/* The signature first: to who has none, not even a sandbox's existence is told. */
	char *end;
	unsigned long port = strtoul(http_param(req, "port"), &end, 10);
	if (*end || port > UINT16_MAX || sign_expires_parse(expires, &seconds) < 0 ||
	    !secret_equal(http_param(req, "signature"),
			  sign_route(l->sign_key, http_param(req, "id"), (unsigned)port, expires, signature)))
		return err_set(err, ERR_UNAUTHORIZED, "INVALID_SIGNATURE", EACCES,
			       "the route is not one that this server has signed");
	if (seconds <= clock_real_ms() / 1000)
		return err_set(err, ERR_UNAUTHORIZED, "SIGNATURE_EXPIRED", EACCES,
			       "the signed route has expired");
	int r = reach_find(req, &to, err);
	return r < 0 ? r : pass(req, &to, 5, *to.token ? to.token : NULL, err);
}
