/*
 * profile_rule.c - what stands in one rule of a profile: its action, for whom it is, its conditions.
 *
 * Owns nothing. What a request has written here is checked to the last field.
 */
#include "seccomp/profile_priv.h"

#include <stdio.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/utsname.h>

#include "lib/scan.h"
#include "seccomp/names.h"

#define ERRNO_MAX 4094 /* libseccomp takes no larger one */

int profile_bad(const struct compiler *c, const char *place, const char *expected)
{
	return err_set(c->err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL, "%s%s%s: %s", c->where,
		       *place ? "." : "", place, expected);
}

/* The place of a field of what stands at `place`. */
const char *profile_below(char out[PROFILE_PLACE_MAX], const char *place, const char *field)
{
	(void)snprintf(out, PROFILE_PLACE_MAX, "%.80s.%.40s", place, field);
	return out;
}

/* ---- words -------------------------------------------------------------------- */

int capability_number(const char *name)
{
	char full[32];
	cap_value_t cap;

	if (strncasecmp(name, "cap_", 4) != 0)
		(void)snprintf(full, sizeof(full), "cap_%s", name);
	else
		(void)snprintf(full, sizeof(full), "%s", name);
	return cap_from_name(full, &cap) == 0 && cap >= 0 && cap < 64 ? cap : -1;
}

int profile_errno(const struct compiler *c, json_t *v, const char *place, uint32_t *ret)
{
	json_int_t n = json_integer_value(v);

	if (!v || json_is_null(v))
		return 0;
	if (!json_is_integer(v) || n < 0 || n > ERRNO_MAX)
		return profile_bad(c, place, "must be an error number from 0 to 4094");
	*ret = (uint32_t)n;
	return 0;
}

int profile_action(const struct compiler *c, json_t *v, uint32_t errnum, const char *place, uint32_t *ret)
{
	const struct {
		const char *name;
		uint32_t action;
	} actions[] = {
		{"SCMP_ACT_ALLOW", SCMP_ACT_ALLOW},
		{"SCMP_ACT_ERRNO", SCMP_ACT_ERRNO(errnum)},
		{"SCMP_ACT_KILL", SCMP_ACT_KILL_PROCESS},
		{"SCMP_ACT_KILL_THREAD", SCMP_ACT_KILL_THREAD},
		{"SCMP_ACT_KILL_PROCESS", SCMP_ACT_KILL_PROCESS},
		{"SCMP_ACT_TRAP", SCMP_ACT_TRAP},
		{"SCMP_ACT_TRACE", SCMP_ACT_TRACE(errnum)},
		{"SCMP_ACT_LOG", SCMP_ACT_LOG},
	};
	const char *name = json_string_value(v);

	for (size_t i = 0; name && i < ARRAY_SIZE(actions); i++)
		if (strcmp(actions[i].name, name) == 0) {
			*ret = actions[i].action;
			return 0;
		}
	if (name && strcmp(name, "SCMP_ACT_NOTIFY") == 0)
		return profile_bad(c, place,
				   "SCMP_ACT_NOTIFY is not possible: denied calls are told to the agent");
	return profile_bad(
		c, place,
		name ? "is none of SCMP_ACT_ALLOW, _ERRNO, _KILL, _KILL_THREAD, _KILL_PROCESS, _TRAP, "
		       "_TRACE and _LOG"
		     : "must be the name of an action");
}

/* ---- for whom a rule is -------------------------------------------------------- */

static int has_caps(const struct compiler *c, json_t *caps, const char *place, bool all, bool *ret)
{
	size_t i, held = 0;
	json_t *name;

	if (!json_is_array(caps))
		return profile_bad(c, place, "must be an array of capabilities");
	json_array_foreach(caps, i, name)
	{
		const char *text = json_string_value(name);
		int cap = text ? capability_number(text) : -1;

		if (!text)
			return profile_bad(c, place, "must be an array of capabilities");
		held += cap >= 0 && (c->caps & (1ULL << cap));
	}
	*ret = all ? held == json_array_size(caps) : held > 0;
	return 0;
}

static int has_arch(const struct compiler *c, json_t *arches, const char *place, bool *ret)
{
#if defined(__x86_64__)
	static const char *const own = "amd64";
#elif defined(__aarch64__)
	static const char *const own = "arm64";
#else
	const char *own = arch_name(native_arch(), 0);
#endif
	size_t i;
	json_t *name;

	*ret = false;
	if (!json_is_array(arches))
		return profile_bad(c, place, "must be an array of strings");
	json_array_foreach(arches, i, name)
	{
		if (!json_is_string(name))
			return profile_bad(c, place, "must be an array of strings");
		*ret = *ret || strcmp(json_string_value(name), own) == 0;
	}
	return 0;
}

/* "MAJOR.MINOR" as one number that can be compared. */
static uint64_t version(struct scan *s)
{
	uint64_t major = scan_number(s, 10, 999);

	scan_text(s, ".");
	return major << 32 | scan_number(s, 10, 999);
}

static int has_kernel(const struct compiler *c, json_t *v, const char *place, bool *ret)
{
	const char *text = json_string_value(v);
	uint64_t wanted, ours;
	struct utsname uts;
	struct scan s = SCAN(text);

	wanted = version(&s);
	scan_end(&s);
	if (!scan_ok(&s))
		return profile_bad(c, place, "must be a version such as \"4.8\"");
	s = SCAN(uname(&uts) < 0 ? NULL : uts.release);
	ours = version(&s);
	if (!scan_ok(&s))
		return profile_bad(c, place, "cannot be compared: this kernel does not tell its version");
	*ret = ours >= wanted;
	return 0;
}

