/*
 * profile.c - from the JSON of a profile to its programs.
 *
 * Owns nothing beyond one compilation. A profile may come from a request: every
 * shape is checked, every count bounded, and so is what libseccomp makes of it.
 */
#include "seccomp/profile_priv.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "lib/buf.h"
#include "lib/fs.h"
#include "seccomp/names.h"

static int no_memory(const struct compiler *c)
{
	return err_sys(c->err, "RUNTIME_ERROR", ENOMEM, "compile the profile %s", c->where);
}

static void warn(struct compiler *c, const char *name)
{
	struct profile_warnings *w = c->warnings;
	size_t left = w ? sizeof(w->text) - w->n : 0;

	if (left < strlen(name) + 3)
		return;
	w->n += (size_t)snprintf(w->text + w->n, left, "%s%s", w->n ? ", " : "", name);
}

/* ---- rules ------------------------------------------------------------------------ */

static bool lets_pass(uint32_t action)
{
	return action == SCMP_ACT_ALLOW || action == SCMP_ACT_LOG;
}

static void note_start_call(struct compiler *c, int nr, uint32_t action, bool conditional)
{
	for (unsigned i = 0; i < FILTER_START_CALLS_N; i++) {
		if (filter_start_calls[i] != nr)
			continue;
		if (!lets_pass(action))
			c->start_denied |= 1U << i;
		else if (!conditional)
			c->start_allowed |= 1U << i;
	}
}

/* libseccomp's actions and the kernel's are the same numbers but for KILL_THREAD, which is SCMP_ACT_KILL. */
static int add_extra(struct compiler *c, const char *place, const char *name, int nr, uint32_t action,
		     const struct args *args)
{
	struct filter_parts *p = &c->parts;

	if (args->n > 0) {
		warn(c, name);
		return 0;
	}
	for (size_t i = 0; i < p->extras_n; i++)
		if (p->extras[i].nr == nr)
			return 0;
	if (p->extras_n == FILTER_EXTRAS_MAX)
		return profile_bad(c, place, "names too many calls that are newer than libseccomp");
	p->extras[p->extras_n++] = (struct filter_extra){nr, action};
	return 0;
}

/*
 * libseccomp multiplies the rules of a call with each other, and more so the more conditions they have: three
 * rules of six take it a minute. This lets pass what takes it milliseconds.
 */
static bool affordable(struct compiler *c, int nr, const struct args *args)
{
	static const unsigned costs[] = {0, 1, 2, 4, 8, 8, 8};
	unsigned *spent = &c->spent[(unsigned)nr % PROFILE_CALLS_MAX];

	*spent += args->any ? args->n : costs[args->n];
	return *spent <= PROFILE_PER_CALL_MAX;
}

static int add_rule(struct compiler *c, const char *place, const char *name, int nr, uint32_t action,
		    const struct args *args)
{
	int r = 0;

	c->args_n += args->n;
	if (c->args_n > PROFILE_ARGS_MAX)
		return err_set(c->err, ERR_TOO_LARGE, "INVALID_REQUEST_BODY", E2BIG,
			       "%s.%s.args: over %d conditions on arguments in all rules", c->where, place,
			       PROFILE_ARGS_MAX);
	if (args->n > 0 && !affordable(c, nr, args))
		return err_set(c->err, ERR_TOO_LARGE, "INVALID_REQUEST_BODY", E2BIG,
			       "%s.%s.args: too many conditions on the arguments of '%.64s'", c->where, place,
			       name);
	if (action == c->default_action)
		return 0; /* libseccomp takes that for a mistake */
	if (args->any)
		for (unsigned i = 0; i < args->n && (r >= 0 || r == -EEXIST); i++)
			r = seccomp_rule_add_array(c->ctx, action, nr, 1, &args->cmp[i]);
	else
		r = seccomp_rule_add_array(c->ctx, action, nr, args->n, args->cmp);
	/* The same again, or a call that one of the architectures does not have, is none. */
	if (r >= 0 || r == -EEXIST || r == -EDOM)
		return 0;
	return err_set(c->err, ERR_INVALID, "INVALID_REQUEST_BODY", -r, "%s.%s: the rule for '%.64s': %s",
		       c->where, place, name, strerror(-r));
}

