/*
 * request.h - the fields of a confinement in a request, but for its profile.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "lib/buf.h"
#include "lib/err.h"
#include "seccomp/apply.h"
#include "seccomp/confine.h"

struct path_list {
	struct buf text; /* paths, each with its NUL */
	uint32_t n, optional;
};

struct confine_request {
	bool has_caps, no_new_privs, has_landlock, record;
	uint64_t caps;
	struct path_list read, write;
	struct confine_rlimit rlimits[CONFINE_RLIMITS_MAX];
	size_t rlimits_n;
};

/* q holds what the profile brings (caps); the request wins. ERR_INVALID with *err that names the place. */
int request_parse(json_t *value, const char *where, struct confine_request *q, struct err *err);
void request_done(struct confine_request *q);
/* NULL without memory. */
json_t *request_describe(const struct confine_request *q, const char *profile);