/* includes: all conditions hold; excludes: any does. */
static int meets(const struct compiler *c, json_t *rule, const char *place, const char *kind, bool includes,
		 bool *ret)
{
	json_t *conditions = json_object_get(rule, kind), *value;
	bool all = true, any = false;
	const char *key;

	*ret = includes;
	if (!conditions || json_is_null(conditions))
		return 0;
	char where[PROFILE_PLACE_MAX];
	(void)profile_below(where, place, kind);
	if (!json_is_object(conditions))
		return profile_bad(c, where, "must be an object");
	json_object_foreach(conditions, key, value)
	{
		bool one = false;
		int r;

		if (json_is_null(value))
			continue;
		(void)snprintf(where, sizeof(where), "%.60s.%.10s.%.32s", place, kind, key);
		if (strcmp(key, "caps") == 0)
			r = has_caps(c, value, where, includes, &one);
		else if (strcmp(key, "arches") == 0)
			r = has_arch(c, value, where, &one);
		else if (strcmp(key, "minKernel") == 0)
			r = has_kernel(c, value, where, &one);
		else
			r = profile_bad(c, where, "is none of caps, arches and minKernel");
		if (r < 0)
			return r;
		all = all && one;
		any = any || one;
	}
	*ret = includes ? all : any;
	return 0;
}

/* Both are looked at, so that a wrong shape is found wherever the rule applies. */
int profile_applies(const struct compiler *c, json_t *rule, const char *place, bool *ret)
{
	bool included, excluded;
	int r = meets(c, rule, place, "includes", true, &included);
	if (r >= 0)
		r = meets(c, rule, place, "excludes", false, &excluded);
	if (r >= 0)
		*ret = included && !excluded;
	return r;
}

/* ---- arguments ------------------------------------------------------------------ */

static int parse_op(const struct compiler *c, json_t *v, const char *place, enum scmp_compare *ret)
{
	static const struct {
		const char *name;
		enum scmp_compare op;
	} ops[] = {{"SCMP_CMP_NE", SCMP_CMP_NE},
		   {"SCMP_CMP_LT", SCMP_CMP_LT},
		   {"SCMP_CMP_LE", SCMP_CMP_LE},
		   {"SCMP_CMP_EQ", SCMP_CMP_EQ},
		   {"SCMP_CMP_GE", SCMP_CMP_GE},
		   {"SCMP_CMP_GT", SCMP_CMP_GT},
		   {"SCMP_CMP_MASKED_EQ", SCMP_CMP_MASKED_EQ}};
	const char *name = json_string_value(v);

	for (size_t i = 0; name && i < ARRAY_SIZE(ops); i++)
		if (strcmp(ops[i].name, name) == 0) {
			*ret = ops[i].op;
			return 0;
		}
	return profile_bad(c, place,
			   "is not a comparison (SCMP_CMP_NE, _LT, _LE, _EQ, _GE, _GT or _MASKED_EQ)");
}

/* A value above 2^63 comes as a real number when it has been written so; it is not taken for another. */
static int parse_value(const struct compiler *c, json_t *v, const char *place, uint64_t *ret)
{
	if (!v || json_is_null(v))
		return 0;
	if (!json_is_integer(v) || json_integer_value(v) < 0)
		return profile_bad(c, place, "must be a number that is not negative");
	*ret = (uint64_t)json_integer_value(v);
	return 0;
}

static int parse_arg(const struct compiler *c, json_t *arg, const char *place, struct scmp_arg_cmp *ret)
{
	char where[PROFILE_PLACE_MAX];
	uint64_t index = UINT64_MAX, value = 0, second = 0;
	enum scmp_compare op = SCMP_CMP_EQ;

	if (!json_is_object(arg))
		return profile_bad(c, place, "must be an object");
	(void)profile_below(where, place, "index");
	int r = parse_value(c, json_object_get(arg, "index"), where, &index);
	if (r >= 0 && index > 5)
		r = profile_bad(c, where, "must be from 0 to 5");
	(void)profile_below(where, place, "value");
	if (r >= 0)
		r = parse_value(c, json_object_get(arg, "value"), where, &value);
	(void)profile_below(where, place, "valueTwo");
	if (r >= 0)
		r = parse_value(c, json_object_get(arg, "valueTwo"), where, &second);
	(void)profile_below(where, place, "op");
	if (r >= 0)
		r = parse_op(c, json_object_get(arg, "op"), where, &op);
	if (r >= 0)
		*ret = (struct scmp_arg_cmp){
			.arg = (unsigned)index, .op = op, .datum_a = value, .datum_b = second};
	return r;
}

int profile_args(const struct compiler *c, json_t *rule, const char *place, struct args *ret)
{
	json_t *args = json_object_get(rule, "args"), *arg;
	char where[PROFILE_PLACE_MAX];
	unsigned seen = 0;
	size_t i;

	*ret = (struct args){0};
	if (!args || json_is_null(args))
		return 0;
	(void)profile_below(where, place, "args");
	if (!json_is_array(args) || json_array_size(args) > ARRAY_SIZE(ret->cmp))
		return profile_bad(c, where, "must be an array of at most 6 conditions");
	json_array_foreach(args, i, arg)
	{
		(void)snprintf(where, sizeof(where), "%.80s.args[%zu]", place, i);
		int r = parse_arg(c, arg, where, &ret->cmp[i]);
		if (r < 0)
			return r;
		ret->any = ret->any || (seen & (1U << ret->cmp[i].arg));
		seen |= 1U << ret->cmp[i].arg;
		ret->n++;
	}
	return 0;
}
