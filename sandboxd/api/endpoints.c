/*
 * endpoints.c - /sandboxes/{id}/endpoints/{port}: where a client reaches a port of a sandbox.
 *
 * execd's own port is the one bound on this host; every other port is reached
 * through execd's proxy. The host part is the name by which the client reached
 * us: it is good for the client, whatever we are called. On request the way
 * leads through this server (proxy.c), also as a signed route for a while.
 */
#include "sandboxd/api/reach.h"
#include "sandboxd/api/wait.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "lib/clock.h"
#include "proto/json.h"
#include "sandboxd/sign.h"

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

struct ways {
	bool proxy;
	const char *expires; /* or NULL */
	uint64_t expires_s;
};

static int check_ways(struct http_req *req, struct ways *w, struct err *err)
{
	const char *text = http_query(req, "expires");

	*w = (struct ways){.expires = text};
	int r = parse_bool("use_server_proxy", http_query(req, "use_server_proxy"), &w->proxy, err);
	if (r < 0 || !text)
		return r;
	errno = 0;
	w->expires_s = strtoull(text, NULL, 10);
	if (!*text || text[strspn(text, "0123456789")] || strlen(text) > 20 || errno ||
	    (text[0] == '0' && text[1]))
		return err_set(err, ERR_INVALID, INVALID, EINVAL,
			       "expires: '%.32s' is not a time in whole Unix seconds", text);
	if (w->proxy)
		return err_set(err, ERR_INVALID, INVALID, EINVAL,
			       "use_server_proxy cannot be combined with expires");
	if (w->expires_s <= clock_real_ms() / 1000)
		return err_set(err, ERR_INVALID, INVALID, EINVAL, "expires: '%.32s' is not in the future",
			       text);
	return 0;
}

static bool is_host(const char *host, size_t n, const char *more)
{
	for (size_t i = 0; i < n; i++)
		if (!isascii((unsigned char)host[i]) ||
		    (!isalnum((unsigned char)host[i]) && !strchr("-._", host[i]) && !strchr(more, host[i])))
			return false;
	return n > 0 && n < HOST_MAX;
}

/* Without the port. What is no host name is not repeated, nor an IPv6 address: sandboxes are on 127.0.0.1. */
static void host_of(struct http_req *req, char out[HOST_MAX])
{
	const char *host = http_host(req);
	size_t n = host ? strcspn(host, ":") : 0;

	if (n > 0 && is_host(host, n, ""))
		(void)snprintf(out, HOST_MAX, "%.*s", (int)n, host);
	else
		(void)snprintf(out, HOST_MAX, "%s", DEFAULT_HOST);
}

/* How the client reached us, port and all. */
static int authority_of(struct http_req *req, char out[HOST_MAX], struct err *err)
{
	const char *host = http_host(req);

	if (!host || !is_host(host, strlen(host), ":[]"))
		return err_set(err, ERR_INVALID, INVALID, EINVAL,
			       "the request's Host is not an address by which this server can be reached");
	(void)snprintf(out, HOST_MAX, "%s", host);
	return 0;
}

struct place {
	struct err *err;
	struct reach *reach;
};

static int find_place(const struct record *row, void *arg)
{
	struct place *p = arg;

	if (STATE_BIT(row->state) & (STATES_ENDED | STATE_BIT(SANDBOX_STOPPING)))
		return err_set(p->err, ERR_CONFLICT, "DOCKER::SANDBOX_NOT_RUNNING", ESTALE,
			       "sandbox '%.64s' is %s: %s", row->id, sandbox_state_name(row->state),
			       row->message);
	p->reach->execd = row->port;
	p->reach->pending = row->port == 0;
	(void)snprintf(p->reach->token, sizeof(p->reach->token), "%s", row->token ? row->token : "");
	return 0;
}

static int look_up(struct http_req *req, struct reach *ret, struct err *err)
{
	const struct lifecycle *l = http_app(req);
	struct place place = {.err = err, .reach = ret};

	*ret = (struct reach){0};
	int r = parse_port(http_param(req, "port"), &ret->port, err);
	return r < 0 ? r
		     : store_get(sandboxes_store(l->sandboxes), http_param(req, "id"), find_place, &place,
				 err);
}

int reach_find(struct http_req *req, struct reach *ret, struct err *err)
{
	int r = look_up(req, ret, err);
	if (r == 0 && ret->pending)
		return err_set(err, ERR_CONFLICT, "DOCKER::SANDBOX_NOT_RUNNING", EAGAIN,
			       "sandbox '%.64s' is still being created", http_param(req, "id"));
	return r;
}

static int write_direct(struct http_req *req, const struct reach *to, struct buf *out)
{
	char host[HOST_MAX];

	host_of(req, host);
	int r = buf_printf(out, "%s:%u", host, to->execd);
	return to->port == EXECD_PORT_INSIDE ? r : buf_printf(out, "/proxy/%u", to->port);
}

static int write_through(struct http_req *req, const struct reach *to, const struct ways *ways,
			 struct buf *out, struct err *err)
{
	const struct lifecycle *l = http_app(req);
	const char *id = http_param(req, "id");
	char host[HOST_MAX], expires[SIGN_EXPIRES_MAX], signature[SIGNATURE_MAX];

	int r = authority_of(req, host, err);
	if (r < 0)
		return r;
	if (ways->proxy)
		return buf_printf(out, "%s/sandboxes/%s/proxy/%u", host, id, to->port);
	(void)sign_expires(ways->expires_s, expires);
	return buf_printf(out, "%s/signed/%s/%u/%s/%s", host, id, to->port, expires,
			  sign_route(l->sign_key, id, to->port, expires, signature));
}

static int answer_endpoint(struct http_req *req, struct err *err)
{
	struct reach to;
	struct ways ways = {0};
	_cleanup_buf_ struct buf b = BUF_INIT(2048), endpoint = BUF_INIT(1024);
	struct jw w = JW_INIT(&b);

	int r = look_up(req, &to, err);
	if (r == 0)
		r = check_ways(req, &ways, err);
	if (r == 0 && to.pending)
		return 0;
	if (r == 0)
		r = ways.proxy || ways.expires ? write_through(req, &to, &ways, &endpoint, err)
					       : write_direct(req, &to, &endpoint);
	if (r < 0)
		return r;
	jw_obj_begin(&w);
	jw_kstr(&w, "endpoint", buf_cstr(&endpoint));
	/* A signed route needs no more: who holds it is let in until it expires. */
	if (*to.token && !ways.expires) {
		jw_key(&w, "headers");
		jw_obj_begin(&w);
		jw_kstr(&w, REACH_TOKEN_HEADER, to.token);
		jw_obj_end(&w);
	}
	jw_obj_end(&w);
	http_reply_buf(req, 200, "application/json", &b);
	return 1;
}

/* Where the runtime chooses the port, it is known once the sandbox runs: the answer waits for that. */
int endpoint_get(struct http_req *req, struct err *err)
{
	return wait_for(req, http_param(req, "id"), answer_endpoint, err);
}
