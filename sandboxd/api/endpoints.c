/*
 * endpoints.c - /sandboxes/{id}/endpoints/{port}: where a client reaches a port of a sandbox.
 *
 * execd's own port is the one bound on this host; every other port is reached
 * through execd's proxy. The host part is the name by which the client reached
 * us: it is good for the client, whatever we are called.
 */
#include "sandboxd/api/lifecycle.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "proto/json.h"

#define INVALID	     "SANDBOX::INVALID_PARAMETER"
#define HOST_MAX     256
#define DEFAULT_HOST "127.0.0.1"

static int parse_port(const char *text, unsigned *ret, struct err *err)
{
	size_t n = strspn(text, "0123456789");
	unsigned long port = n > 0 && n <= 5 && !text[n] ? strtoul(text, NULL, 10) : 0;

	if (port < 1 || port > 65535)
		return err_set(err, ERR_INVALID, "DOCKER::INVALID_PORT", EINVAL,
			       "port: '%.32s' is not a number from 1 to 65535", text);
	*ret = (unsigned)port;
	return 0;
}

static int parse_bool(const char *name, const char *text, bool *ret, struct err *err)
{
	static const char *const words[2][6] = {{"false", "0", "no", "off", "n", "f"},
						{"true", "1", "yes", "on", "y", "t"}};
	for (size_t v = 0; text && v < 2; v++)
		for (size_t i = 0; i < ARRAY_SIZE(words[v]); i++)
			if (strcasecmp(text, words[v][i]) == 0) {
				*ret = v;
				return 0;
			}
	if (!text)
		return 0;
	return err_set(err, ERR_INVALID, INVALID, EINVAL, "%s: '%.32s' is neither true nor false", name,
		       text);
}

static int check_ways(struct http_req *req, struct err *err)
{
	const char *expires = http_query(req, "expires");
	bool proxy = false;

	int r = parse_bool("use_server_proxy", http_query(req, "use_server_proxy"), &proxy, err);
	if (r < 0)
		return r;
	if (expires && (!*expires || expires[strspn(expires, "0123456789")] || strlen(expires) > 20))
		return err_set(err, ERR_INVALID, INVALID, EINVAL, "expires: '%.32s' is not in Unix seconds",
			       expires);
	if (expires && proxy)
		return err_set(err, ERR_INVALID, INVALID, EINVAL,
			       "use_server_proxy cannot be combined with expires");
	if (expires)
		return err_set(err, ERR_INVALID, "SANDBOX::API_NOT_SUPPORTED", EOPNOTSUPP,
			       "signed endpoints (expires) are not supported by this runtime yet");
	if (proxy)
		return err_set(err, ERR_INVALID, "SANDBOX::API_NOT_SUPPORTED", EOPNOTSUPP,
			       "the server proxy (use_server_proxy) is not supported by this server yet; "
			       "leave it out to get the direct endpoint");
	return 0;
}

/* Without the port. What is no host name is not repeated, nor an IPv6 address: sandboxes are on 127.0.0.1. */
static void host_of(struct http_req *req, char out[HOST_MAX])
{
	const char *host = http_host(req);
	size_t n = host ? strcspn(host, ":") : 0;

	(void)snprintf(out, HOST_MAX, "%s", DEFAULT_HOST);
	if (n == 0 || n >= HOST_MAX)
		return;
	for (size_t i = 0; i < n; i++)
		if (!isascii((unsigned char)host[i]) ||
		    (!isalnum((unsigned char)host[i]) && !strchr("-._", host[i])))
			return;
	(void)snprintf(out, HOST_MAX, "%.*s", (int)n, host);
}

struct place {
	struct err *err;
	uint16_t port;
};

static int find_port(const struct record *row, void *arg)
{
	struct place *p = arg;

	if (STATE_BIT(row->state) & (STATES_ENDED | STATE_BIT(SANDBOX_STOPPING)))
		return err_set(p->err, ERR_CONFLICT, "DOCKER::SANDBOX_NOT_RUNNING", ESTALE,
			       "sandbox '%.64s' is %s: %s", row->id, sandbox_state_name(row->state),
			       row->message);
	p->port = row->port;
	return 0;
}

int endpoint_get(struct http_req *req, struct err *err)
{
	const struct lifecycle *l = http_app(req);
	char host[HOST_MAX], endpoint[HOST_MAX + 64];
	struct place place = {.err = err};
	_cleanup_buf_ struct buf b = BUF_INIT(1024);
	struct jw w = JW_INIT(&b);
	unsigned port = 0;

	int r = parse_port(http_param(req, "port"), &port, err);
	if (r == 0)
		r = check_ways(req, err);
	if (r == 0)
		r = store_get(sandboxes_store(l->sandboxes), http_param(req, "id"), find_port, &place, err);
	if (r < 0)
		return r;
	host_of(req, host);
	int n = snprintf(endpoint, sizeof(endpoint), "%s:%u", host, place.port);
	if (port != EXECD_PORT_INSIDE)
		(void)snprintf(endpoint + n, sizeof(endpoint) - (size_t)n, "/proxy/%u", port);
	jw_obj_begin(&w);
	jw_kstr(&w, "endpoint", endpoint);
	jw_obj_end(&w);
	http_reply_buf(req, 200, "application/json", &b);
	return 0;
}
