/*
 * clerk_files.c - /files and /directories as they are elsewhere: behind /v1/isolated/session/{id} in a room,
 * behind /v1/filesystem/{uid}/{gid} as that user has them. A process that is there answers; the request is
 * handed on as it is.
 */
#include <stdio.h>
#include <string.h>

#include "execd/api/api.h"
#include "execd/identity.h"
#include "execd/isolated/clerk.h"
#include "execd/isolated/isolated.h"
#include "lib/scan.h"
#include "proto/proxy.h"

#define ID_MAX 4294967294U /* one less than what the kernel takes for "none" */

/* What follows the four segments of either prefix in the target as sent. */
static const char *rest_of(const char *target)
{
	const char *p = target;
	for (int segment = 0; segment < 4; segment++)
		p += 1 + strcspn(p + 1, "/?");
	return p;
}

static int hand_on(struct http_req *req, int fd_consumed, const char *what, struct err *err)
{
	static const char *const drop[] = {"X-EXECD-ACCESS-TOKEN", NULL};
	const struct execd *execd = http_app(req);
	struct proxy_target t = {
		.drop = drop, .target = rest_of(http_target(req)), .fd = fd_consumed, .what = what};
	return proxy_pass(execd->loop, req, &t, err);
}

int isolated_files_any(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	struct isolated *s;
	char what[80];
	int fd, r = isolated_get(execd->isolateds, http_param(req, "id"), &s, err);
	if (r >= 0)
		r = room_clerk_connect(isolated_room(s), &fd, err);
	if (r < 0)
		return r;
	(void)snprintf(what, sizeof(what), "the files of isolated session '%s'", isolated_id(s));
	return hand_on(req, fd, what, err);
}

static int need_id(struct http_req *req, const char *name, uint32_t *ret, struct err *err)
{
	const char *text = http_param(req, name);
	struct scan s = SCAN(text);
	bool digit = scan_digit(text[0], 10) >= 0;
	*ret = (uint32_t)scan_number(&s, 10, ID_MAX);
	scan_end(&s);
	return digit && scan_ok(&s) ? 0
				    : err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
					      "%s: '%s' is not a number from 0 to %u", name, text, ID_MAX);
}

int identity_files_any(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	uint32_t uid, gid;
	char what[64];
	int fd, r = need_id(req, "uid", &uid, err);
	if (r >= 0)
		r = need_id(req, "gid", &gid, err);
	if (r >= 0)
		r = identity_connect(execd->identities, uid, gid, &fd, err);
	if (r < 0)
		return r;
	(void)snprintf(what, sizeof(what), "the files of uid %u", uid);
	return hand_on(req, fd, what, err);
}
