/*
 * isolated_spec.h - what an isolated session is to be, from the fields of a request.
 */
#pragma once

#include "execd/api/api.h"
#include "execd/isolated/isolated.h"
#include "execd/limits.h"

#define ISOLATED_BINDS_MAX 24

/* A request as it is read; what the spec borrows besides the body is here. */
struct isolated_request {
	struct isolated_spec spec;
	struct room_mount mounts[ROOM_MOUNTS_MAX];
	struct room_bind binds[ISOLATED_BINDS_MAX];
	const char *hide[ISOLATED_BINDS_MAX];
	struct limits limits;
};

/* *rq is zeroed and borrows from body. -EINVAL and the like with *err. isolated_request_done() in any case.
 */
int isolated_request_parse(struct isolated_request *rq, const struct execd *execd, json_t *body,
			   bool need_workspace, struct err *err);
void isolated_request_done(struct isolated_request *rq);
/* What the session is, with the defaults filled in: a new object, NULL without memory. */
json_t *isolated_make_echo(const struct execd *execd, const struct isolated_request *rq, json_t *body);
/* Is any field there that says what the room is to be? */
bool isolated_request_has(json_t *body);