static int add_name(struct compiler *c, const char *place, json_t *v, bool applies, uint32_t action,
		    const struct args *args)
{
	const char *name = json_string_value(v);
	int nr;

	if (!name || !*name)
		return profile_bad(c, place, "names: must be names of system calls");
	if (++c->names_n > PROFILE_NAMES_MAX)
		return err_set(c->err, ERR_TOO_LARGE, "INVALID_REQUEST_BODY", E2BIG,
			       "%s.%s.names: over %d names in all rules", c->where, place, PROFILE_NAMES_MAX);
	nr = seccomp_syscall_resolve_name(name);
	if (nr == __NR_SCMP_ERROR) {
		nr = newer_syscall(name);
		if (nr < 0)
			warn(c, strnlen(name, 65) <= 64 ? name : "(a name over 64 bytes)");
		if (nr >= 0)
			c->parts.newest = MAX(c->parts.newest, nr);
		return nr >= 0 && applies ? add_extra(c, place, name, nr, action, args) : 0;
	}
	c->parts.newest = MAX(c->parts.newest, nr);
	if (!applies)
		return 0;
	note_start_call(c, nr, action, args->n > 0);
	return add_rule(c, place, name, nr, action, args);
}

static int add_names(struct compiler *c, const char *place, json_t *rule, bool applies, uint32_t action,
		     const struct args *args)
{
	json_t *names = json_object_get(rule, "names"), *name = json_object_get(rule, "name"), *v;
	size_t i;
	int r = 0;

	if (name && !json_is_null(name))
		return add_name(c, place, name, applies, action, args);
	if (!json_is_array(names))
		return profile_bad(c, place, "names: must be an array of names of system calls");
	json_array_foreach(names, i, v)
	{
		r = add_name(c, place, v, applies, action, args);
		if (r < 0)
			break;
	}
	return r;
}

static int add_syscalls(struct compiler *c, json_t *rule, size_t index)
{
	char place[PROFILE_PLACE_MAX], where[PROFILE_PLACE_MAX];
	uint32_t action = 0, errnum = EPERM;
	bool applies = false;
	struct args args;

	(void)snprintf(place, sizeof(place), "syscalls[%zu]", index);
	if (!json_is_object(rule))
		return profile_bad(c, place, "must be an object");
	(void)profile_below(where, place, "errnoRet");
	int r = profile_errno(c, json_object_get(rule, "errnoRet"), where, &errnum);
	(void)profile_below(where, place, "action");
	if (r >= 0)
		r = profile_action(c, json_object_get(rule, "action"), errnum, where, &action);
	if (r >= 0)
		r = profile_args(c, rule, place, &args);
	if (r >= 0)
		r = profile_applies(c, rule, place, &applies);
	return r < 0 ? r : add_names(c, place, rule, applies, action, &args);
}

/* ---- architectures ---------------------------------------------------------------- */

static const struct {
	const char *name;
	uint32_t token;
} arches[] = {
	{"SCMP_ARCH_NATIVE", SCMP_ARCH_NATIVE},	  {"SCMP_ARCH_X86", SCMP_ARCH_X86},
	{"SCMP_ARCH_X86_64", SCMP_ARCH_X86_64},	  {"SCMP_ARCH_X32", SCMP_ARCH_X32},
	{"SCMP_ARCH_ARM", SCMP_ARCH_ARM},	  {"SCMP_ARCH_AARCH64", SCMP_ARCH_AARCH64},
	{"SCMP_ARCH_RISCV64", SCMP_ARCH_RISCV64}, {"SCMP_ARCH_PPC64LE", SCMP_ARCH_PPC64LE},
	{"SCMP_ARCH_S390", SCMP_ARCH_S390},	  {"SCMP_ARCH_S390X", SCMP_ARCH_S390X},
};

/* 0: some machine's that is not ours, as profiles for all of them name it. */
static int arch_token(const struct compiler *c, json_t *v, const char *place, uint32_t *ret)
{
	const char *name = json_string_value(v);

	*ret = 0;
	if (!name || strncmp(name, "SCMP_ARCH_", 10) != 0)
		return profile_bad(c, place, "must be the name of an architecture (SCMP_ARCH_...)");
	for (size_t i = 0; i < ARRAY_SIZE(arches); i++)
		if (strcmp(arches[i].name, name) == 0)
			*ret = arches[i].token == SCMP_ARCH_NATIVE ? seccomp_arch_native() : arches[i].token;
	return 0;
}

