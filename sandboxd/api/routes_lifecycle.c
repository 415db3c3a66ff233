/*
 * routes_lifecycle.c - the table of routes, the key, and /health.
 */
#include "sandboxd/api/lifecycle.h"

#include <string.h>

#include "lib/random.h"

#define KEY_HEADER "OPEN-SANDBOX-API-KEY"

#define ROUTE(m, p, f, ...)                                                                                  \
	{                                                                                                    \
		.method = (m), .path = (p), .fn = (f), __VA_ARGS__                                           \
	}

const struct http_route lifecycle_routes[] = {
	ROUTE("GET", "/health", health_get, .open = true),
	ROUTE("GET", "/docs", docs_get, .open = true),
	ROUTE("GET", "/openapi.yaml", openapi_get, .open = true),
	ROUTE("GET", "/sandboxes", sandboxes_get),
	ROUTE("POST", "/sandboxes", sandboxes_post, .body = HTTP_BODY_JSON),
	ROUTE("GET", "/sandboxes/{id}", sandbox_get),
	ROUTE("DELETE", "/sandboxes/{id}", sandbox_delete),
	ROUTE("PATCH", "/sandboxes/{id}/metadata", sandbox_patch_metadata, .body = HTTP_BODY_JSON),
	ROUTE("GET", "/sandboxes/{id}/diagnostics/logs", diagnostics_logs),
	ROUTE("GET", "/sandboxes/{id}/diagnostics/events", diagnostics_events),
	ROUTE("GET", "/sandboxes/{id}/diagnostics/context", diagnostics_context),
	ROUTE("GET", "/sandboxes/{id}/diagnostics/inspect", diagnostics_inspect),
	ROUTE("GET", "/sandboxes/{id}/diagnostics/summary", diagnostics_summary),
	ROUTE("POST", "/sandboxes/{id}/snapshots", snapshot_post, .body = HTTP_BODY_JSON),
	ROUTE("GET", "/pool", pool_get),
	ROUTE("GET", "/snapshots", snapshots_get),
	ROUTE("GET", "/snapshots/{id}", snapshot_get),
	ROUTE("DELETE", "/snapshots/{id}", snapshot_delete),
	ROUTE("POST", "/sandboxes/{id}/pause", sandbox_pause),
	ROUTE("POST", "/sandboxes/{id}/resume", sandbox_resume),
	ROUTE("POST", "/sandboxes/{id}/renew-expiration", sandbox_renew, .body = HTTP_BODY_JSON),
	ROUTE("GET", "/sandboxes/{id}/endpoints/{port}", endpoint_get),
	/* As on the known server: who knows the sandbox's id may reach it, unless it has secureAccess. */
	ROUTE("*", "/sandboxes/{id}/proxy/{port}", server_proxy_any, .body = HTTP_BODY_STREAM, .open = true),
	ROUTE("*", "/sandboxes/{id}/proxy/{port}/*", server_proxy_any, .body = HTTP_BODY_STREAM,
	      .open = true),
	ROUTE("*", "/signed/{id}/{port}/{expires}/{signature}", signed_any, .body = HTTP_BODY_STREAM,
	      .open = true),
	ROUTE("*", "/signed/{id}/{port}/{expires}/{signature}/*", signed_any, .body = HTTP_BODY_STREAM,
	      .open = true),
	{.method = NULL},
};

int lifecycle_authorize(struct http_req *req, struct err *err)
{
	const struct lifecycle *l = http_app(req);
	const char *given = http_header(req, KEY_HEADER);

	if (!l->config->api_key && http_cross_site(req))
		return err_set(
			err, ERR_FORBIDDEN, "CROSS_SITE", EACCES,
			"a page of another site may not ask for this; where it should, give the server an "
			"API key and let the page send it");
	if (!l->config->api_key)
		return 0;
	if (!given || !*given)
		return err_set(err, ERR_UNAUTHORIZED, "MISSING_API_KEY", EACCES,
			       "the request has no API key: send it in the header " KEY_HEADER);
	if (!secret_equal(given, l->config->api_key))
		return err_set(err, ERR_UNAUTHORIZED, "INVALID_API_KEY", EACCES,
			       "the API key in the header " KEY_HEADER " is not the right one");
	return 0;
}

int health_get(struct http_req *req, struct err *err)
{
	static const char healthy[] = "{\"status\":\"healthy\"}";

	(void)err;
	http_reply(req, 200, "application/json", healthy, strlen(healthy));
	return 0;
}
