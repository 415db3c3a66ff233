/*
 * proxy.c - /proxy/{port}/...: what listens on a port of the sandbox's own loopback.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "execd/api/api.h"
#include "proto/proxy.h"

static int parse_port(const char *s, uint16_t *ret, struct err *err)
{
	char *end;
	unsigned long v = strtoul(s, &end, 10);
	if (*s < '0' || *s > '9' || *end || v == 0 || v > UINT16_MAX)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
			       "port: '%s' is not a number from 1 to 65535", s);
	*ret = (uint16_t)v;
	return 0;
}

/* What follows "/proxy/{port}" in the target as sent. */
static const char *rest_of(const char *target)
{
	const char *p = target;
	for (int segment = 0; segment < 2; segment++)
		p += 1 + strcspn(p + 1, "/?");
	return p;
}

/* A development server may listen on one of the two loopback addresses only. */
static void set_addresses(struct proxy_target *t, uint16_t port)
{
	struct sockaddr_in in = {
		.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_in6 in6 = {
		.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = in6addr_loopback};
	memcpy(&t->addresses[0], &in, sizeof(in));
	memcpy(&t->addresses[1], &in6, sizeof(in6));
	t->addresses_n = 2;
}

int proxy_any(struct http_req *req, struct err *err)
{
	static const char *const drop[] = {"X-EXECD-ACCESS-TOKEN", NULL};
	const struct execd *execd = http_app(req);
	const char *rest = rest_of(http_target(req));
	_cleanup_free_ char *target = NULL;
	struct proxy_target t = {.drop = drop};
	char what[32];
	uint16_t port = 0;
	int r = parse_port(http_param(req, "port"), &port, err);
	if (r < 0)
		return r;
	if (asprintf(&target, "%s%s", *rest == '/' ? "" : "/", rest) < 0) {
		target = NULL;
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "proxy");
	}
	(void)snprintf(what, sizeof(what), "port %u of this sandbox", port);
	set_addresses(&t, port);
	t.target = target;
	t.what = what;
	return proxy_pass(execd->loop, req, &t, err);
}