/* Another entry into this very kernel; the filter of any other can never be asked. */
static bool is_ours(uint32_t token)
{
	uint32_t native = seccomp_arch_native();

	return token == native ||
	       (native == SCMP_ARCH_X86_64 && (token == SCMP_ARCH_X86 || token == SCMP_ARCH_X32)) ||
	       (native == SCMP_ARCH_AARCH64 && token == SCMP_ARCH_ARM) ||
	       (native == SCMP_ARCH_S390X && token == SCMP_ARCH_S390);
}

static int add_arches(struct compiler *c, json_t *list, const char *place)
{
	size_t i;
	json_t *v;

	if (!list || json_is_null(list))
		return 0;
	if (!json_is_array(list))
		return profile_bad(c, place, "must be an array");
	json_array_foreach(list, i, v)
	{
		uint32_t token;
		int r = arch_token(c, v, place, &token);

		if (r < 0)
			return r;
		if (token == 0 || !is_ours(token))
			continue;
		r = seccomp_arch_add(c->ctx, token);
		if (r < 0 && r != -EEXIST)
			return profile_bad(c, place, strerror(-r));
	}
	return 0;
}

static int add_arch_map(struct compiler *c, json_t *map)
{
	size_t i;
	json_t *entry;

	if (!map || json_is_null(map))
		return 0;
	if (!json_is_array(map))
		return profile_bad(c, "archMap", "must be an array");
	json_array_foreach(map, i, entry)
	{
		char place[PROFILE_PLACE_MAX];
		uint32_t token;

		(void)snprintf(place, sizeof(place), "archMap[%zu].architecture", i);
		int r = arch_token(c, json_object_get(entry, "architecture"), place, &token);
		(void)snprintf(place, sizeof(place), "archMap[%zu].subArchitectures", i);
		if (r >= 0 && token == seccomp_arch_native())
			r = add_arches(c, json_object_get(entry, "subArchitectures"), place);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- the whole ----------------------------------------------------------------------- */

static int begin(struct compiler *c, json_t *profile)
{
	uint32_t errnum = EPERM;

	if (!json_is_object(profile))
		return profile_bad(c, "", "must be an object");
	int r = profile_errno(c, json_object_get(profile, "defaultErrnoRet"), "defaultErrnoRet", &errnum);
	if (r >= 0)
		r = profile_action(c, json_object_get(profile, "defaultAction"), errnum, "defaultAction",
				   &c->default_action);
	if (r < 0)
		return r;
	c->ctx = seccomp_init(c->default_action);
	if (!c->ctx)
		return no_memory(c);
	/* A search tree, so that a call costs the same wherever it stands in the profile. */
	(void)seccomp_attr_set(c->ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	r = seccomp_attr_set(c->ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ERRNO(EPERM));
	if (r < 0)
		return err_sys(c->err, "RUNTIME_ERROR", -r, "compile the profile %s", c->where);
	r = add_arches(c, json_object_get(profile, "architectures"), "architectures");
	return r < 0 ? r : add_arch_map(c, json_object_get(profile, "archMap"));
}

static int add_all(struct compiler *c, json_t *profile)
{
	json_t *rules = json_object_get(profile, "syscalls"), *rule;
	size_t i;

	if (!rules || json_is_null(rules))
		return 0;
	if (!json_is_array(rules))
		return profile_bad(c, "syscalls", "must be an array");
	if (json_array_size(rules) > PROFILE_RULES_MAX)
		return err_set(c->err, ERR_TOO_LARGE, "INVALID_REQUEST_BODY", E2BIG,
			       "%s.syscalls: over %d rules", c->where, PROFILE_RULES_MAX);
	json_array_foreach(rules, i, rule)
	{
		int r = add_syscalls(c, rule, i);

		if (r < 0)
			return r;
	}
	return 0;
}

static int export(struct compiler *c, struct buf *out)
{
	_cleanup_close_ int fd = memfd_create("filter", MFD_CLOEXEC);
	int r = fd < 0 ? -errno : seccomp_export_bpf(c->ctx, fd);

	if (r < 0)
		return err_sys(c->err, "RUNTIME_ERROR", -r, "compile the profile %s", c->where);
	for (;;) {
		ssize_t n;

		if (buf_reserve(out, 16384) < 0)
			return profile_bad(c, "", "is too large: the kernel takes 4096 instructions");
		n = pread(fd, buf_tail(out), 16384, (off_t)out->len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_sys(c->err, "RUNTIME_ERROR", errno, "compile the profile %s", c->where);
		if (n == 0)
			return 0;
		out->len += (size_t)n;
	}
}

static int finish(struct compiler *c, struct filter *ret)
{
	_cleanup_buf_ struct buf program = BUF_INIT((BPF_MAXINSNS + 4096) * sizeof(struct sock_filter));
	const struct seccomp_data exec = {.nr = SYS_execve, .arch = native_arch()};
	unsigned all = (1U << FILTER_START_CALLS_N) - 1;
	int r = export(c, &program);

	if (r < 0)
		return r;
	c->parts.body = (const struct sock_filter *)program.data;
	c->parts.body_n = program.len / sizeof(struct sock_filter);
	c->parts.start_ok = c->start_denied == 0 && (lets_pass(c->default_action) || c->start_allowed == all);
	/* What is newer than a list of what is allowed: not there, rather than forbidden. */
	if (lets_pass(c->default_action))
		c->parts.newest = -1;
	r = filter_build(&c->parts, ret);
	if (r == -E2BIG)
		return profile_bad(c, "", "is too large: the kernel takes 4096 instructions");
	if (r < 0)
		return no_memory(c);
	if (lets_pass(filter_run(&ret->plain, &exec) & SECCOMP_RET_ACTION_FULL))
		return 0;
	filter_done(ret);
	return profile_bad(c, "syscalls", "must allow execve, without which nothing can be started");
}

int profile_compile(json_t *profile, uint64_t caps, const char *where, struct filter *ret,
		    struct profile_warnings *warnings, struct err *err)
{
	struct compiler c = {
		.where = where, .caps = caps, .warnings = warnings, .err = err, .parts.newest = -1};
	int r = begin(&c, profile);

	if (warnings)
		*warnings = (struct profile_warnings){.n = 0};
	if (r >= 0)
		r = add_all(&c, profile);
	if (r >= 0)
		r = finish(&c, ret);
	if (c.ctx)
		seccomp_release(c.ctx);
	return r;
}

/* ---- for others ------------------------------------------------------------------------ */

static int copy_rule(struct compiler *c, json_t *rule, size_t index, json_t *out)
{
	static const char *const kept[] = {"names", "action", "errnoRet", "args"};
	char place[PROFILE_PLACE_MAX];
	bool applies = false;

	(void)snprintf(place, sizeof(place), "syscalls[%zu]", index);
	int r = profile_applies(c, rule, place, &applies);
	if (r < 0 || !applies)
		return r;
	json_t *copy = json_object(), *name = json_object_get(rule, "name");
	for (size_t i = 0; i < ARRAY_SIZE(kept); i++) {
		json_t *value = json_object_get(rule, kept[i]);
		if (value && !json_is_null(value))
			(void)json_object_set(copy, kept[i], value);
	}
	if (name && !json_object_get(copy, "names"))
		(void)json_object_set_new(copy, "names", json_pack("[O]", name));
	return json_array_append_new(out, copy) < 0 ? no_memory(c) : 0;
}

int profile_resolve(json_t *profile, uint64_t caps, const char *where, json_t **ret, struct err *err)
{
	static const char *const kept[] = {"defaultAction", "defaultErrnoRet", "architectures"};
	struct compiler c = {.where = where, .caps = caps, .err = err};
	json_t *rules = json_array(), *out = json_pack("{s:O}", "syscalls", rules), *rule;
	size_t i = 0;
	int r = out ? 0 : no_memory(&c);

	for (size_t k = 0; k < ARRAY_SIZE(kept); k++) {
		json_t *value = json_object_get(profile, kept[k]);
		if (value && !json_is_null(value))
			(void)json_object_set(out, kept[k], value);
	}
	json_array_foreach(json_object_get(profile, "syscalls"), i, rule)
	{
		if (r == 0)
			r = copy_rule(&c, rule, i, rules);
	}
	json_decref(rules);
	if (r < 0)
		json_decref(out);
	else
		*ret = out;
	return MIN(r, 0);
}
