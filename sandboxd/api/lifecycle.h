/*
 * lifecycle.h - the lifecycle API: the routes and what their handlers reach.
 *
 * Source: sandbox-lifecycle.yml; error codes are those of the known server.
 */
#pragma once

#include "proto/http.h"
#include "sandboxd/config.h"
#include "sandboxd/sandbox.h"

#define SIGN_KEY_DIGITS 64

struct lifecycle {
	const struct config *config;
	struct sandboxes *sandboxes;
	struct loop *loop;
	struct pool *pool;
	char sign_key[SIGN_KEY_DIGITS + 1]; /* of signed endpoints */
};

extern const struct http_route lifecycle_routes[];

/* http_config.authorize: OPEN-SANDBOX-API-KEY, where a key is configured. */
int lifecycle_authorize(struct http_req *req, struct err *err);

http_handler_fn health_get, sandboxes_get, sandboxes_post, sandbox_get, sandbox_delete, sandbox_renew,
	endpoint_get, sandbox_patch_metadata, sandbox_pause, sandbox_resume, diagnostics_logs,
	diagnostics_events, diagnostics_context, diagnostics_inspect, diagnostics_summary, docs_get,
	openapi_get, snapshots_get, snapshot_get, snapshot_post, snapshot_delete, pool_get, server_proxy_any,
	signed_any;

/*
 * A CreateSandboxRequest, checked field by field. ret borrows from body, and
 * from keep for what had to be made; keep is released by create_done(). A snapshot
 * is looked up in store, unless that is NULL.
 */
struct create_keep {
	json_t *env;
	json_t *entrypoint; /* where the request names none */
	char snapshot_image[IMAGE_URI_MAX + 1];
	struct volumes volumes; /* not opened yet */
	char notes[192];
};
int create_parse(json_t *body, const struct config *config, struct store *store, struct sandbox_spec *ret,
		 struct create_keep *keep, struct err *err);
void create_done(struct create_keep *keep);

/* Kubernetes label rules, as the known server checks them. */
int label_check(const char *key, const char *value, struct err *err);

/* "500m", "1.5" to thousandths; "512Mi", "1G", "1073741824" to bytes. -EINVAL. */
int quantity_cpu(const char *text, uint64_t *ret_millis);
int quantity_bytes(const char *text, uint64_t *ret_bytes);
