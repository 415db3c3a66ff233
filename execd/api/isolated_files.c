/*
 * isolated_files.c - /v1/isolated/session/{id}/files and /directories: the same as
 * /files and /directories, answered by the room's clerk. The request is handed on as it is.
 */
#include <stdio.h>
#include <string.h>

#include "execd/api/api.h"
#include "execd/isolated/clerk.h"
#include "execd/isolated/isolated.h"
#include "proto/proxy.h"

/* What follows "/v1/isolated/session/{id}" in the target as sent. */
static const char *rest_of(const char *target)
{
	const char *p = target;
	for (int segment = 0; segment < 4; segment++)
		p += 1 + strcspn(p + 1, "/?");
	return p;
}

int isolated_files_any(struct http_req *req, struct err *err)
{
	static const char *const drop[] = {"X-EXECD-ACCESS-TOKEN", NULL};
	const struct execd *execd = http_app(req);
	struct proxy_target t = {.drop = drop, .target = rest_of(http_target(req)), .fd = -EBADF};
	struct isolated *s;
	char what[80];
	int r = isolated_get(execd->isolateds, http_param(req, "id"), &s, err);
	if (r >= 0)
		r = room_clerk_connect(isolated_room(s), &t.fd, err);
	if (r < 0)
		return r;
	(void)snprintf(what, sizeof(what), "the files of isolated session '%s'", isolated_id(s));
	t.what = what;
	return proxy_pass(execd->loop, req, &t, err);
}
