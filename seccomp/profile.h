/*
 * profile.h - filter profiles in the OCI seccomp JSON format, compiled by libseccomp.
 *
 * Read: defaultAction, defaultErrnoRet, architectures or archMap, and syscalls[]
 * with names (or name), action, errnoRet, args, includes and excludes (caps,
 * arches, minKernel). Names that nobody knows are left out with a warning, as
 * other engines do; a wrong shape is an error that names its place. What is
 * about how a filter is installed (flags, listenerPath) is not looked at.
 *
 * A call through another architecture's entry (i386, x32) that the profile does not name is denied with
 * EPERM. SCMP_ACT_NOTIFY is refused: the listener is ours.
 */
#pragma once

#include <jansson.h>

#include "lib/err.h"
#include "seccomp/filter.h"

#define PROFILE_NAMES_MAX    4096 /* of system calls, over all rules */
#define PROFILE_RULES_MAX    1024 /* elements of syscalls[] */
#define PROFILE_ARGS_MAX     128  /* conditions on arguments, times the names they are for */
#define PROFILE_PER_CALL_MAX 8	  /* rules of one call with a condition; those with more count for more */
#define PROFILE_WARNINGS_MAX 1024 /* bytes of unknown names that are told */

struct profile_warnings {
	char text[PROFILE_WARNINGS_MAX]; /* "a, b, c"; empty: none */
	size_t n;
};

/* The built-in ones as text, profiles/default.json and profiles/strict.json, in each program that links them.
 */
extern const char profile_default_start[], profile_default_end[], profile_strict_start[],
	profile_strict_end[];

/*
 * caps: what the process will have, which includes and excludes ask for. where: how messages call the
 * profile. ERR_INVALID with *err. warnings may be NULL.
 */
int profile_compile(json_t *profile, uint64_t caps, const char *where, struct filter *ret,
		    struct profile_warnings *warnings, struct err *err);
/*
 * The same for whoever compiles it himself: a new object with the rules that are for these capabilities,
 * this architecture and this kernel, without conditions, as OCI runtimes read it (config.json,
 * linux.seccomp).
 */
int profile_resolve(json_t *profile, uint64_t caps, const char *where, json_t **ret, struct err *err);
/* "CAP_CHOWN", "chown": its number, or -1. */
int capability_number(const char *name);
