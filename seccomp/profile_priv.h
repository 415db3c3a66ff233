/*
 * profile_priv.h - what profile.c (the compilation) and profile_rule.c (what stands in one rule) share.
 */
#pragma once

#include <inttypes.h>
#include <seccomp.h>

#include "seccomp/profile.h"

#define PROFILE_PLACE_MAX 128
#define PROFILE_CALLS_MAX 1024

struct compiler {
	scmp_filter_ctx ctx;
	const char *where;
	uint64_t caps;
	uint32_t default_action;
	struct filter_parts parts;
	unsigned start_allowed; /* bits of filter_start_calls[]: allowed without a condition */
	unsigned start_denied;	/* named by a rule that denies */
	size_t names_n, args_n;
	unsigned spent[PROFILE_CALLS_MAX]; /* on the conditions of each call */
	struct profile_warnings *warnings;
	struct err *err;
};

/* ERR_INVALID: what stands at `place` of the profile ("" the profile itself) is not as `expected` says. */
int profile_bad(const struct compiler *c, const char *place, const char *expected);
/* The place of a field of what stands at `place`. */
const char *profile_below(char out[PROFILE_PLACE_MAX], const char *place, const char *field);

/* What follows is 0 or -errno with *c->err. An absent or null value leaves *ret as it is. */
int profile_errno(const struct compiler *c, json_t *v, const char *place, uint32_t *ret);
/* errnum: what an action that tells an error number tells. An absent value is an error. */
int profile_action(const struct compiler *c, json_t *v, uint32_t errnum, const char *place, uint32_t *ret);
/* Do its includes and excludes let the rule apply to this compilation, on this machine? */
int profile_applies(const struct compiler *c, json_t *rule, const char *place, bool *ret);

struct args {
	struct scmp_arg_cmp cmp[6];
	unsigned n;
	bool any; /* one index more than once: any of the conditions will do, as other engines take it */
};

int profile_args(const struct compiler *c, json_t *rule, const char *place, struct args *ret);
